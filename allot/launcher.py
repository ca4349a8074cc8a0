"""From a place to a launch: asks the user's factory for the task and makes it ready to send."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from allot import paths, script
from allot.errors import TaskConfigError
from allot.lifecycle import Placement
from allot.model import NodeTaskConfig, Params, Task
from allot.script import Launch

TaskFactory: TypeAlias = Callable[[NodeTaskConfig], Task | str | Sequence[str]]


@dataclass(frozen=True)
class Job:
    """What all tasks of a job have in common."""

    job_name: str
    job_id: str
    output_dir: Path
    nnodes: int
    ntasks: int
    cpus_per_task: int


@dataclass(frozen=True)
class Place:
    """A node as its tasks see it: its name, its number, its slots."""

    node_name: str
    node_id: int
    slots: int


class Launcher:
    """Makes each task for its place; called by one thread at a time."""

    def __init__(self, job: Job, task_factory: TaskFactory) -> None:
        self._job = job
        self._task_factory = task_factory
        self._owners: dict[Path, int] = {}
        self._folders: set[Path] = set()

    def prepare(self, placement: Placement, place: Place, params: Params, attempt: int) -> Launch:
        """Make a task for its place.

        Raises:
            TaskConfigError: What the factory returned cannot be launched.
            Exception: Whatever the factory raised.
        """
        config = self._config(placement, place, params, attempt)
        task = _as_task(self._task_factory(config), config)
        output_file = _absolute(task.output_file) or paths.default_output(
            self._job.output_dir, config.proc_id
        )
        launch = Launch(
            proc_id=config.proc_id,
            attempt=attempt,
            local_id=config.local_id,
            output_file=output_file,
            error_file=_absolute(task.error_file),
            cwd=task.cwd,
            env={**script.param_variables(params), **task.env},
            script=script.task_script(task.cmds),
        )
        script.launch_script([launch])
        self._own_files(launch)
        return launch

    def variables(self, place: Place) -> Mapping[str, str]:
        """What every task of a node has in its environment."""
        return script.job_variables(self._config(Placement(0, place.node_id, 0), place, None, 0))

    def _config(
        self, placement: Placement, place: Place, params: Params, attempt: int
    ) -> NodeTaskConfig:
        return NodeTaskConfig(
            job_name=self._job.job_name,
            job_id=self._job.job_id,
            output_dir=self._job.output_dir,
            node_name=place.node_name,
            node_id=place.node_id,
            proc_id=placement.proc_id,
            local_id=placement.local_id,
            nnodes=self._job.nnodes,
            ntasks=self._job.ntasks,
            ntasks_per_node=place.slots,
            cpus_per_task=self._job.cpus_per_task,
            attempt=attempt,
            params=params,
        )

    def _own_files(self, launch: Launch) -> None:
        files = [file for file in (launch.output_file, launch.error_file) if file is not None]
        for file in files:
            owner = self._owners.setdefault(file, launch.proc_id)
            if owner != launch.proc_id or len(files) != len(set(files)):
                raise TaskConfigError(
                    f"tasks {owner} and {launch.proc_id} would both write to {file}: "
                    "put proc_id into the name"
                )
        for folder in {file.parent for file in files} - self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TaskConfigError(
                    f"task {launch.proc_id}: {folder} cannot be made: {error.strerror}"
                ) from error
            self._folders.add(folder)


def _as_task(made: object, config: NodeTaskConfig) -> Task:
    if isinstance(made, Task):
        return made
    if isinstance(made, str) or (isinstance(made, Sequence) and made):
        return Task(made, config=config)
    raise TaskConfigError(
        f"task_factory must return a Task, a string or a list of strings, "
        f"not {made!r} (task {config.proc_id})"
    )


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else Path(os.path.abspath(file.expanduser()))
