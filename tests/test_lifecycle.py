"""How a task's state changes: only as the table allows, with counts, slots and queue right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from effort import at_each_line, calls_of, memory_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from allot.errors import LifecycleError
from allot.lifecycle import TRANSITIONS, Entry, Ledger, Placement, TaskEvent, new_entries
from allot.model import Progress, TaskState, TaskStatus

_NODES = 3
_SLOTS = 2
_GPUS = 3
OUTPUT = Path("/out/0.out")

AVOIDED = st.one_of(st.none(), st.frozensets(st.integers(0, _NODES - 1)))
GPU_IDS = st.lists(st.integers(0, _GPUS - 1), max_size=2, unique=True).map(tuple)


def everything(ledger: Ledger) -> object:
    """All that can be seen of a ledger."""
    return (
        ledger.tasks,
        [ledger[number] for number in range(len(ledger))],
        {state: ledger.count(state) for state in TaskState},
        ledger.waiting(len(ledger) + 1),
        {avoid: list(line) for avoid, line in ledger.lines().items()},
        [dict(ledger.taken(node_id)) for node_id in range(_NODES + 1)],
        [dict(ledger.held_gpus(node_id)) for node_id in range(_NODES + 1)],
        [ledger.avoids(number) for number in range(len(ledger))],
        [ledger.retried(number) for number in range(len(ledger))],
        ledger.is_final,
    )


_HANDLED_APART = (TaskEvent.PLACED, TaskEvent.REQUEUED, TaskEvent.GIVEN_BACK)


def told(task: TaskStatus, avoid: frozenset[int] | None) -> str:
    """What a task that waits again says of its last attempt."""
    words = [f"attempt {task.attempt} {task.state}"]
    words += [f"on {task.node_name}"] if task.node_name else []
    words += [f"(exit code {task.exit_code})"] if task.exit_code else []
    return " ".join(words) + (", run again" if avoid is None else "")


class LedgerMachine(RuleBasedStateMachine):
    """Any events in any order, against the plainest account of what each task is."""

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        self.ledger = Ledger(new_entries([f"p{number}" for number in range(count)]))
        self.model = [TaskStatus(number, params=f"p{number}") for number in range(count)]
        self.queue = list(range(count))
        self.gpus: dict[int, tuple[int, ...]] = {}
        self.avoided: dict[int, frozenset[int]] = {}
        self.retried = [0] * count

    def attempt(
        self, proc_id: int, allowed: bool, act: Callable[[], None], changes: dict[str, Any]
    ) -> bool:
        """Do it: as the model says where it is allowed, else an error and nothing changed."""
        if allowed:
            act()
            self.model[proc_id] = TaskStatus(**{**vars(self.model[proc_id]), **changes})
            return True
        before = everything(self.ledger)
        with pytest.raises(LifecycleError):
            act()
        assert everything(self.ledger) == before
        return False

    def running_on(self, node_id: int) -> list[TaskStatus]:
        return [
            task
            for task in self.model
            if task.state is TaskState.RUNNING and task.node_id == node_id
        ]

    def holders(self, node_id: int) -> dict[int | None, int]:
        return {task.local_id: task.proc_id for task in self.running_on(node_id)}

    def gpu_holders(self, node_id: int) -> dict[int, int]:
        return {
            gpu: task.proc_id
            for task in self.running_on(node_id)
            for gpu in self.gpus[task.proc_id]
        }

    @rule(
        data=st.data(),
        node_id=st.integers(0, _NODES - 1),
        local_id=st.integers(0, _SLOTS - 1),
        gpu_ids=GPU_IDS,
    )
    def place(
        self, data: st.DataObject, node_id: int, local_id: int, gpu_ids: tuple[int, ...]
    ) -> None:
        proc_id = data.draw(st.sampled_from(range(len(self.model))))
        is_free = local_id not in self.holders(node_id)
        are_free = not set(gpu_ids) & set(self.gpu_holders(node_id))
        placement = Placement(proc_id, node_id, local_id, gpu_ids)
        if self.attempt(
            proc_id,
            is_free and are_free and self.model[proc_id].state is TaskState.PENDING,
            lambda: self.ledger.place(placement, "nd", OUTPUT),
            {
                "state": TaskState.RUNNING,
                "node_name": "nd",
                "node_id": node_id,
                "local_id": local_id,
                "output_file": OUTPUT,
                "reason": "",
            },
        ):
            self.queue.remove(proc_id)
            self.gpus[proc_id] = gpu_ids

    @rule(
        data=st.data(),
        event=st.sampled_from([event for event in TaskEvent if event not in _HANDLED_APART]),
        time=st.floats(0, 9),
    )
    def happen(self, data: st.DataObject, event: TaskEvent, time: float) -> None:
        proc_id = data.draw(st.sampled_from(range(len(self.model))))
        code = data.draw(st.sampled_from([None, 1, 143]))
        ledger, ended = self.ledger, {"ended_at": time, "reason": "why"}
        cases: dict[TaskEvent, tuple[Callable[[], None], dict[str, Any]]] = {
            TaskEvent.STARTED: (lambda: ledger.start(proc_id, time), {"started_at": time}),
            TaskEvent.PROGRESSED: (
                lambda: ledger.progress(proc_id, Progress(1, 2)),
                {"progress": Progress(1, 2)},
            ),
            TaskEvent.SUCCEEDED: (
                lambda: ledger.succeed(proc_id, time, "why"),
                {"state": TaskState.COMPLETED, "exit_code": 0, **ended},
            ),
            TaskEvent.FAILED: (
                lambda: ledger.fail(proc_id, time, code, "why"),
                {"state": TaskState.FAILED, "exit_code": code, **ended},
            ),
            TaskEvent.TIMED_OUT: (
                lambda: ledger.time_out(proc_id, time, code, "why"),
                {"state": TaskState.TIMEOUT, "exit_code": code, **ended},
            ),
            TaskEvent.CANCELLED: (
                lambda: ledger.cancel(proc_id, time, code, "why"),
                {"state": TaskState.CANCELLED, "exit_code": code, **ended},
            ),
            TaskEvent.LOST: (
                lambda: ledger.lose(proc_id, time, "why"),
                {"state": TaskState.NODE_FAIL, "exit_code": None, **ended},
            ),
        }
        allowed = [TaskState.RUNNING]
        if event is TaskEvent.CANCELLED:
            allowed.append(TaskState.PENDING)
        happened = self.attempt(proc_id, self.model[proc_id].state in allowed, *cases[event])
        if happened and proc_id in self.queue:
            self.queue.remove(proc_id)

    @rule(data=st.data(), avoid=AVOIDED)
    def requeue(self, data: st.DataObject, avoid: frozenset[int] | None) -> None:
        proc_id = data.draw(st.sampled_from(range(len(self.model))))
        old = self.model[proc_id]
        fresh = TaskStatus(
            proc_id, attempt=old.attempt + 1, params=f"p{proc_id}", reason=told(old, avoid)
        )
        if self.attempt(
            proc_id,
            self.model[proc_id].state.is_final,
            lambda: self.ledger.requeue(proc_id, avoid),
            vars(fresh),
        ):
            self.queue.append(proc_id)
            self.avoided[proc_id] = avoid or frozenset()
            self.retried[proc_id] = 0 if avoid is None else self.retried[proc_id] + 1

    @rule()
    def be_picked_up(self) -> None:
        """A ledger made of another one's entries goes on like that one."""
        self.ledger = Ledger([self.ledger.entry(i) for i in range(len(self.ledger))])

    @invariant()
    def agrees(self) -> None:
        ledger, model = self.ledger, self.model
        assert ledger.tasks == tuple(model)
        assert len(ledger) == len(model)
        for state in TaskState:
            assert ledger.count(state) == sum(task.state is state for task in model)
        for most in range(len(model) + 2):
            assert ledger.waiting(most) == tuple(self.queue[:most])
        for node_id in range(_NODES + 1):
            assert ledger.taken(node_id) == self.holders(node_id)
            assert ledger.held_gpus(node_id) == self.gpu_holders(node_id)
        for proc_id in range(len(model)):
            assert ledger.avoids(proc_id) == self.avoided.get(proc_id, frozenset())
            assert ledger.retried(proc_id) == self.retried[proc_id]
        assert ledger.is_final == all(task.state.is_final for task in model)

    @invariant()
    def has_its_queue_in_lines(self) -> None:
        lines = {avoid: list(line) for avoid, line in self.ledger.lines().items()}
        assert all(lines.values())
        by_turn = sorted((turn, proc_id) for line in lines.values() for proc_id, turn in line)
        assert [proc_id for _, proc_id in by_turn] == self.queue
        for avoid, line in lines.items():
            assert [turn for _, turn in line] == sorted(turn for _, turn in line)
            assert {self.ledger.avoids(proc_id) for proc_id, _ in line} == {avoid}


