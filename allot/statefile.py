"""What is remembered of a job, as bytes: a snapshot of all of it, and a journal of what changed.

A snapshot is one JSON object, ``{"allot": "state", "version": 1, "generation": …, "serial": …,
"job": {…}, "nodes": […], "tasks": […]}``. Its journal has a line for each group of changes::

    <CRC-32 of the rest, 8 hexadecimal digits> <D or -> <JSON object>

``D``: all up to this line was made sure to be on disk before anything was done that rests on it.
What a crash tore at the end of a journal therefore never matters; what is torn before a ``D`` line
cannot have been a crash.

Rules: pure; whatever the bytes are, ``StateFileError`` says what is wrong with them, and where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from zlib import crc32

from allot.codec import decode, encode
from allot.errors import StateFileError
from allot.model import Progress, TaskState
from allot.records import Changes, JobRecord, JobState, NodeRecord, TaskRecord

VERSION = 1
"""Of the format; a file of a higher one is refused."""

_KIND = "state"
_LONGEST_S = 1e13
_HEAD = ("generation", "serial", "copy_of", "put_away")
_LINE = re.compile(rb"([0-9a-f]{8}) (([D-]) .*)", re.DOTALL)
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Head:
    """Which snapshot one is.

    Attributes:
        generation: That of the client which wrote it.
        serial: Its number among that client's.
        copy_of: For a copy that was saved elsewhere: the state file it was made from.
        put_away: A later job took its name: it can be looked at, and no more.
    """

    generation: int = 0
    serial: int = 0
    copy_of: str = ""
    put_away: bool = False

    @property
    def numbers(self) -> tuple[int, int]:
        """Generation and serial; of two snapshots of one job the higher ones are the later."""
        return self.generation, self.serial

    @property
    def frozen(self) -> str:
        """Why no job can be driven by it, or empty."""
        if self.put_away:
            return "was put away when a later job took its name"
        return f"is a copy: load {self.copy_of} to give orders" if self.copy_of else ""


def write_snapshot(state: JobState, head: Head) -> bytes:
    """A whole job as a file."""
    whole = {"allot": _KIND, "version": VERSION, **encode(head), **encode(state)}
    return json.dumps(whole, separators=(",", ":")).encode("ascii") + b"\n"


def read_snapshot(data: bytes, place: str) -> tuple[Head, JobState]:
    """Read a file that :func:`write_snapshot` made.

    Args:
        data: Its bytes.
        place: Its name, for messages.

    Raises:
        StateFileError: It is none.
    """
    if not data.strip():
        raise StateFileError(f"{place} is empty: the job's state is lost from it")
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateFileError(
            f"{place} is torn, or no state of a job (no whole JSON: {error}); it is left as it is"
        ) from error
    if not isinstance(whole, dict) or whole.pop("allot", None) != _KIND:
        raise StateFileError(f"{place} is not the state of a job of Allot's; it is left as it is")
    version = whole.pop("version", None)
    if isinstance(version, int) and version > VERSION:
        raise StateFileError(
            f"{place} was written by a newer Allot (format {version}, this one reads up to "
            f"{VERSION}): use that one"
        )
    try:
        if version != VERSION:
            raise ValueError(f"no such version: {version!r}")
        head = decode(Head, {key: whole.pop(key) for key in _HEAD if key in whole})
        state = decode(JobState, whole)
        _check(state)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StateFileError(f"{place} makes no sense: {error}; it is left as it is") from error
    return head, state


def write_changes(changes: Changes, *, durable: bool) -> bytes:
    """One line of a journal."""
    text = json.dumps(encode(changes), separators=(",", ":"))
    rest = f"{'D' if durable else '-'} {text}".encode("ascii")
    return b"%08x %b\n" % (crc32(rest), rest)


def read_changes(data: bytes, place: str) -> tuple[list[Changes], int]:
    """Read the whole lines of a journal, or of its end.

    Args:
        data: Bytes from some line's start on.
        place: The journal's name, for messages.

    Returns:
        What changed, in order, and how many bytes that took; a torn end is not among them.

    Raises:
        StateFileError: It is damaged elsewhere than at its end.
    """
    changes: list[Changes] = []
    taken = position = 0
    torn = False
    for line in data.split(b"\n")[:-1]:
        position += len(line) + 1
        found = _LINE.fullmatch(line)
        if found is None or int(found[1], 16) != crc32(found[2]):
            torn = True
        elif not torn:
            changes.append(_changes(found[2], place))
            taken = position
        elif found[3] == b"D":
            raise StateFileError(
                f"{place} is damaged at byte {taken}, and more follows; it is left as it is"
            )
    return changes, taken


def _changes(rest: bytes, place: str) -> Changes:
    try:
        return decode(Changes, json.loads(rest[2:]))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StateFileError(f"{place} makes no sense: {error}; it is left as it is") from error


class Remembered:
    """A job as its files tell it, kept up with what changes.

    Attributes:
        job: What does not belong to one task or node.
        nodes: The nodes used, by ``node_id``.
        tasks: Every task, by ``proc_id``.
    """

    def __init__(self, state: JobState) -> None:
        """Begin with a snapshot."""
        self.job: JobRecord = state.job
        self.nodes: dict[int, NodeRecord] = {node.node_id: node for node in state.nodes}
        self.tasks: list[TaskRecord] = list(state.tasks)

    @property
    def state(self) -> JobState:
        """All of it."""
        nodes = tuple(self.nodes[node_id] for node_id in sorted(self.nodes))
        return JobState(self.job, nodes, tuple(self.tasks))

    def apply(self, changes: Iterable[Changes], place: str) -> None:
        """Take in some lines of the journal.

        Raises:
            StateFileError: They do not belong to this job.
        """
        for one in changes:
            if one.job is not None:
                self.job = one.job
            self.nodes |= {node.node_id: node for node in one.nodes}
            try:
                for task in one.tasks:
                    self._replace(task.status.proc_id, task)
                for proc_id, attempt, step, total in one.progress:
                    self._progress(proc_id, attempt, Progress(step, total))
            except ValueError as error:
                raise StateFileError(f"{place} makes no sense: {error}") from error
        try:
            _check(self.state)
        except ValueError as error:
            raise StateFileError(f"{place} makes no sense: {error}") from error

    def _replace(self, proc_id: int, task: TaskRecord) -> None:
        if proc_id not in range(len(self.tasks)):
            raise ValueError(f"there is no task {proc_id}")
        self.tasks[proc_id] = task

    def _progress(self, proc_id: int, attempt: int, progress: Progress) -> None:
        if proc_id not in range(len(self.tasks)):
            raise ValueError(f"there is no task {proc_id}")
        task = self.tasks[proc_id]
        if task.status.attempt == attempt:
            status = replace(task.status, progress=progress)
            self.tasks[proc_id] = replace(task, status=status)


def _check(state: JobState) -> None:
    """What the types do not say; names that become paths on a node are among it.

    Raises:
        ValueError: It says where something makes no sense.
    """
    if not _JOB_ID.fullmatch(state.job.job_id):
        raise ValueError(f"job.job_id cannot be {state.job.job_id!r}")
    node_ids = [node.node_id for node in state.nodes]
    if node_ids != list(range(len(node_ids))):
        raise ValueError(f"the nodes are numbered {node_ids[:9]}")
    if not all(math.isfinite(node.facts.clock_offset) for node in state.nodes):
        raise ValueError("the clock of a node cannot be told")
    spans = [state.job.created, state.job.settings.time_limit or 0.0]
    spans += [task.cancel.grace for task in state.tasks if task.cancel is not None]
    if not all(abs(span) <= _LONGEST_S for span in spans):
        raise ValueError("a time, a time limit or a grace is none")
    params = state.job.params
    if params is not None and len(params) != len(state.tasks):
        raise ValueError(f"{len(params)} params for {len(state.tasks)} tasks")
    taken: set[tuple[object, ...]] = set()
    for proc_id, task in enumerate(state.tasks):
        problem = _problem(proc_id, task, len(node_ids))
        if problem:
            raise ValueError(f"tasks[{proc_id}]: {problem}")
        if task.status.state is TaskState.RUNNING:
            node_id = task.status.node_id
            places = {(node_id, "slot", task.status.local_id)}
            places |= {(node_id, "GPU", gpu) for gpu in task.gpu_ids}
            if taken & places:
                raise ValueError(f"tasks[{proc_id}]: another task has its slot or GPU")
            taken |= places


def _problem(proc_id: int, task: TaskRecord, nnodes: int) -> str:
    status, progress = task.status, task.status.progress
    problem = ""
    if status.proc_id != proc_id or status.attempt < 0:
        problem = f"it is numbered {status.proc_id}, attempt {status.attempt}"
    elif progress is not None and not (0 <= progress.step <= progress.total > 0):
        problem = f"its progress is {progress.step} of {progress.total}"
    elif not all(math.isfinite(time or 0.0) for time in (status.started_at, status.ended_at)):
        problem = f"its times are {status.started_at} and {status.ended_at}"
    elif status.state is TaskState.RUNNING:
        problem = _problem_of_place(task, nnodes)
    return problem


def _problem_of_place(task: TaskRecord, nnodes: int) -> str:
    status, launch = task.status, task.launch
    if status.node_id not in range(nnodes) or status.local_id is None or launch is None:
        return "it runs, but it is not told where or what"
    if (launch.proc_id, launch.attempt) != (status.proc_id, status.attempt):
        return "what runs is another task"
    return ""
