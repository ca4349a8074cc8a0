"""A queue of many tasks on few GPUs: each task gets one for itself, the rest waits its turn.

Run it from here:  python3 example/gpu_queue.py example/hostfile.txt
Come back to it:   allot attach queue-out
"""

import sys
from pathlib import Path

from allot import Cluster, grid

# Stands for a training program; on a node without GPUs the variable is empty.
COMMAND = r"""
echo rate {rate} seed {seed} on GPU "${CUDA_VISIBLE_DEVICES:-none}" of {node_name}
for step in {1..20}; do printf '\002%d/20\003' "$step"; sleep 0.2; done
"""


def main(node_file: str, gpus: int = 1, output_dir: Path = Path("queue-out")) -> None:
    with Cluster(
        job_name="queue",
        output_dir=output_dir,
        command=COMMAND,
        params=grid(rate=[0.1, 0.01], seed=range(6)),
        node_file=node_file,
        gpus_per_task=gpus,
        retries=1,
        time_limit="2h",
    ) as cluster:
        cluster.wait().raise_for_failures()
        for task in cluster.tasks:
            print(cluster.output(task.proc_id).splitlines()[0])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
