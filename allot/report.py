"""A job told as one HTML file: counts, time line, failures, the slowest tasks, the nodes.

Rules: pure; the page needs nothing but itself, no network and no script. Markup is made by
``_tag`` alone: what is not markup already is escaped there, its control characters replaced, so
nothing of the user's (names, reasons, outputs) can be more than text.
"""

from __future__ import annotations

import html
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby

from allot.lanes import COLOURS, Bar, Lane, extent, lanes_of, ticks
from allot.model import NodeStatus, Params, Summary, TaskState, TaskStatus
from allot.statusline import FAILURES
from allot.wording import clock, percent

_MOST_SLOWEST = 20
_MOST_FAILED = 200
_MOST_TAIL = 4000  # characters
_MOST_PARAMS = 120  # characters
_PITCHES_PX = ((100, 14), (1000, 8))  # up to so many lanes, each so high
_LEAST_PITCH_PX = 4
_NAME_PX = 18
_AXIS_PX = 20
_LEAST_BAR = 0.04  # percent of the axis
_WIDE_BAR = 0.8  # percent; a wider one has an edge
_LAST_TICK = 0.9  # of the axis; a later mark has its figure to its left
_NONE = "–"
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1c1c; --dim: #5c5c5c; --line: #d9d9d9;
  --soft: #f5f5f5; %s }
@media (prefers-color-scheme: dark) { :root { --page: #161616; --text: #e8e8e8; --dim: #a8a8a8;
  --line: #3a3a3a; --soft: #202020; %s } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem clamp(.75rem, 3vw, 3rem) 3rem; max-width: 110rem;
  background: var(--page); color: var(--text); font: 1rem/1.45 system-ui, sans-serif }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; margin: .5rem 0 }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
p { margin: .4rem 0 } .dim { color: var(--dim); font-size: .9rem }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(12.5rem, 44%%), 1fr));
  gap: .8rem 1rem }
dt { color: var(--dim); font-size: .85rem } dd { margin: 0; overflow-wrap: anywhere }
ul { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: .8rem 0; padding: 0;
  list-style: none } li b { margin-left: .4rem }
dd, td, li, text { font-variant-numeric: tabular-nums }
.state { white-space: nowrap }
.state::before { content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 2px;
  margin-right: .4em; background: var(--state) }
.scroll { overflow: auto; border: 1px solid var(--line); border-radius: 6px }
.lines { max-height: 75vh; padding: 0 .6rem }
table { border-collapse: collapse; width: 100%%; font-size: .92rem }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top }
thead th { background: var(--soft); color: var(--dim); font-weight: 600; white-space: nowrap }
tbody, tfoot { border-top: 1px solid var(--line) }
tbody tr + tr { border-top: 1px solid var(--line) } tr + tr.output { border: 0 }
th[scope=row], tfoot { font-weight: 600 } .n, .name { white-space: nowrap }
.n { text-align: right } .words { overflow-wrap: anywhere; min-width: 9rem }
pre { margin: 0 0 .4rem; padding: .5rem .7rem; max-height: 20rem; overflow: auto;
  border-radius: 4px; background: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere;
  position: sticky; left: .7rem; max-width: calc(100vw - 3.1rem); font: .85rem/1.4 monospace }
