"""Logging in with key files, agents, certificates and passphrases, to a real sshd."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import NodesFactory
from nodes import open_gateway, reach, write_config
from sandbox import wait_until
from sshd import SshdNodes

from allot import sshauth
from allot.errors import AuthenticationFailedError
from allot.sshauth import EncryptedKeyError, KeyRing


def keygen(*arguments: str | Path) -> None:
    """Run ssh-keygen."""
    subprocess.run(["ssh-keygen", "-q", *map(str, arguments)], check=True, timeout=60)


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a key pair; the private file."""
    keygen("-t", kind, "-N", passphrase, "-C", path.name, "-f", path)
    return path


def lock(source: Path, target: Path, passphrase: str) -> Path:
    """A copy of a private key, encrypted."""
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)
    keygen("-p", "-P", "", "-N", passphrase, "-f", target)
    return target


@pytest.fixture
def configure(five_nodes: SshdNodes, tmp_path: Path) -> Callable[..., Path]:
    """Makes an ssh configuration for the first node with other login options."""

    def make(*lines: str, nodes: SshdNodes = five_nodes) -> Path:
        node = nodes.node(0)
        fixed = [
            f"HostName {node.address}",
            f"Port {node.port}",
            f"User {nodes.user}",
            f"UserKnownHostsFile {nodes.known_hosts}",
        ]
        text = "\n  ".join(["Host ws01", *fixed, *lines])
        return write_config(tmp_path / "config", f"{text}\n")

    return make


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an ssh-agent of its own."""
    path = tmp_path / "agent"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(path.exists, 10, "the agent did not start")
            yield path
        finally:
            process.terminate()


def add(agent: Path, *keys: Path) -> None:
    """Put keys into an agent."""
    for key in keys:
        subprocess.run(
            ["ssh-add", "-q", str(key)],
            env={**os.environ, "SSH_AUTH_SOCK": str(agent)},
            check=True,
            timeout=30,
        )


def log_in(config: Path) -> None:
    """Log in once and see that it is a login."""
    with reach("ws01", config) as node:
        node.connect()
        assert node.request("echo in") == b"in\n"


def test_a_key_from_the_agent(
    five_nodes: SshdNodes, configure: Callable[..., Path], agent: Path
) -> None:
    """Without any key file, a key in the agent lets in."""
    add(agent, five_nodes.key_file)
    log_in(configure(f"IdentityAgent {agent}", "IdentityFile none"))


def test_the_agent_of_the_environment(
    five_nodes: SshdNodes,
    configure: Callable[..., Path],
    agent: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SSH_AUTH_SOCK names the agent where the configuration does not."""
    add(agent, five_nodes.key_file)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    log_in(configure("IdentityFile none"))


def test_an_agent_full_of_keys_is_no_trouble_where_one_is_named(
    sshd_nodes: NodesFactory, configure: Callable[..., Path], agent: Path, tmp_path: Path
) -> None:
    """The named key goes first, from the agent, before MaxAuthTries is used up by the others."""
    nodes = sshd_nodes(1, options=["MaxAuthTries 2"])
    others = [make_key(tmp_path / f"other{n}") for n in range(4)]
    add(agent, *others, nodes.key_file)
    public = tmp_path / "named.pub"
    public.write_bytes(Path(f"{nodes.key_file}.pub").read_bytes())
    # Only the public half is there, as where the agent holds the private one.
    log_in(configure(f"IdentityAgent {agent}", f"IdentityFile {public}", nodes=nodes))
    config = configure(f"IdentityAgent {agent}", "IdentityFile none", nodes=nodes)
    with reach("ws01", config) as node, pytest.raises(AuthenticationFailedError) as caught:
        node.connect()
    assert "IdentitiesOnly" in str(caught.value)


def test_identities_only_leaves_the_agents_other_keys_alone(
    five_nodes: SshdNodes, configure: Callable[..., Path], agent: Path, tmp_path: Path
) -> None:
    """With IdentitiesOnly a key that only the agent has is not shown."""
    add(agent, five_nodes.key_file)
    own = make_key(tmp_path / "own")
    options = [f"IdentityAgent {agent}", f"IdentityFile {own}"]
    log_in(configure(*options))
    config = configure(*options, "IdentitiesOnly yes")
    with (
        reach("ws01", config) as node,
        pytest.raises(
            AuthenticationFailedError, match=rf"refused {re.escape(str(own))};.*ssh-copy-id"
        ),
    ):
        node.connect()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("place", ["beside", "named", "agent"])
def test_a_certificate_lets_in(  # noqa: PLR0917 - fixtures and parameters
    sshd_nodes: NodesFactory,
    configure: Callable[..., Path],
    agent: Path,
    tmp_path: Path,
    kind: str,
    place: str,
) -> None:
    """A certificate signed by a CA the node trusts is found beside its key or where named."""
    ca, key = make_key(tmp_path / "ca"), make_key(tmp_path / "key", kind=kind)
    nodes = sshd_nodes(1, options=[f"TrustedUserCAKeys {ca}.pub"])
    keygen("-s", ca, "-I", "test", "-n", nodes.user, f"{key}.pub")
    certificate = Path(f"{key}-cert.pub")
    other = make_key(tmp_path / "other")
    options = [f"IdentityFile {other}", f"IdentityFile {key}", "IdentitiesOnly yes"]
    if place == "named":
        certificate = certificate.rename(tmp_path / "elsewhere")
        options.append(f"CertificateFile {certificate}")
    if place == "agent":
        moved = certificate.rename(tmp_path / "elsewhere")
        add(agent, key)
        key.unlink()
        options += [f"CertificateFile {moved}", f"IdentityAgent {agent}"]
    else:
        options.append("IdentityAgent none")
    log_in(configure(*options, nodes=nodes))


