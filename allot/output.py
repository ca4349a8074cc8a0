"""Reading task outputs as they grow, wherever they lie.

Three readers behind one protocol: files the client itself sees, SFTP, and, where a node has
SFTP switched off, commands in its kept-open Bash. A reader never waits for a file to grow.
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from allot import readings
from allot.errors import ConnectionFailedError
from allot.markers import MarkerParser
from allot.model import Progress
from allot.node import FileRead, Node
from allot.patterns import ProgressParser
from allot.probe import lies_on_local_file_system

Data: TypeAlias = bytes | OSError

LOOK_BYTES = 64 * 1024
"""Read at most from one output at one look; what is far behind skips ahead to the end."""

_ROUNDS = 4
_GROUP = 32
_LOOKS_A_FILE = 10
_LAST_LOOK_BYTES = 4 * 1024 * 1024
_TAIL_BYTES = 256 * 1024
_MOST_AT_ONCE = 4 * 1024 * 1024
_SHELL_LOOK_BYTES = 16 * 1024 * 1024


class Reader(Protocol):
    """Pieces of files, many at once."""

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """One answer a read: the bytes (none at the end of the file), or what was in the way.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """The size of each file in bytes, or what was in the way.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """

    def forget(self, files: Sequence[str]) -> None:
        """Look at files anew that may have been replaced under their names.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """


