"""The OpenSSH configuration is obeyed: read by OpenSSH itself, and without it by paramiko."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nodes import write_config

from allot.errors import ConfigError
from allot.logins import resolve
from allot.model import NodeSpec
from allot.sshconfig import (
    Login,
    fill_tokens,
    parse_login,
    parse_proxy_jump,
    parse_settings,
)

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is missing")


@pytest.fixture(params=["openssh", "paramiko"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways to read a configuration."""
    if request.param == "paramiko":
        monkeypatch.setattr(shutil, "which", lambda _name: None)
    elif shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client is missing")
    return str(request.param)


def test_a_host_has_what_its_configuration_says(reader: str, tmp_path: Path) -> None:
    """Every option that Allot obeys arrives, whoever reads the file."""
    config = write_config(
        tmp_path / "config",
        f"""
        Host ws*
            HostName %h.example.org
            Port 2222
            User alice
            IdentityFile "{tmp_path}/key a"
            IdentityFile ~/second
            IdentitiesOnly yes
            CertificateFile {tmp_path}/key-cert.pub
            IdentityAgent {tmp_path}/agent
            UserKnownHostsFile {tmp_path}/known1 {tmp_path}/known2
            GlobalKnownHostsFile /dev/null
            StrictHostKeyChecking accept-new
            HostKeyAlias all-ws
            ConnectTimeout 7
            ServerAliveInterval 15
        """,
    )
    login = resolve(NodeSpec("ws01"), config)
    assert login == Login(
        alias="ws01",
        hostname="ws01.example.org",
        port=2222,
        user="alice",
        identity_files=(tmp_path / "key a", Path.home() / "second"),
        identities_only=True,
        certificate_files=(tmp_path / "key-cert.pub",),
        identity_agent=tmp_path / "agent",
        user_known_hosts=(tmp_path / "known1", tmp_path / "known2"),
        global_known_hosts=(Path("/dev/null"),),
        strict_host_keys="accept-new",
        host_key_alias="all-ws",
        connect_timeout=7.0,
        server_alive_interval=15.0,
        config_file=config,
        address=("-F", str(config), "--", "ws01"),
    )


def test_the_host_file_wins_over_the_configuration(reader: str, tmp_path: Path) -> None:
    """A user and a port in the host file are taken, as on ssh's command line."""
    config = write_config(tmp_path / "config", "Host *\n  User alice\n  Port 2222\n")
    login = resolve(NodeSpec("ws01", user="bob", port=22), config)
    assert (login.user, login.port) == ("bob", 22)


def test_without_a_word_in_the_configuration_ssh_defaults_hold(reader: str, tmp_path: Path) -> None:
    """An empty file gives port 22, the usual key files and the usual known_hosts."""
    login = resolve(NodeSpec("ws01"), write_config(tmp_path / "config", ""))
    assert (login.hostname, login.port, login.strict_host_keys) == ("ws01", 22, "yes")
    assert any(path.name == "id_ed25519" for path in login.identity_files)
    assert login.user_known_hosts[0].name == "known_hosts"
    assert login.identity_agent is None
    assert login.connect_timeout is None
    assert login.server_alive_interval is None
    assert login.proxy_jump == ()


@needs_ssh
def test_includes_and_match_blocks_count(tmp_path: Path) -> None:
    """What only OpenSSH itself can read is read by OpenSSH."""
    included = write_config(tmp_path / "more", "Match host ws01 user bob\n  Port 2200\n")
    config = write_config(tmp_path / "config", f"Include {included}\n")
    assert resolve(NodeSpec("ws01", user="bob"), config).port == 2200
    assert resolve(NodeSpec("ws02", user="bob"), config).port == 22


def test_a_missing_configuration_is_named(reader: str, tmp_path: Path) -> None:
    """A file that is not there is an error with its name, not a silent default."""
    with pytest.raises(ConfigError, match=str(tmp_path / "nowhere")):
        resolve(NodeSpec("ws01"), tmp_path / "nowhere")


def test_a_wrong_line_is_quoted_with_its_place(tmp_path: Path) -> None:
    """A mistake in the file is told in OpenSSH's own words, file and line included."""
    config = write_config(tmp_path / "config", "Host *\n  Prot 22\n")
    with pytest.raises(ConfigError, match=r"config.*(terminating|line 2)"):
        resolve(NodeSpec("ws01"), config)


@needs_ssh
def test_a_chain_of_jump_hosts_is_followed(tmp_path: Path) -> None:
    """ProxyJump with several hops: the first hop's own jump counts, the last is nearest."""
    config = write_config(
        tmp_path / "config",
        """
        Host ws01
            ProxyJump alice@first:2201,second
        Host first
            HostName 10.0.0.1
            ProxyJump outer
        Host second
            Port 2202
            ProxyJump ignored
        """,
    )
    login = resolve(NodeSpec("ws01"), config)
    assert [(hop.alias, hop.port) for hop in login.proxy_jump] == [
        ("outer", 22),
        ("first", 2201),
        ("second", 2202),
    ]
    assert login.proxy_jump[1].user == "alice"
    assert login.proxy_jump[1].hostname == "10.0.0.1"


