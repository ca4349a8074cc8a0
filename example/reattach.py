"""Begin a job, leave it, and come back: its tasks go on meanwhile, and the bars are at their step.

Run it from here:  python3 example/reattach.py example/hostfile.txt
"""

import sys
import time
from pathlib import Path

from allot import Cluster

COMMAND = r"for i in {1..30}; do printf '\002%d/30\003' $i; sleep 0.1; done; echo done {proc_id}"


def main(node_file: str, output_dir: Path = Path("reattach-out")) -> None:
    cluster = Cluster(
        job_name="reattach", output_dir=output_dir, command=COMMAND, ntasks=4, node_file=node_file
    )
    time.sleep(1)
    cluster.close()  # as a laptop that is closed would

    with Cluster.load(output_dir) as again:
        again.wait().raise_for_failures()
        for task in again.tasks:
            print(again.output(task.proc_id, tail=1).split("\x03")[-1], end="")


if __name__ == "__main__":
    main(sys.argv[1])
