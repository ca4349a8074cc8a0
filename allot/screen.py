"""A block of lines at the foot of what a terminal shows, drawn over and over in place.

Rules: the cursor rests on an empty line above the block, so that what anyone prints there stays
readable and moves the block down, and so that a resize cannot strand old lines: everything below
the cursor is ours. One write a drawing. The cursor is never hidden and no mode is changed, so a
killed program leaves nothing to repair.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TextIO, cast

from allot.wording import display_width

_log = logging.getLogger(__name__)

_TO_END_OF_LINE = "\x1b[K"
_TO_END_OF_SCREEN = "\x1b[J"
_UNKNOWN_SIZE = (80, 24)


class Screen:
    """The terminal behind a stream, with a block of lines of ours at its foot.

    While it is open, ``sys.stdout`` and ``sys.stderr`` are replaced where they go to the same
    terminal: what the program prints appears above the block. One screen at a time has its block
    there: when another draws, the first one's block is left behind as it stands.
    """

    _shown: ClassVar[Screen | None] = None

    def __init__(self, stream: TextIO, lock: AbstractContextManager[Any]) -> None:
        """Take a terminal.

        Args:
            stream: A stream that goes to a terminal.
            lock: Held during each write; reentrant.
        """
        self._stream = stream
        self._lock = lock
        self._lines: list[str] = []
        self._typed = ""
        self._lost = False
        self._replaced: dict[str, TextIO] = {}
        self._open = False
        self._drawn_size: tuple[int, int] | None = None

    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; 80 and 24 where it does not say."""
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return _UNKNOWN_SIZE
        return columns or _UNKNOWN_SIZE[0], lines or _UNKNOWN_SIZE[1]

    def show(self, lines: Sequence[str]) -> None:
        """Draw the block; the lines must fit the terminal and may hold colours."""
        with self._lock:
            if not self._open:
                if Screen._shown is not None:
                    Screen._shown.leave()
                Screen._shown, self._open = self, True
                self._take_streams()
            self._lines = list(lines)
            size = self.size()
            resized, self._drawn_size = size != (self._drawn_size or size), size
            # A resize breaks old lines anew, also onto the cursor's, and remembers the breaks.
            clear = self._cleared() if resized else ""
            self._write(f"{clear}\r{self._typed}{self._drawn()}")

    def erase(self) -> None:
        """Take the block off the screen, until ``restore``."""
        with self._lock:
            self._write(self._cleared())
            self._typed = ""

    def restore(self) -> None:
        """Draw the block as it was last shown."""
        with self._lock:
            if self._open:
                self._write(self._drawn())

    def leave(self) -> None:
        """Let the block stand and go on below it; the streams are given back. Idempotent."""
        with self._lock:
            if not self._open:
                return
            Screen._shown, self._open = None, False
            lines = "".join(f"{line}{_TO_END_OF_LINE}\r\n" for line in self._lines)
            self._write(f"\r\n{lines}{_TO_END_OF_SCREEN}")
            self._give_streams_back()
            self._typed = ""

    def print_above(self, text: str) -> None:
        """Write the program's own text where the cursor rests, above the block."""
        with self._lock:
            if not self._open:
                self._write(text)
                return
            whole, newline, rest = (self._typed + text).rpartition("\n")
            rest = rest.rpartition("\r")[2]
            if display_width(rest) >= self.size()[0]:
                whole, newline, rest = f"{whole}{newline}{rest}", "\n", ""
            self._typed = rest
            if newline:
                # Written over the block line by line, so that nothing flickers.
                above = f"{whole}\n".replace("\n", f"{_TO_END_OF_LINE}\n")
                self._write(f"\r{above}{rest}{_TO_END_OF_LINE}{self._drawn()}")
            else:
                self._write(text)

    def _cleared(self) -> str:
        """What empties the cursor's line and all below it.

        In two steps: where all of the screen is cleared at once, some terminals keep what was
        there in their history.
        """
        below = f"\x1b[B{_TO_END_OF_SCREEN}\x1b[A" if self._lines else ""
        return f"\r{_TO_END_OF_LINE}{below}"

    def _drawn(self) -> str:
        """What draws the block below the cursor's line and comes back to it."""
        if not self._lines:
            return ""
        block = "".join(f"\r\n{line}{_TO_END_OF_LINE}" for line in self._lines)
        return f"{block}{_TO_END_OF_SCREEN}\x1b[{len(self._lines)}A\r{self._typed}"

    def _write(self, text: str) -> None:
        if self._lost:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError) as error:
            # A terminal that went away must not take the job's watcher with it.
            self._lost = True
            _log.info("the terminal is gone, no more bars: %s", error)

    def _take_streams(self) -> None:
        terminal = _terminal_name(self._stream)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if terminal is not None and _terminal_name(stream) == terminal:
                self._replaced[name] = stream
                setattr(sys, name, cast(TextIO, _Above(stream, self)))

    def _give_streams_back(self) -> None:
        for name, stream in self._replaced.items():
            current = getattr(sys, name)
            # Someone else may have put a stream of theirs there meanwhile: it is theirs to undo.
            if isinstance(current, _Above) and current.screen is self:
                setattr(sys, name, stream)
        self._replaced.clear()


class _Above:
    """A standard stream whose text appears above the block."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self._stream = stream
        self.screen = screen

    def write(self, text: str) -> int:
        self.screen.print_above(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _terminal_name(stream: TextIO | None) -> str | None:
    try:
        return None if stream is None else os.ttyname(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None
