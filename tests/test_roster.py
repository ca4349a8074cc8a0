"""Asking nodes whether they can be used, over real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import NodesFactory
from nodes import open_gateway, write_config
from sandbox import wait_until
from sshd import SshdNodes

from allot.errors import ConfigError
from allot.gateway import Gateway
from allot.model import NodeSpec, NodeState
from allot.probe import NodeProbe, SharingTest
from allot.roster import Roster


@contextmanager
def roster(ssh_config: Path, gateway: Gateway, workers: int = 4) -> Iterator[Roster]:
    """A roster that finds every node fit that answers."""
    probe = NodeProbe(max_load_per_cpu=None, timeout=20.0)
    with ThreadPoolExecutor(workers) as pool:
        yield Roster(pool, gateway, probe, ssh_config, lambda _spec, _health: "")


@pytest.fixture
def sharing(tmp_path: Path) -> SharingTest:
    """A test for a shared directory."""
    (tmp_path / "nonce").write_text("secret\n")
    return SharingTest(tmp_path, tmp_path / "nonce", "secret", client_is_fresh=True)


def with_bad_route(nodes: SshdNodes, name: str, path: Path) -> Path:
    """The nodes' configuration, but one node is its own jump host."""
    head = f"Host {name}\n  ProxyJump {name}\nHost *\n"
    return write_config(path / "config", f"{head}Include {nodes.ssh_config}\n")


def connections(nodes: SshdNodes) -> int:
    """How many processes run on all nodes beside the servers."""
    return sum(len(node.processes()) - 1 for node in nodes.nodes)


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("workers", [1, 4])
def test_one_node_that_makes_no_sense_leaves_no_connections(
    sshd_nodes: NodesFactory, tmp_path: Path, sharing: SharingTest, bad: int, workers: int
) -> None:
    """A ConfigError for one node ends the asking, and hangs up on the others."""
    nodes = sshd_nodes(3)
    config = with_bad_route(nodes, nodes.names[bad], tmp_path)
    specs = [NodeSpec(name) for name in nodes.names]
    with open_gateway() as gateway:
        with (
            roster(config, gateway, workers) as asked,
            pytest.raises(ConfigError, match="round in a loop"),
        ):
            asked.ask(specs, nodes.names, sharing)
        wait_until(lambda: connections(nodes) == 0, 20, "connections are left")


def test_one_node_can_be_asked_alone(sshd_nodes: NodesFactory, sharing: SharingTest) -> None:
    """A node asked by a worker is connected and known; one that is down says why."""
    nodes = sshd_nodes(2)
    nodes.node(1).kill()
    specs = [NodeSpec(name) for name in nodes.names]
    with open_gateway() as gateway, roster(nodes.ssh_config, gateway) as asked:
        with ThreadPoolExecutor(2) as pool:
            up, down = pool.map(
                lambda number: asked.ask_one(specs[number], nodes.names[number], number, sharing),
                range(2),
            )
        assert up.state is NodeState.READY
        assert up.member is not None
        assert up.member.node.request("echo ok") == b"ok\n"
        assert up.member.facts.health.cpus > 0
        assert down.state is NodeState.UNREACHABLE
        assert down.member is None
        assert "connection refused" in down.reason
        nodes.node(1).restart()
        again = asked.ask_one(specs[1], nodes.names[1], 1, sharing)
        assert again.state is NodeState.READY


def test_who_is_not_waited_for_is_hung_up_on(
    sshd_nodes: NodesFactory, sharing: SharingTest
) -> None:
    """With enough nodes that can be used, one that is late is a spare and keeps no connection."""
    nodes = sshd_nodes(2)
    nodes.node(1).freeze()
    specs = [NodeSpec(name) for name in nodes.names]
    with open_gateway() as gateway, roster(nodes.ssh_config, gateway) as asked:
        first, second = asked.ask(specs, nodes.names, sharing, enough=1)
        assert (first.state, second.state) == (NodeState.READY, NodeState.SPARE)
        assert first.member is not None
        first.member.node.close()
        nodes.node(1).thaw()
        wait_until(
            lambda: "Accepted publickey" in nodes.node(1).log and connections(nodes) == 0,
            30,
            "the spare's connection stays",
        )
