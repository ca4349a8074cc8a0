"""How a task's state changes: only as the table allows, with counts and slots always right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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
from allot.lifecycle import TRANSITIONS, Ledger, Placement, TaskEvent
from allot.model import Progress, TaskState, TaskStatus

_NODES = 3
_SLOTS = 2
OUTPUT = Path("/out/0.out")


def everything(ledger: Ledger) -> object:
    """All that can be seen of a ledger."""
    return (
        ledger.tasks,
        [ledger[number] for number in range(len(ledger))],
        {state: ledger.count(state) for state in TaskState},
        ledger.waiting(len(ledger) + 1),
        [dict(ledger.taken(node_id)) for node_id in range(_NODES + 1)],
        ledger.is_final,
    )


class LedgerMachine(RuleBasedStateMachine):
    """Any events in any order, against the plainest account of what each task is."""

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        self.ledger = Ledger([f"p{number}" for number in range(count)])
        self.model = [TaskStatus(number, params=f"p{number}") for number in range(count)]

    def attempt(
        self, proc_id: int, allowed: bool, act: Callable[[], None], changes: dict[str, Any]
    ) -> None:
        """Do it: as the model says where it is allowed, else an error and nothing changed."""
        if allowed:
            act()
            self.model[proc_id] = TaskStatus(**{**vars(self.model[proc_id]), **changes})
            return
        before = everything(self.ledger)
        with pytest.raises(LifecycleError):
            act()
        assert everything(self.ledger) == before

    def holders(self, node_id: int) -> dict[int, int]:
        return {
            task.local_id: task.proc_id
            for task in self.model
            if task.state is TaskState.RUNNING
            and task.node_id == node_id
            and task.local_id is not None
        }

    @rule(data=st.data(), node_id=st.integers(0, _NODES - 1), local_id=st.integers(0, _SLOTS - 1))
    def place(self, data: st.DataObject, node_id: int, local_id: int) -> None:
        proc_id = data.draw(st.sampled_from(range(len(self.model))))
        is_free = local_id not in self.holders(node_id)
        self.attempt(
            proc_id,
            is_free and self.model[proc_id].state is TaskState.PENDING,
            lambda: self.ledger.place(Placement(proc_id, node_id, local_id), "nd", OUTPUT),
            {
                "state": TaskState.RUNNING,
                "node_name": "nd",
                "node_id": node_id,
                "local_id": local_id,
                "output_file": OUTPUT,
            },
        )

    @rule(data=st.data(), event=st.sampled_from(list(TaskEvent)[1:]), time=st.floats(0, 9))
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
        }
        self.attempt(proc_id, self.model[proc_id].state is TaskState.RUNNING, *cases[event])

    @invariant()
    def agrees(self) -> None:
        ledger, model = self.ledger, self.model
        assert ledger.tasks == tuple(model)
        assert len(ledger) == len(model)
        for state in TaskState:
            assert ledger.count(state) == sum(task.state is state for task in model)
        waiting = tuple(task.proc_id for task in model if task.state is TaskState.PENDING)
        for most in range(len(model) + 2):
            assert ledger.waiting(most) == waiting[:most]
        for node_id in range(_NODES + 1):
            assert ledger.taken(node_id) == self.holders(node_id)
        assert ledger.is_final == all(task.state.is_final for task in model)


def test_the_ledger_keeps_to_the_table() -> None:
    """Any events in any order: what is not allowed raises and changes nothing; counts agree."""
    run_state_machine_as_test(
        LedgerMachine, settings=settings(deadline=None, max_examples=40, stateful_step_count=30)
    )


def test_a_final_state_absorbs_nothing() -> None:
    """No event changes a task that has ended, and each event that is possible has a row."""
    assert not [state for state, _ in TRANSITIONS if state.is_final]
    assert {event for _, event in TRANSITIONS} == set(TaskEvent)


def test_a_job_without_tasks_is_over() -> None:
    """Nothing waits, nothing runs."""
    ledger = Ledger([])
    assert (len(ledger), ledger.tasks, ledger.waiting(9), ledger.is_final) == (0, (), (), True)


def test_an_illegal_event_is_named() -> None:
    """The error says which task, what it is, and what it cannot be."""
    ledger = Ledger([None, None])
    with pytest.raises(LifecycleError, match="task 1 is PENDING and cannot be succeeded"):
        ledger.succeed(1, 0.0)
    ledger.place(Placement(0, 0, 0), "nd01", OUTPUT)
    with pytest.raises(LifecycleError, match="slot 0 of nd01 is taken"):
        ledger.place(Placement(1, 0, 0), "nd01", OUTPUT)


def test_nobody_else_can_change_the_ledger() -> None:
    """What the ledger shows is for reading only."""
    ledger = Ledger([None])
    ledger.place(Placement(0, 0, 0), "nd01", None)
    taken: Any = ledger.taken(0)
    with pytest.raises(TypeError):
        taken[1] = 1
    with pytest.raises(TypeError):
        TRANSITIONS[TaskState.PENDING, TaskEvent.FAILED] = TaskState.FAILED  # type: ignore[index]
