"""Which waiting task goes where: every free slot of a READY node, each once, in queue order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import pytest
from effort import calls_of, memory_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.lifecycle import Ledger, Placement, new_entries
from allot.model import NodeHealth, NodeState, TaskState
from allot.scheduler import (
    Demand,
    Distribution,
    NodeSlots,
    Vacancies,
    cap_warning,
    may_retry,
    nominal_slots,
    plan,
    room_objection,
    should_drain,
    slots_now,
)

BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GIB = 2**30
READY, BUSY = NodeState.READY, NodeState.BUSY
STATES = st.one_of(st.just(READY), st.sampled_from(NodeState))
SIZES = st.lists(st.tuples(STATES, st.integers(0, 5)), max_size=6)
DISTRIBUTIONS = st.sampled_from(Distribution)


def make_nodes(sizes: Sequence[tuple[NodeState, int]]) -> list[NodeSlots]:
    return [NodeSlots(node_id, state, slots, slots) for node_id, (state, slots) in enumerate(sizes)]


def place_all(ledger: Ledger, placements: Sequence[Placement]) -> None:
    for placement in placements:
        ledger.place(placement, "nd", None)


def retry(ledger: Ledger, proc_id: int) -> None:
    """As the monitor does when a running task failed: once more, but not there."""
    node_id = ledger[proc_id].node_id
    assert node_id is not None
    ledger.fail(proc_id, 0.0, 1, "")
    ledger.requeue(proc_id, ledger.avoids(proc_id) | {node_id})


def deal_naively(nodes: Sequence[NodeSlots], distribution: Distribution) -> list[tuple[int, int]]:
    """The first wave in its plainest form: the slots, as a person would deal them."""
    ready = [node for node in nodes if node.state is READY]
    if distribution is Distribution.BLOCK:
        return [(node.node_id, slot) for node in ready for slot in range(node.limit)]
    dealt = []
    for slot in range(max((node.limit for node in ready), default=0)):
        for node in ready:
            if slot < node.limit:
                dealt.append((node.node_id, slot))
    return dealt


def plan_naively(
    ledger: Ledger, nodes: Sequence[NodeSlots], distribution: Distribution, gpus_per_task: int
) -> list[Placement]:
    """The whole of planning in its plainest form: task by task, the first place it may have."""
    able = [node for node in nodes if node.state is READY and len(node.gpus) >= gpus_per_task]
    places: list[tuple[int, int, int, tuple[int, ...]]] = []
    for order, node in enumerate(able):
        running = len(ledger.taken(node.node_id))
        gpus = sorted(set(node.gpus) - set(ledger.held_gpus(node.node_id)))
        slots = [slot for slot in range(node.slots) if slot not in ledger.taken(node.node_id)]
        for rank, slot in enumerate(slots[: max(0, node.limit - running)]):
            own = gpus[rank * gpus_per_task : (rank + 1) * gpus_per_task]
            if len(own) == gpus_per_task:
                turn = order if distribution is Distribution.BLOCK else rank
                places.append((turn, node.node_id, slot, tuple(own)))
    places.sort(key=lambda place: place[0])
    placements = []
    for proc_id in ledger.waiting(len(ledger)):
        avoided = ledger.avoids(proc_id)
        if all(node.node_id in avoided for node in able):
            avoided = frozenset()
        for place in places:
            if place[1] not in avoided:
                placements.append(Placement(proc_id, *place[1:]))
                places.remove(place)
                break
    return placements


def plan_vacancies(
    ledger: Ledger,
    nodes: Sequence[NodeSlots],
    vacancies: Vacancies,
    distribution: Distribution = Distribution.BLOCK,
    gpus_per_task: int = 0,
) -> list[Placement]:
    """As the monitor plans: nodes that are full are not looked at."""
    looked_at = [nodes[node_id] for node_id in vacancies.candidates()]
    for node in looked_at:
        vacancies.see(node)

    def has_another(avoid: Collection[int]) -> bool:
        others = [nodes[node_id] for node_id in vacancies.full if node_id not in avoid]
        return any(node.state is READY and len(node.gpus) >= gpus_per_task for node in others)

    return plan(ledger, looked_at, distribution, gpus_per_task=gpus_per_task, elsewhere=has_another)


@st.composite
def nodes_now(draw: st.DrawFn, nominal: Sequence[int]) -> list[NodeSlots]:
    """The same nodes at some instant: what others use of them comes and goes."""
    return [
        NodeSlots(
            node_id,
            draw(STATES),
            slots,
            draw(st.integers(0, slots)),
            tuple(draw(st.lists(st.integers(0, 3), max_size=4, unique=True))),
        )
        for node_id, slots in enumerate(nominal)
    ]


@BUSY_MACHINE
@given(
    data=st.data(),
    count=st.integers(0, 25),
    nominal=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    distribution=DISTRIBUTIONS,
    gpus_per_task=st.integers(0, 2),
)
def test_a_life_of_placing(
    *,
    data: st.DataObject,
    count: int,
    nominal: list[int],
    distribution: Distribution,
    gpus_per_task: int,
) -> None:
    """While nodes, others and tasks come and go: as the plainest plan, and nothing given twice."""
    ledger = Ledger(new_entries([None] * count))
    vacancies = Vacancies(ledger, range(len(nominal)))
    for _ in range(data.draw(st.integers(1, 6), "rounds")):
        nodes = data.draw(nodes_now(nominal), "nodes")
        running = {node.node_id: len(ledger.taken(node.node_id)) for node in nodes}
        placements = plan(ledger, nodes, distribution, gpus_per_task=gpus_per_task)
        naive = plan_naively(ledger, nodes, distribution, gpus_per_task)
        assert sorted(placements, key=lambda one: one.proc_id) == sorted(
            naive, key=lambda one: one.proc_id
        )
        assert placements == plan_vacancies(ledger, nodes, vacancies, distribution, gpus_per_task)
        assert len({placement.proc_id for placement in placements}) == len(placements)
        place_all(ledger, placements)  # raises where a slot or a GPU were given twice
        for placement in placements:
            node = nodes[placement.node_id]
            assert node.state is READY
            assert 0 <= placement.local_id < node.slots
            assert set(placement.gpu_ids) <= set(node.gpus)
            assert len(set(placement.gpu_ids)) == len(placement.gpu_ids) == gpus_per_task
        for node in nodes:
            now = len(ledger.taken(node.node_id))
            assert now <= max(node.limit, running[node.node_id])
            assert now <= node.slots
        for task in ledger.tasks:
            if task.state is TaskState.RUNNING:
                happens = data.draw(st.sampled_from(["", "end", "retry"]))
                if happens == "end":
                    ledger.succeed(task.proc_id, 0.0)
                elif happens == "retry":
                    retry(ledger, task.proc_id)
            elif task.state is TaskState.PENDING and not data.draw(st.integers(0, 9)):
                ledger.cancel(task.proc_id, 0.0)
            elif task.state.is_final and not data.draw(st.integers(0, 9)):
                ledger.requeue(task.proc_id)


@BUSY_MACHINE
@given(count=st.integers(0, 40), sizes=SIZES, distribution=DISTRIBUTIONS)
def test_the_first_wave_is_dealt_in_order(
    count: int, sizes: list[tuple[NodeState, int]], distribution: Distribution
) -> None:
    """Block fills node 0 first, cyclic deals round; task 0 gets the first slot, and so on."""
    nodes = make_nodes(sizes)[::-1]  # the order is that of the nodes, not of their numbers
    placements = plan(Ledger(new_entries([None] * count)), nodes, distribution)
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
    nodes = make_nodes([(READY, 3), (BUSY, 4), (READY, 1), (READY, 2)])
    placements = plan(Ledger(new_entries([None] * 9)), nodes, distribution)
    assert [placement.proc_id for placement in placements] == list(range(6))
    assert [placement.node_id for placement in placements] == node_ids
    assert [placement.local_id for placement in placements] == local_ids


def test_block_is_what_one_gets_unasked() -> None:
    """Without a word about it, one node is filled after the other."""
    nodes = make_nodes([(READY, 2), (READY, 2)])
    ledger = Ledger(new_entries([None] * 4))
    assert plan(ledger, nodes) == plan(ledger, nodes, Distribution.BLOCK)
    assert plan(ledger, nodes) != plan(ledger, nodes, Distribution.CYCLIC)


@pytest.mark.parametrize("state", [state for state in NodeState if state is not READY])
def test_only_a_ready_node_is_given_tasks(state: NodeState) -> None:
    """BUSY, UNREACHABLE, SPARE and DRAINED nodes get nothing, though tasks wait and slots are."""
    node = NodeSlots(0, state, 4, 4, (0, 1))
    assert plan(Ledger(new_entries([None] * 4)), [node]) == []
    assert plan(Ledger(new_entries([None] * 4)), [replace(node, state=READY)]) != []


@BUSY_MACHINE
@given(count=st.integers(0, 40), sizes=SIZES, distribution=DISTRIBUTIONS)
def test_every_task_runs_in_the_end(
    count: int, sizes: list[tuple[NodeState, int]], distribution: Distribution
) -> None:
    """With one slot somewhere the queue empties, in as few waves as the slots allow."""
    nodes = [NodeSlots(99, READY, 1, 1), *make_nodes(sizes)]
    room = sum(node.slots for node in nodes if node.state is READY)
    ledger, waves = Ledger(new_entries([None] * count)), 0
    while placements := plan(ledger, nodes, distribution):
        for placement in placements:
            ledger.place(placement, "nd", None)
            ledger.succeed(placement.proc_id, 0.0)
        waves += 1
    assert ledger.count(TaskState.COMPLETED) == count
    assert waves == -(-count // room)


@BUSY_MACHINE
@given(
    data=st.data(),
    count=st.integers(1, 15),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_retries_always_find_a_node(data: st.DataObject, count: int, sizes: list[int]) -> None:
    """However tasks fail, none waits for ever while nodes are READY, and each goes elsewhere."""
    nodes = make_nodes([(READY, slots) for slots in sizes])
    ledger = Ledger(new_entries([None] * count))
    while placements := plan(ledger, nodes):
        for placement in placements:
            avoided = ledger.avoids(placement.proc_id)
            assert placement.node_id not in avoided or len(avoided) == len(nodes)
            ledger.place(placement, "nd", None)
            if ledger.retried(placement.proc_id) < 4 and data.draw(st.booleans()):
                retry(ledger, placement.proc_id)
            else:
                ledger.succeed(placement.proc_id, 0.0)
    assert ledger.count(TaskState.COMPLETED) == count


def test_a_slot_that_is_free_again_is_used_again() -> None:
    """Backfill: the next task gets the very slot whose task ended."""
    nodes = make_nodes([(READY, 2), (READY, 2)])
    ledger = Ledger(new_entries([None] * 6))
    place_all(ledger, plan(ledger, nodes))
    assert plan(ledger, nodes) == []
    ledger.fail(2, 0.0, 1, "")
    assert plan(ledger, nodes) == [Placement(4, 1, 0)]


def test_fewer_run_while_others_use_the_node() -> None:
    """The limit holds back new tasks only; the numbers given are still those of all slots."""
    ledger = Ledger(new_entries([None] * 9))
    node = NodeSlots(0, READY, slots=4, limit=4)
    place_all(ledger, plan(ledger, [node]))
    for proc_id in (0, 1):
        ledger.succeed(proc_id, 0.0)
    assert plan(ledger, [replace(node, limit=2)]) == []
    assert plan(ledger, [replace(node, limit=3)]) == [Placement(4, 0, 0)]
    assert plan(ledger, [node]) == [Placement(4, 0, 0), Placement(5, 0, 1)]
    ledger.succeed(2, 0.0)
    assert plan(ledger, [replace(node, limit=2)]) == [Placement(4, 0, 0)]


def test_a_retry_waits_for_another_node_and_lets_others_by() -> None:
    """What failed on a node waits for the other, though full; the next task takes the slot."""
    nodes = make_nodes([(READY, 1), (READY, 1)])
    ledger = Ledger(new_entries([None] * 3))
    place_all(ledger, plan(ledger, nodes))
    retry(ledger, 0)
    assert ledger.waiting(9) == (2, 0)
    place_all(ledger, plan(ledger, nodes))
    assert ledger[2].node_id == 0
    ledger.succeed(2, 0.0)
    assert plan(ledger, nodes) == []
    ledger.succeed(1, 0.0)
    assert plan(ledger, nodes) == [Placement(0, 1, 0)]


@pytest.mark.parametrize(
    "other",
    [
        NodeSlots(1, BUSY, 1, 1, (0,)),
        NodeSlots(1, READY, 1, 1, ()),
        None,
    ],
    ids=["busy", "no GPU", "none"],
)
def test_a_retry_stays_where_no_other_node_takes_it(other: NodeSlots | None) -> None:
    """Where no other node could take it now, a task is tried again on the one it failed on."""
    here = NodeSlots(0, READY, 1, 1, (0,))
    ledger = Ledger(new_entries([None]))
    place_all(ledger, plan(ledger, [here], gpus_per_task=1))
    retry(ledger, 0)
    nodes = [here] if other is None else [here, other]
    assert plan(ledger, nodes, gpus_per_task=1) == [Placement(0, 0, 0, (0,))]


def test_a_retry_waits_for_a_node_that_may_take_none_now() -> None:
    """Another node is worth waiting for although nothing may run there at this moment."""
    here, other = NodeSlots(0, READY, 1, 1), NodeSlots(1, READY, 1, 1)
    ledger = Ledger(new_entries([None]))
    place_all(ledger, plan(ledger, [here]))
    retry(ledger, 0)
    assert plan(ledger, [here, replace(other, limit=0)]) == []
    assert plan(ledger, [here, other]) == [Placement(0, 1, 0)]


def test_a_rerun_may_go_anywhere() -> None:
    """Once the user asks for a task again, the nodes it failed on are as good as any."""
    nodes = make_nodes([(READY, 1), (READY, 1)])
    ledger = Ledger(new_entries([None]))
    place_all(ledger, plan(ledger, nodes))
    retry(ledger, 0)
    place_all(ledger, plan(ledger, nodes))
    assert ledger[0].node_id == 1
    ledger.fail(0, 0.0, 1, "")
    ledger.requeue(0)
    assert plan(ledger, nodes) == [Placement(0, 0, 0)]


def test_gpus_are_given_by_index_and_come_back() -> None:
    """The lowest free ones of those that may be used; a node without enough gets no task."""
    ledger = Ledger(new_entries([None] * 4))
    nodes = [NodeSlots(0, READY, 4, 4, (5, 1, 3, 7, 6)), NodeSlots(1, READY, 4, 4, (0,))]
    placements = plan(ledger, nodes, gpus_per_task=2)
    assert placements == [Placement(0, 0, 0, (1, 3)), Placement(1, 0, 1, (5, 6))]
    place_all(ledger, placements)
    assert plan(ledger, nodes, gpus_per_task=2) == []
    ledger.succeed(0, 0.0)
    assert plan(ledger, nodes, gpus_per_task=2) == [Placement(2, 0, 0, (1, 3))]


def test_a_gpu_that_another_took_is_left_out() -> None:
    """A running task keeps its GPU, and one that others compute on is not given out."""
    ledger = Ledger(new_entries([None] * 4))
    node = NodeSlots(0, READY, 4, 4, (0, 1, 2, 3))
    place_all(ledger, plan(ledger, [replace(node, limit=1)], gpus_per_task=1))
    assert ledger.held_gpus(0) == {0: 0}
    others_use_1 = replace(node, gpus=(0, 2, 3))
    assert [one.gpu_ids for one in plan(ledger, [others_use_1], gpus_per_task=1)] == [(2,), (3,)]


def live_for_a_while(ledger: Ledger) -> None:
    """What a monitor plans while tasks end and fail."""
    nodes = make_nodes([(READY, 2), (READY, 2), (BUSY, 2)])
    place_all(ledger, plan(ledger, nodes))
    for proc_id in (0, 3):
        ledger.succeed(proc_id, 0.0)
    for proc_id in (1, 2):
        retry(ledger, proc_id)
    place_all(ledger, plan(ledger, nodes, Distribution.CYCLIC))
    for proc_id in (4, 5):
        retry(ledger, proc_id)
    assert len(plan(ledger, nodes)) == 2


def test_a_plan_costs_the_same_however_long_the_queue() -> None:
    """Calls made and memory touched with 20 tasks and with 100,000."""
    calls, peaks = [], []
    for count in (20, 100_000):
        first, second = Ledger(new_entries([None] * count)), Ledger(new_entries([None] * count))
        calls.append(calls_of(partial(live_for_a_while, first)))
        peaks.append(memory_of(partial(live_for_a_while, second)))
    assert calls[0] == calls[1] > 100
    assert max(peaks) < 50_000


def test_a_plan_costs_the_same_however_many_nodes_are_full() -> None:
    """One slot that became free among 3 full nodes and among 1,000; and none."""
    one_free, none_free = [], []
    for count in (3, 1000):
        nodes = make_nodes([(READY, 2)] * count)
        ledger = Ledger(new_entries([None] * (2 * count + 10)))
        vacancies = Vacancies(ledger, range(count))
        work = partial(plan_vacancies, ledger, nodes, vacancies)
        place_all(ledger, work())
        assert work() == []
        none_free.append(calls_of(work))
        ledger.succeed(4, 0.0)
        one_free.append(calls_of(work))
        assert work() == [Placement(2 * count, 2, 0)]
    assert none_free[0] == none_free[1]
    assert one_free[0] == one_free[1] > 10


def test_a_node_is_looked_at_again() -> None:
    """A node left out comes back when a task leaves it or it is noted; a BUSY one never goes."""
    nodes = make_nodes([(READY, 1), (READY, 1), (BUSY, 1)])
    ledger = Ledger(new_entries([None] * 4))
    vacancies = Vacancies(ledger, range(3))
    place_all(ledger, plan(ledger, make_nodes([(READY, 1)] * 3)))
    plan_vacancies(ledger, nodes, vacancies)
    assert (vacancies.candidates(), vacancies.full) == ([2], {0, 1})
    retry(ledger, 1)
    assert (vacancies.candidates(), vacancies.full) == ([1, 2], {0})
    vacancies.note(0)
    vacancies.note(3)
    assert (vacancies.candidates(), vacancies.full) == ([0, 1, 2, 3], set())


def test_retries_that_wait_for_another_node_are_not_looked_through() -> None:
    """Ten thousand tasks that avoid the node with free slots cost no more than one of them."""
    nodes = make_nodes([(READY, 4), (READY, 1)])
    calls = []
    for count in (2, 10_000):
        ledger = Ledger(new_entries([None] * count))
        for proc_id in range(count):
            ledger.place(Placement(proc_id, 0, 0), "nd", None)
            retry(ledger, proc_id)
        ledger.place(Placement(0, 1, 0), "nd", None)
        assert plan(ledger, nodes) == []
        calls.append(calls_of(partial(plan, ledger, nodes)))
    assert calls[0] == calls[1] > 10


def make_health(
    *,
    cpus: int = 8,
    foreign_cpus: float = 0.0,
    free: int = 16 * GIB,
    total: int = 16 * GIB,
    gpus: int = 0,
) -> NodeHealth:
    return NodeHealth(cpus, foreign_cpus, foreign_cpus, free, total, gpus, "boot")


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
    assert slots == nominal_slots(
        make_health(cpus=cpus),
        Demand(cpus_per_task),
        wanted=wanted,
        sized_by_cpus=sized_by_cpus,
        oversubscribe=oversubscribe,
    )


@pytest.mark.parametrize(
    ("demand", "wanted", "oversubscribe", "slots"),
    [
        (Demand(memory=4 * GIB), None, False, 4),
        (Demand(memory=4 * GIB), 6, False, 4),
        (Demand(memory=4 * GIB), 3, False, 3),
        (Demand(memory=17 * GIB), None, False, 0),
        (Demand(memory=17 * GIB), 6, True, 6),
        (Demand(gpus=1), None, False, 3),
        (Demand(gpus=2), None, False, 1),
        (Demand(gpus=1), 6, True, 3),
        (Demand(gpus=4), 6, True, 0),
        (Demand(2, 3 * GIB, 1), None, False, 3),
    ],
)
def test_memory_and_gpus_bound_a_node_too(
    *, demand: Demand, wanted: int | None, oversubscribe: bool, slots: int
) -> None:
    """The scarcest thing decides; oversubscribing shares CPUs and memory, never GPUs."""
    assert slots == nominal_slots(
        make_health(gpus=3),
        demand,
        wanted=wanted,
        sized_by_cpus=True,
        oversubscribe=oversubscribe,
    )


@pytest.mark.parametrize(
    ("demand", "oversubscribe", "objection"),
    [
        (Demand(), False, ""),
        (Demand(9), False, "has 8 CPUs, a task takes 9"),
        (Demand(9), True, ""),
        (Demand(memory=20 * GIB), False, "has 16.0 GiB of memory, a task takes 20.0 GiB"),
        (Demand(9, gpus=1), False, "has 8 CPUs, a task takes 9 and has 0 GPUs, a task takes 1"),
        (Demand(9, gpus=1), True, "has 0 GPUs, a task takes 1"),
    ],
)
def test_why_a_node_holds_no_task(*, demand: Demand, oversubscribe: bool, objection: str) -> None:
    """A node too small for a single task is refused in words."""
    assert room_objection(make_health(), demand, oversubscribe=oversubscribe) == objection


@pytest.mark.parametrize(
    ("demand", "wanted", "oversubscribe", "warning"),
    [
        (Demand(), None, False, ""),
        (Demand(), 8, False, ""),
        (
            Demand(2),
            6,
            False,
            "ws01 runs 4 tasks at once instead of 6: it has 8 CPUs, a task takes 2; "
            "oversubscribe takes the wish as it is",
        ),
        (
            Demand(memory=512 * 2**20 + 2**33),
            8,
            False,
            "ws01 runs 1 tasks at once instead of 8: it has 16.0 GiB of memory, a task takes "
            "8.5 GiB; oversubscribe takes the wish as it is",
        ),
        (Demand(memory=100 * 2**20), 8, False, ""),
        (
            Demand(4, gpus=1),
            3,
            True,
            "ws01 runs 2 tasks at once instead of 3: it has 2 GPUs, a task takes 1",
        ),
        (Demand(), 80, True, ""),
    ],
)
def test_a_capped_wish_is_told(
    *, demand: Demand, wanted: int | None, oversubscribe: bool, warning: str
) -> None:
    """By how much, what is too little, and what to do about it where something can be done."""
    health = make_health(gpus=2)
    assert warning == cap_warning(
        "ws01", health, demand, wanted=wanted, oversubscribe=oversubscribe
    )


@BUSY_MACHINE
@given(
    health=st.builds(
        make_health, cpus=st.integers(1, 9), total=st.integers(1, 99), gpus=st.integers(0, 4)
    ),
    demand=st.builds(Demand, st.integers(1, 4), st.none() | st.integers(1, 50), st.integers(0, 3)),
    wanted=st.integers(1, 12),
    oversubscribe=st.booleans(),
)
def test_what_is_told_is_what_is_done(
    *, health: NodeHealth, demand: Demand, wanted: int, oversubscribe: bool
) -> None:
    """A warning exactly where fewer slots are given than wished, an objection where none is."""
    slots = nominal_slots(
        health, demand, wanted=wanted, sized_by_cpus=True, oversubscribe=oversubscribe
    )
    warning = cap_warning("ws01", health, demand, wanted=wanted, oversubscribe=oversubscribe)
    assert 0 <= slots <= wanted
    assert bool(warning) == (slots < wanted)
    assert not warning or f"runs {slots} tasks at once instead of {wanted}:" in warning
    assert bool(room_objection(health, demand, oversubscribe=oversubscribe)) == (slots == 0)


@pytest.mark.parametrize(
    ("foreign_cpus", "cpus_per_task", "slots"),
    [
        (0.0, 1, 8),
        (0.49, 1, 8),
        (0.51, 1, 7),
        (3.2, 1, 5),
        (3.2, 2, 2),
        (7.9, 1, 1),
        (25.0, 1, 1),
        (6.0, 4, 1),
    ],
)
def test_slots_shrink_with_what_others_use(
    foreign_cpus: float, cpus_per_task: int, slots: int
) -> None:
    """CPUs of others count to the nearest whole one; one task is left for the probe to judge."""
    health = make_health(foreign_cpus=foreign_cpus)
    demand = Demand(cpus_per_task)
    nominal = 8 // cpus_per_task
    assert slots == slots_now(nominal, health, demand, own_running=0, oversubscribe=False)
    assert nominal == slots_now(nominal, health, demand, own_running=0, oversubscribe=True)


@pytest.mark.parametrize(
    ("free", "own_running", "slots"),
    [(16, 0, 4), (9, 0, 2), (3, 0, 0), (3, 2, 2), (5, 2, 3), (0, 4, 4), (99, 3, 4)],
)
def test_slots_shrink_with_the_memory_that_is_free(free: int, own_running: int, slots: int) -> None:
    """Our running tasks keep their memory; a further one needs its own free."""
    health = make_health(free=free * GIB)
    assert slots == slots_now(
        4, health, Demand(memory=4 * GIB), own_running=own_running, oversubscribe=False
    )


@given(
    nominal=st.integers(0, 20),
    cpus=st.integers(1, 20),
    foreign=st.floats(0, 40),
    more=st.floats(0, 10),
    demand=st.builds(Demand, st.integers(1, 5)),
)
def test_the_more_others_use_the_fewer_run(
    nominal: int, cpus: int, foreign: float, more: float, demand: Demand
) -> None:
    """Never above the nominal slots, never up with a higher load, never to none by load alone."""
    slots = slots_now(
        nominal,
        make_health(cpus=cpus, foreign_cpus=foreign),
        demand,
        own_running=0,
        oversubscribe=False,
    )
    fewer = slots_now(
        nominal,
        make_health(cpus=cpus, foreign_cpus=foreign + more),
        demand,
        own_running=0,
        oversubscribe=False,
    )
    assert min(1, nominal) <= fewer <= slots <= nominal


@pytest.mark.parametrize(
    ("failures", "completed_there", "completed_elsewhere", "drain"),
    [
        (3, 0, 1, True),
        (9, 0, 50, True),
        (2, 0, 50, False),
        (3, 1, 50, False),
        (3, 0, 0, False),
    ],
)
def test_a_node_that_only_fails_is_drained(
    *, failures: int, completed_there: int, completed_elsewhere: int, drain: bool
) -> None:
    """So many in a row, none completed there, some elsewhere: else the tasks may be to blame."""
    assert should_drain(failures, completed_there, completed_elsewhere, 3) is drain


@pytest.mark.parametrize("state", [state for state in TaskState if state.is_final])
def test_what_is_tried_again(state: TaskState) -> None:
    """A task that failed or lost its node, as often as asked for; nothing else."""
    fails = state in (TaskState.FAILED, TaskState.NODE_FAIL)
    assert [may_retry(state, retried, 2) for retried in range(4)] == [fails, fails, False, False]
    assert not may_retry(state, 0, 0)
