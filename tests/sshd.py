"""Real SSH servers on loopback addresses, one process a node, for the tests.

Rules: each node has its own address, port, host key, configuration and log, so that it can
die, freeze and come back alone. As root, nodes are logged in to under an account of their own
with an empty home; else as oneself, and what needs root raises `NeedsRootError`.
Sources: unshare(1), nsenter(1), proc(5).
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

from sandbox import (
    IS_ROOT,
    MARK,
    Account,
    Process,
    Session,
    descendants,
    kill_all,
    process_table,
    session,
    wait_until,
)
from servers import Dropbear, OpenSsh, free_port, listens, make_key, public_half

_START_TIMEOUT_S = 20.0


class NeedsRootError(RuntimeError):
    """The nodes asked for can only be made by root."""


class PortTakenError(RuntimeError):
    """Somebody else took the port in the meantime."""


class SshdNode:
    """One node: a server process on an address of its own.

    Attributes:
        name: Its name in the node file.
        address: Its loopback address.
        port: Its TCP port.
        directory: Its configuration, host key and log.
        mark: What its processes carry in their environment, to be known by.
        host_key: Its public host key, as in known_hosts.
    """

    def __init__(
        self, name: str, address: str, directory: Path, server: OpenSsh, account: Account
    ) -> None:
        self.name = name
        self.address = address
        self.directory = directory
        self.port = free_port(address)
        self._server = server
        self._account = account
        self.mark = session().new_mark()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        self.host_key = server.make_host_key(directory)

    @property
    def pid(self) -> int:
        """Process number of the listening server."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is down")
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """True while the listening server lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server wrote about itself, all starts of it."""
        return (self.directory / "log").read_text(errors="replace")

    def path(self, path: Path) -> Path:
        """``path`` as this node sees it, to look at from here."""
        if self._keeper is None:
            return path
        return Path(f"/proc/{self._keeper.pid}/root{path}")

    def processes(self) -> set[Process]:
        """Everything that runs on the node: server, sessions, and what they left behind."""
        table = process_table()
        roots = {p.pid for p in table.values() if p.mark == self.mark}
        return descendants(table, roots | self._server_roots())

    def kill(self) -> None:
        """The node loses its power: server, sessions and tasks die at once."""
        self.freeze()  # or who dies last would write down that the others did
        self._die()

    def cut(self) -> None:
        """The server and its connections die; what was started through them is let be."""
        self._stop_listening()
        kill_all(
            lambda: {p for p in self.processes() if p.program.startswith(self._server.program)}
        )
        self._reap()

    def freeze(self) -> None:
        """Everything on the node stands still; connections stay, without an answer."""

        def frozen() -> bool:
            moving = {p for p in self.processes() if p.state not in "Tt"}
            for process in moving:
                process.send(signal.SIGSTOP)
            return not moving

        self._stop_listening()
        wait_until(frozen, 10, f"{self.name} would not freeze")

    def thaw(self) -> None:
        """Everything on the node goes on."""
        for process in self.processes():
            process.send(signal.SIGCONT)

    def restart(self) -> None:
        """Come back at the same address and port, with the same host key and files."""
        self.cut()
        self.start()
        self.wait_until_up()

    def start(self) -> None:
        """Start the server; `wait_until_up` waits for it."""
        command = self._server.command(self.directory, self.address, self.port, self.mark)
        if self._server.private:
            command = ["nsenter", f"--mount=/proc/{self._keep_mounts()}/ns/mnt", *command]
        self._process = _spawn(command, self.directory / "log", self.mark)

    def wait_until_up(self) -> None:
        """Wait for a started server to listen.

        Raises:
            PortTakenError: Another program listens at its port.
            RuntimeError: It ended, with its log.
            TimeoutError: It does not listen within 20 seconds.
        """
        wait_until(self._has_answer, _START_TIMEOUT_S, lambda: f"{self.name}: {self.log}")

    def close(self) -> None:
        """End everything on the node, its own file system too."""
        self._stop_listening()
        self._die()
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait(timeout=10)
            self._keeper = None

    def move_to_other_port(self) -> None:
        """Take another free port; for a server that is down."""
        self._reap()
        self.port = free_port(self.address)

    def _has_answer(self) -> bool:
        if not self.is_up:
            log = self.log
            if "in use" in log:
                raise PortTakenError(f"{self.address}:{self.port}")
            raise RuntimeError(f"{self._server.program} for {self.name} ended: {log}")
        return listens(self.pid, self.address, self.port)

    def _server_roots(self) -> set[int]:
        return {self._process.pid} if self.is_up and self._process is not None else set()

    def _stop_listening(self) -> None:
        """Stop the listener first: it must not fork a session while the others are counted."""
        if self.is_up and self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def _die(self) -> None:
        kill_all(self.processes)
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=10)
            self._process = None

    def _keep_mounts(self) -> int:
        """A process that holds the node's own mounts, over restarts of the server too."""
        if self._keeper is None:
            script = self._server.mount_script(self._account, self.directory)
            self._keeper = _spawn(
                ["unshare", "--mount", "--propagation", "private", "bash", "-euc", script],
                self.directory / "log",
                session().token,
            )
            ready = self.directory / "mounted"
            wait_until(ready.exists, 10, lambda: f"{self.name}: {self.log}")
        return self._keeper.pid


