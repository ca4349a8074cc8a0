"""Queue, limits, cancel, retries on real SSH servers, as a user meets them."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import NodesFactory
from sandbox import process_table, wait_until
from sshd import SshdNodes
from test_cluster import run

from allot import (
    AllotError,
    Cluster,
    ConfigError,
    NodeProbe,
    NodeState,
    NodeTaskConfig,
    TaskState,
    outfit,
)
from allot.probe import NodeFacts, look_again


def states(cluster: Cluster) -> Counter[str]:
    """How many tasks are in each state."""
    return Counter(task.state.value for task in cluster.tasks)


def cluster_at_its_end(cluster: Cluster) -> Cluster:
    """The cluster, once every task is final."""
    cluster.wait(30, progress=False)
    return cluster


def all_started(cluster: Cluster, count: int) -> None:
    """Wait until that many tasks run for certain."""
    wait_until(
        lambda: sum(task.started_at is not None for task in cluster.tasks) >= count,
        20,
        lambda: str(cluster.tasks),
    )


def test_sixty_tasks_share_six_slots(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Three nodes of two slots: never more than one task in a slot, and no slot forgotten."""
    command = "date +%s.%N; sleep 0.1; date +%s.%N"
    with run(
        five_nodes, tmp_path, lambda _: command, nnodes=3, ntasks_per_node=2, ntasks=60
    ) as cluster:
        assert states(cluster)["PENDING"] > 40
        summary = cluster.wait(120, progress=False)
    assert summary.ok
    slots: dict[tuple[int | None, int | None], list[tuple[float, float]]] = {}
    for task in summary.tasks:
        start, end = map(float, (tmp_path / f"{task.proc_id}.out").read_text().split())
        slots.setdefault((task.node_id, task.local_id), []).append((start, end))
    assert set(slots) == {(node, slot) for node in range(3) for slot in range(2)}
    for times in slots.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(times)))


STUBBORN = """
trap '' TERM
(trap '' TERM
 setsid bash -c 'trap "" TERM; while :; do sleep 1; done' &
 while :; do sleep 1; done) &
echo so far
while :; do sleep 1; done
"""


