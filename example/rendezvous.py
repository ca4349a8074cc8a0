"""One torch process group over all nodes; where torch is missing it prints the variables.

Run it from here:  python3 example/rendezvous.py example/hostfile.txt
"""

import sys
from pathlib import Path

from allot import Cluster, NodeTaskConfig

PROGRAM = """
import os
names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
print(*(f"{name}={os.environ[name]}" for name in names))
try:
    import torch
except ImportError:
    print("torch is not installed here")
else:
    torch.distributed.init_process_group("gloo")
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    print(f"{int(total)} processes have met")
    torch.distributed.destroy_process_group()
"""


def task_factory(_: NodeTaskConfig) -> str:
    return f"python3 - <<'END'\n{PROGRAM}END\n"


def main(node_file: str, output_dir: Path = Path("rendezvous-out")) -> None:
    with Cluster(
        job_name="rendezvous",
        output_dir=output_dir,
        task_factory=task_factory,
        node_file=node_file,
        ntasks_per_node=1,
        export="torch",
    ) as cluster:
        cluster.wait().raise_for_failures()
        for task in cluster.tasks:
            print(task.node_name, cluster.output(task.proc_id), end="")


if __name__ == "__main__":
    main(sys.argv[1])