def test_the_ledger_keeps_to_the_table() -> None:
    """Any events in any order: what is not allowed raises and changes nothing; all agrees."""
    run_state_machine_as_test(
        LedgerMachine, settings=settings(deadline=None, max_examples=60, stateful_step_count=40)
    )


def test_a_final_state_absorbs_all_but_a_requeue() -> None:
    """What has ended changes only by being queued again, and each possible event has a row."""
    final = {state for state in TaskState if state.is_final}
    assert {(state, TaskEvent.REQUEUED) for state in final} == {
        (state, event) for state, event in TRANSITIONS if state.is_final
    }
    assert {event for _, event in TRANSITIONS} == set(TaskEvent)
    assert set(TRANSITIONS.values()) == set(TaskState)


def test_a_job_without_tasks_is_over() -> None:
    """Nothing waits, nothing runs."""
    ledger = Ledger(new_entries([]))
    assert (len(ledger), ledger.tasks, ledger.waiting(9), ledger.is_final) == (0, (), (), True)


def test_an_illegal_event_is_named() -> None:
    """The error says which task, what it is, and what it cannot be."""
    ledger = Ledger(new_entries([None, None]))
    with pytest.raises(LifecycleError, match="task 1 is PENDING and cannot be succeeded"):
        ledger.succeed(1, 0.0)
    with pytest.raises(LifecycleError, match="task 1 is PENDING and cannot be timed out"):
        ledger.time_out(1, 0.0, 143, "")
    ledger.place(Placement(0, 0, 0, (1,)), "nd01", OUTPUT)
    with pytest.raises(LifecycleError, match="slot 0 of nd01 is taken"):
        ledger.place(Placement(1, 0, 0), "nd01", OUTPUT)
    with pytest.raises(LifecycleError, match="GPU 1 of nd01 is taken"):
        ledger.place(Placement(1, 0, 1, (0, 1)), "nd01", OUTPUT)
    with pytest.raises(LifecycleError, match="task 0 is RUNNING and cannot be requeued"):
        ledger.requeue(0)


