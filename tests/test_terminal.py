"""Real jobs on real nodes, watched in real terminals, and their output in pipes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import NodesFactory
from sshd import SshdNodes
from terminals import Terminal

from allot import cli

NTASKS = (5, 30, 1000)
DRIVER, *WATCHERS = SIZES = ("80x24", "90x12", "40x10")
# Task 1 fails at once; the others tell a progress of their own and last until LOCK is free, or
# task 0 until there is a file LOCK.0.
TASK = r"""
printf '\002%d/120\003' $((ALLOT_PROCID % 100 + 1))
if ((ALLOT_PROCID == 1)); then echo it broke; exit 3; fi
if ((ALLOT_PROCID)); then flock -s LOCK true; else
  until [[ -e LOCK.0 ]] || flock -ns LOCK true; do sleep 0.2; done
fi
printf '\002120/120\003'
"""


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[[str, str], Terminal]]:
    """Opens terminals: ``open_terminal(name, size)``."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened: list[Terminal] = []

    def start(name: str, size: str) -> Terminal:
        opened.append(Terminal(tmp_path, size, name))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


class Gate:
    """A lock that tasks wait for without looking again and again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def open(self) -> None:
        """Let all of them go on; idempotent."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed at first."""
    made = Gate(tmp_path / "lock")
    yield made
    made.close()


def make_busy(nodes: SshdNodes, index: int, directory: Path) -> None:
    """Leave a node, one with a file system of its own, next to no free memory."""
    text = Path("/proc/meminfo").read_text().splitlines()
    low = ["MemAvailable: 1024 kB" if line.startswith("MemAvailable") else line for line in text]
    file = directory / "meminfo"
    file.write_text("\n".join([*low, ""]))
    keeper = nodes.node(index).path(Path("/")).parts[2]
    enter = ["nsenter", f"--mount=/proc/{keeper}/ns/mnt", "mount", "--bind"]
    subprocess.run([*enter, str(file), "/proc/meminfo"], timeout=20, check=True)


def run_words(nodes: SshdNodes, output_dir: Path, gate: Gate, *options: str) -> list[str | Path]:
    words: list[str | Path] = ["run", "--node-file", nodes.node_file, "--output-dir", output_dir]
    words += ["--ssh-config", nodes.ssh_config, "--max-load", "none", "--oversubscribe"]
    words += ["--poll-interval", "0.2", *options]
    return [*words, "--", TASK.strip().replace("LOCK", os.fspath(gate.file))]


def is_drawn(terminal: Terminal, size: str, ntasks: int) -> bool:
    """Whether there are as many rows as fit, each in its line, and the bars in line."""
    columns, lines = map(int, size.split("x"))
    block = terminal.block()
    if len(block) != min(ntasks, lines - 3) + 2 or not block[-2].startswith("sweep"):
        return False
    rows = block[:-2]
    bars = {(line.index("|"), line.rindex("|")) for line in block[:-1] if line.count("|") > 1}
    return (
        max(map(len, block)) < columns
        and len({row.split()[0] for row in rows}) == len(rows)
        and len(bars) == (columns >= 40)
        and terminal.has_cursor()
    )


def is_told(terminal: Terminal, size: str, ntasks: int) -> bool:
    """Whether the failed task, the lost node and a task on it, and the BUSY node are shown."""
    *rows, counts = terminal.block() or [""]
    failed = [row for row in rows if row.split()[0] == "1"]
    return (
        "1 failed" in counts
        and "nd05 UNREACHABLE" in counts
        # A client that only watches knows nothing of a node that was never used.
        and ("nd02 BUSY" in counts or size != DRIVER)
        and any("UNREACHABLE" in row for row in rows)
        and all("FAILED" in row for row in failed)
        and len(failed) == 1
        and is_drawn(terminal, size, ntasks)
    )


def interrupt(terminal: Terminal) -> None:
    """Press Ctrl-C, and answer what is asked then with Enter."""
    terminal.run("send-keys", "C-c")
    terminal.wait_for(lambda: "[y/N]" in "".join(terminal.screen()))
    terminal.run("send-keys", "Enter")
    terminal.wait_for(terminal.has_prompt)
    assert terminal.shows("allot: detached; ")


