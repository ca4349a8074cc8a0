"""Nodes that are far away: every packet takes 20 ms longer, each way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.clients import job
from bench.delay import delayed
from bench.figures import Goal, Measure, Row, ratio
from bench.rig import client, sshd_site

_FAR, _PROXY = "Allot, 20 ms away", "Allot, a proxy without delay"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    work: dict[str, Any] = {"tasks": 300 if quick else 2000, "slots": 32}
    with sshd_site(8) as near, delayed(near, 0.02) as far, delayed(near, 0) as proxied:
        yield {
            "Allot": client(job.trivial, near, **work),
            _PROXY: client(job.trivial, proxied, **work),
            _FAR: client(job.trivial, far, **work),
        }


ROW = Row(
    "far",
    "the same through a proxy that adds 20 ms each way, 8 x 32 slots",
    _contenders,
    [Goal("rate without it", ratio("rate", _FAR, "Allot"), ">=", 0.7)],
    note="The proxy is a process of its own on the same cores; one without delay shows its share.",
)
