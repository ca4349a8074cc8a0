"""Which waiting task goes where.

Rules: pure; the ledger and the nodes in, placements out. A node that is not READY gets nothing;
no slot is given twice; every free slot is filled while tasks wait. What it costs depends on the
free slots, not on the length of the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from allot.lifecycle import Ledger, Placement
from allot.model import NodeState


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
        slots: How many tasks may run there at once.
    """

    node_id: int
    state: NodeState
    slots: int


def plan(
    ledger: Ledger, nodes: Sequence[NodeSlots], distribution: Distribution = Distribution.BLOCK
) -> list[Placement]:
    """Give waiting tasks, in the queue's order, the slots that are free.

    Args:
        ledger: The tasks and the slots they hold.
        nodes: The nodes used.
        distribution: ``BLOCK`` fills one node after another, ``CYCLIC`` deals round.

    Returns:
        One placement a task, ready to be applied in that order.
    """
    free = [
        (rank, node.node_id, local_id)
        for node in nodes
        if node.state is NodeState.READY
        for rank, local_id in enumerate(_free_slots(ledger, node))
    ]
    if distribution is Distribution.CYCLIC:
        free.sort(key=lambda slot: slot[0])
    waiting = ledger.waiting(len(free))
    return [
        Placement(proc_id, node_id, local_id)
        for proc_id, (_, node_id, local_id) in zip(waiting, free, strict=False)
    ]


def _free_slots(ledger: Ledger, node: NodeSlots) -> list[int]:
    taken = ledger.taken(node.node_id)
    return [local_id for local_id in range(node.slots) if local_id not in taken]


def slots_of_node(
    cpus: int, cpus_per_task: int, *, wanted: int | None, sized_by_cpus: bool, oversubscribe: bool
) -> int:
    """How many tasks a node may run at once.

    Args:
        cpus: CPUs this user may use there.
        cpus_per_task: CPUs counted for each task.
        wanted: ``ntasks_per_node`` or the host file's ``slots=``, None where neither is given.
        sized_by_cpus: Without a wish, as many as the CPUs hold instead of one.
        oversubscribe: Take the wish as it is.

    Returns:
        The number of slots; 0 where one task takes more CPUs than there are.
    """
    room = cpus // cpus_per_task
    if wanted is None:
        wanted = max(1, room) if sized_by_cpus else 1
    return wanted if oversubscribe else min(wanted, room)
