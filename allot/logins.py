"""How each host of a job is logged in to, found out as OpenSSH finds it out.

Rules: the configuration is resolved by OpenSSH itself (``ssh -G``) where its client is installed,
so that ``Include``, ``Match`` and canonical names mean what they mean to the user's own ``ssh``;
only without it does paramiko's reader stand in. Of a room full of nodes one is asked for and the
others are read off here (``plainconfig``), where the configuration is so plain that there can be
no two opinions of it, and that one agrees.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allot.errors import ConfigError
from allot.model import NodeSpec
from allot.plainconfig import PlainConfig, parse_plain
from allot.sshconfig import (
    Login,
    Settings,
    one_of,
    parse_login,
    parse_proxy_jump,
    parse_settings,
    ssh_arguments,
)
from allot.unchanged import Unchanged

_RESOLVE_TIMEOUT_S = 30.0
_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_INCLUDE = re.compile(r"^[ \t]*Include[ \t]+(/[^\s\"'\\#~]+)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")


def resolve(spec: NodeSpec, ssh_config: Path | None) -> Login:
    """Find out how to log in to a node.

    Args:
        spec: The node, as its host file line has it.
        ssh_config: The configuration file to obey; None for the user's and the system's own.

    Returns:
        The login, with the logins of all hosts on the way.

    Raises:
        ConfigError: The configuration cannot be read or makes no sense; OpenSSH's own words are
            in the message.
    """
    return _resolve(spec, ssh_config, above=())


def _resolve(spec: NodeSpec, ssh_config: Path | None, above: tuple[NodeSpec, ...]) -> Login:
    if spec in above:
        ring = " → ".join(hop.host for hop in (*above, spec))
        raise ConfigError(f"ProxyJump goes round in a loop: {ring}")
    settings = _read_settings(spec, ssh_config)
    login = parse_login(spec, settings, ssh_config)
    jumps = parse_proxy_jump(one_of(settings, "proxyjump"))
    if not jumps:
        return login
    # As ssh -J a,b host does: only the first hop's own ProxyJump counts, the others are told
    # to go through the one before them.
    first = _resolve(jumps[0], ssh_config, (*above, spec))
    hops = [*first.proxy_jump, replace(first, proxy_jump=())]
    for hop in jumps[1:]:
        behind = parse_login(hop, _read_settings(hop, ssh_config), ssh_config)
        hops.append(replace(behind, proxy_command=None))
    return replace(login, proxy_jump=tuple(hops), proxy_command=None)


def _read_settings(spec: NodeSpec, ssh_config: Path | None) -> Settings:
    plain = _plain_config(spec, ssh_config)
    settings = None if plain is None else plain.settings(spec)
    if settings is not None:
        return settings
    ask = _ask_openssh if _has_openssh() else _read_with_paramiko
    return ask(spec, ssh_config)


def _has_openssh() -> bool:
    return shutil.which("ssh") is not None


@dataclass(frozen=True)
class _Plain:
    """A configuration that needs no OpenSSH to be read: a program less for each node."""

    config: PlainConfig
    defaults: Settings

    def settings(self, spec: NodeSpec) -> Settings | None:
        found = self.config.look_up(spec.host)
        if found is None:
            return None
        told = {"port": spec.port, "user": spec.user}
        asked = {keyword: [str(value)] for keyword, value in told.items() if value is not None}
        return {**self.defaults, **found, **asked}


_plain_lock = threading.Lock()
_plain_configs: dict[Path | None, tuple[object, _Plain | None]] = {}


def _plain_config(spec: NodeSpec, ssh_config: Path | None) -> _Plain | None:
    """The configuration, if it is plain as it stands now; the first host asked for is the test."""
    with _plain_lock:
        texts = _texts(ssh_config)
        known, config = _plain_configs.get(ssh_config, (None, None))
        if known != texts:
            config = None if texts is None else _try_plain(spec, ssh_config, texts)
            _plain_configs[ssh_config] = (texts, config)
        return config


_files = Unchanged(lambda _, data: data.decode())


def _texts(ssh_config: Path | None) -> list[str] | None:
    """The files that OpenSSH reads, less an ``Include`` of nothing; None where one cannot be."""
    try:
        if ssh_config is not None:
            files = [ssh_config]
        else:
            own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh/config"
            files = [file for file in (own, _SYSTEM_CONFIG) if file.exists()]
        texts = [_files.read(file) for file in files]
    except (KeyError, OSError, UnicodeError):
        return None
    return [_without_empty_includes(text) if "include" in text.lower() else text for text in texts]


def _without_empty_includes(text: str) -> str:
    return _INCLUDE.sub(lambda found: found[0] if glob.glob(found[1]) else "", text)


def _try_plain(spec: NodeSpec, ssh_config: Path | None, texts: Sequence[str]) -> _Plain | None:
    parsed = [parse_plain(text) for text in texts]
    blocks = PlainConfig([block for each in parsed for block in each or ()])
    if None in parsed or blocks.look_up(spec.host) is None or not _has_openssh():
        return None
    try:
        config = _Plain(blocks, _ask_openssh(NodeSpec("localhost"), Path(os.devnull)))
        settings = config.settings(spec)
        asked = _ask_openssh(spec, ssh_config)
    except ConfigError:
        return None
    if settings is None or one_of(settings, "proxyjump") != one_of(asked, "proxyjump"):
        return None
    is_same = parse_login(spec, settings, None) == parse_login(spec, asked, None)
    return config if is_same else None


def _ask_openssh(spec: NodeSpec, ssh_config: Path | None) -> Settings:
    arguments = ["ssh", "-G", *ssh_arguments(spec, ssh_config)]
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RESOLVE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(
            f"{spec.host}: ssh -G did not answer within {_RESOLVE_TIMEOUT_S:g} s; does a "
            "'Match exec' in the ssh configuration wait for something?"
        ) from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        where = f"ssh configuration {ssh_config}" if ssh_config else "ssh configuration"
        reason = said[-1] if said else f"ssh -G ended with status {done.returncode}"
        raise ConfigError(f"{spec.host}: {where}: {reason}")
    return parse_settings(os.fsdecode(done.stdout))


def _read_with_paramiko(spec: NodeSpec, ssh_config: Path | None) -> Settings:
    from paramiko import SSHConfig, SSHException  # noqa: PLC0415 - only where there is no ssh

    path = ssh_config if ssh_config is not None else Path.home() / ".ssh" / "config"
    if ssh_config is None and not path.exists():
        found: Mapping[str, object] = {}
    else:
        try:
            found = dict(SSHConfig.from_path(str(path)).lookup(spec.host))
        except (OSError, SSHException, UnicodeError, ValueError) as exc:
            raise ConfigError(f"{spec.host}: ssh configuration {path}: {exc}") from exc
    settings = {
        key: [str(item) for item in value] if isinstance(value, list) else [str(value)]
        for key, value in found.items()
    }
    if spec.port is not None:
        settings["port"] = [str(spec.port)]
    if spec.user is not None:
        settings["user"] = [spec.user]
    ssh = Path.home() / ".ssh"
    settings.setdefault("identityfile", [str(ssh / name) for name in _DEFAULT_KEYS])
    settings.setdefault("userknownhostsfile", [str(ssh / "known_hosts")])
    settings.setdefault("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts"])
    return settings
