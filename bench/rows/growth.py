"""How time, memory and decisions grow with the tasks and with the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from bench import child
from bench.clients import decide, job
from bench.figures import Goal, Measure, Row, ratio, slope
from bench.rig import client, sshd_site

_LINEAR = 1.1  # what the slope of linear growth may look like
_FLAT = 0.1


@contextmanager
def _by_tasks(quick: bool) -> Iterator[Mapping[str, Measure]]:
    counts = (10, 30, 100) if quick else (10, 100, 1000, 10_000)
    with sshd_site(8) as site:
        yield {
            f"Allot, {count:,} tasks": client(job.trivial, site, tasks=count, slots=4)
            for count in counts
        }


@contextmanager
def _by_nodes(quick: bool) -> Iterator[Mapping[str, Measure]]:
    counts = (1, 5, 10) if quick else (1, 5, 20, 50, 100, 200)
    with sshd_site(max(counts)) as site:
        yield {f"Allot, {count} nodes": client(job.one_each, site.first(count)) for count in counts}


@contextmanager
def _decisions_by_tasks(quick: bool) -> Iterator[Mapping[str, Measure]]:
    counts = (100, 1000, 10_000) if quick else (100, 1000, 10_000, 100_000)
    yield {
        f"Allot, {count:,} tasks": partial(child.run, decide.decided, tasks=count, nodes=8)
        for count in counts
    }


@contextmanager
def _decisions_by_nodes(quick: bool) -> Iterator[Mapping[str, Measure]]:  # noqa: ARG001 - it is quick
    yield {
        f"Allot, {count} nodes": partial(child.run, decide.decided, tasks=10_000, nodes=count)
        for count in (1, 10, 50, 200)
    }


ROWS = (
    Row(
        "growth-tasks",
        "growth with the tasks, 8 nodes x 4 slots",
        _by_tasks,
        [
            Goal("slope of the time", slope("took_s", "tasks"), "<=", _LINEAR),
            Goal("slope of the memory", slope("peak_mb", "tasks"), "<=", _LINEAR),
            Goal(
                "time of 10 tasks, of that of 100",
                ratio("took_s", "Allot, 10 tasks", "Allot, 100 tasks"),
                "<=",
                1,
            ),
        ],
        shown=("took_s", "peak_mb"),
        along="tasks",
        note="The slope at the upper end: 1 is linear, 0 flat.",
    ),
    Row(
        "growth-nodes",
        "growth with the nodes, one task each",
        _by_nodes,
        [
            Goal("slope of the time", slope("took_s", "nodes"), "<=", _LINEAR),
            Goal("slope of the memory", slope("peak_mb", "nodes"), "<=", _LINEAR),
        ],
        shown=("took_s", "peak_mb"),
        along="nodes",
        note="The slope at the upper end: 1 is linear, 0 flat.",
    ),
    Row(
        "growth-decisions",
        "the scheduler's decision for one task, by the queue's length",
        _decisions_by_tasks,
        [Goal("slope of the time a task", slope("per_task_us", "tasks"), "<=", _FLAT)],
        shown=("per_task_us",),
        along="tasks",
        note="8 nodes x 4 slots, all full, one getting free at a time: the dearest case.",
    ),
    Row(
        "growth-decisions-nodes",
        "the scheduler's decision for one task, by the nodes",
        _decisions_by_nodes,
        [Goal("slope of the time a task", slope("per_task_us", "nodes"), "<=", _FLAT)],
        shown=("per_task_us",),
        along="nodes",
        note="4 slots a node, all full, one getting free at a time: the dearest case.",
    ),
)
