"""Files to nodes that share nothing, and results back: counts the words of three texts.

Run it from here:  python3 example/files.py example/hostfile.txt
"""

import sys
import tempfile
from pathlib import Path

from allot import Cluster

PROGRAM = """#!/bin/bash
tr -s '[:space:]' '\\n' < "$1" | sort | uniq -c | sort -rn > "$2"
"""
TEXTS = {
    "one.txt": "a rose is a rose is a rose",
    "two.txt": "the more the merrier",
    "three.txt": "all for one and one for all",
}


def main(node_file: str, output_dir: Path = Path("files-out")) -> None:
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        (project / "count.sh").write_text(PROGRAM)
        (project / "count.sh").chmod(0o755)
        for name, text in TEXTS.items():
            (project / name).write_text(text)
        with Cluster(
            job_name="files",
            output_dir=output_dir,
            command="./count.sh {text} words.{proc_id}",
            params=[{"text": name} for name in TEXTS],
            node_file=node_file,
            # The program goes to every node used, each text only to the node of its task.
            stage_in=[project / "count.sh", f"{project}/{{text}}"],
            collect=["words.{proc_id}"],
        ) as cluster:
            summary = cluster.wait()
            summary.raise_for_failures()
    for task in summary.tasks:
        counts = output_dir / str(task.proc_id) / f"words.{task.proc_id}"
        print(f"{task.params['text']}: {counts.read_text().splitlines()[0].strip()}")


if __name__ == "__main__":
    main(sys.argv[1])
