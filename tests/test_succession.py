"""Who drives a job: superseded clients, failed takeovers, orders that reach whom they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clients import client
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run
from test_load import begun, marked
from test_queue import processes_of

from allot import AllotError, Cluster, NodeState, NodeTaskConfig, Task, TaskState, store
from allot.lease import Lease, claim, newest_generation
from allot.orders import Order, OrderBook

S = 60.0


def supersede(cluster: Cluster) -> Lease:
    """Win the job, as another client does; whoever had it finds out by itself."""
    lease = claim(cluster.state_file, cluster.job_id, newest_generation(cluster.state_file))
    assert lease is not None
    return lease


def test_a_superseded_client_notices_with_nothing_to_write(
    five_nodes: SshdNodes,
    tmp_path: Path,
    log: Path,
    quick_hearts: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It watches; and once the other has gone too, it drives the job again."""
    with run(five_nodes, tmp_path / "out", lambda _: marked(log), nnodes=1, ntasks=2) as cluster:
        other = supersede(cluster)
        wait_until(lambda: "this client only watches now" in capfd.readouterr().err, S, "it drives")
        other.release()
        wait_until(lambda: "is gone: this one does now" in capfd.readouterr().err, S, "it watches")
        (log / "go-on").touch()
        summary = cluster.wait(S, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 1]
    assert set(begun(log).values()) == {1}


def test_a_superseded_client_carries_out_no_order(
    five_nodes: SshdNodes, tmp_path: Path, log: Path
) -> None:
    """Whoever gives it one hears why; no task is touched."""
    with run(five_nodes, tmp_path / "out", lambda _: marked(log), nnodes=1, ntasks=1) as cluster:
        wait_until(lambda: begun(log) == {"0.0": 1}, S, "it does not run")
        other = supersede(cluster)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("allot.lease.LEASE_S", 0.0)
            with pytest.raises(AllotError, match="is driven by another client now"):
                cluster.cancel(grace=0)
        other.release()
        (log / "go-on").touch()
        summary = cluster.wait(S, progress=False)
    assert summary.ok
    assert begun(log) == {"0.0": 1}


def test_one_who_cannot_make_tasks_gives_way_to_one_who_can(
    five_nodes: SshdNodes, tmp_path: Path, log: Path
) -> None:
    """A client that only looks, without a factory, does not hold the queue up."""
    out = tmp_path / "out"
    with run(five_nodes, out, lambda _: marked(log), nnodes=1, ntasks_per_node=1, ntasks=3):
        pass
    (log / "go-on").touch()
    with Cluster.load(out) as looks:
        with Cluster.load(out, lambda _: marked(log)) as makes:
            summary = makes.wait(S, progress=False)
        assert [task.exit_code for task in summary.tasks] == [0, 1, 2]
        wait_until(lambda: all(task.state.is_final for task in looks.tasks), S, str(looks.tasks))
    assert begun(log) == {f"{proc_id}.0": 1 for proc_id in range(3)}


