"""How a task's state changes: the one table, and the ledger that keeps to it.

Rules: pure; a state changes nowhere else. An event that a task's state does not allow raises
:class:`~allot.errors.LifecycleError` and changes nothing; a final state absorbs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from allot.errors import LifecycleError
from allot.model import Params, Progress, TaskState, TaskStatus


class TaskEvent(Enum):
    """What can happen to a task."""

    PLACED = "placed"
    STARTED = "started"
    PROGRESSED = "progressed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


TRANSITIONS: Mapping[tuple[TaskState, TaskEvent], TaskState] = MappingProxyType(
    {
        (TaskState.PENDING, TaskEvent.PLACED): TaskState.RUNNING,
        (TaskState.RUNNING, TaskEvent.STARTED): TaskState.RUNNING,
        (TaskState.RUNNING, TaskEvent.PROGRESSED): TaskState.RUNNING,
        (TaskState.RUNNING, TaskEvent.SUCCEEDED): TaskState.COMPLETED,
        (TaskState.RUNNING, TaskEvent.FAILED): TaskState.FAILED,
    }
)


@dataclass(frozen=True)
class Placement:
    """A task's place: a slot of a node."""

    proc_id: int
    node_id: int
    local_id: int


class Ledger:
    """Every task of a job, which of them wait, and which slots are taken.

    Each change costs the same however many tasks there are.
    """

    def __init__(self, params: Sequence[Params]) -> None:
        """Begin with one PENDING task for each entry of ``params``."""
        self._tasks = [TaskStatus(proc_id, params=entry) for proc_id, entry in enumerate(params)]
        self._queue = deque(range(len(params)))
        self._taken: dict[int, dict[int, int]] = {}
        self._places: dict[int, Placement] = {}
        self._counts = dict.fromkeys(TaskState, 0)
        self._counts[TaskState.PENDING] = len(params)

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """Every task as it stands, by ``proc_id``."""
        return tuple(self._tasks)

    @property
    def is_final(self) -> bool:
        """True when no task waits or runs."""
        return not self._counts[TaskState.PENDING] and not self._counts[TaskState.RUNNING]

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, proc_id: int) -> TaskStatus:
        return self._tasks[proc_id]

    def count(self, state: TaskState) -> int:
        """Number of tasks in a state."""
        return self._counts[state]

    def waiting(self, most: int) -> tuple[int, ...]:
        """The first tasks in the queue, at most ``most``."""
        return tuple(islice(self._queue, most))

    def taken(self, node_id: int) -> Mapping[int, int]:
        """The slots in use on a node: ``local_id`` to ``proc_id``."""
        return MappingProxyType(self._taken.get(node_id, {}))

    def place(self, placement: Placement, node_name: str, output_file: Path | None) -> None:
        """Give a PENDING task its slot.

        Raises:
            LifecycleError: The task does not wait, or the slot is taken.
        """
        slots = self._taken.setdefault(placement.node_id, {})
        if placement.local_id in slots:
            raise LifecycleError(f"slot {placement.local_id} of {node_name} is taken")
        self._apply(
            placement.proc_id,
            TaskEvent.PLACED,
            node_name=node_name,
            node_id=placement.node_id,
            local_id=placement.local_id,
            output_file=output_file,
        )
        slots[placement.local_id] = placement.proc_id
        self._places[placement.proc_id] = placement
        self._queue.remove(placement.proc_id)

    def start(self, proc_id: int, time: float) -> None:
        """Note that a task's process runs since ``time`` (Unix seconds)."""
        self._apply(proc_id, TaskEvent.STARTED, started_at=time)

    def progress(self, proc_id: int, progress: Progress) -> None:
        """Note how far a task is."""
        self._apply(proc_id, TaskEvent.PROGRESSED, progress=progress)

    def succeed(self, proc_id: int, time: float, reason: str = "") -> None:
        """End a task whose exit code was 0."""
        self._end(proc_id, TaskEvent.SUCCEEDED, exit_code=0, ended_at=time, reason=reason)

    def fail(self, proc_id: int, time: float, exit_code: int | None, reason: str) -> None:
        """End a task that did not succeed, with its exit code where it has one."""
        self._end(proc_id, TaskEvent.FAILED, exit_code=exit_code, ended_at=time, reason=reason)

    def _end(self, proc_id: int, event: TaskEvent, **changes: Any) -> None:
        self._apply(proc_id, event, **changes)
        place = self._places.pop(proc_id)
        del self._taken[place.node_id][place.local_id]

    def _apply(self, proc_id: int, event: TaskEvent, **changes: Any) -> None:
        task = self._tasks[proc_id]
        state = TRANSITIONS.get((task.state, event))
        if state is None:
            raise LifecycleError(f"task {proc_id} is {task.state} and cannot be {event.value}")
        self._counts[task.state] -= 1
        self._counts[state] += 1
        self._tasks[proc_id] = replace(task, state=state, **changes)
