"""Clock times, rates and cut text, as a person reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allot.wording import (
    amount,
    clean,
    clock,
    cut,
    display_width,
    pad,
    percent,
    shorten,
    speed,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"),
        (54.9, "00:54"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (359_999, "99:59:59"),
        (360_000, "4d 04h"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    """Times are written as short as their size allows."""
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1.0, "1.00 step/s"),
        (12.34, "12.3 step/s"),
        (123.4, " 123 step/s"),
        (1234.0, "1.2k step/s"),
        (45_600.0, " 46k step/s"),
        (7.8e6, "7.8M step/s"),
        (0.5, "2.00 s/step"),
        (1 / 90, "90.0 s/step"),
    ],
)
def test_speed(rate: float, text: str) -> None:
    """A rate has three digits at most; slow steps are given as seconds a step."""
    assert speed(rate) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (7, "7B"),
        (999, "999B"),
        (1000, "1.0kB"),
        (12_345, "12kB"),
        (2_600_000_000, "2.6GB"),
    ],
)
def test_amount(size: int, text: str) -> None:
    """Bytes have no fractions; more of them have three digits at most."""
    assert amount(size) == text


@given(st.floats(1e-9, 1e9))
def test_a_rate_always_fills_the_same_columns(rate: float) -> None:
    """A changing rate does not make a bar tremble."""
    assert len(speed(rate)) == len("1.00 step/s")


def test_percent_is_cut_not_rounded() -> None:
    """99.9 % does not read as done."""
    assert percent(0.999) == " 99%"
    assert percent(1.0) == "100%"


def test_clean_leaves_nothing_a_terminal_acts_upon() -> None:
    """Escape sequences and line breaks in foreign text do no harm."""
    assert clean("load\n 7.9\x1b[31m\x07 ok") == "load 7.9?[31m? ok"


def test_wide_and_combining_characters_are_counted_as_shown() -> None:
    """CJK fills two columns, a combining accent none."""
    assert display_width("node") == 4
    assert display_width("節点") == 4
    assert display_width("e\u0301a") == 2


def test_pad_leaves_the_middle_out() -> None:
    """Both ends of a long node name stay: either may tell nodes apart."""
    assert pad("gpu-cluster-node-001", 9) == "gpu-…-001"
    assert pad("ab", 4) == "ab  "
    assert pad("abc", 0) == ""


@given(st.text(alphabet="ab節é…", max_size=20), st.integers(0, 12))
def test_pad_fills_exactly(text: str, width: int) -> None:
    """Columns line up whatever the names are made of."""
    assert display_width(pad(text, width)) == width
    assert display_width(cut(text, width)) <= width
    assert display_width(shorten(text, width)) <= width


def test_shorten_says_that_something_is_missing() -> None:
    """A figure that was cut must not read as a smaller one."""
    assert shorten("911/1000", 8) == "911/1000"
    assert shorten("911/1000", 6) == "911/1…"
    assert shorten("911/1000", -1) == ""
