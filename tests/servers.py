"""The SSH server programs: how each is set up and started for one node of the tests.

Sources: sshd_config(5), sshd(8), dropbear(8).
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sandbox import IS_ROOT, MARK, Account

_SFTP_SERVER = "/usr/lib/openssh/sftp-server"
_PORTS = range(20000, 32000)  # below the kernel's ephemeral ports: free again for a restart


class OpenSsh:
    """How OpenSSH's server is set up for a node."""

    program = "sshd"

    def __init__(
        self, sftp: bool | str, options: Sequence[str], private: Sequence[Path], keys_file: Path
    ) -> None:
        self._sftp = sftp
        self._options = tuple(options)
        self._keys_file = keys_file
        self.private = tuple(private)

    def make_host_key(self, directory: Path) -> str:
        """Make the node's host key; its public half, as in known_hosts."""
        make_key(directory / "host_key")
        return public_half(directory / "host_key")

    def command(self, directory: Path, address: str, port: int, mark: str) -> list[str]:
        """Write the configuration; the command line that serves it in the foreground."""
        # The first value of a keyword counts, but for SetEnv all that are wanted make one line.
        set_env = [option for option in self._options if option.lower().startswith("setenv ")]
        variables = [f"{MARK}={mark}", *(option.split(None, 1)[1] for option in set_env)]
        lines = [
            f"SetEnv {' '.join(variables)}",
            *(option for option in self._options if option not in set_env),
            f"ListenAddress {address}:{port}",
            f"HostKey {directory}/host_key",
            f"PidFile {directory}/pid",
            f"AuthorizedKeysFile {self._keys_file}",
            f"StrictModes {'yes' if IS_ROOT else 'no'}",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "AcceptEnv LANG LC_*",
        ]
        if self._sftp:
            program = "internal-sftp" if self._sftp == "internal" else _SFTP_SERVER
            lines.append(f"Subsystem sftp {program}")
        config = directory / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        return [_program("sshd"), "-D", "-e", "-f", str(config)]

    def mount_script(self, account: Account, directory: Path) -> str:
        """Bash that puts an empty file system over each private path and then stays."""
        home, backup = shlex.quote(str(account.home)), shlex.quote(str(directory / "home"))
        lines = []
        for path in self.private:
            where = shlex.quote(str(path))
            owner = f"uid={account.uid},gid={account.gid},mode=0755"
            if path == account.home:
                lines.append(f"cp -a {home} {backup}")
            lines.append(f"mount -t tmpfs -o {owner} tmpfs {where}")
            if path == account.home:
                lines.append(f"cp -a {backup}/. {home}")
        return "\n".join([*lines, f"touch {directory}/mounted", "exec sleep infinity"])


class Dropbear(OpenSsh):
    """How Debian's dropbear is set up for a node."""

    program = "dropbear"

    def make_host_key(self, directory: Path) -> str:
        key = str(directory / "host_key")
        _run([_program("dropbearkey"), "-t", "ed25519", "-f", key])
        lines = _run([_program("dropbearkey"), "-y", "-f", key]).splitlines()
        return " ".join(next(line for line in lines if line.startswith("ssh-")).split()[:2])

    def command(self, directory: Path, address: str, port: int, mark: str) -> list[str]:
        # -e hands the environment on to the sessions, and with it the mark.
        command = ["env", f"{MARK}={mark}", _program("dropbear"), "-F", "-E", "-e", "-s"]
        command += ["-r", f"{directory}/host_key", "-P", f"{directory}/pid"]
        command += ["-p", f"{address}:{port}"]
        return command + list(self._options)


def free_port(address: str) -> int:
    """A TCP port at which nobody listens now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port at {address}")


def listens(pid: int, address: str, port: int) -> bool:
    """Whether a socket listens there, read from the kernel: a connection would be logged."""
    wanted = f"{socket.inet_aton(address)[::-1].hex().upper()}:{port:04X}"
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == wanted and row.split()[3] == "0A" for row in rows)


def make_key(path: Path, passphrase: str = "") -> None:
    """Make a throw-away key pair, without a passphrase unless one is given."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "allot-test"]
    _run([*words, "-f", str(path)])


def public_half(path: Path) -> str:
    """Type and body of the public key that belongs to a private one."""
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found
