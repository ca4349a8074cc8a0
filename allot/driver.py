"""All that happens on one node, in turns.

Rules: a driver is used by one thread at a time, a pool worker for each turn; it decides nothing
about tasks but reports what it saw. Everything about a break is undone in the next turn: the
functions are sent anew, what was not heard of is asked for again (the claims on the node make
sure that it starts once), and the event file is read on from where it was left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from allot import paths, questions, script
from allot.errors import ConnectionFailedError, NodeError
from allot.events import Cancelled, Cause, Ended, Event, Refused, SetupFailed, Started, parse_events
from allot.harvest import Harvest, Output
from allot.model import Progress, TaskState
from allot.node import FileRead, Node
from allot.output import Reader
from allot.probe import NodeFacts
from allot.script import CancelOrder, Launch

QUICK_S = 0.02
"""Seconds between two looks at the event file while tasks turn over."""

# The next look at the event file is due after this share of the time in which nothing moved: the
# end of a task is seen late by so much of what the task took, at most, and by the poll interval.
_LAG = 0.05
_ALIVE_S = 10.0
_ORDER_AGAIN_S = 0.2
_EVENT_BYTES = 128 * 1024
_BATCH = 200

_REFUSALS = {
    "events": "the home directory of the node cannot be written to (disk full or read-only?)",
    "output": "its output file cannot be written on the node: {launch.output_file}",
    "error": "its error file cannot be written on the node: {launch.error_file}",
    "cwd": "its working directory cannot be entered on the node: {launch.cwd}",
}
_LOST = {
    TaskState.FAILED: (
        "what records its end was killed on the node (by a user, or for want of memory?)"
    ),
    TaskState.NODE_FAIL: "the node rebooted",
}
_ENDINGS = {Cause.CANCEL: TaskState.CANCELLED, Cause.TIMEOUT: TaskState.TIMEOUT}


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
        state: How it ended.
        exit_code: None where it never ran, or nobody knows.
        time: Unix seconds, the client's clock.
        reason: What else there is to say, or empty.
    """

    proc_id: int
    attempt: int
    state: TaskState
    exit_code: int | None
    time: float
    reason: str = ""


Report: TypeAlias = Began | Stepped | Finished


@dataclass(frozen=True)
class Mail:
    """What the monitor wants of a node.

    Attributes:
        launches: Tasks that were given to it.
        cancels: Tasks to be cancelled there.
        forgets: Tasks (and attempts) that were given up: nothing is told of them any more.
        probe: Look at the node as well.
    """

    launches: Sequence[Launch] = ()
    cancels: Sequence[CancelOrder] = ()
    forgets: Sequence[tuple[int, int]] = ()
    probe: bool = False


@dataclass(frozen=True)
class Turn:
    """What one turn brought.

    Attributes:
        reports: What was seen, in order.
        pause: Seconds until the next turn is worth while; None: not before there is mail.
        facts: What a probe found, where one was asked for.
        error: What broke the turn off, or None.
        unsent: Launches that the node was certainly never asked for, after a break.
    """

    reports: Sequence[Report]
    pause: float | None
    facts: NodeFacts | None = None
    error: NodeError | None = None
    unsent: Sequence[Launch] = ()


@dataclass
class _Running:
    """A task that was sent to the node and is not over yet."""

    launch: Launch
    output: Output
    ended: Ended | None = None
    lost: TaskState | None = None  # it was given up: ``ended`` is no word of the node's
    recorders: set[tuple[int, int]] = field(default_factory=set)
    setup_failed: bool = False
    was_asked: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.launch.proc_id, self.launch.attempt


