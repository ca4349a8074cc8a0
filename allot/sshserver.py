"""The server's side of one SSH connection for `LoopbackNodes`: who comes in, and what then runs.

The rules of this module: one key opens the door, whatever the user's name; a command gets what
sshd would give it (a session of its own, its stdin and the end of it, its exit status before its
channel closes); what runs longer than its client is waited for here; every thread is a daemon,
belongs to `Workers` and ends soon after its ``closing`` is set.

SSH is paramiko's server side (RFC 4252, RFC 4254).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_REQUEST,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from allot.sftpserver import serve_sftp

TICK_S = 0.1  # how often a waiting thread looks whether it is to end
_HANGUP_S = 1.0  # what a command has between SIGHUP and SIGKILL
_CHUNK = 64 * 1024  # bytes moved at once: what a pipe holds

_SSH_LOG = f"{__name__}.paramiko"
_log = logging.getLogger(__name__)
# paramiko logs a client that just hangs up as an error. Without a handler Python would print that
# in the middle of the user's bars.
logging.getLogger(_SSH_LOG).addHandler(logging.NullHandler())

_T = TypeVar("_T")


class Workers:
    """All threads of one `LoopbackNodes`, and the sign for them to end."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, target: Callable[[], None]) -> None:
        """Run ``target`` in a thread of its own."""
        thread = threading.Thread(target=target, name=f"allot-loopback-{name}", daemon=True)
        thread.start()
        self.adopt(thread)

    def adopt(self, thread: threading.Thread) -> None:
        """Take a started thread in, to be waited for."""
        with self._lock:
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def join(self, timeout: float) -> list[str]:
        """Wait up to ``timeout`` seconds for all; the names of those that still run."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:  # looked at anew: one that ends may have started another before
                running = [each for each in self._threads if each.is_alive()]
            remaining = deadline - time.monotonic()
            if not running or remaining <= 0:
                return [each.name for each in running]
            running[0].join(remaining)


@dataclass(frozen=True)
class Machine:
    """What all nodes have in common.

    Attributes:
        user_key: The one key that is let in.
        environment: The variables of every command, ``SSH_CONNECTION`` aside.
        home: The absolute directory in which commands start and relative paths begin.
        workers: The threads, this connection's among them.
    """

    user_key: paramiko.PKey
    environment: Mapping[str, str]
    home: str
    workers: Workers


class ServerTransport(paramiko.Transport):
    """The server's end of one accepted connection.

    A command's end must not reach the client before the answer to its exec request: paramiko's
    client takes a channel that closes first for a failed request. paramiko has no hook after that
    answer, so its table of message handlers gets one.
    """

    def __init__(
        self, connection: socket.socket, host_key: paramiko.PKey, machine: Machine
    ) -> None:
        super().__init__(connection)
        self.name = "allot-loopback-transport"
        self.set_log_channel(_SSH_LOG)
        self._connection = connection
        self._machine = machine
        self._door = _Door(connection, machine)
        self.add_server_key(host_key)
        handlers = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined]
        self._channel_handler_table = {**handlers, MSG_CHANNEL_REQUEST: self._answer_request}

    def serve(self) -> None:
        """Begin; returns at once."""
        self.start_server(event=threading.Event(), server=self._door)
        self._machine.workers.adopt(self)

    def _answer_request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        try:
            channel._handle_request(message)  # type: ignore[attr-defined]
        finally:
            self._door.begin()

    def hang_up(self) -> None:
        """End the connection now; its reader wakes at once and not at its next look."""
        with contextlib.suppress(OSError):  # the client was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self.close()


class _Door(paramiko.ServerInterface):
    """Who may come in over one connection, and what they may ask for.

    paramiko calls it from the connection's thread only.
    """

    def __init__(self, connection: socket.socket, machine: Machine) -> None:
        (there, there_port), (here, here_port) = connection.getpeername(), connection.getsockname()
        self._environment = {
            **machine.environment,
            "SSH_CONNECTION": f"{there} {there_port} {here} {here_port}",
        }
        self._machine = machine
        self._next: Callable[[], None] | None = None
        self._opened: list[paramiko.Channel] = []  # nothing asked of them yet

    def begin(self) -> None:
        """Set going what the last request asked for, now that the client knows of it."""
        begin, self._next = self._next, None
        if begin is not None:
            begin()

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002
        return AUTH_SUCCESSFUL if key == self._machine.user_key else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._take(channel)
        try:
            running = _Command(channel, command, self._environment, self._machine)
        except (OSError, ValueError) as error:  # too long, a null byte, no memory, no descriptors
            _log.warning("cannot start a command: %s", error)
            return False
        self._next = running.start
        return True

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if name != "sftp":
            return False
        self._take(channel)
        self._machine.workers.adopt(serve_sftp(channel, self, self._machine.home))
        return True

    def _take(self, channel: paramiko.Channel) -> None:
        """Take ``channel`` over from paramiko, to live as long as what serves it.

        paramiko keeps new channels for accept(), for ever if nobody asks, and ends those that
        nobody holds; accept() may give others that were opened meanwhile.
        """
        while (opened := channel.get_transport().accept(0.0)) is not None:
            self._opened.append(opened)
        self._opened = [each for each in self._opened if each is not channel and not each.closed]


class _Command:
    """One command: its process, and two threads between the process's pipes and the channel.

    Two, so that a client which sends much before it reads anything blocks nothing. Only the
    output thread reaps the process and signals it, so no signal meets a pid come round again.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        line: bytes,
        environment: Mapping[str, str],
        machine: Machine,
    ) -> None:
        self._channel = channel
        self._workers = machine.workers
        self._over = threading.Event()
        self._exit_told = False
        self._process = subprocess.Popen(
            [b"/bin/bash", b"-c", line],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=machine.home,
            env=environment,
            start_new_session=True,
        )

    def start(self) -> None:
        self._workers.start("output", self._serve)
        self._workers.start("input", self._carry_input)

    def _serve(self) -> None:
        try:
            self._carry_output()
            self._await_exit()
        except (OSError, EOFError, paramiko.SSHException) as error:
            _log.debug("the client left its command: %s", error)
        finally:
            self._close_output()
            self._reap()
            self._over.set()
            with contextlib.suppress(EOFError, paramiko.SSHException):  # the client was first
                self._channel.close()

    def _carry_output(self) -> None:
        """Carry stdout and stderr until both end; a background process may keep them open."""
        channel = self._channel
        with selectors.DefaultSelector() as selector:
            selector.register(_there(self._process.stdout), selectors.EVENT_READ, channel.sendall)
            selector.register(
                _there(self._process.stderr), selectors.EVENT_READ, channel.sendall_stderr
            )
            while selector.get_map() and not self._abandoned():
                for key, _ in selector.select(TICK_S):
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
                self._tell_exit()
        channel.shutdown_write()

    def _await_exit(self) -> None:
        while self._process.returncode is None and not self._abandoned():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TICK_S)
        self._tell_exit()

    def _abandoned(self) -> bool:
        return self._channel.closed or self._workers.closing.is_set()

    def _tell_exit(self) -> None:
        """Send the exit status once there is one: 128+n after signal n, as a shell says it."""
        code = self._process.poll()
        if code is not None and not self._exit_told and not self._channel.closed:
            self._exit_told = True
            self._channel.send_exit_status(code if code >= 0 else 128 - code)

    def _close_output(self) -> None:
        _there(self._process.stdout).close()
        _there(self._process.stderr).close()

    def _reap(self) -> None:
        """Stay until the process ends; when the nodes close, end it and its process group."""
        while self._process.poll() is None:
            if not self._workers.closing.wait(TICK_S):
                continue
            for number in (signal.SIGHUP, signal.SIGKILL):
                with contextlib.suppress(PermissionError):  # it has become another user's
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_HANGUP_S)
                    return
            _log.warning("process %d outlives its loopback node", self._process.pid)
            return

    def _carry_input(self) -> None:
        """Carry stdin until the client ends it, and what came before that still arrives."""
        with _there(self._process.stdin) as pipe:
            os.set_blocking(pipe.fileno(), False)
            ready = select.poll()
            ready.register(pipe, select.POLLOUT)
            reading = True
            while data := self._channel.recv(_CHUNK):
                # What nobody reads is still taken from the client, or it would wait for ever.
                reading = reading and self._deliver(pipe.fileno(), data, ready)

    def _deliver(self, pipe: int, data: bytes, ready: select.poll) -> bool:
        """Write ``data`` to the process; False when it reads no more."""
        rest = memoryview(data)
        while rest and not self._over.is_set():
            try:
                rest = rest[os.write(pipe, rest) :]
            except BlockingIOError:
                ready.poll(TICK_S * 1000)
            except BrokenPipeError:
                return False
        return not rest


def _there(value: _T | None) -> _T:
    """A pipe that was asked for with PIPE, for the type checker."""
    if value is None:
        raise AssertionError("the pipe was asked for")
    return value
