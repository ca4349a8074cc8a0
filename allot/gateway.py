"""The ways to the nodes: sockets, jump hosts, proxy commands and logins, shared by a cluster.

Rules: every step is bounded in time; every exception of paramiko's or the system's leaves as one
of ours, made in one place (``translate``); a jump host is logged in to once, whoever needs it,
and nodes behind a ProxyCommand a few at a time, so that MaxStartups 10:30:100 is not tripped.
"""

from __future__ import annotations

import logging
import random
import re
import socket
import struct
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from typing import Any

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import IncompatiblePeer

from allot.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    HostKeyError,
    NodeError,
)
from allot.hostkeys import check_host_key, known_keys, preferred_types
from allot.sockets import KEEPALIVE_S, ProxySocket, open_tcp, seconds_left
from allot.sshauth import EncryptedKeyError, KeyRing, LoginExpiredError, OpenSSHAuth
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

# All that paramiko and sockets raise when something is wrong with a host.
HOST_ERRORS = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError)

# What paramiko's reading of a message fails with when its contents make no sense.
_GARBLED = (ValueError, LookupError, AttributeError, TypeError, struct.error, UnknownKeyType)


class Gateway:
    """What the connections of one cluster share: key files, jump hosts, the watchdog."""

    def __init__(self) -> None:
        self.watchdog = Watchdog()
        self._keys = KeyRing()
        self._lock = threading.Lock()
        self._jumps: dict[tuple[Login, ...], Future[paramiko.SSHClient]] = {}
        self._proxy_logins = threading.BoundedSemaphore(_PROXY_LOGINS)

    def open(self, name: str, login: Login, timeout: float) -> paramiko.SSHClient:
        """Connect and log in.

        A host that turns a connection away before it has said who it is has too many logins at
        that moment (MaxStartups): it is asked again, later and later.

        Args:
            name: The node's name, for messages.
            login: Where and how.
            timeout: Seconds for the connection, and again for the login.

        Raises:
            ConnectionFailedError, AuthenticationFailedError, HostKeyError: It did not work.
        """
        give_up = time.monotonic() + timeout
        pause = _BACKOFF_S
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                return self._open_once(name, login, timeout)
            except NodeError:
                raise
            except HOST_ERRORS as exc:
                wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, no secret
                late = time.monotonic() + wait > give_up
                retry = _is_turned_away(exc) and (not late or isinstance(exc, LoginExpiredError))
                if not tries_left or not retry:
                    raise translate(name, exc) from exc
                _log.info("%s: turned away (%s), next try in %.1f s", name, exc, wait)
                time.sleep(wait)
                pause *= 2
        raise AssertionError("the last try returns or raises")

    def _open_once(self, name: str, login: Login, timeout: float) -> paramiko.SSHClient:
        deadline = time.monotonic() + (login.connect_timeout or timeout)
        if login.proxy_command is not None:
            if not self._proxy_logins.acquire(timeout=seconds_left(deadline)):
                raise TimeoutError("other logins through ProxyCommand took too long")
            try:
                proxy = ProxySocket(login.proxy_command)
                return self._log_in(name, login, proxy, deadline, timeout)
            finally:
                self._proxy_logins.release()
        if login.proxy_jump:
            through = self._open_through(name, login, deadline, timeout)
            return self._log_in(name, login, through, deadline, timeout)
        return self._log_in(name, login, open_tcp(login, deadline), deadline, timeout)

    def _log_in(
        self,
        name: str,
        login: Login,
        sock: socket.socket | paramiko.Channel | ProxySocket,
        deadline: float,
        timeout: float,
    ) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_HostKeyPolicy(name, login))
        seconds = seconds_left(deadline)
        try:
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
            close_client(client)
            sock.close()
            if isinstance(exc, LoginExpiredError):  # typing counts towards no bound
                raise
            if isinstance(exc, _GARBLED) and not isinstance(exc, (*HOST_ERRORS, NodeError)):
                raise paramiko.SSHException(f"garbled message ({exc})") from exc
            if time.monotonic() >= deadline and isinstance(exc, (paramiko.SSHException, EOFError)):
                raise TimeoutError(
                    f"timed out after {login.connect_timeout or timeout:g} s"
                ) from exc
            if isinstance(sock, ProxySocket) and sock.said and isinstance(exc, HOST_ERRORS):
                raise paramiko.ProxyCommandFailure(login.proxy_command or "", sock.said) from exc
            raise
        return client

    def _open_through(
        self, name: str, login: Login, deadline: float, timeout: float
    ) -> paramiko.Channel:
        jump = self._jump(name, login.proxy_jump, timeout)
        transport = jump.get_transport()
        last = login.proxy_jump[-1].alias
        if transport is None:
            raise ConnectionFailedError(name, f"jump host {last}: the connection broke")
        try:
            return transport.open_channel(
                "direct-tcpip",
                (login.hostname, login.port),
                ("127.0.0.1", 0),
                timeout=seconds_left(deadline),
            )
        except paramiko.ChannelException as exc:
            raise ConnectionFailedError(
                name, f"jump host {last} cannot reach {login.hostname}:{login.port}: {exc.text}"
            ) from exc

    def _jump(self, name: str, chain: tuple[Login, ...], timeout: float) -> paramiko.SSHClient:
        """The connection to a jump host; who comes while it is being made waits for it."""
        with self._lock:
            shared = self._jumps.get(chain)
            mine = shared is None or _is_spent(shared)
            if shared is None or mine:
                shared = self._jumps[chain] = Future()
        if mine:
            last = chain[-1]
            try:
                behind = replace(last, proxy_jump=chain[:-1])
                shared.set_result(self.open(last.alias, behind, timeout))
            except BaseException as exc:
                shared.set_exception(exc)
                if not isinstance(exc, NodeError):
                    raise
        try:
            # Each hop may take a connection's and a login's time, tries and passphrases apart.
            return shared.result(timeout=None if mine else timeout * 3 * len(chain))
        except FutureTimeoutError as exc:  # the builtin one only from Python 3.11 on
            raise TimeoutError(f"jump host {chain[-1].alias} took too long") from exc
        except NodeError as exc:
            raise type(exc)(name, f"jump host {chain[-1].alias}: {exc.reason}") from exc

    def close(self) -> None:
        """Hang up on the jump hosts. Idempotent."""
        with self._lock:
            chains = sorted(self._jumps, key=len, reverse=True)
            clients = [self._jumps.pop(chain) for chain in chains]
        for shared in clients:
            if shared.done() and shared.exception() is None:
                close_client(shared.result())
        self.watchdog.close()


