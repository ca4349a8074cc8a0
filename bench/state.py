"""What it costs to write down a job's state: the same job with it, and without.

    .cache/venv/bin/python bench/state.py [TASKS [ROUNDS]]

Ten thousand trivial tasks over 8 nodes x 4 slots on real sshd nodes, over SFTP. In every second
run nothing is written. The share is what keeping the state took of the run's time, as CPU time of
the monitor's thread: to gather what changed counts, to wait for the disk does not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from sshd import SshdNodes

from allot import Cluster, NodeProbe
from allot.monitor import Monitor
from allot.store import Store

NODES, SLOTS = 8, 4


def run(nodes: SshdNodes, output_dir: Path, tasks: int) -> tuple[float, float]:
    """Tasks per second from nothing to the last end, and the share that keeping the state took."""
    kept, keep = 0.0, Monitor._keep

    def measured(monitor: Monitor, *, all_of: bool = False, durable: bool = False) -> None:
        nonlocal kept
        began = time.thread_time()
        try:
            keep(monitor, all_of=all_of, durable=durable)
        finally:
            kept += time.thread_time() - began

    began = time.perf_counter()
    with (
        mock.patch.object(Monitor, "_keep", measured),
        Cluster(
            "state",
            output_dir,
            lambda _: "true",
            node_file=nodes.node_file,
            ssh_config=nodes.ssh_config,
            shared_fs=False,
            ntasks=tasks,
            ntasks_per_node=SLOTS,
            oversubscribe=True,
            probe=NodeProbe(max_load_per_cpu=None),
        ) as cluster,
    ):
        summary = cluster.wait(1800, progress=False)
        took = time.perf_counter() - began
    summary.raise_for_failures()
    return tasks / took, kept / took


def main(tasks: int = 10_000, rounds: int = 3) -> None:
    """Measure and print."""
    rates, shares, bare_rates = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "nodes").mkdir()
        with SshdNodes(NODES, base / "nodes") as nodes:
            for number in range(rounds):
                rate, share = run(nodes, base / f"with{number}", tasks)
                with mock.patch.object(Store, "commit", _write_nothing):
                    bare_rate, _ = run(nodes, base / f"without{number}", tasks)
                print(_line(rate, share, bare_rate), flush=True)
                rates.append(rate)
                shares.append(share)
                bare_rates.append(bare_rate)
    print("medians:", _line(median(rates), median(shares), median(bare_rates)))
    print(f"the rate is {median(rates) / median(bare_rates):.3f} of that without")


def _write_nothing(*_: object, **__: object) -> None:
    """Stand in for ``Store.commit``."""


def _line(rate: float, share: float, bare_rate: float) -> str:
    return f"{rate:.0f} tasks/s, {share:.1%} for the state; without it {bare_rate:.0f} tasks/s"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
