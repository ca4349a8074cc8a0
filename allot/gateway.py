"""The ways to the nodes: sockets, jump hosts, proxy commands and logins, shared by a cluster.

Rules: every step is bounded in time; every exception of paramiko's or the system's leaves as one
of ours (``faults``); a jump host is logged in to once, whoever needs it, and nodes behind a
ProxyCommand a few at a time, so that MaxStartups 10:30:100 is not tripped; no connection is made,
used or left open that ``Gateway.close`` does not know of.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

from allot.errors import ConnectionFailedError, NodeError
from allot.faults import GARBLED, HOST_ERRORS, translate
from allot.hostkeys import check_host_key, known_keys, preferred_types
from allot.sockets import KEEPALIVE_S, Line, ProxySocket, open_tcp, seconds_left
from allot.sshauth import KeyRing, LoginExpiredError, OpenSSHAuth
from allot.sshconfig import Login
from allot.watchdog import Watchdog

_log = logging.getLogger(__name__)
# paramiko logs each failure with a traceback, which Python prints to stderr, in the middle of the
# bars, where nobody has set up logging. They all come back as errors anyway.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_TRIES = 6
_BACKOFF_S = 0.2
_PROXY_LOGINS = 8
_THREAD_END_S = 2.0
# So long paramiko's thread of a connection sleeps at most where nothing comes. It only looks then
# whether a sign of life is due; its own tenth of a second is dear with hundreds of connections.
_LOOK_UP_S = 5.0
_GIVEN_UP = "the connection was given up while it was being made"


class Connection(Line):
    """A line with a login at its end, once there is one; ``Gateway.open`` makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.client: paramiko.SSHClient | None = None


