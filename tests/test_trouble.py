"""Trouble on the nodes and on the client: told with its reason, survived by the rest of the job."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clients import client
from conftest import NodesFactory
from sandbox import IS_ROOT, wait_until
from sshd import SshdNode, SshdNodes
from test_cluster import run
from test_queue import states, wait_until_gone

from allot import Cluster, ConfigError, NodeProbe, NodeState, NodeTaskConfig, Task, TaskState

S = 60.0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="mounting file systems needs root")


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every ten seconds is looked at more often here."""
    monkeypatch.setattr("allot.driver._ALIVE_S", 0.3)


def on_node(node: SshdNode, script: str) -> None:
    """Run Bash as root where the node's own mounts are seen."""
    assert node._keeper is not None
    namespace = f"--mount=/proc/{node._keeper.pid}/ns/mnt"
    subprocess.run(["nsenter", namespace, "bash", "-euc", script], check=True, timeout=30)


def waiting(tmp_path: Path) -> str:
    """A task that waits for a file."""
    return f"echo begun >> {tmp_path}/log; while [ ! -e {tmp_path}/go-on ]; do sleep 0.05; done"


def begun(tmp_path: Path) -> int:
    """How many tasks began so far."""
    log = tmp_path / "log"
    return log.read_text().count("begun") if log.exists() else 0


# Nodes that go down.


