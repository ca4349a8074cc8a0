"""Rates and remaining times that a user can trust."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allot.forecast import Forecast, task_elapsed
from allot.model import Progress, TaskState, TaskStatus

RUNNING, COMPLETED, PENDING = TaskState.RUNNING, TaskState.COMPLETED, TaskState.PENDING


def task(
    step: int | None = None, total: int = 120, *, attempt: int = 0, started_at: float | None = 0.0
) -> TaskStatus:
    progress = None if step is None else Progress(step, total)
    return TaskStatus(0, RUNNING, "n1", attempt=attempt, progress=progress, started_at=started_at)


def watch(steps: list[tuple[float, int]], total: int = 120) -> Forecast:
    forecast = Forecast()
    for now, step in steps:
        forecast.observe([task(step, total)], now)
    return forecast


def test_a_steady_task() -> None:
    """One step a second with 60 to go takes a minute."""
    forecast = watch([(float(t), t) for t in range(61)])
    assert forecast.rate(task(60), 60.0) == pytest.approx(1.0)
    assert forecast.remaining(task(60), 60.0) == pytest.approx(60.0)
    assert forecast.remaining(task(60), 60.5) == pytest.approx(59.5)


def test_nothing_is_said_before_a_second_step() -> None:
    """A task met at 50 % (reattached) gets no rate out of steps nobody saw."""
    forecast = watch([(1000.0, 60)])
    assert forecast.rate(task(60), 1000.0) is None
    assert forecast.remaining(task(60), 1000.0) is None
    assert forecast.rate(task(), 1000.0) is None or forecast.remaining(task(), 1000.0) is None


def test_a_task_without_markers_has_no_rate() -> None:
    """No markers, no guess."""
    forecast = Forecast()
    forecast.observe([task()], 1.0)
    assert forecast.rate(task(), 1.0) is None
    assert forecast.remaining(task(), 1.0) is None


def test_a_leap_at_the_start_does_not_count() -> None:
    """A checkpoint that skips half of the steps at once does not promise a quick end."""
    steps = [(0.0, 0), (2.0, 60), *((2.0 + t, 60 + t) for t in range(1, 6))]
    assert watch(steps).rate(task(65), 7.0) == pytest.approx(1.0)


def test_a_leap_later_does_not_count() -> None:
    """A part skipped half-way leaves the rate unknown until the next step."""
    steps = [(float(t), t) for t in range(10)]
    assert watch([*steps, (10.0, 80)]).rate(task(80), 10.0) is None
    later = [*steps, (10.0, 80), *((10.0 + t, 80 + t) for t in range(1, 4))]
    assert watch(later).rate(task(83), 13.0) == pytest.approx(1.0)


def test_a_restart_begins_anew() -> None:
    """A step smaller than the last, or another attempt, forgets the old rate."""
    forecast = watch([(0.0, 0), (1.0, 10), (2.0, 0)])
    assert forecast.rate(task(0), 2.0) is None
    forecast.observe([task(10)], 3.0)
    forecast.observe([task(10, attempt=1)], 4.0)
    assert forecast.rate(task(10, attempt=1), 4.0) is None


def test_a_total_that_grows() -> None:
    """More to do takes longer at the same rate."""
    forecast = watch([(float(t), t) for t in range(11)])
    assert forecast.remaining(task(10, 1010), 10.0) == pytest.approx(1000.0)


def test_a_stalled_task_takes_ever_longer() -> None:
    """A task that hangs does not keep its old promise."""
    forecast = watch([(float(t), t) for t in range(31)])
    calm, late = forecast.remaining(task(30), 31.0), forecast.remaining(task(30), 330.0)
    assert calm is not None
    assert late is not None
    assert late > 5 * calm


def test_the_rate_is_the_recent_one() -> None:
    """A slow start is forgotten within a minute; quick polls do not shorten memory."""
    steps = [(t / 5, t // 10) for t in range(500)]
    steps += [(100.0 + t / 5, 50 + t // 2) for t in range(300)]
    assert watch(steps, 1000).rate(task(199, 1000), 159.8) == pytest.approx(2.5, rel=0.1)


def test_the_same_instant_twice_is_no_trouble() -> None:
    """A clock that stands still or goes back yields no rate from nothing."""
    assert watch([(5.0, 1), (5.0, 2), (4.0, 3)]).rate(task(3), 5.0) is None


def test_elapsed() -> None:
    """A task's time stands still once it ended, and there is none before its start."""
    assert task_elapsed(task(started_at=None), 5.0) is None
    assert task_elapsed(task(started_at=2.0), 5.0) == 3.0
    assert task_elapsed(TaskStatus(0, COMPLETED, started_at=2.0, ended_at=4.0), 9.0) == 2.0


