"""A job told in plain lines: what changed, and how it stands.

Rules: pure. Every line is text without control characters and says when, which task and where.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from allot.forecast import Forecast, task_elapsed
from allot.model import JobSnapshot, NodeStatus, TaskState, TaskStatus, describe_end
from allot.rows import job_remaining
from allot.statusline import node_troubles, status_line
from allot.wording import clean, clock, percent

_MOST_LINES = 50
_LIVE_PARTS = 10
_UNLIMITED = 1000

_Seen: TypeAlias = tuple[TaskState, int, str, int]


class Reporter:
    """Remembers what was told, and tells what is new."""

    def __init__(self, *, live: bool) -> None:
        """Begin with nothing told.

        Args:
            live: True: progress counts as news at each tenth of a task, and not at all in jobs
                of more than 50 tasks; the job's own line comes with each tenth of the job, and
                one on the nodes when theirs changes. False: any progress is news, and one line
                on job and nodes always comes.
        """
        self._live = live
        self._forecast = Forecast()
        self._seen: dict[int, _Seen] = {}
        self._troubles = ""
        self._parts_told = 0
        self._ended_told = -1

    def report(self, snapshot: JobSnapshot, now: float, *, last: bool = False) -> list[str]:
        """The lines that are due.

        Args:
            snapshot: The job.
            now: Unix seconds.
            last: True to have the job's line in any case.
        """
        self._forecast.observe(snapshot.tasks, now)
        changed = [task for task in snapshot.tasks if self._is_news(task, len(snapshot.tasks))]
        stamp = f"[{clock(snapshot.elapsed)}]"
        lines = [f"{stamp} {self._task_line(task, now)}" for task in changed[:_MOST_LINES]]
        if len(changed) > _MOST_LINES:
            lines.append(f"{stamp} … and {len(changed) - _MOST_LINES} more tasks changed")
        lines += [f"{stamp} {line}" for line in self._job_lines(snapshot, now, last=last)]
        return lines

    def _is_news(self, task: TaskStatus, ntasks: int) -> bool:
        part = -1
        if task.progress is not None and not self._live:
            part = task.progress.step
        elif task.progress is not None and ntasks <= _MOST_LINES and not task.state.is_final:
            part = int(task.progress.fraction * _LIVE_PARTS)
        seen = (task.state, task.attempt, task.node_name or "", part)
        before = self._seen.get(task.proc_id)
        self._seen[task.proc_id] = seen
        # That a task waits is news only where it did something else before.
        return seen != before and (before is not None or task.state is not TaskState.PENDING)

    def _job_lines(self, snapshot: JobSnapshot, now: float, *, last: bool) -> list[str]:
        if not self._live:
            return [self._job_line(snapshot, now, snapshot.nodes)]
        lines = []
        troubles = node_troubles(snapshot.nodes)
        if troubles != self._troubles:
            self._troubles = troubles
            lines.append(clean(troubles or "all nodes are well again"))
        ended = sum(task.state.is_final for task in snapshot.tasks)
        due = ended * _LIVE_PARTS // max(1, len(snapshot.tasks)) > self._parts_told
        if due or (last and ended != self._ended_told):
            self._parts_told = ended * _LIVE_PARTS // max(1, len(snapshot.tasks))
            self._ended_told = ended
            lines.append(self._job_line(snapshot, now, ()))
        return lines

    def _task_line(self, task: TaskStatus, now: float) -> str:
        elapsed = task_elapsed(task, now)
        if task.state.is_final:
            took = "" if elapsed is None else f" after {clock(elapsed)}"
            return clean(f"{describe_end(task)}{took}")
        line = describe_end(task)
        if task.progress is not None:
            progress = task.progress
            share = percent(progress.fraction).strip()
            line += f", {progress.step}/{progress.total} ({share})"
        left = self._forecast.remaining(task, now)
        return clean(line if left is None else f"{line}, {clock(left)} left")

    def _job_line(self, snapshot: JobSnapshot, now: float, told: tuple[NodeStatus, ...]) -> str:
        ended = sum(task.state.is_final for task in snapshot.tasks)
        counts = "".join(
            text for text, _ in status_line(replace(snapshot, nodes=told), None, _UNLIMITED)
        )
        line = f"{snapshot.job_name}: {ended}/{len(snapshot.tasks)} done ({counts})"
        left = job_remaining(snapshot, self._forecast, now)
        if ended < len(snapshot.tasks) and left is not None:
            line += f", about {clock(left)} left"
        return clean(line)
