r"""Progress of programs as they are: tqdm's bars, or whatever a user's regex finds.

Rules: bytes in, ``Progress`` out; no I/O. The bytes may be split anywhere and hold anything.

* ``"allot"`` reads the markers of :mod:`allot.markers`.
* Else the output is read by lines, which end with ``\n`` or ``\r``. A line is cut after
  ``MOST_LINE_BYTES``; the rest of it is not read. That is what bounds the memory.
* A regex is matched against one line at a time, without its end, decoded as UTF-8 with U+FFFD
  for what is none. It sees a line once that has ended: half a number is no number. The last
  match whose groups ``step`` and ``total`` are numbers counts. Where either has a decimal point
  both are told in thousandths.
* A tqdm bar counts at once, since tqdm ends it when it draws the next. Of nested bars the
  outermost counts: behind a bar that is not at position 0 tqdm moves the cursor up, and such
  bars are skipped. A nested bar's last sight is drawn at position 0, so a full bar of another
  total than the one before, while that is not full, is skipped too (two nested loops of the
  same length cannot be told apart there). Of bars one after another, the one begun last counts.
  What tqdm rounded (``1.20k/3.40M``) is told in items.
* A step beyond its total, a total of 0, a number of more than 60 digits on one side of its
  point: skipped, never an error.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from allot.errors import ConfigError
from allot.markers import MarkerParser
from allot.model import Progress

MOST_LINE_BYTES = 4096
"""Of a longer line only so much is read."""

_NUMBER = r"([0-9]{1,60})(?:\.([0-9]{1,60}))?"
_ANY_NUMBER = re.compile(_NUMBER)

# ``| 12/400 [00:01<``, or after ``%`` where ncols=0 leaves the bar out. The greedy start makes the
# engine search from the end. What follows may be cut off, where tqdm found the screen too narrow.
_TQDM_NUMBER = _NUMBER.encode() + rb"([kMGTPEZY]?)"
_BAR = re.compile(rb"(?s:.*)[%%|] %b/%b \[-?[0-9]+:[0-9:]+<" % (_TQDM_NUMBER, _TQDM_NUMBER))
_CURSOR_UP = b"\x1b[A"
_PREFIXES = "kMGTPEZY"
_REMEDY = (
    'give "allot", "tqdm", or a Python regular expression with the named groups'
    r' (?P<step>...) and (?P<total>...), such as r"step (?P<step>\d+) of (?P<total>\d+)"'
)


class ProgressParser(Protocol):
    """Finds the latest progress in output that arrives piece by piece."""

    @property
    def latest(self) -> Progress | None:
        """The latest progress so far, or None."""

    @property
    def most_bytes(self) -> int:
        """So far back in the output may begin what is still to be found, in bytes."""

    def feed(self, data: bytes) -> Progress | None:
        """Read the next piece of the output.

        Args:
            data: The bytes that follow those of the last call.

        Returns:
            The latest progress if ``data`` told any, else None.
        """

    def reset(self, *, mid_line: bool = False) -> None:
        """Forget everything: the output was begun anew, or is read on elsewhere.

        Args:
            mid_line: What is fed next may begin in the middle of a line.
        """


def make_parser(progress_pattern: str) -> ProgressParser:
    r"""The parser for one output.

    Args:
        progress_pattern: ``"allot"``, ``"tqdm"``, or a regex with groups ``step`` and ``total``.

    Raises:
        ConfigError: The regex is invalid or lacks a group.

    Example:
        >>> make_parser(r"epoch (?P<step>\d+) of (?P<total>\d+)").feed(b"epoch 3 of 10\n")
        Progress(step=3, total=10)
    """
    if progress_pattern == "allot":
        return MarkerParser()
    if progress_pattern == "tqdm":
        return TqdmParser()
    return RegexParser(_compiled(progress_pattern))


def check_pattern(progress_pattern: str) -> None:
    """Refuse what :func:`make_parser` cannot work with.

    Raises:
        ConfigError: The regex is invalid or lacks a group.
    """
    make_parser(progress_pattern)


class LineParser(ABC):
    """What reads by lines has in common; see the head of this module.

    Attributes:
        latest: The latest progress so far, or None.
        most_bytes: No line is longer, with its end or cut.
    """

    most_bytes = MOST_LINE_BYTES

    def __init__(self) -> None:
        self.latest: Progress | None = None
        # The line that has not ended yet; None where the rest of it is not read.
        self._open: bytes | None = b""

    @abstractmethod
    def feed(self, data: bytes) -> Progress | None:
        """See :class:`ProgressParser`."""

    def reset(self, *, mid_line: bool = False) -> None:
        """See :class:`ProgressParser`."""
        self.latest = None
        self._open = None if mid_line else b""

    def _ended(self, data: bytes) -> list[bytes]:
        """The lines that end in a piece, or are cut there; the last one is kept open."""
        lines = data.replace(b"\r", b"\n").split(b"\n")
        if self._open is not None:
            lines[0] = self._open + lines[0]
        elif len(lines) > 1:
            del lines[0]
        else:
            return []
        self._open = lines.pop()
        if len(self._open) >= MOST_LINE_BYTES:
            lines.append(self._open)
            self._open = None
        return [line[:MOST_LINE_BYTES] for line in lines if line]


class RegexParser(LineParser):
    """Finds what a user's regex finds."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        """Look for a pattern.

        Args:
            pattern: It has the groups ``step`` and ``total``.
        """
        super().__init__()
        self._pattern = pattern

    def feed(self, data: bytes) -> Progress | None:
        """See :class:`ProgressParser`."""
        for line in reversed(self._ended(data)):
            matches = list(self._pattern.finditer(line.decode("utf-8", "replace")))
            for match in reversed(matches):
                if progress := _matched_progress(match["step"], match["total"]):
                    self.latest = progress
                    return progress
        return None


class TqdmParser(LineParser):
    """Finds the outermost bar that tqdm drew."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None  # as the lines that have ended tell it

    def feed(self, data: bytes) -> Progress | None:
        """See :class:`ProgressParser`."""
        ended = _outermost(self._ended(data), self._bar)
        shown = _outermost([self._open or b""], ended or self._bar)
        self._bar = ended or self._bar
        self.latest = shown or self._bar
        return shown or ended

    def reset(self, *, mid_line: bool = False) -> None:
        """See :class:`ProgressParser`."""
        super().reset(mid_line=mid_line)
        self._bar = None


