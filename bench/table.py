"""The figures as Markdown: what had to be reached, and below it every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench import machine
from bench.figures import UNITS, Goal, Round, Row, Spread
from bench.results import Results, spreads

BEGIN, END = "<!-- written by bench/run: -->", "<!-- to here -->"
"""Between these lines of README.md stands what had to be reached."""


def markdown(results: Results, rows: Sequence[Row]) -> str:
    """The whole page."""
    measured = _measured(results, rows)
    head = ["# What was measured", "", *_head(results)]
    return "\n".join([*head, *_goals(measured), *_rows(results, measured)]) + "\n"


def fill_in(readme: str, results: Results, rows: Sequence[Row]) -> str:
    """README.md with these figures in the place of older ones."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    figures = [BEGIN, "", *_head(results), *_goals(_measured(results, rows)), END]
    return before + "\n".join(figures) + after


def _measured(results: Results, rows: Sequence[Row]) -> list[tuple[Row, Sequence[Round]]]:
    return [(row, rounds) for row in rows if (rounds := results.rounds(row))]


def _head(results: Results) -> Iterator[str]:
    about = machine.describe()
    yield (
        f"Written by `bench/run` from `results.json`. Allot at commit {results.commit}, on "
        f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']} GB, {about['system']}, "
        f"Linux {about['kernel']}; client and nodes share them."
    )
    yield ", ".join(f"{name} {version}" for name, version in machine.versions().items()) + "."
    yield ""
    yield "All is median (lowest–highest) over the rounds. Only ratios within a round count."
    yield ""


def _goals(measured: Sequence[tuple[Row, Sequence[Round]]]) -> Iterator[str]:
    yield "| work | | must be | is | |"
    yield "|---|---|---|---|---|"
    for row, rounds in measured:
        title = row.title
        for goal in row.goals:
            values = goal.values(rounds)
            if values:
                cells = [title, goal.what, _bound(goal), *verdict(goal, values)]
                yield f"| {' | '.join(cells)} |"
                title = ""
    yield ""


def _bound(goal: Goal) -> str:
    return f"{'≥' if goal.sense == '>=' else '≤'} {goal.bound:g}"


def verdict(goal: Goal, values: Sequence[float]) -> tuple[str, str]:
    """What the number is, and what follows."""
    spread = Spread.of(values)
    return spread_text(spread), "reached" if goal.is_reached_by(spread.median) else "**missed**"


def _rows(results: Results, measured: Sequence[tuple[Row, Sequence[Round]]]) -> Iterator[str]:
    for row, rounds in measured:
        shown = [name for name in UNITS if spreads(rounds, name)]
        about = results.rows[row.name]
        yield f"## {row.name}: {row.title}"
        yield ""
        yield f"{len(rounds)} rounds, {about['measured_at']}, load before {about['load_before']}."
        if row.note:
            yield row.note
        yield ""
        yield f"| | {' | '.join(UNITS[name] for name in shown)} |"
        yield f"|---|{'---|' * len(shown)}"
        columns = [spreads(rounds, name) for name in shown]
        for name in dict.fromkeys(name for each in rounds for name in each):
            cells = [spread_text(column[name]) if name in column else "–" for column in columns]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""
        yield f"![{row.title}](plots/{row.name}.svg)"
        yield ""


def spread_text(spread: Spread) -> str:
    """Median, lowest and highest of a figure."""
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def number(value: float) -> str:
    """A figure with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.1e}"
