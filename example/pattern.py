"""Bars for programs that know nothing of Allot: one that uses tqdm, one that prints epochs.

Run it from here:  python3 example/pattern.py example/hostfile.txt
"""

import sys
from pathlib import Path

from allot import Cluster

EPOCHS = 'for epoch in {1..10}; do echo "epoch $epoch/10: loss 0.$RANDOM"; sleep 0.2; done'
# As tqdm draws it, on stderr, each time over the line before.
TQDM = r"""
for i in {1..10}; do
    printf '\r%3d%%|#####     | %d/10 [00:01<00:01,  5.00it/s]' $((10 * i)) $i >&2
    sleep 0.2
done
"""


def main(node_file: str, output_dir: Path = Path("pattern-out")) -> None:
    for name, command, pattern in (
        ("epochs", EPOCHS, r"epoch (?P<step>\d+)/(?P<total>\d+)"),
        ("tqdm", TQDM, "tqdm"),
    ):
        with Cluster(
            job_name=name,
            output_dir=output_dir / name,
            command=command,
            node_file=node_file,
            progress_pattern=pattern,
        ) as cluster:
            cluster.wait().raise_for_failures()
            print(name, cluster.tasks[0].progress)


if __name__ == "__main__":
    main(sys.argv[1])