class LocalReader:
    """Files that the client sees itself; each is opened anew for each look, as NFS wants it."""

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """See :class:`Reader`."""
        return [self._read(read) for read in reads]

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """See :class:`Reader`."""
        return [self._size(file) for file in files]

    def forget(self, files: Sequence[str]) -> None:
        """See :class:`Reader`; nothing is kept open."""

    @staticmethod
    def _read(read: FileRead) -> Data:
        try:
            # Without O_NONBLOCK a pipe with nobody at its other end would hold up the node's turn.
            descriptor = os.open(read.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return os.pread(descriptor, read.length, read.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            return error

    @staticmethod
    def _size(file: str) -> int | OSError:
        try:
            return os.stat(file).st_size
        except OSError as error:
            return error


class SftpReader:
    """Files on a node, over its SFTP channel."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """See :class:`Reader`."""
        return self._node.read_files(reads)

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """See :class:`Reader`."""
        return [
            stat if isinstance(stat, OSError) else stat.size
            for stat in self._node.stat_files(files)
        ]

    def forget(self, files: Sequence[str]) -> None:
        """See :class:`Reader`."""
        self._node.forget_files(files)


class ShellReader:
    """Files on a node that has SFTP switched off, read by ``tail`` and ``head``."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        """See :class:`Reader`."""
        answers: list[Data] = []
        batch: list[FileRead] = []
        for read in reads:
            if batch and sum(one.length for one in batch) + read.length > _SHELL_LOOK_BYTES:
                answers += self._ask(batch)
                batch = []
            batch.append(read)
        return answers + self._ask(batch)

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        """See :class:`Reader`."""
        if not files:
            return []
        lines = self._node.request(readings.sizes_script(files)).split()
        self._check(lines, len(files))
        return [
            int(line) if line.isdigit() else FileNotFoundError(f"{file}: no such file on the node")
            for line, file in zip(lines, files, strict=True)
        ]

    def forget(self, files: Sequence[str]) -> None:
        """See :class:`Reader`; nothing is kept open."""

    def _ask(self, reads: Sequence[FileRead]) -> list[Data]:
        if not reads:
            return []
        pieces = [(read.path, read.offset, read.length) for read in reads]
        lines = self._node.request(readings.read_script(pieces)).split()
        self._check(lines, len(reads))
        return [self._decode(line, read) for line, read in zip(lines, reads, strict=True)]

    def _check(self, lines: list[bytes], count: int) -> None:
        if len(lines) != count:
            raise ConnectionFailedError(self._node.name, "garbled answer of its shell")

    def _decode(self, line: bytes, read: FileRead) -> Data:
        if line == readings.MISSING:
            return FileNotFoundError(f"{read.path}: no such file on the node")
        if line == readings.UNREADABLE:
            return PermissionError(f"{read.path}: permission denied on the node")
        try:
            return base64.b64decode(line.removeprefix(readings.PRESENT), validate=True)
        except binascii.Error as error:
            raise ConnectionFailedError(self._node.name, "garbled answer of its shell") from error


@dataclass
class Watch:
    """How far one output was read, and what progress it told.

    Attributes:
        path: The file.
        offset: Bytes read so far.
        not_before: When it may be looked at first, seconds on the monotonic clock.
        looked_at: When it was looked at last, by the same clock.
        grew_at: When a look found something new last; before that, since when it is watched.
        looks: How often it was looked at.
        told: The progress that was told last.
        parser: Finds the progress in what is read.
    """

    path: str
    offset: int = 0
    not_before: float = 0.0
    looked_at: float = float("-inf")
    grew_at: float = field(default_factory=time.monotonic)
    looks: int = 0
    told: Progress | None = None
    parser: ProgressParser = field(default_factory=MarkerParser)

    @property
    def is_known_empty(self) -> bool:
        """Whether it was looked at, and nothing was there."""
        return self.offset == 0 and self.looks > 0


def look(reader: Reader, watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """Read what is new of some outputs.

    An output that grows faster than it is read skips ahead: only the latest progress counts. Now
    and then a file is opened anew, since it may have been replaced or begun anew by its task.

    Returns:
        The watches whose progress is new, with it.
    """
    _look_for_new_files(reader, watches)
    for first in range(0, len(watches), _GROUP):
        due = list(watches[first : first + _GROUP])
        for _ in range(_ROUNDS):
            due = _read_once(reader, due)
            if not due:
                break
            _skip_ahead(reader, due)
    return _news(watches)


def look_last(reader: Reader, watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """Find the last progress of outputs that will not grow any more, from their ends backwards.

    Returns:
        The watches whose progress is new, with it.
    """
    reader.forget([watch.path for watch in watches])
    sizes = reader.sizes([watch.path for watch in watches])
    for watch, size in zip(watches, sizes, strict=True):
        if isinstance(size, OSError):
            continue
        end = size
        while end > 0 and size - end < _LAST_LOOK_BYTES:
            start = max(0, end - LOOK_BYTES)
            # The pieces overlap by as much as may tell a progress.
            length = min(end + watch.parser.most_bytes, size) - start
            data = reader.read([FileRead(watch.path, start, length)])[0]
            if isinstance(data, OSError):
                break
            watch.parser.reset(mid_line=start > 0)
            # What does not grow any more has no open line.
            if watch.parser.feed(data + b"\n" if end == size else data) is not None:
                break
            end = start
    return _news(watches)


def _news(watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """What was not told yet, also of what was found in a look that broke off."""
    news = []
    for watch in watches:
        latest = watch.parser.latest
        if latest is not None and latest != watch.told:
            watch.told = latest
            news.append((watch, latest))
    return news


def _look_for_new_files(reader: Reader, watches: Sequence[Watch]) -> None:
    old = [watch for watch in watches if watch.looks % _LOOKS_A_FILE == _LOOKS_A_FILE - 1]
    for watch in watches:
        watch.looks += 1
    if not old:
        return
    sizes = reader.sizes([watch.path for watch in old])
    # One of the same size has nothing new in either case.
    changed = [
        (watch, size) for watch, size in zip(old, sizes, strict=True) if size != watch.offset
    ]
    reader.forget([watch.path for watch, _ in changed])
    for watch, size in changed:
        if not isinstance(size, OSError) and size < watch.offset:
            watch.offset = 0
            watch.parser.reset()


def first_reads(watches: Sequence[Watch]) -> list[FileRead]:
    """What :func:`look` reads first of all of these outputs."""
    return _reads(watches[:_GROUP])


def _reads(watches: Sequence[Watch]) -> list[FileRead]:
    return [FileRead(watch.path, watch.offset, LOOK_BYTES) for watch in watches]


def _read_once(reader: Reader, watches: Sequence[Watch]) -> list[Watch]:
    behind = []
    for watch, data in zip(watches, reader.read(_reads(watches)), strict=True):
        if not data or isinstance(data, OSError):
            continue
        watch.grew_at = time.monotonic()
        watch.offset += len(data)
        watch.parser.feed(data)
        if len(data) == LOOK_BYTES:
            behind.append(watch)
    return behind


def _skip_ahead(reader: Reader, watches: Sequence[Watch]) -> None:
    sizes = reader.sizes([watch.path for watch in watches])
    for watch, size in zip(watches, sizes, strict=True):
        if not isinstance(size, OSError) and size - watch.offset > _ROUNDS * LOOK_BYTES:
            watch.offset = size - (_ROUNDS - 1) * LOOK_BYTES
            watch.parser.reset(mid_line=True)


def last_lines(text: str, count: int) -> str:
    """The last lines of a text."""
    return "".join(text.splitlines(keepends=True)[-count:])


def read_text(reader: Reader, path: str, tail: int | None, most: int | None = None) -> str:
    """A whole output as text, or its last ``tail`` lines; empty where there is none yet.

    Args:
        reader: How it is read.
        path: The file.
        tail: How many lines; None: all.
        most: Bytes to read at most, from the end; None: no limit.

    Raises:
        ConnectionFailedError: The node is out of reach.
        OSError: The file is there but cannot be read.
    """
    return read_end(reader, path, tail, most)[1].decode("utf-8", "replace")


def read_end(
    reader: Reader, path: str, tail: int | None, most: int | None = None
) -> tuple[int, bytes]:
    """As :func:`read_text`, but the bytes; before them, how long the file was.

    Raises:
        ConnectionFailedError: The node is out of reach.
        OSError: The file is there but cannot be read.
    """
    size = _size(reader, path)
    first = 0 if most is None else max(0, size - most)
    start, lines, length = size, 0, _TAIL_BYTES
    pieces: list[bytes] = []
    while start > first and (tail is None or lines <= tail):
        length = min(start - first, 2 * length)
        start -= length
        pieces.append(_read_piece(reader, path, start, length))
        lines += pieces[-1].count(b"\n")
    data = b"".join(reversed(pieces))
    if tail is not None:
        whole = data.split(b"\n")  # not splitlines: a carriage return is no line's end
        kept = tail + (1 if whole[-1] == b"" else 0)
        data = b"\n".join(whole[-kept:]) if tail else b""
    return size, data


def read_on(reader: Reader, path: str, offset: int) -> bytes:
    """What an output has got since it was ``offset`` bytes long; it may have been begun anew.

    Raises:
        ConnectionFailedError: The node is out of reach.
        OSError: The file is there but cannot be read.
    """
    return _read_piece(reader, path, offset, _size(reader, path) - offset)


def _size(reader: Reader, path: str) -> int:
    size = reader.sizes([path])[0]
    if isinstance(size, FileNotFoundError):
        return 0
    if isinstance(size, OSError):
        raise size
    return size


def _read_piece(reader: Reader, path: str, offset: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        most = min(length, _MOST_AT_ONCE)  # a reply of any size would not come in time
        data = reader.read([FileRead(path, offset, most, keep_open=False)])[0]
        if isinstance(data, OSError):
            raise data
        if not data:
            break
        pieces.append(data)
        offset += len(data)
        length -= len(data)
    return b"".join(pieces)


def is_on_local_file_system(directory: Path) -> bool:
    """Whether a directory of the client's lies on a file system of its own machine."""
    try:
        result = subprocess.run(
            ["stat", "-f", "-c", "%T", "--", str(directory)],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return lies_on_local_file_system(result.stdout.strip())