def test_a_task_that_runs_nowhere_is_refused() -> None:
    """What an earlier client left must say where its running tasks are."""
    entry = Entry(TaskStatus(0, TaskState.RUNNING))
    with pytest.raises(LifecycleError, match="task 0 runs, but nobody knows where"):
        Ledger([entry])


def test_a_retry_begins_anew_behind_the_others() -> None:
    """Nothing of the first attempt is left but the nodes to avoid, and a rerun forgets these."""
    ledger = Ledger(new_entries([{"lr": 0.1}, None]))
    ledger.place(Placement(0, 5, 0, (2, 3)), "nd05", OUTPUT)
    ledger.start(0, 1.0)
    ledger.progress(0, Progress(1, 2))
    ledger.fail(0, 2.0, 3, "out of memory")
    ledger.requeue(0, frozenset({5}))
    why = "attempt 0 FAILED on nd05 (exit code 3)"
    assert ledger[0] == TaskStatus(0, attempt=1, params={"lr": 0.1}, reason=why)
    assert ledger.waiting(9) == (1, 0)
    assert (ledger.avoids(0), ledger.retried(0)) == (frozenset({5}), 1)
    ledger.place(Placement(0, 6, 0, (2,)), "nd06", OUTPUT)
    ledger.lose(0, 3.0, "the node was rebooted")
    assert ledger[0].state is TaskState.NODE_FAIL
    ledger.requeue(0)
    assert ledger[0].attempt == 2
    assert (ledger.avoids(0), ledger.retried(0)) == (frozenset(), 0)


