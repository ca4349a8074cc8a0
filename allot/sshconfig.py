"""What OpenSSH's client configuration says of a host: how Allot knows where and how to log in.

Rules: the configuration is resolved by OpenSSH itself (``ssh -G``) where its client is installed,
so that ``Include``, ``Match`` and canonical names mean what they mean to the user's own ``ssh``;
only without it does paramiko's reader stand in. Of a room full of nodes one is asked for and the
others are read off here (``plainconfig``), where the configuration is so plain that there can be
no two opinions of it, and that one agrees. Calling is apart from reading: the ``parse_*``
functions take text. Options and tokens are those of ssh_config(5).
"""

from __future__ import annotations

import getpass
import glob
import os
import pwd
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allot.errors import ConfigError
from allot.model import NodeSpec
from allot.plainconfig import Block, look_up, parse_plain

_RESOLVE_TIMEOUT_S = 30.0
_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_INCLUDE = re.compile(r"^[ \t]*Include[ \t]+(/[^\s\"'\\#~]+)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")

Settings = Mapping[str, Sequence[str]]


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


SSH_PORT = 22


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
    jumps = parse_proxy_jump(_one(settings, "proxyjump"))
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
    if shutil.which("ssh") is None:
        return _read_with_paramiko(spec, ssh_config)
    plain = _plain_config(spec, ssh_config)
    settings = None if plain is None else plain.settings(spec)
    return _ask_openssh(spec, ssh_config) if settings is None else settings


@dataclass(frozen=True)
class _PlainConfig:
    """A configuration that needs no OpenSSH to be read: a program less for each node."""

    blocks: Sequence[Block]
    defaults: Settings

    def settings(self, spec: NodeSpec) -> Settings | None:
        found = look_up(self.blocks, spec.host)
        if found is None:
            return None
        told = {"port": spec.port, "user": spec.user}
        asked = {keyword: [str(value)] for keyword, value in told.items() if value is not None}
        return {**self.defaults, **found, **asked}


_plain_lock = threading.Lock()
_plain_configs: dict[Path | None, tuple[object, _PlainConfig | None]] = {}


def _plain_config(spec: NodeSpec, ssh_config: Path | None) -> _PlainConfig | None:
    """The configuration, if it is plain as it stands now; the first host asked for is the test."""
    with _plain_lock:
        texts = _texts(ssh_config)
        known, config = _plain_configs.get(ssh_config, (None, None))
        if known != texts:
            config = None if texts is None else _try_plain(spec, ssh_config, texts)
            _plain_configs[ssh_config] = (texts, config)
        return config


def _texts(ssh_config: Path | None) -> list[str] | None:
    """The files that OpenSSH reads, less an ``Include`` of nothing; None where one cannot be."""
    try:
        own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh/config"
        files = [own, _SYSTEM_CONFIG] if ssh_config is None else [ssh_config]
        texts = [
            file.read_bytes().decode() for file in files if ssh_config is not None or file.exists()
        ]
    except (KeyError, OSError, UnicodeError):
        return None
    return [
        _INCLUDE.sub(lambda found: found[0] if glob.glob(found[1]) else "", text) for text in texts
    ]


def _try_plain(
    spec: NodeSpec, ssh_config: Path | None, texts: Sequence[str]
) -> _PlainConfig | None:
    parsed = [parse_plain(text) for text in texts]
    blocks = [block for each in parsed for block in each or ()]
    if None in parsed or look_up(blocks, spec.host) is None:
        return None
    try:
        config = _PlainConfig(blocks, _ask_openssh(NodeSpec("localhost"), Path(os.devnull)))
        settings = config.settings(spec)
        asked = _ask_openssh(spec, ssh_config)
    except ConfigError:
        return None
    if settings is None or _one(settings, "proxyjump") != _one(asked, "proxyjump"):
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


def parse_login(spec: NodeSpec, settings: Settings, ssh_config: Path | None) -> Login:
    """Turn a host's settings into a login, without the hosts on the way.

    Args:
        spec: The node.
        settings: Values by lower-case keyword, as ``ssh -G`` prints them.
        ssh_config: The file they come from, or None.

    Raises:
        ConfigError: A value makes no sense.
    """
    hostname = _one(settings, "hostname") or spec.host
    port = _number(spec, settings, "port")
    login = Login(
        alias=spec.host,
        hostname=hostname,
        port=SSH_PORT if port is None else int(port),
        user=_one(settings, "user") or getpass.getuser(),
        identities_only=_one(settings, "identitiesonly") in _YES,
        strict_host_keys=_strictness(_one(settings, "stricthostkeychecking")),
        host_key_alias=_one(settings, "hostkeyalias"),
        # 0 means "not set" to OpenSSH for both.
        connect_timeout=_number(spec, settings, "connecttimeout") or None,
        server_alive_interval=_number(spec, settings, "serveraliveinterval") or None,
        config_file=ssh_config,
        address=ssh_arguments(spec, ssh_config),
    )
    tokens = _tokens(login)
    known = _split_paths(_one(settings, "userknownhostsfile") or "")
    known_to_all = _split_paths(_one(settings, "globalknownhostsfile") or "")
    command = _one(settings, "proxycommand")
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


def _one(settings: Settings, keyword: str) -> str | None:
    """The first value; None where there is none, or it is ``none``."""
    values = settings.get(keyword) or [""]
    return None if values[0].lower() in ("", "none") else values[0]


def _number(spec: NodeSpec, settings: Settings, keyword: str) -> float | None:
    value = _one(settings, keyword)
    try:
        return None if value is None else float(value)
    except ValueError as exc:
        raise ConfigError(f"{spec.host}: {keyword} {value!r} is not a number") from exc


def _strictness(value: str | None) -> str:
    if value in ("no", "false", "off"):
        return "no"
    return "accept-new" if value == "accept-new" else "yes"


def _agent_socket(value: str, tokens: Mapping[str, str]) -> Path | None:
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


def _paths(values: Sequence[str], tokens: Mapping[str, str]) -> tuple[Path, ...]:
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


def fill_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """Fill in ``%h``-like tokens; one that is not known stays as it is."""
    return re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), text)
