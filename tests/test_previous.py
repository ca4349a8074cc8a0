"""A job whose name was used before: refused, cancelled, put away, or gone on with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run
from test_queue import processes_of

from allot import Cluster, JobExistsError, NodeTaskConfig, StateFileError, Task, TaskState

S = 60.0
WAIT = "while [ ! -e {go_on} ]; do sleep 0.05; done"


def test_a_job_that_is_not_over_is_not_run_over(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The error says how it stands and how to go on; ``overwrite`` ends its tasks first."""
    out = tmp_path / "out"
    with run(
        five_nodes, out, lambda _: "echo old; sleep 600", nnodes=1, ntasks_per_node=2, ntasks=3
    ) as old:
        wait_until(lambda: old.output(0) == "old\n", S, "it does not run")
        with pytest.raises(JobExistsError, match=r"2 tasks run, 1 wait \(it is driven by process"):
            run(five_nodes, out, lambda _: "echo new", nnodes=1)
    with pytest.raises(JobExistsError, match=re.escape(f"Cluster.load('{out}') goes on with it")):
        run(five_nodes, out, lambda _: "echo new", nnodes=1)
    with pytest.raises(JobExistsError, match="overwrite=True cancels it first"):
        run(five_nodes, out, lambda _: "echo new", nnodes=1, resume=True)
    assert (out / "0.out").read_text() == "old\n"
    assert processes_of(old.job_id)
    with run(five_nodes, out, lambda _: "echo new", nnodes=1, overwrite=True) as new:
        assert not processes_of(old.job_id)
        assert new.wait(S, progress=False).ok
    assert (out / "0.out").read_text() == "new\n"
    with Cluster.load(out / ".allot" / old.job_id / "test job.json") as archived:
        states = [task.state for task in archived.tasks]
        assert states == [TaskState.CANCELLED] * 3
        assert archived.output(0) == "old\n"


def test_overwrite_also_ends_a_job_that_another_client_drives(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """That client sees its tasks CANCELLED, and then the job no more."""
    with run(five_nodes, tmp_path, lambda _: "sleep 600", nnodes=1, ntasks_per_node=2) as old:
        with run(five_nodes, tmp_path, lambda _: "true", nnodes=1, overwrite=True) as new:
            assert new.wait(S, progress=False).ok
        summary = old.wait(S, progress=False)
    assert {task.state for task in summary.tasks} == {TaskState.CANCELLED}
    with Cluster.load(tmp_path) as last:
        assert last.job_id == new.job_id


def test_a_job_that_is_over_is_put_away(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Outputs, error files, earlier attempts, state: all go to ``.allot/<job_id>``, and load."""
    out = tmp_path / "out"

    def factory(ntc: NodeTaskConfig) -> Task:
        command = "echo $ALLOT_JOB_ID; echo error >&2; [ $ALLOT_ATTEMPT = 1 ]"
        files = (out / "deep" / f"{ntc.proc_id}.txt", tmp_path / f"{ntc.proc_id}.err")
        return Task(command, files[0], ntc, error_file=files[1])

    ids = []
    for _ in range(2):
        with run(five_nodes, out, factory, nnodes=1, ntasks=1, retries=1) as cluster:
            assert cluster.wait(S, progress=False).ok
        ids.append(cluster.job_id)
    archive = out / ".allot" / ids[0]
    names = sorted(str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file())
    assert names == ["deep/0.txt", "deep/0.txt.0", "test job.json"]
    assert (archive / "deep/0.txt").read_text() == f"{ids[0]}\n"
    assert (out / "deep/0.txt").read_text() == f"{ids[1]}\n"
    with Cluster.load(archive / "test job.json") as old:
        assert (old.job_id, old.output(0)) == (ids[0], f"{ids[0]}\n")
    with Cluster.load(out) as new:
        assert new.job_id == ids[1]


def test_resume_runs_only_what_did_not_complete(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """What completed keeps its status and output; the rest runs in the new job."""
    out, log = tmp_path / "out", tmp_path / "log"
    command = f"echo $ALLOT_PROCID >> {log}; echo out; [ -e {tmp_path}/good ] || exit $ALLOT_PROCID"
    given = {"nnodes": 1, "ntasks_per_node": 2, "ntasks": 3}
    with run(five_nodes, out, lambda _: command, **given) as first:
        assert len(first.wait(S, progress=False).failed) == 2
        kept = first.tasks[0]
    (tmp_path / "good").touch()
    with run(five_nodes, out, lambda _: command, resume=True, **given) as second:
        assert second.wait(S, progress=False).ok
        assert second.tasks[0] == replace(kept, node_id=None)  # that was a node of the other job
        assert second.job_id != first.job_id
    assert sorted(log.read_text().split()) == ["0", "1", "1", "2", "2"]
    assert (out / "0.out").read_text() == "out\n"
    assert not (out / ".allot" / first.job_id / "0.out").exists()
    assert (out / ".allot" / first.job_id / "1.out").read_text() == "out\n"
    with run(five_nodes, out, lambda _: command, resume=True, **given) as third:
        assert third.wait(S, progress=False).ok
    assert len(log.read_text().split()) == 5


def test_resume_takes_up_a_job_that_nothing_runs_of(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Its client is gone and its tasks only waited: they run now."""
    go_on = tmp_path / "go-on"
    command = WAIT.format(go_on=go_on)
    given = {"nnodes": 1, "ntasks_per_node": 1, "ntasks": 2}
    with run(five_nodes, tmp_path, lambda _: command, **given) as first:
        assert first.tasks[0].state is TaskState.RUNNING
    go_on.touch()
    with Cluster.load(tmp_path) as watched:
        wait_until(lambda: watched.tasks[0].state.is_final, S, "it does not end")
    with run(five_nodes, tmp_path, lambda _: "true", resume=True, **given) as second:
        assert second.wait(S, progress=False).ok


def test_a_state_that_makes_no_sense_stops_a_new_job(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Whatever lies there may be worth something: it is named and left."""
    state = tmp_path / ".allot/test job.json"
    state.parent.mkdir()
    state.write_text("my notes\n")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StateFileError, match=re.escape(str(state))):
            run(five_nodes, tmp_path, lambda _: "true", nnodes=1, **options)
    assert state.read_text() == "my notes\n"


def test_a_job_that_could_not_begin_leaves_no_trace(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The factory's error comes out; the earlier job stays where it was; the next try works."""
    with run(five_nodes, tmp_path, lambda _: "echo old", nnodes=1) as old:
        old.wait(S, progress=False)

    def broken(_: NodeTaskConfig) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(five_nodes, tmp_path, broken, nnodes=1)
    with Cluster.load(tmp_path) as still:
        assert (still.job_id, still.output(0)) == (old.job_id, "old\n")
    with run(five_nodes, tmp_path, lambda _: "echo new", nnodes=1) as new:
        assert new.wait(S, progress=False).ok
