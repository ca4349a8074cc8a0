"""When the monitor has something to send out next: the turns of all nodes, few at a time.

Rules: used by the monitor's thread only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator

from allot.seats import Seat
from allot.turns import Turn

# Turns are put off by so much of the pause before them at most, to be taken together with others:
# a look at all nodes for each single turn is what hundreds of nodes would pay for most.
_TOGETHER = 1 / 8
# All nodes together are looked at so often a second where nothing happens: more would have a core
# busy with looking before hundreds of nodes have been quiet for long.
_QUIET_TURNS_A_S = 250
_BROKEN_S = 0.1
_MOST_BROKEN_AT_ONCE = 64


class Timetable:
    """Which turn is the next one."""

    def __init__(self) -> None:
        """Begin with no node."""
        self._next = 0.0
        self._nodes = 0

    def begin(self, seats: Collection[Seat], most: float) -> None:
        """Look at all nodes anew; the next turn counts as due in ``most`` seconds at the latest."""
        now = time.monotonic()
        self._next = now + most
        self._nodes = len(seats)
        for seat in seats:
            self._plan(seat, now)

    def seconds_left(self) -> float:
        """Until the next turn."""
        return max(0.0, self._next - time.monotonic())

    def enter(self, seat: Seat, turn: Turn) -> None:
        """Enter a node's next turn, after this one."""
        now = time.monotonic()
        if seat.due is not None and turn.pause and not turn.error:
            pause = turn.pause if turn.reports else max(turn.pause, self._nodes / _QUIET_TURNS_A_S)
            seat.due = rounded_up(max(seat.due, now + pause), pause * _TOGETHER)
        self._plan(seat, now)

    def hurry(self, seat: Seat) -> None:
        """Have a node's turn now; one that is under way hears for itself what came."""
        if not seat.under_way and seat.is_reachable:
            seat.due = self._next = time.monotonic()

    def _plan(self, seat: Seat, now: float) -> None:
        if seat.is_reachable and seat.is_due(now):
            self._next = now
        elif seat.due is not None and not seat.under_way:
            # One that waits for its turn to be tried again must not spin the loop.
            soonest = now if seat.is_reachable else now + _BROKEN_S
            self._next = min(self._next, max(seat.due, soonest))


def rounded_up(when: float, grain: float) -> float:
    """A time at or after another, by less than ``grain``; equal ones get equal, whatever theirs.

    Args:
        when: Seconds on any clock.
        grain: Seconds, more than 0. Times are rounded to a power of two of seconds, so that all
            coarser steps fall together with finer ones.
    """
    step = math.ldexp(1.0, math.frexp(grain)[1] - 1)
    return math.ceil(when / step) * step


def due_seats(seats: Collection[Seat]) -> Iterator[Seat]:
    """Those whose turn it is; of those out of reach not so many that the others find no worker."""
    now = time.monotonic()
    broken = sum(seat.under_way and not seat.is_reachable for seat in seats)
    for seat in seats:
        if not seat.is_due(now):
            continue
        if not seat.is_reachable:
            if broken >= _MOST_BROKEN_AT_ONCE:
                continue
            broken += 1
        yield seat


def standing(seat: Seat) -> tuple[object, ...]:
    """What others see of a node, or wait for there."""
    return seat.status, seat.owes_mail, seat.turns > 0, tuple(seat.orphans)
