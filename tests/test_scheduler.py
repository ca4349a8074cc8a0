"""Which waiting task goes where: every free slot of a READY node, each once, in queue order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.lifecycle import Ledger, Placement
from allot.model import NodeState, TaskState
from allot.scheduler import Distribution, NodeSlots, plan, slots_of_node

BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

STATES = st.one_of(st.just(NodeState.READY), st.sampled_from(NodeState))
SIZES = st.lists(st.tuples(STATES, st.integers(0, 5)), max_size=6)
DISTRIBUTIONS = st.sampled_from(Distribution)


def make_nodes(sizes: Sequence[tuple[NodeState, int]]) -> list[NodeSlots]:
    return [NodeSlots(node_id, state, slots) for node_id, (state, slots) in enumerate(sizes)]


def deal_naively(nodes: Sequence[NodeSlots], distribution: Distribution) -> list[tuple[int, int]]:
    """The first wave in its plainest form: the slots, as a person would deal them."""
    ready = [node for node in nodes if node.state is NodeState.READY]
    if distribution is Distribution.BLOCK:
        return [(node.node_id, slot) for node in ready for slot in range(node.slots)]
    dealt = []
    for slot in range(max((node.slots for node in ready), default=0)):
        for node in ready:
            if slot < node.slots:
                dealt.append((node.node_id, slot))
    return dealt


@BUSY_MACHINE
@given(count=st.integers(0, 40), sizes=SIZES, distribution=DISTRIBUTIONS)
def test_the_first_wave_is_dealt_in_order(
    count: int, sizes: list[tuple[NodeState, int]], distribution: Distribution
) -> None:
    """Block fills node 0 first, cyclic deals round; task 0 gets the first slot, and so on."""
    nodes = make_nodes(sizes)[::-1]  # the order is that of the nodes, not of their numbers
    placements = plan(Ledger([None] * count), nodes, distribution)
    slots = deal_naively(nodes, distribution)[:count]
    assert placements == [Placement(number, *slot) for number, slot in enumerate(slots)]


@pytest.mark.parametrize(
    ("distribution", "node_ids", "local_ids"),
    [
        (Distribution.BLOCK, [0, 0, 0, 2, 3, 3], [0, 1, 2, 0, 0, 1]),
        (Distribution.CYCLIC, [0, 2, 3, 0, 3, 0], [0, 0, 0, 1, 1, 2]),
    ],
)
def test_block_and_cyclic(
    distribution: Distribution, node_ids: list[int], local_ids: list[int]
) -> None:
    """Nodes of different size, one of them busy: as ``srun --distribution`` deals them."""
    ready, busy = NodeState.READY, NodeState.BUSY
    nodes = make_nodes([(ready, 3), (busy, 4), (ready, 1), (ready, 2)])
    placements = plan(Ledger([None] * 9), nodes, distribution)
    assert [placement.proc_id for placement in placements] == list(range(6))
    assert [placement.node_id for placement in placements] == node_ids
    assert [placement.local_id for placement in placements] == local_ids


def test_block_is_what_one_gets_unasked() -> None:
    """Without a word about it, one node is filled after the other."""
    nodes = make_nodes([(NodeState.READY, 2), (NodeState.READY, 2)])
    ledger = Ledger([None] * 4)
    assert plan(ledger, nodes) == plan(ledger, nodes, Distribution.BLOCK)
    assert plan(ledger, nodes) != plan(ledger, nodes, Distribution.CYCLIC)


@BUSY_MACHINE
@given(
    data=st.data(),
    count=st.integers(0, 30),
    sizes=SIZES.filter(lambda sizes: len(sizes) > 0),
    distribution=DISTRIBUTIONS,
)
def test_slots_are_filled_and_never_given_twice(
    data: st.DataObject, count: int, sizes: list[tuple[NodeState, int]], distribution: Distribution
) -> None:
    """While nodes come and go and tasks end, each free slot of a READY node is used at once."""
    ledger, order = Ledger([None] * count), []
    for _ in range(data.draw(st.integers(1, 8))):
        states = data.draw(st.lists(STATES, min_size=len(sizes), max_size=len(sizes)))
        nodes = make_nodes(
            [(state, slots) for state, (_, slots) in zip(states, sizes, strict=True)]
        )
        free = sum(
            node.slots - len(ledger.taken(node.node_id))
            for node in nodes
            if node.state is NodeState.READY
        )
        placements = plan(ledger, nodes, distribution)
        assert len(placements) == min(free, ledger.count(TaskState.PENDING))
        for placement in placements:
            node = nodes[placement.node_id]
            assert node.state is NodeState.READY
            assert 0 <= placement.local_id < node.slots
            assert placement.local_id not in ledger.taken(placement.node_id)
            ledger.place(placement, "nd", None)
        order += [placement.proc_id for placement in placements]
        for node in nodes:
            assert len(ledger.taken(node.node_id)) <= node.slots
        running = [task.proc_id for task in ledger.tasks if task.state is TaskState.RUNNING]
        for proc_id in data.draw(st.sets(st.sampled_from(running)) if running else st.just(set())):
            ledger.succeed(proc_id, 0.0)
    assert order == list(range(len(order)))


@BUSY_MACHINE
@given(count=st.integers(0, 40), sizes=SIZES, distribution=DISTRIBUTIONS)
def test_every_task_runs_in_the_end(
    count: int, sizes: list[tuple[NodeState, int]], distribution: Distribution
) -> None:
    """With one slot somewhere the queue empties, in as few waves as the slots allow."""
    nodes = [NodeSlots(99, NodeState.READY, 1), *make_nodes(sizes)]
    room = sum(node.slots for node in nodes if node.state is NodeState.READY)
    ledger, waves = Ledger([None] * count), 0
    while placements := plan(ledger, nodes, distribution):
        for placement in placements:
            ledger.place(placement, "nd", None)
            ledger.succeed(placement.proc_id, 0.0)
        waves += 1
    assert ledger.count(TaskState.COMPLETED) == count
    assert waves == -(-count // room)


def test_a_slot_that_is_free_again_is_used_again() -> None:
    """Backfill: the next task gets the very slot whose task ended."""
    nodes = make_nodes([(NodeState.READY, 2), (NodeState.READY, 2)])
    ledger = Ledger([None] * 6)
    for placement in plan(ledger, nodes):
        ledger.place(placement, "nd", None)
    assert plan(ledger, nodes) == []
    ledger.fail(2, 0.0, 1, "")
    assert plan(ledger, nodes) == [Placement(4, 1, 0)]


@pytest.mark.parametrize(
    ("cpus", "cpus_per_task", "wanted", "sized_by_cpus", "oversubscribe", "slots"),
    [
        (8, 1, None, False, False, 1),
        (8, 1, None, True, False, 8),
        (8, 3, None, True, False, 2),
        (8, 9, None, True, False, 0),
        (8, 9, None, False, False, 0),
        (8, 9, None, True, True, 1),
        (8, 9, None, False, True, 1),
        (8, 1, 4, True, False, 4),
        (8, 1, 4, False, False, 4),
        (8, 1, 20, False, False, 8),
        (8, 2, 20, False, False, 4),
        (8, 9, 2, False, False, 0),
        (8, 1, 20, False, True, 20),
        (1, 4, 3, False, True, 3),
    ],
)
def test_how_many_tasks_a_node_takes(
    *,
    cpus: int,
    cpus_per_task: int,
    wanted: int | None,
    sized_by_cpus: bool,
    oversubscribe: bool,
    slots: int,
) -> None:
    """Never more than its CPUs hold, unless that was asked for; one where nothing was said."""
    assert slots == slots_of_node(
        cpus,
        cpus_per_task,
        wanted=wanted,
        sized_by_cpus=sized_by_cpus,
        oversubscribe=oversubscribe,
    )
