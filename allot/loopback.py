"""SSH nodes inside this process, for trying Allot and for tests where no sshd is at hand.

The rules of this module:

- It listens on 127.0.0.1 only, on ports the kernel chooses, and lets in only the key it made.
- A command gets what sshd would give it: a session of its own, the home directory to start in,
  its stdin and the end of it, its exit status. The login shell is always ``/bin/bash``, no rc file
  is read, and the environment is this process's, as it was when the nodes came up, less
  ``ALLOT_*`` and ``SSH_*``, with ``SSH_CONNECTION`` as sshd sets it.
- A client that leaves kills nothing. When the nodes close, what still runs in a channel is hung up
  on (SIGHUP to its process group, SIGKILL after a second); processes in groups or sessions of
  their own live on, as they do when sshd stops.
- Every thread is a daemon and every wait has a bound, so an interpreter that exits without
  `LoopbackNodes.close` does not hang.

What one connection may do is in `sshserver`, its files are in `sftpserver`.
"""

from __future__ import annotations

import atexit
import logging
import os
import selectors
import shutil
import socket
import tempfile
from io import StringIO
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from allot.errors import ConfigError
from allot.sshserver import TICK_S, Machine, ServerTransport, Workers

_ADDRESS = "127.0.0.1"
_USER = "allot"  # any name is let in with the right key: all of them are the user of this process
_CLOSE_S = 5.0  # the most that close() waits for its threads

_log = logging.getLogger(__name__)


class LoopbackNodes:
    """A number of SSH nodes inside this process; they are up once this object is made.

    They run real commands with real Bash, as the user of this process and on this machine.

    Attributes:
        names: The nodes' names, ``loop01`` and on; aliases that ``ssh_config`` resolves.
        node_file: A host file that names them all.
        ssh_config: An OpenSSH client configuration that leads to them:
            ``ssh -F <ssh_config> loop01 hostname`` works.

    Example:
        ::

            with LoopbackNodes(5) as nodes:
                Cluster(..., node_file=nodes.node_file, ssh_config=nodes.ssh_config)
    """

    names: tuple[str, ...]
    node_file: Path
    ssh_config: Path

    def __init__(self, count: int) -> None:
        """Bring up ``count`` nodes.

        Raises:
            ConfigError: ``count`` is less than 1.
            OSError: The machine has no sockets or temporary files left.
        """
        if count < 1:
            raise ConfigError(f"LoopbackNodes({count}): at least 1 node is needed")
        self._workers = Workers()
        self._listeners: dict[socket.socket, paramiko.PKey] = {}
        self._transports: list[ServerTransport] = []
        self._directory = Path(tempfile.mkdtemp(prefix="allot-loopback-"))
        atexit.register(self.close)
        try:
            self._open(count)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LoopbackNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on what runs, end every thread and remove the keys; idempotent, within 5 s."""
        atexit.unregister(self.close)
        self._workers.closing.set()
        for transport in list(self._transports):
            transport.hang_up()
        left = self._workers.join(_CLOSE_S)
        if left:
            _log.warning("loopback nodes closed, but still busy: %s", ", ".join(left))
        for listener in self._listeners:
            listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _open(self, count: int) -> None:
        width = max(2, len(str(count)))
        self.names = tuple(f"loop{number:0{width}}" for number in range(1, count + 1))
        for _ in self.names:
            listener = socket.create_server((_ADDRESS, 0), backlog=128)
            listener.setblocking(False)
            self._listeners[listener] = _new_key()[0]
        user_key, private = _new_key()
        self._machine = Machine(user_key, _node_environment(), _home(), self._workers)
        self.node_file = self._write("hostfile", "".join(f"{name}\n" for name in self.names))
        self.ssh_config = self._write("ssh_config", self._client_config(private))
        self._workers.start("accept", self._accept)

    def _client_config(self, private_key: str) -> str:
        ports = [listener.getsockname()[1] for listener in self._listeners]
        known_hosts = self._write(
            "known_hosts",
            "".join(
                f"[{_ADDRESS}]:{port} {key.get_name()} {key.get_base64()}\n"
                for port, key in zip(ports, self._listeners.values(), strict=True)
            ),
        )
        hosts = "".join(
            f"Host {name}\n  HostName {_ADDRESS}\n  Port {port}\n"
            for name, port in zip(self.names, ports, strict=True)
        )
        return hosts + (
            f"Host *\n  User {_USER}\n"
            f"  IdentityFile {_config_path(self._write('id_ed25519', private_key))}\n"
            "  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {_config_path(known_hosts)}\n"
            "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"
        )

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return path

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener, host_key in self._listeners.items():
                selector.register(listener, selectors.EVENT_READ, (listener, host_key))
            while not self._workers.closing.is_set():
                for key, _ in selector.select(TICK_S):
                    self._welcome(*key.data)

    def _welcome(self, listener: socket.socket, host_key: paramiko.PKey) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:  # it is in the queue still: no file descriptor is left
            _log.warning("cannot accept a connection: %s", error)
            self._workers.closing.wait(TICK_S)
            return
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = ServerTransport(connection, host_key, self._machine)
        except OSError as error:
            _log.debug("the client has gone again: %s", error)
            connection.close()
            return
        self._transports = [*(each for each in self._transports if each.is_alive()), transport]
        transport.serve()
        if self._workers.closing.is_set():  # close() may have looked before this one was there
            transport.hang_up()


def _node_environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("ALLOT_", "SSH_"))
    }


def _home() -> str:
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def _new_key() -> tuple[paramiko.PKey, str]:
    """A new Ed25519 key pair, and its private half as the text of an OpenSSH key file."""
    text = (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode("ascii")
    )
    return paramiko.Ed25519Key.from_private_key(StringIO(text)), text


def _config_path(path: Path) -> str:
    """``path`` as ssh_config takes it: quoted for spaces, and % is no token."""
    return '"' + str(path).replace("%", "%%") + '"'