def test_cancel_ends_a_stubborn_tree_and_what_waits(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """What ignores TERM, grandchildren, other sessions: all of it; queued ones never start."""
    with run(
        five_nodes, tmp_path, lambda _: STUBBORN, ntasks_per_node=1, nnodes=2, ntasks=5
    ) as cluster:
        job_id = cluster.job_id
        all_started(cluster, 2)
        wait_until(lambda: "so far" in cluster.output(0), 20, "no output yet")
        cluster.cancel(grace=0.5)
        summary = cluster.wait(30, progress=False)
        assert cluster.output(0).startswith("so far\n")
    assert {task.state for task in summary.tasks} == {TaskState.CANCELLED}
    assert [task.started_at is None for task in summary.tasks] == [False] * 2 + [True] * 3
    assert not processes_of(job_id)


def processes_of(job_id: str) -> list[int]:
    """What carries the job in its environment."""
    return [pid for pid in process_table() if job_id.encode() in _environment(pid)]


def wait_until_gone(job_id: str) -> None:
    """Wait until no process of the job is left."""
    wait_until(lambda: not processes_of(job_id), 20, "processes of the job are left")


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def test_cancel_of_some_leaves_the_others(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Only the tasks named end; a task that traps TERM has its grace; CANCELLED all the same."""
    go_on = tmp_path / "go-on"
    polite = "trap 'echo tidy; exit 0' TERM; "
    command = f"{polite} while [ ! -e {go_on} ]; do sleep 0.05; done"
    with run(
        five_nodes, tmp_path / "out", lambda _: command, ntasks_per_node=1, nnodes=2, ntasks=3
    ) as cluster:
        all_started(cluster, 2)
        cluster.cancel([1, 2])
        wait_until(lambda: states(cluster)["CANCELLED"] == 2, 20, lambda: str(cluster.tasks))
        assert cluster.tasks[0].state is TaskState.RUNNING
        assert cluster.tasks[1].reason == "cancelled by the user"
        assert cluster.output(1).endswith("tidy\n")
        go_on.touch()
        assert states(cluster_at_its_end(cluster)) == {"COMPLETED": 1, "CANCELLED": 2}
        cluster.cancel([0])
        assert states(cluster) == {"COMPLETED": 1, "CANCELLED": 2}
        with pytest.raises(ConfigError, match="no task 7"):
            cluster.cancel([7])
        with pytest.raises(ConfigError, match="grace"):
            cluster.cancel(grace=-1)
        with pytest.raises(ConfigError, match=r"such as \[3, 4\], not 3"):
            cluster.cancel(3)  # type: ignore[arg-type] # a slip that is easily made
        with pytest.raises(ConfigError, match=r"such as \[3, 4\], not \('x',\)"):
            cluster.rerun(["x"])  # type: ignore[list-item] # the same
    with pytest.raises(AllotError, match="closed"):
        cluster.cancel()


def test_an_order_given_just_before_leaving_is_carried_out(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """``cancel`` and then the end of the ``with`` block: nothing of the job is left."""
    for number in range(3):
        with run(
            five_nodes,
            tmp_path / str(number),
            lambda _: "sleep 600",
            nnodes=2,
            ntasks_per_node=3,
        ) as cluster:
            all_started(cluster, 6)
            job_id = cluster.job_id
            cluster.cancel(grace=0.2)
        wait_until_gone(job_id)


def test_a_cancelled_task_is_not_retried(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Also where its node was given up before the order took effect."""
    with run(
        five_nodes,
        tmp_path,
        lambda _: "trap '' TERM; while :; do sleep 0.1; done",
        nnodes=2,
        ntasks=1,
        ntasks_per_node=1,
        retries=3,
    ) as cluster:
        all_started(cluster, 1)
        cluster.cancel(grace=600)
        cluster.down(five_nodes.names[0])
        summary = cluster.wait(30, progress=False)
        job_id = cluster.job_id
    assert (summary.tasks[0].state, summary.tasks[0].attempt) == (TaskState.NODE_FAIL, 0)
    wait_until_gone(job_id)


def test_what_was_not_sent_to_a_dead_node_runs_elsewhere(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """A node that went while idle is found out by the next task for it, which goes to another."""
    nodes = sshd_nodes(2)
    with run(nodes, tmp_path, lambda _: "true", ntasks_per_node=1) as cluster:
        assert cluster.wait(30, progress=False).ok
        nodes.node(1).cut()
        assert cluster.rerun([0, 1]) == 2
        summary = cluster.wait(30, progress=False)
    assert summary.ok
    assert {task.node_name for task in summary.tasks} == {nodes.names[0]}


def test_an_event_file_that_is_begun_anew_is_read_from_its_start(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """A cleaner took ``~/.allot`` away, and the link broke: later tasks are seen all the same."""
    nodes = sshd_nodes(1)
    with run(nodes, tmp_path, lambda _: "true", ntasks_per_node=1, ntasks=5) as cluster:
        assert cluster.wait(30, progress=False).ok
        shutil.rmtree(nodes.home / ".allot")
        nodes.node(0).cut()
        nodes.node(0).restart()
        assert cluster.rerun([0]) == 1
        assert cluster.wait(60, progress=False).ok


def test_cancel_while_launches_are_in_flight_leaves_nothing_running(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """However early the order comes, no task of the job is alive after it."""
    for _ in range(5):
        with run(
            five_nodes,
            tmp_path,
            lambda _: "sleep 600",
            nnodes=3,
            ntasks_per_node=4,
            ntasks=40,
        ) as cluster:
            cluster.cancel(grace=0.2)
            summary = cluster.wait(30, progress=False)
            job_id = cluster.job_id
        assert {task.state for task in summary.tasks} == {TaskState.CANCELLED}
        assert not processes_of(job_id)


def test_a_time_limit_ends_a_task_on_its_node(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """TIMEOUT, not retried; a task that is in time is not touched."""
    with run(
        five_nodes,
        tmp_path,
        lambda ntc: f"echo begun; sleep {ntc.proc_id * 300}",
        nnodes=2,
        time_limit=1.0,
        retries=2,
    ) as cluster:
        summary = cluster.wait(30, progress=False)
    assert [task.state.value for task in summary.tasks] == ["COMPLETED", "TIMEOUT"]
    assert summary.tasks[1].attempt == 0
    assert (tmp_path / "1.out").read_text() == "begun\n"


def test_a_time_limit_holds_with_the_client_gone(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Nobody watches, and the task ends all the same."""
    pid_file = tmp_path / "pid"
    command = f"echo $$ > {pid_file}.tmp; mv {pid_file}.tmp {pid_file}; exec sleep 600"
    cluster = run(five_nodes, tmp_path, lambda _: command, nnodes=1, time_limit="1s")
    wait_until(pid_file.exists, 20, "the task did not start")
    cluster.close()
    pid = int(pid_file.read_text())
    wait_until(lambda: pid not in process_table(), 20, "the task is still there")


def test_a_failed_task_is_retried_on_another_node(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Attempt and output of each try are kept apart; the last one counts."""
    command = "echo try $ALLOT_ATTEMPT on $ALLOT_NODENAME; [ $ALLOT_ATTEMPT = 2 ]"
    with run(five_nodes, tmp_path, lambda _: command, nnodes=3, ntasks=1, retries=3) as cluster:
        summary = cluster.wait(30, progress=False)
    task = summary.tasks[0]
    assert (task.state, task.attempt) == (TaskState.COMPLETED, 2)
    tries = [(tmp_path / f"0.out{suffix}").read_text() for suffix in (".0", ".1", "")]
    assert [line.split(" on ")[0] for line in tries] == ["try 0", "try 1", "try 2"]
    assert len({line.split(" on ")[1] for line in tries}) == 3


def test_retries_come_to_an_end(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """With one node it is tried there again; the last failure stays."""
    with run(five_nodes, tmp_path, lambda _: "exit 5", nnodes=1, retries=2) as cluster:
        summary = cluster.wait(30, progress=False)
    task = summary.tasks[0]
    assert (task.state, task.attempt, task.exit_code) == (TaskState.FAILED, 2, 5)


def test_rerun_queues_what_did_not_complete(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """After the end, and while others run; what still runs cannot be queued."""
    mended, go_on = tmp_path / "mended", tmp_path / "go-on"

    def factory(ntc: NodeTaskConfig) -> str:
        if ntc.proc_id == 2:
            return f"while [ ! -e {go_on} ]; do sleep 0.05; done"
        return f"echo attempt {ntc.attempt}; [ {ntc.proc_id} = 0 ] || [ -e {mended} ]"

    with run(five_nodes, tmp_path / "out", factory, nnodes=3) as cluster:
        wait_until(lambda: cluster.tasks[1].state.is_final, 20, lambda: str(cluster.tasks))
        mended.touch()
        with pytest.raises(ConfigError, match="task 2 is RUNNING"):
            cluster.rerun([2])
        assert cluster.rerun([1]) == 1
        go_on.touch()
        assert cluster.wait(30, progress=False).ok
        assert cluster.tasks[1].attempt == 1
        assert cluster.output(1) == "attempt 1\n"
        assert (tmp_path / "out/1.out.0").read_text() == "attempt 0\n"
        assert cluster.rerun() == 0
        assert cluster.rerun([0]) == 1
        assert cluster.wait(30, progress=False).ok
        assert cluster.tasks[0].attempt == 1


def test_the_first_failure_may_end_all(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``kill_on_bad_exit``: the others are cancelled, those that wait never start."""

    def factory(ntc: NodeTaskConfig) -> str:
        return "exit 3" if ntc.proc_id == 1 else "sleep 600"

    with run(
        five_nodes, tmp_path, factory, ntasks_per_node=1, nnodes=2, ntasks=4, kill_on_bad_exit=True
    ) as cluster:
        summary = cluster.wait(30, progress=False)
    assert [task.state.value for task in summary.tasks] == [
        *("CANCELLED", "FAILED", "CANCELLED", "CANCELLED")
    ]
    assert "task 1 did not complete" in summary.tasks[3].reason


def test_after_so_many_failures_nothing_new_starts(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``max_failures``: what runs goes on, what waits is cancelled with the reason."""
    with run(
        five_nodes,
        tmp_path,
        lambda _: "exit 1",
        nodes=five_nodes.names[:1],
        ntasks_per_node=1,
        ntasks=9,
        max_failures=2,
    ) as cluster:
        summary = cluster.wait(30, progress=False)
    counts = {state.value: number for state, number in summary.counts.items() if number}
    assert counts == {"FAILED": 2, "CANCELLED": 7}
    assert "max_failures" in summary.tasks[8].reason


def test_tasks_are_handed_out_as_they_end(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``as_completed`` yields each task once, in the order of their ends."""
    with run(
        five_nodes, tmp_path, lambda ntc: f"sleep {0.6 - 0.3 * ntc.proc_id}", nnodes=3
    ) as cluster:
        order = [task.proc_id for task in cluster.as_completed(timeout=30)]
        assert order == [2, 1, 0]
        assert [task.proc_id for task in cluster.as_completed()] == order
    with (
        run(five_nodes, tmp_path, lambda _: "sleep 2", nnodes=1) as cluster,
        pytest.raises(TimeoutError),
    ):
        list(cluster.as_completed(timeout=0.1))


def test_a_node_is_drained_resumed_and_given_up_by_hand(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """Drained, it gets nothing new; resumed, it does; down, its tasks are NODE_FAIL and die."""
    go_on = tmp_path / "go-on"
    command = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    first, second = names = five_nodes.names[:2]
    with run(
        five_nodes, tmp_path / "out", lambda _: command, nodes=names, ntasks_per_node=1, ntasks=6
    ) as cluster:
        all_started(cluster, 2)
        cluster.drain(second)
        assert cluster.nodes[1].state is NodeState.DRAINED
        cluster.down(first)
        assert cluster.tasks[0].state is TaskState.NODE_FAIL
        assert [task.state.value for task in cluster.tasks[2:]] == ["PENDING"] * 4
        cluster.resume(second)
        go_on.touch()
        summary = cluster.wait(30, progress=False)
        with pytest.raises(ConfigError, match="no node 'nowhere'"):
            cluster.drain("nowhere")
    assert [task.state.value for task in summary.tasks] == ["NODE_FAIL"] + ["COMPLETED"] * 5
    assert {task.node_name for task in summary.tasks[1:]} == {second}


def test_a_node_that_fails_all_its_tasks_does_not_eat_the_queue(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """It is DRAINED with the reason; the others do the rest."""

    def factory(ntc: NodeTaskConfig) -> str:
        return "exit 9" if ntc.node_id == 1 else "sleep 0.05"

    with run(
        five_nodes,
        tmp_path,
        factory,
        ntasks_per_node=1,
        nnodes=2,
        ntasks=40,
        retries=1,
        node_max_failures=4,
    ) as cluster:
        summary = cluster.wait(60, progress=False)
        bad = cluster.nodes[1]
    assert summary.ok
    assert bad.state is NodeState.DRAINED
    assert "in a row failed" in bad.reason
    assert sum(task.attempt for task in summary.tasks) < 20


def test_a_spare_steps_in_for_a_lost_node(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """While tasks wait, the next node of the host file takes over, as the next number."""
    nodes = sshd_nodes(3)
    go_on = tmp_path / "go-on"
    command = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    with run(
        nodes, tmp_path / "out", lambda _: command, ntasks_per_node=1, nnodes=2, ntasks=6
    ) as cluster:
        all_started(cluster, 2)
        nodes.node(0).cut()
        wait_until(lambda: cluster.tasks[2].node_id == 2, 30, lambda: str(cluster.nodes))
        assert cluster.tasks[2].node_name == nodes.names[2]
        assert cluster.tasks[0].state is TaskState.RUNNING
        go_on.touch()
        nodes.node(0).restart()
        assert cluster.wait(60, progress=False).ok


def test_setup_directory_shell_and_variables(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """What the job prepares for every task is there, and the niceness is its own."""
    here = tmp_path / "work here"
    here.mkdir()
    os.environ["ALLOT_TEST_PASSED_ON"] = "passed on"
    try:
        with run(
            five_nodes,
            tmp_path / "out",
            lambda _: 'pwd; echo "$GREETING|$ALLOT_TEST_PASSED_ON|$MADE|$OMP_NUM_THREADS"; nice',
            nnodes=1,
            setup=["MADE=by-setup", "true"],
            cwd=here,
            env={"GREETING": "it's $HOME"},
            export="ALLOT_TEST_PASSED_ON",
            cpus_per_task=3,
            nice=5,
            login_shell=True,
        ) as cluster:
            assert cluster.wait(30, progress=False).ok
            assert cluster.output(0) == f"{here}\nit's $HOME|passed on|by-setup|3\n5\n"
    finally:
        del os.environ["ALLOT_TEST_PASSED_ON"]


def test_a_failing_setup_says_so(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The reason tells it from a failure of the task."""
    with run(
        five_nodes, tmp_path, lambda _: "echo never", nnodes=1, setup="ls /no/such/env"
    ) as cluster:
        task = cluster.wait(30, progress=False).tasks[0]
        assert "never" not in cluster.output(0)
    assert (task.state, task.reason) == (TaskState.FAILED, "setup failed")
    assert task.exit_code == 2


def test_slurms_variables_can_be_had(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``export="slurm"``: a program written for ``srun`` finds its numbers."""
    command = "echo $SLURM_PROCID $SLURM_NTASKS $SLURM_NODEID $SLURM_LOCALID $SLURM_JOB_NODELIST"
    with run(
        five_nodes, tmp_path, lambda _: command, nnodes=2, ntasks_per_node=2, export="slurm"
    ) as cluster:
        assert cluster.wait(30, progress=False).ok
        names = ",".join(five_nodes.names[:2])
        assert [cluster.output(i) for i in range(4)] == [
            f"{i} 4 {i // 2} {i % 2} {names}\n" for i in range(4)
        ]


STORE = """
import os, socket, time
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if rank == 0:
    with socket.create_server(address) as server:
        met = [server.accept()[0] for _ in range(size - 1)]
        said = sorted(one.recv(100).decode() for one in met)
        for one in met:
            one.sendall(" ".join(said).encode())
        print("met", *said)
else:
    while True:
        try:
            link = socket.create_connection(address)
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    link.sendall(f"{rank}:{os.environ['LOCAL_RANK']}/{os.environ['LOCAL_WORLD_SIZE']}".encode())
    print("heard", link.recv(100).decode())
"""


def test_two_nodes_meet_as_torch_would(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``export="torch"``: rank 0 listens where the others look, also on the next attempt."""
    program = tmp_path / "store.py"
    program.write_text(STORE)
    command = f"/usr/bin/python3 {program}; echo $MASTER_PORT"
    with run(
        five_nodes, tmp_path / "out", lambda _: command, nnodes=2, ntasks_per_node=2, export="torch"
    ) as cluster:
        assert cluster.wait(60, progress=False).ok
        met, port = cluster.output(0).splitlines()
        assert met == "met 1:1/2 2:0/2 3:1/2"
        assert cluster.rerun(range(4)) == 4
        assert cluster.wait(60, progress=False).ok
        assert cluster.output(0).splitlines()[1] != port
        with pytest.raises(ConfigError, match="all tasks together"):
            cluster.rerun([2])


def test_torch_needs_all_tasks_at_once(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A queue or retries cannot work, and are refused before anything starts."""
    with pytest.raises(ConfigError, match="run at once"):
        run(
            five_nodes,
            tmp_path,
            lambda _: "true",
            nodes=five_nodes.names[:1],
            ntasks=9,
            export="torch",
        )
    with pytest.raises(ConfigError, match="retries"):
        run(five_nodes, tmp_path, lambda _: "true", retries=1, export=["torch"])


NVIDIA_SMI = """#!/bin/bash
case $* in
*query-gpu*) printf '%s, GPU-%s, 0, 1\\n' 0 a 1 b 2 c 3 d ;;
*query-compute-apps*) [ ! -e "$HOME/foreign" ] || echo "GPU-b, $(cat "$HOME/foreign")" ;;
esac
"""


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_gpus_are_handed_out_by_index_and_never_shared(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Each task has its own two; one on which others compute is left out; all are used."""
    nodes = sshd_nodes(1, rc={".bashrc": "PATH=$HOME/bin:$PATH\n", "bin/nvidia-smi": NVIDIA_SMI})
    (nodes.home / "bin/nvidia-smi").chmod(0o755)
    (nodes.home / "foreign").write_text("1")
    command = (
        "date +%s.%N; sleep 0.2; date +%s.%N; "
        "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $ROCR_VISIBLE_DEVICES"
    )

    def factory(ntc: NodeTaskConfig) -> str:
        return f"{command}; echo {','.join(map(str, ntc.gpu_ids))}"

    with run(nodes, tmp_path, factory, ntasks=12, ntasks_per_node=3, gpus_per_task=1) as cluster:
        assert cluster.nodes[0].health is not None
        assert cluster.nodes[0].health.gpus == 4
        assert cluster.wait(60, progress=False).ok
    used: dict[str, list[tuple[float, float]]] = {}
    for proc_id in range(12):
        start, end, shown, ids = (tmp_path / f"{proc_id}.out").read_text().splitlines()
        assert shown == f"{ids} PCI_BUS_ID"
        used.setdefault(ids, []).append((float(start), float(end)))
    assert set(used) == {"0", "2", "3"}
    for times in used.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(times)))


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_a_gpu_job_without_gpus_is_refused(
    five_nodes: SshdNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nodes say that they have none; declared ones are believed."""
    with pytest.raises(AllotError, match="has 0 GPUs, a task takes 1"):
        run(five_nodes, tmp_path, lambda _: "true", gpus_per_task=1)
    lines = [f"{five_nodes.names[0]} gpus=2 slots=2"]
    with run(
        five_nodes, tmp_path, lambda _: "echo $CUDA_VISIBLE_DEVICES", nodes=lines, gpus_per_task=1
    ) as cluster:
        assert cluster.wait(30, progress=False).ok
        assert [cluster.output(i) for i in range(2)] == ["0\n", "1\n"]
    with run(five_nodes, tmp_path, lambda _: "true", nodes=lines) as cluster:
        cluster.wait(30, progress=False)
    assert "gpus_per_task is 0" in capsys.readouterr().err


def test_a_wish_that_is_capped_is_told(
    five_nodes: SshdNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warning says by how much, and why."""
    with run(
        five_nodes,
        tmp_path,
        lambda _: "true",
        nnodes=1,
        ntasks_per_node=500,
        ntasks=3,
        oversubscribe=False,
    ) as cluster:
        cluster.wait(30, progress=False)
    said = capsys.readouterr().err
    assert f"{five_nodes.names[0]} runs {os.cpu_count()} tasks at once instead of 500" in said


def test_a_node_that_gets_busy_is_left_alone_until_it_is_free(
    five_nodes: SshdNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' load is looked at before each placement: BUSY is shown, and nothing new starts."""
    others_work = threading.Event()

    def look(*arguments: Any, **options: Any) -> NodeFacts:
        facts = look_again(*arguments, **options)
        load = 1000.0 if others_work.is_set() else 0.0
        return replace(facts, health=replace(facts.health, foreign_cpus=load))

    monkeypatch.setattr(outfit, "look_again", look)  # nobody else works on this machine at will
    probe = NodeProbe(max_load_per_cpu=100.0, interval=0.001)
    command = f"while [ ! -e {tmp_path}/go-$ALLOT_PROCID ]; do sleep 0.05; done"
    with run(
        five_nodes,
        tmp_path / "out",
        lambda _: command,
        nodes=five_nodes.names[:1],
        ntasks_per_node=1,
        ntasks=3,
        probe=probe,
    ) as cluster:
        all_started(cluster, 1)
        others_work.set()
        (tmp_path / "go-0").touch()
        wait_until(lambda: cluster.nodes[0].state is NodeState.BUSY, 20, lambda: repr(cluster))
        assert "load 1000" in cluster.nodes[0].reason
        shown = io.StringIO()
        cluster.print_progress(shown)
        assert f"{five_nodes.names[0]} BUSY" in shown.getvalue()
        assert states(cluster) == {"COMPLETED": 1, "PENDING": 2}
        others_work.clear()
        (tmp_path / "go-1").touch()
        (tmp_path / "go-2").touch()
        assert cluster.wait(30, progress=False).ok
        assert cluster.nodes[0].state is NodeState.READY


def test_waiting_for_nodes(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """``wait_for_nodes``: a node that comes up in time is used."""
    nodes = sshd_nodes(2)
    nodes.node(1).kill()
    with pytest.raises(AllotError, match="1 of 2 nodes"):
        run(nodes, tmp_path, lambda _: "true", nnodes=2, wait_for_nodes=0.5)
    boot = threading.Timer(1.0, nodes.node(1).restart)
    boot.start()
    try:
        with run(nodes, tmp_path, lambda _: "true", nnodes=2, wait_for_nodes=30) as cluster:
            assert cluster.wait(30, progress=False).ok
    finally:
        boot.join()
