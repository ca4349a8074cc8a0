"""What a job says of itself in a log or a pipe."""

from __future__ import annotations

from dataclasses import replace

from allot.lines import Reporter
from allot.model import JobSnapshot, NodeState, NodeStatus, Progress, TaskState, TaskStatus

P, R, C, F = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.FAILED
NODE = NodeStatus("node01", NodeState.READY, 0)


def task(number: int, state: TaskState, step: int | None = None, **more: object) -> TaskStatus:
    progress = None if step is None else Progress(step, 100)
    base = TaskStatus(number, state, "node01", progress=progress, started_at=0.0)
    return replace(base, **more)  # type: ignore[arg-type]


def job(*tasks: TaskStatus, node: NodeStatus = NODE) -> JobSnapshot:
    return JobSnapshot("sweep", tasks, (node,), 61.0)


def test_live_lines_are_changes() -> None:
    """A line when a task starts, at each tenth of it, and when it ends; else silence."""
    reporter = Reporter(live=True)
    assert reporter.report(job(TaskStatus(0)), 0.0) == []
    assert reporter.report(job(task(0, R)), 0.0) == ["[01:01] task 0 on node01 RUNNING"]
    assert reporter.report(job(task(0, R)), 1.0) == []
    assert reporter.report(job(task(0, R, 1)), 1.0) == [
        "[01:01] task 0 on node01 RUNNING, 1/100 (1%)"
    ]
    assert reporter.report(job(task(0, R, 9)), 9.0) == []
    assert reporter.report(job(task(0, R, 10)), 10.0) == [
        "[01:01] task 0 on node01 RUNNING, 10/100 (10%), 01:30 left"
    ]
    ended = task(0, F, 10, exit_code=3, ended_at=12.0, reason="no\x1b disk")
    assert reporter.report(job(ended), 12.0) == [
        "[01:01] task 0 on node01 FAILED (exit code 3): no? disk after 00:12",
        "[01:01] sweep: 1/1 done (1 failed)",
    ]
    assert reporter.report(job(ended), 12.0, last=True) == []


def test_a_retry_is_news() -> None:
    """A task that waits again after a failure is told of."""
    reporter = Reporter(live=True)
    reporter.report(job(task(0, R)), 0.0)
    again = reporter.report(job(TaskStatus(0, attempt=1)), 0.0)
    assert again == ["[01:01] task 0 PENDING"]


def test_the_last_word() -> None:
    """A board closed before the end says how far the job is."""
    reporter = Reporter(live=True)
    reporter.report(job(task(0, R), TaskStatus(1)), 0.0)
    assert reporter.report(job(task(0, R), TaskStatus(1)), 0.0, last=True) == [
        "[01:01] sweep: 0/2 done (1 running, 1 waiting)"
    ]


def test_nodes_in_trouble_are_told_once() -> None:
    """A node out of reach is a line, and so is its return."""
    reporter = Reporter(live=True)
    away = replace(NODE, state=NodeState.UNREACHABLE, reason="no answer")
    lines = reporter.report(job(TaskStatus(0), node=away), 0.0)
    assert lines == ["[01:01] node01 UNREACHABLE (no answer)"]
    assert reporter.report(job(TaskStatus(0), node=away), 0.0) == []
    assert reporter.report(job(TaskStatus(0)), 0.0) == ["[01:01] all nodes are well again"]


def test_no_end_is_promised_while_a_node_is_lost() -> None:
    """The job's line leaves its end out as long as a node out of reach holds a task."""
    for state, end in ((NodeState.READY, "), about 01:39 left"), (NodeState.UNREACHABLE, ")")):
        reporter, node = Reporter(live=True), replace(NODE, state=state)
        for step in range(2):
            running = task(0, R, step)
            reporter.report(job(running, TaskStatus(1), node=node), float(step))
        ended = replace(running, proc_id=1, state=TaskState.CANCELLED)
        lines = reporter.report(job(running, ended, node=node), 1.0)
        assert lines[-1] == f"[01:01] sweep: 1/2 done (1 running, 1 cancelled{end}"


def test_a_task_that_never_started() -> None:
    """A cancelled task that was never launched has no duration."""
    cancelled = TaskStatus(0, TaskState.CANCELLED)
    assert Reporter(live=True).report(job(cancelled), 0.0)[0] == "[01:01] task 0 CANCELLED"


def test_asked_lines() -> None:
    """When asked, any step is news, and the job's line always comes, nodes included."""
    reporter = Reporter(live=False)
    busy = replace(NODE, state=NodeState.BUSY)
    first = reporter.report(job(task(0, R, 1), TaskStatus(1), node=busy), 0.0)
    assert first == [
        "[01:01] task 0 on node01 RUNNING, 1/100 (1%)",
        "[01:01] sweep: 0/2 done (1 running, 1 waiting · node01 BUSY)",
    ]
    second = reporter.report(job(task(0, R, 2), TaskStatus(1)), 1.0)
    assert second == [
        "[01:01] task 0 on node01 RUNNING, 2/100 (2%), 01:38 left",
        "[01:01] sweep: 0/2 done (1 running, 1 waiting), about 03:17 left",
    ]
    assert len(reporter.report(job(task(0, R, 2), TaskStatus(1)), 1.0)) == 1


def test_at_most_fifty_tasks_at_once() -> None:
    """A thousand changes are fifty lines, how many more there were, and the job's line."""
    lines = Reporter(live=False).report(job(*(task(n, R, 5) for n in range(1000))), 0.0)
    assert len(lines) == 52
    assert lines[50] == "[01:01] … and 950 more tasks changed"


def test_big_jobs_tell_states_only() -> None:
    """In a job of more than fifty tasks, progress is no news by itself."""
    reporter = Reporter(live=True)
    reporter.report(job(*(task(n, R, 5) for n in range(51))), 0.0)
    assert reporter.report(job(*(task(n, R, 95) for n in range(51))), 0.0) == []