svg { display: block; width: 100%% } svg text { fill: var(--dim); font-size: 11px }
.axis { position: sticky; top: 0; background: var(--page) } .lanes .name { fill: var(--text) }
line { stroke: var(--line) } rect { fill: var(--state); shape-rendering: crispEdges }
.wide { stroke: var(--page) } rect:hover { opacity: .7 }
@media (max-width: 40rem) { th, td { padding: .35rem .45rem } }
@media print { .scroll, pre { overflow: visible; max-height: none } }
"""


class _Html(str):
    """Markup; any other text is escaped before it becomes part of the page."""

    __slots__ = ()


def render(
    job_name: str,
    job_id: str,
    tasks: Sequence[TaskStatus],
    nodes: Sequence[NodeStatus],
    *,
    tails: Mapping[int, str],
    now: float,
    created: float,
) -> str:
    """The page.

    Args:
        job_name: Name of the job.
        job_id: Identifier of this run of the job.
        tasks: Every task, by ``proc_id``.
        nodes: The nodes, used ones first.
        tails: The ends of the outputs of failed tasks, by ``proc_id``.
        now: Unix seconds on the client's clock.
        created: When the job was made, in the same.

    Returns:
        A whole HTML document; it can be encoded as UTF-8 whatever the arguments hold.
    """
    lanes = lanes_of(tasks, now)
    is_over = all(task.state.is_final for task in tasks)
    ends = [task.ended_at for task in tasks if task.ended_at is not None] if is_over else [now]
    begin, end = extent(lanes, created, max(ends, default=created))
    body = _tag(
        "main",
        _header(job_name, tasks, now),
        _facts(job_id, tasks, lanes, begin, end),
        _time_line(lanes, len(tasks), begin, end),
        _failed(tasks, tails),
        _slowest(lanes, begin),
        _nodes(nodes, tasks, lanes, end - begin),
    )
    head = _tag(
        "head",
        _Html('<meta charset="utf-8">'),
        _Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        _Html('<meta name="color-scheme" content="light dark">'),
        _Html('<meta http-equiv="Content-Security-Policy" '),
        _Html("content=\"default-src 'none'; style-src 'unsafe-inline'\">"),
        _tag("title", f"{job_name} – Allot report"),
        _tag("style", _style()),
    )
    return f"<!DOCTYPE html>\n{_tag('html', head, _tag('body', body), lang='en')}\n"


def _style() -> _Html:
    light, dark = (
        " ".join(f"--{state.value}: {colours[shade]};" for state, colours in COLOURS.items())
        for shade in (0, 1)
    )
    states = "".join(f".{s.value} {{ --state: var(--{s.value}) }}\n" for s in COLOURS)
    return _Html(_STYLE % (light, dark) + states)


def _header(job_name: str, tasks: Sequence[TaskStatus], now: float) -> _Html:
    counts = Summary(tuple(tasks), 0.0).counts
    items = [
        _tag("li", _state(state), _tag("b", f"{number:,}"))
        for state, number in counts.items()
        if number
    ]
    return _tag(
        "header",
        _tag("h1", job_name),
        _tag("p", f"Allot report, as seen at {_date(now)}", class_="dim"),
        _tag("ul", *items, aria_label="Tasks by state") if items else _tag("p", "No tasks."),
    )


def _facts(
    job_id: str, tasks: Sequence[TaskStatus], lanes: Sequence[Lane], begin: float, end: float
) -> _Html:
    ended = sum(task.state.is_final for task in tasks)
    elapsed = clock(end - begin) + ("" if ended == len(tasks) else " so far")
    bars = [bar for lane in lanes for bar in lane.bars]
    took = [bar.seconds for bar in bars if bar.task.state is TaskState.COMPLETED]
    facts = {
        "Job": job_id,
        "Started": _date(begin),
        "Elapsed": elapsed,
        "Tasks ended": f"{ended:,} of {len(tasks):,}",
        "Median of completed": clock(statistics.median(took)) if took else _NONE,
        "Nodes, slots seen": f"{len({lane.node_id for lane in lanes}):,}, {len(lanes):,}",
        "Use of slots": _use(lanes, end - begin),
    }
    parts = (_tag("div", _tag("dt", name), _tag("dd", fact)) for name, fact in facts.items())
    return _tag("dl", *parts)


def _use(lanes: Sequence[Lane], span: float) -> str:
    """Which share of the span the slots seen were in use."""
    whole = len(lanes) * span
    return percent(sum(lane.busy_s for lane in lanes) / whole).strip() if whole else _NONE


def _time_line(lanes: Sequence[Lane], ntasks: int, begin: float, end: float) -> _Html:
    drawn = sum(len(lane.bars) for lane in lanes)
    note = "By node and slot; a bar is the latest attempt of a task."
    if drawn < ntasks:
        note += f" {ntasks - drawn:,} without a bar: not started, or kept from an earlier run."
    pitch = next((px for most, px in _PITCHES_PX if len(lanes) <= most), _LEAST_PITCH_PX)
    parts, top = [], 0
    for _, group in groupby(lanes, key=lambda lane: lane.node_id):
        slots = list(group)
        parts.append(_tag("text", slots[0].node_name, class_="name", y=str(top + _NAME_PX - 5)))
        top += _NAME_PX
        for lane in slots:
            bars = (_bar(bar, lane, pitch, begin, end) for bar in lane.bars)
            parts.append(_tag("g", *bars, transform=f"translate(0 {top})"))
            top += pitch
    span = max(end - begin, 1.0)
    marks = [(100 * mark / span, clock(mark)) for mark in ticks(end - begin)]
    grid = (_tag("line", x1=f"{at:.3f}%", x2=f"{at:.3f}%", y2=str(top)) for at, _ in marks)
    label = f"Time line of {drawn:,} tasks on {len(lanes):,} slots"
    lines = _tag("svg", *grid, *parts, class_="lanes", height=str(top + 6), role="img",
                 aria_label=label)  # fmt: skip
    shown = _scroll("Time line", _axis(marks), lines, class_="scroll lines")
    return _section("Time line", _tag("p", note, class_="dim"), shown if lanes else _Html())


def _axis(marks: Iterable[tuple[float, str]]) -> _Html:
    figures = (
        _tag(
            "text",
            text,
            x=f"{at:.3f}%",
            y=str(_AXIS_PX - 6),
            text_anchor="start" if not at else "end" if at > 100 * _LAST_TICK else "middle",
        )
        for at, text in marks
    )
    return _tag("svg", *figures, class_="axis", height=str(_AXIS_PX), aria_hidden="true")


def _bar(bar: Bar, lane: Lane, pitch: int, begin: float, end: float) -> _Html:
    task, span = bar.task, max(end - begin, 1.0)
    width = max(100 * bar.seconds / span, _LEAST_BAR)
    is_thin = pitch == _LEAST_PITCH_PX
    again = f", attempt {task.attempt}" if task.attempt else ""
    title = (
        f"task {task.proc_id}: {task.state} on {lane.node_name}, slot {lane.local_id}{again}, "
        f"{clock(bar.start - begin)} to {clock(bar.end - begin)} ({clock(bar.seconds)})"
    )
    return _tag(
        "rect",
        _tag("title", title),
        class_=f"{task.state}{' wide' if width >= _WIDE_BAR and not is_thin else ''}",
        x=f"{min(100 * (bar.start - begin) / span, 100 - width):.3f}%",
        width=f"{width:.3f}%",
        height=str(pitch - (1 if is_thin else 2)),
    )


def _failed(tasks: Sequence[TaskStatus], tails: Mapping[int, str]) -> _Html:
    failed = [task for task in tasks if task.state in FAILURES]
    cancelled = sum(task.state is TaskState.CANCELLED for task in tasks)
    words = "No task failed." if not failed else ""
    if len(failed) > _MOST_FAILED:
        words = f"The first {_MOST_FAILED} are shown; {len(failed) - _MOST_FAILED:,} more failed."
    if cancelled:
        words += f" {cancelled:,} CANCELLED, not shown here."
    heads = ("Task", "Node", "State", "Reason", "#Exit code", "#Attempt")
    bodies = (_failure(task, tails.get(task.proc_id, "")) for task in failed[:_MOST_FAILED])
    table = _table("Failed tasks", heads, *bodies) if failed else _Html()
    note = _tag("p", words.strip(), class_="dim") if words else _Html()
    return _section(f"Failed tasks ({len(failed):,})", note, table)


def _failure(task: TaskStatus, tail: str) -> _Html:
    row = _row(
        str(task.proc_id),
        _tag("td", task.node_name or _NONE, class_="name"),
        _tag("td", _state(task.state)),
        _tag("td", task.reason or _NONE, class_="words"),
        _number(_NONE if task.exit_code is None else str(task.exit_code)),
        _number(str(task.attempt)),
    )
    text = _end_of_output(tail)
    if not text:
        return _tag("tbody", row)
    output = _tag("pre", text, tabindex="0", aria_label=f"End of the output of task {task.proc_id}")
    return _tag("tbody", row, _tag("tr", _tag("td", output, colspan="6"), class_="output"))


def _end_of_output(tail: str) -> str:
    """As a terminal would have left it: no colours, of an overwritten line the last version."""
    lines = _ESCAPE_SEQUENCE.sub("", tail.rstrip()).split("\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return text if len(text) <= _MOST_TAIL else f"…{text[-_MOST_TAIL:]}"


def _slowest(lanes: Sequence[Lane], begin: float) -> _Html:
    bars = [bar for lane in lanes for bar in lane.bars]
    bars.sort(key=lambda bar: (-bar.seconds, bar.task.proc_id))
    rows = (
        _row(
            str(bar.task.proc_id),
            _number(clock(bar.seconds)),
            _tag("td", _state(bar.task.state)),
            _tag("td", bar.task.node_name or _NONE, class_="name"),
            _number(str(bar.task.local_id)),
            _number(clock(bar.start - begin)),
            _tag("td", _params(bar.task.params), class_="words"),
        )
        for bar in bars[:_MOST_SLOWEST]
    )
    heads = ("Task", "#Time", "State", "Node", "#Slot", "#Started at", "Parameters")
    shown = _table("Slowest tasks", heads, _tag("tbody", *rows))
    return _section("Slowest tasks", shown if bars else _tag("p", "None started.", class_="dim"))


def _params(params: Params) -> str:
    if isinstance(params, Mapping):
        text = " ".join(f"{name}={value}" for name, value in params.items())
    else:
        text = "" if params is None else str(params)
    return text if len(text) <= _MOST_PARAMS else f"{text[:_MOST_PARAMS]}…"


def _nodes(
    nodes: Sequence[NodeStatus], tasks: Sequence[TaskStatus], lanes: Sequence[Lane], span: float
) -> _Html:
    counts: dict[int, Counter[TaskState]] = {}
    for task in tasks:
        if task.node_id is not None:
            counts.setdefault(task.node_id, Counter())[task.state] += 1
    slots = {key: list(group) for key, group in groupby(lanes, key=lambda lane: lane.node_id)}
    total: Counter[TaskState] = sum(counts.values(), Counter())
    states = [state for state in TaskState if total[state]]
    rows = []
    for node in nodes:
        key = -1 if node.node_id is None else node.node_id
        where = (_tag("td", str(node.state)), _tag("td", node.reason, class_="words"))
        figures = _node_figures(counts.get(key, Counter()), states, slots.get(key, []), span)
        rows.append(_row(node.name, where[0], *figures, where[1]))
    figures = _node_figures(total, states, lanes, span)
    foot = _tag("tfoot", _row("All", _tag("td"), *figures, _tag("td")))
    heads = ("Node", "State", *(f"#{state}" for state in states))
    table = _table("Nodes", (*heads, "#Slots", "#Busy", "#Use", "Reason"),
                   _tag("tbody", *rows), foot)  # fmt: skip
    note = (
        "Slots that were seen to run something, how long they did, and its share of the job's time."
    )
    return _section("Nodes", _tag("p", note, class_="dim"), table)


def _node_figures(
    counts: Counter[TaskState], states: Sequence[TaskState], lanes: Sequence[Lane], span: float
) -> list[_Html]:
    numbers = [f"{counts[state]:,}" for state in states]
    busy = clock(sum(lane.busy_s for lane in lanes))
    return [_number(text) for text in (*numbers, f"{len(lanes):,}", busy, _use(lanes, span))]


def _section(title: str, *children: str) -> _Html:
    return _tag("section", _tag("h2", title), *children)


def _table(caption: str, heads: Sequence[str], *bodies: str) -> _Html:
    """A table; a head that begins with ``#`` stands over numbers."""
    cells = (
        _tag("th", head.lstrip("#"), scope="col", class_="n" if head.startswith("#") else "")
        for head in heads
    )
    head = _tag("thead", _tag("tr", *cells))
    return _scroll(caption, _tag("table", head, *bodies, aria_label=caption), class_="scroll")


def _scroll(label: str, *children: str, class_: str) -> _Html:
    """What may be wider or higher than the screen; the keyboard can reach and move it."""
    return _tag("div", *children, class_=class_, tabindex="0", role="region", aria_label=label)


def _row(name: str, *cells: _Html) -> _Html:
    return _tag("tr", _tag("th", name, scope="row", class_="name"), *cells)


def _number(text: str) -> _Html:
    return _tag("td", text, class_="n")


def _state(state: TaskState) -> _Html:
    return _tag("span", state.value, class_=f"state {state}")


def _date(time: float) -> str:
    return f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _tag(name: str, *children: str, **attributes: str) -> _Html:
    """An element; a ``_`` in an attribute's name is a hyphen, at its end it is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"'
        for key, value in attributes.items()
        if value
    )
    return _Html(f"<{name}{shown}>{''.join(map(_escape, children))}</{name}>")


def _escape(text: str) -> _Html:
    """Text that is text to a browser too, all of it visible: the one place for this."""
    if isinstance(text, _Html):
        return text
    if not text.isprintable():
        text = "".join(
            "\ufffd" if unicodedata.category(sign).startswith("C") and sign not in "\n\t" else sign
            for sign in text
        )
    return _Html(html.escape(text))
