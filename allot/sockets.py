"""Byte streams to a host: TCP, or the stdin and stdout of a ProxyCommand.

Rules: a stream is connected within its deadline or not at all, and at any moment another thread
can make that fail at once; small writes leave at once; a peer that is gone is noticed although
nobody is writing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from ipaddress import ip_address
from typing import Any

from allot.sshconfig import Login

_log = logging.getLogger(__name__)

KEEPALIVE_S = 10.0
_SILENCES = 3  # so many signs of life unanswered, and the peer counts as gone
_PROXY_END_S = 0.2
_SLICE_S = 0.05  # how often who waits looks up whether the line was cut
_TAKEN_BYTES = 4096
_PROMPT_READS = 16


class Line:
    """One connection, from before its first packet on, that any thread can cut for good.

    Who makes the connection hands over, with ``carry``, how to end the stream that it uses at
    the moment, and waits with ``wait`` where no stream is there to be ended yet.
    """

    def __init__(self) -> None:
        self._was_cut = threading.Event()
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether ``cut`` was called."""
        return self._was_cut.is_set()

    def cut(self) -> None:
        """Make all that is under way on the line fail, now and later. Idempotent; never waits."""
        self._was_cut.set()
        self.end_stream()

    def end_stream(self) -> None:
        """End the stream that the line carries; it may carry another one."""
        with self._lock:
            end, self._end = self._end, None
        if end is None:
            return
        try:
            end()
        except (OSError, EOFError) as exc:
            _log.debug("hanging up on a connection that is gone: %s", exc)

    def carry(self, end: Callable[[], None]) -> None:
        """Carry a stream from now on.

        Args:
            end: Ends it: who waits on it gets an error. It must not wait itself.

        Raises:
            ConnectionAbortedError: The line was cut; the stream was ended.
        """
        with self._lock:
            self._end = end
        if self.is_cut:  # asked after the stream is known: cut() sets first, then looks for it
            self.end_stream()
        self.check()

    def check(self) -> None:
        """Go on only if the line was not cut.

        Raises:
            ConnectionAbortedError: It was.
        """
        if self.is_cut:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was given up")

    def wait(self, done: Callable[[float], bool], deadline: float) -> bool:
        """Wait for something that nobody can end: in slices, so that ``cut`` is noticed.

        Args:
            done: Waits so many seconds at most, and says whether it is over.
            deadline: Until when (monotonic seconds).

        Returns:
            False where the deadline came first.

        Raises:
            ConnectionAbortedError: The line was cut.
        """
        while True:
            self.check()
            left = deadline - time.monotonic()
            if done(max(min(left, _SLICE_S), 0)):
                return True
            if left <= 0:
                return False

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            ConnectionAbortedError: The line was cut meanwhile.
        """
        self._was_cut.wait(seconds)
        self.check()


class _Stream(socket.socket):
    """A connected socket that asks the system as seldom as it can.

    Each system call gives up the interpreter's lock, and with many nodes others take it. Python
    polls before each call of a socket with a timeout: here the kernel keeps the time (socket(7),
    ``SO_RCVTIMEO``). paramiko asks for each packet in two pieces: here what has come is taken
    along, a small packet and those behind it at one go.

    sshd sends nothing small while something before it is not acknowledged (tcp(7),
    ``TCP_NODELAY``), and who has nothing to send acknowledges after 40 ms. The first packets, of
    which each waits for one from the other side, are acknowledged at once.
    """

    _taken = b""
    _prompt = _PROMPT_READS if hasattr(socket, "TCP_QUICKACK") else 0

    def settimeout(self, value: float | None, /) -> None:
        super().settimeout(None)
        microseconds = 0 if value is None else max(round(value * 1e6), 1)  # 0 is for ever
        timeval = struct.pack("ll", *divmod(microseconds, 1_000_000))
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if not self._taken:
            try:
                self._taken = super().recv(max(bufsize, _TAKEN_BYTES), flags)
            except BlockingIOError:
                raise TimeoutError("timed out") from None
            if self._prompt:
                self._prompt -= 1
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        data, self._taken = self._taken[:bufsize], self._taken[bufsize:]
        return data


def open_tcp(login: Login, deadline: float, line: Line) -> socket.socket:
    """Connect to the first of a host's addresses that answers; a silent one gets its share."""
    addresses = _look_up(login, deadline, line)
    failure: OSError = ConnectionError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = _Stream(family, kind, protocol)
        share = seconds_left(deadline) / (len(addresses) - number)
        try:
            _connect(sock, address, time.monotonic() + share, line)
            _tune(sock, login.server_alive_interval or KEEPALIVE_S)
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, OSError) or line.is_cut:
                raise
            failure = exc
        else:
            return sock
    if isinstance(failure, TimeoutError):
        raise TimeoutError(f"no answer from {login.hostname}:{login.port}") from failure
    raise type(failure)(
        failure.errno, f"{failure.strerror or failure} at {login.hostname}:{login.port}"
    ) from failure


