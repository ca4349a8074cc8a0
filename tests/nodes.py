"""Nodes as Allot sees them, over the harness's servers: what the tests of the SSH layer share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sshd import SshdNodes

from allot.logins import resolve
from allot.model import NodeSpec
from allot.node import Gateway, Node


@contextmanager
def open_gateway() -> Iterator[Gateway]:
    """A gateway, closed at the end."""
    gateway = Gateway()
    try:
        yield gateway
    finally:
        gateway.close()


@contextmanager
def reach(
    alias: str, ssh_config: Path, gateway: Gateway | None = None, *, timeout: float = 20.0
) -> Iterator[Node]:
    """A node that is not connected yet, closed at the end."""
    with open_gateway() as own:
        login = resolve(NodeSpec(alias), ssh_config)
        node = Node(alias, login, gateway=gateway or own, timeout=timeout)
        try:
            yield node
        finally:
            node.close()


@contextmanager
def connected(nodes: SshdNodes, index: int = 0, *, timeout: float = 20.0) -> Iterator[Node]:
    """A node of the harness with its connection up."""
    with reach(nodes.names[index], nodes.ssh_config, timeout=timeout) as node:
        node.connect()
        yield node


def write_config(path: Path, text: str) -> Path:
    """An ssh configuration that the client will accept."""
    path.write_text(text)
    path.chmod(0o600)
    return path
