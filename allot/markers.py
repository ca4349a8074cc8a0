r"""Progress markers in a task's output: ``\x02step/total\x03``.

Rules: bytes in, ``Progress`` out; no I/O. The bytes may be split anywhere and hold anything.
A marker is broken, and skipped, unless it is made of decimal digits with
``0 <= step <= total`` and ``total > 0``; ``\x02`` always begins anew. A number of more than 60
digits is broken too: that is what bounds the memory.
"""

from __future__ import annotations

import re

from allot.model import Progress

_DIGITS = 60

MOST_MARKER_BYTES = 128
"""No marker is longer."""

# The longest piece of a marker that may still become whole: \x02, step, "/", total.
_LONGEST_OPEN = 1 + _DIGITS + 1 + _DIGITS

# The greedy start makes the engine search from the end, in C and without copying: data dense
# with markers, of which only the last counts, are as quick as data without any.
_LAST_MARKER = re.compile(rb"(?s:.*)\x02([0-9]{1,%d})/([0-9]{1,%d})\x03" % (_DIGITS, _DIGITS))
_OPEN_MARKER = re.compile(rb"\x02(?:[0-9]{1,%d}(?:/[0-9]{0,%d})?)?\Z" % (_DIGITS, _DIGITS))


_ANY_MARKER = re.compile(rf"\x02[^\x02\x03\n]{{0,{MOST_MARKER_BYTES}}}\x03")


class MarkerParser:
    r"""Finds the latest progress marker in output that arrives piece by piece.

    It keeps fewer than 128 bytes between two pieces, however long a line is.

    Attributes:
        latest: The latest valid marker so far, or None.
        most_bytes: No marker is longer.

    Example:
        >>> parser = MarkerParser()
        >>> parser.feed(b"epoch 1 \x023/1")
        >>> parser.feed(b"0\x03 done")
        Progress(step=3, total=10)
    """

    most_bytes = MOST_MARKER_BYTES

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self._open = b""

    def feed(self, data: bytes) -> Progress | None:
        """Read the next piece of the output.

        Args:
            data: The bytes that follow those of the last call.

        Returns:
            The latest valid marker that ended in ``data``, or None where none did.
        """
        # Only so much of a long piece can belong to a marker begun before it.
        seam = self._open + data[:_LONGEST_OPEN]
        found = _last_progress(data) or _last_progress(seam)
        end = data[-_LONGEST_OPEN:] if len(data) >= _LONGEST_OPEN else seam[-_LONGEST_OPEN:]
        still_open = _OPEN_MARKER.search(end)
        self._open = still_open[0] if still_open else b""
        if found is not None:
            self.latest = found
        return found

    def reset(self, *, mid_line: bool = False) -> None:  # noqa: ARG002 - as all parsers have it
        """Forget everything: the output file was begun anew, or is read on elsewhere.

        Args:
            mid_line: Makes no difference: a marker's first byte is nothing else's.
        """
        self.latest = None
        self._open = b""


def without_markers(text: str) -> str:
    """Output as a person reads it: lines that hold nothing but markers left out, the bytes too."""
    lines = [(line, _ANY_MARKER.sub("", line)) for line in text.splitlines(keepends=True)]
    return "".join(shown for line, shown in lines if shown.strip() or line == shown)


def _last_progress(data: bytes) -> Progress | None:
    end = len(data)
    while marker := _LAST_MARKER.match(data, 0, end):
        step, total = int(marker[1]), int(marker[2])
        if step <= total and total > 0:
            return Progress(step, total)
        end = marker.start(1)
    return None