class Gateway:
    """What the connections of one cluster share: key files, jump hosts, the watchdog."""

    def __init__(self) -> None:
        self.watchdog = Watchdog()
        self._keys = KeyRing()
        self._lock = threading.Lock()
        self._is_closed = False
        self._lines: set[Connection] = set()
        self._jumps: dict[tuple[Login, ...], Future[Connection]] = {}
        self._proxy_logins = threading.BoundedSemaphore(_PROXY_LOGINS)

    def open(self, name: str, login: Login, timeout: float, line: Connection) -> paramiko.SSHClient:
        """Connect and log in.

        A host that turns a connection away before it has said who it is has too many logins at
        that moment (MaxStartups): it is asked again, later and later.

        Args:
            name: The node's name, for messages.
            login: Where and how.
            timeout: Seconds for the connection, and again for the login.
            line: What to make it on, a new one; whoever cuts it makes this fail at once.

        Returns:
            The line's client; ``hang_up`` ends it.

        Raises:
            ConnectionFailedError: It did not work, the line was cut, or the gateway is closed.
            AuthenticationFailedError, HostKeyError: It did not work.
        """
        with self._lock:
            if self._is_closed:
                raise ConnectionFailedError(name, "not connected any more: the cluster is closed")
            self._lines.add(line)
        try:
            client = self._open(name, login, timeout, line)
            with self._lock:
                line.client = client
            line.check()  # whoever cut it before this may not have seen the client
        except BaseException as exc:
            was_cut = line.is_cut
            self.hang_up(line)
            if was_cut and isinstance(exc, Exception):
                raise ConnectionFailedError(name, _GIVEN_UP) from exc
            raise
        return client

    def _open(
        self, name: str, login: Login, timeout: float, line: Connection
    ) -> paramiko.SSHClient:
        give_up = time.monotonic() + timeout
        pause = _BACKOFF_S
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                return self._open_once(name, login, timeout, line)
            except NodeError:
                raise
            except HOST_ERRORS as exc:
                rest = pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, no secret
                late = time.monotonic() + rest > give_up
                retry = _is_turned_away(exc) and (not late or isinstance(exc, LoginExpiredError))
                if not tries_left or not retry or line.is_cut:
                    raise translate(name, exc) from exc
                _log.info("%s: turned away (%s), next try in %.1f s", name, exc, rest)
            line.pause(rest)
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _open_once(
        self, name: str, login: Login, timeout: float, line: Connection
    ) -> paramiko.SSHClient:
        seconds = login.connect_timeout or timeout
        sock: socket.socket | _JumpSocket
        if login.proxy_jump and login.proxy_command is None:
            jump = self._jump(name, login.proxy_jump, timeout, line)
            deadline = time.monotonic() + seconds
            sock = _open_through(name, login, jump, deadline)
            return self._log_in(name, login, sock, deadline, timeout=timeout, line=line)
        deadline = time.monotonic() + seconds
        if login.proxy_command is None:
            sock = open_tcp(login, deadline, line)
            return self._log_in(name, login, sock, deadline, timeout=timeout, line=line)
        # Who waits here is woken by close() too: the logins under way fail and make room.
        if not self._proxy_logins.acquire(timeout=seconds):
            raise TimeoutError("other logins through ProxyCommand took too long")
        try:
            line.check()
            proxy = ProxySocket(login.proxy_command)
            return self._log_in(name, login, proxy, deadline, timeout=timeout, line=line)
        finally:
            self._proxy_logins.release()

    def _log_in(
        self,
        name: str,
        login: Login,
        sock: socket.socket | _JumpSocket | ProxySocket,
        deadline: float,
        *,
        timeout: float,
        line: Connection,
    ) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_HostKeyPolicy(name, login))
        seconds = seconds_left(deadline)
        try:
            line.carry(partial(_end_stream, sock))
            client.connect(
                login.hostname,
                login.port,
                login.user,
                sock=sock,  # type: ignore[arg-type] # anything with a socket's methods will do
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=timeout,
                channel_timeout=timeout,
                transport_factory=_TransportFactory(name, login, seconds),
                auth_strategy=OpenSSHAuth(name, login, self._keys, timeout),
            )
        except BaseException as exc:
            line.end_stream()
            _see_off(client)
            sock.close()
            if isinstance(exc, LoginExpiredError):  # typing counts towards no bound
                raise
            if isinstance(exc, GARBLED) and not isinstance(exc, (*HOST_ERRORS, NodeError)):
                raise paramiko.SSHException(f"garbled message ({exc})") from exc
            if time.monotonic() >= deadline and isinstance(exc, (paramiko.SSHException, EOFError)):
                raise TimeoutError(
                    f"timed out after {login.connect_timeout or timeout:g} s"
                ) from exc
            if isinstance(sock, ProxySocket) and sock.said and isinstance(exc, HOST_ERRORS):
                raise paramiko.ProxyCommandFailure(login.proxy_command or "", sock.said) from exc
            raise
        return client

    def _jump(
        self, name: str, chain: tuple[Login, ...], timeout: float, line: Connection
    ) -> Connection:
        """The connection to a jump host; who comes while it is being made waits for it."""
        with self._lock:
            known = self._jumps.get(chain)
            shared = Future() if known is None or _is_spent(known) else known
            self._jumps[chain] = shared
        if shared is not known:
            if known is not None and known.exception() is None:
                self.hang_up(known.result())
            # A thread of its own: who asked first may give up while the others still want it.
            threading.Thread(
                target=self._make_jump,
                args=(chain, timeout, shared),
                name=f"allot-jump-{chain[-1].alias}",
                daemon=True,
            ).start()
        # No bound of its own: that login has one in each step, but for passphrases.
        line.wait(lambda seconds: bool(wait([shared], seconds).done), float("inf"))
        try:
            return shared.result()
        except NodeError as exc:
            raise type(exc)(name, f"jump host {chain[-1].alias}: {exc.reason}") from exc

    def _make_jump(
        self, chain: tuple[Login, ...], timeout: float, shared: Future[Connection]
    ) -> None:
        line = Connection()
        try:
            self.open(chain[-1].alias, replace(chain[-1], proxy_jump=chain[:-1]), timeout, line)
        except BaseException as exc:
            shared.set_exception(exc)
        else:
            shared.set_result(line)

    def hang_up(self, line: Connection) -> None:
        """Cut a line and see its connection off, within seconds. Idempotent."""
        line.cut()
        with self._lock:
            self._lines.discard(line)
            client, line.client = line.client, None  # of two who hang up one sees it off
        if client is not None:
            _see_off(client)

    def close(self) -> None:
        """Hang up on everybody, for good. Idempotent.

        What other threads have under way on the lines fails at once, logins too, and so does
        every later ``open``.
        """
        with self._lock:
            self._is_closed = True
            lines = list(self._lines)
        for line in lines:  # all of them first: then they end side by side
            line.cut()
        for line in lines:
            self.hang_up(line)
        self.watchdog.close()


def _is_spent(shared: Future[Connection]) -> bool:
    if not shared.done():
        return False
    if shared.exception() is not None:
        return True
    transport = _transport_of(shared.result())
    return transport is None or not transport.is_active()


def _transport_of(line: Connection) -> paramiko.Transport | None:
    client = line.client
    return None if client is None else client.get_transport()


def _is_turned_away(exc: Exception) -> bool:
    """Whether a host hung up before it had said who it is, or while somebody typed."""
    if isinstance(exc, paramiko.ProxyCommandFailure):
        return re.search("closed|reset|exceeded", exc.error, re.IGNORECASE) is not None
    return isinstance(exc, (ConnectionResetError, EOFError, LoginExpiredError)) or (
        isinstance(exc, paramiko.SSHException) and "banner" in str(exc)
    )


