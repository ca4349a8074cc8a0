"""Host keys: who a host claims to be, held against OpenSSH's known_hosts files.

Rules: a key that is not on record is refused unless the configuration says otherwise, and every
refusal names the exact line that would help. The file format is that of sshd(8),
"SSH_KNOWN_HOSTS FILE FORMAT": plain and hashed names, patterns, ``@revoked``. Keys are compared
as bytes, so that a line with a key type nobody here knows does no harm.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import shlex
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from allot.errors import HostKeyError
from allot.sshconfig import Login
from allot.unchanged import Unchanged

_log = logging.getLogger(__name__)
_appending = threading.Lock()
_MIN_FIELDS = 3
# What makes the first field of a line more than names: patterns, exclusions, a hash.
_NO_PLAIN_NAMES = re.compile(r"[*?!|]")


@dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file that speaks of a host.

    Attributes:
        type: The key's type, ``ssh-ed25519`` for instance.
        blob: The public key, as it goes over the wire.
        revoked: True where the line says that this key must not be used any more.
        path: The file.
        line: 1-based line number.
    """

    type: str
    blob: bytes
    revoked: bool
    path: Path
    line: int


def known_keys(login: Login) -> list[KnownKey]:
    """All keys on record for a host, the user's files first."""
    keys: list[KnownKey] = []
    for path in (*login.user_known_hosts, *login.global_known_hosts):
        try:
            keys.extend(_records.read(path).find(login.host_key_name))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            _log.warning("host keys in %s are left out: %s", path, exc)
    return keys


def parse_known_hosts(text: str, name: str, path: Path) -> Iterator[KnownKey]:
    """Find a host's keys in a known_hosts file's text; lines that cannot be read are skipped."""
    return _Record(path, text).find(name)


@dataclass(frozen=True)
class _Line:
    number: int
    revoked: bool
    names: str
    type: str
    key: str


class _Record:
    """One known_hosts file, in which the lines that speak of a host are found at once.

    With a room full of nodes each has a line, and all of them are looked for.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._by_name: dict[str, list[_Line]] = {}
        self._patterns: list[_Line] = []
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < _MIN_FIELDS or fields[0].startswith("#"):
                continue
            if marker in ("", "@revoked"):
                self._add(_Line(number, marker == "@revoked", *fields[:_MIN_FIELDS]))

    def _add(self, line: _Line) -> None:
        if _NO_PLAIN_NAMES.search(line.names):
            self._patterns.append(line)
            return
        for name in dict.fromkeys(line.names.lower().split(",")):
            self._by_name.setdefault(name, []).append(line)

    def find(self, name: str) -> Iterator[KnownKey]:
        """The keys of a host, in the order of their lines."""
        matching = [line for line in self._patterns if _matches(line.names, name)]
        matching += self._by_name.get(name.lower(), [])
        for line in sorted(matching, key=lambda one: one.number):
            try:
                blob = base64.b64decode(line.key, validate=True)
            except binascii.Error:
                _log.warning("%s, line %d: not a host key", self._path, line.number)
                continue
            yield KnownKey(line.type, blob, line.revoked, self._path, line.number)


_records = Unchanged(lambda path, data: _Record(path, data.decode("utf-8", "replace")))


def _matches(names: str, name: str) -> bool:
    """Whether the first field of a line, names or patterns or one hash, speaks of a host."""
    if names.startswith("|1|"):
        return _matches_hash(names, name)
    found = False
    for pattern in names.lower().split(","):
        negated = pattern.startswith("!")
        # Brackets stand around an address with a port; fnmatch would take them for a set.
        glob = re.sub(r"[\[]", "[[]", pattern.lstrip("!"))
        if fnmatchcase(name.lower(), glob):
            if negated:
                return False
            found = True
    return found


def _matches_hash(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def preferred_types(keys: Iterable[KnownKey], supported: Iterable[str]) -> list[str]:
    """The host key algorithms to ask for, those of keys on record first.

    A host that has several keys shows the one that is asked for; to ask for a type that is not
    on record would make a known host look unknown.
    """
    known = {key.type for key in keys if not key.revoked}
    if "ssh-rsa" in known:  # one key type, three signature algorithms (RFC 8332)
        known |= {"rsa-sha2-512", "rsa-sha2-256"}
    return sorted(supported, key=lambda algorithm: algorithm not in known)


def check_host_key(name: str, login: Login, key_type: str, blob: bytes) -> None:
    """Hold the key that a host has shown against the record, as StrictHostKeyChecking says.

    Args:
        name: The node's name, for messages.
        login: The host.
        key_type: The key's type.
        blob: The public key.

    Raises:
        HostKeyError: The key is unknown, changed or revoked; the message has the remedy.
    """
    keys = known_keys(login)
    for key in keys:
        if key.blob == blob and key.revoked:
            raise HostKeyError(
                name,
                f"the {key_type} host key {fingerprint(blob)} of {login.host_key_name} is marked "
                f"@revoked in {key.path}, line {key.line}; ask who runs this host for its new key",
            )
    trusted = [key for key in keys if not key.revoked]
    if any(key.blob == blob for key in trusted):
        return
    same_type = [key for key in trusted if key.type == key_type]
    if login.strict_host_keys == "no":
        if same_type:
            _log.warning(
                "%s: the host key of %s has changed; StrictHostKeyChecking is off, so it is used",
                name,
                login.host_key_name,
            )
        else:
            _append(login, key_type, blob)
    elif same_type:
        raise HostKeyError(name, _changed(login, same_type[0], blob))
    elif login.strict_host_keys == "accept-new" and not trusted:
        _append(login, key_type, blob)
    else:
        raise HostKeyError(name, _unknown(login, key_type, blob))


def _append(login: Login, key_type: str, blob: bytes) -> None:
    if not login.user_known_hosts:
        return
    path = login.user_known_hosts[0]
    line = f"{login.host_key_name} {key_type} {base64.b64encode(blob).decode()}\n"
    try:
        with _appending:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with path.open("rb+") as file:
                old = file.read()
                torn = b"\n" if old and not old.endswith(b"\n") else b""
                file.write(torn + line.encode())
    except OSError as exc:
        _log.warning("the host key of %s is not kept: %s", login.host_key_name, exc)


def _changed(login: Login, known: KnownKey, blob: bytes) -> str:
    remedy = shlex.join(["ssh-keygen", "-R", login.host_key_name, "-f", str(known.path)])
    return (
        f"the {known.type} host key of {login.host_key_name} has changed: {fingerprint(blob)} now, "
        f"{fingerprint(known.blob)} in {known.path}, line {known.line}. Somebody may be listening "
        f"in; if the host was installed anew, forget the old key with: {remedy}"
    )


def _unknown(login: Login, key_type: str, blob: bytes) -> str:
    return (
        f"the {key_type} host key {fingerprint(blob)} of {login.host_key_name} is not known; "
        f"if it is the right one, record it with: {_recording_command(login)}"
    )


def _recording_command(login: Login) -> str:
    """The exact command that puts the host's key on record."""
    direct = not (login.proxy_jump or login.proxy_command or login.host_key_alias)
    if direct and login.user_known_hosts:
        port = [] if login.port == 22 else ["-p", str(login.port)]  # noqa: PLR2004 - SSH's port
        scan = shlex.join(["ssh-keyscan", *port, login.hostname])
        return f"{scan} >> {shlex.quote(str(login.user_known_hosts[0]))}"
    ask = ["-o", "StrictHostKeyChecking=ask"]
    return shlex.join(["ssh", *ask, *login.address, "true"])


def fingerprint(blob: bytes) -> str:
    """A key's fingerprint as OpenSSH shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
