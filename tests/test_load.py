"""Jobs that are picked up again: by whom, with what progress, and nothing lost or run twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from clients import WITH_QUICK_LEASE, client
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run

from allot import (
    AllotError,
    Cluster,
    ConfigError,
    NodeProbe,
    Progress,
    StateFileError,
    Task,
    TaskState,
)

S = 60.0
"""Seconds that anything may take on a busy machine."""

MARKED = r"""echo begun >> {log}/$ALLOT_PROCID.$ALLOT_ATTEMPT
printf '\0023/4\003'
while [ ! -e {log}/go-on ]; do sleep 0.05; done
printf '\0024/4\003'
exit $((ALLOT_PROCID % 3))"""


def begun(log: Path) -> dict[str, int]:
    """How often each attempt of each task began."""
    names = [path.name for path in log.iterdir() if path.name[0].isdigit()]
    return {name: (log / name).read_text().count("begun") for name in names}


def marked(log: Path) -> str:
    """A task that says that it began, is at 3 of 4, waits, and fails by its number."""
    return MARKED.replace("{log}", str(log))


def wait_for_progress(cluster: Cluster, proc_ids: range) -> None:
    """Wait until tasks are seen at 3 of 4."""
    wait_until(
        lambda: all(cluster.tasks[i].progress == Progress(3, 4) for i in proc_ids),
        S,
        lambda: str(cluster.tasks),
    )


@pytest.mark.parametrize("private", [False, True], ids=["shared", "nothing shared"])
def test_a_killed_client_is_followed_by_another(
    sshd_nodes: NodesFactory, tmp_path: Path, log: Path, private: bool
) -> None:
    """Running tasks are found at their step, ended ones with exit codes; the queue goes on."""
    out = tmp_path / "out"
    out.mkdir()
    nodes = sshd_nodes(2, private=["~", out] if private else [])
    script = "cluster = begin(ntasks=7, ntasks_per_node=2); say('up'); time.sleep(600)"
    with client(nodes, out, marked(log), script) as first:
        first.hear("up")
        wait_until(lambda: len(begun(log)) == 4, S, lambda: str(begun(log)))
        first.kill()
    cluster = Cluster.load(out, lambda _: marked(log))
    wait_for_progress(cluster, range(4))
    cluster.close()
    (log / "go-on").touch()
    with Cluster.load(out, lambda _: marked(log)) as again:
        summary = again.wait(S, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 1, 2, 0, 1, 2, 0]
    assert all(task.progress == Progress(4, 4) for task in summary.tasks)
    assert begun(log) == {f"{proc_id}.0": 1 for proc_id in range(7)}
    for task in summary.tasks:
        assert task.started_at is not None
        assert task.output_file is not None
        assert task.output_file.read_text() == "\x023/4\x03\x024/4\x03"
    assert summary.elapsed > 0
    home = nodes.node(0).path(nodes.home)
    assert list((home / ".allot").iterdir()) == []


# Where a client may die: what it was about to do, and what it has told the disk and the node.
INSTANTS = {
    "before the job is on disk": "allot.store.Store.__init__",
    "before it is sent": "allot.foothold.Foothold.launch",
    "after it is sent": "after allot.foothold.Foothold.launch",
    "while it is sent": "after allot.shell.KeptShell._send",
    "before a turn is taken in": "allot.foreman.Foreman.apply",
    "before it is written down": "allot.store.Store.commit",
    "after it is written down": "after allot.store.Store.commit",
    "while a snapshot is written": "after allot.store.write_whole",
}

KILLER = """
import os, signal, pkgutil, sys
def dies(place, after, count):
    module, owner, name = place.rsplit(".", 2)
    if module == "allot":
        module, owner = f"allot.{owner}", None
    target = __import__(module, fromlist=["x"])
    target = target if owner is None else getattr(target, owner)
    real, calls = getattr(target, name), [0]
    def die(*arguments, **options):
        calls[0] += 1
        if calls[0] >= count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if calls[0] >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(target, name, die)
