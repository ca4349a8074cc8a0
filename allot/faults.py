"""What paramiko and the system say about a host, in our words.

Rules: everything that is raised on the way to a node, or on a connection to it, leaves as one of
our errors, made here; its text speaks to a user.
"""

from __future__ import annotations

import socket
import struct

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import IncompatiblePeer

from allot.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    HostKeyError,
    NodeError,
)
from allot.sshauth import EncryptedKeyError

# All that paramiko and sockets raise when something is wrong with a host.
HOST_ERRORS = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError)

# What paramiko's reading of a message fails with when its contents make no sense.
GARBLED = (ValueError, LookupError, AttributeError, TypeError, struct.error, UnknownKeyType)


def translate(name: str, exc: BaseException) -> NodeError:
    """Say in our words what paramiko or the system said about a host.

    Args:
        name: The node's name.
        exc: What was raised.

    Returns:
        The error to raise in its place; one of ours stays as it is.
    """
    if isinstance(exc, NodeError):
        return exc
    if isinstance(exc, paramiko.BadHostKeyException):
        return HostKeyError(name, f"the host key of {exc.hostname} is not the one on record")
    if isinstance(exc, (paramiko.AuthenticationException, EncryptedKeyError)):
        return AuthenticationFailedError(name, f"the login was refused: {exc}")
    return ConnectionFailedError(name, _describe(exc))


def _describe(exc: BaseException) -> str:  # noqa: PLR0911 - a table
    if isinstance(exc, paramiko.ProxyCommandFailure):
        return f"ProxyCommand {exc.command!r} failed: {exc.error}"
    if isinstance(exc, paramiko.ChannelException):
        return f"the node opened no session: {exc.text} (MaxSessions?)"
    if isinstance(exc, IncompatiblePeer):
        return f"the node's sshd and paramiko have no algorithm in common: {exc}"
    if isinstance(exc, socket.gaierror):
        return f"its name does not resolve: {exc.strerror}"
    if isinstance(exc, TimeoutError):
        text = str(exc) or "no answer in time"
        return text if "timed out" in text else f"timed out: {text}"
    if isinstance(exc, EOFError):
        return "the node closed the connection"
    if isinstance(exc, OSError):
        text = exc.strerror or str(exc) or type(exc).__name__
        return text[:1].lower() + text[1:] if exc.errno is not None else text
    if isinstance(exc, paramiko.SSHException) and "banner" in str(exc):
        return "the connection was closed before sshd answered (too many logins, or no sshd there)"
    return f"SSH failed: {exc or type(exc).__name__}"
