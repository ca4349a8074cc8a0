"""Reading files that will be asked for soon along with those that are asked for now."""

from __future__ import annotations

from collections.abc import Sequence

from allot.node import FileRead
from allot.output import Data, Reader


class ReadAlong:
    """A reader that reads more, in one go with what it is asked for first, and keeps it at hand."""

    def __init__(self, reader: Reader, more: Sequence[FileRead]) -> None:
        self._reader = reader
        self._more = more
        self._at_hand: dict[FileRead, Data] = {}

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """See :class:`Reader`; what was read along is given out once."""
        known = [self._at_hand.pop(read, None) for read in reads]
        asked = [read for read, data in zip(reads, known, strict=True) if data is None]
        more, self._more = self._more, ()
        answers = self._reader.read([*asked, *more]) if asked or more else []
        self._at_hand |= zip(more, answers[len(asked) :], strict=True)
        rest = iter(answers)
        return [next(rest) if data is None else data for data in known]

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """See :class:`Reader`."""
        return self._reader.sizes(files)

    def forget(self, files: Sequence[str]) -> None:
        """See :class:`Reader`."""
        for read in [read for read in self._at_hand if read.path in files]:
            del self._at_hand[read]
        self._reader.forget(files)
