"""The server's side of SFTP for `LoopbackNodes`: this machine's files, as sftp-server gives them.

The rules of this module: relative paths count from the home directory; files are read and written
at offsets and never buffered, so that one that grows is seen as it is; every OSError becomes the
status that the client is told, and the session goes on.

The protocol is version 3 (draft-ietf-secsh-filexfer-02); paramiko's SFTPServer speaks it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import paramiko
from paramiko.sftp import SFTP_FAILURE, SFTP_OK

_READ_MAX = 256 * 1024  # bytes that one read brings at most, as in OpenSSH
_UINT32_MAX = 2**32 - 1

_P = ParamSpec("_P")
_R = TypeVar("_R")


def serve_sftp(
    channel: paramiko.Channel, server: paramiko.ServerInterface, home: str
) -> threading.Thread:
    """Serve SFTP on ``channel`` until it ends.

    Args:
        channel: Where the client asked for the subsystem.
        server: The connection's side of it, as paramiko wants to know.
        home: The absolute directory from which relative paths count.

    Returns:
        The thread that does it, a daemon, already started.
    """
    session = _Session(channel, "sftp", server, _Files, home=home)
    session.name = "allot-loopback-sftp"
    session.start()
    return session


class _Session(paramiko.SFTPServer):
    """One SFTP channel; scp takes one that ends without an exit status for failed."""

    def finish_subsystem(self) -> None:
        try:
            if self.sock is not None and not self.sock.closed:
                self.sock.send_exit_status(0)
        finally:
            super().finish_subsystem()


def _with_status(call: Callable[_P, _R]) -> Callable[_P, _R | int]:
    """Turn an OSError into the SFTP status that the client is told."""

    @functools.wraps(call)
    def answer(*args: _P.args, **kwargs: _P.kwargs) -> _R | int:
        try:
            return call(*args, **kwargs)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    return answer


class _Files(paramiko.SFTPServerInterface):
    """The files of this machine; ``home`` is where relative paths count from."""

    def __init__(self, server: paramiko.ServerInterface, *, home: str) -> None:
        super().__init__(server)
        self._home = home

    def _at(self, path: str) -> str:
        return os.path.join(self._home, path)

    @_with_status
    def open(
        self, path: str, flags: int, attr: paramiko.SFTPAttributes
    ) -> paramiko.SFTPHandle | int:
        mode = 0o666 if attr.st_mode is None else attr.st_mode & 0o7777
        return _OpenFile(os.open(self._at(path), flags, mode), flags)

    @_with_status
    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        found = []
        with os.scandir(self._at(path)) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    # A name that is not UTF-8 would break paramiko's whole answer.
                    name = os.fsencode(entry.name).decode("utf-8", "replace")
                    found.append(_attributes(entry.stat(follow_symlinks=False), name))
        return found

    @_with_status
    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        return _attributes(os.stat(self._at(path)))

    @_with_status
    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        return _attributes(os.lstat(self._at(path)))

    @_with_status
    def remove(self, path: str) -> int:
        os.unlink(self._at(path))
        return SFTP_OK

    @_with_status
    def rename(self, oldpath: str, newpath: str) -> int:
        if os.path.lexists(self._at(newpath)):
            return SFTP_FAILURE  # version 3 of the protocol never overwrites
        os.rename(self._at(oldpath), self._at(newpath))
        return SFTP_OK

    @_with_status
    def posix_rename(self, oldpath: str, newpath: str) -> int:
        os.replace(self._at(oldpath), self._at(newpath))
        return SFTP_OK

    @_with_status
    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        os.mkdir(self._at(path), 0o777 if attr.st_mode is None else attr.st_mode & 0o7777)
        return SFTP_OK

    @_with_status
    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return SFTP_OK

    @_with_status
    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return _change(self._at(path), attr)

    @_with_status
    def readlink(self, path: str) -> str | int:
        return os.readlink(self._at(path))

    @_with_status
    def symlink(self, target_path: str, path: str) -> int:
        os.symlink(target_path, self._at(path))
        return SFTP_OK

    def canonicalize(self, path: str) -> str:
        return os.path.realpath(self._at(path))


class _OpenFile(paramiko.SFTPHandle):
    """An open file."""

    def __init__(self, descriptor: int, flags: int) -> None:
        super().__init__(flags)
        self._descriptor = descriptor
        self._appends = bool(flags & os.O_APPEND)

    def close(self) -> None:
        os.close(self._descriptor)

    @_with_status
    def read(self, offset: int, length: int) -> bytes | int:
        return os.pread(self._descriptor, min(length, _READ_MAX), offset)

    @_with_status
    def write(self, offset: int, data: bytes) -> int:  # type: ignore[override]
        rest = memoryview(data)
        while rest:
            if self._appends:  # where the offset goes with pwrite is up to the system
                written = os.write(self._descriptor, rest)
            else:
                written = os.pwrite(self._descriptor, rest, offset)
            offset += written
            rest = rest[written:]
        return SFTP_OK

    @_with_status
    def stat(self) -> paramiko.SFTPAttributes | int:
        return _attributes(os.fstat(self._descriptor))

    @_with_status
    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        return _change(self._descriptor, attr)


def _attributes(found: os.stat_result, name: str | None = None) -> paramiko.SFTPAttributes:
    """A file's attributes; its times held to what the protocol's 32 bits can say."""
    attributes = paramiko.SFTPAttributes.from_stat(found, name)
    attributes.st_atime = min(max(int(found.st_atime), 0), _UINT32_MAX)
    attributes.st_mtime = min(max(int(found.st_mtime), 0), _UINT32_MAX)
    return attributes


def _change(target: str | int, attr: paramiko.SFTPAttributes) -> int:
    """Set what ``attr`` holds on a path or a descriptor.

    paramiko's own SFTPServer.set_file_attr empties a file before it sets its size.
    """
    if attr.st_size is not None:
        os.truncate(target, attr.st_size)
    if attr.st_uid is not None and attr.st_gid is not None:
        os.chown(target, attr.st_uid, attr.st_gid)
    if attr.st_mode is not None:
        os.chmod(target, attr.st_mode & 0o7777)
    if attr.st_atime is not None and attr.st_mtime is not None:
        os.utime(target, (attr.st_atime, attr.st_mtime))
    return SFTP_OK