def test_an_encrypted_key_without_a_terminal_says_what_to_do(
    five_nodes: SshdNodes, configure: Callable[..., Path], tmp_path: Path
) -> None:
    """Nobody can be asked: the error names the file and ssh-add."""
    key = lock(five_nodes.key_file, tmp_path / "locked", "secret")
    config = configure(f"IdentityFile {key}", "IdentityAgent none")
    with (
        reach("ws01", config) as node,
        pytest.raises(AuthenticationFailedError, match=f"ssh-add {key}"),
    ):
        node.connect()


def test_a_passphrase_is_asked_for_once_for_all_nodes(
    five_nodes: SshdNodes,
    configure: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a terminal the passphrase is asked for, again after a slip, and then remembered."""
    key = lock(five_nodes.key_file, tmp_path / "locked", "secret")
    answers = iter(["wrong", "secret"])
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    # A person at a terminal cannot be made to happen here.
    monkeypatch.setattr(sshauth, "_has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    config = configure(f"IdentityFile {key}", "IdentityAgent none")
    with open_gateway() as gateway:
        for _ in range(2):
            with reach("ws01", config, gateway) as node:
                node.connect()
                assert node.request("echo in") == b"in\n"
    assert asked == [f"Passphrase for {key}: "] * 2


def test_a_host_that_does_not_wait_for_the_passphrase_is_asked_again(
    sshd_nodes: NodesFactory,
    configure: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Typing longer than the host's LoginGraceTime costs a second connection, not the login."""
    nodes = sshd_nodes(1, options=["LoginGraceTime 1"])
    key = lock(nodes.key_file, tmp_path / "locked", "secret")

    def connections() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "allot-ssh-ws01"]

    def answer(prompt: str) -> str:
        wait_until(lambda: not connections(), 20, "sshd still waits")
        return "secret"

    monkeypatch.setattr(sshauth, "_has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    log_in(configure(f"IdentityFile {key}", "IdentityAgent none", nodes=nodes))


def test_other_keys_come_before_a_passphrase(
    five_nodes: SshdNodes,
    configure: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody is asked where a later key lets in."""
    locked = make_key(tmp_path / "locked", passphrase="secret")
    monkeypatch.setattr(sshauth, "_has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: pytest.fail(f"asked: {prompt}"))
    log_in(
        configure(
            f"IdentityFile {locked}", f"IdentityFile {five_nodes.key_file}", "IdentityAgent none"
        )
    )


@pytest.mark.parametrize("answers", [["", "-"], ["a", "b", "c", "-"], [EOFError(), "-"]])
def test_giving_up_on_a_passphrase_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str | EOFError]
) -> None:
    """Nothing typed, three slips or Ctrl-D: the key is left alone from then on."""
    key = make_key(tmp_path / "locked", passphrase="secret")
    left = list(answers)

    def answer(prompt: str) -> str:
        given = left.pop(0)
        if isinstance(given, EOFError):
            raise given
        return given

    monkeypatch.setattr(sshauth, "_has_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", answer)
    ring = KeyRing()
    assert not ring.unlock(key)
    assert not ring.unlock(key)
    assert left == ["-"]
    with pytest.raises(EncryptedKeyError):
        ring.load(key)


def test_no_key_at_all(configure: Callable[..., Path], tmp_path: Path) -> None:
    """Without any key the error says how to come by one; a file that is no key is named."""
    config = configure("IdentityAgent none", f"IdentityFile {tmp_path}/nowhere")
    with (
        reach("ws01", config) as node,
        pytest.raises(AuthenticationFailedError, match="no key to show"),
    ):
        node.connect()
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no key\n")
    config = configure("IdentityAgent none", f"IdentityFile {rubbish}")
    with reach("ws01", config) as node, pytest.raises(AuthenticationFailedError, match="rubbish"):
        node.connect()


def test_a_host_that_wants_more_than_a_key(
    sshd_nodes: NodesFactory, configure: Callable[..., Path]
) -> None:
    """A second factor, or no keys at all, is told with what the host asks for."""
    nodes = sshd_nodes(
        1, options=["AuthenticationMethods publickey,password", "PasswordAuthentication yes"]
    )
    with (
        reach(nodes.names[0], nodes.ssh_config) as node,
        pytest.raises(AuthenticationFailedError, match="also asks for password"),
    ):
        node.connect()
    nodes = sshd_nodes(1, options=["PubkeyAuthentication no", "PasswordAuthentication yes"])
    with (
        reach(nodes.names[0], nodes.ssh_config) as node,
        pytest.raises(AuthenticationFailedError, match="takes password only"),
    ):
        node.connect()


def test_a_dead_agent_is_no_obstacle(
    five_nodes: SshdNodes, configure: Callable[..., Path], tmp_path: Path
) -> None:
    """A socket that nobody answers leaves the key files."""
    log_in(configure(f"IdentityAgent {tmp_path}/gone", f"IdentityFile {five_nodes.key_file}"))
