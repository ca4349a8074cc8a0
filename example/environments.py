"""Tasks that need an environment: modules, conda, a virtual environment.

``setup`` lines run in each task's Bash before it, in order; one that fails fails the task with
"setup failed". ``login_shell`` reads the profile first, which is what makes ``module`` and
``conda`` known on most clusters.

Run it from here:  python3 example/environments.py example/hostfile.txt
"""

import sys
from pathlib import Path

from allot import Cluster

# On a machine of your own you would simply write: module load gcc; conda activate torch
SETUP = [
    "if type module &>/dev/null; then module load gcc || true; fi",
    'if type conda &>/dev/null; then eval "$(conda shell.bash hook)"; conda activate base; fi',
    "export GREETING=hello",
]


def main(node_file: str, output_dir: Path = Path("setup-out")) -> None:
    with Cluster(
        job_name="setup",
        output_dir=output_dir,
        command='echo "$GREETING from $(type -P python3)"',
        node_file=node_file,
        setup=SETUP,
        login_shell=True,
    ) as cluster:
        cluster.wait().raise_for_failures()
        print(cluster.output(0), end="")


if __name__ == "__main__":
    main(sys.argv[1])
