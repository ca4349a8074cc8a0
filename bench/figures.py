"""What a row of the comparison is: who takes part, what is measured, what must be reached.

Rules: pure. Figures of different rounds are never compared with each other: a goal is a number made
of one round's figures, and its median over the rounds counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import log
from statistics import median
from typing import Literal, TypeAlias

Figures: TypeAlias = Mapping[str, float]
"""What one measurement found, by name; a name ends in its unit (``took_s``, ``peak_mb``)."""

Measure: TypeAlias = Callable[[], Figures]
Round: TypeAlias = Mapping[str, Figures]
"""The figures of everyone who took part in a round, by their names."""

UNITS: Mapping[str, str] = {
    "rate": "tasks/s",
    "took_s": "s",
    "cpu_s": "s of the client's CPU time",
    "nodes_cpu_s": "s of the nodes' CPU time",
    "core_pct": "% of a core",
    "peak_mb": "MB, the client at its largest",
    "threads": "threads",
    "files": "open files",
    "state_pct": "% of the time for the state",
    "idle_pct": "% of the slots' time idle",
    "late_p50_s": "s from written to seen, median",
    "late_p99_s": "s from written to seen, 99th percentile",
    "late_max_s": "s from written to seen, at most",
    "wire_ratio": "of the bytes allowed on the wire",
    "wire_bytes": "bytes on the wire a task and poll",
    "new_bytes": "bytes newly written a task and poll",
    "behind_s": "s from the last marker to its bar",
    "home_s": "s to bring the output home",
    "per_task_us": "µs a task",
}
"""What the names of figures mean, in the order in which they are shown."""


@dataclass(frozen=True)
class Goal:
    """Something that must be reached.

    Attributes:
        what: What it is, such as ``"rate of asyncssh"``.
        of: The number, from the figures of one round.
        sense: Whether the number must be at least or at most the bound.
        bound: The bound.
    """

    what: str
    of: Callable[[Round], float]
    sense: Literal[">=", "<="]
    bound: float

    def values(self, rounds: Sequence[Round]) -> list[float]:
        """The number in each round in which everyone that it takes took part."""
        values = []
        for each in rounds:
            try:
                values.append(self.of(each))
            except KeyError:  # a peer that is not installed
                continue
        return values

    def is_reached_by(self, value: float) -> bool:
        """Whether a number is good enough."""
        return value >= self.bound if self.sense == ">=" else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: As ``--only`` takes it.
        title: The work that is done.
        contenders: Sets up the nodes, smaller ones for a quick look, and gives who takes part.
        goals: What must be reached.
        shown: The figures that are drawn.
        along: The figure along which the others grow, for a row that shows growth.
        note: What else to know.
    """

    name: str
    title: str
    contenders: Callable[[bool], AbstractContextManager[Mapping[str, Measure]]]
    goals: Sequence[Goal] = ()
    shown: Sequence[str] = ("rate",)
    along: str | None = None
    note: str = ""


def ratio(figure: str, one: str, other: str) -> Callable[[Round], float]:
    """How many times a figure of ``other`` that of ``one`` is, for a goal."""
    return lambda each: each[one][figure] / each[other][figure]


def slope(figure: str, along: str) -> Callable[[Round], float]:
    """How steeply a figure grows at the upper end: the power of ``along`` that it follows there.

    1 is linear, 0 flat; it is taken from the two largest sizes of a round, for a goal.
    """

    def of(each: Round) -> float:
        points = sorted((found[along], found[figure]) for found in each.values())
        (small, before), (large, after) = points[-2:]
        return log(after / before) / log(large / small)

    return of


def figure(name: str, of: str) -> Callable[[Round], float]:
    """A figure itself, for a goal."""
    return lambda each: each[of][name]


@dataclass(frozen=True)
class Spread:
    """The same figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))
