"""How a task's state changes: the one table, and the ledger that keeps to it.

Rules: pure; a state changes nowhere else. An event that a task's state does not allow raises
:class:`~allot.errors.LifecycleError` and changes nothing; a final state absorbs nothing, but may
be queued once more on request. No operation costs more because there are more tasks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from heapq import merge
from itertools import count, islice
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
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    LOST = "lost"
    GIVEN_BACK = "given back"
    REQUEUED = "requeued"


TRANSITIONS: Mapping[tuple[TaskState, TaskEvent], TaskState] = MappingProxyType(
    {
        (TaskState.PENDING, TaskEvent.PLACED): TaskState.RUNNING,
        (TaskState.PENDING, TaskEvent.CANCELLED): TaskState.CANCELLED,
        (TaskState.RUNNING, TaskEvent.STARTED): TaskState.RUNNING,
        (TaskState.RUNNING, TaskEvent.GIVEN_BACK): TaskState.PENDING,
        (TaskState.RUNNING, TaskEvent.PROGRESSED): TaskState.RUNNING,
        (TaskState.RUNNING, TaskEvent.SUCCEEDED): TaskState.COMPLETED,
        (TaskState.RUNNING, TaskEvent.FAILED): TaskState.FAILED,
        (TaskState.RUNNING, TaskEvent.TIMED_OUT): TaskState.TIMEOUT,
        (TaskState.RUNNING, TaskEvent.CANCELLED): TaskState.CANCELLED,
        (TaskState.RUNNING, TaskEvent.LOST): TaskState.NODE_FAIL,
        (TaskState.COMPLETED, TaskEvent.REQUEUED): TaskState.PENDING,
        (TaskState.FAILED, TaskEvent.REQUEUED): TaskState.PENDING,
        (TaskState.TIMEOUT, TaskEvent.REQUEUED): TaskState.PENDING,
        (TaskState.CANCELLED, TaskEvent.REQUEUED): TaskState.PENDING,
        (TaskState.NODE_FAIL, TaskEvent.REQUEUED): TaskState.PENDING,
    }
)


@dataclass(frozen=True)
class Placement:
    """A task's place: a slot of a node, and the GPUs it holds there."""

    proc_id: int
    node_id: int
    local_id: int
    gpu_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """All that a ledger knows of one task.

    Attributes:
        status: Where it stands.
        turn: Its place in the queue, while it waits: the lowest goes first.
        gpu_ids: The GPUs it holds, while it runs.
        avoids: The nodes on which it failed and to which it is not to go again.
        retried: How often it was retried since the user asked for it.
    """

    status: TaskStatus
    turn: int = 0
    gpu_ids: tuple[int, ...] = ()
    avoids: frozenset[int] = frozenset()
    retried: int = 0


def new_entries(params: Sequence[Params]) -> list[Entry]:
    """One PENDING task for each entry of ``params``."""
    return [
        Entry(TaskStatus(proc_id, params=entry), turn=proc_id)
        for proc_id, entry in enumerate(params)
    ]


