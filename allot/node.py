"""A node: one SSH connection with a Bash kept open on it, and SFTP beside.

Rules: above this module nobody sees paramiko; what goes wrong is a ``NodeError`` with the node's
name, or an ``OSError`` where a single file is to blame. Every call is bounded in time, and a
connection that did not answer in time counts as broken and is closed; ``connect`` makes a new
one. At most two channels are open at a time, far from sshd's MaxSessions of 10. Closing, of a node
or of its gateway, stops what other threads have under way, a ``connect`` too.

The kept-open Bash spares each request the login shell with its rc files (seconds, often). It is
told a request's length first and runs nothing of one that did not arrive whole: a client that
dies in the middle of ``rm -rf /scratch/me/run7`` must not have removed ``/scratch/me``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import paramiko

from allot.errors import ConfigError, ConnectionFailedError, NodeError
from allot.faults import HOST_ERRORS, translate
from allot.gateway import Connection, Gateway
from allot.sftp import FileMove, FileRead, FileStat, FileWrite, PipelinedSFTP
from allot.shell import KeptShell
from allot.sshconfig import Login

__all__ = ["FileMove", "FileRead", "FileStat", "FileWrite", "Gateway", "Node"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_GIVEN_UP = "the connection was given up"


class Node:
    r"""One node, as Allot talks to it.

    Requests may come from several threads, and wait for each other; file calls likewise;
    ``close`` waits for nobody.

    Args:
        name: The node's name in messages.
        login: Where and how to log in.
        gateway: What the nodes of a cluster share.
        timeout: Seconds that each step of connecting, and each wait for SFTP, may take.

    Example:
        >>> gateway = Gateway()
        >>> node = Node("node01", resolve(NodeSpec("node01"), None), gateway=gateway)
        >>> node.connect()
        >>> node.request("hostname")
        b'node01\n'
        >>> node.close()
    """

    def __init__(self, name: str, login: Login, *, gateway: Gateway, timeout: float = 10.0) -> None:
        self.name = name
        self.login = login
        self._gateway = gateway
        self._timeout = timeout
        self._lock = threading.Lock()  # over the next two, and never held for long
        self._line: Connection | None = None
        self._session: _Session | None = None
        self._shell_lock = threading.Lock()
        self._sftp_lock = threading.Lock()

    @property
    def is_connected(self) -> bool:
        """False once the connection is known to be gone; True is no promise."""
        session = self._session
        return session is not None and session.shell.is_open

    @property
    def has_sftp(self) -> bool | None:
        """Whether this connection has SFTP; None where it was not asked for yet."""
        session = self._session
        return None if session is None else session.has_sftp

    def connect(self) -> None:
        """Connect, check the host key, log in, and start the Bash that is kept open.

        A connection that is there already is closed first.

        Raises:
            ConnectionFailedError: No connection, or no Bash at its end; or ``close`` was called
                meanwhile, here or of the gateway.
            AuthenticationFailedError: The login was refused.
            HostKeyError: The host key is unknown, revoked or another one.
        """
        self.close()
        line = Connection()
        with self._lock:
            self._line = line
        try:
            client = self._gateway.open(self.name, self.login, self._timeout, line)
            session = _Session(line, client, self._start_shell(line, client))
            with self._lock:
                if line.is_cut:
                    raise ConnectionFailedError(self.name, _GIVEN_UP)
                self._session = session
        except BaseException:
            self._drop(line)
            raise

    def _start_shell(self, line: Connection, client: paramiko.SSHClient) -> KeptShell:
        with self._gateway.watchdog.bound(self._timeout, line.cut) as guard:
            try:
                shell = KeptShell(_open_session(client, self._timeout))
                shell.start(guard.deadline)
            except HOST_ERRORS as exc:
                if guard.expired or isinstance(exc, TimeoutError):
                    raise ConnectionFailedError(
                        self.name, f"its login shell did not answer within {self._timeout:g} s"
                    ) from exc
                raise self._failure(line, exc) from exc
        return shell

    def _failure(self, line: Connection, exc: Exception, late: str = "") -> NodeError:
        """What to raise for what went wrong on a connection, or for being ``late``."""
        if late:
            return translate(self.name, TimeoutError(late))
        if line.is_cut:
            return ConnectionFailedError(self.name, _GIVEN_UP)
        return translate(self.name, exc)

    def request(self, script: str, *, timeout: float = 20.0) -> bytes:
        """Run a piece of Bash in the Bash that is kept open.

        What the piece sets (variables, traps, ``cd``) stays for the next one; its stdin is
        empty; its exit status is lost unless it prints it; ``exit`` ends the connection. File
        descriptor 3 there is for notices, also from jobs it leaves running.

        Args:
            script: The piece, without NUL characters.
            timeout: Seconds it may take.

        Returns:
            What it wrote to stdout, notices taken out, then what it left in ``__allot_reply``
            (one message for all of it, where each line that is printed may be one).

        Raises:
            ConnectionFailedError: The connection broke, or there was no answer in time; it is
                closed then, and whether the piece has run is not known.
            ConfigError: There is a NUL character in it, which Bash cannot read; nothing ran.
        """
        if "\0" in script:
            place = script.index("\0")
            raise ConfigError(
                f"{self.name}: a request to Bash must hold no NUL character; character {place} is "
                f"one, after {script[max(place - 20, 0) : place]!r}"
            )
        with self._shell_lock:
            session = self._connected()
            line = session.line
            with self._gateway.watchdog.bound(timeout, line.cut) as guard:
                try:
                    return session.shell.request(script, guard.deadline)
                except HOST_ERRORS as exc:
                    is_late = guard.expired or isinstance(exc, TimeoutError)
                    late = f"no answer within {timeout:g} s" if is_late else ""
                    failure = self._failure(line, exc, late)
                    self._drop(line)
                    raise failure from exc

    def take_notices(self) -> list[str]:
        r"""Take what background jobs have told since the last call, without waiting.

        A notice is a line ``\x1eallot TEXT`` written whole to file descriptor 3.

        Returns:
            The texts, in the order they came.
        """
        session = self._session
        if session is None:
            return []
        self._listen(session.shell)
        return session.shell.take_notices()

    def _listen(self, shell: KeptShell) -> None:
        if self._shell_lock.acquire(blocking=False):  # else the request under way collects them
            try:
                shell.listen()
            finally:
                self._shell_lock.release()

    def when_heard(self, call: Callable[[], None] | None) -> None:
        """Have something called once, as soon as there may be notices or the connection is gone.

        Args:
            call: What any thread may call, at once perhaps, and must not take long; None takes
                back what an earlier call asked for.
        """
        session = self._session
        if session is None:
            return
        # What came right behind the answer to a request is in nobody's hands any more.
        if call is not None:
            self._listen(session.shell)
        session.shell.when_heard(call)

    def open_sftp(self) -> bool:
        """Open the SFTP session, unless it is open.

        A connection that could not open one is not asked again.

        Returns:
            False where the node has none: switched off, or garbled by an rc file that prints.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        with self._sftp_lock:
            session = self._connected()
            if session.has_sftp is None:
                session.sftp = self._start_sftp(session)
                session.has_sftp = session.sftp is not None
            return session.has_sftp

    def _start_sftp(self, session: _Session) -> PipelinedSFTP | None:
        line = session.line
        with self._gateway.watchdog.bound(2 * self._timeout, line.cut) as whole:
            channel: paramiko.Channel | None = None
            try:
                channel = _open_session(session.client, self._timeout)
                with self._gateway.watchdog.bound(self._timeout, channel.event.set):
                    channel.settimeout(self._timeout)
                    channel.invoke_subsystem("sftp")
                    return PipelinedSFTP(channel)
            except HOST_ERRORS as exc:
                if channel is not None:
                    channel.close()
                if self.is_connected and not line.is_cut:
                    _log.info("%s: no SFTP: %s", self.name, exc)
                    return None
                late = "SFTP did not start" if whole.expired else ""
                failure = self._failure(line, exc, late)
                self._drop(line)
                raise failure from exc

    def read_files(self, reads: Sequence[FileRead]) -> list[bytes | OSError]:
        """Read pieces of many files, in about one round trip for all of them.

        Args:
            reads: What to read. Files stay open for the next call unless they say otherwise;
                one that is begun anew under its name must be named to ``forget_files``.

        Returns:
            For each piece its bytes, ``b""`` at the end of the file, or why it cannot be read.

        Raises:
            ConnectionFailedError: The connection broke, or nothing came for ``timeout`` seconds.
        """
        return self._with_sftp(lambda sftp: sftp.read_files(reads))

    def stat_files(self, paths: Sequence[str]) -> list[FileStat | OSError]:
        """Ask for the size and time of many files, in about one round trip.

        Returns:
            For each file what the node says of it, or why it says nothing
            (``FileNotFoundError`` for one that is not there).

        Raises:
            ConnectionFailedError: The connection broke, or nothing came for ``timeout`` seconds.
        """
        return self._with_sftp(lambda sftp: sftp.stat_files(paths))

    def write_files(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """Write pieces of files; all of one file's stand together.

        Returns:
            For each piece None, or why it was not written.

        Raises:
            ConnectionFailedError: The connection broke, or nothing came for ``timeout`` seconds.
        """
        return self._with_sftp(lambda sftp: sftp.write_files(pieces))

    def move_files(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """Put files into place that are whole.

        Returns:
            For each None, or why it is not there.

        Raises:
            ConnectionFailedError: The connection broke, or nothing came for ``timeout`` seconds.
        """
        return self._with_sftp(lambda sftp: sftp.move_files(moves))

    def forget_files(self, paths: Sequence[str]) -> None:
        """Close files that ``read_files`` kept open, so that the next read opens them anew.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        return self._with_sftp(lambda sftp: sftp.forget_files(paths))

    def _with_sftp(self, ask: Callable[[PipelinedSFTP], _T]) -> _T:
        if not self.open_sftp():
            raise ConnectionFailedError(self.name, "it has no SFTP")
        with self._sftp_lock:
            session = self._connected()
            if session.sftp is None:
                raise ConnectionFailedError(self.name, "not connected")
            try:
                return ask(session.sftp)
            except HOST_ERRORS as exc:
                failure = self._failure(session.line, exc)
                self._drop(session.line)
                raise failure from exc

    def _connected(self) -> _Session:
        session = self._session
        if session is None:
            raise ConnectionFailedError(self.name, "not connected")
        return session

    def _drop(self, line: Connection) -> None:
        """Hang up on a connection that failed, and only on that: there may be a new one."""
        with self._lock:
            if self._line is line:
                self._line = self._session = None
        self._gateway.hang_up(line)

    def close(self) -> None:
        """Hang up. Idempotent; calls under way in other threads fail at once, ``connect`` too."""
        with self._lock:
            line, self._line, self._session = self._line, None, None
        if line is not None:
            self._gateway.hang_up(line)


@dataclass
class _Session:
    """What one connection has: it goes with it."""

    line: Connection
    client: paramiko.SSHClient
    shell: KeptShell
    sftp: PipelinedSFTP | None = None
    has_sftp: bool | None = None


def _open_session(client: paramiko.SSHClient, timeout: float) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise EOFError
    return transport.open_session(timeout=timeout)
