"""Much output: markers are found in it however fast it grows, and its size costs no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sandbox import IS_ROOT

from bench.clients import pour, talk
from bench.figures import Goal, Measure, Round, Row, figure
from bench.rig import client, sshd_site

_LITTLE, _MUCH = "Allot, 10 MB poured", "Allot, 1 GB poured"
_SLOW, _FAST = "Allot, a marker a second", "Allot, 10,000 markers a second"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    seconds = 3.0 if quick else 20.0
    work: dict[str, Any] = {"slots": 1, "seconds": seconds}
    # Files that are really the node's own; only root can make them.
    own = "own" if IS_ROOT else "."
    with sshd_site(1, private="own" if IS_ROOT else None) as one, sshd_site(8) as site:
        yield {
            _LITTLE: client(pour.poured, one, within=own, megabytes=10),
            _MUCH: client(pour.poured, one, within=own, megabytes=50 if quick else 1000),
            _SLOW: client(talk.polled, site, **work),
            _FAST: client(talk.polled, site, markers_per_s=10_000, **work),
        }


def _more_memory(each: Round) -> float:
    return each[_MUCH]["peak_mb"] - each[_LITTLE]["peak_mb"]


def _more_core(each: Round) -> float:
    return each[_FAST]["core_pct"] - each[_SLOW]["core_pct"]


ROW = Row(
    "output",
    "an output of 1 GB at full speed; 8 tasks with 10,000 markers a second each",
    _contenders,
    [
        Goal("s from the last marker of 1 GB to its bar", figure("behind_s", _MUCH), "<=", 1.5),
        Goal("MB more of the client than with 10 MB", _more_memory, "<=", 5),
        Goal("% of a core more than with a marker a second", _more_core, "<=", 1),
        Goal("s from written to seen, p99", figure("late_p99_s", _FAST), "<=", 1.5),
    ],
    shown=("core_pct", "peak_mb"),
    note="The output is on a file system of the node's own, and is brought home at the end.",
)