class SshdNodes:
    """Real SSH servers on loopback addresses; a context manager.

    Attributes:
        names: The names of the nodes: aliases of the ssh config, ``nd01`` onwards.
        nodes: The nodes.
        node_file: A host file that names them.
        ssh_config: An OpenSSH client configuration by which they are reached.
        user: Login name.
        home: Its home, the same on all nodes unless it is private.
        key_file: The private key that is let in.
        known_hosts: The host keys.
    """

    def __init__(
        self,
        count: int,
        directory: Path,
        *,
        login_shell: str = "/bin/bash",
        rc: Mapping[str, str] | None = None,
        sftp: bool | Literal["internal"] = True,
        private: Sequence[Path | str] = (),
        options: Sequence[str] = (),
        server: Literal["openssh", "dropbear"] = "openssh",
        with_config: bool = True,
        own_uid: bool = False,
    ) -> None:
        """Describe the nodes; they are made on entering.

        Args:
            count: How many.
            directory: An existing directory for keys, configurations and logs.
            login_shell: The login shell of the account.
            rc: Files of the home by name, such as ``{".bashrc": "sleep 2"}``.
            sftp: The SFTP subsystem: a program as on Debian, inside sshd, or none.
            private: Paths on which each node has a file system of its own, empty at first (but
                for ``"~"``, the home, which holds its rc files).
            options: Further lines of sshd_config, before all others; for dropbear further
                arguments.
            server: The server program.
            with_config: The nodes have aliases in the ssh config; else the node file holds
                ``user@address:port`` and the config only key and known hosts.
            own_uid: The account has a user id of its own and not the client's.
        """
        if server == "dropbear" and sftp is not True:
            raise ValueError("dropbear always has the SFTP program it was built with")
        self._count = count
        self._login_shell = login_shell
        self._rc = dict(rc or {})
        self._private = tuple(private)
        self._own_uid = own_uid
        self._sftp = sftp
        self._options = tuple(options)
        self._server = server
        self._with_config = with_config
        self._stack = ExitStack()
        self.directory = directory
        self.key_file = directory / "id_ed25519"
        self.known_hosts = directory / "known_hosts"
        self.ssh_config = directory / "ssh_config"
        self.node_file = directory / "hostfile.txt"
        self.nodes: tuple[SshdNode, ...] = ()
        self.names: tuple[str, ...] = ()
        self.user = ""
        self.home = Path()

    def __enter__(self) -> SshdNodes:
        with ExitStack() as stack:
            account = self._open_account(session(), stack)
            self.user, self.home = account.name, account.home
            self._make_nodes(account, stack)
            self._start_nodes()
            self._write_client_files()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def node(self, index: int) -> SshdNode:
        """The node at ``index``, counted from 0."""
        return self.nodes[index]

    def _open_account(self, owner: Session, stack: ExitStack) -> Account:
        if not IS_ROOT:
            if self._rc or self._private or self._own_uid or self._login_shell != "/bin/bash":
                raise NeedsRootError("an account of its own (shell, rc, mounts) needs root")
            if self._server == "dropbear":
                raise NeedsRootError("dropbear takes keys from the home only: needs root")
            me = pwd.getpwuid(os.geteuid())
            return Account(me.pw_name, me.pw_uid, me.pw_gid, Path(me.pw_dir), me.pw_shell)
        account = owner.account(self._login_shell, own_uid=self._own_uid)
        stack.callback(owner.give_back, account)
        return account

    def _make_nodes(self, account: Account, stack: ExitStack) -> None:
        make_key(self.key_file)
        keys_file = self._let_in(account)
        # ~ by hand: the account's home, not ours.
        private = [
            account.home if str(path) == "~" else Path(str(path).replace("~", str(account.home), 1))
            for path in self._private
        ]
        kind = Dropbear if self._server == "dropbear" else OpenSsh
        server = kind(self._sftp, self._options, private, keys_file)
        if IS_ROOT:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's empty directory, the package's own
        made = []
        digits = max(2, len(str(self._count)))
        for number in range(1, self._count + 1):
            address = f"127.0.{1 + (number - 1) // 250}.{1 + (number - 1) % 250}"
            name = f"nd{number:0{digits}}" if self._with_config else address
            node = SshdNode(name, address, self.directory / f"node{number}", server, account)
            stack.callback(node.close)
            made.append(node)
        self.nodes = tuple(made)
        self.names = tuple(node.name for node in made)

    def _let_in(self, account: Account) -> Path:
        """Write the home's files and the keys that are let in; where these stand."""
        if not IS_ROOT:
            keys_file = self.directory / "authorized_keys"
            keys_file.write_text(public_half(self.key_file) + "\n")
            return keys_file
        files = {".ssh/authorized_keys": public_half(self.key_file) + "\n"}
        for name, text in {**files, **self._rc}.items():
            path = account.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in account.home.rglob("*"):
            os.chown(path, account.uid, account.gid)
        return account.home / ".ssh/authorized_keys"

    def _start_nodes(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            while True:
                try:
                    node.wait_until_up()
                    break
                except PortTakenError:
                    node.move_to_other_port()
                    node.start()

    def _write_client_files(self) -> None:
        self.known_hosts.write_text(
            "".join(f"[{n.address}]:{n.port} {n.host_key}\n" for n in self.nodes)
        )
        reached_by = [
            f"IdentityFile {self.key_file}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
        ]
        if self._with_config:
            blocks = [
                (n.name, [f"HostName {n.address}", f"Port {n.port}", f"User {self.user}"])
                for n in self.nodes
            ]
            lines = list(self.names)
        else:
            blocks = [("*", [])]
            lines = [f"{self.user}@{n.address}:{n.port}" for n in self.nodes]
        self.ssh_config.write_text(
            "\n".join("\n    ".join([f"Host {n}", *own, *reached_by]) for n, own in blocks) + "\n"
        )
        self.node_file.write_text("\n".join(lines) + "\n")


def _spawn(command: list[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    """Start a program of the session: out of reach of the terminal's Ctrl-C, and recorded."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={"PATH": os.environ["PATH"], MARK: mark},
            start_new_session=True,
        )
    session().record(process.pid)
    return process
