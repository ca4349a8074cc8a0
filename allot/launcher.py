"""From a place to a launch: asks the user's factory for the task and makes it ready to send."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from allot import environment, paths, script
from allot.environment import Group
from allot.errors import ConfigError, TaskConfigError
from allot.lifecycle import Placement
from allot.model import NodeTaskConfig, Params, Task
from allot.script import Launch
from allot.settings import Settings
from allot.staging import Source, patterns_of, sources_of
from allot.template import as_factory, place_of

_log = logging.getLogger(__name__)

TaskFactory: TypeAlias = Callable[[NodeTaskConfig], Task | str | Sequence[str]]


@dataclass(frozen=True)
class Job:
    """What all tasks of a job have in common.

    Attributes:
        job_id: Identifier of this run of the job.
        nnodes: Number of nodes used.
        ntasks: Number of tasks.
        settings: What the user asked for.
        variables: The user's variables, those passed on included.
    """

    job_id: str
    nnodes: int
    ntasks: int
    settings: Settings
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """A node as its tasks see it.

    Attributes:
        node_name: Its name.
        node_id: Its number among the nodes used.
        slots: How many tasks it holds at once while nobody else uses it.
        gpu_vendor: Whose GPUs it has, None where that is not known.
        shares_files: Whether it sees the client's output directory as it is.
    """

    node_name: str
    node_id: int
    slots: int
    gpu_vendor: str | None = None
    shares_files: bool = False


def choose_factory(
    task_factory: TaskFactory | None, command: str | None, params: Sequence[Params] | None
) -> TaskFactory:
    """Who makes the tasks of a job.

    Raises:
        ConfigError: Neither or both were given, or what was given makes no task.
    """
    if (task_factory is None) == (command is None):
        raise ConfigError("give either a task_factory or a command, which says what tasks do")
    if task_factory is None:
        return as_factory(command, params)
    if not callable(task_factory):
        raise ConfigError(f"task_factory must be a function, not {task_factory!r}")
    return task_factory


class Launcher:
    """Makes each task for its place; called by one thread at a time."""

    def __init__(
        self,
        job: Job,
        task_factory: TaskFactory | None,
        node_names: Sequence[str],
        group: Group | None,
    ) -> None:
        """Take over a job.

        Args:
            job: What its tasks have in common.
            task_factory: Makes them; None: nobody can.
            node_names: The nodes used, by ``node_id``.
            group: Set where the tasks are one torch process group.
        """
        self._job = job
        self._task_factory = task_factory
        self._node_names = node_names
        self._group = group
        self._owners: dict[Path, int] = {}
        self._folders: set[Path] = set()

    @property
    def makes_tasks(self) -> bool:
        """Whether there is anyone to make tasks."""
        return self._task_factory is not None

    def use(self, task_factory: TaskFactory) -> None:
        """Have the tasks made by another one from now on."""
        self._task_factory = task_factory

    def remember(self, proc_id: int, files: Iterable[Path | None]) -> None:
        """Note what files a task had that was made by an earlier client."""
        for file in files:
            if file is not None and not _is_special(file):
                self._owners[file] = proc_id

    def prelude(self, place: Place, generation: int) -> str:
        """The Bash that prepares a node for tasks, for the client of that generation."""
        settings = self._job.settings
        config = self._config(Placement(0, place.node_id, 0), place, None, 0)
        variables = {**environment.job_variables(config), **self._job.variables}
        cpus = settings.cpus_per_task
        return script.prelude(
            paths.node_directory(self._job.job_id, place.node_name),
            variables,
            generation=generation,
            defaults={} if cpus is None else {"OMP_NUM_THREADS": str(cpus)},
            nice=settings.nice,
            login_shell=settings.login_shell,
            time_limit=settings.time_limit,
        )

    def prepare(self, placement: Placement, place: Place, params: Params, attempt: int) -> Launch:
        """Make a task for its place.

        Raises:
            TaskConfigError: What the factory returned cannot be launched.
            Exception: Whatever the factory raised.
        """
        if self._task_factory is None:
            raise TaskConfigError(f"task {placement.proc_id} waits, but there is no task_factory")
        config = self._config(placement, place, params, attempt)
        task = _as_task(self._task_factory(config), config)
        settings = self._job.settings
        output_file = _absolute(task.output_file) or self._default_output(config.proc_id)
        own, wanted = place_of(config), [*settings.stage_in, *task.stage_in]
        stage_in: tuple[Source, ...] = ()
        if wanted:
            stage_in = sources_of(wanted, settings.stage_from or Path.cwd(), own, params)
        cwd = task.cwd or settings.cwd or (settings.shared_cwd if place.shares_files else None)
        if cwd is None and stage_in:
            cwd = paths.work_directory(self._job.job_id, place.node_name)
        launch = Launch(
            proc_id=config.proc_id,
            attempt=attempt,
            local_id=config.local_id,
            output_file=output_file,
            error_file=_absolute(task.error_file),
            cwd=cwd,
            env=self._task_variables(config, place) | dict(task.env),
            script=script.task_script(task.cmds, setup=settings.setup),
            stage_in=stage_in,
            collect=patterns_of([*settings.collect, *task.collect], own, params),
            collect_to=settings.collect_to
            or paths.results_directory(settings.output_dir, config.proc_id),
            may_replace=settings.collect_to is None,
        )
        # What cannot be quoted is refused here, not when it is sent.
        script.launch_script([launch], generation=0, until=0)
        self._own_files(launch)
        return launch

    def note_failure(self, proc_id: int, attempt: int, text: str) -> Path | None:
        """Write why a task could not be made where its output would be.

        Returns:
            The file, or None where it could not be written.
        """
        output = self._default_output(proc_id)
        try:
            if attempt and output.is_file():
                output.replace(paths.earlier_attempt(output, attempt - 1))
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            _log.warning("%s cannot be written: %s", output, error)
            return None
        return output

    def _default_output(self, proc_id: int) -> Path:
        return paths.default_output(self._job.settings.output_dir, proc_id)

    def _task_variables(self, config: NodeTaskConfig, place: Place) -> dict[str, str]:
        group, node_id = self._group, config.node_id
        variables = environment.param_variables(config.params)
        visible: Sequence[int] = config.gpu_ids
        if "slurm" in self._job.settings.export:
            variables |= environment.slurm_variables(config, self._node_names)
        if group is not None:
            if node_id not in group.sizes:
                raise TaskConfigError(
                    f"{config.node_name} was not among the first nodes of this torch job: "
                    "start a new job"
                )
            variables |= environment.torch_variables(config, group.rendezvous, group.sizes[node_id])
            visible = group.gpus[node_id]
        return variables | environment.gpu_variables(config.gpu_ids, visible, place.gpu_vendor)

    def _config(
        self, placement: Placement, place: Place, params: Params, attempt: int
    ) -> NodeTaskConfig:
        settings = self._job.settings
        return NodeTaskConfig(
            job_name=settings.job_name,
            job_id=self._job.job_id,
            output_dir=settings.output_dir,
            node_name=place.node_name,
            node_id=place.node_id,
            proc_id=placement.proc_id,
            local_id=placement.local_id,
            nnodes=self._job.nnodes,
            ntasks=self._job.ntasks,
            ntasks_per_node=place.slots,
            cpus_per_task=settings.cpus_per_task or 1,
            gpu_ids=placement.gpu_ids,
            attempt=attempt,
            params=params,
        )

    def _own_files(self, launch: Launch) -> None:
        files = [file for file in (launch.output_file, launch.error_file) if file is not None]
        for file in files:
            owner = self._owners.setdefault(file, launch.proc_id)
            is_shared = owner != launch.proc_id or files.count(file) > 1
            if is_shared and not _is_special(file):
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


def _is_special(file: Path) -> bool:
    """Whether a file is one that many may write to, such as ``/dev/null``."""
    return file.exists() and not (file.is_file() or file.is_dir())
