"""Hanging up: what is under way fails at once, nothing is left, and nothing begins after."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import NodesFactory
from nodes import connected, open_gateway, reach, write_config
from sandbox import wait_until
from sshd import SshdNode, SshdNodes

from allot.errors import ConnectionFailedError
from allot.gateway import Gateway
from allot.node import Node

# Far below every bound in these tests, far above the 0.2 s it takes, for a machine that is busy.
_SOON_S = 3.0
_WAYS = ["silent", "greeting", "unanswered", "turned away", "proxy command", "jump host"]


class Attempt:
    """A connect in a thread of its own, and how it went."""

    def __init__(self, node: Node) -> None:
        self.error: BaseException | None = None
        self._node = node
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._node.connect()
        except BaseException as error:
            self.error = error

    def fails_soon(self) -> bool:
        """Wait for the end; whether it came soon, with the right error."""
        self._thread.join(_SOON_S)
        return not self._thread.is_alive() and isinstance(self.error, ConnectionFailedError)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join(60)


class Server:
    """Listens and never lets anybody in."""

    def __init__(
        self, *, answers: bool = True, hangs_up: bool = False, greets: bool = False
    ) -> None:
        self.callers = 0
        self.is_full = threading.Event()
        self._greets = greets
        self._hangs_up = hangs_up
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept if answers else self._fill)
        self._thread.start()

    def _fill(self) -> None:
        """Fill the queue of callers: the next one has no answer to its SYN."""
        while not self._over.is_set():
            sock = socket.socket()
            sock.settimeout(0.3)
            if sock.connect_ex(("127.0.0.1", self.port)):
                sock.close()
                self.is_full.set()
                return
            self._kept.append(sock)

    def is_called(self) -> bool:
        """Whether somebody has called."""
        return self.callers > 0

    def is_called_in_vain(self) -> bool:
        """Whether somebody's SYN has no answer (proc_net_tcp: a remote port, state 2)."""
        entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(
            words[2].endswith(f":{self.port:04X}") and words[3] == "02" for words in entries[1:]
        )

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.callers += 1
            self._kept.append(sock)
            if self._greets:
                sock.sendall(b"SSH-2.0-x\r\n")
            if self._hangs_up:
                sock.close()

    def close(self) -> None:
        """Hang up on everybody."""
        self._over.set()
        self._thread.join(10)
        for sock in [self._listener, *self._kept]:
            sock.close()


@pytest.fixture
def dead_end(
    tmp_path: Path, five_nodes: SshdNodes
) -> Iterator[Callable[[str], tuple[Path, Callable[[], bool]]]]:
    """Makes an ssh configuration by which nobody arrives, and tells when somebody tries."""
    with ExitStack() as stack:

        def serve(**options: bool) -> Server:
            server = Server(**options)
            stack.callback(server.close)
            return server

        def make(way: str) -> tuple[Path, Callable[[], bool]]:
            head = f"Host *\n  IdentityFile {five_nodes.key_file}\n"
            if way == "proxy command":
                mark = tmp_path / "called"
                command = f"""sh -c 'trap "" TERM; echo >> {mark}; sleep 60'"""
                text, tried = f"  ProxyCommand {command}\n", mark.exists
            else:
                server = serve(
                    answers=way != "unanswered",
                    hangs_up=way == "turned away",
                    greets=way == "greeting",
                )
                if way == "unanswered":
                    assert server.is_full.wait(30), "the queue does not fill"
                route = f"  HostName 127.0.0.1\n  Port {server.port}\n"
                jump = f"Host gate\n{route}Host in*\n  ProxyJump gate\n"
                text = jump if way == "jump host" else route
                tried = server.is_called_in_vain if way == "unanswered" else server.is_called
            return write_config(tmp_path / "config", head + text), tried

        yield make


def has_timer() -> bool:
    """Whether a timer runs, as paramiko sets one for each handshake."""
    return any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("whose", ["gateway", "node"])
def test_connecting_can_be_given_up(
    dead_end: Callable[[str], tuple[Path, Callable[[], bool]]], way: str, whose: str
) -> None:
    """Wherever a connect hangs, closing the gateway, or the node, makes it fail at once."""
    config, tried = dead_end(way)
    with open_gateway() as gateway, reach("inner", config, gateway, timeout=60) as node:
        attempt = Attempt(node)
        try:
            wait_until(tried, 20, "nobody tries to connect")
            if way == "greeting":
                wait_until(has_timer, 20, "the handshake does not begin")
            (gateway if whose == "gateway" else node).close()
            assert attempt.fails_soon(), attempt.error
            assert not node.is_connected
            wait_until(lambda: not has_timer(), _SOON_S, "the program could not end")
        finally:
            gateway.close()
            attempt.join()


