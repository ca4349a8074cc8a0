"""The client as a program of its own: Ctrl-C, an end without ``close``, the user's example."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import NodesFactory
from program import ROOT, environment, running
from sandbox import wait_until
from sshd import SshdNodes
from user import User

SOON_S = 12.0
"""Far below the 20 s that a request may take, far above what an end takes on a busy machine."""

SCRIPT = """
import sys
from allot import Cluster, NodeProbe
cluster = Cluster(
    "job",
    "out",
    lambda ntc: f"while [ ! -e go-on ]; do sleep 0.05; done; touch done-{ntc.proc_id}",
    node_file=sys.argv[1],
    ssh_config=sys.argv[2],
    ntasks=4,
    nnodes=2,
    ntasks_per_node=1,
    probe=NodeProbe(max_load_per_cpu=None),
)
print("launched", flush=True)
"""


@contextmanager
def client(nodes: SshdNodes, directory: Path, ending: str) -> Iterator[subprocess.Popen[str]]:
    """A program that launches two of four tasks and goes on with ``ending``."""
    script = SCRIPT.replace('"while', f'"cd {directory}; while') + ending
    with running(
        [sys.executable, "-c", script, nodes.node_file, nodes.ssh_config], environment(), directory
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "launched\n"
        try:
            yield process
        finally:
            (directory / "go-on").touch()


def first_two_are_done(directory: Path) -> bool:
    """Whether the tasks of the first wave ran to their end."""
    return all((directory / f"done-{proc_id}").exists() for proc_id in range(2))


def test_ctrl_c_in_wait_detaches(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """It says what goes on and what waits, raises KeyboardInterrupt, and the tasks go on."""
    with client(five_nodes, tmp_path, "cluster.wait()\n") as process:
        assert process.stdout is not None
        assert "RUNNING" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert "KeyboardInterrupt" in said
        assert "2 tasks of job job go on, 2 wait" in said
        assert f"to come back: Cluster.load('{tmp_path}/out', task_factory)" in said
        assert f"to end them: Cluster.load('{tmp_path}/out').cancel()" in said
        (tmp_path / "go-on").touch()
        wait_until(lambda: first_two_are_done(tmp_path), 20, "the tasks did not go on")


ASKED = """
import os, signal, time
from allot import front

def wait_until_the_second_node_is_asked():
    "And does not answer: no turn takes long otherwise."
    since = time.monotonic()
    while time.monotonic() < since + 0.5:
        if not cluster._post.watched._foreman.seats[1].under_way:
            since = time.monotonic()
        time.sleep(0.01)
    print("asked", flush=True)
"""

AGAIN = (
    ASKED
    + """
say = front.say

def say_and_interrupt(line):
    front.say = say
    say(line)
    wait_until_the_second_node_is_asked()
    os.kill(os.getpid(), signal.SIGINT)

front.say = say_and_interrupt
"""
)


@pytest.mark.parametrize("moment", ["as soon as that is told", "while it is told"])
def test_a_second_ctrl_c_leaves_at_once(
    sshd_nodes: NodesFactory, tmp_path: Path, moment: str
) -> None:
    """Also while a node does not answer, for which the first Ctrl-C, or the pool, would wait."""
    nodes = sshd_nodes(2)
    before = AGAIN if moment == "while it is told" else ""
    with client(nodes, tmp_path, f"{before}cluster.wait()\n") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "RUNNING" in process.stdout.readline()
        nodes.node(1).freeze()
        process.send_signal(signal.SIGINT)
        assert "detached" in process.stderr.readline()
        if before:
            assert "asked\n" in process.stdout  # also ends where the program has ended
        else:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=SOON_S)
        # Not what Python says of it: the second may come just while that is written.
        assert process.returncode == -signal.SIGINT
        nodes.node(1).thaw()
        (tmp_path / "go-on").touch()
        wait_until(lambda: first_two_are_done(tmp_path), 20, "the tasks did not go on")


BROKEN = """
cluster._post.watched._foreman.give_up_silent = lambda: 1 / 0
while cluster._post.watched.error is None:
    time.sleep(0.01)
