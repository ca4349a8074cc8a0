"""What a user asks of a cluster: nonsense is refused with the argument's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allot.errors import ConfigError
from allot.scheduler import Distribution
from allot.settings import Settings, as_distribution


def make(**changes: Any) -> Settings:
    return Settings(**{"job_name": "job", "output_dir": Path("/out"), **changes})


@pytest.mark.parametrize("name", ["job", "a b'c", "Größe", ".x", "-x", "a" * 200, "\udcff"])
def test_a_job_may_have_any_name_a_file_can_have(name: str) -> None:
    """Spaces, quotes and other alphabets are no trouble."""
    assert make(job_name=name).job_name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\0b", "a" * 201, "ö" * 101, "\ud83d", None, 7, b"job"]
)
def test_a_name_no_file_can_have_is_refused(name: Any) -> None:
    """It would name the job's files, so it is refused before anything is made."""
    with pytest.raises(ConfigError, match="job_name"):
        make(job_name=name)


COUNTS = ("nnodes", "ntasks", "ntasks_per_node", "cpus_per_task", "max_bars")


@pytest.mark.parametrize("argument", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "4"])
def test_a_count_is_a_whole_number_from_one(argument: str, value: Any) -> None:
    """The refusal names the argument and what it was."""
    with pytest.raises(ConfigError, match=f"{argument} must be .* not {value!r}"):
        make(**{argument: value})
    assert getattr(make(**{argument: 3}), argument) == 3


@pytest.mark.parametrize("argument", COUNTS)
def test_a_count_may_be_left_out(argument: str) -> None:
    """None leaves it to Allot, but a task takes some number of CPUs."""
    if argument == "cpus_per_task":
        with pytest.raises(ConfigError, match=argument):
            make(cpus_per_task=None)
    else:
        assert getattr(make(**{argument: None}), argument) is None


@pytest.mark.parametrize("value", ["yes", 2, []])
def test_shared_fs_is_a_plain_answer(value: Any) -> None:
    """None, True and False are all there is."""
    with pytest.raises(ConfigError, match="shared_fs"):
        make(shared_fs=value)
    assert [make(shared_fs=answer).shared_fs for answer in (None, True, False)] == [
        None,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1", None])
def test_the_poll_interval_is_above_zero(value: Any) -> None:
    """Looking without a pause, or never, is refused."""
    with pytest.raises(ConfigError, match="poll_interval"):
        make(poll_interval=value)
    assert make(poll_interval=1).poll_interval == 1


def test_distributions_are_words_of_slurm() -> None:
    """``"block"`` and ``"cyclic"`` are known, anything else is refused with both named."""
    assert as_distribution("block") is Distribution.BLOCK
    assert as_distribution(Distribution.CYCLIC) is as_distribution("cyclic")
    others: list[object] = ["plane", "BLOCK", None, []]
    for value in others:
        with pytest.raises(ConfigError, match='"block" or "cyclic"'):
            as_distribution(value)
