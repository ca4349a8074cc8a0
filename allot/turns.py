"""The words between the monitor and its drivers: what a node is asked, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from allot.errors import NodeError
from allot.events import Cursor
from allot.model import Progress, TaskState
from allot.probe import NodeFacts
from allot.script import CancelOrder, Launch


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
        cursor: How far its event file need not be read again, None where that is not known.
        owed: Orders that it could not write down, by task and attempt; they are given again.
        complaint: Why it should be given nothing new for now, or empty.
        holds: Whether tasks wait there for files that they need.
        transfer: How many bytes have arrived of those on their way there or back, if any.
    """

    reports: Sequence[Report]
    pause: float | None
    facts: NodeFacts | None = None
    error: NodeError | None = None
    unsent: Sequence[Launch] = ()
    cursor: Cursor | None = None
    owed: frozenset[tuple[int, int]] = frozenset()
    complaint: str = ""
    transfer: Progress | None = None
    holds: bool = False