def _alive_interval(login: Login) -> float:
    """Seconds between two signs of life."""
    return login.server_alive_interval or KEEPALIVE_S


_HANDLERS = paramiko.Transport._channel_handler_table  # type: ignore[attr-defined] # not in its stubs


def _note_exit_signal(channel: paramiko.Channel, message: paramiko.Message) -> None:
    place = message.packet.tell()
    if message.get_text() == "exit-signal":
        channel.status_event.set()
    message.packet.seek(place)
    _HANDLERS[MSG_CHANNEL_REQUEST](channel, message)


class _Transport(paramiko.Transport):
    """Takes a program that a signal ended for one that has ended (RFC 4254, section 6.10).

    paramiko passes that message over; what the program left running may hold the channel open. On
    the other hand it makes what sshd says for debugging printable, character by character, also
    where nobody logs it.
    """

    _channel_handler_table = {**_HANDLERS, MSG_CHANNEL_REQUEST: _note_exit_signal}  # noqa: RUF012

    def _parse_debug(self, message: paramiko.Message) -> None:
        if self.logger.isEnabledFor(logging.DEBUG):
            super()._parse_debug(message)  # type: ignore[misc] # not in its stubs


@dataclass(frozen=True)
class _TransportFactory:
    """Makes the transport of one connection: names its thread, asks for keys on record.

    Ciphers that authenticate what they encrypt come first: paramiko compares the code that goes
    with each message of the others byte by byte, in Python.
    """

    name: str
    login: Login
    timeout: float

    def __call__(self, sock: Any, **options_of_paramiko: object) -> paramiko.Transport:
        del options_of_paramiko
        transport = _Transport(sock)
        sock.settimeout(min(_LOOK_UP_S, _alive_interval(self.login) / 2))
        transport.name = f"allot-ssh-{self.name}"
        transport.handshake_timeout = self.timeout
        options = transport.get_security_options()
        options.key_types = preferred_types(known_keys(self.login), options.key_types)
        options.ciphers = sorted(options.ciphers, key=lambda name: "-gcm@" not in name)
        transport.set_keepalive(round(_alive_interval(self.login)))
        return transport


class _HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Asked for every host, since paramiko is given no keys of its own to compare with."""

    def __init__(self, name: str, login: Login) -> None:
        self._name = name
        self._login = login

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client, hostname
        check_host_key(self._name, self._login, key.get_name(), key.asbytes())


def _open_through(name: str, login: Login, jump: Connection, deadline: float) -> _JumpSocket:
    transport = _transport_of(jump)
    last = login.proxy_jump[-1].alias
    if transport is None:
        raise ConnectionFailedError(name, f"jump host {last}: the connection broke")
    try:
        return _JumpSocket(
            transport.open_channel(
                "direct-tcpip",
                (login.hostname, login.port),
                ("127.0.0.1", 0),
                timeout=seconds_left(deadline),
            )
        )
    except paramiko.ChannelException as exc:
        raise ConnectionFailedError(
            name, f"jump host {last} cannot reach {login.hostname}:{login.port}: {exc.text}"
        ) from exc


class _JumpSocket:
    """A jump host's channel to a node, as a socket whose end does not depend on the jump host."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.send = channel.send
        self.recv = channel.recv
        self.settimeout = channel.settimeout

    @property
    def _closed(self) -> bool:  # what paramiko asks a socket
        return self._channel.closed

    def end(self) -> None:
        """Make who reads see the end; nothing is sent to the jump host, who may not listen."""
        self._channel.in_buffer.close()

    def close(self) -> None:
        """Close the channel. Idempotent."""
        try:
            self._channel.close()
        except HOST_ERRORS as exc:
            _log.debug("closing a channel of a jump host that is gone: %s", exc)


def _end_stream(sock: socket.socket | _JumpSocket | ProxySocket) -> None:
    """Make who reads or writes a stream stop at once; nothing is sent and nobody waited for."""
    if isinstance(sock, socket.socket):
        sock.shutdown(socket.SHUT_RDWR)
    else:
        sock.end()


def _see_off(client: paramiko.SSHClient) -> None:
    """Free what a connection has that was cut: its socket and its thread. Idempotent."""
    transport = client.get_transport()
    if transport is None:
        return
    if transport.ident is not None:
        transport.join(_THREAD_END_S)
    # Else the timer of a handshake that broke runs on, and the interpreter waits for it to exit.
    transport.packetizer.complete_handshake()
    client.close()
    transport.sock.close()
