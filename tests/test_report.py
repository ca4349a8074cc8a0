"""What the report of a job says, and that nothing of the user's becomes markup in it."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import BUSY_MACHINE, TEXT

from allot.errors import ConfigError
from allot.lanes import COLOURS, Lane, extent, lanes_of, ticks
from allot.model import NodeState, NodeStatus, Params, TaskState, TaskStatus
from allot.report import render
from allot.timeline import save_timeline

CREATED = 1_790_000_000.0
HOSTILE = (
    "<script>alert(1)</script>",
    "</title></style></pre></svg><img src='https://example.org/x'>",
    '" onload="alert(1)" href=\'javascript:x\'',
    "<!-- & &lt; ]]>",
    "\x00\x01\x1b]0;title\x07\x7f\x9b\u202e",
    "\udc80\ud83d",
)
VOID = {"meta"}


class Page(HTMLParser):
    """A page taken apart; fails where an element is not closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append((self._open[-1] if self._open else "", data))
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def texts(self, tag: str) -> list[str]:
        """The text directly in each element of a name, empty ones left out."""
        return [data for name, data in self.pieces if name == tag]

    def fact(self, name: str) -> str:
        """What stands under a heading of the list at the top."""
        return self.texts("dd")[self.texts("dt").index(name)]

    def row(self, *start: str) -> list[str]:
        """The row of a table that begins so."""
        return next(row for row in self.rows if row[: len(start)] == list(start))


def ran(
    proc_id: int,
    start: float,
    seconds: float | None,
    *,
    state: TaskState = TaskState.COMPLETED,
    node_id: int = 0,
    local_id: int = 0,
    attempt: int = 0,
    exit_code: int | None = None,
    reason: str = "",
    params: Params = None,
) -> TaskStatus:
    """A task that started ``start`` seconds after the job was made; None: it runs."""
    return TaskStatus(
        proc_id,
        TaskState.RUNNING if seconds is None else state,
        f"n{node_id}",
        node_id,
        local_id,
        attempt,
        exit_code=exit_code,
        started_at=CREATED + start,
        ended_at=None if seconds is None else CREATED + start + seconds,
        reason=reason,
        params=params,
    )


def page(
    *tasks: TaskStatus,
    nodes: tuple[NodeStatus, ...] = (),
    tails: dict[int, str] | None = None,
    now: float = 100.0,
    job_name: str = "sweep",
) -> Page:
    """The report ``now`` seconds after the job was made, taken apart."""
    text = render(
        job_name, "id1", tasks, nodes, tails=tails or {}, now=CREATED + now, created=CREATED
    )
    text.encode()
    assert not any(sign < " " and sign not in "\n\t" for sign in text)
    shown = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base", "a"} & set(shown.names)
    assert not {"src", "href", "srcset", "data", "action"} & {a for _, a, _ in shown.attributes}
    assert not any(name.startswith("on") for _, name, _ in shown.attributes)
    assert "url(" not in text
    assert "@import" not in text
    return shown


def test_the_head_says_what_the_page_is() -> None:
    """A title, a language, an encoding, the width of a phone; and nothing may be loaded."""
    shown = page(ran(0, 0, 10))
    assert shown.texts("title")[0] == "sweep – Allot report"
    assert shown.texts("h1") == ["sweep"]
    assert ("html", "lang", "en") in shown.attributes
    assert ("meta", "charset", "utf-8") in shown.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in shown.attributes
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in shown.attributes
    assert "prefers-color-scheme: dark" in shown.texts("style")[0]
    assert all(f"--{state}: {dark};" in shown.texts("style")[0] for state, (_, dark) in
               COLOURS.items())  # fmt: skip


def test_an_empty_job() -> None:
    """A job without a task is told too."""
    shown = page()
    assert "No tasks." in shown.texts("p")
    assert "No task failed." in shown.texts("p")
    assert "None started." in shown.texts("p")
    assert shown.fact("Tasks ended") == "0 of 0"
    assert shown.fact("Elapsed") == "00:00"
    assert shown.fact("Use of slots") == "–"
    assert not shown.names["svg"]


