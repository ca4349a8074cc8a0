"""The client that is killed: begins the job or comes back to it, waits, says how it ended.

    python -m faults.client SETUP.json

Rules: all it knows is in its argument and on disk. What it says stands in its file as a whole or
not at all.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allot import Cluster, NodeProbe, NodeTaskConfig, Task
from faults import sabotage
from faults.plan import Plan
from faults.tasks import script

JOB_NAME = "job"


@dataclass(frozen=True)
class Setup:
    """Where everything is; all paths are absolute.

    Attributes:
        plan: The plan, pickled.
        output_dir: The job's.
        journal: The directory of the journals.
        node_file: The nodes.
        ssh_config: How they are reached.
        result: Where the end is told.
        sabotage: What is switched off in Allot, or empty.
    """

    plan: str
    output_dir: str
    journal: str
    node_file: str
    ssh_config: str
    result: str
    sabotage: str = ""

    def save(self, path: Path) -> None:
        """Write it down for a client."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Setup:
        """Read back what was saved."""
        return cls(**json.loads(path.read_text()))


def state_file(output_dir: Path) -> Path:
    """Where the job's state lies."""
    return output_dir / ".allot" / f"{JOB_NAME}.json"


def main(setup: Setup) -> None:
    """See the job through to its end."""
    logging.basicConfig(format="%(asctime)s.%(msecs)03d %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("paramiko").setLevel(logging.WARNING)
    sabotage.apply(setup.sabotage)
    plan: Plan = pickle.loads(Path(setup.plan).read_bytes())
    with _cluster(setup, plan) as cluster:
        cluster.wait(progress=False)
        tasks = [_as_json(task) for task in cluster.tasks]
        job_id = cluster.job_id
    _write(Path(setup.result), json.dumps({"job_id": job_id, "tasks": tasks}))


def _cluster(setup: Setup, plan: Plan) -> Cluster:
    factory = _factory(plan, Path(setup.journal))
    if state_file(Path(setup.output_dir)).exists():
        return Cluster.load(Path(setup.output_dir), factory)
    return Cluster(
        JOB_NAME,
        Path(setup.output_dir),
        factory,
        node_file=Path(setup.node_file),
        ssh_config=Path(setup.ssh_config),
        ntasks=plan.ntasks,
        ntasks_per_node=plan.slots,
        oversubscribe=True,
        retries=plan.retries,
        node_max_failures=10_000,
        shared_fs=plan.shared_fs,
        poll_interval=plan.poll_interval,
        probe=NodeProbe(max_load_per_cpu=None),
        wait_for_nodes=60.0,
    )


def _factory(plan: Plan, journal: Path) -> Callable[[NodeTaskConfig], Task]:
    def factory(config: NodeTaskConfig) -> Task:
        return Task(script(plan.tasks[config.proc_id][config.attempt], journal), config=config)

    return factory


def _as_json(task: Any) -> dict[str, Any]:
    return {
        "proc_id": task.proc_id,
        "state": task.state.value,
        "node": task.node_name,
        "attempt": task.attempt,
        "exit_code": task.exit_code,
        "progress": task.progress and [task.progress.step, task.progress.total],
        "reason": task.reason,
        "output_file": task.output_file and str(task.output_file),
    }


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    main(Setup.load(Path(sys.argv[1])))
