"""A login shell whose rc file takes a second, as conda and pyenv make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.clients import job
from bench.figures import Goal, Measure, Round, Row
from bench.rig import client, sshd_site

_RC_S = 1.0
_SLOW = "Allot, rc file of 1 s"


@contextmanager
def _contenders(quick: bool) -> Iterator[Mapping[str, Measure]]:
    work: dict[str, Any] = {"tasks": 100 if quick else 2000, "slots": 4}
    with sshd_site(8) as plain, sshd_site(8, rc={".bashrc": f"sleep {_RC_S:g}\n"}) as slow:
        yield {
            "Allot": client(job.trivial, plain, **work),
            _SLOW: client(job.trivial, slow, **work),
        }


def _after_the_first_second(each: Round) -> float:
    slow = each[_SLOW]
    return slow["tasks"] / (slow["took_s"] - _RC_S) / each["Allot"]["rate"]


ROW = Row(
    "slow-rc",
    "the same where the login shell's rc file takes 1 s",
    _contenders,
    [Goal("rate without it, after the first second", _after_the_first_second, ">=", 0.8)],
)
