"""When a node's event file is read, and its outputs are looked at."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from allot.claims import Claims
from allot.harvest import Harvest, Output
from allot.pace import QUICK_S, Pace
from allot.probe import Sharing
from allot.running import Running
from allot.script import Launch

POLL_S = 1.0


class Clock:
    """The monotonic clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.fixture
def harvest(tmp_path: Path) -> Harvest:
    sharing = Sharing(False, False)
    nobody = cast(Any, None)
    return Harvest(nobody, "job", Claims(tmp_path), sharing, tmp_path, poll_interval=POLL_S)


def running(harvest: Harvest, clock: Clock, *, tells: bool = True, heard: bool = True) -> Running:
    """A task that was launched just now."""
    launch = Launch(0, 0, 0, Path("/out"), None, None, {}, "true")
    task = Running(launch, harvest.output(launch), was_asked=not tells)
    task.note_asked(clock.now)
    if heard:
        task.recorders.add((1, 1))
    return task


def read_after(pace: Pace, task: Running, clock: Clock) -> float:
    """Seconds until the file is read, where it was read just now."""
    pace.note_read()
    return pace.next_read([task]) - clock.now


def test_who_tells_nobody_is_looked_after_quickly_at_first(harvest: Harvest, clock: Clock) -> None:
    """Its end is seen late by a twentieth of the silence, at most, and by the poll interval."""
    pace, task = Pace(POLL_S), running(harvest, clock, tells=False)
    pace.note_moved()
    seen = []
    for silence in (0.0, 1.0, 10.0, 1000.0):
        clock.now = 1000.0 + silence
        seen.append(read_after(pace, task, clock))
    assert seen == pytest.approx([QUICK_S, 0.05, 0.5, POLL_S])


def test_who_tells_of_its_end_is_looked_after_rarely(harvest: Harvest, clock: Clock) -> None:
    """Every five poll intervals, whatever happens."""
    pace, task = Pace(POLL_S), running(harvest, clock)
    pace.note_moved()
    for silence in (0.0, 1000.0):
        clock.now = 1000.0 + silence
        assert read_after(pace, task, clock) == pytest.approx(5 * POLL_S)


def test_a_turn_that_is_taken_anyway_reads_early(harvest: Harvest, clock: Clock) -> None:
    """Not long before it is time, and only where nothing is waited for."""
    pace, task = Pace(POLL_S), running(harvest, clock)
    pace.note_moved()
    pace.note_read()
    due = []
    for seconds in (2.4, 2.6, 5.0):
        clock.now = 1000.0 + seconds
        due.append(pace.is_due([task]))
    assert due == [False, True, True]
    pace.note_read()
    pace.note_moved()
    unheard = running(harvest, clock, heard=False)
    clock.now += 0.09
    assert not pace.is_due([task, unheard])
    clock.now += 0.02
    assert pace.is_due([task, unheard])


def test_a_start_is_looked_for_soon_and_again_until_it_is_heard(
    harvest: Harvest, clock: Clock
) -> None:
    """However many other tasks come: a tenth of a second after it was asked for."""
    pace, task = Pace(POLL_S), running(harvest, clock, heard=False)
    assert pace.next_read([task]) == pytest.approx(clock.now + 0.1)
    clock.now += 0.1
    pace.note_moved()
    assert read_after(pace, task, clock) == pytest.approx(0.1)


def looks_until(harvest: Harvest, output: Output, clock: Clock, seconds: float) -> list[float]:
    """When a silent output is looked at, by one who looks as soon as he is told to."""
    began, seen = clock.now, []
    while (when := harvest.next_look([output])) < began + seconds:
        clock.now = max(when, clock.now)
        output.watch.looked_at = clock.now
        seen.append(clock.now - began)
    return seen


def test_a_silent_output_is_looked_at_less_often(harvest: Harvest, clock: Clock) -> None:
    """Never late by more than a tenth of its silence or a poll interval, at most by five."""
    output = running(harvest, clock).output
    output.watch.grew_at = clock.now
    seen = looks_until(harvest, output, clock, 300.0)
    pauses = [after - before for before, after in pairwise(seen)]
    assert seen[0] == pytest.approx(0.1)
    assert all(
        pause <= max(POLL_S, 0.1 * after) + 1e-6
        for pause, after in zip(pauses, seen[1:], strict=True)
    )
    assert pauses[:5] == pytest.approx([POLL_S] * 5)
    assert pauses[-10:] == pytest.approx([5 * POLL_S] * 10)
    assert harvest.next_look([]) == float("inf")


def test_an_output_that_is_empty_is_looked_at_even_less_often(
    harvest: Harvest, clock: Clock
) -> None:
    """The first that it says is seen late by a fifth of the time before it, at most."""
    output = running(harvest, clock).output
    output.watch.grew_at, output.watch.looks = clock.now, 1
    seen = looks_until(harvest, output, clock, 100.0)
    pauses = [after - before for before, after in pairwise(seen)]
    assert all(
        pause <= max(POLL_S, 0.2 * after) + 1e-6
        for pause, after in zip(pauses, seen[1:], strict=True)
    )
    assert pauses[-10:] == pytest.approx([5 * POLL_S] * 10)
    assert len(seen) < 30


def test_an_output_that_grew_is_looked_at_as_often_as_others(
    harvest: Harvest, clock: Clock
) -> None:
    """However long it had been silent."""
    output = running(harvest, clock).output
    looks_until(harvest, output, clock, 300.0)
    output.watch.grew_at = clock.now
    assert harvest.next_look([output]) - clock.now == pytest.approx(POLL_S)
