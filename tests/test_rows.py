"""Which task has which row, and what its row says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allot.forecast import Forecast
from allot.model import JobSnapshot, NodeState, NodeStatus, Progress, TaskState, TaskStatus
from allot.rows import (
    Columns,
    Page,
    Row,
    seat_tasks,
)
from allot.statusline import FAILURES, cut_segments, node_troubles, short_names, status_line
from allot.wording import display_width

P, R, C, F = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.FAILED
READY, BUSY, AWAY = NodeState.READY, NodeState.BUSY, NodeState.UNREACHABLE


def tasks(*states: TaskState) -> list[TaskStatus]:
    return [TaskStatus(number, state) for number, state in enumerate(states)]


def test_all_fit() -> None:
    """Where there is room each task has its own row, waiting or ended."""
    assert seat_tasks((), tasks(C, R, P, F), 4) == (0, 1, 2, 3)
    assert seat_tasks((3, 2), tasks(C, R, P, F), 10) == (0, 1, 2, 3)


def test_running_tasks_come_first() -> None:
    """With more tasks than rows, waiting and completed ones have none."""
    assert seat_tasks((), tasks(C, R, P, R), 3) == (1, 3)


def test_nothing_shifts() -> None:
    """A row that came free goes to the next task; the others stay where they are."""
    assert seat_tasks((0, 1, 2), tasks(R, C, R, R, P), 3) == (0, 3, 2)


def test_an_ended_task_keeps_a_row_nobody_wants() -> None:
    """Nothing disappears without need."""
    assert seat_tasks((0, 1, 2), tasks(C, C, R, P), 3) == (0, 1, 2)


def test_a_failure_outlives_completed_tasks_but_not_all_running_ones() -> None:
    """A third of the rows is kept for failures, the rest for what runs."""
    assert seat_tasks((0, 1, 2), tasks(F, C, R, R, R), 3) == (0, 3, 2)
    assert seat_tasks((0, 1, 2), tasks(F, F, R, R, R), 3) == (0, 3, 2)


def test_a_failure_without_a_row_gets_the_next_free_one() -> None:
    """A task that failed out of sight is shown before one more running task."""
    assert seat_tasks((0, 1, 2), tasks(C, R, R, F, R), 3) == (3, 1, 2)


def test_failures_fill_the_rows_at_the_end() -> None:
    """When little runs any more, the failures are what there is to see."""
    assert seat_tasks((0, 1, 2), tasks(C, C, R, F, F, F), 3) == (5, 4, 2)


def test_what_nobody_hears_of_leaves_its_row_to_what_runs() -> None:
    """Tasks on a node out of reach share a third of the rows with failures, which go first."""
    every = [
        replace(task, node_name="away" if 1 <= task.proc_id <= 4 else "here")
        for task in tasks(F, R, R, R, R, R, R, R, R)
    ]
    held = (0, 1, 2, 3, 4, 5)
    assert seat_tasks(held, every, 6, {"away"}) == (0, 1, 6, 7, 8, 5)
    assert seat_tasks(held, every, 6) == held
    assert seat_tasks((2, 3, 5), every, 3, {"away"}) == (0, 6, 5)
    assert seat_tasks((6, 0, None), every[:7], 6, {"away"}) == (6, 0, 1, 2, 3, 5)
    assert seat_tasks((0, 1, 2, 3), every[:5], 4, {"away"}) == (0, 1, 2, 3)


def test_a_smaller_terminal_keeps_what_runs() -> None:
    """Running tasks whose rows were lost to a resize move up into rows that can be had."""
    assert seat_tasks((0, 1, 2, 3), tasks(C, R, R, R, P), 2) == (2, 1)
    assert seat_tasks((0, 1), tasks(R, R, R), 0) == ()


@given(
    st.lists(st.lists(st.sampled_from(TaskState), min_size=12, max_size=12), max_size=6),
    st.lists(st.integers(0, 14), min_size=6, max_size=6),
)
def test_rows_are_sane_whatever_happens(stages: list[list[TaskState]], sizes: list[int]) -> None:
    """No task twice, never too many rows, none idle while a task runs unseen, none shifted."""
    seats: tuple[int | None, ...] = ()
    for states, size in zip(stages, sizes, strict=False):
        before, seats = seats, seat_tasks(seats, tasks(*states), size)
        seated = [seat for seat in seats if seat is not None]
        assert len(seats) <= size
        assert len(seated) == len(set(seated))
        hidden = {n for n, state in enumerate(states) if state is R} - set(seated)
        useful = [seat for seat in seated if states[seat] is R or states[seat] in FAILURES]
        assert not hidden or len(useful) == size
        if size < len(states):
            moved = {seat for at, seat in enumerate(before[:size]) if seats[at : at + 1] != (seat,)}
            assert not moved & set(seated) - {None}
        assert seat_tasks(seats, tasks(*states), size) == seats


def status(
    number: int, state: TaskState, node: str | None = "node01", **more: object
) -> TaskStatus:
    base = TaskStatus(number, state, node, started_at=None if state is P else 0.0)
    if state.is_final:
        base = replace(base, ended_at=30.0)
    return replace(base, **more)  # type: ignore[arg-type]


HALF = Progress(60, 120)
NODES = (NodeStatus("node01", READY, 0), NodeStatus("node02", AWAY, 1, "timed out"))


def snapshot(*statuses: TaskStatus, name: str = "sweep") -> JobSnapshot:
    return JobSnapshot(name, statuses, NODES, 60.0)


def draw(job: JobSnapshot, width: int, forecast: Forecast | None = None) -> list[Row]:
    page = Page(job, forecast or Forecast(), Columns(), width=width, now=60.0)
    return page.rows(range(len(job.tasks)))


def text(row: Row) -> str:
    return f"{row.head}{'' if row.fraction is None else '#|'}{row.tail}".rstrip()


def test_a_running_row() -> None:
    """Node, step and total, elapsed and remaining time, and the rate."""
    task = status(3, R, progress=HALF)
    forecast = Forecast()
    for now in range(61):
        forecast.observe([replace(task, progress=Progress(now, 120))], float(now))
    row, job = draw(snapshot(task), 100, forecast)
    assert text(row) == "3 node01  50%|#|  60/120 [01:00<01:00, 1.00 step/s]"
    assert row.fraction == 0.5
    assert text(job) == "sweep     50%|#| 0/1 done [01:00<01:00]"


@pytest.mark.parametrize(
    ("task", "words", "tone"),
    [
        (status(0, C, progress=Progress(120, 120)), "[00:30, COMPLETED]", "good"),
        (status(0, F, progress=HALF, exit_code=3), "[00:30, FAILED (exit 3)]", "bad"),
        (status(0, R, "node02", progress=HALF), "[01:00, UNREACHABLE]", "warn"),
        (status(0, R, progress=HALF), "[01:00<?]", "plain"),
        (status(0, R), "RUNNING 01:00", "plain"),
        (status(0, P, None, reason="no free\nslot"), "PENDING: no free slot", "dim"),
        (status(0, F, exit_code=127), "FAILED (exit 127) in 00:30", "bad"),
        (status(0, TaskState.CANCELLED, started_at=None), "CANCELLED", "warn"),
    ],
)
def test_the_end_of_a_row(task: TaskStatus, words: str, tone: str) -> None:
    """Each row says how its task stands, with a bar only where the task told its progress."""
    row = draw(snapshot(task), 100)[0]
    assert text(row).endswith(words)
    assert row.tone == tone
    assert (row.fraction is None) == (task.progress is None)


@pytest.mark.parametrize(
    ("width", "row", "ended", "job"),
    [
        (79, "|  60/120 [01:00<?]", "|  60/120 [00:30, FAILED (exit 3)]", "| 1/2 done [01:00<?]"),
        (49, "|  60/120 [01:00<?]", "|  60/120 [FAILED (3)]", "| 1/2 [01:00<?]"),
        (39, "| ? left", "| FAILED (3)", "| ? left"),
        (27, "0 node01  50%", "1 node01 FAILED (3)", "sweep     75% 1/2"),
    ],
)
def test_narrow_terminals(width: int, row: str, ended: str, job: str) -> None:
    """The narrower, the less is said; the state and the percentage are said to the last."""
    drawn = draw(
        snapshot(status(0, R, progress=HALF), status(1, F, progress=HALF, exit_code=3)), width
    )
    for line, expected in zip(drawn, (row, ended, job), strict=True):
        assert text(line).endswith(expected)


MOVING = (NodeStatus("node01", READY, 0, transfer=Progress(2_600_000, 5_200_000)), NODES[1])


@pytest.mark.parametrize(
    ("width", "end"),
    [(100, "50%|#| 2.6MB/5.2MB of its files"), (39, "50%|#| 2.6MB/5.2MB"), (20, "RUNNING")],
)
def test_a_task_that_waits_for_its_files(width: int, end: str) -> None:
    """Its bar shows how far they are, until it begins; then its own progress counts."""
    waits = status(0, R, started_at=None)
    job = replace(snapshot(waits, status(1, R)), nodes=MOVING)
    first, second, _ = draw(job, width)
    assert text(first).endswith(end)
    assert (first.fraction == 0.5) == (width > 20)
    assert second.fraction is None
    still = replace(job, nodes=NODES)
    assert draw(still, width)[0].fraction is None


def test_files_on_their_way_in_the_line_of_counts() -> None:
    """All nodes' together; nothing is said where nothing is on its way, or room is short."""
    nodes = (MOVING[0], NodeStatus("node02", READY, 1, transfer=Progress(0, 4_800_000)))
    job = replace(snapshot(status(0, R)), nodes=nodes)
    assert line(job, seats=(0,)) == "1 running · files 26% of 10MB"
    assert line(job, 28, seats=(0,)) == "1 running"
    assert line(replace(job, nodes=NODES[:1]), seats=(0,)) == "1 running"


