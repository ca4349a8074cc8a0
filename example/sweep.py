"""A parameter sweep: 12 combinations on whatever slots there are, the rest waits its turn.

Run it from here:  python3 example/sweep.py example/hostfile.txt
"""

import sys
from itertools import product
from pathlib import Path

from allot import Cluster, NodeTaskConfig, Task

RATES = [0.1, 0.03, 0.01]
SEEDS = range(4)
COMBINATIONS = list(product(RATES, SEEDS))

# Stands for a training program: prints its progress the way Allot reads it.
PROGRAM = r"""
for step in {1..30}; do
    printf '\002%d/30\003' "$step"
    sleep 0.2
done
echo "rate $RATE seed $SEED: loss 0.$RANDOM"
"""


def task_factory(ntc: NodeTaskConfig) -> Task:
    rate, seed = COMBINATIONS[ntc.proc_id]
    return Task(
        PROGRAM,
        output_file=ntc.output_dir / f"rate{rate}-seed{seed}.out",
        config=ntc,
        env={"RATE": str(rate), "SEED": str(seed)},
    )


def main(node_file: str, output_dir: Path = Path("sweep-out")) -> None:
    with Cluster(
        job_name="sweep",
        output_dir=output_dir,
        task_factory=task_factory,
        ntasks=len(COMBINATIONS),
        node_file=node_file,
    ) as cluster:
        cluster.wait().raise_for_failures()
        for proc_id in range(len(COMBINATIONS)):
            print(cluster.output(proc_id, tail=1), end="")


if __name__ == "__main__":
    main(sys.argv[1])