"""


@pytest.mark.parametrize("instant", INSTANTS)
def test_whenever_a_client_dies_each_task_starts_once(
    five_nodes: SshdNodes, tmp_path: Path, log: Path, instant: str
) -> None:
    """SIGKILL around the moments that matter, again and again; the last client ends the job."""
    place = INSTANTS[instant]
    command = f"echo begun >> {log}/$ALLOT_PROCID.$ALLOT_ATTEMPT; sleep 0.2"
    kill = f"dies({place.removeprefix('after ')!r}, {place.startswith('after')}, count)"
    out = tmp_path / "out"
    begin = "cluster = begin(ntasks=8, nnodes=2, ntasks_per_node=2)\ncluster.wait(60)"
    load = "cluster = load(factory)\ncluster.wait(60)"
    for count in (1, 3):
        is_there = (out / ".allot/job.json").exists()
        script = f"count = {count}\n{kill}\n{load if is_there else begin}"
        with client(five_nodes, out, command, script, before=[KILLER]) as one:
            one.process.wait(S)
    if not (out / ".allot/job.json").exists():
        assert begun(log) == {}  # it died before it had told anyone
        return
    with Cluster.load(out, lambda _: command) as cluster:
        summary = cluster.wait(S, progress=False)
    assert summary.ok, summary
    assert begun(log) == {f"{proc_id}.0": 1 for proc_id in range(8)}


def test_the_second_client_watches_and_hands_its_orders_on(
    five_nodes: SshdNodes, tmp_path: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is told who drives the job; cancel, rerun and drain reach that one; then it follows."""
    out = tmp_path / "out"
    script = "cluster = begin(ntasks=6, nnodes=2, ntasks_per_node=1); say('up'); time.sleep(600)"
    with client(five_nodes, out, marked(log), script) as first:
        first.hear("up")
        with Cluster.load(out, lambda _: marked(log)) as second:
            said = capfd.readouterr().err
            assert f"job job is driven by process {first.process.pid} on " in said
            wait_for_progress(second, range(2))
            assert second.output(1) == "\x023/4\x03"
            second.drain(five_nodes.names[1])
            second.cancel([5])
            assert second.tasks[5].state is TaskState.CANCELLED
            second.cancel([1])
            wait_until(
                lambda: second.tasks[1].state is TaskState.CANCELLED, S, lambda: str(second.tasks)
            )
            assert [node.state.value for node in second.nodes][:2] == ["READY", "DRAINED"]
            assert second.rerun([5]) == 1
            assert (second.tasks[5].state, second.tasks[5].attempt) == (TaskState.PENDING, 1)
            with pytest.raises(ConfigError, match="no task 77"):
                second.cancel([77])
            with pytest.raises(ConfigError, match="task 0 is RUNNING"):
                second.rerun([0])
            first.kill()
            (log / "go-on").touch()
            second.resume(five_nodes.names[1])
            summary = second.wait(S, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 143, 2, 0, 1, 2]
    assert begun(log) == {f"{i}.0": 1 for i in range(5)} | {"5.1": 1}
    assert list((out / ".allot").glob("*order*")) == []
    assert list((out / ".allot").glob("*answer*")) == []


