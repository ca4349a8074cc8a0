"""All that happens on one node, in turns.

Rules: a driver is used by one thread at a time, a pool worker for each turn; it decides nothing
about tasks but reports what it saw. Everything about a break is undone in the next turn: the
functions are sent anew, what was not heard of is asked for again (the claims on the node make
sure that it starts once), and the event file is read on from where it was left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from allot import paths, script
from allot.errors import ConnectionFailedError, NodeError
from allot.events import Ended, Event, Refused, Started, parse_events
from allot.fetch import Fetched, Fetcher
from allot.model import Progress
from allot.node import FileRead, Node
from allot.output import LocalReader, Reader, SftpReader, ShellReader, Watch, look
from allot.probe import Sharing
from allot.script import Launch

_log = logging.getLogger(__name__)

QUICK_S = 0.02
"""Seconds between two looks at the event file while tasks turn over."""

# The next look at the event file is due after this share of the time in which nothing moved: the
# end of a task is seen late by so much of what the task took, at most, and by the poll interval.
_LAG = 0.05

_EVENT_BYTES = 256 * 1024
_BATCH = 200

_REFUSALS = {
    "events": "the home directory of the node cannot be written to (disk full or read-only?)",
    "output": "its output file cannot be written on the node: {launch.output_file}",
    "error": "its error file cannot be written on the node: {launch.error_file}",
    "cwd": "its working directory cannot be entered on the node: {launch.cwd}",
}


@dataclass(frozen=True)
class Began:
    """A task's process runs since ``time`` (Unix seconds, the client's clock)."""

    proc_id: int
    attempt: int
    time: float


@dataclass(frozen=True)
class Stepped:
    """A task told its progress."""

    proc_id: int
    attempt: int
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """A task is over, and its output lies where it belongs.

    Attributes:
        proc_id: The task.
        attempt: Which try of it.
        exit_code: None where it never ran.
        time: Unix seconds, the client's clock.
        reason: What else there is to say, or empty.
    """

    proc_id: int
    attempt: int
    exit_code: int | None
    time: float
    reason: str = ""


Report: TypeAlias = Began | Stepped | Finished


@dataclass(frozen=True)
class Turn:
    """What one turn brought.

    Attributes:
        reports: What was seen, in order.
        pause: Seconds until the next turn is worth while; None: not before there is a launch.
        error: What broke the turn off, or None.
    """

    reports: Sequence[Report]
    pause: float | None
    error: NodeError | None = None


@dataclass
class _Running:
    """A task that was sent to the node and is not over yet."""

    launch: Launch
    watch: Watch
    ended: Ended | None = None
    to_fetch: set[Path] | None = None
    problems: list[str] = field(default_factory=list)
    heard: bool = False


class NodeDriver:
    """One node of a job, and the tasks that run on it."""

    def __init__(
        self,
        node: Node,
        job_id: str,
        variables: Mapping[str, str],
        sharing: Sharing,
        *,
        clock_offset: float,
        poll_interval: float,
    ) -> None:
        self.node = node
        self._variables = variables
        self._sharing = sharing
        self._clock_offset = clock_offset
        self._poll_interval = poll_interval
        self._job_directory = paths.node_directory(job_id, node.name)
        self._event_file = ""
        self._event_offset = 0
        self._tasks: dict[int, _Running] = {}
        self._fetcher = Fetcher(job_id)
        self._fetching: dict[Path, _Running] = {}
        self._prepared = False
        self._reports: list[Report] = []
        self._moved_at = time.monotonic()

    def turn(self, launches: Sequence[Launch]) -> Turn:
        """Launch what is new, then see what happened.

        Args:
            launches: Tasks that were given to this node since the last turn.
        """
        for launch in launches:
            self._tasks[launch.proc_id] = _Running(launch, Watch(str(launch.output_file)))
        self._reports = []
        error: NodeError | None = None
        moved = bool(launches)
        try:
            if not self.node.is_connected:
                self._prepared = False
                self.node.connect()
            if not self._prepared:
                self._prepare()
            else:
                self._launch(launches)
            moved |= self._read_events()
            self._look()
            self._finish()
            self._take_notices()
        except NodeError as caught:
            self._begin_fetching_anew()
            error = caught
        return Turn(self._reports, self._next_pause(moved), error)

    @property
    def _node_reader(self) -> Reader:
        return SftpReader(self.node) if self.node.open_sftp() else ShellReader(self.node)

    @property
    def output_reader(self) -> Reader:
        """Reads the outputs of running tasks.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return LocalReader() if self._sharing.fresh else self._node_reader

    def _prepare(self) -> None:
        reply = self.node.request(script.prelude(self._job_directory, self._variables))
        word, _, directory = reply.decode("utf-8", "surrogateescape").strip().partition(" ")
        if word != "ready":
            raise ConnectionFailedError(
                self.node.name,
                f"~/{self._job_directory} cannot be made there: is the disk full or read-only?",
            )
        self._event_file = paths.event_file(directory)
        self._launch([task.launch for task in self._tasks.values() if not task.heard])
        self._prepared = True

    def _launch(self, launches: Sequence[Launch]) -> None:
        for first in range(0, len(launches), _BATCH):
            self.node.request(script.launch_script(launches[first : first + _BATCH]))

    def _read_events(self) -> bool:
        if not self._tasks:
            return False
        reader = self._node_reader
        events: list[Event] = []
        while True:
            read = FileRead(self._event_file, self._event_offset, _EVENT_BYTES)
            data = reader.read([read])[0]
            if isinstance(data, OSError):
                raise ConnectionFailedError(
                    self.node.name, f"{self._event_file} cannot be read there: {data}"
                )
            found, taken = parse_events(data)
            events += found
            self._event_offset += taken
            if len(data) < _EVENT_BYTES:
                break
        for event in events:
            self._note(event)
        return bool(events)

    def _note(self, event: Event) -> None:
        task = self._tasks.get(event.proc_id)
        if task is None or task.launch.attempt != event.attempt:
            return
        task.heard = True
        if isinstance(event, Started):
            self._reports.append(Began(event.proc_id, event.attempt, self._here(event.time)))
        elif isinstance(event, Ended):
            task.ended = event
        else:
            self._refuse(task, event)

    def _refuse(self, task: _Running, event: Refused) -> None:
        reason = _REFUSALS.get(event.word, event.word).format(launch=task.launch)
        self._over(task, None, self._here(event.time), reason)

    def _look(self) -> None:
        now = time.monotonic()
        due = {
            id(task.watch): task
            for task in self._tasks.values()
            if task.heard and not task.ended and task.watch.next_look <= now
        }
        if not due:
            return
        for task in due.values():
            task.watch.next_look = now + self._poll_interval
        for watch, progress in look(self.output_reader, [task.watch for task in due.values()]):
            launch = due[id(watch)].launch
            self._reports.append(Stepped(launch.proc_id, launch.attempt, progress))

    def _finish(self) -> None:
        ended = [task for task in self._tasks.values() if task.ended]
        if not ended:
            return
        if self._sharing.shared:
            self._look_last(self.output_reader, ended)
        else:
            self._fetch(ended)
            ended = [task for task in ended if not _files(task)]
            self._look_last(LocalReader(), ended)
        for task in ended:
            if task.ended is not None:
                reason = "; ".join(task.problems)
                self._over(task, task.ended.exit_code, self._here(task.ended.time), reason)

    def _look_last(self, reader: Reader, tasks: Sequence[_Running]) -> None:
        watches = {id(task.watch): task for task in tasks if task.ended and task.ended.has_output}
        if not watches:
            return
        for watch, progress in look(reader, [task.watch for task in watches.values()]):
            launch = watches[id(watch)].launch
            self._reports.append(Stepped(launch.proc_id, launch.attempt, progress))

    def _fetch(self, ended: Sequence[_Running]) -> None:
        new = [task for task in ended if task.to_fetch is None]
        for task in new:
            files = (task.launch.output_file, task.launch.error_file)
            task.to_fetch = {file for file in files if file is not None}
            self._fetching.update(dict.fromkeys(task.to_fetch, task))
        reader = self._node_reader
        self._settle(self._fetcher.begin(reader, [file for task in new for file in _files(task)]))
        self._settle(self._fetcher.advance(reader))

    def _settle(self, fetched: Sequence[Fetched]) -> None:
        for one in fetched:
            task = self._fetching.pop(one.path)
            _files(task).discard(one.path)
            if one.problem:
                task.problems.append(one.problem)

    def _begin_fetching_anew(self) -> None:
        self._fetcher.abandon()
        self._fetching.clear()
        for task in self._tasks.values():
            task.to_fetch = None

    def _over(self, task: _Running, exit_code: int | None, when: float, reason: str) -> None:
        launch = task.launch
        del self._tasks[launch.proc_id]
        self._reports.append(Finished(launch.proc_id, launch.attempt, exit_code, when, reason))

    def _take_notices(self) -> None:
        for notice in self.node.take_notices():
            for event in parse_events(f"{notice} 0 .\n".encode("utf-8", "replace"))[0]:
                self._note(event)

    def _here(self, node_time: float) -> float:
        return node_time + self._clock_offset

    def _next_pause(self, moved: bool) -> float | None:
        if not self._tasks:
            return None
        if self._fetcher.busy:
            return 0.0
        now = time.monotonic()
        if moved:
            self._moved_at = now
        quiet = max(QUICK_S, _LAG * (now - self._moved_at))
        return min(quiet, self._poll_interval)


def _files(task: _Running) -> set[Path]:
    return set() if task.to_fetch is None else task.to_fetch
