"""Logging in as OpenSSH's client does: which keys are shown to a host, and in what order.

Rules: agent keys that the configuration names come first, then other agent keys (unless
IdentitiesOnly), then key files; certificates before the plain keys they belong to; encrypted
files last, when all else was refused. No key is shown twice, since hosts count the tries
(MaxAuthTries). A passphrase is asked for once, whatever the number of nodes.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH
from paramiko.auth_strategy import AuthResult, AuthStrategy, InMemoryPrivateKey
from paramiko.pkey import PublicBlob, UnknownKeyType

from allot.errors import AuthenticationFailedError
from allot.sshconfig import SSH_PORT, Login
from allot.unchanged import Unchanged

_log = logging.getLogger(__name__)

_PASSPHRASE_TRIES = 3
_CERTIFICATE_MARK = "-cert-v01@openssh.com"
# What paramiko and cryptography raise for a key file that cannot be read as one.
_KEY_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    paramiko.SSHException,
    UnknownKeyType,
)


class EncryptedKeyError(Exception):
    """A key file is encrypted and its passphrase is not known."""


class LoginExpiredError(paramiko.SSHException):
    """The host hung up while a passphrase was being typed; trying again will do."""


class KeyRing:
    """The key files of a cluster's logins, each read once, each passphrase asked for once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._keys: dict[tuple[Path, Path | None], paramiko.PKey] = {}
        self._passphrases: dict[Path, bytes] = {}
        self._given_up: set[Path] = set()

    def load(self, path: Path, certificate: Path | None = None) -> paramiko.PKey:
        """Read a private key, with a certificate where one is given.

        Raises:
            EncryptedKeyError: The file is encrypted and was not unlocked.
            OSError, ValueError, paramiko.SSHException: It cannot be read as a key.
        """
        with self._lock:
            if (path, certificate) in self._keys:
                return self._keys[path, certificate]
            key = _read_key(path, self._passphrases.get(path))
            if certificate is not None:
                key.load_certificate(str(certificate))
            self._keys[path, certificate] = key
            return key

    def unlock(self, path: Path) -> bool:
        """Ask for a key file's passphrase, once for all nodes; False where there is no telling."""
        with self._asking:
            if path in self._passphrases:
                return True
            if path in self._given_up or not _has_terminal():
                return False
            for _ in range(_PASSPHRASE_TRIES):
                try:
                    passphrase = getpass.getpass(f"Passphrase for {path}: ").encode()
                except (EOFError, OSError):
                    break
                if not passphrase:
                    break
                try:
                    _read_key(path, passphrase)
                except _KEY_ERRORS:
                    continue
                with self._lock:
                    self._passphrases[path] = passphrase
                return True
            self._given_up.add(path)
            return False


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _read_key(path: Path, passphrase: bytes | None) -> paramiko.PKey:
    """Read a private key file alone: ``PKey.from_path`` would add a certificate unasked."""
    errors: list[Exception] = []
    for key_class in (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey):
        try:
            # paramiko takes bytes as well as text; its stubs know of text only.
            return key_class.from_private_key_file(str(path), passphrase)  # type: ignore[arg-type]
        except paramiko.PasswordRequiredException as exc:
            raise EncryptedKeyError(str(path)) from exc
        except _KEY_ERRORS as exc:
            if isinstance(exc, OSError):
                raise
            errors.append(exc)
    raise paramiko.SSHException(f"{path} is no private key that can be used: {errors[0]}")


