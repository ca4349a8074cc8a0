"""A long queue: what a task costs must not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.clients import job
from bench.figures import Goal, Measure, Row, figure, ratio
from bench.rig import client, sshd_site

_MANY, _FEW = "Allot, 10,000", "Allot, 1,000"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    few = 50 if quick else 1000
    with sshd_site(8) as site:
        yield {
            _FEW: client(job.trivial_and_state, site, tasks=few, slots=4),
            _MANY: client(job.trivial_and_state, site, tasks=10 * few, slots=4),
        }


ROW = Row(
    "many",
    "10,000 tasks against 1,000",
    _contenders,
    [
        Goal("rate of 1,000", ratio("rate", _MANY, _FEW), ">=", 0.85),
        Goal("MB of the client", figure("peak_mb", _MANY), "<=", 150),
        Goal("% of the time for the state", figure("state_pct", _MANY), "<=", 5),
    ],
    shown=("rate", "peak_mb"),
)
