"""Reading a node's files while nobody knows yet whether an SFTP session is worth its price.

Rules: used by one thread at a time. To open a session takes the node and the client as long as a
dozen requests to the Bash that is open anyway, which can show small texts by itself: it is asked
as long as that is rare. What it does not show, and all that comes later, is read by other means.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from allot import readings
from allot.errors import ConnectionFailedError
from allot.node import FileRead, Node
from allot.output import Data, Reader, SftpReader, ShellReader

_MOST_PEEKS = 10
_PEEKS_A_S = 0.5  # so many for ever; more only until there were 10 more than that
_MOST_FILES = 32


class NodeReader:
    """Files on a node: by a look of its Bash, over SFTP, or where that is off by programs there."""

    def __init__(self, node: Node) -> None:
        """Prepare; nothing is asked yet."""
        self._node = node
        self._credit = float(_MOST_PEEKS)
        self._peeked_at = time.monotonic()
        self._question = ""
        self._answer: bytes | None = None

    def ask_along(self, script: str) -> None:
        """Have the Bash asked something else in one go with the next look, if there is one.

        Args:
            script: Answers in ``__allot_reply``, without ``readings.PEEK_END``.
        """
        self._question, self._answer = script, None

    def take_answer(self) -> bytes | None:
        """What it said to that; None where there was no look. It is not asked any more."""
        answer, self._question, self._answer = self._answer, "", None
        return answer

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """See :class:`Reader`."""
        seen = self._peek(reads)
        rest = [read for read, data in zip(reads, seen, strict=True) if data is None]
        others = iter(self.without_peeks().read(rest) if rest else ())
        return [next(others) if data is None else data for data in seen]

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """See :class:`Reader`."""
        seen = self._peek([FileRead(file, 0, readings.MOST_PEEKED) for file in files])
        rest = [file for file, data in zip(files, seen, strict=True) if data is None]
        others = iter(self.without_peeks().sizes(rest) if rest else ())
        return [
            next(others) if data is None else len(data) if isinstance(data, bytes) else data
            for data in seen
        ]

    def forget(self, files: Sequence[str]) -> None:
        """See :class:`Reader`."""
        if self._node.has_sftp:
            self.without_peeks().forget(files)

    def without_peeks(self) -> Reader:
        """Reads without asking the Bash that is kept open, which may be busy for long.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return SftpReader(self._node) if self._node.open_sftp() else ShellReader(self._node)

    def _peek(self, reads: Sequence[FileRead]) -> list[Data | None]:
        """What a look shows; None for what it does not, or where there is to be none."""
        now = time.monotonic()
        credit = min(self._credit + _PEEKS_A_S * (now - self._peeked_at), _MOST_PEEKS)
        worth_it = self._node.has_sftp is None and credit >= 1
        if not worth_it or not 0 < len(reads) <= _MOST_FILES:
            return [None] * len(reads)
        self._credit, self._peeked_at = credit - 1, now
        pieces = [(read.path, read.offset, read.length) for read in reads]
        question, self._question = self._question, ""
        script = f"{readings.peek_script(pieces)}\n{question}"
        *answers, rest = self._node.request(script).split(readings.PEEK_END)
        if len(answers) != len(reads) or (rest and not question):
            raise ConnectionFailedError(self._node.name, "garbled answer of its shell")
        if question:
            self._answer = rest
        return [_understand(answer, read) for answer, read in zip(answers, reads, strict=True)]


def _understand(answer: bytes, read: FileRead) -> Data | None:
    if answer == readings.MISSING:
        return FileNotFoundError(f"{read.path}: no such file on the node")
    if answer.startswith(readings.PRESENT):
        return answer.removeprefix(readings.PRESENT)
    return None
