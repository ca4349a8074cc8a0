"""Shows a job while it runs: tqdm bars on a terminal or in a notebook, plain lines elsewhere.

Rules: the only importer of tqdm, with ``widgets`` for notebooks. What is said is decided in
``rows``; here it is only shown. On a terminal each row is a tqdm object that does not write by
itself: all are composed and written in one go, under tqdm's lock, so that ``tqdm.write`` and
``print`` of the user's program stay whole.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tqdm import tqdm
from tqdm.std import Bar  # type: ignore[attr-defined] # not in its type stubs

from allot.forecast import Forecast
from allot.lines import Reporter
from allot.model import JobSnapshot, TaskState
from allot.rows import Columns, Page, Row, seat_tasks
from allot.screen import Screen
from allot.statusline import Tone, lost_nodes, status_line
from allot.widgets import NotebookBoard, in_notebook
from allot.wording import display_width, shorten

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm  # generic in its type stubs only

_LOCK: AbstractContextManager[Any] = tqdm.get_lock()  # type: ignore[no-untyped-call]
_LEAST_REDRAW_S = 0.1
# CPU time that a drawing may take for that; one that takes more has a longer pause behind it, so
# that the bars of a thousand tasks cost no more of a core than those of fifty.
_CHEAP_S = 0.002
_MOST_PAUSES = 50
# An empty line on top, the job's bar and the line of counts.
_LINES_BESIDE_ROWS = 3
_COLOURS: dict[Tone, str] = {
    "good": "\x1b[32m",
    "bad": "\x1b[31m",
    "warn": "\x1b[33m",
    "dim": "\x1b[2m",
}
_BAR_COLOURS: dict[Tone, str] = {"good": "green", "bad": "red", "warn": "yellow"}
_COLOUR_RESET = "\x1b[0m"
_ASCII = str.maketrans({"…": "~", "·": "-"})


class Board(Protocol):
    """Where a job is shown.

    Attributes:
        stays: Whether it may go on beside another one.
    """

    stays: bool

    def draw(self, snapshot: JobSnapshot) -> None:
        """Show the job as it is now; may be called as often as one likes."""

    def close(self, snapshot: JobSnapshot | None = None) -> None:
        """Show the job a last time (None: leave it as it was shown) and let go. Idempotent."""


def say(line: str) -> None:
    """Write a line about a job to stderr, above its bars where there are any."""
    tqdm.write(f"allot: {line}", file=sys.stderr)


def make_board(
    stream: TextIO | None = None,
    *,
    max_bars: int | None = None,
    live: bool = True,
    look: Callable[[], JobSnapshot] | None = None,
) -> Board:
    """Choose how a job is shown.

    Args:
        stream: Where to; None is ``sys.stdout``, or widgets where that is a notebook's.
        max_bars: Most task rows at once; None: what fits the screen.
        live: Where there are only lines: True writes about what happens as it happens, progress
            at each tenth; False takes each ``draw`` for a question and answers with what changed
            since the last one, at most 50 tasks, and one line on the job.
        look: Tells how the job stands; called by a thread. Widgets move by themselves with it,
            from a ``draw`` until no task waits or runs.

    Returns:
        Bars on a terminal, widgets in a notebook with ipywidgets, else plain lines.
    """
    if stream is None and in_notebook():
        return NotebookBoard(max_bars=max_bars, look=look)
    target = sys.stdout if stream is None else stream
    if _is_terminal(target):
        return TerminalBoard(target, max_bars=max_bars)
    return PlainBoard(target, live=live)


class PlainBoard:
    """Lines of text without control characters, for logs, files and pipes."""

    stays = False

    def __init__(self, stream: TextIO, *, live: bool = True) -> None:
        """Write to ``stream``; ``live`` as for ``make_board``."""
        self._stream = stream
        self._reporter = Reporter(live=live)
        self._closed = False

    def draw(self, snapshot: JobSnapshot) -> None:
        """Write what changed."""
        self._tell(snapshot)

    def close(self, snapshot: JobSnapshot | None = None) -> None:
        """Write what changed, and how the job stands."""
        if not self._closed and snapshot is not None:
            self._tell(snapshot, last=True)
        self._closed = True

    def _tell(self, snapshot: JobSnapshot, *, last: bool = False) -> None:
        lines = self._reporter.report(snapshot, time.time(), last=last)
        if not lines:
            return
        try:
            print("\n".join(lines), file=self._stream, flush=True)
        except BrokenPipeError:  # such as: allot run … | head
            self._closed = True
            running = sum(task.state is TaskState.RUNNING for task in snapshot.tasks)
            if running:
                say(
                    "nobody reads on where the job was shown; "
                    f"{running} tasks of job {snapshot.job_name} go on"
                )
            raise


class TerminalBoard:
    """Bars at the foot of a terminal, one a task, one for the job, and a line of counts."""

    stays = False

    def __init__(self, stream: TextIO, *, max_bars: int | None = None) -> None:
        """Draw on the terminal behind ``stream``; ``max_bars`` as for ``make_board``."""
        self._screen = Screen(stream, _LOCK)
        self._stream = stream
        self._max_bars = max_bars
        self._coloured = not os.environ.get("NO_COLOR")
        self._unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
        self._forecast = Forecast()
        self._columns = Columns()
        self._seats: tuple[int | None, ...] = ()
        self._bars: list[_Bar] = []
        self._drawn_at = float("-inf")
        self._pause = _LEAST_REDRAW_S
        self._drawn: tuple[list[str], tuple[int, int]] = ([], (0, 0))
        self._closed = False

    def draw(self, snapshot: JobSnapshot) -> None:
        """Draw the job, unless that was done a moment ago."""
        now = time.monotonic()
        if not self._closed and now - self._drawn_at >= self._pause:
            self._drawn_at, used = now, time.thread_time()
            self._show(snapshot)
            pauses = (time.thread_time() - used) / _CHEAP_S
            self._pause = _LEAST_REDRAW_S * min(max(1.0, pauses), _MOST_PAUSES)

    def close(self, snapshot: JobSnapshot | None = None) -> None:
        """Draw the job a last time and put the cursor below it."""
        if self._closed:
            return
        self._closed = True
        if snapshot is not None:
            # What stays on the screen is read as a list: nothing moves there any more.
            self._seats = tuple(sorted(seat for seat in self._seats if seat is not None))
            self._show(snapshot)
        self._screen.leave()
        for bar in self._bars:
            bar.close()
        atexit.unregister(self.close)

    def _show(self, snapshot: JobSnapshot) -> None:
        with _LOCK:
            size = self._screen.size()
            lines = self._compose(snapshot, *size)
            if (lines, size) == self._drawn:
                return
            if not self._drawn[0]:
                # A program that never closes its board gets its cursor back all the same.
                atexit.register(self.close)
            self._drawn = (lines, size)
            self._screen.show(lines)

    def _compose(self, snapshot: JobSnapshot, columns: int, lines: int) -> list[str]:
        now = time.time()
        # The last column stays free: some terminals wrap as soon as it is written.
        width = max(1, columns - 1)
        room = max(0, lines - _LINES_BESIDE_ROWS)
        room = room if self._max_bars is None else min(room, self._max_bars)
        self._seats = seat_tasks(self._seats, snapshot.tasks, room, lost_nodes(snapshot))
        self._forecast.observe(snapshot.tasks, now)
        page = Page(snapshot, self._forecast, self._columns, width=width, now=now)
        rows = page.rows(self._seats)
        texts = [self._line(self._bar(at), row, width) for at, row in enumerate(rows)]
        while len(self._bars) > len(rows):
            self._bars.pop().close()
        status = status_line(snapshot, self._seats, width)
        texts.append("".join(self._paint(*segment) for segment in status))
        texts = texts[-max(0, lines - 1) :] if lines > 1 else []
        return texts if self._unicode else [text.translate(_ASCII) for text in texts]

    def _bar(self, at: int) -> _Bar:
        if at == len(self._bars):
            # tqdm's place 0 is left to a bar of the user's own: it gets the empty line on top.
            screen = self._screen if at == 0 else None
            self._bars.append(_Bar(screen, file=self._stream, place=at + 1))
        return self._bars[at]

    def _line(self, bar: _Bar, row: Row, width: int) -> str:
        if row.fraction is None:
            head = shorten(row.head, width)
            text = shorten(row.tail, width - display_width(head))
            head = head if row.tone != "dim" else self._paint(head, "dim")
            return f"{head}{self._paint(text, row.tone)}"
        if bar.made is None or bar.made[0] != (row, width):
            bar.made = ((row, width), self._with_bar(bar, row, width))
        return bar.made[1]

    def _with_bar(self, bar: _Bar, row: Row, width: int) -> str:
        tail = self._paint(row.tail, row.tone if row.tone in ("bad", "warn") else "plain")
        # As tqdm would, which takes ten times as long to find out how wide all is without the bar.
        room = width - display_width(row.head) - len("|") - display_width(row.tail)
        charset = Bar.ASCII if bar.ascii is True else bar.ascii or Bar.UTF
        colour = _BAR_COLOURS.get(row.tone) if self._coloured else None
        return f"{row.head}{Bar(row.fraction, room, charset, colour)}|{tail}"

    def _paint(self, text: str, tone: Tone) -> str:
        if not self._coloured or tone == "plain" or not text:
            return text
        return f"{_COLOURS[tone]}{text}{_COLOUR_RESET}"


class _Bar(_Tqdm):
    """A tqdm bar that others write: it keeps its text, and its place among tqdm's bars.

    One of a board's bars is given the screen and stands for the whole block: ``tqdm.write``
    clears and refreshes every bar it finds, which here takes the block away and brings it back.
    """

    monitor_interval = 0  # tqdm's thread would have nothing to do here

    def __init__(self, screen: Screen | None, *, file: TextIO, place: int) -> None:
        self._screen = screen
        self.made: tuple[tuple[Row, int], str] | None = None
        super().__init__(total=1, file=file, position=place, leave=False, disable=False)

    def close(self) -> None:
        """Give its place back; tqdm's own way looks at all bars for each."""
        if self._screen is not None:
            super().close()
        self.disable = True
        tqdm._instances.discard(self)  # type: ignore[attr-defined]

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        if self._screen is not None and msg is None:
            self._screen.restore()

    def clear(self, nolock: bool = False) -> None:  # noqa: ARG002 - as tqdm calls it
        if self._screen is not None:
            self._screen.erase()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