class _Agent(AgentSSH):
    """The user's ssh-agent at a given socket.

    paramiko's own ``Agent`` knows only SSH_AUTH_SOCK and waits for ever; ``_connect`` is the
    one way it offers to use another connection.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
            self._connect(connection)  # type: ignore[attr-defined] # protected, not in the stubs
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._close()  # type: ignore[attr-defined]


class _Offer(InMemoryPrivateKey):
    """One key to show to a host, and what to call it in messages."""

    def __init__(self, username: str, title: str, key: paramiko.PKey) -> None:
        super().__init__(username, key)
        self.title = title


class OpenSSHAuth(AuthStrategy):
    """The login of one connection attempt.

    Args:
        node: The node's name, for messages.
        login: The host, with its keys.
        keys: The key files, shared by all nodes.
        timeout: Seconds to wait for the agent.
    """

    def __init__(self, node: str, login: Login, keys: KeyRing, timeout: float) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._node = node
        self._login = login
        self._ring = keys
        self._timeout = timeout
        self._locked: list[Path] = []
        self._unreadable: list[str] = []
        self._refused: list[str] = []
        self._shown: set[bytes] = set()
        self._agent: _Agent | None = None
        self._was_typing = False

    def authenticate(self, transport: paramiko.Transport) -> AuthResult:
        """Show keys until the host lets us in.

        Raises:
            AuthenticationFailedError: It did not.
            LoginExpiredError: It hung up while a passphrase was being typed.
            paramiko.SSHException: The connection broke.
        """
        try:
            for offer in self.get_sources():
                if self._try(transport, offer):
                    return AuthResult(strategy=self)
        finally:
            if self._agent is not None:
                self._agent.close()
        raise AuthenticationFailedError(self._node, self._describe_refusal())

    def _try(self, transport: paramiko.Transport, offer: _Offer) -> bool:
        try:
            wanted = offer.authenticate(transport)
        except paramiko.BadAuthenticationType as exc:
            methods = ", ".join(exc.allowed_types)
            raise AuthenticationFailedError(
                self._node,
                f"{self._who()} may not log in with a key; the host takes {methods} only",
            ) from exc
        except paramiko.AuthenticationException as exc:
            if not transport.is_active():
                if self._was_typing:
                    raise LoginExpiredError("the host did not wait for the passphrase") from exc
                raise AuthenticationFailedError(
                    self._node,
                    f"{self._who()}: the host hung up after {len(self._refused) + 1} keys (too "
                    "many tries?); name the right one with IdentityFile and set IdentitiesOnly yes",
                ) from exc
            self._refused.append(offer.title)
            return False
        except (paramiko.SSHException, OSError) as exc:
            if not transport.is_active():
                if self._was_typing:
                    raise LoginExpiredError("the host did not wait for the passphrase") from exc
                raise
            # An agent that will not sign (ssh-add -c, a key that was pulled out) is no reason
            # to leave the other keys untried.
            _log.debug("%s: %s cannot be used: %s", self._node, offer.title, exc)
            self._unreadable.append(f"{offer.title}: {exc}")
            return False
        if wanted:
            raise AuthenticationFailedError(
                self._node,
                f"{self._who()}: the key was accepted, but the host also asks for "
                f"{', '.join(wanted)}, which Allot cannot give",
            )
        return True

    def get_sources(self) -> Iterator[_Offer]:
        """The keys to show, in order; each is read, or asked for, when its turn comes."""
        self._agent = self._open_agent()
        agent_keys = list(self._agent.get_keys()) if self._agent is not None else []
        by_blob = {_public_blob(key): key for key in agent_keys}
        named = {path: blob for path in self._files() if (blob := _blob_beside(path)) is not None}
        yield from self._fresh(self._certified(by_blob, named))
        own = [by_blob[blob] for blob in named.values() if blob in by_blob]
        others = [] if self._login.identities_only else agent_keys
        for key in (*own, *others):
            yield from self._fresh([self._offer(f"agent key {_agent_comment(key)}", key)])
        for path in self._files():
            yield from self._fresh(self._from_file(path, None))
        for path in list(self._locked):
            yield from self._unlocked(path)

    def _certified(
        self, by_blob: dict[bytes, paramiko.AgentKey], named: dict[Path, bytes]
    ) -> Iterator[_Offer]:
        """Certificates, each with the private key it belongs to, from the agent or a file."""
        beside = [Path(f"{path}-cert.pub") for path in self._files()]
        for certificate in dict.fromkeys((*self._login.certificate_files, *beside)):
            if not certificate.is_file():
                continue
            for path in self._files():
                blob = named.get(path)
                if blob in by_blob:
                    key = paramiko.AgentKey(by_blob[blob].agent, blob, str(path))
                    try:
                        key.load_certificate(str(certificate))
                    except _KEY_ERRORS:
                        continue
                    if _certifies(key, blob):
                        yield self._offer(f"certificate {certificate}", key)
                else:
                    yield from self._from_file(path, certificate)

    def _from_file(self, path: Path, certificate: Path | None) -> Iterator[_Offer]:
        if not path.is_file() or path in self._locked:
            return
        try:
            key = self._ring.load(path, certificate)
        except EncryptedKeyError:
            blob = _blob_beside(path)
            if blob is None or blob not in self._shown:  # the agent may have shown it already
                self._locked.append(path)
        except _KEY_ERRORS as exc:
            if certificate is None:
                self._unreadable.append(f"{path}: {exc}")
        else:
            if certificate is None:
                yield self._offer(str(path), key)
            elif _certifies(key, key.asbytes()):
                yield self._offer(f"certificate {certificate}", key)

    def _unlocked(self, path: Path) -> Iterator[_Offer]:
        if not self._ring.unlock(path):
            return
        self._was_typing = True  # the host may not have waited that long (LoginGraceTime)
        self._locked.remove(path)
        beside = Path(f"{path}-cert.pub")
        for certificate in (*self._login.certificate_files, beside, None):
            if certificate is None or certificate.is_file():
                yield from self._fresh(self._from_file(path, certificate))

    def _fresh(self, offers: Iterator[_Offer] | list[_Offer]) -> Iterator[_Offer]:
        for offer in offers:
            blob = _public_blob(offer.pkey)
            if blob not in self._shown:
                self._shown.add(blob)
                yield offer

    def _offer(self, title: str, key: paramiko.PKey) -> _Offer:
        return _Offer(self._login.user, title, key)

    def _files(self) -> tuple[Path, ...]:
        return self._login.identity_files

    def _open_agent(self) -> _Agent | None:
        path = self._login.identity_agent
        if path is None:
            return None
        try:
            return _Agent(path, self._timeout)
        except (OSError, paramiko.SSHException) as exc:
            _log.debug("%s: no agent at %s: %s", self._node, path, exc)
            return None

    def _who(self) -> str:
        return f"{self._login.user}@{self._login.hostname}"

    def _describe_refusal(self) -> str:
        parts = []
        if self._refused:
            parts.append(f"refused {', '.join(self._refused)}")
        parts.extend(self._unreadable)
        for path in self._locked:
            parts.append(f"{path} is encrypted and there was no passphrase for it: ssh-add {path}")
        if not parts:
            parts.append(
                "there is no key to show; make one with ssh-keygen, or name it with IdentityFile"
            )
        elif not self._locked:
            port = "" if self._login.port == SSH_PORT else f"-p {self._login.port} "
            parts.append(f"put the key there with: ssh-copy-id {port}{self._who()}")
        return f"{self._who()} was not let in: {'; '.join(parts)}"


def _public_blob(key: paramiko.PKey) -> bytes:
    """What a key shows of itself: its certificate where it has one, else its public part."""
    certificate = getattr(key, "public_blob", None)
    return bytes(certificate.key_blob) if certificate is not None else key.asbytes()


def _agent_comment(key: paramiko.AgentKey) -> str:
    return str(getattr(key, "comment", "")) or key.get_name()


_blobs = Unchanged(lambda _, data: bytes(PublicBlob.from_string(data.decode()).key_blob))


def _blob_beside(path: Path) -> bytes | None:
    """The public key in ``PATH.pub``, or in PATH itself where that is the public file."""
    for candidate in (Path(f"{path}.pub"), path):
        try:
            return _blobs.read(candidate)
        except (OSError, ValueError, IndexError):
            continue
    return None


def _certifies(key: paramiko.PKey, blob: bytes) -> bool:
    """Whether the certificate loaded into a key is for that key, and not for another one.

    A certificate holds its type, a nonce and then the fields of the public key
    (PROTOCOL.certkeys), so the key's own fields must follow the nonce.
    """
    certificate = paramiko.Message(_public_blob(key))
    plain = paramiko.Message(blob)
    if not certificate.get_text().endswith(_CERTIFICATE_MARK):
        return False
    plain.get_text()
    certificate.get_binary()
    own = plain.get_remainder()
    return certificate.get_remainder().startswith(own)
