r"""What a task of the suite runs and writes down, and what its output must be in the end.

A task's first deed is a line in its journal, ``<directory>/<proc_id>``, its last one another::

    begin <job id> <proc_id> <attempt> <node> <pid> <Unix time>
    end <job id> <proc_id> <attempt> <node> <pid> <Unix time> <exit code it is about to use>

Rules: each line is one write with O_APPEND; nothing else writes there. The journals lie in a
directory that all nodes share.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.plan import Attempt

_WAITS_S = 120


@dataclass(frozen=True)
class Line:
    """A line of a journal; ``code`` is None at a beginning."""

    job_id: str
    proc_id: int
    attempt: int
    node: str
    pid: int
    time: float
    code: int | None = None


def script(attempt: Attempt, journal: Path) -> str:
    """The Bash of an attempt; ``journal`` is the directory of all journals."""
    pause = attempt.seconds / attempt.steps
    lines = [
        f"journal={shlex.quote(str(journal))}/$ALLOT_PROCID",
        'who="$ALLOT_JOB_ID $ALLOT_PROCID $ALLOT_ATTEMPT $ALLOT_NODENAME $$"',
        'printf \'begin %s %s\\n\' "$who" "$EPOCHREALTIME" >> "$journal"',
    ]
    if attempt.child:
        lines.append(f"sleep {attempt.child} &")
    if attempt.lines:
        lines.append(f"seq {attempt.lines}")
    if attempt.steps > 10:
        pause = attempt.seconds
        lines.append(
            f"for ((i = 1; i <= {attempt.steps}; i++)); do "
            f"printf '\\002%d/{attempt.steps}\\003' $i; done"
        )
    else:
        for step in range(1, attempt.steps + 1):
            lines.append(f"printf '\\002{step}/{attempt.steps}\\003'")
            if pause and step < attempt.steps:
                lines.append(f"sleep {pause:.3f}")
    if pause:
        lines.append(f"sleep {pause:.3f}")
    if attempt.harm:
        lines.append(f"sleep {_WAITS_S}")
    lines += [
        'echo "trailer $ALLOT_PROCID $ALLOT_ATTEMPT"',
        f'printf \'end %s %s {attempt.code}\\n\' "$who" "$EPOCHREALTIME" >> "$journal"',
        f"kill -{attempt.signal} $$" if attempt.signal else f"exit {attempt.code}",
    ]
    return "\n".join(lines)


def output(attempt: Attempt, proc_id: int, number: int) -> bytes:
    """What the attempt ``number`` of a task has printed when it has come to its end."""
    lines = "".join(f"{line}\n" for line in range(1, attempt.lines + 1))
    markers = "".join(f"\x02{step}/{attempt.steps}\x03" for step in range(1, attempt.steps + 1))
    return f"{lines}{markers}trailer {proc_id} {number}\n".encode()


def read_journals(directory: Path) -> list[Line]:
    """Every line of every journal, task by task.

    Raises:
        ValueError: A line is none: two writes got mixed up, or the disk is full.
    """
    return [
        line
        for path in sorted(directory.iterdir(), key=lambda path: int(path.name))
        for line in read_journal(path)
    ]


def read_journal(path: Path) -> Iterator[Line]:
    """The whole lines of one journal; none where there is no file."""
    if not path.exists():
        return
    text = path.read_text()
    for entry in text[: text.rfind("\n") + 1].splitlines():
        word, job_id, proc_id, attempt, node, pid, time, *code = entry.split()
        if (word, len(code)) not in {("begin", 0), ("end", 1)}:
            raise ValueError(f"{path}: {entry!r} is no line of a journal")
        when = float(time.replace(",", "."))  # with the decimal sign of the locale
        number = int(code[0]) if code else None
        yield Line(job_id, int(proc_id), int(attempt), node, int(pid), when, number)