def job(running: int, waiting: int, *, done: int = 1, took: float = 100.0) -> list[TaskStatus]:
    """``done`` tasks that took ``took`` seconds, and others that began at 0."""
    return [
        *(TaskStatus(i, COMPLETED, started_at=0.0, ended_at=took) for i in range(done)),
        *(TaskStatus(100 + i, RUNNING, started_at=0.0) for i in range(running)),
        *(TaskStatus(200 + i, PENDING) for i in range(waiting)),
    ]


def first_look(tasks: list[TaskStatus], now: float) -> float:
    """What is said at a first look."""
    seconds = Forecast().job_remaining(tasks, now)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize(
    ("running", "waiting", "left"),
    [(2, 0, 60), (2, 1, 160), (2, 2, 160), (2, 3, 260), (1, 3, 360)],
)
def test_the_queue_counts(running: int, waiting: int, left: float) -> None:
    """The job ends when the last waiting task ends, at 100 s a task, 40 s into these."""
    assert Forecast().job_remaining(job(running, waiting), 40.0) == pytest.approx(left)


def test_a_job_that_nobody_can_foretell() -> None:
    """Nothing finished and no progress, or nothing running: no figure rather than a wrong one."""
    assert Forecast().job_remaining(job(2, 1, done=0), 40.0) is None
    assert Forecast().job_remaining(job(0, 1), 40.0) is None
    assert Forecast().job_remaining(job(0, 0), 40.0) == 0.0


def test_late_tasks_are_not_about_to_end() -> None:
    """A task at twice the usual time is not said to need no time, nor are those behind it."""
    assert Forecast().job_remaining(job(1, 0), 200.0) == pytest.approx(100.0)
    assert Forecast().job_remaining(job(1, 1), 200.0) == pytest.approx(100.0 + (100 + 300) / 2)


def test_the_first_to_end_are_the_shortest() -> None:
    """Two tasks of 1 s have ended, six have run for a minute: those behind may take as long."""
    assert 59.0 <= first_look(job(6, 0, done=2, took=1.0), 60.0) <= 61.0
    assert 59.0 + 45.0 <= first_look(job(6, 6, done=2, took=1.0), 60.0) <= 59.0 + 120.0


def test_a_task_past_the_short_ones_is_a_long_one() -> None:
    """Half took 1 s, half 100 s: one that runs for 50 s is not about to end at the mean."""
    tasks = [*job(0, 0, done=5, took=1.0), *job(1, 0, done=5, took=100.0)]
    assert 40.0 <= first_look(tasks, 50.5) <= 49.5


def test_the_queue_goes_round_a_slow_task() -> None:
    """A slot that is busy for long holds up no other: the rest of the queue ends before it."""
    forecast = watch([(0.0, 0), (40.0, 4)])
    slow, *others = task(4), *job(1, 3, done=9)
    assert forecast.job_remaining([slow, *others], 40.0) == pytest.approx(1160.0)


@given(
    st.lists(st.floats(0.0, 1e4), min_size=1, max_size=9),
    st.lists(st.floats(0.0, 1e4), min_size=1, max_size=9),
    st.integers(0, 30),
)
def test_waiting_tasks_get_what_the_others_have_used(
    took: list[float], running: list[float], waiting: int
) -> None:
    """Each waiting task is reckoned to take what a started one has taken so far, at the least."""
    tasks = [
        *(TaskStatus(0, COMPLETED, started_at=0.0, ended_at=seconds) for seconds in took),
        *(TaskStatus(0, RUNNING, started_at=1e4 - elapsed) for elapsed in running),
        *(TaskStatus(0, PENDING) for _ in range(waiting)),
    ]
    used = (sum(took) + sum(running)) / (len(took) + len(running))
    assert first_look(tasks, 1e4) >= waiting * used / len(running) - 1e-6


class Queue:
    """A job as it goes: tasks without markers, each in the slot that is free first."""

    def __init__(self, durations: list[float], slots_from: list[float]) -> None:
        free = sorted(slots_from)
        self.spans: list[tuple[float, float]] = []
        for duration in durations:
            start = heappop(free)
            self.spans.append((start, start + duration))
            heappush(free, start + duration)
        self.end = max(free)

    def at(self, now: float) -> list[TaskStatus]:
        """What would be seen of it at that time."""
        return [self._seen(number, now) for number in range(len(self.spans))]

    def _seen(self, number: int, now: float) -> TaskStatus:
        start, end = self.spans[number]
        if now < start:
            return TaskStatus(number, PENDING)
        if now < end:
            return TaskStatus(number, RUNNING, started_at=start)
        return TaskStatus(number, COMPLETED, started_at=start, ended_at=end)


