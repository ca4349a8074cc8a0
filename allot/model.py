"""The words of Allot: what a node, a task and a job are, as frozen data.

Rules: the standard library only; nothing here does I/O, starts a thread or reads a clock.
Times are Unix seconds on the client's clock; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from allot.errors import TaskConfigError, TasksFailedError

Scalar: TypeAlias = str | int | float | bool | Path
Params: TypeAlias = Mapping[str, Scalar] | Scalar | None

_FAILURES_SHOWN = 20


class TaskState(str, Enum):
    """Where a task stands; the words are Slurm's job states."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    NODE_FAIL = "NODE_FAIL"

    @property
    def is_final(self) -> bool:
        """True once the task will not change any more by itself."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)

    def __str__(self) -> str:
        return self.value


class NodeState(str, Enum):
    """Where a node stands."""

    READY = "READY"
    BUSY = "BUSY"
    UNREACHABLE = "UNREACHABLE"
    SPARE = "SPARE"
    DRAINED = "DRAINED"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class NodeSpec:
    """One line of a host file.

    Attributes:
        host: Host name, address, or alias from the ssh config.
        user: Login name; None leaves it to the ssh config.
        port: TCP port; None leaves it to the ssh config.
        slots: How many tasks may run there at once; None leaves it to the job.
        gpus: How many GPUs it has; None leaves it to the probe.
    """

    host: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None
    gpus: int | None = None

    @property
    def address(self) -> str:
        """``[user@]host[:port]`` as it stands in a host file."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user is not None else ""
        port = f":{self.port}" if self.port is not None else ""
        return f"{user}{host}{port}"


@dataclass(frozen=True)
class NodeHealth:
    """What a probe found on a node.

    Attributes:
        cpus: CPUs this user may use there (affinity and cgroup quota counted).
        load_1m: 1-minute load average.
        foreign_cpus: CPUs that processes outside the job keep busy; before the job's own tasks
            run there, the 1-minute load average stands for it.
        memory_free: Bytes that could be allocated now.
        memory_total: Bytes in all.
        gpus: Number of GPUs.
        boot_id: Changes with each boot of the node.
    """

    cpus: int
    load_1m: float
    foreign_cpus: float
    memory_free: int
    memory_total: int
    gpus: int
    boot_id: str


@dataclass(frozen=True)
class NodeStatus:
    """One node of a job, as it was last seen.

    Attributes:
        name: The node's name in the host file.
        state: Where it stands.
        node_id: 0-based among the nodes used, None for one that is not used.
        reason: Why it is not READY, in words; empty otherwise.
        health: What the last probe found, None where none got through.
        transfer: How much of the files that are on their way there or back has arrived, in
            bytes; None where nothing is.
    """

    name: str
    state: NodeState
    node_id: int | None = None
    reason: str = ""
    health: NodeHealth | None = None
    transfer: Progress | None = None


