"""Which waiting task goes where, and what a node can take.

Rules: pure; the ledger and the nodes in, decisions out. A node that is not READY gets nothing;
no slot and no GPU is given twice; every free slot is filled while tasks wait that may go there.
What it costs depends on the slots that became free, not on how long the queue is nor on how
many nodes are full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from allot.lifecycle import Ledger, Placement
from allot.model import NodeHealth, NodeState, TaskState


class Distribution(str, Enum):
    """How tasks are dealt to free slots; the words are those of ``srun --distribution``."""

    BLOCK = "block"
    CYCLIC = "cyclic"


@dataclass(frozen=True)
class NodeSlots:
    """What the scheduler knows of a node that is used.

    Attributes:
        node_id: Its number.
        state: Only READY nodes are given tasks.
        slots: Its slots; ``local_id`` goes from 0 to ``slots - 1``.
        limit: How many of them may be in use at once now.
        gpus: Indices of the GPUs that may be used now, by running tasks of ours or new ones.
    """

    node_id: int
    state: NodeState
    slots: int
    limit: int
    gpus: tuple[int, ...] = ()


def plan(
    ledger: Ledger,
    nodes: Sequence[NodeSlots],
    distribution: Distribution = Distribution.BLOCK,
    *,
    gpus_per_task: int = 0,
    elsewhere: Callable[[Collection[int]], bool] = lambda _: False,
) -> list[Placement]:
    """Give waiting tasks, in the queue's order, the slots that are free.

    Each task takes the first free slot that it may have. A task that avoids nodes waits while
    another node is READY and has the GPUs, be it full; those behind it go first meanwhile.

    Args:
        ledger: The tasks, and the slots and GPUs they hold.
        nodes: The nodes used; those of which :class:`Vacancies` says that they are full may be
            left out.
        distribution: ``BLOCK`` fills one node after another, ``CYCLIC`` deals round.
        gpus_per_task: GPUs each task gets for itself; the lowest free indices.
        elsewhere: Whether, of the nodes left out, one is READY that is none of these.

    Returns:
        One placement a task, ready to be applied in that order.
    """
    able = [
        node for node in nodes if node.state is NodeState.READY and len(node.gpus) >= gpus_per_task
    ]
    free = [
        (rank, place)
        for node in able
        for rank, place in enumerate(_free_places(ledger, node, gpus_per_task))
    ]
    if distribution is Distribution.CYCLIC:
        free.sort(key=lambda ranked: ranked[0])
    lines = []
    for avoid, tasks in ledger.lines().items() if free else ():
        can_wait = any(node.node_id not in avoid for node in able) or elsewhere(avoid)
        lines.append(_Line(avoid if can_wait else frozenset(), tasks))
    placements = []
    for _, (node_id, local_id, gpu_ids) in free:
        able_lines = [line for line in lines if node_id not in line.avoid]
        first = min(able_lines, key=lambda line: line.turn, default=None)
        if first is None:
            continue
        placements.append(Placement(first.proc_id, node_id, local_id, gpu_ids))
        if not first.advance():
            lines.remove(first)
    return placements


def _free_places(
    ledger: Ledger, node: NodeSlots, gpus_per_task: int
) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The places to give out on a node now: its number, the slot, the GPUs."""
    taken, held = ledger.taken(node.node_id), ledger.held_gpus(node.node_id)
    room = min(node.limit, node.slots) - len(taken)
    if room <= 0:
        return
    gpus = iter([gpu for gpu in sorted(node.gpus) if gpu not in held])
    slots = (local_id for local_id in range(node.slots) if local_id not in taken)
    for local_id in islice(slots, room):
        gpu_ids = tuple(islice(gpus, gpus_per_task))
        if len(gpu_ids) < gpus_per_task:
            return
        yield node.node_id, local_id, gpu_ids


class Vacancies:
    """Which nodes a decision has to look at: all but those known to be full.

    A node that is full is left out until a task has left it or it is noted again.

    Attributes:
        full: The nodes left out.
    """

    def __init__(self, ledger: Ledger, node_ids: Iterable[int]) -> None:
        """Begin with nodes of which nothing is known.

        Args:
            ledger: Tells where a slot became free; nobody else may ask it that.
            node_ids: The nodes used.
        """
        self.full: set[int] = set()
        self._ledger = ledger
        self._open = set(node_ids)

    def note(self, node_id: int) -> None:
        """Have a node looked at: it is new, or what it can take may be another than before."""
        self.full.discard(node_id)
        self._open.add(node_id)

    def candidates(self) -> list[int]:
        """The nodes to be looked at now, in their order."""
        for node_id in self._ledger.take_vacated():
            self.note(node_id)
        return sorted(self._open)

    def see(self, node: NodeSlots) -> None:
        """Leave a node out from now on where it is READY and each of its slots is taken."""
        taken = len(self._ledger.taken(node.node_id))
        if node.state is NodeState.READY and taken >= node.slots:
            self._open.discard(node.node_id)
            self.full.add(node.node_id)


class _Line:
    """Tasks that avoid the same nodes, seen at the one whose turn is next."""

    def __init__(self, avoid: frozenset[int], tasks: Iterable[tuple[int, int]]) -> None:
        self.avoid = avoid
        self._tasks = iter(tasks)
        self.proc_id, self.turn = next(self._tasks)

    def advance(self) -> bool:
        """Go to the next task; False where there is none."""
        head = next(self._tasks, None)
        if head is None:
            return False
        self.proc_id, self.turn = head
        return True


