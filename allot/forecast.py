"""How fast tasks go and when they may end: calm figures that admit what is not known.

Rules: pure data in, data out. Times are Unix seconds, handed in by the caller; a rate is in steps
per second; an estimate without a ground is None, never a guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapreplace

from allot.model import Progress, TaskState, TaskStatus

_WINDOW_S = 30.0
_SPACING_S = 3.0
_SAMPLES_KEPT = 3
_JUMP_RATIO = 10.0
_JUMP_FRACTION = 0.05
_ESTIMATE_EVERY_S = 1.0
_SMOOTHING_S = 8.0
_SNAP_FRACTION = 0.5
_SNAP_LEAST_S = 5.0


class Forecast:
    """The estimates for one job, kept up with :meth:`observe`."""

    def __init__(self) -> None:
        self._paces: dict[int, _Pace] = {}
        self._ends_at: float | None = None
        self._estimated_at = 0.0

    def observe(self, tasks: Sequence[TaskStatus], now: float) -> None:
        """Take in how far the running tasks are at ``now`` (Unix seconds)."""
        paces = self._paces
        for task in tasks:
            if task.state is not TaskState.RUNNING or task.progress is None:
                paces.pop(task.proc_id, None)
                continue
            pace = paces.get(task.proc_id)
            if pace is None or pace.attempt != task.attempt:
                pace = paces[task.proc_id] = _Pace(task.attempt)
            pace.observe(task.progress, now)

    def rate(self, task: TaskStatus, now: float) -> float | None:
        """Steps per second of a running task, None while it is not known."""
        pace = self._paces.get(task.proc_id)
        return None if pace is None else pace.rate(now)

    def remaining(self, task: TaskStatus, now: float) -> float | None:
        """Seconds a running task may still take, None while it is not known."""
        pace = self._paces.get(task.proc_id)
        if pace is None or task.progress is None:
            return None
        return pace.remaining(task.progress, now)

    def job_remaining(self, tasks: Sequence[TaskStatus], now: float) -> float | None:
        """Seconds until the last task may have ended, the queue included.

        Smoothed, so that the figure counts down instead of jumping about. None while nothing
        has shown yet how long a task takes, or while tasks wait and none runs.
        """
        if self._ends_at is not None and 0 <= now - self._estimated_at < _ESTIMATE_EVERY_S:
            return max(0.0, self._ends_at - now)
        estimate = self._estimate(tasks, now)
        if estimate is None:
            self._ends_at = None
            return None
        end = now + estimate
        if self._ends_at is None or abs(end - self._ends_at) > max(
            _SNAP_LEAST_S, _SNAP_FRACTION * estimate
        ):
            self._ends_at = end
        else:
            weight = min(1.0, max(0.0, now - self._estimated_at) / _SMOOTHING_S)
            self._ends_at += weight * (end - self._ends_at)
        self._estimated_at = now
        return max(0.0, self._ends_at - now)

    def _estimate(self, tasks: Sequence[TaskStatus], now: float) -> float | None:
        waiting = 0
        durations: list[float] = []
        known: list[float] = []
        unknown: list[float] = []
        for task in tasks:
            if task.state is TaskState.PENDING:
                waiting += 1
            elif task.state is TaskState.RUNNING:
                elapsed = task_elapsed(task, now) or 0.0
                left = self.remaining(task, now)
                if left is None:
                    unknown.append(elapsed)
                else:
                    known.append(left)
                    durations.append(elapsed + left)
            elif task.state is TaskState.COMPLETED:
                durations.append(task_elapsed(task, now) or 0.0)
        if not waiting and not known and not unknown:
            return 0.0
        if not durations or not (known or unknown):
            return None
        usual, left_over = _outlook(durations, unknown)
        return _last_end([*known, *left_over], waiting, usual)


def _outlook(ended: Sequence[float], running: Sequence[float]) -> tuple[float, list[float]]:
    """Seconds a task takes on average, and those that each of ``running`` may still take.

    Args:
        ended: What tasks took, at least one.
        running: How long tasks of which no more is known have run so far.
    """
    # The first to end are the shortest, so their mean alone would promise too much. A time so
    # far is a lower bound ("right-censored"): its task is expected to take what those that
    # outlast it take on average, which makes the average over all that of Kaplan and Meier.
    whole = sorted(ended)
    typical = sum(whole) / len(whole)
    total, count = 0.0, 0
    left_over: list[float] = []
    for elapsed in sorted(running, reverse=True):
        while whole and whole[-1] > elapsed:
            total += whole.pop()
            count += 1
        # Few or none may outlast it, so a guess counts as one more: the typical time or, for a
        # task past that, as long again as it is late, never "no time left".
        guess = max(typical, 2 * elapsed - typical)
        expected = (total + guess) / (count + 1)
        left_over.append(expected - elapsed)
        total += expected
        count += 1
    return (total + sum(whole)) / (count + len(whole)), left_over


def _last_end(busy: Sequence[float], waiting: int, usual: float) -> float:
    """When the last slot falls idle.

    ``busy`` are the seconds until each slot is free; ``waiting`` tasks of ``usual`` seconds each
    go to whichever slot is free first.
    """
    free = sorted(busy)
    for _ in range(waiting):
        heapreplace(free, free[0] + usual)
    return max(free)


def task_elapsed(task: TaskStatus, now: float) -> float | None:
    """Seconds a task has run, or ran; None before its start."""
    if task.started_at is None:
        return None
    return max(0.0, (now if task.ended_at is None else task.ended_at) - task.started_at)


class _Pace:
    """The rate of one attempt of a task over its last half minute.

    The first progress seen is only where counting begins: a task met at 50 %, or one that goes
    on from a checkpoint, has not made those steps since.
    """

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self._samples: deque[tuple[float, int]] = deque()
        self._gap_s = 0.0

    def observe(self, progress: Progress, now: float) -> None:
        samples = self._samples
        if not samples or progress.step < samples[-1][1]:
            self._begin(now, progress.step)
            return
        last_at, last_step = samples[-1]
        if progress.step == last_step or now <= last_at:
            return
        if len(samples) > 1 and self._jumped(progress, now):
            return
        gap = now - last_at
        self._gap_s = gap if len(samples) == 1 else 0.7 * self._gap_s + 0.3 * gap
        if len(samples) > 1 and now - samples[-2][0] < _SPACING_S:
            samples[-1] = (now, progress.step)
        else:
            samples.append((now, progress.step))
        while len(samples) > _SAMPLES_KEPT and now - samples[1][0] > _WINDOW_S:
            samples.popleft()

    def _begin(self, now: float, step: int) -> None:
        self._samples.clear()
        self._samples.append((now, step))

    def _jumped(self, progress: Progress, now: float) -> bool:
        """Begin anew where one leap (a checkpoint, a skipped part) would spoil the rate."""
        first_at, first_step = self._samples[0]
        last_at, last_step = self._samples[-1]
        before = (last_step - first_step) / (last_at - first_at)
        after = (progress.step - last_step) / (now - last_at)
        leap = _JUMP_FRACTION * progress.total
        if after > _JUMP_RATIO * before and progress.step - last_step > leap:
            self._begin(now, progress.step)
            return True
        if before > _JUMP_RATIO * after and last_step - first_step > leap:
            self._begin(last_at, last_step)
            self._samples.append((now, progress.step))
            self._gap_s = now - last_at
            return True
        return False

    def rate(self, now: float) -> float | None:
        if len(self._samples) == 1:
            return None
        first_at, first_step = self._samples[0]
        last_at, last_step = self._samples[-1]
        # Between two steps the rate stands still; once a step is overdue it falls.
        overdue = max(0.0, now - last_at - 2 * self._gap_s)
        return (last_step - first_step) / (last_at - first_at + overdue)

    def remaining(self, progress: Progress, now: float) -> float | None:
        rate = self.rate(now)
        if rate is None:
            return None
        since = min(now - self._samples[-1][0], self._gap_s)
        return max(0.0, (progress.total - progress.step) / rate - since)
