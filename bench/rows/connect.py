"""A room full of nodes: connect, probe, one task each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench import peers
from bench.clients import job, with_asyncssh, with_paramiko
from bench.figures import Goal, Measure, Row, ratio
from bench.rig import client, sshd_site

_COUNTS = (100, 200)


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    with sshd_site(20 if quick else max(_COUNTS)) as every:
        found: dict[str, Measure] = {}
        for count in _COUNTS:
            site = every.first(count // 10 if quick else count)
            own = {
                "Allot": client(job.one_each, site),
                "asyncssh": client(with_asyncssh.one_each, site),
                "paramiko": client(with_paramiko.one_each, site),
                **peers.clush(site),
                **peers.pdsh(site),
            }
            found |= {f"{name}, {count}": measure for name, measure in own.items()}
        yield found


ROW = Row(
    "connect",
    "100 and 200 nodes: connect, probe, one task each",
    _contenders,
    [
        goal
        for count in _COUNTS
        for goal in (
            Goal(
                f"time of asyncssh, connecting and one command, {count} nodes",
                ratio("took_s", f"Allot, {count}", f"asyncssh, {count}"),
                "<=",
                1.3,
            ),
            Goal(
                f"times as fast as clush, {count} nodes",
                ratio("took_s", f"clush, {count}", f"Allot, {count}"),
                ">=",
                3,
            ),
        )
    ],
    shown=("took_s",),
)
