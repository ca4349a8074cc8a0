r"""What a node writes down about its tasks, read back from bytes.

The event file of a node is append-only; each line is one write, ends in `` .`` so that a torn
line is never taken for a whole one, and is one of::

    S <proc_id> <attempt> <pid> <start ticks> <Unix time> .     a start
    W <proc_id> <attempt> <word> <Unix time> .                  what will explain its end, to come
    E <proc_id> <attempt> <exit code> <1 if it printed anything, else 0> <cause> <Unix time> .
    X <proc_id> <attempt> <word> <Unix time> .                  no start, and why
    C <proc_id> <attempt> <Unix time> .                         cancelled, and never ran

``pid`` and ``start ticks`` (field 22 of ``/proc/<pid>/stat``, see proc(5)) name the process that
records the task's end; one that lost the race for the claim has written a start line as well.
``cause`` is ``end``, ``cancel``, ``timeout`` or ``lost``. The times are the node's clock.

Each line begins with the only capital letter in it. What a full disk left of a line may stand
before a whole one, and is cut off there.

Rules: pure; whatever the bytes are, no exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

MAX_LINE = 256
"""Bytes; a longer line was not written by Allot."""

_NUMBER = rb"(\d{1,18})"
_TIME = rb"(\d{1,15}(?:[.,]\d{1,9})?)"
_START = re.compile(rb"S %b %b %b %b %b \." % (_NUMBER, _NUMBER, _NUMBER, _NUMBER, _TIME))
_CAUSE = rb"(end|cancel|timeout|lost)"
_END = re.compile(rb"E %b %b (\d{1,3}) ([01]) %b %b \." % (_NUMBER, _NUMBER, _CAUSE, _TIME))
_WORD = rb"([a-z]{1,20})"
_REFUSAL = re.compile(rb"X %b %b %b %b \." % (_NUMBER, _NUMBER, _WORD, _TIME))
_WARNING = re.compile(rb"W %b %b %b %b \." % (_NUMBER, _NUMBER, _WORD, _TIME))
_CANCELLED = re.compile(rb"C %b %b %b \." % (_NUMBER, _NUMBER, _TIME))
_LAST_CAPITAL = re.compile(rb"[A-Z][^A-Z]*\Z")


class Cause(str, Enum):
    """Why a task's process ended."""

    END = "end"
    """It ended by itself, whatever its exit code."""
    CANCEL = "cancel"
    """It was ended by order of the client."""
    TIMEOUT = "timeout"
    """It was ended when its time limit was over."""
    LOST = "lost"
    """Its recorder was gone; what was left of it was ended."""


@dataclass(frozen=True)
class Started:
    """A task's process is about to run."""

    proc_id: int
    attempt: int
    pid: int
    start_ticks: int
    time: float


@dataclass(frozen=True)
class Ended:
    """A task's process has ended, and where it was ended, so has all that was the task's.

    ``has_output`` is False where all its output files are there, and empty.
    """

    proc_id: int
    attempt: int
    exit_code: int
    has_output: bool
    time: float
    cause: Cause


@dataclass(frozen=True)
class Refused:
    """A task could not be started; ``word`` says what was in the way."""

    proc_id: int
    attempt: int
    word: str
    time: float


@dataclass(frozen=True)
class Warned:
    """Something that will explain the end of a task, which follows.

    ``word`` is ``setup`` (its setup failed, its commands have not run) or ``full`` (the file
    system of its output is full, or a quota there is used up).
    """

    proc_id: int
    attempt: int
    word: str
    time: float


@dataclass(frozen=True)
class Cancelled:
    """An attempt was cancelled before its process ran, which it never will."""

    proc_id: int
    attempt: int
    time: float


Event: TypeAlias = Started | Warned | Ended | Refused | Cancelled


@dataclass(frozen=True)
class Cursor:
    """How far an event file was taken in.

    Attributes:
        offset: Bytes.
        check: The last bytes before it in hexadecimal, by which another file is told apart.
    """

    offset: int = 0
    check: str = ""


BEGINNING = Cursor()
"""Where nothing was taken in yet."""


def parse_events(data: bytes) -> tuple[list[Event], int]:
    """Read the whole lines of a piece of an event file.

    Args:
        data: Bytes from some line's start on.

    Returns:
        The events, in order, and how many bytes they took: the next piece starts there.
        Lines that are no events are passed over.
    """
    end = data.rfind(b"\n") + 1
    events = [event for line in data[:end].split(b"\n") if (event := _parse_line(line))]
    # Of a line without end so much is kept that its rest is not taken for a line of its own.
    return events, max(end, len(data) - MAX_LINE)


def _parse_line(line: bytes) -> Event | None:
    found = _LAST_CAPITAL.search(line)
    for pattern, read in _READERS:
        if found and (match := pattern.fullmatch(found.group())):
            proc_id, attempt, *others, time = match.groups()
            return read(int(proc_id), int(attempt), others, _seconds(time))
    return None


def _ended(
    proc_id: int, attempt: int, code: bytes, flag: bytes, cause: bytes, *, time: float
) -> Ended:
    why = Cause(cause.decode("ascii"))
    return Ended(proc_id, attempt, int(code), flag == b"1", time, why)


def _seconds(text: bytes) -> float:
    # Bash writes $EPOCHREALTIME with the decimal sign of the user's locale.
    return float(text.replace(b",", b"."))


_Reader: TypeAlias = Callable[[int, int, Sequence[bytes], float], Event]
_READERS: Sequence[tuple[re.Pattern[bytes], _Reader]] = (
    (_START, lambda p, a, others, time: Started(p, a, int(others[0]), int(others[1]), time)),
    (_END, lambda p, a, others, time: _ended(p, a, *others, time=time)),
    (_REFUSAL, lambda p, a, others, time: Refused(p, a, others[0].decode("ascii"), time)),
    (_WARNING, lambda p, a, others, time: Warned(p, a, others[0].decode("ascii"), time)),
    (_CANCELLED, lambda p, a, _, time: Cancelled(p, a, time)),
)
