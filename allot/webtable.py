"""A job as the last line of a notebook's cell shows it.

Rules: pure; whatever comes from a user or a node is text, never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from allot.forecast import task_elapsed
from allot.model import JobSnapshot, NodeState, Summary, TaskState, TaskStatus
from allot.wording import clean, clock, percent

MOST_ROWS = 50
"""So many tasks are shown at most: those that run or failed come first."""

# Notebooks put every cell to the right, as numbers want it.
_WORDS = ("state", "node", "reason")
_LEFT = ' style="text-align: left"'

_FIRST = (TaskState.RUNNING, TaskState.FAILED, TaskState.TIMEOUT, TaskState.NODE_FAIL)


def job_html(job: JobSnapshot, now: float) -> str:
    """Counts, the tasks, and the nodes that are not READY.

    Args:
        job: The job as it stands.
        now: Unix seconds, for tasks that run.
    """
    tasks = sorted(job.tasks, key=lambda task: (_rank(task.state), task.proc_id))
    shown = sorted(tasks[:MOST_ROWS], key=lambda task: task.proc_id)
    counts = Summary(job.tasks, 0.0).counts
    said = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number)
    rest = len(tasks) - len(shown)
    parts = [
        f"<p><b>{_text(job.job_name)}</b>: {len(tasks)} tasks, {said or 'none'}</p>",
        _table(
            ("task", "state", "node", "progress", "time", "exit code", "reason"),
            (_cells(task, now) for task in shown),
        ),
        f"<p>and {rest} more</p>" if rest else "",
    ]
    troubled = [node for node in job.nodes if node.state not in (NodeState.READY, NodeState.SPARE)]
    if troubled:
        rows = ((node.name, node.state.value, node.reason) for node in troubled)
        parts.append(_table(("node", "state", "reason"), rows))
    return f"<div>{''.join(parts)}</div>"


def _rank(state: TaskState) -> int:
    return _FIRST.index(state) if state in _FIRST else len(_FIRST)


def _cells(task: TaskStatus, now: float) -> Sequence[str]:
    elapsed = task_elapsed(task, now)
    progress = ""
    if (told := task.progress) is not None:
        progress = f"{told.step}/{told.total} {percent(told.fraction)}"
    return (
        str(task.proc_id),
        task.state.value,
        task.node_name or "",
        progress,
        "" if elapsed is None else clock(elapsed),
        "" if task.exit_code is None else str(task.exit_code),
        task.reason,
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = tuple(head)
    styles = [_LEFT if title in _WORDS else "" for title in titles]
    body = "".join(_line("td", styles, row) for row in rows)
    return f"<table><thead>{_line('th', styles, titles)}</thead><tbody>{body}</tbody></table>"


def _line(tag: str, styles: Iterable[str], cells: Iterable[str]) -> str:
    texts = (
        f"<{tag}{style}>{_text(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True)
    )
    return f"<tr>{''.join(texts)}</tr>"


def _text(text: str) -> str:
    return escape(clean(text))
