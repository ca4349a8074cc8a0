"""A plain OpenSSH configuration is read as OpenSSH reads it, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot import logins, sshconfig
from allot.errors import ConfigError
from allot.logins import resolve
from allot.model import NodeSpec
from allot.plainconfig import PlainConfig, parse_plain
from allot.sshconfig import Settings

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is missing")

HOSTS = ["ws01", "ws02", "gpu-1", "a.b", "10.0.0.7"]
LINES = [
    *("HostName ws02", "HostName 10.1.2.3", "hostname=box.example.org", "HostName %h.org"),
    *("HostName 0x7f.1", "HostName 010.1.1.1", "HostName BOX", "HostName none"),
    *("Port 2222", "Port = 22", "Port 65000", "User alice", 'User "bob b"', "User carol # x"),
    *("IdentityFile ~/.ssh/a", "IdentityFile ~/.ssh/b", "IdentityFile %d/k", "IdentityFile none"),
    *("CertificateFile /c.pub", "IdentitiesOnly yes", "IdentitiesOnly no", "IdentityAgent none"),
    *("StrictHostKeyChecking accept-new", "StrictHostKeyChecking no", "StrictHostKeyChecking off"),
    *(
        "HostKeyAlias all",
        "UserKnownHostsFile /k1 ~/k2",
        "UserKnownHostsFile /k1 /k2",
        "GlobalKnownHostsFile /dev/null",
    ),
    *("ConnectTimeout 7", "ConnectTimeout 1m", "ServerAliveInterval 15", "ServerAliveInterval 0"),
    *("ProxyJump hop", "ProxyJump me@hop:2200", "ProxyJump none", "ProxyCommand nc %h %p"),
    *("Compression yes", "ForwardAgent no", "SendEnv LANG LC_*", "# nothing", ""),
    *("CanonicalizeHostname no", "ControlPath ~/c-%C"),
]
PATTERNS = ["*", "ws*", "ws0? !ws02", "!ws01 *", "gpu-1", "a.b 10.0.0.7", "WS01", "10.0.*"]


def blocks() -> st.SearchStrategy[str]:
    """Configurations of some blocks, the first of which may be for all hosts."""
    lines = st.lists(st.sampled_from(LINES), max_size=4).map("\n  ".join)
    block = st.tuples(st.sampled_from(PATTERNS), lines).map(
        lambda one: f"Host {one[0]}\n  {one[1]}"
    )
    return st.tuples(lines, st.lists(block, max_size=4)).map(
        lambda one: "\n".join([one[0], *one[1]])
    )


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_a_line_ends_where_openssh_ends_it(mark: str) -> None:
    """What Python takes for an end of line leaves the rest in the comment, or all untold."""
    text = f"# a comment{mark}Port 77\nUser alice\n"
    blocks = parse_plain(text)
    assert blocks is not None
    assert PlainConfig(blocks).look_up("ws01") == {"hostname": ["ws01"], "user": ["alice"]}
    assert parse_plain(f"User alice{mark}x\n") is None


@needs_ssh
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(text=blocks(), first=st.sampled_from(HOSTS), port=st.none() | st.just(4000))
def test_every_host_is_reached_as_openssh_reaches_it(
    text: str, first: str, port: int | None
) -> None:
    """Whichever is asked for first, each has the login that OpenSSH would give it alone."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config"
        config.write_text(text)
        for host in [first, *HOSTS]:
            spec = NodeSpec(host, port=port)
            found = said(logins._read_settings, spec, config)
            assert found == said(logins._ask_openssh, spec, config)


def said(read: Callable[[NodeSpec, Path], Settings], spec: NodeSpec, config: Path) -> object:
    """The login that settings make, and the jump host; or what is wrong with them."""
    try:
        found = read(spec, config)
        jump = sshconfig.parse_proxy_jump(found.get("proxyjump", [None])[0])
        return sshconfig.parse_login(spec, found, config), jump
    except ConfigError as error:
        return str(error)


@needs_ssh
def test_a_configuration_that_changes_is_read_again(tmp_path: Path) -> None:
    """Also one that is no plain one any more, or becomes wrong."""
    config = tmp_path / "config"
    config.write_text("Host *\n  Port 1001\n")
    assert [resolve(NodeSpec(name), config).port for name in ("ws01", "ws02")] == [1001, 1001]
    config.write_text("Host ws01\n  Port 1002\nMatch host ws02\n  Port 1003\n")
    assert [resolve(NodeSpec(name), config).port for name in ("ws01", "ws02")] == [1002, 1003]
    config.write_text("Host *\n  Prot 1001\n")
    for name in ("ws01", "ws02"):
        with pytest.raises(ConfigError, match="1 bad configuration option"):
            resolve(NodeSpec(name), config)


@needs_ssh
def test_only_one_node_of_many_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program for each would take as long as the login."""
    config = tmp_path / "config"
    names = [f"ws{number:03}" for number in range(100)]
    config.write_text("\n".join(f"Host {name}\n  HostName {name}.org" for name in names))
    log = tmp_path / "calls"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho x >> {log}\nexec {shutil.which("ssh")} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [resolve(NodeSpec(name), config).hostname for name in names] == [
        f"{name}.org" for name in names
    ]
    assert len(log.read_text().splitlines()) < 5


@pytest.mark.parametrize(
    "text",
    ["Match all", "Include other", "Host [a-b]", 'Host "a b"', "Host", "Port", "?! x", "Host a#b"],
)
def test_what_is_not_plain_is_left_to_openssh(text: str) -> None:
    """Where it is not sure which lines count for which host, nothing is told of any."""
    assert parse_plain(f"User alice\n{text}\n") is None


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("User $HOME", "ws01"),
        ("IdentityAgent none", "ws01"),
        ("IdentityFile2 /k", "ws01"),
        ("LoginElsewhere yes", "ws01"),  # of an OpenSSH to come
        ("ProxyJump me@ws01:22", "ws01"),
        ("", "WS01"),
        ("", "0x7f.1"),
        ("", "fe80::1"),
    ],
)
def test_a_host_that_is_not_plain_is_left_to_openssh(text: str, host: str) -> None:
    """Of such a host nothing is told."""
    blocks = parse_plain(text)
    assert blocks is not None
    assert PlainConfig(blocks).look_up(host) is None


def test_the_first_value_counts_and_keys_are_all_tried() -> None:
    """As ssh_config(5) says."""
    blocks = parse_plain(
        "Host ws*\n Port 1\n IdentityFile a\nHost *\n Port 2\n IdentityFile b\n IdentityFile a\n"
    )
    assert blocks is not None
    found = {"hostname": ["ws1"], "port": ["1"], "identityfile": ["a", "b"]}
    assert PlainConfig(blocks).look_up("ws1") == found