@dataclass(frozen=True)
class Demand:
    """What one task takes of its node.

    Attributes:
        cpus: CPUs counted for it.
        memory: Bytes of memory counted for it; None: memory does not count.
        gpus: GPUs it gets for itself.
    """

    cpus: int = 1
    memory: int | None = None
    gpus: int = 0


def nominal_slots(
    health: NodeHealth,
    demand: Demand,
    *,
    wanted: int | None,
    sized_by_cpus: bool,
    oversubscribe: bool,
) -> int:
    """How many tasks a node holds at once while nobody else uses it.

    Args:
        health: What the node has; ``gpus`` counts those in use too.
        demand: What one task takes of it.
        wanted: ``ntasks_per_node`` or the host file's ``slots=``, None where neither is given.
        sized_by_cpus: Without a wish, as many as the CPUs hold instead of one.
        oversubscribe: Take the wish as it is, but for GPUs, which are never shared.

    Returns:
        The number of slots; 0 where the node does not hold one task.
    """
    if wanted is None:
        wanted = max(1, health.cpus // demand.cpus) if sized_by_cpus else 1
    rooms = _rooms(health, demand, oversubscribe=oversubscribe)
    return min([wanted, *(room.tasks for room in rooms)])


def room_objection(health: NodeHealth, demand: Demand, *, oversubscribe: bool) -> str:
    """Why a node does not hold a single task: "has 4 CPUs, a task takes 8"; empty where it does."""
    rooms = _rooms(health, demand, oversubscribe=oversubscribe)
    return " and ".join(room.words for room in rooms if not room.tasks)


def cap_warning(
    node_name: str, health: NodeHealth, demand: Demand, *, wanted: int | None, oversubscribe: bool
) -> str:
    """What to tell a user whose wish for slots a node cannot fulfil; empty where it can."""
    rooms = _rooms(health, demand, oversubscribe=oversubscribe)
    if wanted is None or not rooms:
        return ""
    slots = min(room.tasks for room in rooms)
    if slots >= wanted:
        return ""
    why = " and ".join(room.words for room in rooms if room.tasks == slots)
    remedy = "" if oversubscribe else "; oversubscribe takes the wish as it is"
    return f"{node_name} runs {slots} tasks at once instead of {wanted}: it {why}{remedy}"


@dataclass(frozen=True)
class _Room:
    """How many tasks one thing that a node has is enough for, and that in words."""

    tasks: int
    words: str


def _rooms(health: NodeHealth, demand: Demand, *, oversubscribe: bool) -> list[_Room]:
    rooms = []
    if not oversubscribe:
        words = f"has {health.cpus} CPUs, a task takes {demand.cpus}"
        rooms.append(_Room(health.cpus // demand.cpus, words))
    if not oversubscribe and demand.memory is not None:
        total, need = _size(health.memory_total), _size(demand.memory)
        words = f"has {total} of memory, a task takes {need}"
        rooms.append(_Room(health.memory_total // demand.memory, words))
    if demand.gpus:
        words = f"has {health.gpus} GPUs, a task takes {demand.gpus}"
        rooms.append(_Room(health.gpus // demand.gpus, words))
    return rooms


def _size(size: int) -> str:
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{size / unit:.1f} {name}"


def slots_now(
    nominal: int, health: NodeHealth, demand: Demand, *, own_running: int, oversubscribe: bool
) -> int:
    """How many tasks may run on a node at once now, with others there.

    CPUs: what others leave, to the nearest whole one, and never less than one task; whether the
    node is too busy for any is for the probe to say. Memory: what is free, beside the tasks of
    ours that run, which keep theirs. GPUs are counted by :func:`plan`, by index.

    Args:
        nominal: Its slots while nobody else uses it.
        health: What others use of it now.
        demand: What one task takes of it.
        own_running: Tasks of this job that run there.
        oversubscribe: Others do not count.

    Returns:
        At most ``nominal``; up to ``own_running`` means that nothing new starts for now.
    """
    if oversubscribe:
        return nominal
    left = math.floor(health.cpus - health.foreign_cpus + 0.5)
    slots = min(nominal, max(1, left // demand.cpus))
    if demand.memory is not None:
        slots = min(slots, own_running + health.memory_free // demand.memory)
    return slots


def should_drain(
    consecutive_failures: int,
    completed_there: int,
    completed_elsewhere: int,
    node_max_failures: int,
) -> bool:
    """Whether a node fails task after task that others could do.

    Args:
        consecutive_failures: Tasks that failed there in a row.
        completed_there: Tasks that completed there.
        completed_elsewhere: Tasks that completed on other nodes.
        node_max_failures: So many failures in a row are too many.
    """
    return (
        consecutive_failures >= node_max_failures
        and not completed_there
        and completed_elsewhere > 0
    )


def may_retry(state: TaskState, retried: int, retries: int) -> bool:
    """Whether a task that ended so is queued again by itself.

    Args:
        state: How it ended; TIMEOUT and CANCELLED are not retried.
        retried: How often it was retried so far (:meth:`Ledger.retried`).
        retries: How often it may be.
    """
    return state in (TaskState.FAILED, TaskState.NODE_FAIL) and retried < retries