def test_all_done() -> None:
    """At the end the job's bar is full: green where all completed, else red."""
    complete = snapshot(status(0, C, progress=Progress(120, 120)))
    for width, end in ((79, " 1/1 done [01:00]"), (49, " 1/1 [01:00]"), (33, " 1/1")):
        job = draw(complete, width)[-1]
        assert (job.fraction, job.tone, job.tail.rstrip()) == (1.0, "good", end)
    assert draw(snapshot(status(0, F)), 79)[-1].tone == "bad"


def test_nobody_knows_when_a_lost_node_comes_back() -> None:
    """While a node out of reach holds a task, the job's end is not known."""
    ended = [status(n, C, started_at=0.0) for n in range(5)]
    here, away = status(5, R), status(6, R, "node02")
    assert draw(snapshot(*ended, here), 79)[-1].tail.rstrip() == " 5/6 done [01:00<00:30]"
    assert draw(snapshot(*ended, here, away), 79)[-1].tail.rstrip() == " 5/7 done [01:00<?]"


def test_never_100_percent_before_the_end() -> None:
    """A task at its last step is not an ended one."""
    job = draw(snapshot(status(0, R, progress=Progress(120, 120))), 79)[-1]
    assert " 99%|" in job.head


def test_columns_do_not_tremble() -> None:
    """Bars keep their width when a figure gets shorter, until the terminal's width changes."""
    columns = Columns()
    long, short = (snapshot(status(0, R, progress=Progress(1, n))) for n in (10**9, 10))
    tails = [
        Page(job, Forecast(), columns, width=width, now=60.0).rows([0])[0].tail
        for job, width in ((long, 100), (short, 100), (short, 99))
    ]
    assert len(tails[0]) == len(tails[1]) > len(tails[2])