def _look_up(login: Login, deadline: float, line: Line) -> list[tuple[Any, ...]]:
    """A host's addresses.

    The system's resolver can neither be bounded nor stopped: it gets a thread of its own, which
    is left to itself where it takes too long.
    """
    found: futures.Future[list[tuple[Any, ...]]] = futures.Future()

    with contextlib.suppress(ValueError):
        ip_address(login.hostname)  # which nobody looks up anywhere
        return _addresses(login, socket.AI_NUMERICHOST)

    def ask() -> None:
        try:
            found.set_result(_addresses(login))
        except (OSError, UnicodeError) as exc:
            found.set_exception(exc)

    threading.Thread(target=ask, name=f"allot-lookup-{login.hostname}", daemon=True).start()
    if not line.wait(lambda seconds: bool(futures.wait([found], seconds).done), deadline):
        raise TimeoutError(f"no answer to where {login.hostname} is")
    try:
        return found.result()
    except UnicodeError as exc:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from exc


def _addresses(login: Login, flags: int = 0) -> list[tuple[Any, ...]]:
    return list(
        socket.getaddrinfo(login.hostname, login.port, type=socket.SOCK_STREAM, flags=flags)
    )


def _connect(sock: socket.socket, address: Any, deadline: float, line: Line) -> None:
    """Connect; in slices, since a socket that is not connected yet cannot be shut everywhere."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not line.wait(lambda seconds: bool(poll.poll(seconds * 1000)), deadline):
            raise TimeoutError
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.settimeout(seconds_left(deadline))


def _tune(sock: socket.socket, alive_interval: float) -> None:
    # Without this each small request waits 40 ms for the peer's delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: unacknowledged data break the connection
        milliseconds = int(alive_interval * _SILENCES * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


class ProxySocket:
    """A ProxyCommand's stdin and stdout, as a socket.

    paramiko's own ``ProxyCommand`` leaves zombies and lets a full stderr block; a socket pair
    and a file do not. The command has a session of its own: Ctrl-C is not meant for it, and
    what it starts ends with it.
    """

    def __init__(self, command: str) -> None:
        """Start the command.

        Raises:
            OSError: It cannot be started.
        """
        self._ending = threading.Lock()
        self._closing = threading.Lock()
        self._kill_at: float | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the socket
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._stderr,
                start_new_session=True,
            )
        self.send = self._socket.send
        self.recv = self._socket.recv
        self.settimeout = self._socket.settimeout
        self.said = ""  # why the command failed, once it is closed; empty: it did not

    @property
    def _closed(self) -> bool:  # what paramiko asks a socket
        return self._socket.fileno() < 0

    def end(self) -> None:
        """Hang up and tell the command to end, without waiting for it. Idempotent."""
        with self._ending:
            if self._kill_at is not None:
                return
            self._kill_at = time.monotonic() + _PROXY_END_S
            with contextlib.suppress(OSError):  # the command hung up first
                self._socket.shutdown(socket.SHUT_RDWR)
            self._signal(signal.SIGTERM)

    def close(self) -> None:
        """Hang up and see the command's end, by force where it does not end soon. Idempotent."""
        self.end()
        with self._closing:
            if self._closed:
                return
            self._socket.close()
            try:
                self._process.wait(seconds_left(self._kill_at or 0))
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
            self._stderr.close()
        status = self._process.returncode
        self.said = lines[-1] if lines else f"it ended with status {status}" if status > 0 else ""

    def _signal(self, number: signal.Signals) -> None:
        """Signal the command and what it started; not reaped yet, it still has its number."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def seconds_left(deadline: float) -> float:
    """Seconds until a deadline (monotonic), never none: a timeout of 0 would mean "no waiting"."""
    return max(deadline - time.monotonic(), 0.01)
