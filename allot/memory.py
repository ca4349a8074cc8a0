"""What is remembered of a job beside its ledger, and how both become records.

Rules: used by the monitor's thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allot.lifecycle import Entry, Ledger
from allot.model import Params, TaskState
from allot.records import CancelRecord, Changes, JobRecord, JobState, NodeRecord, TaskRecord
from allot.script import Launch
from allot.seats import Seat

_ORDERS_KEPT = 50


class Memory:
    """Keeps what a later client needs, and tells what changed.

    Attributes:
        cancels: Running tasks that are to be cancelled.
        stopped: Failures stopped the job: nothing is retried any more.
        job_id: Identifier of this run of the job.
        nnodes: Number of nodes used at the start.
    """

    def __init__(self, job: JobRecord, tasks: Iterable[TaskRecord] = ()) -> None:
        """Begin with a new job, or with the records of an earlier client."""
        self.cancels: dict[int, CancelRecord] = {}
        self.stopped = job.stopped
        self.job_id, self.nnodes = job.job_id, job.nnodes
        self._followed = deque(job.followed, _ORDERS_KEPT)
        self._job = self._job_told = job
        self._launches: dict[int, Launch] = {}
        self._error_files: dict[int, Path] = {}
        self._ordered: dict[int, None] = {}
        self._nodes_told: dict[int, NodeRecord] = {}
        for record in tasks:
            proc_id = record.status.proc_id
            if record.launch is not None:
                self._launches[proc_id] = record.launch
            if record.error_file is not None:
                self._error_files[proc_id] = record.error_file
            if record.cancel is not None:
                self.cancels[proc_id] = record.cancel

    def note_launch(self, launch: Launch) -> None:
        """Remember what is sent to a node."""
        self._launches[launch.proc_id] = launch
        if launch.error_file is not None:
            self._error_files[launch.proc_id] = launch.error_file

    def note_order(self, proc_id: int) -> None:
        """Have a running task told of at the next opportunity."""
        self._ordered[proc_id] = None

    def note_followed(self, key: str) -> None:
        """Remember that an order of another client was followed."""
        self._followed.append(key)

    def note_command(self, command: str) -> None:
        """Remember what tasks run from now on."""
        self._job = replace(self._job, settings=replace(self._job.settings, command=command))

    def was_followed(self, key: str) -> bool:
        """Whether an order was followed, by this client or an earlier one."""
        return key in self._followed

    def launches_on(self, ledger: Ledger, node_id: int) -> list[Launch]:
        """What was sent to a node and is not over yet."""
        return [self._launches[proc_id] for proc_id in ledger.taken(node_id).values()]

    def take_changes(self, ledger: Ledger, seats: Mapping[int, Seat], *, all_of: bool) -> Changes:
        """What changed since the last call.

        Args:
            ledger: Every task.
            seats: The nodes used.
            all_of: Also what nothing depends on: progress, and what probes found.
        """
        changed = dict.fromkeys([*ledger.take_changed(), *self._ordered])
        self._ordered = {}
        tasks = tuple(self._task(ledger, proc_id) for proc_id in changed)
        progress: list[tuple[int, int, int, int]] = []
        if all_of:
            for proc_id in ledger.take_progressed():
                task = ledger[proc_id]
                if task.progress is not None and proc_id not in changed:
                    step, total = task.progress.step, task.progress.total
                    progress.append((proc_id, task.attempt, step, total))
        return Changes(self._changed_job(), self._nodes(seats, all_of), tasks, tuple(progress))

    def state(self, ledger: Ledger, seats: Mapping[int, Seat]) -> JobState:
        """Everything."""
        job = self._job_now
        nodes = tuple(seats[node_id].record for node_id in sorted(seats))
        tasks = tuple(self._task(ledger, proc_id) for proc_id in range(len(ledger)))
        return JobState(job, nodes, tasks)

    @property
    def _job_now(self) -> JobRecord:
        return replace(self._job, stopped=self.stopped, followed=tuple(self._followed))

    def _changed_job(self) -> JobRecord | None:
        job = self._job_now
        if job == self._job_told:
            return None
        self._job_told = job
        return job

    def _nodes(self, seats: Mapping[int, Seat], all_of: bool) -> tuple[NodeRecord, ...]:
        changed: list[NodeRecord] = []
        for node_id, seat in seats.items():
            told = self._nodes_told.get(node_id)
            if told is not None and not all_of and _stands_as_told(seat, told):
                continue  # without making a record of every node in every round
            record = seat.record
            if record != told:
                self._nodes_told[node_id] = record
                changed.append(record)
        return tuple(changed)

    def _task(self, ledger: Ledger, proc_id: int) -> TaskRecord:
        entry = ledger.entry(proc_id)
        runs = entry.status.state is TaskState.RUNNING
        if entry.status.state.is_final:
            self._launches.pop(proc_id, None)
        return TaskRecord(
            status=replace(entry.status, params=None),
            turn=entry.turn,
            gpu_ids=entry.gpu_ids,
            avoids=entry.avoids,
            retried=entry.retried,
            launch=self._launches.get(proc_id) if runs else None,
            error_file=self._error_files.get(proc_id),
            cancel=self.cancels.get(proc_id) if runs else None,
        )


def entries(tasks: Sequence[TaskRecord], params: Sequence[Params] | None) -> list[Entry]:
    """The tasks of a ledger, from what was remembered of them."""
    return [
        Entry(
            replace(one.status, params=None if params is None else params[one.status.proc_id]),
            one.turn,
            one.gpu_ids,
            one.avoids,
            one.retried,
        )
        for one in tasks
    ]


def _stands_as_told(seat: Seat, told: NodeRecord) -> bool:
    """Whether what must not wait to be written down is as it was."""
    return (seat.drained, tuple(seat.orphans)) == (told.drained, told.orphans)


def needs_disk(changes: Changes) -> bool:
    """Whether something must not be forgotten even if the machine goes down now.

    What a task did since it was sent is told once more by its node; that it was sent there, and
    what was ordered, is not.
    """
    if changes.job is not None or changes.nodes:
        return True
    return any(
        one.cancel is not None or (one.launch is not None and one.status.started_at is None)
        for one in changes.tasks
    )
