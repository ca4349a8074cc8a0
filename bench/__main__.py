"""``bench/run``: measure rows, round by round, and write down what was found."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sshd import NeedsRootError

from bench import plots, profile, table
from bench.child import MeasurementError
from bench.figures import Figures, Measure, Row
from bench.machine import ROOT
from bench.results import Results
from bench.rows import ROWS

_KEPT = ROOT / "bench"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what was asked for; see :func:`_parser`."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        for row in ROWS:
            print(f"{row.name:16} {row.title}")
        return
    if options.profile:
        profile.show(tasks=200 if options.quick else 2000)
        return
    names = [row.name for row in ROWS]
    for name in options.only or ():
        if name not in names:
            parser.error(f"--only: there is no row {name}; there are {', '.join(names)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    directory = ROOT / ".cache/bench-quick" if options.quick else _KEPT
    results = Results.of_now(directory / "results.json")
    failed = []
    for row in ROWS:
        if options.only and row.name not in options.only:
            continue
        if options.resume and results.rounds(row):
            print(f"{row.name}: measured already")
            continue
        load = round(os.getloadavg()[0], 2)
        try:
            rounds = measure(row, options.rounds, quick=options.quick)
        except (MeasurementError, NeedsRootError, TimeoutError) as error:
            print(f"   {row.name} was given up: {error}", flush=True)
            failed.append(row.name)
            continue
        results.add(row, rounds, load)
        write(results, directory)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "bench/run", description="Measures Allot beside its peers, in one run."
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows; the others are kept")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what was measured on this commit"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; kept apart"
    )
    parser.add_argument(
        "--profile", action="store_true", help="where the time of the first row goes; only shown"
    )
    parser.add_argument("--list", action="store_true", help="name the rows")
    return parser


def measure(row: Row, count: int, *, quick: bool) -> list[Mapping[str, Figures]]:
    """Let everyone have a turn in each of ``count`` rounds."""
    print(f"== {row.name}: {row.title}", flush=True)
    rounds: list[Mapping[str, Figures]] = []
    with row.contenders(quick) as contenders:
        for number in range(count):
            order = list(contenders)
            first = number % len(order)  # nobody always has the same one before
            found = {
                name: _one(number, name, contenders[name]) for name in order[first:] + order[:first]
            }
            rounds.append({name: found[name] for name in order})
    for goal in row.goals:
        values = goal.values(rounds)
        if values:
            is_now = ", ".join(table.verdict(goal, values))
            print(f"   {goal.what}: must be {goal.sense} {goal.bound:g}, is {is_now}", flush=True)
    return rounds


def _one(number: int, name: str, take: Measure) -> Figures:
    began = time.monotonic()
    figures = take()
    told = ", ".join(f"{key} {table.number(value)}" for key, value in figures.items())
    took = time.monotonic() - began
    print(f"   round {number + 1}, {name}: {told} [{took:.0f} s]", flush=True)
    return figures


def write(results: Results, directory: Path) -> None:
    """Make the table and the pictures of what is known."""
    (directory / "RESULTS.md").write_text(table.markdown(results, ROWS))
    plots.draw(results, ROWS, directory / "plots")
    if directory == _KEPT:
        readme = ROOT / "README.md"
        readme.write_text(table.fill_in(readme.read_text(), results, ROWS))


if __name__ == "__main__":
    main()
