"""A thousand tasks' bars, drawn while they move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.clients import talk
from bench.figures import Goal, Measure, Row, figure
from bench.rig import client, sshd_site

_SMALL, _TALL = "Allot, 50 lines", "Allot, 1,050 lines"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    work: dict[str, Any] = {"slots": 5 if quick else 125, "seconds": 3.0 if quick else 20.0}
    with sshd_site(8) as site:
        yield {
            _SMALL: client(talk.drawn, site, lines=50, **work),
            _TALL: client(talk.drawn, site, lines=1050, **work),
        }


ROW = Row(
    "drawing",
    "drawing the bars of 1,000 running tasks",
    _contenders,
    [
        Goal("% of a core, terminal of 50 lines", figure("core_pct", _SMALL), "<=", 3),
        Goal("% of a core, every bar visible", figure("core_pct", _TALL), "<=", 3),
    ],
    shown=("core_pct",),
    note="CPU time of the thread that draws, less what it takes to wait without bars.",
)
