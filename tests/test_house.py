"""The plan of the house, held by reading the imports: floors, seams, the public face."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "allot"

# The same table stands in CONTRIBUTING.md. Within a floor, a module imports only earlier ones.
FLOORS = {
    0: ("errors", "model"),
    1: (
        *(
            "hostfile",
            "plainconfig",
            "markers",
            "patterns",
            "reaper",
            "nodedir",
            "handover",
            "shellscan",
            "template",
            "staging",
            "script",
            "errands",
            "questions",
            "readings",
            "answers",
            "paths",
            "events",
        ),
        *("codec", "reasons"),
        *(
            "lifecycle",
            "scheduler",
            "units",
            "settings",
            "environment",
            "wording",
            "forecast",
            "statusline",
            "rows",
            "lines",
            "listing",
            "webtable",
            "lanes",
            "report",
        ),
    ),
    2: (
        *("unchanged", "interpreter", "watchdog", "sshconfig", "logins", "hostkeys", "sockets"),
        *("sshauth", "sftp", "faults", "gateway", "shell", "node"),
        *("sftpserver", "sshserver", "loopback"),
        *("screen", "widgets", "progress", "tracking", "probe", "output", "looks", "along", "peek"),
        "fetch",
        *("tree", "sending", "claims", "records", "statefile", "lease", "store", "orders"),
    ),
    3: (
        *("roster", "harvest", "running", "pace", "stage", "eventfile", "turns", "foothold"),
        *("driver", "launcher", "seats", "timetable"),
        *("memory", "desk", "foreman", "watched", "monitor", "watcher", "outfit", "muster"),
        *("revival", "previous", "post"),
    ),
    4: ("control", "front", "cluster", "survey", "background", "timeline"),
    5: ("options", "clirun", "clijob", "cli", "__init__", "__main__"),
}
ORDER = [name for floor in sorted(FLOORS) for name in FLOORS[floor]]
PURE = [*FLOORS[0], *FLOORS[1]]

IMPORTERS = {
    "paramiko": {
        *("logins", "sshauth", "sftp", "faults", "gateway", "node"),
        *("sftpserver", "sshserver", "loopback"),
    },
    "tqdm": {"progress", "widgets"},
    "matplotlib": {"timeline"},
}
# What reaches the outside, or does not give the same answer twice.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "random", "secrets", "select"),
    *("selectors", "signal", "socket", "subprocess", "tempfile", "threading", "time"),
}
TOP_LEVEL = {"allot", "tests", "example", "bench", "setup.cfg", "setup.py", "README.md"} | {
    *("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"),
}


def pure_files() -> str:
    """The files of floors 0 and 1, as coverage's ``--include`` takes them."""
    return ",".join(f"allot/{name}.py" for name in PURE)


def modules() -> list[str]:
    """Every module of the package."""
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


def syntax(module: str) -> ast.Module:
    """A module's syntax tree."""
    with tokenize.open(PACKAGE / f"{module}.py") as file:
        return ast.parse(file.read())


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names of all that is imported, but for what only the type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "allot" if node.level else ""
            base = ".".join(name for name in (package, node.module) if name)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def allot_imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    names = (name.split(".") for name in imported(syntax(module)))
    return {name[1] for name in names if name[0] == "allot" and len(name) > 1 and name[1] in ORDER}


def test_every_module_has_its_place() -> None:
    """The table of floors names each module of the package once, and no other."""
    assert sorted(ORDER) == modules()


def test_contributing_draws_the_same_house() -> None:
    """CONTRIBUTING.md has a row for each floor with its modules: ``| 0 words | `model.py` |``."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d) [^|]*\|([^|]*)\|", text, re.MULTILINE)
    drawn = {int(floor): set(re.findall(r"(\w+)\.py", names)) for floor, names in rows}
    assert drawn == {floor: set(names) for floor, names in FLOORS.items()}


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_below(module: str) -> None:
    """A module imports only from the floors below it, or an earlier one on its own floor."""
    below = set(ORDER[: ORDER.index(module)])
    assert allot_imports(module) <= below


@pytest.mark.parametrize("dependency", sorted(IMPORTERS))
def test_a_dependency_stays_behind_its_seam(dependency: str) -> None:
    """Only the modules meant for it import a dependency, and these do."""
    found = {
        module
        for module in modules()
        if any(name.split(".")[0] == dependency for name in imported(syntax(module)))
    }
    assert found == IMPORTERS[dependency]


@pytest.mark.parametrize("module", [name for name in PURE if name in modules()])
def test_words_and_decisions_are_pure(module: str) -> None:
    """Floors 0 and 1 have no I/O, threads, randomness or clock, and the standard library only."""
    roots = {name.split(".")[0] for name in imported(syntax(module))} - {"allot"}
    assert roots <= sys.stdlib_module_names - IMPURE


@pytest.mark.parametrize("module", modules())
def test_a_module_says_what_it_is_for_and_stays_short(module: str) -> None:
    """Each module begins with its rules and has no more than about 400 lines."""
    assert ast.get_docstring(syntax(module))
    length = len((PACKAGE / f"{module}.py").read_text().splitlines())
    assert length <= 420, f"{module}.py has {length} lines"


def test_the_public_face_is_what_it_says() -> None:
    """``allot.__all__`` is sorted, and each name in it can be imported."""
    allot = importlib.import_module("allot")
    assert list(allot.__all__) == sorted(set(allot.__all__))
    assert [name for name in allot.__all__ if not hasattr(allot, name)] == []
    loaded = {
        alias.asname or alias.name
        for node in syntax("__init__").body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allot")
        for alias in node.names
    }
    assert loaded == {name for name in allot.__all__ if not name.startswith("__")}


def test_the_top_level_holds_nothing_else() -> None:
    """Beside what the plan names, the repository's top level has only dot files."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listing.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