def _compiled(pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise _refused(pattern, "must be text")
    try:
        compiled = re.compile(pattern)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise _refused(pattern, f"is no valid regular expression ({error})") from error
    missing = [group for group in ("step", "total") if group not in compiled.groupindex]
    if missing:
        raise _refused(pattern, f"has no group named {' and none named '.join(missing)}")
    return compiled


def _refused(pattern: object, problem: str) -> ConfigError:
    return ConfigError(f"progress_pattern {pattern!r} {problem}; {_REMEDY}")


def _matched_progress(step: str | None, total: str | None) -> Progress | None:
    numbers = [_ANY_NUMBER.fullmatch((text or "").strip()) for text in (step, total)]
    if not all(numbers):
        return None
    has_point = any(number[2] for number in numbers if number)
    values = [
        _scaled(number[1], number[2], 1000 if has_point else 1) for number in numbers if number
    ]
    return _progress(*values)


def _outermost(lines: Sequence[bytes], before: Progress | None) -> Progress | None:
    """The bar at position 0 that counts, read from the end as far as it takes.

    Args:
        lines: Where to look.
        before: The one that counted before them.

    Returns:
        None where no line has one that counts.
    """
    full: list[Progress] = []
    latest = None
    for bar in _bars_from_the_end(lines):
        if bar.step < bar.total:
            latest = bar
            break
        full.append(bar)
    for bar in reversed(full):
        outer = latest or before
        if outer is None or outer.total in (outer.step, bar.total):
            latest = bar
    return latest


def _bars_from_the_end(lines: Sequence[bytes]) -> Iterable[Progress]:
    for line in reversed(lines):
        match = _BAR.match(line)
        if match and b"%" in line[: match.start(1)] and _CURSOR_UP not in line[match.end() :]:
            bar = _bar_progress([(group or b"").decode() for group in match.groups()])
            if bar is not None:
                yield bar


def _bar_progress(groups: Sequence[str]) -> Progress | None:
    step, step_fraction, step_prefix, total, total_fraction, total_prefix = groups
    # Only where 1,024 items are a "k" does tqdm tell a total of 1,000 k as 0.98 M.
    divisor = 1024 if total_prefix and total.strip("0") == "" else 1000
    # The total says whether there are parts of an item; "1.00/200" is tqdm's for 1 of 200.
    part = 1000 if total_fraction and not total_prefix else 1
    return _progress(
        _scaled(step, step_fraction, part * _factor(step_prefix, divisor)),
        _scaled(total, total_fraction, part * _factor(total_prefix, divisor)),
    )


def _factor(prefix: str, divisor: int) -> int:
    return divisor ** (_PREFIXES.index(prefix) + 1) if prefix else 1


def _scaled(whole: str, fraction: str | None, factor: int) -> int:
    """A decimal number times a factor, rounded down."""
    digits = fraction or ""
    return int(whole + digits) * factor // int("1" + "0" * len(digits))


def _progress(step: int, total: int) -> Progress | None:
    return Progress(step, total) if step <= total and total > 0 else None
