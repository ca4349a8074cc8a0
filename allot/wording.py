"""Small pieces of text for people: clock times, rates, and text cut to a terminal's columns.

Rules: pure. Foreign text (names, reasons) goes through ``clean`` before it is shown.
"""

from __future__ import annotations

import unicodedata

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_DAYS_FROM = 100 * _HOUR
_NEXT_UNIT_FROM = 999.5  # shown as 1.0k, since 999.5 would be rounded to 1000


def clock(seconds: float) -> str:
    """``MM:SS``, ``H:MM:SS``, and from 100 hours on ``Dd HHh``."""
    whole = int(seconds)
    if whole >= _DAYS_FROM:
        return f"{whole // _DAY}d {whole % _DAY // _HOUR:02}h"
    hours, minutes = whole // _HOUR, whole % _HOUR // _MINUTE
    text = f"{minutes:02}:{whole % _MINUTE:02}"
    return f"{hours}:{text}" if hours else text


def speed(rate: float) -> str:
    """A rate in steps per second; below one, the seconds a step takes."""
    return f"{_number(rate)} step/s" if rate >= 1 else f"{_number(1 / rate)} s/step"


def _number(value: float) -> str:
    """Three digits in four columns: 1.23, 12.3, 123, 1.2k, 12k, 123k."""
    unit = ""
    for larger in ("k", "M", "G"):
        if value >= _NEXT_UNIT_FROM:
            value, unit = value / 1000, larger
    if unit:
        text = f"{value:.1f}" if f"{value:.1f}"[1] == "." else f"{value:.0f}"
    else:
        text = f"{value:.2f}"[:4].rstrip(".")
    return f"{text}{unit}".rjust(4)


def amount(size: int) -> str:
    """Bytes in three digits: 820B, 2.6GB."""
    return f"{size if size < _NEXT_UNIT_FROM else _number(size).strip()}B"


def percent(fraction: float) -> str:
    """Four columns; cut, not rounded: 100 % means all of it."""
    return f"{int(fraction * 100):>3}%"


def clean(text: str) -> str:
    """``text`` on one line, without anything a terminal would act upon."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def display_width(text: str) -> int:
    """Terminal columns that ``text`` (without escape sequences) fills."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "FW" else 1
        for sign in text
    )


def pad(text: str, width: int) -> str:
    """``text`` in exactly ``width`` columns, its middle left out where it is too long."""
    excess = display_width(text) - width
    if excess > 0:
        half = (width - 1) // 2
        start = cut(text, width - 1 - half)
        end = cut(text[::-1], half)[::-1]
        text = f"{start}…{end}" if width > 0 else ""
    return text + " " * (width - display_width(text))


def cut(text: str, width: int) -> str:
    """The start of ``text`` that fits into ``width`` columns."""
    kept = 0
    for position, sign in enumerate(text):
        kept += display_width(sign)
        if kept > width:
            return text[:position]
    return text


def shorten(text: str, width: int) -> str:
    """``text``, ended with ``…`` where it does not fit into ``width`` columns."""
    return text if display_width(text) <= width else cut(f"{cut(text, width - 1)}…", width)
