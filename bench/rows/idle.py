"""Tasks that run for long and print nothing: waiting must cost next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.clients import talk
from bench.figures import Goal, Measure, Row, figure
from bench.rig import client, sshd_site


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    seconds = 5.0 if quick else 30.0
    with sshd_site(10 if quick else 200) as site:
        yield {"Allot": client(talk.idle, site, slots=10, seconds=seconds)}


ROW = Row(
    "idle",
    "200 nodes, 2,000 tasks that print nothing",
    _contenders,
    [Goal("% of a core", figure("core_pct", "Allot"), "<=", 10)],
    shown=("core_pct",),
)
