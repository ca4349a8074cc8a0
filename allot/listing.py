"""Tasks and nodes as tables for people, and as JSON for programs.

Rules: pure. In JSON, names are those of the Python attributes, states are words, times Unix
seconds, sizes bytes; ``version`` grows when a name changes its meaning or goes away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from allot.forecast import task_elapsed
from allot.model import NodeHealth, NodeStatus, Summary, TaskStatus
from allot.wording import clean, clock, display_width, percent

JSON_VERSION = 1
_GIB = 2**30
_NONE = "-"


def job_json(
    job_name: str,
    job_id: str,
    output_dir: str,
    tasks: Sequence[TaskStatus],
    nodes: Sequence[NodeStatus],
) -> str:
    """A whole job: ``version, job_name, job_id, output_dir, counts, tasks, nodes``."""
    counts = Summary(tuple(tasks), 0.0).counts
    return _dump(
        {
            "job_name": job_name,
            "job_id": job_id,
            "output_dir": output_dir,
            "counts": {state.value: number for state, number in counts.items()},
            "tasks": [_task(task) for task in tasks],
            "nodes": [_node(node) for node in nodes],
        }
    )


def counts_line(tasks: Sequence[TaskStatus]) -> str:
    """How many tasks are in each state."""
    counts = Summary(tuple(tasks), 0.0).counts
    parts = [f"{number} {state.value}" for state, number in counts.items() if number]
    return f"{len(tasks)} tasks: {', '.join(parts) or 'none'}"


def task_table(tasks: Sequence[TaskStatus], now: float) -> str:
    """A line a task.

    Args:
        tasks: Which.
        now: Unix seconds, for those that run.
    """
    rows = [("TASK", "STATE", "NODE", "TRY", "DONE", "TIME", "EXIT", "REASON")]
    for task in tasks:
        elapsed = task_elapsed(task, now)
        rows.append(
            (
                str(task.proc_id),
                task.state.value,
                task.node_name or _NONE,
                str(task.attempt),
                _NONE if task.progress is None else percent(task.progress.fraction).strip(),
                _NONE if elapsed is None else clock(elapsed),
                _NONE if task.exit_code is None else str(task.exit_code),
                task.reason,
            )
        )
    return _table(rows)


def node_table(nodes: Sequence[NodeStatus], *, as_json: bool = False) -> str:
    """A line a node, or ``version, nodes`` in JSON."""
    if as_json:
        return _dump({"nodes": [_node(node) for node in nodes]})
    rows = [("NODE", "STATE", "CPUS", "LOAD", "FREE", "MEMORY", "GPUS", "REASON")]
    rows += [(clean(n.name), n.state.value, *_health(n.health), n.reason) for n in nodes]
    return _table(rows)


def _health(health: NodeHealth | None) -> tuple[str, str, str, str, str]:
    if health is None:
        return (_NONE,) * 5
    return (
        str(health.cpus),
        f"{health.load_1m:.2f}",
        f"{health.memory_free / _GIB:.1f}G",
        f"{health.memory_total / _GIB:.1f}G",
        str(health.gpus),
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - display_width(cell))
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    )


def _task(task: TaskStatus) -> dict[str, Any]:
    progress = task.progress
    params = task.params
    return {
        "proc_id": task.proc_id,
        "state": task.state.value,
        "node_name": task.node_name,
        "node_id": task.node_id,
        "local_id": task.local_id,
        "attempt": task.attempt,
        "progress": None if progress is None else [progress.step, progress.total],
        "exit_code": task.exit_code,
        "output_file": None if task.output_file is None else str(task.output_file),
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "reason": task.reason,
        "params": dict(params) if isinstance(params, dict) else params,
    }


def _node(node: NodeStatus) -> dict[str, Any]:
    health, moved = node.health, node.transfer
    return {
        "name": node.name,
        "state": node.state.value,
        "node_id": node.node_id,
        "reason": node.reason,
        "health": None if health is None else dict(vars(health)),
        "transfer": None if moved is None else [moved.step, moved.total],
    }


def _dump(content: dict[str, Any]) -> str:
    return json.dumps({"version": JSON_VERSION} | content, indent=1, default=str)
