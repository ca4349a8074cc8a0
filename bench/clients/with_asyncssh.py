"""asyncssh, as one would use it: a connection a node, a session a task, attached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh

from bench.figures import Figures
from bench.rig import Site


def trivial(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:  # noqa: ARG001
    """Run ``true`` that often, ``slots`` at once on a node; no output files."""
    began = time.perf_counter()
    asyncio.run(_run(site, iter(range(tasks)), slots))
    took = time.perf_counter() - began
    return {"tasks": tasks, "took_s": took, "rate": tasks / took}


def one_each(site: Site, scratch: Path) -> Figures:
    """Connect to every node and run one command there."""
    return {**trivial(site, scratch, tasks=len(site.names), slots=1), "nodes": len(site.names)}


async def _run(site: Site, queue: Iterator[int], slots: int) -> None:
    connections = await asyncio.gather(
        *(
            asyncssh.connect(
                host,
                port,
                username=site.user,
                client_keys=[str(site.key_file)],
                known_hosts=str(site.known_hosts),
                config=None,
                agent_path=None,
                login_timeout=600,
            )
            for host, port in site.addresses
        )
    )
    await asyncio.gather(*(_slot(each, queue) for each in connections for _ in range(slots)))
    for each in connections:
        each.close()
    await asyncio.gather(*(each.wait_closed() for each in connections))


async def _slot(connection: asyncssh.SSHClientConnection, queue: Iterator[int]) -> None:
    for _ in queue:
        await connection.run("true", check=True)
