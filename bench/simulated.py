"""A thousand nodes in one process: an asyncssh server that answers as they would.

Each command runs in a real Bash on this machine, and files are served over SFTP.
``python -m bench.simulated HOME HOST_KEY AUTHORIZED_KEYS`` prints the port and serves until its
stdin ends.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import asyncssh
from sandbox import MARK, session
from servers import make_key, public_half

from bench.rig import Site, directories

_HOST = "127.0.0.1"
_USER = "simulated"


@contextmanager
def simulated_site(count: int) -> Iterator[Site]:
    """Bring up nodes that are one process, and have one home."""
    with directories() as (directory, disk):
        home, host_key, key = directory / "home", directory / "host_key", directory / "key"
        home.mkdir()
        make_key(host_key)
        make_key(key)
        with subprocess.Popen(
            [
                sys.executable,
                "-Wignore",
                "-m",
                "bench.simulated",
                home,
                host_key,
                key.with_suffix(".pub"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: session().new_mark()},
        ) as process:
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline())
                yield _describe(directory, disk, port, count)
            finally:
                process.kill()


def _describe(directory: Path, disk: Path, port: int, count: int) -> Site:
    names = tuple(f"sim{number:04}" for number in range(1, count + 1))
    site = Site(
        directory,
        disk,
        names,
        ((_HOST, port),) * count,
        (),
        _USER,
        directory / "key",
        directory / "known_hosts",
        directory / "ssh_config",
        directory / "hostfile",
    )
    site.known_hosts.write_text(f"[{_HOST}]:{port} {public_half(directory / 'host_key')}\n")
    site.node_file.write_text("\n".join(names) + "\n")
    site.ssh_config.write_text(
        f"Host sim*\n    HostName {_HOST}\n    Port {port}\n    User {_USER}\n"
        f"    IdentityFile {site.key_file}\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {site.known_hosts}\n"
        "    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n"
    )
    return site


async def _serve(home: str, host_key: str, authorized_keys: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.chdir(home)
    server = await asyncssh.listen(
        _HOST,
        0,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        process_factory=partial(_run_command, home),
        sftp_factory=True,
        encoding=None,
        backlog=2000,
        login_timeout=600,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _run_command(home: str, session: asyncssh.SSHServerProcess[bytes]) -> None:
    bash = await asyncio.create_subprocess_exec(
        *("bash", "-c", session.command or ""),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": home, "USER": _USER, MARK: os.environ[MARK]},
        start_new_session=True,
    )
    await session.redirect(stdin=bash.stdin, stdout=bash.stdout, stderr=bash.stderr)
    session.exit(await bash.wait())


if __name__ == "__main__":
    if sys.version_info < (3, 12):  # the older default takes a thread for each process
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    asyncio.run(_serve(*sys.argv[1:]))
