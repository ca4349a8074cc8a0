"""What is remembered of a job: all that is needed to pick it up again, as frozen data.

Rules: plain data; a field added later needs a default, so that older files can be read. What a
task's ``params`` are stands in the job's record only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from allot.environment import Group
from allot.events import BEGINNING, Cursor
from allot.model import NodeSpec, NodeState, NodeStatus, Params, TaskStatus
from allot.probe import NodeFacts, NodeProbe
from allot.script import Launch
from allot.settings import Settings


@dataclass(frozen=True)
class CancelRecord:
    """A cancellation that was ordered: its grace in seconds, and why."""

    grace: float
    reason: str


@dataclass(frozen=True)
class TaskRecord:
    """One task.

    Attributes:
        status: Where it stands; without its ``params``.
        turn: Its place in the queue, while it waits.
        gpu_ids: The GPUs it holds.
        avoids: Nodes on which it failed.
        retried: How often it was retried since the user asked for it.
        launch: What was sent to its node, while it runs.
        error_file: Where its stderr goes, if not into its output.
        cancel: Set where it runs and is to be cancelled.
    """

    status: TaskStatus
    turn: int = 0
    gpu_ids: tuple[int, ...] = ()
    avoids: frozenset[int] = frozenset()
    retried: int = 0
    launch: Launch | None = None
    error_file: Path | None = None
    cancel: CancelRecord | None = None


@dataclass(frozen=True)
class NodeRecord:
    """One node that is used.

    Attributes:
        name: Its name.
        node_id: Its number among the nodes used.
        spec: Its line of the host file.
        slots: How many tasks it holds at once while nobody else uses it.
        facts: What the last probe found.
        state: Where it stands.
        reason: Why it is not READY, or empty.
        drained: Why it is given nothing new, or empty.
        is_prepared: Its job directory was made.
        orphans: Tasks and attempts there that were given up, to be ended when it can be reached.
        cursor: How far its event file was taken in.
    """

    name: str
    node_id: int
    spec: NodeSpec
    slots: int
    facts: NodeFacts
    state: NodeState = NodeState.READY
    reason: str = ""
    drained: str = ""
    is_prepared: bool = False
    orphans: tuple[tuple[int, int], ...] = ()
    cursor: Cursor = BEGINNING

    @property
    def status(self) -> NodeStatus:
        """The node as it was last seen."""
        return NodeStatus(self.name, self.state, self.node_id, self.reason, self.facts.health)


@dataclass(frozen=True)
class JobRecord:
    """What does not belong to one task or node.

    Attributes:
        job_id: Identifier of this run of the job.
        nnodes: Number of nodes used at the start.
        created: When it was made, Unix seconds.
        settings: What the user asked for.
        probe: When a node may be used.
        specs: Every node named, used or not.
        ssh_config: The OpenSSH configuration that was obeyed; None: the user's own.
        params: The tasks' parameters, by ``proc_id``; None where the job has none.
        group: Set where the tasks are one torch process group.
        stopped: Failures stopped the job: nothing is retried any more.
        followed: The last orders of other clients that were followed, by their keys.
    """

    job_id: str
    nnodes: int
    created: float
    settings: Settings
    probe: NodeProbe
    specs: tuple[NodeSpec, ...]
    ssh_config: Path | None = None
    params: tuple[Params, ...] | None = None
    group: Group | None = None
    stopped: bool = False
    followed: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobState:
    """A whole job, as a snapshot holds it.

    Attributes:
        job: The job.
        nodes: The nodes used, by ``node_id``.
        tasks: Every task, by ``proc_id``.
    """

    job: JobRecord
    nodes: tuple[NodeRecord, ...]
    tasks: tuple[TaskRecord, ...]

    @property
    def statuses(self) -> list[TaskStatus]:
        """Every task as a user sees it."""
        params = self.job.params
        return [
            one.status if params is None else replace(one.status, params=params[number])
            for number, one in enumerate(self.tasks)
        ]


@dataclass(frozen=True)
class Changes:
    """What changed since the last time: whole records, and progress apart.

    Attributes:
        job: The job's record, if it changed.
        nodes: Nodes that changed.
        tasks: Tasks that changed.
        progress: ``proc_id, attempt, step, total`` of tasks that got on.
    """

    job: JobRecord | None = None
    nodes: tuple[NodeRecord, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    progress: tuple[tuple[int, int, int, int], ...] = field(default=())
