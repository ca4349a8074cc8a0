"""Byte streams to a host: TCP, or the stdin and stdout of a ProxyCommand.

Rules: a stream is connected within its deadline or not at all; small writes leave at once; a peer
that is gone is noticed although nobody is writing.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time

from allot.sshconfig import Login

KEEPALIVE_S = 10.0
_SILENCES = 3  # so many signs of life unanswered, and the peer counts as gone
_PROXY_END_S = 2.0


def open_tcp(login: Login, deadline: float) -> socket.socket:
    """Connect to the first of a host's addresses that answers; a silent one gets its share."""
    try:
        addresses = socket.getaddrinfo(login.hostname, login.port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from exc
    failure: OSError = ConnectionError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds_left(deadline) / (len(addresses) - number))
            sock.connect(address)
            _tune(sock, login.server_alive_interval or KEEPALIVE_S)
        except OSError as exc:
            sock.close()
            failure = exc
        else:
            return sock
    if isinstance(failure, TimeoutError):
        raise TimeoutError(f"no answer from {login.hostname}:{login.port}") from failure
    raise type(failure)(
        failure.errno, f"{failure.strerror or failure} at {login.hostname}:{login.port}"
    ) from failure


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
    and a file do not. The command has a session of its own: Ctrl-C is not meant for it.
    """

    def __init__(self, command: str) -> None:
        """Start the command.

        Raises:
            OSError: It cannot be started.
        """
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
        self.shutdown = self._socket.shutdown
        self.said = ""  # why the command failed, once it is closed; empty: it did not

    @property
    def _closed(self) -> bool:  # what paramiko asks a socket
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Hang up and end the command, within seconds. Idempotent."""
        if self._closed:
            return
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(_PROXY_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        status = self._process.returncode
        self.said = lines[-1] if lines else f"it ended with status {status}" if status > 0 else ""
        self._stderr.close()


def seconds_left(deadline: float) -> float:
    """Seconds until a deadline (monotonic), never none: a timeout of 0 would mean "no waiting"."""
    return max(deadline - time.monotonic(), 0.01)
