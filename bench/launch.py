"""How long a job takes to start and to run its first hundred tasks, and what the client weighs.

Real sshd nodes on loopback addresses, the client and the nodes on the same cores; medians of
several rounds. Run it as root from the repository, with the tests' environment:

    .cache/venv/bin/python bench/launch.py [ROUNDS]
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from sshd import SshdNodes

from allot import Cluster, NodeProbe


def start(nodes: SshdNodes, output_dir: Path) -> float:
    """Seconds from nothing to every node connected, probed and its task launched."""
    began = time.perf_counter()
    cluster = _cluster(nodes, output_dir, ntasks_per_node=1)
    took = time.perf_counter() - began
    cluster.wait(60, progress=False)
    cluster.close()
    return took


def hundred(nodes: SshdNodes, output_dir: Path, *, shared_fs: bool | None) -> float:
    """Seconds from nothing to a hundred tasks launched and finished."""
    began = time.perf_counter()
    with _cluster(nodes, output_dir, ntasks=100, ntasks_per_node=4, shared_fs=shared_fs) as cluster:
        cluster.wait(60, progress=False).raise_for_failures()
        return time.perf_counter() - began


def _cluster(nodes: SshdNodes, output_dir: Path, **options: int | bool | None) -> Cluster:
    return Cluster(
        "bench",
        output_dir,
        lambda _: "true",
        node_file=nodes.node_file,
        ssh_config=nodes.ssh_config,
        oversubscribe=True,
        probe=NodeProbe(max_load_per_cpu=None),
        **options,  # type: ignore[arg-type] # mypy cannot tell which goes where
    )


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        for name in ("five", "eight"):
            (base / name).mkdir()
        with SshdNodes(5, base / "five") as five, SshdNodes(8, base / "eight") as eight:
            figures = {
                "5 nodes connected, probed and launched": lambda: start(five, base / "a"),
                "100 tasks over 8 nodes, shared files": lambda: hundred(
                    eight, base / "b", shared_fs=None
                ),
                "100 tasks over 8 nodes, over SFTP": lambda: hundred(
                    eight, base / "c", shared_fs=False
                ),
            }
            taken = {name: [measure() for _ in range(rounds)] for name, measure in figures.items()}
    for name, times in taken.items():
        print(f"{name}: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"client, at its largest: {peak:.0f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
