"""Allot's scheduler alone: what it costs to decide where the next task goes."""

from __future__ import annotations

import time

from allot.lifecycle import Ledger, Placement, new_entries
from allot.model import NodeState
from allot.scheduler import NodeSlots, Vacancies, plan
from bench.figures import Figures

_SLOTS = 4
_MOST_DECISIONS = 5000


def decided(*, tasks: int, nodes: int) -> Figures:
    """A queue of so many tasks; when all slots are full, they get free one at a time."""
    ledger = Ledger(new_entries([None] * tasks))
    places = [NodeSlots(number, NodeState.READY, _SLOTS, _SLOTS) for number in range(nodes)]
    vacancies = Vacancies(ledger, range(nodes))
    running, spent, count = _fill(ledger, places), 0.0, 0
    _decide(ledger, places, vacancies)
    while running and count < _MOST_DECISIONS:
        ledger.succeed(running.pop(0), 0.0)
        began = time.perf_counter()
        placements = _decide(ledger, places, vacancies)
        spent += time.perf_counter() - began
        for placement in placements:
            ledger.place(placement, "node", None)
            running.append(placement.proc_id)
        count += len(placements)
        if not placements:
            break
    if not count:
        raise RuntimeError("no task waited")
    return {"tasks": tasks, "nodes": nodes, "per_task_us": 1e6 * spent / count}


def _decide(ledger: Ledger, places: list[NodeSlots], vacancies: Vacancies) -> list[Placement]:
    """As Allot's foreman does it."""
    nodes = [places[node_id] for node_id in vacancies.candidates()]
    for node in nodes:
        vacancies.see(node)
    return plan(ledger, nodes)


def _fill(ledger: Ledger, places: list[NodeSlots]) -> list[int]:
    placements = plan(ledger, places)
    for placement in placements:
        ledger.place(placement, "node", None)
    return [placement.proc_id for placement in placements]