def test_a_client_that_slept_finds_itself_succeeded(
    five_nodes: SshdNodes, tmp_path: Path, log: Path, quick_hearts: None
) -> None:
    """The next one takes over once its heart stood still; awake again, it watches to the end."""
    out = tmp_path / "out"
    script = """
cluster = begin(ntasks=6, nnodes=2, ntasks_per_node=1); say('up')
summary = cluster.wait(progress=False)
say(' '.join(str(task.exit_code) for task in summary.tasks))
cluster.close()
say('closed')
"""
    with client(five_nodes, out, marked(log), script, before=[WITH_QUICK_LEASE]) as first:
        first.hear("up")
        first.stop()
        with Cluster.load(out, lambda _: marked(log)) as second:
            wait_for_progress(second, range(2))
            (log / "go-on").touch()
            wait_until(
                lambda: any(task.started_at and task.proc_id > 1 for task in second.tasks),
                S,
                lambda: str(second.tasks),
            )
            first.wake()
            summary = second.wait(S, progress=False)
            first.hear("0 1 2 0 1 2")
            first.hear("closed")
            assert "driven by another client now: process" in first.errors()
    assert [task.exit_code for task in summary.tasks] == [0, 1, 2, 0, 1, 2]
    assert begun(log) == {f"{i}.0": 1 for i in range(6)}


def test_who_was_asleep_and_alone_goes_on(five_nodes: SshdNodes, tmp_path: Path, log: Path) -> None:
    """Nobody came meanwhile: the lease is won again, and the queue goes on."""
    out = tmp_path / "out"
    script = """
cluster = begin(ntasks=4, nnodes=1, ntasks_per_node=2); say('up')
say(str(cluster.wait(progress=False).counts[allot.TaskState.COMPLETED]))
"""
    with client(
        five_nodes, out, marked(log), script, before=[WITH_QUICK_LEASE, "import allot"]
    ) as first:
        first.hear("up")
        first.stop()
        asleep_since = time.monotonic()
        wait_until(lambda: time.monotonic() - asleep_since > 3, S, "")
        (log / "go-on").touch()
        first.wake()
        first.hear("2")
    assert [path.name for path in (out / ".allot").glob("*.lease")] == ["job.2.lease"]
    assert begun(log) == {f"{i}.0": 1 for i in range(4)}