def test_an_empty_row_and_a_strange_node() -> None:
    """A row without a task is empty; a node nobody listed is shown by its name."""
    job = snapshot(status(0, R, "else\x1bwhere"))
    page = Page(job, Forecast(), Columns(), width=79, now=60.0)
    empty, row, _ = page.rows([None, 0])
    assert (empty.head, empty.tail, empty.fraction) == ("", "", None)
    assert row.head.startswith("0 else?where")


def line(job: JobSnapshot, width: int = 200, seats: tuple[int, ...] = ()) -> str:
    segments = status_line(job, seats, width)
    assert sum(display_width(piece) for piece, _ in segments) <= width
    return "".join(piece for piece, _ in segments)


def test_the_line_of_counts() -> None:
    """Failures first, unseen running tasks counted, troubled nodes named as far as they fit."""
    job = snapshot(status(0, F), status(1, R), status(2, R), status(3, P), status(4, C))
    counts = "1 failed, 2 running (1 not shown), 1 waiting, 1 completed"
    assert line(job, seats=(1,)) == f"{counts} · node02 UNREACHABLE (timed out)"
    assert line(job, 80, seats=(1,)) == f"{counts} · node02 UNREACHABLE"
    busy = NodeStatus("node03", BUSY, 2, "busy: load 7.9")
    both = replace(job, nodes=(*NODES, busy))
    assert line(both).endswith(" · node02 UNREACHABLE (timed out), node03 BUSY (load 7.9)")
    assert line(both, 82, seats=(1,)) == ("1 failed, 2 running · node02 UNREACHABLE, node03 BUSY")
    assert line(both, 45) == "1 failed · node02 UNREACHABLE, node03 BUSY"
    assert line(both, 40) == "1 failed · node02 UNREACHABLE, 1 BUSY"
    two_lost = replace(both, nodes=(*both.nodes, NodeStatus("node04", AWAY, 3)))
    assert line(two_lost, 40) == "1 failed · nodes: 2 UNREACHABLE, 1 BUSY"
    assert line(job, 39) == "1 failed · node02 UNREACHABLE"
    assert line(job, 26) == "1 failed · 1 node amiss"
    assert line(job, 20) == "1 failed · 1 node a…"


