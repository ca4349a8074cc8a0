r"""What a node writes down about its tasks, read back from bytes.

The event file of a node is append-only; each line is one write, ends in `` .`` so that a torn
line is never taken for a whole one, and is one of::

    S <proc_id> <attempt> <pid> <start ticks> <Unix time> .     a start
    E <proc_id> <attempt> <exit code> <1 if it printed anything, else 0> <Unix time> .
    X <proc_id> <attempt> <word> <Unix time> .                  no start, and why

``pid`` and ``start ticks`` (field 22 of ``/proc/<pid>/stat``, see proc(5)) name the process that
records the task's end. The times are the node's clock.

Rules: pure; whatever the bytes are, no exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

MAX_LINE = 256
"""Bytes; a longer line was not written by Allot."""

_NUMBER = rb"(\d{1,18})"
_TIME = rb"(\d{1,15}(?:[.,]\d{1,9})?)"
_START = re.compile(rb"S %b %b %b %b %b \." % (_NUMBER, _NUMBER, _NUMBER, _NUMBER, _TIME))
_END = re.compile(rb"E %b %b (\d{1,3}) ([01]) %b \." % (_NUMBER, _NUMBER, _TIME))
_REFUSAL = re.compile(rb"X %b %b ([a-z]{1,20}) %b \." % (_NUMBER, _NUMBER, _TIME))


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
    """A task's process has ended."""

    proc_id: int
    attempt: int
    exit_code: int
    has_output: bool
    time: float


@dataclass(frozen=True)
class Refused:
    """A task could not be started; ``word`` says what was in the way."""

    proc_id: int
    attempt: int
    word: str
    time: float


Event: TypeAlias = Started | Ended | Refused


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
    if match := _START.fullmatch(line):
        proc_id, attempt, pid, ticks, time = match.groups()
        return Started(int(proc_id), int(attempt), int(pid), int(ticks), _seconds(time))
    if match := _END.fullmatch(line):
        proc_id, attempt, code, flag, time = match.groups()
        return Ended(int(proc_id), int(attempt), int(code), flag == b"1", _seconds(time))
    if match := _REFUSAL.fullmatch(line):
        proc_id, attempt, word, time = match.groups()
        return Refused(int(proc_id), int(attempt), word.decode("ascii"), _seconds(time))
    return None


def _seconds(text: bytes) -> float:
    # Bash writes $EPOCHREALTIME with the decimal sign of the user's locale.
    return float(text.replace(b",", b"."))