def test_jobs_of_all_sizes_in_terminals_of_all_sizes(
    sshd_nodes: NodesFactory,
    tmp_path: Path,
    open_terminal: Callable[[str, str], Terminal],
    gate: Gate,
) -> None:
    """Each tells a failure, a BUSY and a lost node; a resize, Ctrl-C and the end are clean."""
    nodes = sshd_nodes(5, private=["/mnt"])
    make_busy(nodes, 1, tmp_path)
    terminals = {(n, size): open_terminal(f"{n}-{size}", size) for n in NTASKS for size in SIZES}
    options = ["-J", "sweep", "--ntasks-per-node", "6", "--distribution", "cyclic"]
    options += ["--min-free-memory", "100M"]
    for n in NTASKS:
        words = run_words(nodes, tmp_path / str(n), gate, "-n", str(n), *options)
        terminals[n, DRIVER].allot(*words)
    for n in NTASKS:
        terminals[n, DRIVER].wait_for(partial(is_drawn, terminals[n, DRIVER], DRIVER, n))
        for size in WATCHERS:
            terminals[n, size].allot("attach", tmp_path / str(n))
    for (n, size), terminal in terminals.items():
        terminal.wait_for(partial(is_drawn, terminal, size, n))

    nodes.node(4).cut()
    for (n, size), terminal in terminals.items():
        terminal.wait_for(partial(is_told, terminal, size, n))

    for size in ("40x10", "20x4", "90x12"):
        for n in NTASKS:
            terminals[n, DRIVER].resize(size)
        for n in NTASKS:
            terminals[n, DRIVER].wait_for(partial(is_drawn, terminals[n, DRIVER], size, n))

    for size in (*WATCHERS, DRIVER):  # a watcher would take the driver's place
        interrupt(terminals[1000, size])
    nodes.node(4).start()
    nodes.node(4).wait_until_up()
    gate.open()
    for (n, _), terminal in terminals.items():
        terminal.wait_for(terminal.has_prompt)
        assert terminal.has_cursor()
        assert sum(line.startswith("sweep ") for line in terminal.screen("-S", "-")) == 1
        if n != 1000:
            assert terminal.shows(f"{n - 1} of {n} tasks completed in ")
            assert terminal.shows("    | it broke")
    assert cli.main(["cancel", os.fspath(tmp_path / "1000")]) == 0


def test_less_is_left_in_the_middle(
    five_nodes: SshdNodes, tmp_path: Path, open_terminal: Callable[[str, str], Terminal], gate: Gate
) -> None:
    """A pager gets lines; after its q, allot says what goes on, and ends as by SIGPIPE."""
    terminal = open_terminal("less", "60x5")
    words = run_words(five_nodes, tmp_path / "out", gate, "--ntasks-per-node", "1")
    terminal.allot(*words, behind="| less; echo ended with ${PIPESTATUS[0]}")
    # Before its screen is full, less waits for more lines and hears no key.
    terminal.wait_for(lambda: terminal.screen()[-1].startswith(":"))
    screen = "\n".join(terminal.screen())
    assert "task 0 on nd01 RUNNING" in screen
    assert "ESC" not in screen
    assert "█" not in screen
    terminal.run("send-keys", "q")
    terminal.wait_for(lambda: terminal.run("display-message", "-p", "#{alternate_on}") == "0\n")
    (tmp_path / "lock.0").touch()  # task 0 ends, and the next line finds no reader
    terminal.wait_for(terminal.has_prompt)
    told = "".join(terminal.screen("-S", "-"))
    assert "Traceback" not in told
    # 4, where the first that nobody reads is late news of another task.
    assert re.search("nobody reads on where the job was shown; [34] tasks of job allot go on", told)
    assert terminal.shows("ended with 141")
    assert cli.main(["cancel", os.fspath(tmp_path / "out")]) == 0
