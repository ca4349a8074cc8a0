"""Times and sizes as people write them.

Rules: pure; a number is seconds or bytes as it is, a refusal says which forms there are.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from allot.errors import ConfigError

_CLOCK = re.compile(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(s|m|h|d)", re.ASCII)
_SPAN_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_SIZE_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_BELOW = 60


def as_seconds(name: str, value: object) -> float:
    """A span of time.

    Args:
        name: The argument, for the error.
        value: A number of seconds, a ``timedelta``, Slurm's ``[D-]HH:MM:SS``, ``D-HH``,
            ``D-HH:MM`` or ``MM:SS`` (sbatch(1), ``--time``), or a number with ``s``, ``m``,
            ``h`` or ``d``.

    Returns:
        Seconds, above 0.

    Raises:
        ConfigError: It is none of these.
    """
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _read_span(value.strip())
    if seconds is None or not 0 < seconds < math.inf:
        raise ConfigError(
            f"{name} must be a number of seconds above 0, a timedelta, or text such as "
            f'"90s", "30m", "2h", "MM:SS", "HH:MM:SS" or "D-HH:MM:SS", not {value!r}'
        )
    return seconds


def _read_span(text: str) -> float | None:
    if span := _SPAN.fullmatch(text):
        return float(span[1]) * _SPAN_S[span[2]]
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return None
    days, first, second, third = clock.groups()
    minor = [int(part) for part in (second, third) if part is not None]
    if any(part >= _BELOW for part in minor):
        return None
    if days is not None:
        parts = [int(first), *minor, 0, 0][:3]
    elif third is not None:
        parts = [int(first), *minor]
    elif second is not None:
        parts = [0, int(first), *minor]
    else:
        return None  # Slurm reads a bare number as minutes, Allot seconds: neither is guessed
    hours, minutes, seconds = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def as_bytes(name: str, value: object) -> int:
    """An amount of memory.

    Args:
        name: The argument, for the error.
        value: A number of bytes, or text such as ``"4G"``, ``"512M"``, in powers of 1024 as
            Slurm counts.

    Returns:
        Bytes, at least 1.

    Raises:
        ConfigError: It is none of these.
    """
    size: float | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = float(match[1]) * _SIZE_BYTES[match[2].upper()]
    if size is None or size < 1:
        raise ConfigError(f'{name} must be bytes from 1, or text such as "4G", not {value!r}')
    return int(size)