def test_equal_tasks_in_a_steady_queue() -> None:
    """Tasks of 100 s in 8 slots, one begun every 12.5 s: right from the first end to the last."""
    queue = Queue([100.0] * 80, [12.5 * slot for slot in range(8)])
    for now in range(101, int(queue.end)):
        assert first_look(queue.at(now), now) == pytest.approx(queue.end - now)


def test_half_of_the_first_wave_has_ended() -> None:
    """Of 8 equal tasks begun together 4 have ended: the others are not taken for long ones."""
    queue = Queue([100.0, 101.0] * 12, [0.0] * 8)
    assert first_look(queue.at(100.5), 100.5) == pytest.approx(queue.end - 100.5, rel=0.01)


MIXES: dict[str, Callable[[random.Random], float]] = {
    "half of 1 s, half of 100 s": lambda chance: chance.choice((1.0, 100.0)),
    "one in four of 100 s, else 1 s": lambda chance: chance.choice((1.0, 1.0, 1.0, 100.0)),
    "10 s to 100 s": lambda chance: chance.uniform(10.0, 100.0),
    "about 20 s": lambda chance: chance.lognormvariate(3.0, 0.5),
}


@pytest.mark.parametrize(
    ("mix", "share", "error", "least", "most"),
    [  # measured: 0.12 0.61 1.51, 0.37 0.65 3.15, 0.07 0.73 1.33, 0.09 0.61 1.50
        ("half of 1 s, half of 100 s", 0.1, 0.15, 0.5, 1.8),
        ("one in four of 100 s, else 1 s", 0.1, 0.42, 0.5, 3.5),
        ("10 s to 100 s", 0.1, 0.08, 0.65, 1.5),
        ("about 20 s", 0.1, 0.11, 0.5, 1.8),
        # measured: 0.08 0.67 1.50, 0.12 0.58 1.45, 0.04 0.82 1.21, 0.05 0.60 1.20
        ("half of 1 s, half of 100 s", 0.5, 0.1, 0.6, 1.7),
        ("one in four of 100 s, else 1 s", 0.5, 0.15, 0.5, 1.7),
        ("10 s to 100 s", 0.5, 0.05, 0.75, 1.4),
        ("about 20 s", 0.5, 0.06, 0.5, 1.4),
    ],
)
def test_a_queue_of_mixed_tasks(
    mix: str, share: float, error: float, least: float, most: float
) -> None:
    """200 tasks in 8 slots, a tenth and half of the way: near the truth, never absurdly low."""
    ratios = []
    for seed in range(200):
        chance = random.Random(seed)
        queue = Queue([MIXES[mix](chance) for _ in range(200)], [0.0] * 8)
        now = share * queue.end
        ratios.append(first_look(queue.at(now), now) / (queue.end - now))
    assert median(abs(ratio - 1) for ratio in ratios) <= error
    assert least <= min(ratios)
    assert max(ratios) <= most


def test_progress_counts_for_the_job() -> None:
    """Running tasks' own remaining times are used where they are known."""
    forecast = watch([(float(t), t) for t in range(21)])
    assert forecast.job_remaining([task(20)], 20.0) == pytest.approx(100.0)
    waiting = [task(20), TaskStatus(1, PENDING)]
    assert Forecast().job_remaining(waiting, 20.0) is None


def test_progress_counts_for_tasks_without_it() -> None:
    """A task without markers is reckoned to take the two minutes that another's markers tell."""
    forecast = watch([(float(t), t) for t in range(21)])
    without = TaskStatus(1, RUNNING, started_at=10.0)
    assert forecast.job_remaining([task(20), without], 20.0) == pytest.approx(110.0)


def test_the_figure_counts_down_calmly() -> None:
    """Between estimates it goes with the clock, and small changes come in slowly."""
    forecast = Forecast()
    assert forecast.job_remaining(job(1, 0), 0.0) == pytest.approx(100.0)
    assert forecast.job_remaining(job(1, 0, took=120.0), 0.5) == pytest.approx(99.5)
    eased = forecast.job_remaining(job(1, 0, took=120.0), 2.0)
    assert eased is not None
    assert 98.0 < eased < 118.0
    assert forecast.job_remaining(job(1, 0, took=900.0), 4.0) == pytest.approx(896.0)
