"""Short tasks: how much of the slots' time is lost between the end of one and the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.clients import job
from bench.figures import Measure, Row
from bench.rig import client, sshd_site


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    with sshd_site(8) as site:
        yield {"Allot": client(job.short, site, tasks=100 if quick else 1000, slots=2)}


ROW = Row("slots", "1,000 tasks of 0.2 s, 8 nodes x 2 slots", _contenders, shown=("idle_pct",))