print(repr(cluster._post.watched.error))
"""


@pytest.mark.parametrize("watched", ["to the end", "until the monitor broke"])
def test_an_end_without_close_waits_for_no_node(
    sshd_nodes: NodesFactory, tmp_path: Path, watched: str
) -> None:
    """A program that just ends while a node that was asked does not answer."""
    nodes = sshd_nodes(2)
    ending = """
while not os.path.exists("frozen"):
    time.sleep(0.01)
wait_until_the_second_node_is_asked()
"""
    broken = BROKEN if watched == "until the monitor broke" else ""
    with client(nodes, tmp_path, ASKED + ending + broken) as process:
        nodes.node(1).freeze()
        (tmp_path / "frozen").touch()
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        said, _ = process.communicate(timeout=SOON_S)
        assert process.returncode == 0
        assert ("ZeroDivisionError" in said) is bool(broken)
        nodes.node(1).thaw()


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)\n", "1 / 0\n"])
def test_an_end_without_close_does_not_hang(
    five_nodes: SshdNodes, tmp_path: Path, ending: str
) -> None:
    """A program that just ends, or dies of an error, ends at once; its tasks go on."""
    with client(five_nodes, tmp_path, ending) as process:
        process.communicate(timeout=30)
        assert process.returncode == {"": 0, "raise SystemExit(3)\n": 3}.get(ending, 1)
        (tmp_path / "go-on").touch()
        wait_until(lambda: first_two_are_done(tmp_path), 20, "the tasks did not go on")


def test_a_wait_in_another_thread_is_told_of_the_end(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """It would have nothing to wake it once the program's main thread has ended."""
    ending = """
import threading
threading.Thread(target=cluster.wait, kwargs={"progress": False}).start()
"""
    with client(five_nodes, tmp_path, ending) as process:
        _, said = process.communicate(timeout=30)
        assert "AllotError" in said
        assert process.returncode == 0
        (tmp_path / "go-on").touch()
        wait_until(lambda: first_two_are_done(tmp_path), 20, "the tasks did not go on")


def test_the_users_example_runs_as_it_stands(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``example/example.py`` with five nodes in its host file, reached by ``~/.ssh/config``."""
    user = User(five_nodes, tmp_path)
    here = user.directory
    shutil.copytree(ROOT / "example", here / "example", ignore=lambda *_: ["out"])
    user.write_hosts("example/hostfile.txt")
    test_py = (here / "example/test.py").read_text()
    (here / "example/test.py").write_text(test_py.replace("N = 120", "N = 2"))
    link = five_nodes.home / "allot"
    link.symlink_to(here)
    try:
        with user.started("example/example.py") as process:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if "10/10 done" in line:
                    break
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert "10/10 done" in lines[-1], (lines, said)
        assert "Traceback" in said  # its endless loop was interrupted
        outputs = sorted(path.name for path in (here / "example/out").glob("*.out"))
        places = [re.fullmatch(r"(\w+)-(\d)\.out", name) for name in outputs]
        assert {place[2] for place in places if place} == set("0123456789")
        assert {place[1] for place in places if place} == set(five_nodes.names)
        text = (here / "example/out" / outputs[0]).read_text()
        assert f"arguments: ['test.py', '{five_nodes.names[0]}', '0']" in text
        assert text.endswith("finished\n")
    finally:
        link.unlink()


def test_the_sweep_example_runs(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``example/sweep.py`` runs its twelve combinations and prints the end of each output."""
    user = User(five_nodes, tmp_path)
    program = (ROOT / "example/sweep.py").read_text().replace("sleep 0.2", "sleep 0.01")
    (user.directory / "sweep.py").write_text(program)
    said = user.run("sweep.py", five_nodes.node_file)
    results = [line for line in said if line.endswith(tuple("0123456789"))]
    losses = [line for line in results if "loss 0." in line]
    assert len(losses) == 12
    assert "rate 0.1 seed 0" in losses[0]
    assert len(list((user.directory / "sweep-out").glob("rate*-seed*.out"))) == 12
