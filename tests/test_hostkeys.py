"""Host keys: known, unknown, changed and revoked, in every form a known_hosts file may have."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from nodes import reach, write_config
from sshd import SshdNodes

from allot.errors import HostKeyError
from allot.hostkeys import check_host_key, known_keys, preferred_types
from allot.logins import resolve
from allot.model import NodeSpec
from allot.sshconfig import Login

_KEY, _OTHER = b"key one", b"key two"


def line(name: str, key: bytes = _KEY, kind: str = "ssh-ed25519", marker: str = "") -> str:
    """One line of a known_hosts file."""
    return f"{marker} {name} {kind} {base64.b64encode(key).decode()} a comment\n".lstrip()


def hashed(name: str) -> str:
    """A host's name as HashKnownHosts writes it."""
    salt = name.encode().ljust(20)[:20]  # the same each time: it is part of a test's name
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.fixture
def login(tmp_path: Path) -> Login:
    """A host on a port of its own, with files of its own."""
    return Login(
        "ws01",
        "WS01.example.org",
        2222,
        "alice",
        user_known_hosts=(tmp_path / "mine", tmp_path / "mine2"),
        global_known_hosts=(tmp_path / "all",),
        config_file=tmp_path / "config",
        address=("-F", str(tmp_path / "config"), "--", "ws01"),
    )


@pytest.mark.parametrize(
    "names",
    [
        "[ws01.example.org]:2222",
        "other,[ws01.example.org]:2222",
        "[*.example.org]:2222",
        "[ws0?.example.org]:*",
        hashed("[ws01.example.org]:2222"),
    ],
)
@pytest.mark.parametrize("file", ["mine", "mine2", "all"])
def test_a_known_host_is_let_through(login: Login, tmp_path: Path, names: str, file: str) -> None:
    """Plain names, patterns and hashes count, in the user's files and in the system's."""
    (tmp_path / file).write_text("# comment\n\nrubbish\n" + line("x", _OTHER) + line(names))
    check_host_key("ws01", login, "ssh-ed25519", _KEY)


@pytest.mark.parametrize(
    "names",
    [
        "ws01.example.org",  # without the port: that is port 22
        "[*.example.org]:2222,![ws01.*]:2222",
        hashed("ws01.example.org"),
        "|1|rubbish",
        "|1|a|b|c",
    ],
)
def test_a_line_for_another_host_does_not_count(login: Login, tmp_path: Path, names: str) -> None:
    """Another port, an exclusion and a broken hash leave the host unknown."""
    (tmp_path / "mine").write_text(line(names))
    with pytest.raises(HostKeyError, match="not known"):
        check_host_key("ws01", login, "ssh-ed25519", _KEY)


def test_an_unknown_host_is_refused_with_the_line_that_helps(login: Login, tmp_path: Path) -> None:
    """The error has the fingerprint and the exact ssh-keyscan command."""
    with pytest.raises(HostKeyError) as caught:
        check_host_key("ws01", login, "ssh-ed25519", _KEY)
    fingerprint = base64.b64encode(hashlib.sha256(_KEY).digest()).decode().rstrip("=")
    assert f"SHA256:{fingerprint}" in str(caught.value)
    assert f"ssh-keyscan -p 2222 WS01.example.org >> {tmp_path}/mine" in str(caught.value)


@pytest.mark.parametrize(
    "way",
    [
        {"host_key_alias": "lab"},
        {"proxy_command": "nc a 22"},
        {"proxy_jump": (Login("jump", "jump", 22, "alice"),)},
        {"user_known_hosts": ()},
    ],
)
def test_a_host_that_a_scan_cannot_record_is_shown_ssh(
    login: Login, tmp_path: Path, way: dict[str, object]
) -> None:
    """Behind a jump host, or under an alias, the remedy is ssh itself."""
    with pytest.raises(HostKeyError) as caught:
        check_host_key("ws01", replace(login, **way), "ssh-ed25519", _KEY)  # type: ignore[arg-type]
    remedy = f"ssh -o StrictHostKeyChecking=ask -F {tmp_path}/config -- ws01 true"
    assert remedy in str(caught.value)


def test_a_changed_key_is_refused_whatever_is_new_is_accepted(login: Login, tmp_path: Path) -> None:
    """accept-new takes new hosts, never another key; the error has the ssh-keygen command."""
    (tmp_path / "mine").write_text(line("x") + line("[ws01.example.org]:2222", _OTHER))
    with pytest.raises(HostKeyError) as caught:
        check_host_key("ws01", replace(login, strict_host_keys="accept-new"), "ssh-ed25519", _KEY)
    assert "has changed" in str(caught.value)
    assert f"{tmp_path}/mine, line 2" in str(caught.value)
    remedy = f"ssh-keygen -R '[ws01.example.org]:2222' -f {tmp_path}/mine"
    assert remedy in str(caught.value)


