"""Which slot ran which task when: what a time line is drawn from.

Rules: pure. Times are Unix seconds on the client's clock. A task has one bar, that of its latest
attempt; one that did not start, or was kept from an earlier job, has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from allot.model import TaskState, TaskStatus

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * hours for hours in (1, 2, 4, 6, 12)),
)
_MOST_TICKS = 6

# On white and on black; told apart also by those who do not see all colours (after Okabe and Ito).
COLOURS: Mapping[TaskState, tuple[str, str]] = MappingProxyType(
    {
        TaskState.PENDING: ("#9a9a9a", "#6e6e6e"),
        TaskState.RUNNING: ("#1f6fb5", "#62b0f0"),
        TaskState.COMPLETED: ("#0a8a63", "#3fc796"),
        TaskState.FAILED: ("#c8410b", "#ff7a4d"),
        TaskState.TIMEOUT: ("#b87700", "#f0b429"),
        TaskState.CANCELLED: ("#767676", "#a6a6a6"),
        TaskState.NODE_FAIL: ("#a8437d", "#e48bc0"),
    }
)


@dataclass(frozen=True)
class Bar:
    """The time a task had its slot.

    Attributes:
        task: The task.
        start: When it started.
        end: When it ended, or now; not before ``start``.
    """

    task: TaskStatus
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return self.end - self.start


@dataclass(frozen=True)
class Lane:
    """One slot of a node, with what ran there.

    Attributes:
        node_id: The node's number.
        node_name: The node's name.
        local_id: The slot there.
        bars: What ran there, by start; at least one.
    """

    node_id: int
    node_name: str
    local_id: int
    bars: tuple[Bar, ...]

    @property
    def busy_s(self) -> float:
        """Seconds in which something ran; where two bars overlap they count once."""
        busy, reached = 0.0, -math.inf
        for bar in self.bars:
            busy += max(0.0, bar.end - max(bar.start, reached))
            reached = max(reached, bar.end)
        return busy


def lanes_of(tasks: Iterable[TaskStatus], now: float) -> tuple[Lane, ...]:
    """The slots that ran a task, by node and slot.

    Args:
        tasks: The tasks.
        now: Unix seconds; where the bars of running tasks end.
    """
    found: dict[tuple[int, int], list[Bar]] = {}
    for task in tasks:
        if task.started_at is None or task.node_id is None or task.local_id is None:
            continue
        end = now if task.ended_at is None else task.ended_at
        bar = Bar(task, task.started_at, max(task.started_at, end))
        found.setdefault((task.node_id, task.local_id), []).append(bar)
    return tuple(
        Lane(
            node_id,
            bars[0].task.node_name or "",
            local_id,
            tuple(sorted(bars, key=lambda bar: (bar.start, bar.end, bar.task.proc_id))),
        )
        for (node_id, local_id), bars in sorted(found.items())
    )


def extent(lanes: Sequence[Lane], since: float, until: float) -> tuple[float, float]:
    """Where the time axis begins and ends, so that every bar lies on it.

    Args:
        lanes: What is drawn.
        since: Where it begins unless a bar does earlier.
        until: Where it ends unless a bar does later.
    """
    bars = [bar for lane in lanes for bar in lane.bars]
    return (
        min([since, *(bar.start for bar in bars)]),
        max([since, until, *(bar.end for bar in bars)]),
    )


def ticks(span: float) -> list[int]:
    """Seconds at which an axis has its marks: round ones, from 0 on, at most seven.

    Args:
        span: How long the axis is, in seconds.
    """
    fitting = (step for step in _STEPS if span <= _MOST_TICKS * step)
    step = next(fitting, _DAY * max(1, math.ceil(span / _DAY / _MOST_TICKS)))
    return list(range(0, int(span) + 1, step))
