"""A thousand nodes: nothing that is limited to fewer stands in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.clients import job, with_asyncssh
from bench.figures import Goal, Measure, Row, figure
from bench.rig import client
from bench.simulated import simulated_site


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    with simulated_site(50 if quick else 1000) as site:
        yield {
            "Allot": client(job.one_each_of_many, site),
            "asyncssh": client(with_asyncssh.one_each, site),
        }


ROW = Row(
    "thousand",
    "1,000 nodes, one task each",
    _contenders,
    [Goal("seconds (it works, no stall)", figure("took_s", "Allot"), "<=", 300)],
    shown=("took_s", "peak_mb"),
    note=(
        "The nodes are simulated by one asyncssh server, a single process that answers each "
        "command with a real Bash, on the cores that the client has too: hence a probe may take "
        "two minutes. The client starts with a soft limit of 1,024 open files."
    ),
)
