"""Which turn of which node comes next."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from allot.errors import ConnectionFailedError
from allot.timetable import Timetable, rounded_up
from allot.turns import Turn

# A clock's: what is smaller is lost in the steps of floating-point numbers.
TIMES = st.floats(1e-3, 1e7)
GRAINS = st.floats(1e-3, 10.0)


@given(TIMES, GRAINS)
def test_a_turn_is_put_off_by_less_than_its_grain(when: float, grain: float) -> None:
    """Never early, and not late by more than was allowed."""
    rounded = rounded_up(when, grain)
    assert when <= rounded
    assert rounded - when <= grain


@given(TIMES, GRAINS, GRAINS)
def test_coarse_turns_fall_together_with_fine_ones(when: float, one: float, other: float) -> None:
    """Whatever the pauses of two nodes: the rarer turns coincide with some of the others."""
    coarse = rounded_up(when, max(one, other))
    assert rounded_up(coarse, min(one, other)) == coarse


def test_a_node_that_broke_is_tried_again_when_it_should_be() -> None:
    """The pause that a turn would have had does not put the next try off."""
    retry = time.monotonic() + 0.5
    seat = SimpleNamespace(due=retry, under_way=False, is_reachable=False)
    error = ConnectionFailedError("nd01", "cut")
    Timetable().enter(cast(Any, seat), Turn((), 15.0, error=error))
    assert seat.due == retry
