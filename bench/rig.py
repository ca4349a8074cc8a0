"""The nodes of every row: real ``sshd`` processes on loopback addresses, and what is run on them.

Rules: as root, the nodes are logged in to under an account of their own with an empty home and
/bin/bash as login shell, so that nobody's rc files count; the limits on logins and sessions that
sshd has are raised for everyone. Each measurement has an empty directory of its own. What lies on
the nodes lies in memory (``bench/run`` sees to that), what the client keeps of a job on a disk.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox import wait_until
from sshd import SshdNodes

from bench import child
from bench.figures import Figures

_OPTIONS = ("MaxStartups 2000", "MaxSessions 500", "LoginGraceTime 600", "LogLevel ERROR")
_COMMAND_TIMEOUT_S = 1800.0
_SESSIONS_END_S = 60.0
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Site:
    """Nodes, as a client reaches them.

    Attributes:
        directory: Where measurements have their own directories, on the nodes' file system.
        disk: The same for what the client keeps.
        names: The nodes, as ``ssh_config`` and ``node_file`` have them.
        addresses: Address and port of each.
        servers: Process numbers of their servers, empty where these are not told apart.
        user: Login name.
        key_file: The private key that is let in.
        known_hosts: Their host keys.
        ssh_config: An OpenSSH client configuration by which they are reached.
        node_file: A host file that names them.
    """

    directory: Path
    disk: Path
    names: tuple[str, ...]
    addresses: tuple[tuple[str, int], ...]
    servers: tuple[int, ...]
    user: str
    key_file: Path
    known_hosts: Path
    ssh_config: Path
    node_file: Path

    def first(self, count: int) -> Site:
        """The first nodes of these."""
        node_file = self.node_file.with_name(f"hostfile-{count}")
        node_file.write_text("\n".join(self.names[:count]) + "\n")
        return replace(
            self,
            names=self.names[:count],
            addresses=self.addresses[:count],
            servers=self.servers[:count],
            node_file=node_file,
        )

    def at(self, addresses: Sequence[tuple[str, int]], name: str) -> Site:
        """The same nodes, reached at other addresses; ``name`` is that of the way."""
        config = self.ssh_config.read_text()
        keys = self.known_hosts.read_text()
        for (host, port), (new_host, new_port) in zip(self.addresses, addresses, strict=True):
            config = config.replace(f"HostName {host}\n", f"HostName {new_host}\n")
            config = config.replace(f"Port {port}\n", f"Port {new_port}\n")
            keys = keys.replace(f"[{host}]:{port} ", f"[{new_host}]:{new_port} ")
        known_hosts = self.directory / f"known_hosts-{name}"
        known_hosts.write_text(keys)
        ssh_config = self.directory / f"ssh_config-{name}"
        ssh_config.write_text(config.replace(str(self.known_hosts), str(known_hosts)))
        return replace(
            self, addresses=tuple(addresses), known_hosts=known_hosts, ssh_config=ssh_config
        )


@contextmanager
def sshd_site(
    count: int, *, rc: Mapping[str, str] | None = None, private: str | None = None
) -> Iterator[Site]:
    """Bring up nodes.

    Args:
        count: How many.
        rc: Files of the login's home by name.
        private: A directory below the site's in which each node has files of its own.
    """
    with directories() as (directory, disk):
        (directory / "nodes").mkdir()
        own = [directory / private] if private else []
        for path in own:
            path.mkdir()
        with SshdNodes(count, directory / "nodes", rc=rc, private=own, options=_OPTIONS) as nodes:
            yield Site(
                directory,
                disk,
                nodes.names,
                tuple((node.address, node.port) for node in nodes.nodes),
                tuple(node.pid for node in nodes.nodes),
                nodes.user,
                nodes.key_file,
                nodes.known_hosts,
                nodes.ssh_config,
                nodes.node_file,
            )


@contextmanager
def directories() -> Iterator[tuple[Path, Path]]:
    """A directory on the nodes' file system, and one on a disk."""
    with (
        tempfile.TemporaryDirectory(prefix="allot-bench-") as name,
        tempfile.TemporaryDirectory(prefix="allot-bench-", dir=os.environ["BENCH_DISK"]) as disk,
    ):
        Path(name).chmod(0o755)
        yield Path(name), Path(disk)


def client(
    function: Callable[..., Figures], site: Site, *, within: str = ".", **options: Any
) -> Callable[[], Figures]:
    """A measurement by a client of its own, ``function`` of ``bench.clients``.

    Args:
        function: Takes the site, an empty directory, and the options.
        site: The nodes.
        within: Where below the site's directory the empty one is made.
        options: For the function.
    """

    def measure() -> Figures:
        with (
            tempfile.TemporaryDirectory(prefix="run-", dir=site.directory / within) as scratch,
            tempfile.TemporaryDirectory(prefix="run-", dir=site.disk) as disk,
        ):
            own = replace(site, disk=Path(disk))
            return with_nodes_cpu(site, lambda: child.run(function, own, Path(scratch), **options))

    return measure


def command(
    site: Site, argv: Sequence[str], tasks: int, *, after: Sequence[Sequence[str]] = ()
) -> Callable[[], Figures]:
    """A measurement of a command that runs ``tasks`` tasks; what comes after is not counted."""

    def measure() -> Figures:
        with tempfile.TemporaryDirectory(prefix="run-", dir=site.directory) as scratch:
            return with_nodes_cpu(site, lambda: _timed(argv, tasks, scratch, after))

    return measure


def _timed(
    argv: Sequence[str], tasks: int, directory: str, after: Sequence[Sequence[str]]
) -> Figures:
    began = time.perf_counter()
    done = subprocess.run(
        argv,
        cwd=directory,
        env={**os.environ, "HOME": directory},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    took = time.perf_counter() - began
    for each in after:
        subprocess.run(each, cwd=directory, check=False, capture_output=True, timeout=60)
    if done.returncode:
        raise child.MeasurementError(f"{argv[0]}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return {"tasks": tasks, "took_s": took, "rate": tasks / took}


def with_nodes_cpu(site: Site, measure: Callable[[], Figures]) -> Figures:
    """Measure, and count the CPU time of all that ended on the nodes meanwhile.

    What a session leaves behind when its client has gone, and is no child of the server's any
    more, becomes ours (prctl(2), ``PR_SET_CHILD_SUBREAPER``) and is counted with its children.
    """
    if not site.servers:
        return measure()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, before = _children(os.getpid()), _sessions_cpu_s(site)
    figures = measure()
    own_before = _reaped_cpu_s()
    wait_until(
        lambda: _reap() <= ours and not any(map(_children, site.servers)),
        _SESSIONS_END_S,
        "sessions stay on the nodes",
    )
    orphans = _reaped_cpu_s() - own_before
    return {**figures, "nodes_cpu_s": _sessions_cpu_s(site) - before + orphans}


def _children(pid: int) -> set[int]:
    return {
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    }


def _reap() -> set[int]:
    """Take in what ended of our children, none of which is waited for elsewhere; those left."""
    while any(os.waitpid(-1, os.WNOHANG)):
        pass
    return _children(os.getpid())


def _reaped_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sessions_cpu_s(site: Site) -> float:
    """CPU time of the servers, of the sessions that ended, and of all these waited for."""
    ticks = 0
    for pid in site.servers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S
