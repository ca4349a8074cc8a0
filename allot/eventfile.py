"""A node's event file, read on from where it was left.

Rules: used by one thread at a time. Where the bytes before that place are not those that were
taken in (the file was cut, overwritten or replaced), it is read anew from its beginning: what is
known already does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allot.events import BEGINNING, Cursor, Event, parse_events
from allot.node import FileRead
from allot.output import Reader

_BLOCK = 128 * 1024
_CHECK = 64


class EventFile:
    """The event file of one node.

    Attributes:
        path: Where it lies on the node.
        cursor: How far it was taken in.
    """

    def __init__(self, cursor: Cursor) -> None:
        """Go on from where an earlier reader was."""
        self.path = ""
        self.cursor = cursor

    def read(self, reader: Reader) -> Iterator[tuple[Cursor, Sequence[Event]]]:
        """Read what is new.

        Yields:
            Events, with the cursor before them.

        Raises:
            OSError: It cannot be read.
            ConnectionFailedError: The node is out of reach.
        """
        while True:
            before = self.cursor
            start = max(0, before.offset - _CHECK)
            data = reader.read([FileRead(self.path, start, _CHECK + _BLOCK)])[0]
            if isinstance(data, OSError):
                raise data
            known = before.offset - start
            if data[:known].hex() != before.check:
                self.cursor = BEGINNING
                continue
            events, taken = parse_events(data[known:])
            end = known + taken
            self.cursor = Cursor(start + end, data[max(0, end - _CHECK) : end].hex())
            yield before, events
            if len(data) < _CHECK + _BLOCK:
                return

    def reopen(self, reader: Reader) -> None:
        """Look the file up under its name again at the next read."""
        reader.forget([self.path])
