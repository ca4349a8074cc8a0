"""The rows of the comparison, in the order in which they are shown."""

from __future__ import annotations

from bench.figures import Row
from bench.rows import trivial

ROWS: tuple[Row, ...] = (trivial.ROW,)