def test_the_line_of_counts_where_room_is_short() -> None:
    """Kinds of failure are told apart as long as they fit; then they are one number."""
    late = (status(n, TaskState.TIMEOUT) for n in range(2, 4))
    job = replace(snapshot(status(0, F), status(1, R), *late, status(4, P)), nodes=NODES[:1])
    assert line(job, 45, (1,)) == "1 failed, 2 timed out, 1 running, 1 waiting"
    assert line(job, 39) == "1 failed, 2 timed out, 1 running"
    assert line(job, 20) == "3 failed, 1 running"
    assert line(job, 10) == "3 failed"
    assert line(job, 5) == "3 fa…"
    well = replace(snapshot(status(0, R), status(1, P)), nodes=NODES)
    assert line(well, 34) == "1 running · node02 UNREACHABLE"
    assert line(well, 20) == "node02 UNREACHABLE"
    assert line(well, 6) == "1 nod…"
    assert line(replace(well, nodes=(), tasks=(status(0, C),)), 6) == "1 com…"


def test_the_line_of_counts_without_trouble() -> None:
    """With all well there is nothing but the counts."""
    job = replace(snapshot(status(0, R)), nodes=(NodeStatus("n", READY, 0),))
    assert line(job, seats=(0,)) == "1 running"
    assert "".join(piece for piece, _ in status_line(job, None, 40)) == "1 running"


def test_node_troubles() -> None:
    """Every node that should be in use and is not is named with its reason."""
    nodes = (
        *NODES,
        NodeStatus("node03.lab", BUSY, 2, "load 7.9"),
        NodeStatus("s", NodeState.SPARE),
    )
    assert node_troubles(nodes) == "node02 UNREACHABLE (timed out), node03 BUSY (load 7.9)"
    assert node_troubles(NODES[:1]) == ""


def test_short_names() -> None:
    """Domains are left out where no two nodes get alike; addresses stay whole."""
    assert short_names(["a.lab", "b.lab"]) == {"a.lab": "a", "b.lab": "b"}
    assert short_names(["a.lab", "a.org"]) == {"a.lab": "a.lab", "a.org": "a.org"}
    assert short_names(["10.0.0.1", "fd00::7"]) == {"10.0.0.1": "10.0.0.1", "fd00::7": "fd00::7"}


def test_cut_segments_at_a_seam() -> None:
    """A line cut between two pieces still says that it was cut."""
    assert cut_segments([("abc", "plain"), ("def", "bad")], 4) == [("abc", "plain"), ("…", "dim")]
    assert cut_segments([("abc", "plain")], 1) == [("…", "dim")]