def _is_spent(shared: Future[paramiko.SSHClient]) -> bool:
    if not shared.done():
        return False
    if shared.exception() is not None:
        return True
    transport = shared.result().get_transport()
    return transport is None or not transport.is_active()


def _is_turned_away(exc: Exception) -> bool:
    """Whether a host hung up before it had said who it is, or while somebody typed."""
    if isinstance(exc, paramiko.ProxyCommandFailure):
        return re.search("closed|reset|exceeded", exc.error, re.IGNORECASE) is not None
    return isinstance(exc, (ConnectionResetError, EOFError, LoginExpiredError)) or (
        isinstance(exc, paramiko.SSHException) and "banner" in str(exc)
    )


@dataclass(frozen=True)
class _TransportFactory:
    """Makes the transport of one connection: names its thread, asks for keys on record."""

    name: str
    login: Login
    timeout: float

    def __call__(self, sock: Any, **options_of_paramiko: object) -> paramiko.Transport:
        del options_of_paramiko
        transport = paramiko.Transport(sock)
        transport.name = f"allot-ssh-{self.name}"
        transport.handshake_timeout = self.timeout
        options = transport.get_security_options()
        options.key_types = preferred_types(known_keys(self.login), options.key_types)
        transport.set_keepalive(round(self.login.server_alive_interval or KEEPALIVE_S))
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


def close_client(client: paramiko.SSHClient) -> None:
    """Hang up at once and see the connection's thread off. Idempotent."""
    transport = client.get_transport()
    if transport is None:
        return
    sock = transport.sock
    try:
        # Wakes the reading thread, which would look up only every 0.1 s.
        if isinstance(sock, paramiko.Channel):
            sock.close()
        else:
            sock.shutdown(socket.SHUT_RDWR)
    except (OSError, EOFError) as exc:
        _log.debug("hanging up on a connection that is gone: %s", exc)
    client.close()
    sock.close()
    if transport.ident is not None:
        transport.join(_THREAD_END_S)


def translate(name: str, exc: BaseException) -> NodeError:
    """Say in our words what paramiko or the system said about a host.

    Args:
        name: The node's name.
        exc: What was raised.

    Returns:
        The error to raise in its place; one of ours stays as it is.
    """
    if isinstance(exc, NodeError):
        return exc
    if isinstance(exc, paramiko.BadHostKeyException):
        return HostKeyError(name, f"the host key of {exc.hostname} is not the one on record")
    if isinstance(exc, (paramiko.AuthenticationException, EncryptedKeyError)):
        return AuthenticationFailedError(name, f"the login was refused: {exc}")
    return ConnectionFailedError(name, _describe(exc))


def _describe(exc: BaseException) -> str:  # noqa: PLR0911 - a table
    if isinstance(exc, paramiko.ProxyCommandFailure):
        return f"ProxyCommand {exc.command!r} failed: {exc.error}"
    if isinstance(exc, paramiko.ChannelException):
        return f"the node opened no session: {exc.text} (MaxSessions?)"
    if isinstance(exc, IncompatiblePeer):
        return f"the node's sshd and paramiko have no algorithm in common: {exc}"
    if isinstance(exc, socket.gaierror):
        return f"its name does not resolve: {exc.strerror}"
    if isinstance(exc, TimeoutError):
        text = str(exc) or "no answer in time"
        return text if "timed out" in text else f"timed out: {text}"
    if isinstance(exc, EOFError):
        return "the node closed the connection"
    if isinstance(exc, OSError):
        text = exc.strerror or str(exc) or type(exc).__name__
        return text[:1].lower() + text[1:] if exc.errno is not None else text
    if isinstance(exc, paramiko.SSHException) and "banner" in str(exc):
        return "the connection was closed before sshd answered (too many logins, or no sshd there)"
    return f"SSH failed: {exc or type(exc).__name__}"
