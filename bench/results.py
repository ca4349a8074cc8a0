"""The figures on disk: every single one, and what was made of them.

Rules: the rows of one file were measured on one commit of ``allot/``, perhaps at different times;
all figures of a row come from one run. A file of another commit is begun anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import machine
from bench.figures import Figures, Round, Row, Spread


@dataclass
class Results:
    """What was measured so far.

    Attributes:
        file: Where it is kept.
        commit: The commit of ``allot/``.
        rows: By the row's name: when it was measured, under what load, and its rounds.
    """

    file: Path
    commit: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of_now(cls, file: Path) -> Results:
        """Go on with what was measured on the same commit."""
        results = cls(file, machine.commit())
        if file.exists():
            known = json.loads(file.read_text())
            if known["commit"] == results.commit:
                results.rows = known["rows"]
            else:
                print(f"{file}: measured on commit {known['commit']}, is begun anew")
        return results

    def add(self, row: Row, rounds: Sequence[Round], load: float) -> None:
        """Take in a row, and write all down.

        Args:
            row: What was measured.
            rounds: Everything that was found.
            load: The machine's load average before.
        """
        self.rows[row.name] = {
            "title": row.title,
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "load_before": load,
            "rounds": rounds,
            "goals": [
                {"what": goal.what, "sense": goal.sense, "bound": goal.bound, "values": values}
                for goal in row.goals
                if (values := goal.values(rounds))
            ],
        }
        text = {
            "commit": self.commit,
            "machine": machine.describe(),
            "versions": machine.versions(),
            "rows": self.rows,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
        os.replace(fresh, self.file)

    def rounds(self, row: Row) -> list[Mapping[str, Figures]]:
        """What was measured of a row, if anything."""
        found: list[Mapping[str, Figures]] = self.rows.get(row.name, {}).get("rounds", [])
        return found


def spreads(rounds: Sequence[Round], figure: str) -> dict[str, Spread]:
    """A figure over the rounds, for each who has it."""
    values: dict[str, list[float]] = {}
    for each in rounds:
        for name, figures in each.items():
            if figure in figures:
                values.setdefault(name, []).append(figures[figure])
    return {name: Spread.of(found) for name, found in values.items()}