def test_counts_and_facts() -> None:
    """Each state with a task, how far the job is, since when, how well the slots were used."""
    tasks = [ran(n, 10.0 * n, 10) for n in range(4)]
    tasks += [ran(4, 40, 5, state=TaskState.FAILED), ran(5, 45, None), TaskStatus(6)]
    shown = page(*tasks, now=50.0)
    counts = dict(zip(shown.texts("span"), shown.texts("b"), strict=False))
    assert counts == {"PENDING": "1", "RUNNING": "1", "COMPLETED": "4", "FAILED": "1"}
    assert shown.fact("Job") == "id1"
    assert shown.fact("Started") == "2026-09-21 14:13:20 UTC"
    assert shown.fact("Elapsed") == "00:50 so far"
    assert shown.fact("Tasks ended") == "5 of 7"
    assert shown.fact("Median of completed") == "00:10"
    assert shown.fact("Nodes, slots seen") == "1, 1"
    assert shown.fact("Use of slots") == "100%"


def test_the_time_of_a_job_that_is_over_stands_still() -> None:
    """Looked at later, it took as long as it took."""
    assert page(ran(0, 0, 30), now=5000.0).fact("Elapsed") == "00:30"
    never = TaskStatus(0, TaskState.CANCELLED, ended_at=CREATED + 7)
    assert page(never, now=5000.0).fact("Elapsed") == "00:07"


def test_bars_lie_where_the_tasks_ran() -> None:
    """A bar a task that started, to its end or now; the text says the rest."""
    shown = page(
        ran(0, 0, 25),
        ran(1, 50, None, node_id=1, local_id=1, attempt=2),
        TaskStatus(2),
        TaskStatus(3, TaskState.RUNNING, "n1", 1, 0),
        TaskStatus(4, TaskState.COMPLETED, "old", None, 0, started_at=5.0, ended_at=6.0),
    )
    assert shown.names["rect"] == 2
    assert shown.names["g"] == 2
    assert shown.texts("title")[1:] == [
        "task 0: COMPLETED on n0, slot 0, 00:00 to 00:25 (00:25)",
        "task 1: RUNNING on n1, slot 1, attempt 2, 00:50 to 01:40 (00:50)",
    ]
    places = [value for tag, name, value in shown.attributes if tag == "rect" and name == "x"]
    widths = [value for tag, name, value in shown.attributes if tag == "rect" and name == "width"]
    assert places == ["0.000%", "50.000%"]
    assert widths == ["25.000%", "50.000%"]
    assert any("3 without a bar" in text for text in shown.texts("p"))
    assert {"n0", "n1", "00:00", "01:30"} <= set(shown.texts("text"))


def test_the_slowest_tasks() -> None:
    """Twenty, the slowest first, with what they were given."""
    tasks = [ran(n, 0, n + 1.0, local_id=n) for n in range(30)]
    tasks[29] = ran(29, 0, 60, local_id=29, params={"lr": 0.1, "file": "a b"})
    tasks[28] = ran(28, 0, 50, local_id=28, params="x" * 500)
    shown = page(*tasks)
    slow = [row for row in shown.rows if row[2:3] == ["COMPLETED"] and row[0] != "Node"]
    assert [row[0] for row in slow] == [str(n) for n in range(29, 9, -1)]
    assert slow[0] == ["29", "01:00", "COMPLETED", "n0", "29", "00:00", "lr=0.1 file=a b"]
    assert slow[1][-1] == "x" * 120 + "…"


def test_failed_tasks_and_the_end_of_their_output() -> None:
    """Where, how and why, and the output as a terminal would have left it."""
    tail = "old\rnew\r\n\x1b[1;31mred\x1b[0m\n\tat \x02line\n\n"
    shown = page(
        ran(0, 0, 5, state=TaskState.FAILED, exit_code=3, attempt=1, reason="exit code 3"),
        ran(1, 0, 5, state=TaskState.NODE_FAIL, local_id=1),
        ran(2, 0, 5, state=TaskState.TIMEOUT, local_id=2),
        TaskStatus(3, TaskState.CANCELLED),
        TaskStatus(4, TaskState.FAILED, reason="task_factory: no"),
        tails={0: tail, 2: "y" * 10_000},
    )
    assert shown.row("0", "n0") == ["0", "n0", "FAILED", "exit code 3", "3", "1"]
    assert shown.row("1", "n0") == ["1", "n0", "NODE_FAIL", "–", "–", "0"]
    assert shown.row("4", "–") == ["4", "–", "FAILED", "task_factory: no", "–", "0"]
    assert shown.texts("pre") == ["new\nred\n\tat \ufffdline", "…" + "y" * 4000]
    assert "Failed tasks (4)" in shown.texts("h2")
    assert "1 CANCELLED, not shown here." in shown.texts("p")