def test_without_a_factory_what_waits_goes_on_waiting(
    five_nodes: SshdNodes, tmp_path: Path, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What runs is watched to its end; then ``wait`` says what is missing, and nothing is lost."""
    out = tmp_path / "out"
    with run(five_nodes, out, lambda _: marked(log), nnodes=1, ntasks_per_node=1, ntasks=3):
        pass
    told = f"2 tasks of job test job wait, and start when it is picked up: Cluster.load('{out}'"
    assert told in capfd.readouterr().err
    (log / "go-on").touch()
    with Cluster.load(out) as cluster:
        with pytest.raises(AllotError, match="2 tasks wait and nobody here can make them"):
            cluster.wait(S, progress=False)
        assert [str(task.state) for task in cluster.tasks] == ["COMPLETED", "PENDING", "PENDING"]
        cluster.cancel([2])
    with Cluster.load(out, lambda _: marked(log)) as cluster:
        summary = cluster.wait(S, progress=False)
    assert [str(task.state) for task in summary.tasks] == ["COMPLETED", "FAILED", "CANCELLED"]


def test_a_job_that_is_over_can_be_looked_at_and_run_again(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Without its nodes too; with them, ``rerun`` makes next attempts, and earlier output stays."""
    out = tmp_path / "out"
    nodes = sshd_nodes(1)
    command = "echo try $ALLOT_ATTEMPT; [ $ALLOT_ATTEMPT = $ALLOT_PROCID ]"
    with run(nodes, out, lambda _: command, ntasks=2, ntasks_per_node=2) as cluster:
        assert not cluster.wait(S, progress=False).ok
    nodes.node(0).cut()
    with Cluster.load(out) as cluster:
        assert cluster.output(1) == "try 0\n"
        summary = cluster.wait(S, progress=False)
        assert [task.exit_code for task in summary.tasks] == [0, 1]
    nodes.node(0).restart()
    with Cluster.load(out, lambda _: command) as cluster:
        assert cluster.rerun() == 1
        assert cluster.wait(S, progress=False).ok
    assert (out / "1.out").read_text() == "try 1\n"
    assert (out / "1.out.0").read_text() == "try 0\n"


def test_a_saved_copy_is_to_look_at(five_nodes: SshdNodes, tmp_path: Path, log: Path) -> None:
    """``save(path)`` writes one whole file, which shows the job as it was and drives nothing."""
    out, copy = tmp_path / "out", tmp_path / "copies/job.json"
    copy.parent.mkdir()
    with run(five_nodes, out, lambda _: marked(log), nnodes=1, ntasks_per_node=1) as cluster:
        wait_for_progress(cluster, range(1))
        cluster.save(copy)
        cluster.save()
        (log / "go-on").touch()
        cluster.wait(S, progress=False)
    assert copy.stat().st_mode & 0o777 == 0o600
    with Cluster.load(copy) as old:
        assert old.tasks[0].progress == Progress(3, 4)
        with pytest.raises(AllotError, match=f"is a copy: load {out}/.allot/test job.json"):
            old.cancel()
    assert list(copy.parent.iterdir()) == [copy]


def test_what_cannot_be_loaded_is_named(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """No directory, no job, several jobs, no state: one error each, and nothing is changed."""
    out = tmp_path / "out"
    for name in ("one", "two"):
        with run(
            five_nodes,
            out,
            lambda ntc: Task("true", f"{out}/{ntc.job_name}.out"),
            job_name=name,
            nnodes=1,
        ) as cluster:
            cluster.wait(S, progress=False)
    with pytest.raises(StateFileError, match=r"holds several jobs: give job_name \(one, two\)"):
        Cluster.load(out)
    with pytest.raises(StateFileError, match=r"holds no job 'three' \(one, two\)"):
        Cluster.load(out, job_name="three")
    with Cluster.load(out, job_name="two") as cluster:
        assert cluster.job_name == "two"
    with pytest.raises(StateFileError, match="does not exist"):
        Cluster.load(tmp_path / "nowhere")
    with pytest.raises(StateFileError, match="holds no job"):
        Cluster.load(tmp_path)
    state = out / ".allot/one.json"
    for text in ("", '{"allot": ', '{"version": 3}', state.read_text().replace('n":1', 'n":9', 1)):
        state.write_text(text)
        with pytest.raises(StateFileError, match=str(state)):
            Cluster.load(out, job_name="one")
        assert state.read_text() == text


def test_files_are_for_their_owner_only(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A job's variables may be secret: its state is 0600."""
    with run(five_nodes, tmp_path, lambda _: "true", nnodes=1, env={"KEY": "secret"}) as cluster:
        files = [path for path in (tmp_path / ".allot").iterdir() if "nonce" not in path.name]
        assert {path.name.rpartition(".")[2] for path in files} == {
            "json",
            "journal",
            "lease",
            "snapshot",
        }
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        cluster.wait(S, progress=False)


def test_a_forked_child_leaves_the_job_alone(
    five_nodes: SshdNodes, tmp_path: Path, log: Path
) -> None:
    """It gets a clear error, and its end does not end the parent's watching."""
    with run(five_nodes, tmp_path / "out", lambda _: marked(log), nnodes=1) as cluster:
        child = os.fork()
        if not child:
            code = 1
            try:
                cluster.close()
                try:
                    cluster.cancel()
                except AllotError as error:
                    code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        (log / "go-on").touch()
        assert cluster.wait(S, progress=False).ok


def test_a_job_is_found_from_another_directory(
    five_nodes: SshdNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was named relative to where it began is not looked for where one is now."""
    monkeypatch.chdir(five_nodes.ssh_config.parent)
    with Cluster(
        "job",
        tmp_path,
        command="true",
        ntasks=1,
        node_file=five_nodes.node_file,
        ssh_config=five_nodes.ssh_config.name,
        oversubscribe=True,
        probe=NodeProbe(max_load_per_cpu=None),
    ) as cluster:
        assert cluster.wait(60, progress=False).ok
    monkeypatch.chdir("/")
    with Cluster.load(tmp_path) as cluster:
        cluster.rerun([0])
        assert cluster.wait(60, progress=False).ok
