"""Sending files to a node: put together under another name there, and renamed when whole.

Rules: used by one thread at a time; no descriptor is kept between two rounds. A file that changes
here while it is sent is begun anew, and in the end given up: what arrives is a file as it once
was. What the client sees on both sides (the two directories are one) is left as it is.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from allot import errands, paths
from allot.errors import ConnectionFailedError
from allot.node import FileMove, FileWrite, Node
from allot.staging import Entry, as_mtime

_T = TypeVar("_T")

# Every SFTP server takes writes of this size (draft-ietf-secsh-filexfer-02, section 3).
_PIECE_BYTES = 32 * 1024
_ROUND_BYTES = 2 * 1024 * 1024
_MOST_OPEN = 128
_MOST_A_REQUEST = 16  # to Bash: all of it must arrive in time, over a slow line too
_TRIES = 3


class Writer(Protocol):
    """Files that come to be on a node."""

    def write(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """Write pieces, all of one file's together; one answer each.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """

    def move(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """Put into place what is whole; one answer each.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """


class SftpWriter:
    """Over the node's SFTP channel."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def write(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """See :class:`Writer`."""
        return self._node.write_files(pieces)

    def move(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """See :class:`Writer`."""
        return self._node.move_files(moves)


class ShellWriter:
    """Through the node's kept-open Bash, where SFTP is switched off."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def write(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """See :class:`Writer`."""
        texts = [(one.path, one.offset, base64.b64encode(one.data).decode()) for one in pieces]
        return self._ask(errands.write_script, texts, [one.path for one in pieces])

    def move(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """See :class:`Writer`."""
        texts = [(one.part, one.path, one.mtime, one.mode) for one in moves]
        return self._ask(errands.settle_script, texts, [one.path for one in moves])

    def _ask(
        self, script: Callable[[Sequence[_T]], str], items: Sequence[_T], files: Sequence[str]
    ) -> list[OSError | None]:
        said: list[str] = []
        for first in range(0, len(items), _MOST_A_REQUEST):
            some = items[first : first + _MOST_A_REQUEST]
            answers = errands.parse_problems(self._node.request(script(some)))
            if len(answers) != len(some):
                raise ConnectionFailedError(self._node.name, "garbled answer of its shell")
            said += answers
        return [
            OSError(None, problem, file) if problem else None
            for problem, file in zip(said, files, strict=True)
        ]


@dataclass(frozen=True)
class Sent:
    """How the sending of a file ended.

    Attributes:
        path: The file there, absolute.
        problem: Empty if it is there, else what was in the way.
    """

    path: str
    problem: str = ""


class _Sending:
    """One file on its way."""

    def __init__(self, entry: Entry, root: str, key: str) -> None:
        self.entry = entry
        self.path = str(PurePosixPath(root, entry.name))
        self.part = paths.unfinished(self.path, key)
        self.offset = 0
        self.tries = 0
        self.identity = (-1, 0)  # it was not looked at yet

    def pieces(self, most: int) -> list[FileWrite]:
        """The next pieces, as the file is now.

        Raises:
            OSError: It cannot be read here.
        """
        with open(self.entry.path, "rb", opener=_open_at_once) as file:
            said = os.fstat(file.fileno())
            if not stat.S_ISREG(said.st_mode):
                raise OSError(None, "it is no file any more")
            identity = said.st_size, said.st_mtime_ns
            if identity != self.identity:
                self.offset, self.identity, self.tries = 0, identity, self.tries + 1
                if self.tries > _TRIES:
                    raise OSError(None, "it changes all the time; name a copy of it")
            file.seek(self.offset)
            data = file.read(most)
        starts = range(0, len(data), _PIECE_BYTES) if data or self.offset else range(1)
        return [
            FileWrite(self.part, self.offset + at, data[at : at + _PIECE_BYTES]) for at in starts
        ]

    @property
    def is_whole(self) -> bool:
        return self.offset >= self.identity[0]

    def is_unchanged(self) -> bool:
        """Whether the file here is still the one that was read."""
        said = self.entry.path.stat()
        return (said.st_size, said.st_mtime_ns) == self.identity

    @property
    def move(self) -> FileMove:
        return FileMove(self.part, self.path, as_mtime(self.identity[1]), self.entry.mode)


class Sender:
    """The files that are on their way to one node.

    Attributes:
        done: Bytes that have arrived since there was nothing under way.
        total: Bytes in all since then.
    """

    def __init__(self, key: str) -> None:
        """Prepare; ``key`` marks what is unfinished, and is this client's own for this node."""
        self._key = key
        self._breaks = 0
        self._waiting: deque[_Sending] = deque()
        self._under_way: list[_Sending] = []
        self.done = self.total = 0

    @property
    def key(self) -> str:
        """What marks the files that are under way now."""
        return f"{self._key}-{self._breaks}"

    @property
    def busy(self) -> bool:
        """Whether a file is on its way."""
        return bool(self._waiting or self._under_way)

    def add(self, root: str, entries: Iterable[Entry]) -> None:
        """Take on some files, which go below an absolute directory there."""
        if not self.busy:
            self.done = self.total = 0
        for entry in entries:
            self._waiting.append(_Sending(entry, root, self.key))
            self.total += entry.size

    def advance(self, writer: Writer) -> list[Sent]:
        """Send the next pieces.

        Returns:
            The files that are settled now.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        settled: list[Sent] = []
        asked: list[tuple[_Sending, list[FileWrite]]] = []
        room = _ROUND_BYTES
        while room > 0 and len(asked) < _MOST_OPEN and self.busy:
            one = self._under_way.pop(0) if self._under_way else self._waiting.popleft()
            before = one.offset
            try:
                pieces = one.pieces(room)
            except OSError as error:
                settled.append(_unread(one, error))
                continue
            finally:
                self.done -= before - one.offset  # it was begun anew
            asked.append((one, pieces))
            room -= sum(len(piece.data) for piece in pieces)
        answers = iter(writer.write([piece for _, pieces in asked for piece in pieces]))
        whole: list[_Sending] = []
        for one, pieces in asked:
            refusals = [refusal for refusal in [next(answers) for _ in pieces] if refusal]
            if refusals:
                settled.append(_unwritten(one, refusals[0]))
                continue
            self._note(one, pieces)
            if _is_seen_here(one):
                settled.append(Sent(one.path))
            elif one.is_whole:
                whole.append(one)
            else:
                self._under_way.append(one)
        return settled + self._put_in_place(writer, whole)

    def _note(self, one: _Sending, pieces: Sequence[FileWrite]) -> None:
        sent = sum(len(piece.data) for piece in pieces)
        one.offset += sent
        self.done = min(self.done + sent, self.total)

    def _put_in_place(self, writer: Writer, whole: Sequence[_Sending]) -> list[Sent]:
        settled: list[Sent] = []
        ready: list[_Sending] = []
        for one in whole:
            try:
                if one.is_unchanged():
                    ready.append(one)
                else:
                    self._under_way.append(one)  # it is begun anew, as it is now
            except OSError as error:
                settled.append(_unread(one, error))
        for one, refusal in zip(ready, writer.move([one.move for one in ready]), strict=True):
            settled.append(_unwritten(one, refusal) if refusal else Sent(one.path))
        return settled

    def abandon(self) -> list[str]:
        """Forget what is under way.

        What was sent may still be carried out: what follows is put together under other names.

        Returns:
            The unfinished files there, absolute; where they cannot be removed now, the next look
            at their directory does it.
        """
        self._breaks += 1
        unfinished = [one.part for one in self._under_way]
        self._waiting.clear()
        self._under_way.clear()
        return unfinished


def _is_seen_here(one: _Sending) -> bool:
    """Whether the unfinished file turned up beside its source: both directories are the same."""
    twin = one.entry.path.with_name(PurePosixPath(one.part).name)
    if not os.path.lexists(twin):
        return False
    Path(twin).unlink(missing_ok=True)
    return True


def _unread(one: _Sending, error: OSError) -> Sent:
    path = one.entry.path
    return Sent(one.path, f"stage_in: {path} cannot be read here: {error.strerror or error}")


def _unwritten(one: _Sending, error: OSError) -> Sent:
    why = error.strerror or error
    remedy = {errno.EACCES: "who may write there?", errno.ENOENT: "was a directory removed?"}
    asked = remedy.get(error.errno or 0, "is there room?")
    return Sent(one.path, f"stage_in: {one.path} cannot be written there: {why}; {asked}")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # one that became a pipe must not be waited for
