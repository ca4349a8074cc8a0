"""HyperQueue, by its Python package, which has server and workers in it: no SSH takes part.

Its workers are started before the time is taken, as if they had been installed on the nodes.
It looks for the end of a job once a second; what counts is when its last task began to write.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

from bench.figures import Figures
from bench.rig import Site


def trivial(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:
    """Run ``true`` in a Bash that often, a worker a node, each with its output files."""
    os.environ["TMPDIR"] = str(scratch)  # its workers leave their directories behind
    with LocalCluster(str(scratch / "server")) as cluster:
        for _ in site.names:
            cluster.start_worker(WorkerConfig(cores=slots))
        client = cluster.client()
        began = time.time()
        job = Job(default_workdir=scratch)
        for _ in range(tasks):
            job.program(["/bin/bash", "-c", "true"])
        client.wait_for_jobs([client.submit(job)])
    took = max(file.stat().st_mtime for file in scratch.rglob("*.stdout")) - began
    return {"tasks": tasks, "took_s": took, "rate": tasks / took}
