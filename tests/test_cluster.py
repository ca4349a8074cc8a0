"""The main job on real SSH servers: launching, queueing, watching, and how it ends."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes

from allot import (
    Cluster,
    ConfigError,
    NodeFileError,
    NodeProbe,
    NodeState,
    NodeTaskConfig,
    NotEnoughNodesError,
    Task,
    TaskConfigError,
    TasksFailedError,
    TaskState,
)

ANY_LOAD = NodeProbe(max_load_per_cpu=None)


def run(cluster_nodes: SshdNodes, output_dir: Path, factory: Any, **options: Any) -> Cluster:
    """A cluster on test nodes, which may be as busy as they like."""
    given: dict[str, Any] = {"job_name": "test job", "probe": ANY_LOAD, "oversubscribe": True}
    given |= options
    if not given.keys() & {"nodes", "node_file"}:
        given["node_file"] = cluster_nodes.node_file
    return Cluster(
        output_dir=output_dir, task_factory=factory, ssh_config=cluster_nodes.ssh_config, **given
    )


def test_a_task_knows_its_place(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Each task has its numbers in its environment, and its status tells how it went."""
    names = (
        *("JOB_NAME", "OUTPUT_DIR", "NODENAME", "NODEID", "PROCID", "LOCALID", "NNODES"),
        *("NTASKS", "NTASKS_PER_NODE", "CPUS_PER_TASK", "ATTEMPT"),
    )
    command = "; ".join(f"echo {name}=$ALLOT_{name}" for name in names)
    with run(five_nodes, tmp_path, lambda _: command, nnodes=3, ntasks_per_node=2) as cluster:
        summary = cluster.wait(60, progress=False)
        job_id = cluster.job_id
    assert summary.ok
    assert len(summary.tasks) == 6
    for task in summary.tasks:
        node_id, local_id = divmod(task.proc_id, 2)
        assert (task.state, task.exit_code) == (TaskState.COMPLETED, 0)
        assert (task.node_id, task.local_id) == (node_id, local_id)
        assert task.node_name == five_nodes.names[node_id]
        assert task.output_file == tmp_path / f"{task.proc_id}.out"
        assert task.started_at is not None
        assert task.ended_at is not None
        assert task.started_at <= task.ended_at
        assert dict(line.split("=", 1) for line in task.output_file.read_text().splitlines()) == {
            "JOB_NAME": "test job",
            "OUTPUT_DIR": str(tmp_path),
            "NODENAME": five_nodes.names[node_id],
            "NODEID": str(node_id),
            "PROCID": str(task.proc_id),
            "LOCALID": str(local_id),
            "NNODES": "3",
            "NTASKS": "6",
            "NTASKS_PER_NODE": "2",
            "CPUS_PER_TASK": "1",
            "ATTEMPT": "0",
        }
    assert job_id


def test_cyclic_deals_the_first_wave_round(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Neighbouring tasks go to different nodes."""
    with run(
        five_nodes,
        tmp_path,
        lambda _: "true",
        nnodes=3,
        ntasks_per_node=2,
        distribution="cyclic",
    ) as cluster:
        places = [(task.node_id, task.local_id) for task in cluster.tasks]
        cluster.wait(60, progress=False)
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


def test_the_first_failing_command_ends_a_task(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Its exit code counts, later commands do not run, and the error shows where to look."""

    def factory(ntc: NodeTaskConfig) -> Task:
        return Task(["echo before", f"(exit {ntc.proc_id * 7})", "echo after"], config=ntc)

    with run(five_nodes, tmp_path, factory, nnodes=3) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 7, 14]
    assert [task.state for task in summary.failed] == [TaskState.FAILED] * 2
    assert (tmp_path / "0.out").read_text() == "before\nafter\n"
    assert (tmp_path / "1.out").read_text() == "before\n"
    with pytest.raises(TasksFailedError) as caught:
        summary.raise_for_failures()
    text = str(caught.value)
    assert "2 of 3" in text
    assert f"task 1 on {five_nodes.names[1]} FAILED (exit code 7)" in text
    assert "| before" in text
    assert caught.value.summary is summary


