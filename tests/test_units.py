"""Times and sizes as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from allot.errors import ConfigError
from allot.units import as_bytes, as_seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
        ("90s", 90),
        ("30m", 1800),
        ("1.5 h", 5400),
        ("2d", 172800),
        ("05:30", 330),
        ("1:30:00", 5400),
        ("100:00:00", 360000),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-03:04:05", 183845),
    ],
)
def test_a_time_may_be_written_in_many_ways(value: Any, seconds: float) -> None:
    """Seconds, a timedelta, Slurm's forms, or a number with its unit."""
    assert as_seconds("time_limit", value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, None, float("inf"), float("nan"), timedelta(0), []),
        *("", "90", "1:60", "1:00:60", "1-2:3:4:5", "-5s", "5 weeks", "1-", "s", "12:61:00", "٣٠s"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(value: Any) -> None:
    """The refusal names the argument and the forms there are; a bare number is not guessed at."""
    with pytest.raises(ConfigError, match=r"time_limit must be .*HH:MM:SS"):
        as_seconds("time_limit", value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        ("4G", 4 << 30),
        ("512M", 512 << 20),
        ("1.5 KiB", 1536),
        ("2TB", 2 << 40),
        ("100", 100),
        ("7b", 7),
    ],
)
def test_memory_may_be_written_in_many_ways(value: Any, size: int) -> None:
    """Bytes, or a number with its unit, in powers of 1024."""
    assert as_bytes("mem_per_task", value) == size


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None, "", "G", "4X", "-4G", "0.1", []])
def test_memory_that_makes_no_sense_is_refused(value: Any) -> None:
    """The refusal names the argument and the forms there are."""
    with pytest.raises(ConfigError, match=r'mem_per_task must be .*"4G"'):
        as_bytes("mem_per_task", value)