def test_a_job_is_not_over_between_two_states() -> None:
    """Whoever looks from another thread in the midst of a change sees a job that goes on."""
    ledger = Ledger(new_entries([None]))
    seen = []

    def live() -> None:
        ledger.place(Placement(0, 0, 0), "nd01", None)
        ledger.start(0, 1.0)

    at_each_line(live, lambda: seen.append(ledger.is_final))
    assert len(seen) > 10
    assert not any(seen)


def test_nobody_else_can_change_the_ledger() -> None:
    """What the ledger shows is for reading only."""
    ledger = Ledger(new_entries([None]))
    ledger.place(Placement(0, 0, 0, (0,)), "nd01", None)
    taken: Any = ledger.taken(0)
    with pytest.raises(TypeError):
        taken[1] = 1
    held: Any = ledger.held_gpus(0)
    with pytest.raises(TypeError):
        held[1] = 1
    with pytest.raises(TypeError):
        TRANSITIONS[TaskState.PENDING, TaskEvent.FAILED] = TaskState.FAILED  # type: ignore[index]


def live_through(ledger: Ledger) -> None:
    """One of each that a busy job does, at the front, in the middle and at the end."""
    last = len(ledger) - 1
    for proc_id in (0, last // 2, last):
        ledger.place(Placement(proc_id, 0, proc_id, (proc_id,)), "nd", None)
        ledger.start(proc_id, 1.0)
        ledger.progress(proc_id, Progress(1, 2))
        ledger.fail(proc_id, 2.0, 1, "")
        ledger.requeue(proc_id, frozenset({0}))
    ledger.waiting(5)
    for proc_id in (1, last // 2 + 1, last):
        ledger.cancel(proc_id, 3.0)
        ledger.requeue(proc_id)
    for proc_id in ledger.waiting(3):
        ledger.place(Placement(proc_id, 1, proc_id), "nd", None)
        ledger.lose(proc_id, 4.0, "")
    assert not ledger.is_final


def test_nothing_costs_more_with_more_tasks() -> None:
    """Calls made and memory touched are the same with 10 tasks and with 100,000."""
    calls, peaks = [], []
    for count in (10, 100_000):
        first, second = Ledger(new_entries([None] * count)), Ledger(new_entries([None] * count))
        calls.append(calls_of(partial(live_through, first)))
        peaks.append(memory_of(partial(live_through, second)))
    assert calls[0] == calls[1] > 100
    assert max(peaks) < 50_000


def test_a_task_that_was_never_sent_waits_again_as_the_same_attempt() -> None:
    """Its slot and GPUs are free, and it may be placed elsewhere; one that waits cannot be."""
    ledger = Ledger(new_entries([None]))
    ledger.place(Placement(0, 0, 0, (1,)), "nd01", Path("/out/0.out"))
    ledger.give_back(0)
    assert (ledger[0].state, ledger[0].attempt, ledger[0].node_name) == (TaskState.PENDING, 0, None)
    assert not ledger.taken(0)
    assert not ledger.held_gpus(0)
    assert ledger.waiting(5) == (0,)
    with pytest.raises(LifecycleError, match="given back"):
        ledger.give_back(0)
    ledger.place(Placement(0, 1, 0), "nd02", None)
    assert ledger[0].node_name == "nd02"
