"""The line of counts under the bars, and of the nodes that do not do what they should.

Rules: pure. What matters most is said first, in ever fewer words where the screen is narrow.
Foreign text (names, reasons) never brings a control character along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from allot.model import JobSnapshot, NodeState, NodeStatus, TaskState
from allot.wording import amount, clean, cut, display_width, percent

Tone: TypeAlias = Literal["plain", "good", "bad", "warn", "dim"]
Segment: TypeAlias = tuple[str, Tone]

FAILURES = (TaskState.FAILED, TaskState.TIMEOUT, TaskState.NODE_FAIL)

TONES: Mapping[TaskState, Tone] = {
    TaskState.PENDING: "dim",
    TaskState.RUNNING: "plain",
    TaskState.COMPLETED: "good",
    TaskState.FAILED: "bad",
    TaskState.TIMEOUT: "bad",
    TaskState.CANCELLED: "warn",
    TaskState.NODE_FAIL: "bad",
}
_COUNT_WORDS = (
    (TaskState.FAILED, "failed"),
    (TaskState.TIMEOUT, "timed out"),
    (TaskState.NODE_FAIL, "lost with their node"),
    (TaskState.RUNNING, "running"),
    (TaskState.PENDING, "waiting"),
    (TaskState.CANCELLED, "cancelled"),
    (TaskState.COMPLETED, "completed"),
)
_TROUBLED = (NodeState.UNREACHABLE, NodeState.BUSY, NodeState.DRAINED)


def lost_nodes(snapshot: JobSnapshot) -> frozenset[str]:
    """Names of the nodes out of reach."""
    return frozenset(node.name for node in snapshot.nodes if _is_lost_node(node))


def _is_lost_node(node: NodeStatus) -> bool:
    return node.state is NodeState.UNREACHABLE


def status_line(
    snapshot: JobSnapshot, seats: Sequence[int | None] | None, width: int
) -> list[Segment]:
    """The line of counts, and of the nodes that do not do what they should.

    Args:
        snapshot: The job.
        seats: Which tasks have a row, to say how many running ones have none; None: no rows.
        width: Columns it may fill; nodes are named as long as they fit, else counted.
    """
    counts = dict.fromkeys(TaskState, 0)
    for task in snapshot.tasks:
        counts[task.state] += 1
    seated = {seat for seat in seats or () if seat is not None}
    hidden = 0
    if seats is not None:
        hidden = counts[TaskState.RUNNING] - sum(
            snapshot.tasks[seat].state is TaskState.RUNNING for seat in seated
        )
    failures = {state: counts[state] for state in FAILURES}
    running = {TaskState.RUNNING: counts[TaskState.RUNNING]}
    all_failed = {TaskState.FAILED: sum(failures.values())}
    full, *briefer = [
        _counts(counts, hidden) + _moving(snapshot.nodes),
        _counts(failures | running, 0),
        _counts(all_failed | running, 0),
        _counts(all_failed, 0),
    ]
    reasons, *shorter = _troubles(snapshot.nodes)
    # Which nodes they are matters more than how many tasks wait: the job's row tells of those.
    forms = [(full, reasons), *((form, text) for text in shorter for form in (full, *briefer))]
    forms += [(form, "") for form in briefer if not reasons]
    lines = [line for form in forms if (line := _with_troubles(*form))]
    fitting = (line for line in lines if _segments_width(line) <= width)
    return next(fitting, None) or cut_segments(lines[-1] if lines else full, width)


def _with_troubles(segments: list[Segment], troubles: str) -> list[Segment]:
    dot: list[Segment] = [(" · ", "dim")] if segments and troubles else []
    return [*segments, *dot, (troubles, "warn")] if troubles else segments


def _counts(counts: Mapping[TaskState, int], hidden: int) -> list[Segment]:
    segments: list[Segment] = []
    for state, word in _COUNT_WORDS:
        if counts.get(state):
            tone: Tone = TONES[state] if state in (*FAILURES, TaskState.CANCELLED) else "plain"
            more = f" ({hidden} not shown)" if state is TaskState.RUNNING and hidden else ""
            comma = ", " if segments else ""
            segments.append((f"{comma}{counts[state]} {word}{more}", tone))
    return segments


def _moving(nodes: Sequence[NodeStatus]) -> list[Segment]:
    """How far the files have come that are on their way to the nodes or back."""
    moves = [node.transfer for node in nodes if node.transfer]
    done, total = sum(move.step for move in moves), sum(move.total for move in moves)
    return (
        [(f" · files {percent(done / total).strip()} of {amount(total)}", "dim")] if total else []
    )


def node_troubles(nodes: Sequence[NodeStatus]) -> str:
    """The nodes that are not in use though they should be, with reasons; empty if all is well."""
    return _troubles(nodes)[0]


def _troubles(nodes: Sequence[NodeStatus]) -> tuple[str, ...]:
    """The same in ever fewer words."""
    troubled = [node for node in nodes if node.state in _TROUBLED]
    if not troubled:
        return ("",)
    names = short_names(node.name for node in nodes)
    named = [f"{names[node.name]} {node.state}" for node in troubled]
    told = [clean(node.reason).removeprefix("busy: ") for node in troubled]
    reasons = [f" ({reason})" if reason else "" for reason in told]
    word = "node" if len(troubled) == 1 else "nodes"
    numbers = (sum(node.state is state for node in troubled) for state in _TROUBLED)
    by_state = [f"{n} {state}" for n, state in zip(numbers, _TROUBLED, strict=True) if n]
    lost = [f"{names[node.name]} {node.state}" for node in troubled if _is_lost_node(node)]
    return (
        ", ".join(name + reason for name, reason in zip(named, reasons, strict=True)),
        ", ".join(named),
        ", ".join([*lost, *by_state[1:]] if lost else named),
        f"{word}: {', '.join(by_state)}",
        f"{len(troubled)} {word} amiss",
    )


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Node names without their domains, where that leaves no two alike."""
    full = list(names)
    short = [name if name[:1].isdigit() or ":" in name else name.partition(".")[0] for name in full]
    kept = short if len(set(short)) == len(set(full)) else full
    return {name: clean(text) for name, text in zip(full, kept, strict=True)}


def cut_segments(segments: Sequence[Segment], width: int) -> list[Segment]:
    """As much of segments wider than ``width`` as fits, ended with ``…``."""
    kept: list[Segment] = []
    room = width - 1
    for text, tone in segments:
        part = cut(text, room)
        kept.append((part, tone))
        room = room - display_width(part) if part == text else 0
    return [*(segment for segment in kept if segment[0]), ("…", "dim")]


def _segments_width(segments: Sequence[Segment]) -> int:
    return sum(display_width(text) for text, _ in segments)