def test_logins_that_queue_are_given_up_too(
    dead_end: Callable[[str], tuple[Path, Callable[[], bool]]],
) -> None:
    """More nodes behind proxy commands than are let through at a time: closing frees them all."""
    config, tried = dead_end("proxy command")
    with open_gateway() as gateway, ExitStack() as stack:
        nodes = [
            stack.enter_context(reach(f"in{number}", config, gateway, timeout=60))
            for number in range(20)
        ]
        attempts = [Attempt(node) for node in nodes]
        wait_until(tried, 20, "nobody tries to connect")
        began = time.monotonic()
        gateway.close()
        assert all(attempt.fails_soon() for attempt in attempts)
        assert time.monotonic() - began < _SOON_S


def test_a_name_server_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking up a name costs the timeout at most, and closing ends the wait."""
    over, asked = threading.Event(), threading.Event()

    def never(*_: object, **__: object) -> list[object]:
        asked.set()
        over.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    config = tmp_path / "ssh_config"
    config.write_text("Host nd01\n  HostName nd01.example\n")
    try:
        with (
            reach("nd01", config, timeout=0.3) as node,
            pytest.raises(ConnectionFailedError, match=r"timed out: no answer to where nd01\."),
        ):
            node.connect()
        asked.clear()
        with reach("nd01", config, timeout=60) as node:
            attempt = Attempt(node)
            assert asked.wait(20)
            node.close()
            assert attempt.fails_soon(), attempt.error
    finally:
        over.set()


def test_a_closed_gateway_lets_nobody_in(five_nodes: SshdNodes) -> None:
    """After closing, every connect fails at once, and closing again is nothing."""
    with open_gateway() as gateway, reach("nd01", five_nodes.ssh_config, gateway) as node:
        gateway.close()
        gateway.close()
        with pytest.raises(ConnectionFailedError, match=r"nd01: .*the cluster is closed"):
            node.connect()


def sessions(node: SshdNode) -> int:
    """How many processes run on a node beside the listening server."""
    return len(node.processes()) - 1


def test_closing_the_gateway_hangs_up_on_every_node(sshd_nodes: NodesFactory) -> None:
    """Connections that nobody closed end with the gateway, and requests under way fail at once."""
    nodes = sshd_nodes(2)
    with open_gateway() as gateway, ExitStack() as stack:
        first, second = (
            stack.enter_context(reach(name, nodes.ssh_config, gateway)) for name in nodes.names
        )
        first.connect()
        second.connect()
        assert first.open_sftp()
        assert all(sessions(node) for node in nodes.nodes)
        timer = threading.Timer(0.3, gateway.close)
        timer.start()
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError, match="given up"):
            first.request("while [[ -d /proc/$PPID ]]; do sleep 0.1; done", timeout=60)
        assert time.monotonic() - began < _SOON_S
        timer.join(30)
        assert not second.is_connected
        wait_until(lambda: not any(map(sessions, nodes.nodes)), 20, "sessions are left")


def test_frozen_nodes_do_not_keep_the_gateway_open(sshd_nodes: NodesFactory) -> None:
    """Nodes that stand still, one of them behind a jump host, are hung up on without waiting."""
    nodes = sshd_nodes(3)
    jump, inner, plain = nodes.names
    config = write_config(
        nodes.directory / "config",
        f"Host {inner}\n  ProxyJump {jump}\nHost *\nInclude {nodes.ssh_config}\n",
    )
    with open_gateway() as gateway, ExitStack() as stack:
        for name in (inner, plain):
            stack.enter_context(reach(name, config, gateway)).connect()
        for node in nodes.nodes:
            node.freeze()
        try:
            began = time.monotonic()
            gateway.close()
            assert time.monotonic() - began < _SOON_S
        finally:
            for node in nodes.nodes:
                node.thaw()


def test_a_node_closed_while_its_login_shell_starts(sshd_nodes: NodesFactory) -> None:
    """The connect fails, and nothing of it stays on the node."""
    nodes = sshd_nodes(1, rc={".bashrc": "touch ~/begun; exec sleep 60\n"})
    with reach(nodes.names[0], nodes.ssh_config, timeout=60) as node:
        attempt = Attempt(node)
        wait_until((nodes.home / "begun").exists, 30, "no login")
        node.close()
        assert attempt.fails_soon(), attempt.error
        assert not node.is_connected


def test_closing_at_any_moment_leaves_no_connection(sshd_nodes: NodesFactory) -> None:
    """Whenever the gateway is closed, the connect fails or its connection is ended."""
    nodes = sshd_nodes(1)
    for step in range(12):
        gateway = Gateway()
        with reach(nodes.names[0], nodes.ssh_config, gateway) as node:
            attempt = Attempt(node)
            threading.Event().wait(step * 0.02)
            gateway.close()
            attempt.join()
            assert not node.is_connected
            assert not [t for t in threading.enumerate() if t.name == f"allot-ssh-{node.name}"]
    wait_until(lambda: sessions(nodes.node(0)) == 0, 20, "sessions are left")


def test_a_connection_can_be_made_anew_after_closing(five_nodes: SshdNodes) -> None:
    """Closing a node is not for good, unlike closing its gateway."""
    with connected(five_nodes) as node:
        node.close()
        with pytest.raises(ConnectionFailedError, match="not connected"):
            node.request("echo ok")
        node.connect()
        assert node.request("echo ok") == b"ok\n"
