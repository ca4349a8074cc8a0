"""What a job's bars say: which task has which row, and the words and figures in it.

Rules: pure, no stream, no clock, no tqdm. A task keeps its row as long as it wants one; nothing
shifts but by a resize. Columns only grow until the terminal's width changes, so that no bar
trembles. Foreign text (names, reasons) never brings a control character along.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from allot.forecast import Forecast, task_elapsed
from allot.model import JobSnapshot, NodeState, Progress, TaskState, TaskStatus
from allot.statusline import FAILURES, TONES, Tone, lost_nodes, short_names
from allot.wording import amount, clean, clock, display_width, pad, percent, speed

_UNENDED = frozenset((TaskState.PENDING, TaskState.RUNNING))

_LEAST_BAR = (10, 10, 5)  # by detail
_WIDTH_TO_ALIGN_JOB = 60
_MOST_JOB_NAME = 20
_FULL, _NO_RATE, _SHORT, _BARE = range(4)


@dataclass(frozen=True)
class Row:
    """One line to draw: ``head``, a bar ``step``/``total``, ``tail``.

    Attributes:
        head: Everything left of the bar, padded.
        fraction: How full the bar is, 0.0 to 1.0; None for a line without a bar.
        tail: Everything right of the bar, padded.
        tone: How it is meant; a terminal with colours may show it.
    """

    head: str
    fraction: float | None
    tail: str
    tone: Tone


def seat_tasks(
    held: Sequence[int | None],
    tasks: Sequence[TaskStatus],
    seats: int,
    lost: Collection[str] = (),
) -> tuple[int | None, ...]:
    """Say which task has which row.

    Where all tasks fit each has its own row for good. Else running and failed tasks have the
    rows, and a task that completed keeps its row until another wants it. While tasks that run
    could fill the rest, failures have at most a third of the rows, and what they leave of it is
    for tasks on nodes out of reach: a row where nothing moves must not hide one that does.

    Args:
        held: The rows as they were: positions in ``tasks``, None for an empty row.
        tasks: Every task.
        seats: How many rows there are now.
        lost: Names of the nodes out of reach.

    Returns:
        The rows as they are now, at most ``seats`` of them; those at the end may be missing.
    """
    if len(tasks) <= seats:
        return tuple(range(len(tasks)))
    rows = list(held[:seats]) + [None] * (seats - len(held))
    sitting = {seat for seat in rows if seat is not None}
    running: list[int] = []
    stranded: list[int] = []
    failed: list[int] = []
    for seat, task in enumerate(tasks):
        if task.state is TaskState.RUNNING:
            (stranded if task.node_name in lost else running).append(seat)
        elif task.state in FAILURES:
            failed.append(seat)
    room = max(seats // 3, seats - len(running))
    first = [seat for seat in failed if seat in sitting]
    first += [seat for seat in reversed(failed) if seat not in sitting]
    first += sorted(stranded, key=lambda seat: seat not in sitting)
    first = first[:room]
    wanted = {*running, *first}
    seekers = [seat for seat in (*first, *running) if seat not in sitting]
    # An empty row goes first, then one whose task completed, a failed task's last.
    to_give = [at for at, seat in enumerate(rows) if seat not in wanted]
    last, next_to_last = set(failed), set(stranded)
    to_give.sort(key=lambda at: (rows[at] is not None, rows[at] in last, rows[at] in next_to_last))
    for at, seat in zip(to_give, seekers, strict=False):
        rows[at] = seat
    while rows and rows[-1] is None:
        rows.pop()
    return tuple(rows)


class Columns:
    """The widest each column was since the terminal's width last changed."""

    def __init__(self) -> None:
        self._widest: dict[str, int] = {}
        self._total = 0

    def begin(self, total: int) -> None:
        """Start a drawing ``total`` columns wide."""
        if total != self._total:
            self._widest.clear()
            self._total = total

    def fit(self, column: str, needed: int) -> int:
        """How wide ``column`` is, now that something needs ``needed``."""
        widest = self._widest[column] = max(needed, self._widest.get(column, 0))
        return widest


