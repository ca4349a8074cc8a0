"""A task as its node's driver knows it, from the time that it is given to the node to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from allot.events import Cause, Cursor, Ended
from allot.harvest import Output
from allot.model import TaskState
from allot.reasons import describe_loss
from allot.script import Launch

FIRST_LOOK_S = 0.1
"""Seconds until a task is first looked at: most of a queue's short ones have ended by then."""

_ENDINGS = {Cause.CANCEL: TaskState.CANCELLED, Cause.TIMEOUT: TaskState.TIMEOUT}


@dataclass
class Running:
    """A task that is the node's and not over yet.

    Attributes:
        launch: What is sent.
        output: What it writes.
        ended: What the node wrote of its end.
        lost: It was given up: ``ended`` is no word of its recorder's.
        recorders: Pid and start ticks of the processes that record it.
        warnings: What will explain its end.
        was_asked: The node may have been asked to start it, by this client or an earlier one.
        tells: Its recorder tells this connection of its end.
        asks: How often this client asked.
        asked_at: When it did so last, in monotonic seconds.
        since: Where the first event of it was read.
    """

    launch: Launch
    output: Output
    ended: Ended | None = None
    lost: TaskState | None = None
    recorders: set[tuple[int, int]] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    was_asked: bool = False
    tells: bool = False
    asks: int = 0
    asked_at: float = 0.0
    since: Cursor | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Task and attempt."""
        return self.launch.proc_id, self.launch.attempt

    def note_asked(self, now: float) -> None:
        """The node is being asked to start it; its output need not be looked at at once."""
        self.tells = not self.was_asked  # else another connection's may record it
        self.was_asked = True
        self.asks += 1
        self.asked_at = now
        self.output.watch.not_before = now + FIRST_LOOK_S

    def note_end(self, ended: Ended) -> None:
        """Take in what the node wrote of its end."""
        self.ended = ended
        self.output.is_empty = not ended.has_output
        if ended.cause is Cause.LOST:  # by an earlier client, which died before it could say so
            self.lost = TaskState.FAILED
        if self.output.results is not None:
            self.output.results.must_match = ended.cause is Cause.END and ended.exit_code == 0

    @property
    def has_output(self) -> bool:
        """Whether it has ended, and had printed anything."""
        return self.ended is not None and self.ended.has_output

    def verdict(self, *, ends_at_logout: bool) -> tuple[TaskState, int | None, str, float]:
        """How it ended, once what it wrote is home: state, exit code, what else to say, and when.

        Args:
            ends_at_logout: Whether the node ends processes at logout, which may explain a loss.
        """
        if self.ended is None:
            raise ValueError(f"task {self.launch.proc_id} has not ended")
        code: int | None = self.ended.exit_code
        problems = list(self.output.problems)
        state = _ENDINGS.get(self.ended.cause, TaskState.FAILED if code else TaskState.COMPLETED)
        if state is TaskState.COMPLETED and self.output.is_lost:
            state = TaskState.FAILED
        if self.lost is not None:
            state, code = self.lost, None
            problems.insert(0, describe_loss(state, ends_at_logout=ends_at_logout))
        problems[:0] = dict.fromkeys(self.warnings)
        return state, code, "; ".join(problems), self.ended.time
