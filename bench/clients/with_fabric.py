"""Fabric, as one would use it: a connection a node, a thread a slot, attached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from fabric import Config, Connection

from bench.figures import Figures
from bench.rig import Site


def trivial(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:  # noqa: ARG001
    """Run ``true`` that often, ``slots`` at once on a node; no output files."""
    began = time.perf_counter()
    queue, lock = iter(range(tasks)), Lock()
    config = Config(lazy=True)
    keys = {"key_filename": str(site.key_file), "allow_agent": False, "look_for_keys": False}
    nodes = [
        Connection(host, site.user, port, config=config, connect_kwargs=keys)
        for host, port in site.addresses
    ]
    with ThreadPoolExecutor(len(nodes) * slots) as pool:
        list(pool.map(Connection.open, nodes))
        for work in [pool.submit(_slot, node, queue, lock) for node in nodes for _ in range(slots)]:
            work.result()
    took = time.perf_counter() - began
    for node in nodes:
        node.close()
    return {"tasks": tasks, "took_s": took, "rate": tasks / took}


def _slot(node: Connection, queue: Iterator[int], lock: Lock) -> None:
    while True:
        with lock:
            if next(queue, None) is None:
                return
        node.run("true", hide=True, in_stream=False)
