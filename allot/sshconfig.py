"""What the settings of OpenSSH's client mean to Allot: where and how to log in to a host.

Rules: the ``parse_*`` functions take text; who finds it out is ``logins``. Options and tokens are
those of ssh_config(5).
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from allot.errors import ConfigError
from allot.model import NodeSpec

SSH_PORT = 22

Settings = Mapping[str, Sequence[str]]
_Tokens = Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Login:
    """Where and how to log in to one host; what ssh_config(5) calls by the names in brackets.

    Attributes:
        alias: The name it was asked for by.
        hostname: Name or address to connect to (HostName).
        port: TCP port (Port).
        user: Login name (User).
        identity_files: Private keys to try, in order; some may not exist (IdentityFile).
        identities_only: True: of the agent's keys only those in ``identity_files``
            (IdentitiesOnly).
        certificate_files: Certificates to try (CertificateFile).
        identity_agent: The agent's socket, None for no agent (IdentityAgent).
        user_known_hosts: The user's host key files; new keys go to the first
            (UserKnownHostsFile).
        global_known_hosts: The system's host key files (GlobalKnownHostsFile).
        strict_host_keys: ``"yes"``, ``"accept-new"`` or ``"no"``; ``ask`` counts as ``"yes"``,
            since nobody can be asked (StrictHostKeyChecking).
        host_key_alias: Name under which the host key is on record, or None (HostKeyAlias).
        connect_timeout: Seconds to wait for a connection, None for the caller's own
            (ConnectTimeout).
        server_alive_interval: Seconds between two signs of life, None for the caller's own
            (ServerAliveInterval).
        proxy_jump: Hosts to go through, the first one first (ProxyJump).
        proxy_command: Command whose stdin and stdout are the connection, tokens filled in, or
            None (ProxyCommand).
        config_file: The configuration file, None for the user's and the system's own.
        address: What to write after ``ssh`` to reach it: options and host, for messages.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    certificate_files: tuple[Path, ...] = ()
    identity_agent: Path | None = None
    user_known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    strict_host_keys: str = "yes"
    host_key_alias: str | None = None
    connect_timeout: float | None = None
    server_alive_interval: float | None = None
    proxy_jump: tuple[Login, ...] = ()
    proxy_command: str | None = None
    config_file: Path | None = None
    address: tuple[str, ...] = ()

    @property
    def host_key_name(self) -> str:
        """The name under which known_hosts files hold its key."""
        if self.host_key_alias:
            return self.host_key_alias
        host = self.hostname.lower()
        return host if self.port == SSH_PORT else f"[{host}]:{self.port}"


def ssh_arguments(spec: NodeSpec, ssh_config: Path | None) -> tuple[str, ...]:
    """The options and the host with which ``ssh`` reaches a node."""
    config = ("-F", str(ssh_config)) if ssh_config is not None else ()
    port = ("-p", str(spec.port)) if spec.port is not None else ()
    user = ("-l", spec.user) if spec.user is not None else ()
    return (*config, *port, *user, "--", spec.host)


def parse_settings(text: str) -> dict[str, list[str]]:
    """Read what ``ssh -G`` printed: ``keyword value`` a line, keywords may come again."""
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        settings.setdefault(keyword.lower(), []).append(value.strip())
    return settings


def parse_login(spec: NodeSpec, settings: Settings, ssh_config: Path | None) -> Login:
    """Turn a host's settings into a login, without the hosts on the way.

    Args:
        spec: The node.
        settings: Values by lower-case keyword, as ``ssh -G`` prints them.
        ssh_config: The file they come from, or None.

    Raises:
        ConfigError: A value makes no sense.
    """
    hostname = one_of(settings, "hostname") or spec.host
    port = _number(spec, settings, "port")
    login = Login(
        alias=spec.host,
        hostname=hostname,
        port=SSH_PORT if port is None else int(port),
        user=one_of(settings, "user") or getpass.getuser(),
        identities_only=one_of(settings, "identitiesonly") in _YES,
        strict_host_keys=_strictness(one_of(settings, "stricthostkeychecking")),
        host_key_alias=one_of(settings, "hostkeyalias"),
        # 0 means "not set" to OpenSSH for both.
        connect_timeout=_number(spec, settings, "connecttimeout") or None,
        server_alive_interval=_number(spec, settings, "serveraliveinterval") or None,
        config_file=ssh_config,
        address=ssh_arguments(spec, ssh_config),
    )
    tokens = cache(partial(_tokens, login))
    known = _split_paths(one_of(settings, "userknownhostsfile") or "")
    known_to_all = _split_paths(one_of(settings, "globalknownhostsfile") or "")
    command = one_of(settings, "proxycommand")
    return replace(
        login,
        identity_files=_paths(settings.get("identityfile", ()), tokens),
        certificate_files=_paths(settings.get("certificatefile", ()), tokens),
        identity_agent=_agent_socket(
            (settings.get("identityagent") or ["SSH_AUTH_SOCK"])[0], tokens
        ),
        user_known_hosts=_paths(known, tokens),
        global_known_hosts=_paths(known_to_all, tokens),
        proxy_command=fill_tokens(command, tokens) if command else None,
    )


