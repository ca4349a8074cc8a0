"""The table that a notebook shows for a job."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from conftest import NodesFactory
from test_cluster import run

from allot.model import JobSnapshot, NodeState, NodeStatus, Progress, TaskState, TaskStatus
from allot.webtable import MOST_ROWS, job_html


class Cells(HTMLParser):
    """The text of each cell of each row, and the tags used."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_row_a_task_and_a_row_a_troubled_node() -> None:
    """With progress, times and reasons; nodes that are READY go without saying."""
    tasks = (
        TaskStatus(0, TaskState.COMPLETED, "a", exit_code=0, started_at=10.0, ended_at=75.0),
        TaskStatus(1, TaskState.RUNNING, "a", progress=Progress(1, 4), started_at=90.0),
        TaskStatus(2, TaskState.PENDING),
    )
    nodes = (NodeStatus("a", NodeState.READY), NodeStatus("b", NodeState.BUSY, reason="load 9"))
    html = job_html(JobSnapshot("job", tasks, nodes, 1.0), 100.0)
    assert "3 tasks, 1 PENDING, 1 RUNNING, 1 COMPLETED" in html
    assert Cells(html).rows[1:4] == [
        ["0", "COMPLETED", "a", "", "01:05", "0", ""],
        ["1", "RUNNING", "a", "1/4 25%", "00:10", "", ""],
        ["2", "PENDING", "", "", "", "", ""],
    ]
    assert Cells(html).rows[-1] == ["b", "BUSY", "load 9"]


def test_foreign_text_is_no_markup() -> None:
    """Neither a job's name nor a reason brings an element along."""
    bad = "<script>alert(1)</script>"
    task = TaskStatus(0, TaskState.FAILED, bad, reason=f"{bad}\x1b[2J")
    html = job_html(JobSnapshot(bad, (task,), (), 1.0), 1.0)
    assert "script" not in Cells(html).tags
    assert "\x1b" not in html
    assert Cells(html).rows[1][2] == bad


def test_of_many_tasks_those_of_interest_are_shown() -> None:
    """One that failed is among them wherever it is, and the others are counted."""
    tasks = [TaskStatus(number, TaskState.COMPLETED) for number in range(1000)]
    tasks[987] = TaskStatus(987, TaskState.FAILED)
    html = job_html(JobSnapshot("job", tuple(tasks), (), 1.0), 1.0)
    rows = Cells(html).rows
    assert len(rows) == MOST_ROWS + 1
    assert "987" in [row[0] for row in rows]
    assert "and 950 more" in html


def test_a_cluster_shows_itself(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """``cluster`` as a cell's last line."""
    with run(sshd_nodes(1), tmp_path / "out", lambda _: "true", ntasks_per_node=2) as cluster:
        cluster.wait(60, progress=False)
        rows = Cells(cluster._repr_html_()).rows
    assert [row[1] for row in rows[1:]] == ["COMPLETED"] * 2