def test_a_takeover_that_fails_is_tried_again(
    five_nodes: SshdNodes, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full at that moment: the watcher goes on watching, and drives in the end."""
    monkeypatch.setattr("allot.watcher._TRY_AGAIN_S", 0.2)
    faults = iter([OSError(28, "No space left on device")] * 2)
    real = store.write_whole

    def full_twice(*arguments: Any) -> None:
        fault = next(faults, None)
        if fault is not None:
            raise fault
        real(*arguments)

    out = tmp_path / "out"
    script = "cluster = begin(ntasks=2, nnodes=1, ntasks_per_node=1); say('up'); time.sleep(600)"
    with client(five_nodes, out, marked(log), script) as first:
        first.hear("up")
        with Cluster.load(out, lambda _: marked(log)) as second:
            monkeypatch.setattr("allot.store.write_whole", full_twice)
            first.kill()
            (log / "go-on").touch()
            summary = second.wait(S, progress=False)
    assert next(faults, None) is None
    assert [task.exit_code for task in summary.tasks] == [0, 1]
    assert begun(log) == {"0.0": 1, "1.0": 1}


def test_orders_for_an_earlier_job_are_not_followed(
    five_nodes: SshdNodes, tmp_path: Path, log: Path
) -> None:
    """One that was left lying about is answered as such; rubbish is too; neither ends the job."""
    out = tmp_path / "out"
    with run(five_nodes, out, lambda _: marked(log), nnodes=1, ntasks=1) as cluster:
        book = OrderBook(cluster.state_file, "20260101-000000-0123abcd")
        key = book.give(Order("cancel"))
        rubbish = out / ".allot/test job.0-1-2.order"
        rubbish.write_text("rm -rf /")
        wait_until(lambda: not book.waits(key) and not rubbish.exists(), S, "nobody looks")
        answer = book.take_answer(key)
        assert isinstance(answer, AllotError)
        assert "was meant for job 20260101-000000-0123abcd" in str(answer)
        (log / "go-on").touch()
        assert cluster.wait(S, progress=False).ok


def test_an_order_is_followed_once_though_its_answer_cannot_be_written(
    five_nodes: SshdNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is written when that works again."""
    with run(five_nodes, tmp_path, lambda _: "echo ran >> log", nnodes=1, ntasks=1) as cluster:
        cluster.wait(S, progress=False)
        faults = iter(range(3))
        real = OrderBook.answer

        def answer(self: OrderBook, *arguments: Any) -> None:
            if next(faults, None) is not None:
                raise OSError(122, "Disk quota exceeded")
            real(self, *arguments)

        monkeypatch.setattr(OrderBook, "answer", answer)
        book = OrderBook(cluster.state_file, cluster.job_id)
        key = book.give(Order("rerun", (0,)))
        wait_until(lambda: not book.waits(key), S, "there is no answer")
        assert book.take_answer(key) == 1
        assert cluster.wait(S, progress=False).tasks[0].attempt == 1


def test_a_job_that_was_put_away_can_only_be_looked_at(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """What it would write belongs to the later job now."""
    for number in range(2):
        command = f"echo {number}"
        with run(five_nodes, tmp_path, lambda _: command, nnodes=1) as cluster:  # noqa: B023
            cluster.wait(S, progress=False)
    (archived,) = (tmp_path / ".allot").glob("*/test job.json")
    with Cluster.load(archived, lambda _: "echo 3") as old:
        assert old.output(0) == "0\n"
        with pytest.raises(AllotError, match="was put away when a later job took its name"):
            old.rerun([0])
    assert (tmp_path / "0.out").read_text() == "1\n"


def test_spares_do_not_become_more_with_each_client(
    sshd_nodes: NodesFactory, tmp_path: Path, log: Path
) -> None:
    """One steps in for the node that is lost, whoever drives the job."""
    nodes = sshd_nodes(4)
    out = tmp_path / "out"
    with run(nodes, out, lambda _: marked(log), nnodes=1, ntasks_per_node=1, ntasks=3) as cluster:
        wait_until(lambda: len(begun(log)) == 1, S, "it does not run")
        nodes.node(0).cut()
        wait_until(lambda: len(begun(log)) == 2, S, lambda: str(cluster.nodes))
    for _ in range(2):
        with Cluster.load(out, lambda _: marked(log)) as cluster:
            wait_until(
                lambda: cluster.nodes[0].state is NodeState.UNREACHABLE,
                S,
                lambda: str(cluster.nodes),
            )
            wait_until(
                lambda: cluster.tasks[1].started_at is not None, S, lambda: str(cluster.tasks)
            )
    assert len(json.loads((out / ".allot/test job.json").read_text())["nodes"]) == 2
    nodes.node(0).restart()
    (log / "go-on").touch()
    with Cluster.load(out, lambda _: marked(log)) as cluster:
        cluster.wait(S, progress=False)
    assert set(begun(log).values()) == {1}


def test_what_a_killed_client_left_on_the_nodes_is_removed_by_the_next(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """The job was over, and on disk, when its client died: ``load`` and ``close`` tidy up."""
    nodes = sshd_nodes(1)
    out = tmp_path / "out"
    script = "cluster = begin(); cluster.wait(progress=False); say('over'); time.sleep(600)"
    with client(nodes, out, "true", script) as first:
        first.hear("over")
        first.kill()
    assert list((nodes.home / ".allot").iterdir())
    with Cluster.load(out) as cluster:
        assert cluster.wait(S, progress=False).ok
    assert not list((nodes.home / ".allot").iterdir())


def test_a_task_without_an_output_file_fails_for_its_own_reason(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Nobody says that ``/dev`` is full."""
    nodes = sshd_nodes(1, own_uid=True)

    def factory(ntc: NodeTaskConfig) -> Task:
        return Task("exit 3", "/dev/null", ntc)

    with run(nodes, tmp_path, factory) as cluster:
        task = cluster.wait(S, progress=False).tasks[0]
    assert (task.state, task.exit_code, task.reason) == (TaskState.FAILED, 3, "")


def test_a_lease_that_a_crash_left_is_waited_out(
    five_nodes: SshdNodes, tmp_path: Path, quick_hearts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine went down between the lease and the state: a new job begins after a while."""
    state_file = tmp_path / ".allot/test job.json"
    with monkeypatch.context() as patch:
        patch.setattr("allot.lease._boot_id", lambda: "another boot")
        lease = claim(state_file, "20260101-000000-0123abcd", 0)
    assert lease is not None
    lease._over.set()  # it beats no more, and does not say so
    with run(five_nodes, tmp_path, lambda _: "true", nnodes=1) as cluster:
        assert cluster.wait(S, progress=False).ok
    assert not processes_of(cluster.job_id)
