"""The ways to a node: jump hosts, proxy commands, busy doors."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import NodesFactory
from nodes import open_gateway, reach, write_config
from sandbox import IS_ROOT
from servers import make_key, public_half
from sshd import SshdNodes
from user import README

from allot import cli
from allot.errors import ConnectionFailedError, HostKeyError, NodeError
from allot.gateway import Gateway


def route(nodes: SshdNodes, path: Path, text: str) -> Path:
    """The nodes' own configuration with more in front."""
    return write_config(path / "config", f"{text}\nHost *\nInclude {nodes.ssh_config}\n")


def logins(nodes: SshdNodes, index: int) -> int:
    """How often somebody has logged in to a node."""
    return nodes.node(index).log.count("Accepted publickey")


def connect_all(names: list[str], config: Path, gateway: Gateway) -> list[NodeError | None]:
    """Connect to all at once, close again; what went wrong with each."""
    results: list[NodeError | None] = [None] * len(names)

    def one(number: int, name: str) -> None:
        with reach(name, config, gateway) as node:
            try:
                node.connect()
                assert node.request("echo in") == b"in\n"
            except NodeError as exc:
                results[number] = exc

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_nodes_behind_a_jump_host_share_one_login(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Several nodes behind two hops cost each jump host one login."""
    nodes = sshd_nodes(5)
    first, second, *inner = nodes.names
    config = route(nodes, tmp_path, f"Host {' '.join(inner)}\n  ProxyJump {first},{second}\n")
    with open_gateway() as gateway:
        assert connect_all(inner, config, gateway) == [None] * 3
        assert connect_all(inner, config, gateway) == [None] * 3
    assert [logins(nodes, index) for index in range(5)] == [1, 1, 2, 2, 2]
    assert nodes.node(0).address in nodes.node(2).log or "127.0.0.1" in nodes.node(2).log


def test_a_jump_host_that_came_back_is_used_again(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Nodes behind a jump host that died fail with its name, and connect once it is back."""
    nodes = sshd_nodes(2)
    jump, inner = nodes.names
    config = route(nodes, tmp_path, f"Host {inner}\n  ProxyJump {jump}\n")
    with open_gateway() as gateway, reach(inner, config, gateway) as node:
        node.connect()
        nodes.node(0).kill()
        with pytest.raises(ConnectionFailedError):
            node.request("echo ok")
        with pytest.raises(ConnectionFailedError, match=f"{inner}: jump host {jump}: .*refused"):
            node.connect()
        nodes.node(0).restart()
        node.connect()
        assert node.request("echo ok") == b"ok\n"


def test_a_node_that_its_jump_host_cannot_reach(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """The error says which of the two is to blame."""
    nodes = sshd_nodes(2)
    jump, inner = nodes.names
    config = route(nodes, tmp_path, f"Host {inner}\n  ProxyJump {jump}\n")
    nodes.node(1).kill()
    with (
        reach(inner, config) as node,
        pytest.raises(ConnectionFailedError, match=f"jump host {jump} cannot reach"),
    ):
        node.connect()


def test_an_unknown_jump_host_is_refused(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A jump host's key is checked as any other, and the error says whose it is."""
    jump, inner, *_ = five_nodes.names
    config = route(
        five_nodes,
        tmp_path,
        f"Host {jump}\n  UserKnownHostsFile /dev/null\nHost {inner}\n  ProxyJump {jump}\n",
    )
    with (
        reach(inner, config) as node,
        pytest.raises(HostKeyError, match=f"{inner}: jump host {jump}: .*not known"),
    ):
        node.connect()


def test_a_proxy_command(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A command's stdin and stdout are the connection; it ends with the connection."""
    jump, inner, *_ = five_nodes.names
    command = f"ssh -F {five_nodes.ssh_config} -W %h:%p {jump}"
    config = route(five_nodes, tmp_path, f"Host {inner}\n  ProxyCommand {command}\n")
    with reach(inner, config) as node:
        node.connect()
        assert node.request("echo in") == b"in\n"


def test_a_proxy_command_that_fails_is_quoted(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """What the command said last is in the error."""
    inner = five_nodes.names[0]
    command = "sh -c 'echo no way through >&2; exit 3'"
    config = route(five_nodes, tmp_path, f"Host {inner}\n  ProxyCommand {command}\n")
    with (
        reach(inner, config, timeout=2.0) as node,
        pytest.raises(ConnectionFailedError, match=r"ProxyCommand .*no way through"),
    ):
        node.connect()


def test_a_silent_proxy_command_is_given_up(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A command that hangs costs the timeout, and is ended."""
    inner = five_nodes.names[0]
    config = route(five_nodes, tmp_path, f"Host {inner}\n  ProxyCommand sleep 60\n")
    started = time.monotonic()
    with (
        reach(inner, config, timeout=0.5) as node,
        pytest.raises(ConnectionFailedError, match="timed out"),
    ):
        node.connect()
    assert time.monotonic() - started < 10


def test_a_door_that_turns_some_away_lets_all_in(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Nodes behind a ProxyCommand through a host with few places all arrive, by and by."""
    nodes = sshd_nodes(2, options=["MaxStartups 3:50:6"])
    command = f"ssh -F {nodes.ssh_config} -W %h:%p {nodes.names[0]}"
    names = [f"inner{number}" for number in range(12)]
    config = route(
        nodes,
        tmp_path,
        f"Host inner*\n  HostName {nodes.node(1).address}\n  Port {nodes.node(1).port}\n"
        f"  User {nodes.user}\n  IdentityFile {nodes.key_file}\n"
        f"  UserKnownHostsFile {nodes.known_hosts}\n  ProxyCommand {command}\n",
    )
    with open_gateway() as gateway:
        assert connect_all(names, config, gateway) == [None] * 12


class ByHand:
    """A gateway with a key that only its owner can open, and nodes behind it, as README.md says.

    Attributes:
        config: The ssh configuration.
    """

    def __init__(self, nodes: SshdNodes, tmp: Path) -> None:
        key, self._askpass, self.config = tmp / "key", tmp / "askpass", tmp / "config"
        make_key(key, passphrase="secret")
        let_in = nodes.home / ".ssh/authorized_keys"
        let_in.write_text(f"{let_in.read_text()}{public_half(key)}\n")
        self._askpass.write_text("#!/bin/sh\necho secret\n")
        self._askpass.chmod(0o700)
        (block,) = re.findall(
            r"^  ```\n(  Host gate\n.*?)^  ```$", README, re.DOTALL | re.MULTILINE
        )
        block = textwrap.dedent(block).replace("~/.ssh", str(tmp))
        # OpenSSH goes by the password file's home, not by $HOME.
        block, count = re.subn("ProxyCommand ssh", f"ProxyCommand ssh -F {self.config}", block)
        assert count == 1
        for alias, node, identity in zip(
            ("gate", "ws*"), nodes.nodes, (key, nodes.key_file), strict=True
        ):
            block += (
                f"Host {alias}\n  HostName {node.address}\n  Port {node.port}\n"
                f"  User {nodes.user}\n  IdentityFile {identity}\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {nodes.known_hosts}\n"
            )
        write_config(self.config, block)

    def log_in(self) -> None:
        """``ssh gate true``, and the passphrase."""
        self._ssh("gate", "true", SSH_ASKPASS=str(self._askpass), SSH_ASKPASS_REQUIRE="force")

    def log_out(self) -> None:
        """End the connection that was made by hand."""
        self._ssh("-O", "exit", "gate")

    def _ssh(self, *words: str, **variables: str) -> None:
        # No pipes: what stays in the background would hold them.
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.run(
            ["ssh", "-F", self.config, *words],
            **silent,  # type: ignore[call-overload]
            env={**os.environ, **variables},
            timeout=60,
            check=True,
        )


@pytest.mark.skipif(not IS_ROOT, reason="lets a second key into the account: needs root")
def test_many_nodes_through_a_login_made_by_hand(
    sshd_nodes: NodesFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without that login all fail at once and nothing asks; with it one connection serves all."""
    nodes = sshd_nodes(2, options=["MaxSessions 1"])
    by_hand = ByHand(nodes, tmp_path)
    window = tmp_path / "window"
    window.write_text("#!/bin/sh\ntouch $0.opened\nexec sleep 60\n")
    window.chmod(0o700)
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("SSH_ASKPASS", str(window))
    words = ["run", "--nodelist", "ws[01-16]", "--ssh-config", str(by_hand.config)]
    words += ["--max-load", "none", "--oversubscribe", "--ntasks-per-node", "1"]
    words += ["--output-dir", str(tmp_path / "out"), "--", "echo in"]
    assert cli.main(words) == 3
    said = capsys.readouterr().err
    assert all(f"ws{number:02}: ProxyCommand" in said for number in range(1, 17)), said
    assert said.count("Permission denied (publickey)") == 16
    assert not Path(f"{window}.opened").exists()
    by_hand.log_in()
    try:
        assert cli.main(words) == 0, capsys.readouterr().err
    finally:
        by_hand.log_out()
    assert [path.read_text() for path in (tmp_path / "out").glob("*.out")] == ["in\n"] * 16
    assert logins(nodes, 0) == 1


def test_closing_the_gateway_hangs_up_on_jump_hosts(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Nodes behind a closed gateway are disconnected, and cannot be connected to again."""
    nodes = sshd_nodes(2)
    jump, inner = nodes.names
    config = route(nodes, tmp_path, f"Host {inner}\n  ProxyJump {jump}\n")
    with open_gateway() as gateway, reach(inner, config, gateway) as node:
        node.connect()
        gateway.close()
        with pytest.raises(ConnectionFailedError):
            node.request("echo ok")
        with pytest.raises(ConnectionFailedError, match="the cluster is closed"):
            node.connect()