class Ledger:
    """Every task of a job, which of them wait, and which slots and GPUs are taken."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Begin with tasks as they stand.

        Args:
            entries: One for each task, by ``proc_id``.
        """
        self._tasks = [entry.status for entry in entries]
        self._avoids = {e.status.proc_id: e.avoids for e in entries if e.avoids}
        self._retried = {e.status.proc_id: e.retried for e in entries if e.retried}
        self._queue = _Queue(
            (entry.turn, entry.status.proc_id, entry.avoids)
            for entry in entries
            if entry.status.state is TaskState.PENDING
        )
        self._places: dict[int, Placement] = {}
        self._taken: dict[int, dict[int, int]] = {}
        self._held: dict[int, dict[int, int]] = {}
        self._counts = Counter(entry.status.state for entry in entries)
        # One number of its own: other threads ask for is_final in the middle of a change.
        self._unfinished = sum(not entry.status.state.is_final for entry in entries)
        self._changed: dict[int, None] = {}
        self._progressed: dict[int, None] = {}
        self._vacated: set[int] = set()
        for entry in entries:
            task = entry.status
            if task.state is TaskState.RUNNING:
                if task.node_id is None or task.local_id is None:
                    raise LifecycleError(f"task {task.proc_id} runs, but nobody knows where")
                place = Placement(task.proc_id, task.node_id, task.local_id, entry.gpu_ids)
                self._take(place, task.node_name or "")

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """Every task as it stands, by ``proc_id``."""
        return tuple(self._tasks)

    @property
    def is_final(self) -> bool:
        """True when no task waits or runs."""
        return not self._unfinished

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, proc_id: int) -> TaskStatus:
        return self._tasks[proc_id]

    def count(self, state: TaskState) -> int:
        """Number of tasks in a state."""
        return self._counts[state]

    def entry(self, proc_id: int) -> Entry:
        """All that is known of a task."""
        task, place = self._tasks[proc_id], self._places.get(proc_id)
        avoids = self.avoids(proc_id)
        turn = self._queue.turn(proc_id, avoids) if task.state is TaskState.PENDING else 0
        gpu_ids = () if place is None else place.gpu_ids
        return Entry(task, turn, gpu_ids, avoids, self.retried(proc_id))

    def take_changed(self) -> list[int]:
        """The tasks that changed, by more than their progress, since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def take_progressed(self) -> list[int]:
        """The running tasks that told a progress since the last call."""
        progressed, self._progressed = self._progressed, {}
        return [i for i in progressed if self._tasks[i].state is TaskState.RUNNING]

    def waiting(self, most: int) -> tuple[int, ...]:
        """The first tasks in the queue, at most ``most``."""
        return tuple(islice(self._queue.in_order(), most))

    def lines(self) -> dict[frozenset[int], Iterable[tuple[int, int]]]:
        """The queue as lines of tasks that avoid the same nodes, by these nodes.

        No line is empty. Each has its tasks in order, as ``(proc_id, turn)``; between lines the
        lower turn goes first.
        """
        return {avoid: line.items() for avoid, line in self._queue.lines.items()}

    def taken(self, node_id: int) -> Mapping[int, int]:
        """The slots in use on a node: ``local_id`` to ``proc_id``."""
        return MappingProxyType(self._taken.get(node_id, {}))

    def held_gpus(self, node_id: int) -> Mapping[int, int]:
        """The GPUs in use on a node: index to ``proc_id``."""
        return MappingProxyType(self._held.get(node_id, {}))

    def take_vacated(self) -> set[int]:
        """The nodes on which a slot became free since the last call."""
        vacated, self._vacated = self._vacated, set()
        return vacated

    def avoids(self, proc_id: int) -> frozenset[int]:
        """The nodes on which a task failed and to which it is not to go again."""
        return self._avoids.get(proc_id, frozenset())

    def retried(self, proc_id: int) -> int:
        """How often a task was retried since the user asked for it."""
        return self._retried.get(proc_id, 0)

    def place(self, placement: Placement, node_name: str, output_file: Path | None) -> None:
        """Give a PENDING task its slot and its GPUs.

        Raises:
            LifecycleError: The task does not wait, or the slot or a GPU is taken.
        """
        proc_id = placement.proc_id
        state = self._state_after(self._tasks[proc_id], TaskEvent.PLACED)
        self._take(placement, node_name)
        self._queue.remove(proc_id, self.avoids(proc_id))
        self._replace(
            replace(
                self._tasks[proc_id],
                state=state,
                node_name=node_name,
                node_id=placement.node_id,
                local_id=placement.local_id,
                output_file=output_file,
                reason="",
            )
        )

    def _take(self, placement: Placement, node_name: str) -> None:
        slots = self._taken.setdefault(placement.node_id, {})
        if placement.local_id in slots:
            raise LifecycleError(f"slot {placement.local_id} of {node_name} is taken")
        gpus = self._held.setdefault(placement.node_id, {})
        for gpu in placement.gpu_ids:
            if gpu in gpus:
                raise LifecycleError(f"GPU {gpu} of {node_name} is taken")
        self._places[placement.proc_id] = placement
        slots[placement.local_id] = placement.proc_id
        gpus.update(dict.fromkeys(placement.gpu_ids, placement.proc_id))

    def start(self, proc_id: int, time: float) -> None:
        """Note that a task's process runs since ``time`` (Unix seconds)."""
        self._apply(proc_id, TaskEvent.STARTED, started_at=time)

    def progress(self, proc_id: int, progress: Progress) -> None:
        """Note how far a task is."""
        task = self._tasks[proc_id]
        self._state_after(task, TaskEvent.PROGRESSED)
        self._tasks[proc_id] = replace(task, progress=progress)
        self._progressed[proc_id] = None

    def succeed(self, proc_id: int, time: float, reason: str = "") -> None:
        """End a task whose exit code was 0."""
        self._end(proc_id, TaskEvent.SUCCEEDED, time, 0, reason)

    def fail(self, proc_id: int, time: float, exit_code: int | None, reason: str) -> None:
        """End a task that did not succeed, with its exit code where it has one."""
        self._end(proc_id, TaskEvent.FAILED, time, exit_code, reason)

    def time_out(self, proc_id: int, time: float, exit_code: int | None, reason: str) -> None:
        """End a task that was killed for its time limit."""
        self._end(proc_id, TaskEvent.TIMED_OUT, time, exit_code, reason)

    def cancel(
        self, proc_id: int, time: float, exit_code: int | None = None, reason: str = ""
    ) -> None:
        """End a task that was cancelled, whether it ran or waited."""
        self._end(proc_id, TaskEvent.CANCELLED, time, exit_code, reason)

    def lose(self, proc_id: int, time: float, reason: str) -> None:
        """End a task that went down with its node."""
        self._end(proc_id, TaskEvent.LOST, time, None, reason)

    def requeue(self, proc_id: int, avoid: frozenset[int] | None = None) -> None:
        """Put a task that has ended at the end of the queue, as its next attempt.

        Args:
            proc_id: The task.
            avoid: For a retry: the nodes it is not to go to where there are others. None: the
                user asked for the task, what it met before is forgotten.
        """
        task = self._tasks[proc_id]
        state = self._state_after(task, TaskEvent.REQUEUED)
        if avoid is None:
            self._retried.pop(proc_id, None)
        else:
            self._retried[proc_id] = self.retried(proc_id) + 1
        if avoid:
            self._avoids[proc_id] = avoid
        else:
            self._avoids.pop(proc_id, None)
        self._queue.append(proc_id, self.avoids(proc_id))
        why = _describe_attempt(task) + (", run again" if avoid is None else "")
        self._replace(
            TaskStatus(proc_id, state, attempt=task.attempt + 1, reason=why, params=task.params)
        )

    def give_back(self, proc_id: int) -> None:
        """Queue a task again that was placed but certainly never sent: the same attempt."""
        task = self._tasks[proc_id]
        state = self._state_after(task, TaskEvent.GIVEN_BACK)
        self._leave(proc_id)
        self._queue.append(proc_id, self.avoids(proc_id))
        self._replace(TaskStatus(proc_id, state, attempt=task.attempt, params=task.params))

    def _end(
        self, proc_id: int, event: TaskEvent, time: float, exit_code: int | None, reason: str
    ) -> None:
        self._apply(proc_id, event, exit_code=exit_code, ended_at=time, reason=reason)
        if proc_id in self._places:
            self._leave(proc_id)
        else:
            self._queue.remove(proc_id, self.avoids(proc_id))

    def _leave(self, proc_id: int) -> None:
        place = self._places.pop(proc_id)
        del self._taken[place.node_id][place.local_id]
        self._vacated.add(place.node_id)
        for gpu in place.gpu_ids:
            del self._held[place.node_id][gpu]

    def _apply(self, proc_id: int, event: TaskEvent, **changes: Any) -> None:
        task = self._tasks[proc_id]
        self._replace(replace(task, state=self._state_after(task, event), **changes))

    def _state_after(self, task: TaskStatus, event: TaskEvent) -> TaskState:
        state = TRANSITIONS.get((task.state, event))
        if state is None:
            raise LifecycleError(f"task {task.proc_id} is {task.state} and cannot be {event.value}")
        return state

    def _replace(self, task: TaskStatus) -> None:
        self._changed[task.proc_id] = None
        before = self._tasks[task.proc_id].state
        self._tasks[task.proc_id] = task
        self._counts[before] -= 1
        self._counts[task.state] += 1
        self._unfinished += before.is_final - task.state.is_final