@pytest.mark.parametrize("strictness", ["yes", "accept-new", "no"])
def test_a_revoked_key_is_always_refused(login: Login, tmp_path: Path, strictness: str) -> None:
    """``@revoked`` outweighs every line that says otherwise."""
    name = "[ws01.example.org]:2222"
    (tmp_path / "mine").write_text(line(name) + line(name, marker="@revoked"))
    with pytest.raises(HostKeyError, match="revoked"):
        check_host_key("ws01", replace(login, strict_host_keys=strictness), "ssh-ed25519", _KEY)


@pytest.mark.parametrize("strictness", ["accept-new", "no"])
def test_a_new_key_is_kept(login: Login, tmp_path: Path, strictness: str) -> None:
    """A key accepted unseen is on record the next time, in a file only its owner may write."""
    lax = replace(
        login, strict_host_keys=strictness, user_known_hosts=(tmp_path / "new" / "known",)
    )
    check_host_key("ws01", lax, "ssh-ed25519", _KEY)
    check_host_key("ws01", replace(lax, strict_host_keys="yes"), "ssh-ed25519", _KEY)
    assert (tmp_path / "new" / "known").stat().st_mode & 0o777 == 0o600
    assert [key.blob for key in known_keys(lax)] == [_KEY]


def test_a_file_without_a_last_newline_is_not_torn(login: Login, tmp_path: Path) -> None:
    """A line is added to a file, not to its last line."""
    (tmp_path / "mine").write_text(line("other").rstrip("\n"))
    check_host_key("ws01", replace(login, strict_host_keys="no"), "ssh-ed25519", _KEY)
    assert len((tmp_path / "mine").read_text().splitlines()) == 2


def test_switched_off_a_changed_key_is_used(
    login: Login, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """StrictHostKeyChecking no goes on, as OpenSSH does, with a warning and the old record."""
    (tmp_path / "mine").write_text(line("[ws01.example.org]:2222", _OTHER))
    check_host_key("ws01", replace(login, strict_host_keys="no"), "ssh-ed25519", _KEY)
    assert "has changed" in caplog.text
    assert [key.blob for key in known_keys(login)] == [_OTHER]


def test_a_record_that_cannot_be_written_or_read_is_no_obstacle(
    login: Login, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory in a file's place is warned of; without any file nothing is kept."""
    (tmp_path / "mine").mkdir()
    lax = replace(login, strict_host_keys="accept-new")
    check_host_key("ws01", lax, "ssh-ed25519", _KEY)
    assert "left out" in caplog.text
    assert "not kept" in caplog.text
    check_host_key("ws01", replace(lax, user_known_hosts=()), "ssh-ed25519", _KEY)


def test_a_key_that_is_no_base64_is_skipped(
    login: Login, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A torn line is warned of with its place."""
    (tmp_path / "mine").write_text("[ws01.example.org]:2222 ssh-ed25519 !!!\n")
    assert known_keys(login) == []
    assert f"{tmp_path}/mine, line 1" in caplog.text


def test_types_on_record_are_asked_for_first(login: Login, tmp_path: Path) -> None:
    """A host with several keys shows one that is known; RSA stands for its newer signatures."""
    name = "[ws01.example.org]:2222"
    (tmp_path / "mine").write_text(line(name, kind="ssh-rsa") + line(name, kind="x-future"))
    supported = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256")
    assert preferred_types(known_keys(login), supported) == [
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
    ]


def test_the_remedies_work_on_a_real_node(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """An unknown node connects after the ssh-keyscan line, a changed one after ssh-keygen -R."""
    known = tmp_path / "known"
    config = write_config(
        tmp_path / "config",
        f"Host *\n  UserKnownHostsFile {known}\nInclude {five_nodes.ssh_config}\n",
    )
    name = five_nodes.names[0]
    with reach(name, config) as node:
        with pytest.raises(HostKeyError) as unknown:
            node.connect()
        remedy = str(unknown.value).rpartition("record it with: ")[2]
        subprocess.run(remedy, shell=True, check=True, capture_output=True, timeout=30)
        node.connect()
        wrong = five_nodes.node(1).host_key
        known.write_text(f"{resolve(NodeSpec(name), config).host_key_name} {wrong}\n")
        with pytest.raises(HostKeyError) as changed:
            node.connect()
        remedy = str(changed.value).rpartition("old key with: ")[2]
        subprocess.run(remedy, shell=True, check=True, capture_output=True, timeout=30)
        with pytest.raises(HostKeyError, match="not known"):
            node.connect()


def test_accept_new_on_a_real_node(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """With accept-new a node is recorded at first sight, readable for OpenSSH itself."""
    known = tmp_path / "known"
    config = write_config(
        tmp_path / "config",
        f"Host *\n  UserKnownHostsFile {known}\n  StrictHostKeyChecking accept-new\n"
        f"Include {five_nodes.ssh_config}\n",
    )
    with reach(five_nodes.names[0], config) as node:
        node.connect()
    strict = ["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    done = subprocess.run(
        ["ssh", *strict, "-F", str(config), five_nodes.names[0], "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
