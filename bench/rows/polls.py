"""A thousand tasks that tell their progress once a second: what it costs to follow them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.clients import talk
from bench.figures import Goal, Measure, Row, figure
from bench.rig import client, sshd_site

_SFTP, _SHARED = "Allot, over SFTP", "Allot, shared files"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    work: dict[str, Any] = {"slots": 5 if quick else 125, "seconds": 3.0 if quick else 20.0}
    with sshd_site(8) as site:
        yield {
            _SFTP: client(talk.polled, site, **work),
            _SHARED: client(talk.polled, site, shared_fs=True, **work),
        }


ROW = Row(
    "polls",
    "1,000 running tasks, a marker a second each, 1 s polls",
    _contenders,
    [
        Goal("% of a core, over SFTP", figure("core_pct", _SFTP), "<=", 15),
        Goal("s from written to seen, p99, over SFTP", figure("late_p99_s", _SFTP), "<=", 1.5),
        Goal("of the bytes allowed on the wire", figure("wire_ratio", _SFTP), "<=", 1),
        Goal("% of a core, shared files", figure("core_pct", _SHARED), "<=", 8),
    ],
    shown=("core_pct", "late_p99_s"),
    note=(
        "The bytes allowed are twice what was newly written and 300 a task and poll. A marker that "
        "a later one overtook counts as seen with it. While the lateness is taken, nothing else is."
    ),
)