class Page:
    """One drawing of a job: the rows of its tasks and, under them, the row of the job."""

    def __init__(
        self,
        snapshot: JobSnapshot,
        forecast: Forecast,
        columns: Columns,
        *,
        width: int,
        now: float,
    ) -> None:
        """Prepare a drawing.

        Args:
            snapshot: The job.
            forecast: The estimates, up to date.
            columns: Remembers column widths from one drawing to the next.
            width: Columns a line may fill.
            now: Unix seconds.
        """
        columns.begin(width)
        self._snapshot = snapshot
        self._forecast = forecast
        self._columns = columns
        self._width = width
        self._now = now
        self._names = short_names(node.name for node in snapshot.nodes)
        self._lost = lost_nodes(snapshot)
        self._transfers = {node.name: node.transfer for node in snapshot.nodes if node.transfer}
        self._ended_count = sum(task.state not in _UNENDED for task in snapshot.tasks)
        self._ended = self._ended_count == len(snapshot.tasks)
        remaining = None if self._ended else job_remaining(snapshot, forecast, now)
        self._left = "?" if remaining is None else clock(remaining)

    def rows(self, seats: Sequence[int | None]) -> list[Row]:
        """The rows of the seated tasks (as ``seat_tasks`` gave them) and, last, of the job."""
        tasks = self._snapshot.tasks
        shown = [None if seat is None else tasks[seat] for seat in seats]
        number_width = len(str(max((task.proc_id for task in tasks), default=0)))
        label_width = self._label_width(shown, number_width)
        head_width = number_width + 1 + label_width + 1
        detail, tail_width = self._detail(shown, self._width - head_width)
        rows = []
        for task in shown:
            if task is None:
                rows.append(Row("", None, "", "plain"))
                continue
            head = f"{task.proc_id:>{number_width}} {pad(self._label(task), label_width)} "
            rows.append(self._task_row(task, head, detail, tail_width))
        job_head = f"{pad(clean(self._snapshot.job_name), head_width - 1)} "
        return [*rows, self._job_row(job_head, detail, tail_width)]

    def _label_width(self, shown: Sequence[TaskStatus | None], number_width: int) -> int:
        """Columns for node names; as many as the job's name needs too, so that bars line up."""
        job_name = display_width(clean(self._snapshot.job_name)) - number_width - 1
        widest = max([display_width(self._label(task)) for task in shown if task], default=0)
        roomy = self._width >= _WIDTH_TO_ALIGN_JOB
        needed = max(widest, min(job_name, _MOST_JOB_NAME)) if roomy else widest
        return self._columns.fit("label", min(needed, max(4, self._width // 4)))

    def _label(self, task: TaskStatus) -> str:
        if task.node_name is None:
            return ""
        return self._names.get(task.node_name, clean(task.node_name))

    def _detail(self, shown: Sequence[TaskStatus | None], room: int) -> tuple[int, int]:
        """The most that can be said beside a bar in ``room`` columns, and how wide that is."""
        measured = [task for task in shown if task and self._measure(task)]
        for detail in (_FULL, _NO_RATE, _SHORT):
            tails = [self._tail(task, detail) for task in measured]
            needed = max(map(display_width, [*tails, self._job_tail(detail)]))
            needed = self._columns.fit(f"tail{detail}", needed)
            if room - len("100%||") - needed >= _LEAST_BAR[detail]:
                return detail, needed
        return _BARE, 0

    def _task_row(self, task: TaskStatus, head: str, detail: int, tail_width: int) -> Row:
        tone: Tone = "warn" if self._is_lost(task) else TONES[task.state]
        measure = self._measure(task)
        if measure is None or detail == _BARE:
            return Row(head, None, self._words(task, detail), tone)
        fraction = measure.fraction
        tail = pad(self._tail(task, detail), tail_width)
        return Row(f"{head}{percent(fraction)}|", fraction, tail, tone)

    def _measure(self, task: TaskStatus) -> Progress | None:
        """What its bar shows: its progress, or how far the files have come that it waits for."""
        waits = task.state is TaskState.RUNNING and task.started_at is None
        awaited = self._transfers.get(task.node_name or "") if waits else None
        return task.progress or awaited

    def _job_row(self, head: str, detail: int, tail_width: int) -> Row:
        tasks = self._snapshot.tasks
        fraction = 1.0 if self._ended else _part_done(tasks, self._ended_count)
        tail = self._job_tail(detail)
        if detail == _BARE:
            return Row(head, None, f"{percent(fraction)}{tail}", "plain")
        tone: Tone = "plain"
        if self._ended:
            complete = all(task.state is TaskState.COMPLETED for task in tasks)
            tone = "good" if complete else "bad"
        return Row(f"{head}{percent(fraction)}|", fraction, pad(tail, tail_width), tone)

    def _job_tail(self, detail: int) -> str:
        done = f"{self._ended_count}/{len(self._snapshot.tasks)}"
        elapsed = clock(self._snapshot.elapsed)
        times = f"[{elapsed}]" if self._ended else f"[{elapsed}<{self._left}]"
        if detail == _FULL:
            return f" {done} done {times}"
        if detail == _NO_RATE:
            return f" {done} {times}"
        return f" {done}" if detail == _BARE or self._ended else f" {self._left} left"

    def _tail(self, task: TaskStatus, detail: int) -> str:
        if task.progress is None and (files := self._measure(task)) is not None:
            done = f" {amount(files.step)}/{amount(files.total)}"
            return done if detail == _SHORT else f"{done} of its files"
        elapsed = clock(task_elapsed(task, self._now) or 0.0)
        step, total = (task.progress.step, task.progress.total) if task.progress else (0, 0)
        count = f"{step}/{total}".rjust(self._columns.fit("count", 2 * len(str(total)) + 1))
        if task.state is not TaskState.RUNNING or self._is_lost(task):
            word = self._state_word(task, detail)
            return (f" {count} [{elapsed}, {word}]", f" {count} [{word}]", f" {word}")[detail]
        remaining = self._forecast.remaining(task, self._now)
        rate = self._forecast.rate(task, self._now)
        left = "?" if remaining is None else clock(remaining)
        if detail == _SHORT:
            return f" {left} left"
        pace = f", {speed(rate)}" if rate and detail == _FULL else ""
        return f" {count} [{elapsed}<{left}{pace}]"

    def _words(self, task: TaskStatus, detail: int) -> str:
        """A row without a bar: the state, since when or how long, and why."""
        word = self._state_word(task, detail)
        if detail == _BARE:
            on_its_way = task.state is TaskState.RUNNING and not self._is_lost(task)
            return percent(task.progress.fraction) if on_its_way and task.progress else word
        elapsed = task_elapsed(task, self._now)
        if elapsed is not None:
            word += f" {'in ' if task.state.is_final else ''}{clock(elapsed)}"
        return f"{word}: {clean(task.reason)}" if task.reason else word

    def _state_word(self, task: TaskStatus, detail: int) -> str:
        if self._is_lost(task):
            return str(NodeState.UNREACHABLE)
        if not task.exit_code:
            return str(task.state)
        return f"{task.state} ({'exit ' if detail == _FULL else ''}{task.exit_code})"

    def _is_lost(self, task: TaskStatus) -> bool:
        return task.state is TaskState.RUNNING and task.node_name in self._lost


def job_remaining(snapshot: JobSnapshot, forecast: Forecast, now: float) -> float | None:
    """Seconds until the last task may have ended; None while it is not known.

    Nobody knows when a node out of reach comes back, so while one holds a task it is None.
    """
    lost = lost_nodes(snapshot)
    held = (task.state is TaskState.RUNNING and task.node_name in lost for task in snapshot.tasks)
    return None if any(held) else forecast.job_remaining(snapshot.tasks, now)


def _part_done(tasks: Sequence[TaskStatus], ended: int) -> float:
    """How much of the job is done, the running tasks' parts included; never quite all of it."""
    parts = sum(
        task.progress.fraction
        for task in tasks
        if task.state is TaskState.RUNNING and task.progress is not None
    )
    return min(0.999, (ended + parts) / len(tasks))