_YES = ("yes", "true")
_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?"
    r"(?:\[(?P<v6>[^\]\s]+)\]|(?P<host>[^:@\s\[\]/]+))(?::(?P<port>\d+))?/?"
)


def parse_proxy_jump(value: str | None) -> tuple[NodeSpec, ...]:
    """Read a ProxyJump value: ``[user@]host[:port]`` or ``ssh://…``, separated by commas.

    Raises:
        ConfigError: It follows no such form.
    """
    hops: list[NodeSpec] = []
    for part in (value or "").split(","):
        if not part.strip():
            continue
        found = _JUMP.fullmatch(part.strip())
        if found is None:
            raise ConfigError(f"ProxyJump {value}: {part.strip()!r} is not [user@]host[:port]")
        port = int(found["port"]) if found["port"] else None
        hops.append(NodeSpec(found["v6"] or found["host"], found["user"], port))
    return tuple(hops)


def one_of(settings: Settings, keyword: str) -> str | None:
    """The first value; None where there is none, or it is ``none``."""
    values = settings.get(keyword) or [""]
    return None if values[0].lower() in ("", "none") else values[0]


def _number(spec: NodeSpec, settings: Settings, keyword: str) -> float | None:
    value = one_of(settings, keyword)
    try:
        return None if value is None else float(value)
    except ValueError as exc:
        raise ConfigError(f"{spec.host}: {keyword} {value!r} is not a number") from exc


def _strictness(value: str | None) -> str:
    if value in ("no", "false", "off"):
        return "no"
    return "accept-new" if value == "accept-new" else "yes"


def _agent_socket(value: str, tokens: _Tokens) -> Path | None:
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        named = os.environ.get("SSH_AUTH_SOCK", "")
    elif re.fullmatch(r"\$\w+", value):
        named = os.environ.get(value[1:], "")
    else:
        named = value
    return _paths([named], tokens)[0] if named else None


def _split_paths(value: str) -> list[str]:
    """Split a list of files, which ``ssh -G`` prints without quotes.

    A name with a space in it can be told from two names only by looking: a run of words that
    begins like a path and ends before the next one that does is one name.
    """
    return [word for word in re.split(r"\s+(?=[/~%$]|none\b)", value) if word]


def _paths(values: Sequence[str], tokens: _Tokens) -> tuple[Path, ...]:
    """File names with tokens, ``${VARIABLES}`` and ``~`` filled in; ``none`` stands for no file."""
    paths = []
    for value in values:
        if value.lower() in ("", "none"):
            continue
        filled = re.sub(
            r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), fill_tokens(value, tokens)
        )
        paths.append(Path(os.path.expanduser(filled)))
    return tuple(paths)


def _tokens(login: Login) -> dict[str, str]:
    """The tokens of ssh_config(5) that have a meaning before a connection is there."""
    local_host = socket.gethostname()
    return {
        "%": "%",
        "d": str(Path.home()),
        "h": login.hostname,
        "i": str(os.getuid()),
        "k": login.host_key_alias or login.alias,
        "L": local_host.partition(".")[0],
        "l": local_host,
        "n": login.alias,
        "p": str(login.port),
        "r": login.user,
        "u": getpass.getuser(),
    }


def fill_tokens(text: str, tokens: _Tokens) -> str:
    """Fill in ``%h``-like tokens; one that is not known stays as it is."""
    return re.sub(r"%(.)", lambda found: tokens().get(found[1], found[0]), text)
