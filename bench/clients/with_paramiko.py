"""paramiko alone: a connection and a command a node, which is the least that Allot can take."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko

from bench.figures import Figures
from bench.rig import Site

_AT_ONCE = 32
_TIMEOUT_S = 600.0


def one_each(site: Site, scratch: Path) -> Figures:  # noqa: ARG001
    """Connect to every node and run one command there."""
    key = paramiko.Ed25519Key.from_private_key_file(str(site.key_file))
    hosts = paramiko.HostKeys(str(site.known_hosts))

    def run(address: tuple[str, int]) -> None:
        host, port = address
        with paramiko.SSHClient() as client:
            client.get_host_keys().update(hosts)
            client.connect(
                host,
                port,
                site.user,
                pkey=key,
                allow_agent=False,
                look_for_keys=False,
                timeout=_TIMEOUT_S,
                banner_timeout=_TIMEOUT_S,
            )
            _, stdout, _ = client.exec_command("true", timeout=_TIMEOUT_S)
            if stdout.channel.recv_exit_status():
                raise RuntimeError(f"{host} did not run true")

    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(run, site.addresses))
    took = time.perf_counter() - began
    return {"nodes": len(site.names), "took_s": took}
