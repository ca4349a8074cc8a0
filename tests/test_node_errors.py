"""What goes wrong on the way to a node leaves as one of our errors, in words for a user."""

from __future__ import annotations

import inspect
import socket
import struct
import threading
import time
from pathlib import Path

import paramiko
import pytest
from nodes import reach, write_config
from paramiko import ssh_exception

from allot.errors import AuthenticationFailedError, ConnectionFailedError, HostKeyError, NodeError
from allot.faults import translate


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a..b", "a" * 70])
def test_names_that_do_not_resolve(tmp_path: Path, host: str) -> None:
    """A host without an address is named as that."""
    config = write_config(tmp_path / "config", f"Host x\n  HostName {host}\n")
    with (
        reach("x", config) as node,
        pytest.raises(ConnectionFailedError, match="x: its name does not resolve"),
    ):
        node.connect()


def test_a_port_where_nobody_speaks_ssh(tmp_path: Path) -> None:
    """Something that accepts and stays silent costs the timeout and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = write_config(tmp_path / "config", f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        started = time.monotonic()
        with (
            reach("x", config, timeout=0.5) as node,
            pytest.raises(ConnectionFailedError, match=r"timed out after 0\.5 s"),
        ):
            node.connect()
        assert time.monotonic() - started < 10


def _kexinit(names: bytes) -> bytes:
    """A first SSH packet (RFC 4253, 6 and 7.1) with the same text for each list of algorithms."""
    lists = b"".join(struct.pack(">I", len(names)) + names for _ in range(10))
    payload = b"\x14" + b"c" * 16 + lists + b"\0" * 5
    padding = 16 - (len(payload) + 5) % 16 + 16
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + b"\0" * padding


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-x\r\n" + b"\xff" * 100,
        b"SSH-2.0-x\r\n" + _kexinit(b"nothing-in-common"),
        b"SSH-2.0-x\r\n" + _kexinit(b"\xff\xfe"),
        b"SSH-2.0-x\r\n" + struct.pack(">IB", 12, 10) + b"\x14" + b"\0" * 10,
    ],
    ids=["http", "old", "rubbish", "stranger", "no-text", "torn"],
)
def test_a_server_that_speaks_nonsense(tmp_path: Path, answer: bytes) -> None:
    """Whatever comes from the other side, the user reads one of our errors with the name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(5)
                    try:
                        while connection.recv(1024):
                            pass
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        config = write_config(tmp_path / "config", f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        try:
            with (
                reach("x", config, timeout=1.0) as node,
                pytest.raises(ConnectionFailedError, match=r"^x: "),
            ):
                node.connect()
        finally:
            over.set()
            thread.join(20)


def _every_paramiko_exception() -> list[BaseException]:
    made: list[BaseException] = []
    for _, kind in inspect.getmembers(ssh_exception, inspect.isclass):
        if not issubclass(kind, Exception) or kind.__module__ != ssh_exception.__name__:
            continue
        key = paramiko.Ed25519Key.generate() if hasattr(paramiko.Ed25519Key, "generate") else None
        for arguments in (
            ("text",),
            (3, "text"),
            ({("10.0.0.1", 22): ConnectionRefusedError(111, "refused")},),
            ("host", key, key),
            ("text", ["password"]),
        ):
            try:
                error = kind(*arguments)
                str(error)
            except (TypeError, AttributeError, ValueError, KeyError, IndexError):
                continue
            made.append(error)
            break
        else:
            made.append(_without_init(kind))
    return made


def _without_init(kind: type[BaseException]) -> BaseException:
    error = kind.__new__(kind)
    vars(error).update(hostname="host", key=None, expected_key=None)
    return error


@pytest.mark.parametrize(
    "error",
    [
        *_every_paramiko_exception(),
        paramiko.SFTPError("garbage"),
        EOFError(),
        TimeoutError(),
        OSError("odd"),
        ConnectionResetError(104, "Connection reset by peer"),
        socket.gaierror(-2, "Name or service not known"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_leaves_as_one_of_ours(error: BaseException) -> None:
    """Whatever paramiko or the system raises, the user reads a NodeError with the node's name."""
    ours = translate("ws01", error)
    assert isinstance(ours, NodeError)
    assert ours.node == "ws01"
    assert str(ours).startswith("ws01: ")
    if isinstance(error, paramiko.BadHostKeyException):
        assert isinstance(ours, HostKeyError)
    elif isinstance(error, paramiko.AuthenticationException):
        assert isinstance(ours, AuthenticationFailedError)
    else:
        assert isinstance(ours, ConnectionFailedError)
    assert translate("other", ours) is ours
