"""Reading task outputs, wherever they lie.

Three readers behind one protocol: files the client itself sees, SFTP, and, where a node has
SFTP switched off, commands in its kept-open Bash. A reader never waits for a file to grow.
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from allot import readings
from allot.errors import ConnectionFailedError
from allot.node import FileRead, Node
from allot.probe import lies_on_local_file_system

Data: TypeAlias = bytes | OSError

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
