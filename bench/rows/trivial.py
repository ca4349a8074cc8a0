"""Many tasks that do nothing: what starting a task and knowing of its end costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench import peers
from bench.clients import job, with_asyncssh, with_fabric, with_hyperqueue, with_pssh
from bench.figures import Goal, Measure, Row, ratio
from bench.rig import client, sshd_site


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    work: dict[str, Any] = {"tasks": 100 if quick else 2000, "slots": 4}
    with sshd_site(8) as site:
        yield {
            "Allot": client(job.trivial, site, **work),
            "asyncssh": client(with_asyncssh.trivial, site, **work),
            "HyperQueue": client(with_hyperqueue.trivial, site, **work),
            "Fabric": client(with_fabric.trivial, site, **work),
            "parallel-ssh": client(with_pssh.trivial, site, **work),
            **peers.gnu_parallel(site, **work),
            "Bash loop": peers.bash_loop(site, **work),
        }


ROW = Row(
    "trivial",
    "2,000 trivial tasks, 8 nodes x 4 slots",
    _contenders,
    [
        Goal("rate of asyncssh (attached, no files)", ratio("rate", "Allot", "asyncssh"), ">=", 1),
        Goal("rate of HyperQueue", ratio("rate", "Allot", "HyperQueue"), ">=", 1),
        Goal("rate of GNU parallel", ratio("rate", "Allot", "GNU parallel"), ">=", 10),
        Goal("rate of a local Bash loop", ratio("rate", "Allot", "Bash loop"), ">=", 0.7),
    ],
    note=(
        "Allot's tasks each have an output file, an exit code and a record on disk, over SFTP. "
        "HyperQueue's workers are there before the time is taken, and no SSH takes part; its "
        "tasks have output files. Fabric, parallel-ssh, asyncssh and GNU parallel (with "
        "ControlMaster) are attached, without output files. The Bash loop starts `setsid bash -c "
        "'true; echo $? > file'` on this machine, 32 at once."
    ),
)
