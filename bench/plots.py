"""The figures as pictures: bars of medians with their spread, and lines for growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import UNITS, Round, Row, Spread, slope
from bench.results import Results, spreads

_ALLOT, _OTHER = "#1f77b4", "#b0b0b0"
# The same figures make the same file, and text stays text.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "allot", "font.size": 9}


def draw(results: Results, rows: Sequence[Row], directory: Path) -> None:
    """Write a picture for each row that was measured."""
    directory.mkdir(parents=True, exist_ok=True)
    for row in rows:
        rounds = results.rounds(row)
        if rounds:
            with rc_context(_STYLE):
                picture = _grown(row, rounds) if row.along else _bars(row, rounds)
                picture.savefig(directory / f"{row.name}.svg", metadata={"Date": None})


def _bars(row: Row, rounds: Sequence[Round]) -> Figure:
    names = list(dict.fromkeys(name for each in rounds for name in each))
    picture = Figure(figsize=(4.5 * len(row.shown), 1.1 + 0.35 * len(names)), layout="constrained")
    for axes, shown in zip(_axes(picture, row), row.shown, strict=True):
        found = spreads(rounds, shown)
        kept = [name for name in names if name in found]
        medians = [found[name].median for name in kept]
        axes.barh(
            kept,
            medians,
            xerr=_errors([found[name] for name in kept]),
            color=[_ALLOT if name.startswith("Allot") else _OTHER for name in kept],
            capsize=3,
        )
        axes.invert_yaxis()
        axes.set_xlabel(UNITS[shown])
    return picture


def _grown(row: Row, rounds: Sequence[Round]) -> Figure:
    picture = Figure(figsize=(4.5 * len(row.shown), 3), layout="constrained")
    along = spreads(rounds, str(row.along))
    for axes, shown in zip(_axes(picture, row), row.shown, strict=True):
        found = spreads(rounds, shown)
        points = sorted((along[name].median, found[name]) for name in found)
        axes.errorbar(
            [at for at, _ in points],
            [spread.median for _, spread in points],
            yerr=_errors([spread for _, spread in points]),
            color=_ALLOT,
            marker="o",
            capsize=3,
        )
        axes.set(xscale="log", yscale="log", xlabel=str(row.along), ylabel=UNITS[shown])
        axes.grid(visible=True, alpha=0.3)
        steep = slope(shown, str(row.along))
        axes.set_title(f"slope at the upper end {median(map(steep, rounds)):.2f}", fontsize=8)
    return picture


def _axes(picture: Figure, row: Row) -> Sequence[Axes]:
    grid = picture.subplots(1, len(row.shown), squeeze=False)
    picture.suptitle(row.title)
    return list(grid[0])


def _errors(found: Sequence[Spread]) -> list[list[float]]:
    """How far the spreads reach below and above their medians."""
    return [[each.median - each.low for each in found], [each.high - each.median for each in found]]
