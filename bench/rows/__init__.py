"""The rows of the comparison, in the order in which they are shown."""

from __future__ import annotations

from bench.figures import Row
from bench.rows import (
    connect,
    drawing,
    far,
    growth,
    idle,
    many,
    output,
    polls,
    slots,
    slow_rc,
    start,
    thousand,
    trivial,
)

ROWS: tuple[Row, ...] = (
    trivial.ROW,
    slow_rc.ROW,
    far.ROW,
    many.ROW,
    start.ROW,
    slots.ROW,
    connect.ROW,
    thousand.ROW,
    polls.ROW,
    output.ROW,
    idle.ROW,
    drawing.ROW,
    *growth.ROWS,
)
