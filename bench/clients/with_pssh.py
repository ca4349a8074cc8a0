"""parallel-ssh, by its native client: a connection a slot, attached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from gevent import joinall, spawn
from pssh.clients import SSHClient

from bench.figures import Figures
from bench.rig import Site


def trivial(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:  # noqa: ARG001
    """Run ``true`` that often, ``slots`` at once on a node; no output files."""
    began = time.perf_counter()
    queue = iter(range(tasks))
    joinall(
        [
            spawn(_slot, site, host, port, queue)
            for host, port in site.addresses
            for _ in range(slots)
        ],
        raise_error=True,
    )
    took = time.perf_counter() - began
    return {"tasks": tasks, "took_s": took, "rate": tasks / took}


def _slot(site: Site, host: str, port: int, queue: Iterator[int]) -> None:
    with SSHClient(
        host, port=port, user=site.user, pkey=str(site.key_file), allow_agent=False
    ) as client:
        for _ in queue:
            output = client.run_command("true")
            client.wait_finished(output)
            if output.exit_code:
                raise RuntimeError(f"true ended with {output.exit_code}")
