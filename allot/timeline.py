"""The time line of a job as a picture, drawn by matplotlib where that is installed.

Rules: matplotlib is an extra (``pip install 'allot[report]'``) and is imported only when a picture
is asked for. No global state of it is used: no pyplot, no window, no backend chosen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from allot.errors import ConfigError
from allot.lanes import COLOURS, Lane, extent, lanes_of, ticks
from allot.model import TaskState, TaskStatus
from allot.wording import clean, clock, pad

SUFFIXES = (".png", ".svg")

_WIDTH_IN, _LANE_IN, _FRAME_IN = 10.0, 0.16, 1.2
_HEIGHTS_IN = (2.5, 60.0)
_MOST_NAMES = 200
_MOST_NAME = 24
_BAR = 0.4  # half its height, in lanes
_EDGE_PT = 0.4
_EDGED_FROM = 0.005  # of the axis
_MOST_EDGED = 1000  # lanes


def save_timeline(file: Path, tasks: Sequence[TaskStatus], now: float) -> None:
    """Write the time line as a picture: a row a slot, coloured by state.

    Args:
        file: Where; ``.png`` or ``.svg``.
        tasks: The tasks.
        now: Unix seconds; where the bars of running tasks end.

    Raises:
        ConfigError: The suffix is another one, or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{file}: the time line is written as {' or '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
            Figure,
        )
    except ImportError as error:
        raise ConfigError(
            "a picture of the time line needs matplotlib: pip install 'allot[report]'"
        ) from error
    lanes = lanes_of(tasks, now)
    height = min(max(_FRAME_IN + _LANE_IN * len(lanes), _HEIGHTS_IN[0]), _HEIGHTS_IN[1])
    figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
    _draw(figure.subplots(), lanes)
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format=suffix[1:], dpi=150)


def _draw(axes: Any, lanes: Sequence[Lane]) -> None:
    first = min((bar.start for lane in lanes for bar in lane.bars), default=0.0)
    begin, end = extent(lanes, first, first)
    boxes: dict[TaskState, list[list[tuple[float, float]]]] = {}
    for row, lane in enumerate(lanes):
        for bar in lane.bars:
            left, right, low, high = bar.start - begin, bar.end - begin, row - _BAR, row + _BAR
            corners = [(left, low), (left, high), (right, high), (right, low)]
            boxes.setdefault(bar.task.state, []).append(corners)
    edged_from = _EDGED_FROM * (end - begin) if len(lanes) <= _MOST_EDGED else math.inf
    for state in sorted(boxes, key=list(TaskState).index):
        _add_bars(axes, boxes[state], state, edged_from)
    marks = ticks(end - begin)
    axes.set_xlim(0, max(end - begin, 1.0))
    axes.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
    axes.set_xticks(marks, [clock(mark) for mark in marks])
    _name_nodes(axes, lanes)
    axes.set_xlabel("elapsed")
    axes.spines[["top", "right"]].set_visible(False)
    if boxes:
        axes.figure.legend(loc="outside upper left", ncols=len(boxes), frameon=False)


def _add_bars(
    axes: Any, boxes: list[list[tuple[float, float]]], state: TaskState, edged_from: float
) -> None:
    from matplotlib.collections import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
        PolyCollection,
    )

    # A white edge parts neighbours; one of the same colour keeps the narrowest bars in sight.
    colour = COLOURS[state][0]
    edges = ["white" if box[2][0] - box[0][0] > edged_from else colour for box in boxes]
    bars = PolyCollection(
        boxes, facecolors=colour, edgecolors=edges, linewidths=_EDGE_PT, label=state.value
    )
    axes.add_collection(bars)


def _name_nodes(axes: Any, lanes: Sequence[Lane]) -> None:
    """Each node's name at the middle of its slots; some only where there are very many."""
    places = []
    for _, group in groupby(enumerate(lanes), key=lambda item: item[1].node_id):
        rows = list(group)
        name = pad(clean(rows[0][1].node_name), _MOST_NAME).strip()
        places.append((sum(row for row, _ in rows) / len(rows), name))
    shown = places[:: len(places) // _MOST_NAMES + 1]
    # A dollar sign would begin a formula.
    axes.set_yticks([row for row, _ in shown], [name for _, name in shown], parse_math=False)
