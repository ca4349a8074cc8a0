"""A node: one SSH connection with a Bash kept open on it, and SFTP beside.

Rules: above this module nobody sees paramiko; what goes wrong is a ``NodeError`` with the node's
name, or an ``OSError`` where a single file is to blame. Every call is bounded in time, and a
connection that did not answer in time counts as broken and is closed; ``connect`` makes a new
one. At most two channels are open at a time, far from sshd's MaxSessions of 10.

The kept-open Bash spares each request the login shell with its rc files (seconds, often). It is
told a request's length first and runs nothing of one that did not arrive whole: a client that
dies in the middle of ``rm -rf /scratch/me/run7`` must not have removed ``/scratch/me``.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import paramiko

from allot.errors import ConnectionFailedError
from allot.gateway import HOST_ERRORS, Gateway, close_client, translate
from allot.sftp import FileRead, FileStat, PipelinedSFTP
from allot.sshconfig import Login

__all__ = ["FileRead", "FileStat", "Gateway", "Node"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CHUNK = 64 * 1024
_STDERR_KEPT = 4096
_LOOSE_KEPT = 64 * 1024
_STDERR_LOOK_S = 0.5
_NOT_FOUND = 127
_STATUS_WAIT_S = 0.5
_EMPTY_ANSWERS = b"\n" * 8
_NOTICE = re.compile(rb"\x1eallot ([^\n]*)\n")


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
        self.has_sftp: bool | None = None
        self._gateway = gateway
        self._timeout = timeout
        self._client: paramiko.SSHClient | None = None
        self._shell: _Shell | None = None
        self._sftp: PipelinedSFTP | None = None
        self._shell_lock = threading.Lock()
        self._sftp_lock = threading.Lock()

    @property
    def is_connected(self) -> bool:
        """False once the connection is known to be gone; True is no promise."""
        shell = self._shell
        return shell is not None and shell.is_open

    def connect(self) -> None:
        """Connect, check the host key, log in, and start the Bash that is kept open.

        A connection that is there already is closed first.

        Raises:
            ConnectionFailedError: No connection, or no Bash at its end.
            AuthenticationFailedError: The login was refused.
            HostKeyError: The host key is unknown, revoked or another one.
        """
        self.close()
        client = self._gateway.open(self.name, self.login, self._timeout)
        try:
            with self._gateway.watchdog.bound(self._timeout, lambda: close_client(client)) as guard:
                try:
                    shell = _Shell(_open_session(client, self._timeout))
                    shell.start(guard.deadline)
                except HOST_ERRORS as exc:
                    if guard.expired or isinstance(exc, TimeoutError):
                        raise ConnectionFailedError(
                            self.name,
                            f"its login shell did not answer within {self._timeout:g} s",
                        ) from exc
                    raise translate(self.name, exc) from exc
        except BaseException:
            close_client(client)
            raise
        self._client, self._shell = client, shell

    def request(self, script: str, *, timeout: float = 30.0) -> bytes:
        """Run a piece of Bash in the Bash that is kept open.

        What the piece sets (variables, traps, ``cd``) stays for the next one; its stdin is
        empty; its exit status is lost unless it prints it; ``exit`` ends the connection. File
        descriptor 3 there is for notices, also from jobs it leaves running.

        Args:
            script: The piece, without NUL characters.
            timeout: Seconds it may take.

        Returns:
            What it wrote to stdout, notices taken out.

        Raises:
            ConnectionFailedError: The connection broke, or there was no answer in time; it is
                closed then, and whether the piece has run is not known.
        """
        with self._shell_lock:
            client, shell = self._client, self._shell
            if client is None or shell is None:
                raise ConnectionFailedError(self.name, "not connected")
            with self._gateway.watchdog.bound(timeout, lambda: self._drop(client)) as guard:
                try:
                    return shell.request(script, guard.deadline)
                except HOST_ERRORS as exc:
                    self._drop(client)
                    if guard.expired or isinstance(exc, TimeoutError):
                        late = TimeoutError(f"no answer within {timeout:g} s")
                        raise translate(self.name, late) from exc
                    raise translate(self.name, exc) from exc

    def take_notices(self) -> list[str]:
        r"""Take what background jobs have told since the last call, without waiting.

        A notice is a line ``\x1eallot TEXT`` written whole to file descriptor 3.

        Returns:
            The texts, in the order they came.
        """
        shell = self._shell
        if shell is None:
            return []
        if self._shell_lock.acquire(blocking=False):  # else the request under way collects them
            try:
                shell.listen()
            finally:
                self._shell_lock.release()
        return shell.take_notices()

    def open_sftp(self) -> bool:
        """Open the SFTP session, unless it is open.

        Returns:
            False where the node has none: switched off, or garbled by an rc file that prints.

        Raises:
            ConnectionFailedError: The connection broke.
        """
        with self._sftp_lock:
            client = self._client
            if client is None:
                raise ConnectionFailedError(self.name, "not connected")
            if self._sftp is None:
                self._sftp = self._start_sftp(client)
            self.has_sftp = self._sftp is not None
            return self.has_sftp

    def _start_sftp(self, client: paramiko.SSHClient) -> PipelinedSFTP | None:
        channel: paramiko.Channel | None = None
        try:
            channel = _open_session(client, self._timeout)
            with self._gateway.watchdog.bound(self._timeout, channel.close):
                channel.settimeout(self._timeout)
                channel.invoke_subsystem("sftp")
                return PipelinedSFTP(channel)
        except HOST_ERRORS as exc:
            if channel is not None:
                channel.close()
            if not self.is_connected:
                self._drop(client)
                raise translate(self.name, exc) from exc
            _log.info("%s: no SFTP: %s", self.name, exc)
            return None

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
            client, sftp = self._client, self._sftp
            if client is None or sftp is None:
                raise ConnectionFailedError(self.name, "not connected")
            try:
                return ask(sftp)
            except HOST_ERRORS as exc:
                self._drop(client)
                raise translate(self.name, exc) from exc

    def _drop(self, client: paramiko.SSHClient) -> None:
        """Hang up on a connection that failed, and only on that: there may be a new one."""
        if self._client is client:
            self.close()
        else:
            close_client(client)

    def close(self) -> None:
        """Hang up. Idempotent; calls under way in other threads fail at once."""
        client, self._client = self._client, None
        self._shell = self._sftp = None
        if client is not None:
            close_client(client)


def _open_session(client: paramiko.SSHClient, timeout: float) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise EOFError
    return transport.open_session(timeout=timeout)


class _Shell:
    """The kept-open Bash: its requests, their framing, and the notices in between."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._token = secrets.token_hex(8)
        self._number = 0
        self._started = False
        self._buffer = bytearray()
        self._stderr = bytearray()
        self._notices: list[str] = []

    @property
    def is_open(self) -> bool:
        transport = self._channel.get_transport()
        return not (self._channel.closed or self._channel.eof_received) and transport.is_active()

    def start(self, deadline: float) -> None:
        """Start Bash in whatever the login shell is, and make it ready.

        The login shell greets before it becomes Bash, and only then is anything written to
        stdin: an rc file that reads stdin cannot swallow it. One that asks a question gets an
        empty line for an answer, which Bash does not mind reading either. Bourne shells, fish
        and csh all understand the command.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SSHException: There is no Bash.
        """
        self._channel.exec_command(f"echo {self._token}; exec bash --noprofile --norc -s")
        self._send(_EMPTY_ANSWERS)
        self._read_until(self._token.encode() + b"\n", deadline)
        # A Bash that dies of SIGPIPE half-way through a request would have run part of it.
        self.request("trap '' PIPE; exec 3>&1", deadline)
        self._started = True

    def request(self, script: str, deadline: float) -> bytes:
        data = script.encode("utf-8", "surrogateescape")
        self._number += 1
        begin = f"\x1e{self._token} {self._number} begin\n"
        end = f"\x1e{self._token} {self._number} end\n"
        # Read as a whole by its length (in bytes: LC_ALL=C), then run; where the connection
        # breaks before, read fails and nothing runs. This is also ten times as fast as
        # letting Bash parse its stdin, which it reads byte by byte.
        frame = (
            f"{{ LC_ALL=C IFS= read -r -N {len(data)} __allot_request && {{ "
            f"printf '{_escaped(begin)}'; eval \"$__allot_request\"; printf '{_escaped(end)}'; "
            "} </dev/null; } || exit\n"
        )
        self._channel.settimeout(max(deadline - time.monotonic(), 0.01))
        self._send(frame.encode() + data)
        output = self._read_until(end.encode(), deadline)
        _, _, output = output.partition(begin.encode())
        return output

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise
        except OSError as exc:
            raise ConnectionResetError(None, self._describe_end()) from exc

    def _read_until(self, mark: bytes, deadline: float) -> bytes:
        """Everything before a mark, less the notices."""
        looked = 0
        while (found := self._buffer.find(mark, looked)) < 0:
            looked = max(len(self._buffer) - len(mark), 0)
            self._read_some(deadline)
        output = bytes(self._buffer[:found])
        del self._buffer[: found + len(mark)]
        return self._without_notices(output)

    def _read_some(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        # stdout and stderr share one window: who only waits for the one may wait for ever.
        self._channel.settimeout(min(left, _STDERR_LOOK_S))
        try:
            data = self._channel.recv(_CHUNK)
        except TimeoutError:
            self._read_stderr()
            return
        self._read_stderr()
        if not data:
            raise ConnectionResetError(None, self._describe_end())
        self._buffer += data

    def _read_stderr(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr += self._channel.recv_stderr(_CHUNK)
            del self._stderr[:-_STDERR_KEPT]

    def _describe_end(self) -> str:
        self._channel.status_event.wait(_STATUS_WAIT_S)  # it comes after the end of stdout
        self._read_stderr()
        while self._channel.recv_ready():
            self._buffer += self._channel.recv(_CHUNK)
        status = self._channel.exit_status if self._channel.exit_status >= 0 else None
        said = (bytes(self._stderr) or bytes(self._buffer[-_STDERR_KEPT:])).decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = f": {lines[-1]}" if lines else ""
        if not self._started and status == _NOT_FOUND:
            return f"there is no Bash on the node{last}"
        if not self._started and status is not None:
            return f"its login shell ended with status {status}{last}"
        return f"the connection broke{last}"

    def listen(self) -> None:
        """Take in what has come, without waiting; what is no notice belongs to nobody."""
        self._read_stderr()
        while self._channel.recv_ready():
            self._buffer += self._channel.recv(_CHUNK)
        whole = self._buffer.rfind(b"\n") + 1
        self._without_notices(bytes(self._buffer[:whole]))
        del self._buffer[:whole]
        del self._buffer[:-_LOOSE_KEPT]

    def _without_notices(self, data: bytes) -> bytes:
        def take(found: re.Match[bytes]) -> bytes:
            self._notices.append(found[1].decode("utf-8", "surrogateescape"))
            return b""

        return _NOTICE.sub(take, data)

    def take_notices(self) -> list[str]:
        taken, self._notices = self._notices, []
        return taken


def _escaped(mark: str) -> str:
    """A mark as a printf format; it must not stand in the request itself, which may be echoed."""
    return mark.replace("\x1e", "\\036").replace("\n", "\\n")