def test_progress_is_seen_while_a_task_runs(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The latest marker is in the task's status, and the whole one at its end."""
    go_on = tmp_path / "go on"
    wait = f"while [ ! -e '{go_on}' ]; do sleep 0.05; done"
    command = rf"printf '\0023/10\003'; {wait}; printf 'a\00210/10\003b'"
    with run(five_nodes, tmp_path / "out", lambda _: command, nnodes=1, poll_interval=0.1) as c:

        def seen() -> bool:
            progress = c.tasks[0].progress
            return progress is not None and progress.fraction == 0.3

        wait_until(seen, 20, lambda: f"{c.tasks}")
        assert c.tasks[0].state is TaskState.RUNNING
        assert "\x023/10\x03" in c.output(0)
        go_on.touch()
        summary = c.wait(30, progress=False)
        assert c.output(0, tail=1).endswith("b")
    assert summary.tasks[0].progress is not None
    assert summary.tasks[0].progress.step == 10


def test_an_error_of_the_factory_launches_nothing(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """In the first wave the user's own exception comes out, before anything was started."""

    def factory(ntc: NodeTaskConfig) -> str:
        if ntc.proc_id == 4:
            raise LookupError("no such dataset")
        return f"touch '{tmp_path}/started-{ntc.proc_id}'"

    with pytest.raises(LookupError, match="no such dataset"):
        run(five_nodes, tmp_path / "out", factory)
    assert not list(tmp_path.glob("started-*"))


def test_a_later_error_of_the_factory_fails_its_task(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A task that cannot be made is FAILED with the reason; the others run."""

    def factory(ntc: NodeTaskConfig) -> str:
        if ntc.proc_id == 2:
            raise LookupError("no such dataset")
        return "true"

    with run(five_nodes, tmp_path, factory, nnodes=1, ntasks=4, ntasks_per_node=1) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.state.value for task in summary.tasks] == [
        *("COMPLETED", "COMPLETED", "FAILED", "COMPLETED")
    ]
    assert "LookupError: no such dataset" in summary.tasks[2].reason


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (lambda _: Task("true", output_file="/tmp/same.out"), "both write to /tmp/same.out"),
        (lambda _: Task("true", "/tmp/a.out", error_file="/tmp/a.out"), "/tmp/a.out"),
        (lambda _: 42, "not 42"),
        (lambda _: [], "not \\[\\]"),
        (lambda _: Task("true", env={"A-B": "1"}), "A-B"),
        (lambda _: "echo \0", "NUL"),
    ],
)
def test_a_task_that_cannot_be_launched_is_refused(
    five_nodes: SshdNodes, tmp_path: Path, factory: Callable[..., Any], complaint: str
) -> None:
    """What is wrong is said at once, and nothing runs."""
    with pytest.raises(TaskConfigError, match=complaint):
        run(five_nodes, tmp_path, factory, nnodes=2)


def test_a_task_has_its_own_directory_variables_and_error_file(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """``cwd``, ``env`` and ``error_file`` of a task arrive as they are, whatever they hold."""
    folder = tmp_path / 'it\'s $HOME "here" ä'
    folder.mkdir()
    value = "line 1\nline 2 $(id) `id` \\ '\""

    def factory(ntc: NodeTaskConfig) -> Task:
        return Task(
            ["pwd", 'printf %s "$VALUE"', "echo problem >&2"],
            "sub/dir/out.txt",
            ntc,
            env={"VALUE": value},
            cwd=folder,
            error_file=ntc.output_dir / "deeper" / "err.txt",
        )

    cwd = Path.cwd()
    os.chdir(tmp_path)
    try:
        with run(five_nodes, tmp_path / "out", factory, nnodes=1) as cluster:
            assert cluster.wait(60, progress=False).ok
    finally:
        os.chdir(cwd)
    assert (tmp_path / "sub/dir/out.txt").read_text() == f"{folder}\n{value}"
    assert (tmp_path / "out/deeper/err.txt").read_text() == "problem\n"


def test_hostile_names_arrive_as_they_are(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Quotes, spaces, dollars, newlines and other scripts in names are text everywhere."""
    name = "a 'b' \"c\" $(touch x) `id` \\ ;&|<> \n ä 漢 \x7f {d}"
    output_dir = tmp_path / name
    with run(
        five_nodes, output_dir, lambda _: 'printf %s "$ALLOT_JOB_NAME"', nnodes=2, job_name=name
    ) as cluster:
        assert cluster.wait(60, progress=False).ok
        assert cluster.output(1) == name
    assert (output_dir / "0.out").read_text() == name


def test_too_few_nodes_are_all_named_with_their_reasons(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """A dead, an unknown and a locked node each say what to do; nothing is launched."""
    nodes = sshd_nodes(4)
    nodes.node(1).kill()
    known = nodes.known_hosts.read_text().splitlines(keepends=True)
    nodes.known_hosts.write_text("".join([*known[:2], *known[3:]]))
    config = nodes.ssh_config.read_text()
    other_user = f"Host {nodes.names[3]}\n    User nobody-here\n"
    nodes.ssh_config.write_text(other_user + config)
    with pytest.raises(NotEnoughNodesError) as caught:
        run(nodes, tmp_path, lambda _: f"touch '{tmp_path}/ran'", nnodes=2)
    by_name = {status.name: status for status in caught.value.nodes}
    assert [by_name[name].state.value for name in nodes.names] == [
        *("SPARE", "UNREACHABLE", "UNREACHABLE", "UNREACHABLE")
    ]
    text = str(caught.value)
    assert "1 of 4 nodes can be used, 2 must be" in text
    assert f"{nodes.names[1]}: " in text
    assert "refused" in by_name[nodes.names[1]].reason
    assert "ssh-keyscan" in by_name[nodes.names[2]].reason
    assert "nobody-here" in by_name[nodes.names[3]].reason
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (NodeProbe(max_load_per_cpu=None, min_free_memory=10**18), "memory"),
        (NodeProbe(max_load_per_cpu=0.0), "load"),
    ],
)
def test_a_busy_node_is_not_used(
    five_nodes: SshdNodes, tmp_path: Path, probe: NodeProbe, reason: str
) -> None:
    """Its state is BUSY, with what it has and what the limit is."""
    wait_until(lambda: os.getloadavg()[0] > 0, 60, "no load at all")
    with pytest.raises(NotEnoughNodesError, match=reason) as caught:
        run(five_nodes, tmp_path, lambda _: "true", probe=probe)
    assert {status.state for status in caught.value.nodes} == {NodeState.BUSY}
    health = caught.value.nodes[0].health
    assert health is not None
    assert health.memory_total > health.memory_free > 0
    assert health.cpus >= 1


def test_the_first_nodes_that_pass_are_used(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The others are spares, and the slots of a host file line count."""
    lines = [f"{name} slots={2 + i}" for i, name in enumerate(five_nodes.names)]
    with run(five_nodes, tmp_path, lambda _: "true", nodes=lines, nnodes=2) as cluster:
        states = [(status.name, status.state, status.node_id) for status in cluster.nodes]
        summary = cluster.wait(60, progress=False)
    names = five_nodes.names
    assert states[:2] == [(names[0], NodeState.READY, 0), (names[1], NodeState.READY, 1)]
    assert {state for _, state, _ in states[2:]} == {NodeState.SPARE}
    assert len(summary.tasks) == 2 + 3


def test_slots_do_not_exceed_the_cpus_unless_told(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Without ``oversubscribe`` a node runs as many tasks as it has CPUs for."""
    with run(
        five_nodes,
        tmp_path,
        lambda _: "true",
        nnodes=1,
        ntasks_per_node=1000,
        oversubscribe=False,
    ) as cluster:
        health = cluster.nodes[0].health
        summary = cluster.wait(60, progress=False)
    assert health is not None
    assert len(summary.tasks) == health.cpus
    with pytest.raises(NotEnoughNodesError, match="a task takes 5000"):
        run(five_nodes, tmp_path, lambda _: "true", cpus_per_task=5000, oversubscribe=False)


def test_wait_gives_up_but_the_tasks_go_on(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``TimeoutError`` after the time is up; a second ``wait`` sees the end."""
    go_on = tmp_path / "go on"
    command = f"while [ ! -e '{go_on}' ]; do sleep 0.05; done"
    with run(five_nodes, tmp_path / "out", lambda _: command, nnodes=1) as cluster:
        with pytest.raises(TimeoutError, match="go on"):
            cluster.wait(0.3, progress=False)
        assert "1 RUNNING" in repr(cluster)
        go_on.touch()
        assert cluster.wait(30, progress=False).ok


def test_close_detaches_and_the_tasks_go_on(
    five_nodes: SshdNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What runs runs to its end, what waits is said to wait; closing twice is harmless."""
    go_on = tmp_path / "go on"

    def factory(ntc: NodeTaskConfig) -> str:
        return f"while [ ! -e '{go_on}' ]; do sleep 0.05; done; touch '{tmp_path}/{ntc.proc_id}'"

    cluster = run(five_nodes, tmp_path / "out", factory, nnodes=2, ntasks=5, ntasks_per_node=1)
    cluster.close()
    cluster.close()
    assert "3 tasks of job test job" in capsys.readouterr().err
    go_on.touch()
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(), 20, "not gone on")
    assert not (tmp_path / "2").exists()


def test_an_interrupt_before_the_bars_are_there_detaches(
    five_nodes: SshdNodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A Ctrl-C right at the beginning of ``wait`` is told of as any other one is."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("allot.front.make_board", interrupted)
    go_on = tmp_path / "go-on"
    command = f"until [ -e {go_on} ]; do sleep 0.05; done"
    with run(five_nodes, tmp_path, lambda _: command, nnodes=1, ntasks_per_node=1) as cluster:
        with pytest.raises(KeyboardInterrupt):
            cluster.wait(60)
        said = capsys.readouterr().err
        assert "detached; 1 tasks of job test job go on, 0 wait" in said
        assert "to come back" in said
    go_on.touch()
    with Cluster.load(tmp_path, lambda _: command) as cluster:
        assert cluster.wait(60, progress=False).ok


def test_print_progress_tells_what_changed(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Off a terminal: a line for each task that changed and one for the job, nothing else."""
    shown = io.StringIO()
    with run(five_nodes, tmp_path, lambda _: "true", nnodes=3) as cluster:
        cluster.wait(60, progress=False)
        cluster.print_progress(shown)
        lines = shown.getvalue().splitlines()
        cluster.print_progress(shown)
        again = shown.getvalue().splitlines()[len(lines) :]
    assert len(lines) == 4
    assert all("COMPLETED" in line for line in lines[:3])
    assert "3/3" in lines[3]
    assert len(again) == 1
    assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"nnodes": 0}, "nnodes"),
        ({"nnodes": 6}, "only 5 nodes"),
        ({"ntasks": -1}, "ntasks"),
        ({"distribution": "plane"}, "distribution"),
        ({"job_name": "a/b"}, "job_name"),
        ({"nodes": "nd[01-02]", "node_file": "x"}, "not both"),
        ({"output_dir": "/proc/allot"}, "output_dir /proc/allot"),
        ({"output_dir": None}, "output_dir must be a path, not None"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"node_file": 5}, "node_file must be a path, not 5"),
        ({"probe": "x"}, "probe must be a NodeProbe, not 'x'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    five_nodes: SshdNodes, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    """One ``ConfigError`` that says which argument and what it may be."""
    given: dict[str, Any] = {"output_dir": tmp_path, "factory": lambda _: "true"}
    given |= options
    with pytest.raises(ConfigError, match=complaint):
        run(five_nodes, **given)


def test_a_missing_host_file_is_named(tmp_path: Path) -> None:
    """``NodeFileError`` with the path."""
    with pytest.raises(NodeFileError, match=r"nowhere\.txt: cannot be read") as caught:
        Cluster("job", tmp_path, lambda _: "true", node_file=tmp_path / "nowhere.txt")
    assert caught.value.path == str(tmp_path / "nowhere.txt")


def test_without_nodes_those_of_the_slurm_allocation_are_used(
    five_nodes: SshdNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within ``salloc`` no host file is needed; outside, the error says what to give."""
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(ConfigError, match="node_file or nodes"):
        run(five_nodes, tmp_path, lambda _: "true", node_file=None)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "nd[01-02]")
    with run(five_nodes, tmp_path, lambda _: "true", node_file=None) as cluster:
        assert [task.node_name for task in cluster.wait(30, progress=False).tasks] == [
            *("nd01", "nd02")
        ]


def test_output_of_a_task_that_is_not_there_is_refused(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """An unknown task is an error, a waiting one has no output yet."""
    with run(five_nodes, tmp_path, lambda _: "echo x", nnodes=1, ntasks=2) as cluster:
        cluster.wait(30, progress=False)
        assert cluster.output(1) == "x\n"
        assert cluster.output(1, tail=0) == ""
        with pytest.raises(ConfigError, match="no task 2"):
            cluster.output(2)
        with pytest.raises(ConfigError, match="tail"):
            cluster.output(1, tail=-1)
