"""The commands on a job's directory as a user calls them, on real nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import GATE, S, allot, assert_refused, called, environment, run_words, started
from sandbox import session, wait_until
from sshd import SshdNodes

from allot.model import NodeStatus, TaskStatus


@pytest.fixture(scope="module")
def over(five_nodes: SshdNodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a job that is over: of three tasks one failed, each wrote four lines."""
    out = tmp_path_factory.mktemp("over") / "out"
    line = r"printf 'a\nb %s\n\xff\nlast\n' {k}; [ {k} != bad ]"
    done = allot(*run_words(five_nodes, out, "--param", "k=x,bad,x y", "--", line))
    assert done.returncode == 1
    return out


def tasks_of(out: Path, *options: str) -> list[dict[str, Any]]:
    done = called("status", out, "--json", *options)
    assert done.returncode == 0, done.stderr
    tasks: list[dict[str, Any]] = json.loads(done.stdout)["tasks"]
    return tasks


class Detached:
    """A job of three tasks, one at a time, left to a client in the background."""

    def __init__(self, nodes: SshdNodes, out: Path, here: Path, line: str, *words: str) -> None:
        self.out = out
        given = run_words(nodes, out, "-N", "1", "--ntasks-per-node", "1", "-n", "3", "--detach")
        done = allot(*given, *words, "--", line, cwd=here)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        found = re.search(r"goes on under process (\d+)", done.stderr)
        assert found is not None, done.stderr
        assert f"allot attach {out}" in done.stderr
        self.pid = int(found[1])

    def client_ends(self) -> None:
        wait_until(
            lambda: self.pid not in {process.pid for process in session().processes()},
            S,
            (self.out / ".allot/allot.log").read_text,
        )

    def wait_for(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        wait_until(lambda: condition(tasks_of(self.out, "--offline")), 2 * S, "never")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The directory that the command is called from."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("options", [[], ["--offline"]])
def test_status(over: Path, options: list[str]) -> None:
    """Counts, nodes and tasks, from the nodes or from what is on disk."""
    done = called("status", over, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(rf"job allot \(\S+\) in {over}\n3 tasks: 2 COMPLETED, 1 FAILED\n", done.stdout)
    assert re.search(r"^nd01 ", done.stdout, re.MULTILINE)
    assert re.search(r"^1 +FAILED +nd\d+ +0 .* 1$", done.stdout, re.MULTILINE)
    shown = json.loads(called("status", over, *options, "--json").stdout)
    assert [*shown] == ["version", "job_name", "job_id", "output_dir", "counts", "tasks", "nodes"]
    assert shown["version"] == 1
    assert shown["output_dir"] == str(over)
    assert shown["counts"]["COMPLETED"] == 2
    assert {*shown["tasks"][0]} == {*TaskStatus.__dataclass_fields__}
    assert {*shown["nodes"][0]} == {*NodeStatus.__dataclass_fields__}
    assert [task["params"]["k"] for task in shown["tasks"]] == ["x", "bad", "x y"]
    assert shown["tasks"][1]["exit_code"] == 1
    assert shown["tasks"][0]["ended_at"] >= shown["tasks"][0]["started_at"]


def test_status_into_a_pipe_that_is_closed(over: Path) -> None:
    """``| head -1`` gets its line, and there is no complaint."""
    command = f"{sys.executable} -m allot status --offline {over}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; {command} | true"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=S,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("job allot ")
    assert done.stdout.count("\n") == 1


def test_a_page_about_a_job(over: Path, tmp_path: Path) -> None:
    """Beside the outputs, or where it is told; its name is printed. A picture has two formats."""
    for words, file in (([], over / "allot.html"), (["-o", "page.html"], tmp_path / "page.html")):
        done = called("report", over, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert tmp_path / done.stdout.strip() == file
        page = file.read_text()
        assert page.startswith("<!DOCTYPE html>")
        assert "b bad" in page
    done = called("report", over, "--time-line", "time.gif", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "time.gif: the time line is written as .png or .svg" in done.stderr
    assert not (tmp_path / "time.gif").exists()


def test_logs(over: Path) -> None:
    """All of an output or its last lines; of a task that is over ``--follow`` is the same."""
    for options in ([], ["--follow"]):
        done = called("logs", over, "1", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb bad\n\ufffd\nlast\n", "")
    assert called("logs", over, "1", "--tail", "1").stdout == "last\n"
    assert called("logs", over, "1", "--tail", "0").stdout == ""
    assert called("logs", over, "2", "--follow", "--tail", "1").stdout == "last\n"


def test_attach_and_cancel_what_is_over(over: Path) -> None:
    """``attach`` tells how it ended, with that exit code; ``cancel`` changes nothing."""
    done = called("attach", over)
    assert done.returncode == 1
    assert "2 of 3 tasks completed" in done.stdout
    assert "task 1 on nd" in done.stderr
    done = called("cancel", over)
    assert (done.returncode, done.stdout) == (0, "3 tasks: 2 COMPLETED, 1 FAILED\n")


def test_a_job_in_the_background(five_nodes: SshdNodes, tmp_path: Path, here: Path) -> None:
    """It starts what waits by itself; ``attach`` sees the end, and then its client ends too."""
    job = Detached(five_nodes, tmp_path / "out", here, f"{GATE}; echo done")
    states = [task["state"] for task in tasks_of(job.out)]
    assert sorted(states) == ["PENDING", "PENDING", "RUNNING"]
    (here / "go").touch()
    done = allot("attach", job.out)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 tasks completed" in done.stdout
    job.client_ends()
    assert "3 of 3 tasks completed" in (job.out / ".allot/allot.log").read_text()
    assert [called("logs", job.out, str(n)).stdout for n in (0, 2)] == ["done\n", "done\n"]


def test_cancel(five_nodes: SshdNodes, tmp_path: Path, here: Path) -> None:
    """Some tasks or all; it returns when they are final, and the client in the background ends."""
    job = Detached(five_nodes, tmp_path / "out", here, GATE)
    done = allot("cancel", job.out, "2")
    assert (done.returncode, done.stdout) == (0, "3 tasks: 1 PENDING, 1 RUNNING, 1 CANCELLED\n")
    done = called("cancel", job.out, "--grace", "0.5")
    assert (done.returncode, done.stdout) == (0, "3 tasks: 3 CANCELLED\n")
    assert {task["state"] for task in tasks_of(job.out)} == {"CANCELLED"}
    job.client_ends()


def test_follow_an_output(five_nodes: SshdNodes, tmp_path: Path, here: Path) -> None:
    """What a task writes later arrives; it ends when the task does."""
    line = f"[ $ALLOT_PROCID = 0 ] || exit 0; echo one; echo two; {GATE}; echo three; echo four"
    job = Detached(five_nodes, tmp_path / "out", here, line)
    with started("logs", job.out, "0", "--follow", "--tail", "1") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() in ("two\n", "one\n")
        (here / "go").touch()
        rest, errors = follower.communicate(timeout=2 * S)
    assert rest.endswith("three\nfour\n")
    assert (follower.returncode, errors.count("Traceback")) == (0, 0)
    assert allot("attach", job.out).returncode == 0
    job.client_ends()


def test_nodes_are_drained_and_used_again(
    five_nodes: SshdNodes, tmp_path: Path, here: Path
) -> None:
    """A drained node gets nothing new; one that is down loses its tasks."""

    def node_is(state: str) -> bool:
        shown = json.loads(called("status", job.out, "--json").stdout)["nodes"]
        return ("nd01", state) in {(node["name"], node["state"]) for node in shown}

    job = Detached(five_nodes, tmp_path / "out", here, f"[ $ALLOT_PROCID = 0 ] || {{ {GATE}; }}")
    job.wait_for(lambda tasks: tasks[0]["state"] == "COMPLETED")
    assert allot("node", job.out, "drain", "nd01").returncode == 0
    wait_until(lambda: node_is("DRAINED"), S, "not drained")
    assert called("node", job.out, "resume", "nd01").returncode == 0
    wait_until(lambda: node_is("READY"), S, "not used again")
    job.wait_for(lambda tasks: tasks[1]["state"] == "RUNNING")
    assert called("node", job.out, "down", "nd01").returncode == 0
    job.wait_for(lambda tasks: tasks[1]["state"] == "NODE_FAIL")
    for words in (["node", str(job.out), "drain", "nd77"], ["cancel", str(job.out), "77"]):
        done = called(*words)
        assert done.returncode == 2
        assert "77" in done.stderr.splitlines()[-1]
    assert called("cancel", job.out).returncode == 0
    job.client_ends()


def test_rerun(five_nodes: SshdNodes, tmp_path: Path, here: Path) -> None:
    """What failed, once more; or chosen tasks with another command. Earlier outputs are kept."""
    out = tmp_path / "out"
    line = "echo {k} >>log; [ {k} = a ] || [ -e go ]"
    words = run_words(five_nodes, out, "--param", "k=a,b", "--", line)
    assert called(*words, cwd=here).returncode == 1
    assert called("rerun", out).returncode == 1
    (here / "go").touch()
    done = allot("rerun", out)
    assert done.returncode == 0, done.stderr
    assert "allot: 1 tasks queued once more\n" in done.stderr
    assert sorted((here / "log").read_text().split()) == ["a", "b", "b", "b"]
    assert [task["attempt"] for task in tasks_of(out)] == [0, 2]
    done = called("rerun", out, "1", "--", "echo", "now {k}:", "{k}")
    assert done.returncode == 0, done.stderr
    assert (out / "1.out").read_text() == "now b: b\n"
    assert (out / "1.out.2").exists()
    assert_refused(called("rerun", out, "1", "--", "echo '{k}'"), "quotes")
    assert_refused(called("rerun", out, "7"), "7")


def test_a_directory_with_several_jobs(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``--job-name`` says which; without it their names are shown."""
    for name in ("one", "two"):
        words = run_words(five_nodes, tmp_path, "-n", "1", "-J", name, "--", f"echo {name}")
        assert called(*words).returncode == 0
    assert_refused(called("status", tmp_path), "one, two")
    assert called("logs", tmp_path, "0", "-J", "two").stdout == "two\n"
    assert_refused(called("status", tmp_path, "-J", "three"), "three")


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["status"], "D"),
        (["status", "OVER", "--nonsense"], "--nonsense"),
        (["status", "OVER", "--", "true"], "true"),
        (["status", "missing"], "missing"),
        (["status", "missing", "--offline"], "missing"),
        (["status", "."], "no job"),
        (["status", "OVER", "-J", "other"], "other"),
        (["status", "rubbish"], "allot.json"),
        (["status", "rubbish", "--offline", "--json"], "allot.json"),
        (["attach", "rubbish"], "allot.json"),
        (["logs", "OVER", "3"], "no task 3"),
        (["logs", "OVER", "-1"], "no task -1"),
        (["logs", "OVER", "x"], "'x'"),
        (["logs", "OVER"], "PROC_ID"),
        (["logs", "OVER", "0", "--tail", "-1"], "tail"),
        (["cancel", "OVER", "3"], "3"),
        (["cancel", "OVER", "x"], "'x'"),
        (["cancel", "OVER", "--grace", "-1"], "grace"),
        (["cancel", "OVER", "--grace", "nan"], "grace"),
        (["rerun", "OVER", "3"], "3"),
        (["rerun", "OVER", "--", " "], "command"),
        (["node", "OVER", "drain", "nd77"], "nd77"),
        (["node", "OVER", "burn", "nd01"], "burn"),
    ],
)
def test_wrong_use_is_one_line(over: Path, tmp_path: Path, words: list[str], about: str) -> None:
    """Exit code 2 and one line that names what is wrong; what is there is left as it is."""
    rubbish = tmp_path / "rubbish/.allot/allot.json"
    rubbish.parent.mkdir(parents=True)
    rubbish.write_text("rubbish")
    given = [str(over) if word == "OVER" else word for word in words]
    assert_refused(called(*given, cwd=tmp_path), about)
    assert rubbish.read_text() == "rubbish"