def _describe_attempt(task: TaskStatus) -> str:
    place = f" on {task.node_name}" if task.node_name is not None else ""
    code = f" (exit code {task.exit_code})" if task.exit_code else ""
    return f"attempt {task.attempt} {task.state}{place}{code}"


class _Queue:
    """The tasks that wait, in lines by the nodes they avoid.

    An ``OrderedDict`` gives up an entry anywhere, and its first one, at the same cost however
    many there are (a plain dict steps over all that was deleted before its first).
    """

    def __init__(self, waiting: Iterable[tuple[int, int, frozenset[int]]]) -> None:
        """Begin with tasks, each as its turn, its number and the nodes it avoids."""
        self.lines: dict[frozenset[int], OrderedDict[int, int]] = {}
        last = -1
        for turn, proc_id, avoid in sorted(waiting, key=lambda one: one[:2]):
            self.lines.setdefault(avoid, OrderedDict())[proc_id] = turn
            last = turn
        self._turns = count(last + 1)

    def append(self, proc_id: int, avoid: frozenset[int]) -> None:
        self.lines.setdefault(avoid, OrderedDict())[proc_id] = next(self._turns)

    def remove(self, proc_id: int, avoid: frozenset[int]) -> None:
        line = self.lines[avoid]
        del line[proc_id]
        if not line:
            del self.lines[avoid]

    def turn(self, proc_id: int, avoid: frozenset[int]) -> int:
        return self.lines[avoid][proc_id]

    def in_order(self) -> Iterable[int]:
        entries = merge(*(line.items() for line in self.lines.values()), key=lambda one: one[1])
        return (proc_id for proc_id, _ in entries)