def test_many_failures_are_cut() -> None:
    """The first 200, and how many more."""
    shown = page(*(ran(n, n, 1, state=TaskState.FAILED, reason="no") for n in range(1250)))
    assert sum(row[3:4] == ["no"] for row in shown.rows) == 200
    assert "The first 200 are shown; 1,050 more failed." in shown.texts("p")


def test_what_each_node_did() -> None:
    """Tasks by state, time in use and its share, also of nodes that did nothing; the sum."""
    shown = page(
        ran(0, 0, 50),
        ran(1, 50, 50, state=TaskState.FAILED),
        ran(2, 0, 25, local_id=1),
        ran(3, 0, 100, node_id=1),
        nodes=(
            NodeStatus("n0", NodeState.READY, 0),
            NodeStatus("n1", NodeState.DRAINED, 1, "by the user"),
            NodeStatus("n2", NodeState.SPARE),
        ),
    )
    head = ["Node", "State", "COMPLETED", "FAILED", "Slots", "Busy", "Use", "Reason"]
    assert shown.row("Node") == head
    assert shown.row("n0") == ["n0", "READY", "2", "1", "2", "02:05", "62%", ""]
    assert shown.row("n1") == ["n1", "DRAINED", "1", "0", "1", "01:40", "100%", "by the user"]
    assert shown.row("n2") == ["n2", "SPARE", "0", "0", "0", "00:00", "–", ""]
    assert shown.row("All") == ["All", "", "3", "1", "3", "03:45", "75%", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    """Names, reasons, parameters and outputs are shown, never obeyed."""
    plain = page(*hostile_tasks("x"), nodes=hostile_nodes("x"), tails={0: "x"})
    shown = page(*hostile_tasks(text), nodes=hostile_nodes(text), tails={0: text}, job_name=text)
    assert shown.names == plain.names
    assert [place[:2] for place in shown.attributes] == [place[:2] for place in plain.attributes]
    if text.isprintable():
        assert shown.texts("h1") == shown.texts("pre") == [text]
        assert shown.row("0", text)[3] == text


def hostile_tasks(text: str) -> tuple[TaskStatus, ...]:
    failed = TaskStatus(0, TaskState.FAILED, text, 0, 0, started_at=CREATED, ended_at=CREATED + 9,
                        reason=text, params={text: text})  # fmt: skip
    return (failed, TaskStatus(1, reason=text, params=text))


def hostile_nodes(text: str) -> tuple[NodeStatus, ...]:
    return (NodeStatus(text, NodeState.BUSY, 0, text), NodeStatus(text, NodeState.BUSY, None, text))


def test_large_jobs_stay_small() -> None:
    """10,000 tasks make a page that a browser likes and that is there at once."""
    tail = "<Traceback & more>\n" * 50
    for nodes, slots in ((2, 2), (50, 4), (1000, 8)):
        tasks = [
            ran(n, n % 3600, 40, node_id=n % nodes, local_id=n // nodes % slots,
                state=TaskState.COMPLETED if n % 9 else TaskState.FAILED, reason="exit code 1")
            for n in range(10_000)
        ]  # fmt: skip
        statuses = tuple(NodeStatus(f"n{n}", NodeState.READY, n) for n in range(nodes))
        tails = dict.fromkeys(range(10_000), tail)
        start = time.process_time()
        text = render("j", "1", tasks, statuses, tails=tails, now=CREATED + 9e3, created=CREATED)
        assert time.process_time() - start < 10
        assert len(text.encode()) < 5_000_000
        assert text.count("<rect") == 10_000


TASKS = st.lists(
    st.builds(
        TaskStatus,
        st.integers(0, 20),
        st.sampled_from(TaskState),
        st.one_of(st.none(), TEXT),
        *[st.one_of(st.none(), st.integers(0, 2))] * 2,
        started_at=st.one_of(st.none(), st.floats(0, 1e9)),
        ended_at=st.one_of(st.none(), st.floats(0, 1e9)),
        reason=TEXT,
        params=st.one_of(st.none(), TEXT, st.dictionaries(TEXT, TEXT, max_size=2)),
    ),
    max_size=12,
)
TIMES = st.floats(0, 1e9)


@BUSY_MACHINE
@given(TASKS, TIMES, TIMES)
def test_every_bar_lies_on_the_axis(tasks: list[TaskStatus], now: float, created: float) -> None:
    """Whatever the clocks said: each task once, by start, within the axis; use is a share."""
    lanes = lanes_of(tasks, now)
    begin, end = extent(lanes, created, now)
    assert begin <= created <= end
    assert now <= end
    for lane in lanes:
        assert all(begin <= bar.start <= bar.end <= end for bar in lane.bars)
        starts = [bar.start for bar in lane.bars]
        assert starts == sorted(starts)
        longest = max(bar.seconds for bar in lane.bars)
        assert longest * 0.999 <= lane.busy_s <= (end - begin) * 1.001
        assert {(bar.task.node_id, bar.task.local_id) for bar in lane.bars} == {
            (lane.node_id, lane.local_id)
        }
    places = [(lane.node_id, lane.local_id) for lane in lanes]
    assert places == sorted(set(places))
    placed = [t for t in tasks if None not in (t.started_at, t.node_id, t.local_id)]
    assert sum(len(lane.bars) for lane in lanes) == len(placed)


@BUSY_MACHINE
@given(TASKS, TIMES, TIMES, TEXT)
def test_any_job_can_be_told(
    tasks: list[TaskStatus], now: float, created: float, text: str
) -> None:
    """A whole page whatever is in it, with its bars inside the picture."""
    nodes = (NodeStatus(text, NodeState.READY, 0, text),)
    shown = Page(
        render(text, text, tasks, nodes, tails=dict.fromkeys(range(9), text), now=now,
               created=created)
    )  # fmt: skip
    places = [
        float(value[:-1])
        for tag, name, value in shown.attributes
        if tag == "rect" and name in ("x", "width")
    ]
    for place, width in zip(places[::2], places[1::2], strict=True):
        assert 0 <= place <= 100
        assert 0 < width <= 100
        assert place + width <= 100.01


def test_bars_that_overlap_count_once() -> None:
    """A slot is in use or not, also where a task that was given up ended late."""
    (lane,) = lanes_of([ran(0, 0, 10), ran(1, 5, 10), ran(2, 6, 1), ran(3, 20, 1)], CREATED)
    assert isinstance(lane, Lane)
    assert lane.busy_s == 16


@given(st.one_of(st.floats(0, 1e10), st.integers(0, 10_000).map(float)))
def test_ticks_are_few_and_on_the_axis(span: float) -> None:
    """From 0, evenly, no more than seven, and none beyond the end."""
    marks = ticks(span)
    assert marks[0] == 0
    assert marks[-1] <= span
    assert len(marks) <= 7
    assert len({after - before for before, after in itertools.pairwise(marks)}) <= 1


def test_ticks_are_round() -> None:
    """Figures as on a clock."""
    assert ticks(0.5) == [0]
    assert ticks(50) == [0, 10, 20, 30, 40, 50]
    assert ticks(7200) == [0, 1800, 3600, 5400, 7200]
    assert ticks(86400 * 13) == [86400 * day for day in (0, 3, 6, 9, 12)]


MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".SVG": b"<?xml"}


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("name", ["n0", "$a_{b", "\udc80\x1b[0m", "節點 🙂", "<x>&", "n" * 300])
def test_a_picture_where_matplotlib_is_installed(tmp_path: Path, suffix: str, name: str) -> None:
    """The file is what its suffix says; without matplotlib the error says what to install."""
    file = tmp_path / f"line{suffix}"
    placed = TaskStatus(9, TaskState.FAILED, name, 3, 0, started_at=CREATED, ended_at=CREATED + 5)
    tasks = [ran(0, 0, 25), ran(1, 50, None, node_id=1), TaskStatus(2), placed]
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(ConfigError, match=r"pip install 'allot\[report\]'"):
            save_timeline(file, tasks, CREATED + 100)
        assert not file.exists()
    else:
        save_timeline(file, tasks, CREATED + 100)
        assert file.read_bytes().startswith(MAGIC[suffix])


def test_a_picture_of_an_empty_job(tmp_path: Path) -> None:
    """Nothing to draw is an empty picture."""
    file = tmp_path / "line.png"
    if importlib.util.find_spec("matplotlib") is not None:
        save_timeline(file, [], CREATED)
        assert file.read_bytes().startswith(MAGIC[".png"])


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    for module in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'allot\[report\]'"):
        save_timeline(tmp_path / "line.png", [], CREATED)


@pytest.mark.parametrize("name", ["line", "line.jpg", "line.png.txt", ".png"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    """The error names those there are."""
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        save_timeline(tmp_path / name, [], CREATED)
