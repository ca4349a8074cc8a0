"""How busy a queue of short tasks keeps its slots, from the tasks' own time stamps.

    .cache/venv/bin/python bench/idle.py [TASKS]

A thousand tasks of 0.2 s over 8 nodes x 2 slots on real sshd nodes; the idle share is the part of
each slot's time, from its first start to its last end, in which no task ran there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from sshd import SshdNodes

from allot import Cluster, NodeProbe

NODES, SLOTS = 8, 2


def main(tasks: int = 1000) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "nodes").mkdir()
        with (
            SshdNodes(NODES, base / "nodes") as nodes,
            Cluster(
                "idle",
                base / "out",
                lambda _: "echo $EPOCHREALTIME; sleep 0.2; echo $EPOCHREALTIME",
                node_file=nodes.node_file,
                ssh_config=nodes.ssh_config,
                ntasks=tasks,
                ntasks_per_node=SLOTS,
                oversubscribe=True,
                probe=NodeProbe(max_load_per_cpu=None),
            ) as cluster,
        ):
            summary = cluster.wait(600, progress=False)
        summary.raise_for_failures()
        slots: dict[tuple[int | None, int | None], list[tuple[float, float]]] = {}
        for task in summary.tasks:
            start, end = map(float, (base / f"out/{task.proc_id}.out").read_text().split())
            slots.setdefault((task.node_id, task.local_id), []).append((start, end))
    span = sum(max(end for _, end in times) - min(times)[0] for times in slots.values())
    busy = sum(end - start for times in slots.values() for start, end in times)
    took, idle = summary.elapsed, 1 - busy / span
    print(f"{tasks} tasks on {len(slots)} slots in {took:.1f} s: {idle:.1%} idle")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