@dataclass(frozen=True)
class Progress:
    """How far a task is: ``step`` of ``total``, ``0 <= step <= total``, ``total > 0``."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """``step / total``, between 0.0 and 1.0."""
        return self.step / self.total


@dataclass(frozen=True)
class NodeTaskConfig:
    """The place a task was given; a ``task_factory`` makes the task for it.

    Attributes:
        job_name: Name of the job.
        job_id: Identifier of this run of the job.
        output_dir: Where outputs go, absolute.
        node_name: The node's name in the host file.
        node_id: 0-based among the nodes used.
        proc_id: The task's number, 0 to ``ntasks - 1``.
        local_id: The slot on its node, 0-based; free again when its task ends.
        nnodes: Number of nodes used.
        ntasks: Number of tasks in the job.
        ntasks_per_node: Slots of this node.
        cpus_per_task: CPUs counted for each task.
        gpu_ids: Indices of the GPUs this task holds on its node.
        attempt: 0 for the first try of this task.
        params: The task's entry of ``params``, or None.
    """

    job_name: str
    job_id: str
    output_dir: Path
    node_name: str
    node_id: int
    proc_id: int
    local_id: int
    nnodes: int
    ntasks: int
    ntasks_per_node: int
    cpus_per_task: int = 1
    gpu_ids: tuple[int, ...] = ()
    attempt: int = 0
    params: Params = None


@dataclass(frozen=True, init=False)
class Task:
    """A program to run: commands that run in order in one Bash of the task's own.

    After each command string, an exit status other than 0 ends the task with that status.

    Attributes:
        cmds: The command strings, run in order.
        output_file: Where stdout (and stderr) go; None means ``output_dir/<proc_id>.out``.
            A relative path counts from the client's working directory.
        config: The place it was made for, or None.
        env: Extra environment variables.
        cwd: Where it starts on the node; None means the login directory.
        error_file: Where stderr goes; None means into ``output_file``.
        stage_in: Files and directories it needs on its node, beside those of all tasks.
        collect: Patterns of its results, beside those of all tasks.
    """

    cmds: tuple[str, ...]
    output_file: Path | None
    config: NodeTaskConfig | None
    env: Mapping[str, str]
    cwd: str | None
    error_file: Path | None
    stage_in: tuple[str, ...]
    collect: tuple[str, ...]

    def __init__(
        self,
        cmds: str | Sequence[str],
        output_file: str | Path | None = None,
        config: NodeTaskConfig | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        error_file: str | Path | None = None,
        stage_in: str | Path | Iterable[str | Path] = (),
        collect: str | Iterable[str] = (),
    ) -> None:
        """Describe a task.

        Args:
            cmds: A command string, or several that run in order.
            output_file: File for stdout and stderr.
            config: The ``NodeTaskConfig`` it was made for.
            env: Extra environment variables; values are turned into text.
            cwd: Directory to start in, on the node.
            error_file: File for stderr, where it is to be apart from stdout.
            stage_in: Files and directories of the client's that are put under the directory it
                starts in, before it starts.
            collect: Patterns of results, counted from that directory, that are brought to the
                client before it is COMPLETED.

        Raises:
            TaskConfigError: ``cmds`` is not text, or is empty; ``env`` is no mapping;
                ``stage_in`` or ``collect`` is not text.
        """
        set_field = object.__setattr__
        set_field(self, "cmds", _as_commands(cmds))
        set_field(self, "output_file", None if output_file is None else Path(output_file))
        set_field(self, "config", config)
        if env is not None and not isinstance(env, Mapping):
            raise TaskConfigError(f"env must be a mapping of names to values, not {env!r}")
        variables = {str(name): str(value) for name, value in (env or {}).items()}
        set_field(self, "env", MappingProxyType(variables))
        set_field(self, "cwd", None if cwd is None else str(cwd))
        set_field(self, "error_file", None if error_file is None else Path(error_file))
        set_field(self, "stage_in", _as_texts("stage_in", stage_in))
        set_field(self, "collect", _as_texts("collect", collect))


def _as_commands(cmds: object) -> tuple[str, ...]:
    commands = (cmds,) if isinstance(cmds, str) else cmds
    if not isinstance(commands, Sequence) or not commands:
        raise TaskConfigError(f"cmds must be a string or a list of strings, not {cmds!r}")
    for command in commands:
        if not isinstance(command, str):
            raise TaskConfigError(f"cmds must hold strings only, not {command!r}")
    return tuple(commands)


def _as_texts(argument: str, value: object) -> tuple[str, ...]:
    some = (value,) if isinstance(value, (str, Path)) else value
    if not isinstance(some, Iterable) or isinstance(some, (bytes, Mapping)):
        raise TaskConfigError(f"{argument} must be a path or several, not {value!r}")
    texts = tuple(some)
    if not all(isinstance(text, (str, Path)) for text in texts):
        raise TaskConfigError(f"{argument} must hold paths only, not {value!r}")
    return tuple(map(str, texts))


@dataclass(frozen=True)
class TaskStatus:
    """One task of a job, as it was last seen.

    Attributes:
        proc_id: The task's number.
        state: Where it stands.
        node_name: Its node, None before it was given one.
        node_id: That node's number, or None.
        local_id: Its slot there, or None.
        attempt: 0 for the first try.
        progress: The latest progress it printed, or None.
        exit_code: 0 to 255 (128 + n for signal n), None before its end.
        output_file: Its output on the client, or None before it was launched.
        started_at: Unix seconds on the client's clock, or None.
        ended_at: Unix seconds on the client's clock, or None.
        reason: Why it ended as it did, or what it waits for, in words.
        params: Its entry of ``params``, or None.
    """

    proc_id: int
    state: TaskState = TaskState.PENDING
    node_name: str | None = None
    node_id: int | None = None
    local_id: int | None = None
    attempt: int = 0
    progress: Progress | None = None
    exit_code: int | None = None
    output_file: Path | None = None
    started_at: float | None = None
    ended_at: float | None = None
    reason: str = ""
    params: Params = None


@dataclass(frozen=True)
class JobSnapshot:
    """A whole job at one instant, to be drawn or printed.

    Attributes:
        job_name: Name of the job.
        tasks: Every task, by ``proc_id``.
        nodes: The nodes, used ones first, by ``node_id``.
        elapsed: Seconds since the job started; stands still once every task is final.
    """

    job_name: str
    tasks: tuple[TaskStatus, ...]
    nodes: tuple[NodeStatus, ...]
    elapsed: float


@dataclass(frozen=True)
class Summary:
    """How a job ended.

    Attributes:
        tasks: Every task, by ``proc_id``.
        elapsed: Seconds from the start of the job to the last task's end.
        output_tails: The ends of the outputs of failed tasks, by ``proc_id``.
    """

    tasks: tuple[TaskStatus, ...]
    elapsed: float
    output_tails: Mapping[int, str] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> dict[TaskState, int]:
        """Number of tasks in each state; states without a task are there with 0."""
        counts = dict.fromkeys(TaskState, 0)
        for task in self.tasks:
            counts[task.state] += 1
        return counts

    @property
    def ok(self) -> bool:
        """True when every task is COMPLETED."""
        return all(task.state is TaskState.COMPLETED for task in self.tasks)

    @property
    def failed(self) -> tuple[TaskStatus, ...]:
        """The tasks that ended otherwise than COMPLETED."""
        return tuple(
            task
            for task in self.tasks
            if task.state.is_final and task.state is not TaskState.COMPLETED
        )

    def raise_for_failures(self) -> None:
        """Raise if a task did not complete.

        Raises:
            TasksFailedError: Naming each failed task, its node, its exit code and the end of
                its output.
        """
        failed = self.failed
        if not failed:
            return
        lines = [f"{len(failed)} of {len(self.tasks)} tasks did not complete:"]
        for task in failed[:_FAILURES_SHOWN]:
            lines.append(f"  {describe_end(task)}")
            tail = self.output_tails.get(task.proc_id, "")
            lines.extend(f"    | {line}" for line in tail.splitlines())
        if len(failed) > _FAILURES_SHOWN:
            lines.append(f"  … and {len(failed) - _FAILURES_SHOWN} more")
        raise TasksFailedError("\n".join(lines), self)


def describe_end(task: TaskStatus) -> str:
    """One line on how a task ended: its number, node, state, exit code and reason."""
    parts = [f"task {task.proc_id}"]
    if task.node_name is not None:
        parts.append(f"on {task.node_name}")
    parts.append(str(task.state))
    if task.exit_code:
        parts.append(f"(exit code {task.exit_code})")
    line = " ".join(parts)
    return f"{line}: {task.reason}" if task.reason else line