class NodeDriver:
    """One node of a job, and the tasks that run on it."""

    def __init__(
        self,
        node: Node,
        harvest: Harvest,
        facts: NodeFacts,
        *,
        prelude: str,
        look_at_node: Callable[[], NodeFacts],
        poll_interval: float,
    ) -> None:
        """Take over a node that was probed.

        Args:
            node: Its connection.
            harvest: Its outputs.
            facts: What the first probe found.
            prelude: The Bash that prepares it for tasks.
            look_at_node: Probes it while the job runs there.
            poll_interval: Seconds between two looks at a running task's output.
        """
        self.node = node
        self._prelude = prelude
        self._harvest = harvest
        self._look_at_node = look_at_node
        self._clock_offset = facts.clock_offset
        self._boot_id = facts.health.boot_id
        self._poll_interval = poll_interval
        self._event_file = ""
        self._event_offset = 0
        self._tasks: dict[tuple[int, int], _Running] = {}
        self._cancels: dict[tuple[int, int], CancelOrder] = {}
        self._reports: list[Report] = []
        self._prepared = False
        self._moved_at = time.monotonic()
        self._alive_at = time.monotonic()

    def output_reader(self, file: Path) -> Reader:
        """Reads an output while it is written.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return self._harvest.reader(file)

    def turn(self, mail: Mail) -> Turn:
        """Do what is asked, then see what happened."""
        for launch in mail.launches:
            files = [file for file in (launch.output_file, launch.error_file) if file is not None]
            task = _Running(launch, Output(tuple(files), launch.attempt))
            self._tasks[task.key] = task
        for key in mail.forgets:
            self._tasks.pop(key, None)
        self._cancels |= {(order.proc_id, order.attempt): order for order in mail.cancels}
        facts: NodeFacts | None = None
        error: NodeError | None = None
        moved = bool(mail.launches or mail.cancels)
        try:
            self._connect(mail.launches)
            self._cancel()
            if mail.probe:
                facts = self._look_at_node()
            moved |= self._read_events()
            self._look()
            self._finish()
            self._take_notices()
            self._look_for_the_dead()
        except Exception as caught:
            self.release()
            if not isinstance(caught, NodeError):
                raise  # what was reported so far goes with the next turn
            error = caught
        reports, self._reports = self._reports, []
        unsent = self._take_out_unsent() if error is not None else ()
        return Turn(reports, self._next_pause(moved), facts, error, unsent)

    def release(self) -> None:
        """Let go of what is under way to the client."""
        self._harvest.begin_anew([task.output for task in self._tasks.values()])

    def _connect(self, launches: Sequence[Launch]) -> None:
        if not self.node.is_connected:
            self._prepared = False
            self.node.connect()
        if self._prepared:
            self._launch(launches)
        else:
            self._prepare()

    def _prepare(self) -> None:
        reply = self.node.request(self._prelude)
        word, _, directory = reply.decode("utf-8", "surrogateescape").strip().partition(" ")
        if word != "ready":
            raise ConnectionFailedError(
                self.node.name,
                f"{directory} cannot be made there: is the disk full or read-only?",
            )
        self._event_file = paths.event_file(directory)
        self._event_offset = 0  # the file may be another one now; what is known does no harm
        self._launch([task.launch for task in self._tasks.values() if not task.recorders])
        self._prepared = True
        self._alive_at = 0.0

    def _launch(self, launches: Sequence[Launch]) -> None:
        for first in range(0, len(launches), _BATCH):
            batch = launches[first : first + _BATCH]
            for launch in batch:
                self._tasks[launch.proc_id, launch.attempt].was_asked = True
            self.node.request(script.launch_script(batch))

    def _take_out_unsent(self) -> list[Launch]:
        unsent = [task for task in self._tasks.values() if not task.was_asked]
        for task in unsent:
            del self._tasks[task.key]
        return [task.launch for task in unsent]

    def _cancel(self) -> None:
        if not self._cancels:
            return
        reply = self.node.request(script.cancel_script(self._cancels.values())).decode("ascii")
        refused = {tuple(line.split()[1:]) for line in reply.splitlines()}
        # What the node could not write down (its disk is full) is ordered again.
        self._cancels = {
            key: order for key, order in self._cancels.items() if tuple(map(str, key)) in refused
        }

    def _read_events(self) -> bool:
        if not self._tasks:
            return False
        reader = self._harvest.node_reader
        moved = False
        while True:
            read = FileRead(self._event_file, self._event_offset, _EVENT_BYTES)
            data = reader.read([read])[0]
            if isinstance(data, OSError):
                raise ConnectionFailedError(
                    self.node.name, f"{self._event_file} cannot be read there: {data}"
                )
            events, taken = parse_events(data)
            self._event_offset += taken
            for event in events:
                self._note(event)
            moved |= bool(events)
            if len(data) < _EVENT_BYTES:
                return moved

    def _note(self, event: Event) -> None:
        task = self._tasks.get((event.proc_id, event.attempt))
        if task is None:
            return
        if isinstance(event, Started):
            if not task.recorders:  # a later one lost the race, or took a killed one's place
                self._reports.append(Began(*task.key, self._here(event.time)))
            task.recorders.add((event.pid, event.start_ticks))
        elif isinstance(event, Ended):
            task.ended = event
        elif isinstance(event, SetupFailed):
            task.setup_failed = True
        elif isinstance(event, Cancelled):
            when = self._here(event.time)
            self._over(task, TaskState.CANCELLED, None, when, "before it started")
        else:
            self._refuse(task, event)

    def _refuse(self, task: _Running, event: Refused) -> None:
        reason = _REFUSALS.get(event.word, event.word).format(launch=task.launch)
        self._over(task, TaskState.FAILED, None, self._here(event.time), reason)

    def _look(self) -> None:
        running = {
            id(task.output): task
            for task in self._tasks.values()
            if task.recorders and not task.ended
        }
        for output, progress in self._harvest.look([task.output for task in running.values()]):
            self._reports.append(Stepped(*running[id(output)].key, progress))

    def _finish(self) -> None:
        ended = {id(task.output): task for task in self._tasks.values() if task.ended}
        if not ended:
            return
        home = self._harvest.bring_home([task.output for task in ended.values()])
        for output, progress in self._harvest.look_last(
            [output for output in home if _has_output(ended[id(output)])]
        ):
            self._reports.append(Stepped(*ended[id(output)].key, progress))
        for output in home:
            self._end(ended[id(output)])

    def _end(self, task: _Running) -> None:
        if task.ended is None:
            return
        code: int | None = task.ended.exit_code
        problems = list(task.output.problems)
        state = _ENDINGS.get(task.ended.cause, TaskState.FAILED if code else TaskState.COMPLETED)
        if state is TaskState.COMPLETED and task.output.is_lost:
            state = TaskState.FAILED
        if task.lost is not None:
            state, code = task.lost, None
            problems.insert(0, _LOST[state])
        if task.setup_failed:
            problems.insert(0, "setup failed")
        self._over(task, state, code, self._here(task.ended.time), "; ".join(problems))

    def _look_for_the_dead(self) -> None:
        """Find tasks whose recorder is gone without a word: killed, or lost in a reboot."""
        now = time.monotonic()
        running = [task for task in self._tasks.values() if task.recorders and not task.ended]
        if not running or now - self._alive_at < _ALIVE_S:
            return
        self._alive_at = now
        asked = [recorder for task in running for recorder in task.recorders]
        reply = self.node.request(questions.alive_script(asked)).decode("ascii", "replace").split()
        boot_id, alive = reply[0], {int(pid) for pid in reply[1:] if pid.isdigit()}
        dead = [task for task in running if not any(pid in alive for pid, _ in task.recorders)]
        rebooted, self._boot_id = boot_id != self._boot_id, boot_id
        if not dead:
            return
        self._read_events()
        self._finish()
        for task in dead:
            if task.key in self._tasks and task.ended is None:
                self._give_up(task, rebooted=rebooted)

    def _give_up(self, task: _Running, *, rebooted: bool) -> None:
        task.lost = TaskState.NODE_FAIL if rebooted else TaskState.FAILED
        if not rebooted:
            self._cancels[task.key] = CancelOrder(*task.key, grace=0.0)
        now = time.time() - self._clock_offset
        task.ended = Ended(*task.key, 0, True, now, Cause.END)  # its output is brought home first

    def _over(
        self, task: _Running, state: TaskState, exit_code: int | None, when: float, reason: str
    ) -> None:
        del self._tasks[task.key]
        self._reports.append(Finished(*task.key, state, exit_code, when, reason))

    def _take_notices(self) -> None:
        for notice in self.node.take_notices():
            line = f"{notice} {time.time() - self._clock_offset:.3f} .\n"
            for event in parse_events(line.encode("utf-8", "replace"))[0]:
                self._note(event)

    def _here(self, node_time: float) -> float:
        return node_time + self._clock_offset

    def _next_pause(self, moved: bool) -> float | None:
        if self._cancels:
            return _ORDER_AGAIN_S
        if not self._tasks:
            return None
        if self._harvest.busy:
            return 0.0
        now = time.monotonic()
        if moved:
            self._moved_at = now
        quiet = max(QUICK_S, _LAG * (now - self._moved_at))
        return min(quiet, self._poll_interval)


def _has_output(task: _Running) -> bool:
    return task.ended is not None and task.ended.has_output
