"""How soon a job runs: a few nodes launched, and a first hundred tasks done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.clients import job
from bench.figures import Measure, Row
from bench.rig import client, sshd_site


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:  # noqa: ARG001 - it is quick
    with sshd_site(8) as site:
        yield {
            "Allot, 5 nodes connected, probed and launched": client(job.launched, site.first(5)),
            "Allot, 100 tasks over 8 nodes, shared files": client(
                job.trivial, site, tasks=100, slots=4, shared_fs=None
            ),
            "Allot, 100 tasks over 8 nodes, over SFTP": client(
                job.trivial, site, tasks=100, slots=4
            ),
        }


ROW = Row("start", "how soon a job runs", _contenders, shown=("took_s",))