@needs_root
@pytest.mark.parametrize("is_wiped", [False, True], ids=["home stays", "home is wiped"])
def test_a_node_that_reboots_has_lost_its_tasks(
    sshd_nodes: NodesFactory, tmp_path: Path, is_wiped: bool
) -> None:
    """NODE_FAIL with the reason, and tried again on the other node; what waits runs as usual."""
    nodes = sshd_nodes(2, private=["~"])
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("before\n")
    on_node(nodes.node(0), f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id")
    with run(
        nodes,
        tmp_path / "out",
        lambda _: waiting(tmp_path),
        ntasks=3,
        ntasks_per_node=1,
        retries=1,
    ) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        nodes.node(0).kill()
        boot_id.write_text("after\n")
        if is_wiped:
            on_node(nodes.node(0), f"rm -rf {nodes.home}/.allot")
        nodes.node(0).start()
        nodes.node(0).wait_until_up()
        wait_until(lambda: cluster.tasks[0].attempt == 1, S, lambda: str(cluster.tasks))
        assert cluster.tasks[0].reason == f"attempt 0 NODE_FAIL on {nodes.names[0]}"
        (tmp_path / "go-on").touch()
        summary = cluster.wait(S, progress=False)
    assert summary.ok
    assert (summary.tasks[0].attempt, summary.tasks[0].node_name) == (1, nodes.names[1])
    assert begun(tmp_path) == 4


def test_a_node_out_of_reach_for_too_long_loses_its_tasks(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """``node_timeout``: NODE_FAIL, again elsewhere, and the old one is killed on its return."""
    nodes = sshd_nodes(2)
    command = f"{waiting(tmp_path)}; echo through >> {tmp_path}/through"
    with run(
        nodes,
        tmp_path / "out",
        lambda _: command,
        nnodes=2,
        ntasks=2,
        ntasks_per_node=2,
        distribution="cyclic",
        retries=1,
        node_timeout=1.0,
        probe=NodeProbe(max_load_per_cpu=None, timeout=2),
    ) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        nodes.node(0).freeze()
        wait_until(lambda: cluster.tasks[0].attempt == 1, S, lambda: str(cluster.tasks))
        assert cluster.nodes[0].state is NodeState.UNREACHABLE
        nodes.node(0).thaw()
        nodes.node(0).restart()
        wait_until(lambda: cluster.nodes[0].state is NodeState.READY, S, lambda: str(cluster.nodes))
        wait_until(lambda: begun(tmp_path) == 3, S, lambda: str(cluster.tasks))
        job_id = cluster.job_id
        wait_until_gone(f"ALLOT_TASK={job_id}/0/0\0")
        (tmp_path / "go-on").touch()
        assert cluster.wait(S, progress=False).ok
    assert (tmp_path / "through").read_text().count("through") == 2


# The job's own files on a node.


@pytest.mark.parametrize(
    "damage",
    [
        ": > events",
        "head -c 3000 /dev/urandom > events",
        "rm events",
        "echo x | cat - events > y; mv y events",
    ],
    ids=["emptied", "overwritten", "removed", "replaced"],
)
def test_an_event_file_that_was_damaged(
    sshd_nodes: NodesFactory, tmp_path: Path, damage: str
) -> None:
    """Who still runs ends as it should; nobody is COMPLETED for nothing; the queue goes on."""
    nodes = sshd_nodes(1)
    command = f"{waiting(tmp_path)}; exit $ALLOT_PROCID"
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=4, ntasks_per_node=2) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        (folder,) = (nodes.home / ".allot").glob("*/*")
        subprocess.run(["bash", "-euc", damage], cwd=folder, check=True)
        (tmp_path / "go-on").touch()
        summary = cluster.wait(S, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 1, 2, 3]
    assert begun(tmp_path) == 4


def test_a_job_directory_that_was_removed(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Tasks whose ends nobody can know are FAILED with that reason; none runs twice."""
    nodes = sshd_nodes(1)
    command = waiting(tmp_path)
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=3, ntasks_per_node=2) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        nodes.node(0).cut()
        shutil.rmtree(nodes.home / ".allot")
        (tmp_path / "go-on").touch()
        wait_until(lambda: not _recorders(nodes), S, "its tasks go on")
        nodes.node(0).restart()
        summary = cluster.wait(S, progress=False)
    assert [str(task.state) for task in summary.tasks] == ["FAILED", "FAILED", "COMPLETED"]
    assert "what records its end" in summary.tasks[0].reason
    assert begun(tmp_path) == 3


def test_a_job_directory_that_was_removed_between_two_clients(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """The next client does not start anew what it cannot know of."""
    nodes = sshd_nodes(1)
    out = tmp_path / "out"
    with client(
        nodes,
        out,
        waiting(tmp_path),
        "begin(ntasks=3, ntasks_per_node=2); say('up'); time.sleep(600)",
    ) as first:
        first.hear("up")
        wait_until(lambda: begun(tmp_path) == 2, S, "they do not run")
        wait_until(lambda: '"is_prepared"' in _written(out), S, lambda: _written(out))
        first.kill()
    shutil.rmtree(nodes.home / ".allot")
    (tmp_path / "go-on").touch()
    wait_until(lambda: not _recorders(nodes), S, "its tasks go on")
    with Cluster.load(out, lambda _: "true") as cluster:
        summary = cluster.wait(S, progress=False)
    assert [str(task.state) for task in summary.tasks] == ["FAILED", "FAILED", "COMPLETED"]
    assert "the job's directory in ~/.allot on the node was removed" in summary.tasks[1].reason
    assert begun(tmp_path) == 2


def _written(out: Path) -> str:
    files = [*(out / ".allot").glob("*.json"), *(out / ".allot").glob("*.journal")]
    return "".join(file.read_text() for file in files)


def _recorders(nodes: SshdNodes) -> bool:
    return any(p.program == "bash" for node in nodes.nodes for p in node.processes())


# Disks that are full.


@needs_root
def test_an_output_file_system_that_is_full_is_the_reason(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """The task whose output found no room says so; the others complete."""
    out = tmp_path / "out"
    out.mkdir()
    nodes = sshd_nodes(1, private=[out])
    on_node(nodes.node(0), f"mount -o remount,size=256k {out}")

    def factory(ntc: NodeTaskConfig) -> str:
        return "head -c 1000000 /dev/zero" if ntc.proc_id == 0 else "echo fine > /dev/null"

    with run(nodes, out, factory, ntasks=2, ntasks_per_node=1) as cluster:
        wait_until(lambda: cluster.tasks[0].state.is_final, S, lambda: str(cluster.tasks))
        on_node(nodes.node(0), f"rm -f {out}/0.out")
        summary = cluster.wait(S, progress=False)
    assert [str(task.state) for task in summary.tasks] == ["FAILED", "COMPLETED"]
    assert "the file system of its output is full on the node" in summary.tasks[0].reason


@needs_root
def test_a_home_that_fills_up_holds_ends_back_and_says_so(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """BUSY with the reason, nothing new starts there; with room again all is told and goes on."""
    nodes = sshd_nodes(1, private=["~"])
    on_node(nodes.node(0), f"mount -o remount,size=128k {nodes.home}")
    command = waiting(tmp_path)
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=4, ntasks_per_node=2) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        on_node(
            nodes.node(0),
            # To the last byte: also of the event file's last block.
            f"truncate -s %4096 {nodes.home}/.allot/*/*/events; "
            f"head -c 1000000 /dev/zero > {nodes.home}/fill || true",
        )
        (tmp_path / "go-on").touch()
        wait_until(
            lambda: "no end of a task can be written" in cluster.nodes[0].reason,
            S,
            lambda: str(cluster.nodes),
        )
        assert cluster.nodes[0].state is NodeState.BUSY
        on_node(nodes.node(0), f"rm {nodes.home}/fill")
        assert cluster.wait(S, progress=False).ok
    assert begun(tmp_path) == 4


@contextmanager
def small_disk(directory: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of 1 MiB at a directory; what is yielded fills it, or makes room again."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], check=True)
    rest = directory / "rest"

    def fill(is_full: bool) -> None:
        if is_full:
            with rest.open("wb") as file:
                subprocess.run(["head", "-c", "2000000", "/dev/zero"], stdout=file, check=False)
        else:
            rest.unlink()

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@needs_root
def test_no_room_for_the_state_is_told_before_anything_starts(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """Full or read-only: one error that names the place, and no task began."""
    out = tmp_path / "out"
    with small_disk(out) as fill:
        fill(True)
        with pytest.raises(ConfigError, match=str(out)):
            run(five_nodes, out, lambda _: waiting(tmp_path), nnodes=1)
        fill(False)
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        with pytest.raises(ConfigError, match=f"{out} cannot be written to: Read-only"):
            run(five_nodes, out, lambda _: waiting(tmp_path), nnodes=1)
    assert begun(tmp_path) == 0


@needs_root
def test_no_room_for_the_state_later_stops_new_starts_only(
    five_nodes: SshdNodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said loudly; what runs goes on; with room again the queue does, and nothing is lost."""
    out = tmp_path / "out"
    given = {"nnodes": 1, "ntasks_per_node": 2, "ntasks": 30}

    def factory(ntc: NodeTaskConfig) -> Task:
        return Task(waiting(tmp_path), "/dev/null", ntc)

    with small_disk(out) as fill:
        with run(five_nodes, out, factory, **given) as cluster:
            wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
            fill(True)
            (tmp_path / "go-on").touch()
            wait_until(lambda: "cannot be written" in capfd.readouterr().err, S, "nothing is said")
            wait_until(lambda: "RUNNING" not in states(cluster), S, lambda: str(cluster))
            assert "PENDING" in states(cluster)
            fill(False)
            assert cluster.wait(S, progress=False).ok
        assert begun(tmp_path) == 30
        with Cluster.load(out) as after:
            assert {task.state for task in after.tasks} == {TaskState.COMPLETED}


def test_an_output_directory_that_was_removed_is_made_again(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """The state in it too: the job goes on, and can be picked up."""
    out = tmp_path / "out"
    nodes = sshd_nodes(1, private=["~"])
    given = {"ntasks_per_node": 2, "ntasks": 4}
    with run(nodes, out, lambda _: waiting(tmp_path), **given) as cluster:
        wait_until(lambda: begun(tmp_path) == 2, S, lambda: str(cluster.tasks))
        shutil.rmtree(out)
        (tmp_path / "go-on").touch()
        summary = cluster.wait(S, progress=False)
    assert {task.state for task in summary.tasks} <= {TaskState.COMPLETED, TaskState.FAILED}
    assert begun(tmp_path) == 4
    with Cluster.load(out) as after:
        assert [task.state for task in after.tasks] == [task.state for task in summary.tasks]


def test_too_few_open_files_is_told_with_the_number(tmp_path: Path) -> None:
    """Before anything starts: how many are needed, and how to get them."""
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from allot import Cluster, ConfigError
try:
    Cluster("job", {str(tmp_path)!r}, lambda _: "true", nodes="ws[001-200]")
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "200 nodes need up to 6" in done.stdout
    assert "the limit of this process is 64: raise it (ulimit -n 6" in done.stdout


def test_a_low_soft_limit_of_open_files_is_raised(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """As far as it must be, where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        with run(five_nodes, tmp_path, lambda _: "true") as cluster:
            assert cluster.wait(S, progress=False).ok
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# A node that ends what its users leave behind.

LOGINCTL = """#!/bin/sh
[ "$*" = "show-session -p KillUserProcesses -p KillExcludeUsers" ] || exit 1
echo KillUserProcesses=yes
echo "KillExcludeUsers=someone another"
"""


def test_a_node_that_kills_at_logout_is_named(
    sshd_nodes: NodesFactory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the start, and as the likely reason where a task was killed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "loginctl").write_text(LOGINCTL)
    (programs / "loginctl").chmod(0o755)
    nodes = sshd_nodes(1, rc={".bashrc": f"PATH={programs}:$PATH\nexport XDG_SESSION_ID=1\n"})
    command = waiting(tmp_path)
    with run(nodes, tmp_path / "out", lambda _: command, ntasks_per_node=1) as cluster:
        assert "KillUserProcesses=yes in logind.conf on nd01" in capfd.readouterr().err
        wait_until(lambda: begun(tmp_path) == 1, S, lambda: str(cluster.tasks))
        nodes.node(0).kill()  # as systemd does when the connection breaks
        nodes.node(0).start()
        nodes.node(0).wait_until_up()
        summary = cluster.wait(S, progress=False)
    assert summary.tasks[0].state is TaskState.FAILED
    assert "KillUserProcesses=yes in logind.conf there does so at logout" in summary.tasks[0].reason


def test_a_link_that_swallows_everything_is_noticed(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Within half a minute, also on a node where nothing runs; the other node goes on."""
    nodes = sshd_nodes(2)
    command = waiting(tmp_path)
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=1, nnodes=2) as cluster:
        wait_until(lambda: begun(tmp_path) == 1, S, lambda: str(cluster.tasks))
        nodes.node(1).freeze()
        began = time.monotonic()
        wait_until(
            lambda: cluster.nodes[1].state is NodeState.UNREACHABLE, 30, lambda: str(cluster.nodes)
        )
        assert time.monotonic() - began < 30
        assert cluster.nodes[1].reason.startswith("since ")
        (tmp_path / "go-on").touch()
        assert cluster.wait(S, progress=False).ok
        nodes.node(1).thaw()
