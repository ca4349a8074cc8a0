"""SFTP with its requests sent back to back, so that a thousand files cost one round trip.

Rules: one user at a time (a session is not safe between threads); every wait is bounded by the
channel's timeout; a file that cannot be read is an answer (an ``OSError`` in its place), a
session that breaks is an exception. The protocol is version 3 of SFTP
(draft-ietf-secsh-filexfer-02), which OpenSSH speaks.

paramiko's client sends a request and waits for its answer, 0.6 ms a file of which half is the
client's own work. Here requests are packed into few large writes and the answers are collected
by their numbers; all else (``put``, ``listdir_attr``, …) is paramiko's.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import paramiko

_OPEN, _CLOSE, _READ, _WRITE, _SETSTAT, _STAT, _EXTENDED = 3, 4, 5, 6, 9, 17, 200
_STATUS, _HANDLE, _DATA, _ATTRS = 101, 102, 103, 105
_STATUS_OK, _EOF = 0, struct.pack(">I", 1)
_ERRNO = {2: errno.ENOENT, 3: errno.EACCES, 8: errno.EOPNOTSUPP}
_FLAG_READ, _FLAG_WRITE, _FLAG_CREATE, _FLAG_TRUNCATE = 1, 2, 8, 16
# OpenSSH's "PROTOCOL", section 4.3: a rename that replaces what is there, as rename(2) does.
_POSIX_RENAME = b"posix-rename@openssh.com"
_ATTR_SIZE, _ATTR_OWNER, _ATTR_MODE, _ATTR_TIMES = 1, 2, 4, 8

# So many requests wait for an answer at most: their answers must find room in the channel's
# window (2 MiB) together with what is sent, or both sides would wait for each other.
_IN_FLIGHT = 256
_HANDLES_KEPT = 200
# OpenSSH's server gives no more than this at once; others may give less.
_READ_MAX = 255 * 1024
_REPLY_MAX = 16 * 1024 * 1024


@dataclass(frozen=True)
class FileRead:
    """A piece of a file to read.

    Attributes:
        path: The file; a relative one counts from the login directory.
        offset: Bytes from its beginning.
        length: Bytes wanted at most; a server may give fewer (255 KiB from OpenSSH's) although
            more are there.
        keep_open: True keeps the file open for the next read. False opens it anew, as a file on
            NFS needs (an open one shows its old size), and closes it after.
    """

    path: str
    offset: int
    length: int
    keep_open: bool = True


@dataclass(frozen=True)
class FileWrite:
    """A piece of a file to write, at most 32 KiB; the one at offset 0 begins the file anew.

    Attributes:
        path: The file.
        offset: Bytes from its beginning.
        data: What goes there.
    """

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class FileMove:
    """A file that is whole and goes to its place, replacing what is there.

    Attributes:
        part: Where it is.
        path: Where it goes.
        mtime: Its last change, Unix seconds.
        mode: Its permissions.
    """

    part: str
    path: str
    mtime: int
    mode: int


@dataclass(frozen=True)
class FileStat:
    """What a node says of a file.

    Attributes:
        size: Bytes.
        mtime: Last change, Unix seconds on the node's clock.
        mode: Type and permissions, as ``os.stat`` has them.
    """

    size: int
    mtime: int
    mode: int


class _Reply(NamedTuple):
    type: int
    body: bytes

    def text(self, start: int = 0) -> bytes:
        (length,) = struct.unpack_from(">I", self.body, start)
        return self.body[start + 4 : start + 4 + length]

    def error(self, path: str) -> OSError:
        if self.type != _STATUS:
            raise paramiko.SFTPError(f"unexpected answer of type {self.type}")
        (code,) = struct.unpack_from(">I", self.body)
        number = _ERRNO.get(code, errno.EIO)
        said = self.text(4).decode(errors="replace") if len(self.body) > 4 else ""  # noqa: PLR2004
        return OSError(number, said or os.strerror(number), path)


class PipelinedSFTP(paramiko.SFTPClient):
    """An SFTP session that can ask for many things at once."""

    def __init__(self, channel: paramiko.Channel) -> None:
        """Begin a session on a channel whose ``sftp`` subsystem has been asked for.

        Raises:
            paramiko.SFTPError, paramiko.SSHException, TimeoutError: The other side does not
                speak SFTP, or a login shell's own output garbles it.
        """
        super().__init__(channel)
        self._channel = channel
        self._open_files: OrderedDict[str, bytes] = OrderedDict()
        self._to_close: list[tuple[int, bytes]] = []

    def read_files(self, reads: Sequence[FileRead]) -> list[bytes | OSError]:
        """Read pieces of many files.

        Returns:
            For each piece its bytes, ``b""`` at the end of the file, or why it cannot be read.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SFTPError: The session broke.
        """
        results: list[bytes | OSError] = []
        for group in _groups(reads):
            results += self._read_group(group)
        return results

    def _read_group(self, reads: Sequence[FileRead]) -> list[bytes | OSError]:
        paths = dict.fromkeys([read.path for read in reads])
        anew = {read.path for read in reads if not read.keep_open}
        kept = self._open_files
        opened = self._open([path for path in paths if path in anew or path not in kept])
        handles = {path: opened.get(path) or kept[path] for path in paths}
        for path, handle in handles.items():
            if path not in anew and isinstance(handle, bytes):
                kept[path] = handle
                kept.move_to_end(path)
        while len(kept) > _HANDLES_KEPT:
            self._close_later(kept.popitem(last=False)[1])
        requests = [
            (_READ, _string(handle) + struct.pack(">QI", read.offset, min(read.length, _READ_MAX)))
            for read in reads
            if isinstance(handle := handles[read.path], bytes)
        ]
        replies = iter(self._exchange(requests))
        results = [
            handle if isinstance(handle, OSError) else self._as_data(next(replies), read.path)
            for read in reads
            for handle in [handles[read.path]]
        ]
        for path in anew:
            self._close_later(opened[path])
        return results

    def _open(self, paths: Sequence[str]) -> dict[str, bytes | OSError]:
        requests = [
            (_OPEN, _string(os.fsencode(path)) + struct.pack(">II", _FLAG_READ, 0))
            for path in paths
        ]
        return {
            path: reply.text() if reply.type == _HANDLE else reply.error(path)
            for path, reply in zip(paths, self._exchange(requests), strict=True)
        }

    def _as_data(self, reply: _Reply, path: str) -> bytes | OSError:
        if reply.type == _DATA:
            return reply.text()
        if reply.type == _STATUS and reply.body.startswith(_EOF):
            return b""
        error = reply.error(path)
        self.forget_files([path])
        return error

    def forget_files(self, paths: Iterable[str]) -> None:
        """Close files that were kept open: they may have been begun anew under their name."""
        for path in paths:
            if path in self._open_files:
                self._close_later(self._open_files.pop(path))

    def _close_later(self, handle: bytes | OSError) -> None:
        """Close a file along with the next requests: no round trip of its own."""
        if isinstance(handle, bytes):
            self._to_close.append((_CLOSE, _string(handle)))

    def stat_files(self, paths: Sequence[str]) -> list[FileStat | OSError]:
        """Ask for size and time of many files; links are followed.

        Returns:
            For each file what the node says of it, or why it says nothing.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SFTPError: The session broke.
        """
        requests = [(_STAT, _string(os.fsencode(path))) for path in paths]
        return [
            _as_stat(reply) if reply.type == _ATTRS else reply.error(path)
            for path, reply in zip(paths, self._exchange(requests), strict=True)
        ]

    def write_files(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """Write pieces of files; all of one file's stand together.

        Returns:
            For each piece None, or why it was not written.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SFTPError: The session broke.
        """
        begun = {piece.path: piece.offset for piece in reversed(pieces)}
        flags = {False: _FLAG_WRITE, True: _FLAG_WRITE | _FLAG_CREATE | _FLAG_TRUNCATE}
        private = struct.pack(">II", _ATTR_MODE, 0o600)
        requests = [
            (_OPEN, _string(os.fsencode(path)) + struct.pack(">I", flags[offset == 0]) + private)
            for path, offset in begun.items()
        ]
        handles = {
            path: reply.text() if reply.type == _HANDLE else reply.error(path)
            for path, reply in zip(begun, self._exchange(requests), strict=True)
        }
        requests = [
            (_WRITE, _string(handle) + struct.pack(">Q", piece.offset) + _string(piece.data))
            for piece in pieces
            if isinstance(handle := handles[piece.path], bytes)
        ]
        closes = {path: one for path, one in handles.items() if isinstance(one, bytes)}
        requests += [(_CLOSE, _string(handle)) for handle in closes.values()]
        replies = iter(self._exchange(requests))
        refusals = [
            handle if isinstance(handle, OSError) else _refusal(next(replies), piece.path)
            for piece in pieces
            for handle in [handles[piece.path]]
        ]
        # A full disk or quota may be told only then.
        closed = {path: _refusal(next(replies), path) for path in closes}
        return [
            refusal or closed.get(piece.path)
            for refusal, piece in zip(refusals, pieces, strict=True)
        ]

    def move_files(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """Put files into place that are whole.

        Returns:
            For each None, or why it is not there.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SFTPError: The session broke.
        """
        kind = _ATTR_MODE | _ATTR_TIMES
        requests = [
            (
                _SETSTAT,
                _string(os.fsencode(move.part))
                + struct.pack(">IIII", kind, move.mode & 0o777, move.mtime, move.mtime),
            )
            for move in moves
        ]
        refusals = [
            _refusal(reply, move.path)
            for reply, move in zip(self._exchange(requests), moves, strict=True)
        ]
        requests = [
            (
                _EXTENDED,
                b"".join(
                    map(_string, (_POSIX_RENAME, os.fsencode(move.part), os.fsencode(move.path)))
                ),
            )
            for move in moves
        ]
        renamed = self._exchange(requests)
        return [
            refusal or _refusal(reply, move.path)
            for refusal, reply, move in zip(refusals, renamed, moves, strict=True)
        ]

    def _exchange(self, requests: Sequence[tuple[int, bytes]]) -> list[_Reply]:
        """Send requests and collect their answers, in the order of the requests."""
        if not requests:
            return []
        asked = len(requests)
        requests = [*requests, *self._to_close]
        self._to_close = []
        first = self.request_number
        self.request_number += len(requests)
        replies: list[_Reply | None] = [None] * len(requests)
        stream = _replies(self._channel)
        sent = answered = 0
        while answered < len(requests):
            # Sent in halves, so that the server always has something to work on.
            if sent < len(requests) and sent - answered <= _IN_FLIGHT // 2:
                upto = min(len(requests), answered + _IN_FLIGHT)
                self._channel.sendall(
                    b"".join(
                        struct.pack(">IBI", 5 + len(body), kind, first + number) + body
                        for number, (kind, body) in enumerate(requests[sent:upto], start=sent)
                    )
                )
                sent = upto
            number, reply = next(stream)
            if 0 <= number - first < sent and replies[number - first] is None:
                replies[number - first] = reply
                answered += 1
        return [reply for reply in replies[:asked] if reply is not None]


def _groups(reads: Sequence[FileRead]) -> Iterator[list[FileRead]]:
    """Cut reads into groups of so many files that all of them may be open at once."""
    if len(reads) <= _HANDLES_KEPT:
        yield list(reads)
        return
    group: list[FileRead] = []
    paths: set[str] = set()
    for read in reads:
        if read.path not in paths and len(paths) == _HANDLES_KEPT:
            yield group
            group, paths = [], set()
        group.append(read)
        paths.add(read.path)
    if group:
        yield group


def _replies(channel: paramiko.Channel) -> Iterator[tuple[int, _Reply]]:
    """Cut what comes from the server into answers and their numbers."""
    buffer = bytearray()
    while True:
        start = 0
        while len(buffer) - start >= 9:  # noqa: PLR2004 - length, type and number
            length, kind, number = struct.unpack_from(">IBI", buffer, start)
            if not 5 <= length <= _REPLY_MAX:  # noqa: PLR2004 - type and number at least
                raise paramiko.SFTPError("garbage in the SFTP session")
            if len(buffer) - start < 4 + length:
                break
            body = bytes(buffer[start + 9 : start + 4 + length])
            start += 4 + length
            yield number, _Reply(kind, body)
        del buffer[:start]
        data = channel.recv(256 * 1024)
        if not data:
            raise EOFError("the SFTP session ended")
        buffer += data


def _refusal(reply: _Reply, path: str) -> OSError | None:
    """Why something was not done; None if it was."""
    is_done = reply.type == _STATUS and struct.unpack_from(">I", reply.body) == (_STATUS_OK,)
    return None if is_done else reply.error(path)


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _as_stat(reply: _Reply) -> FileStat:
    (flags,) = struct.unpack_from(">I", reply.body)
    position, size, mode, mtime = 4, 0, 0, 0
    if flags & _ATTR_SIZE:
        (size,) = struct.unpack_from(">Q", reply.body, position)
        position += 8
    if flags & _ATTR_OWNER:
        position += 8
    if flags & _ATTR_MODE:
        (mode,) = struct.unpack_from(">I", reply.body, position)
        position += 4
    if flags & _ATTR_TIMES:
        _, mtime = struct.unpack_from(">II", reply.body, position)
    return FileStat(size, mtime, mode)