@needs_ssh
def test_a_jump_host_that_jumps_through_itself_is_refused(tmp_path: Path) -> None:
    """``Host *`` with ProxyJump covers the jump host too; OpenSSH's own error is quoted."""
    config = write_config(tmp_path / "config", "Host *\n  ProxyJump bastion\n")
    with pytest.raises(ConfigError, match=r"bastion: .*jumphost loop"):
        resolve(NodeSpec("ws01"), config)


@needs_ssh
def test_jump_hosts_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Hosts that send one another round are an error, not an endless search."""
    config = write_config(
        tmp_path / "config", "Host a\n  ProxyJump b\nHost b\n  ProxyJump c\nHost c\n  ProxyJump a\n"
    )
    with pytest.raises(ConfigError, match="loop"):
        resolve(NodeSpec("a"), config)


@needs_ssh
def test_proxyjump_none_switches_it_off(tmp_path: Path) -> None:
    """The first value counts, and ``none`` is one."""
    config = write_config(
        tmp_path / "config", "Host ws01\n  ProxyJump none\nHost *\n  ProxyJump b\n"
    )
    assert resolve(NodeSpec("ws01"), config).proxy_jump == ()


def test_a_proxy_command_has_its_tokens_filled(reader: str, tmp_path: Path) -> None:
    """``%h %p %r`` become host, port and user; ``%%`` is a percent sign."""
    config = write_config(
        tmp_path / "config", "Host ws01\n  User al\n  ProxyCommand nc -x 100%% %h %p # %r\n"
    )
    login = resolve(NodeSpec("ws01"), config)
    assert login.proxy_command is not None
    assert login.proxy_command.startswith("nc -x 100% ws01 22")


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        (None, ()),
        ("a", (NodeSpec("a"),)),
        ("al@a:22, b", (NodeSpec("a", "al", 22), NodeSpec("b"))),
        ("ssh://al@a:22", (NodeSpec("a", "al", 22),)),
        ("[fd00::7]:2222", (NodeSpec("fd00::7", None, 2222),)),
    ],
)
def test_the_forms_of_proxyjump(value: str | None, hops: tuple[NodeSpec, ...]) -> None:
    """All forms of ssh_config(5) are understood."""
    assert parse_proxy_jump(value) == hops


def test_a_broken_proxyjump_is_refused() -> None:
    """What follows no form is quoted in the error."""
    with pytest.raises(ConfigError, match="a:b:c"):
        parse_proxy_jump("a:b:c")


def test_variables_and_tokens_in_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``%d``, ``${NAME}`` and ``~`` are filled in, ``none`` stands for no file."""
    monkeypatch.setenv("KEYS", "/keys")
    text = (
        "hostname h\nport 22\nuser al\nidentityfile %d/.ssh/%r\nidentityfile ${KEYS}/k\n"
        "identityfile none\nuserknownhostsfile /a /b c/d\n"
    )
    login = parse_login(NodeSpec("ws01"), parse_settings(text), None)
    assert login.identity_files == (Path.home() / ".ssh/al", Path("/keys/k"))
    assert login.user_known_hosts == (Path("/a"), Path("/b c/d"))


@pytest.mark.parametrize(
    ("value", "agent"),
    [
        ("SSH_AUTH_SOCK", "/run/one"),
        ("$OTHER", "/run/two"),
        ("/run/%r", "/run/al"),
        ("none", None),
        ("$UNSET_BY_ALL", None),
    ],
)
def test_which_agent_is_asked(
    value: str, agent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IdentityAgent names a socket, a variable that holds one, or none."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/one")
    monkeypatch.setenv("OTHER", "/run/two")
    settings = {"user": ["al"], "identityagent": [value]}
    login = parse_login(NodeSpec("ws01"), settings, None)
    assert login.identity_agent == (Path(agent) if agent else None)


def test_a_number_that_is_none_is_refused() -> None:
    """A port in words is an error that names the host."""
    with pytest.raises(ConfigError, match="ws01"):
        parse_login(NodeSpec("ws01"), {"port": ["ssh"]}, None)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("ask", "yes"), ("true", "yes"), ("false", "no"), ("off", "no"), ("accept-new", "accept-new")],
)
def test_how_strict_host_keys_are_taken(value: str, meaning: str) -> None:
    """``ask`` refuses, as nobody can be asked; ``no`` and ``off`` are one."""
    settings = {"stricthostkeychecking": [value]}
    assert parse_login(NodeSpec("ws01"), settings, None).strict_host_keys == meaning


def test_an_unknown_token_stays() -> None:
    """A token without a meaning here is left for the command."""
    assert fill_tokens("%h %Z %%", lambda: {"h": "a", "%": "%"}) == "a %Z %"
