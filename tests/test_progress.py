"""The bars as a user sees them: in real terminals (tmux), in pipes, in notebooks."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from effort import calls_of
from terminals import ROOT, PseudoTerminal, Terminal

from allot.model import JobSnapshot, NodeState, NodeStatus, Progress, TaskState, TaskStatus
from allot.progress import PlainBoard, TerminalBoard, make_board
from allot.widgets import NotebookBoard

P, R, C, F = TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETED, TaskState.FAILED

# A user's program: draws a job of NTASKS until the file "stop" is there, and obeys the file
# "do" meanwhile: each new content of it is a line of Python to run.
PROGRAM = """
import sys, time
from pathlib import Path
from tqdm import tqdm
from test_progress import snapshot
from allot.progress import make_board
board, job, done = make_board(), snapshot(NTASKS), ""
print("before the bars")
while not Path("stop").exists():
    board.draw(job)
    order = Path("do").read_text() if Path("do").exists() else ""
    if order != done:
        done = order
        exec(order)
    time.sleep(0.05)
board.close(snapshot(NTASKS, ended=True))
print("after the bars")
"""


def snapshot(ntasks: int, *, ended: bool = False) -> JobSnapshot:
    """A job with running, failed and waiting tasks, one BUSY and one UNREACHABLE node."""
    began = time.time() - 60
    tasks = []
    for number in range(ntasks):
        node = f"node{number % 5 + 1:02}"
        far = Progress(number % 100 + 1, 120)
        if number % 7 == 3:
            task = TaskStatus(number, F, node, exit_code=3, progress=far, started_at=began)
        elif ended:
            task = TaskStatus(number, C, node, progress=Progress(120, 120), started_at=began)
        elif number < 200:
            task = TaskStatus(number, R, node, progress=far, started_at=began)
        else:
            task = TaskStatus(number, P)
        tasks.append(task)
    nodes = [NodeStatus(f"node{n:02}", NodeState.READY, n - 1) for n in range(1, 6)]
    nodes[2] = NodeStatus("node03", NodeState.BUSY, 2, "load 7.9 of 4 CPUs")
    nodes[4] = NodeStatus("node05", NodeState.UNREACHABLE, 4, "no answer for 35 s")
    return JobSnapshot("sweep", tuple(tasks), tuple(nodes), 60.0)


class Tmux(Terminal):
    """A terminal of a given size that runs PROGRAM."""

    def __init__(self, directory: Path, size: str, ntasks: int, **environment: str) -> None:
        (directory / "program.py").write_text(PROGRAM.replace("NTASKS", str(ntasks)))
        super().__init__(directory, size, **environment)
        self.enter(f"{shlex.quote(sys.executable)} program.py")
        self.wait_for(self.block_is_whole)

    def block_is_whole(self) -> bool:
        lines = self.block()
        return len(lines) > 1 and lines[-2].startswith("sweep") and "failed" in lines[-1]

    def do(self, line: str) -> None:
        (self.directory / "do").write_text(line)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Tmux]]:
    """Starts PROGRAM in a terminal: ``terminal("80x24", ntasks, **environment)``."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    started: list[Tmux] = []

    def start(size: str, ntasks: int, **environment: str) -> Tmux:
        started.append(Tmux(tmp_path, size, ntasks, **environment))
        return started[0]

    yield start
    (tmp_path / "stop").touch()
    for tmux in started:
        tmux.close()


@pytest.mark.parametrize("size", ["80x24", "90x12", "40x10"])
@pytest.mark.parametrize("ntasks", [5, 30, 1000])
def test_the_screen(terminal: Callable[..., Tmux], size: str, ntasks: int) -> None:
    """One row a task, as many as fit, then the job and the counts; nothing wraps or shifts."""
    tmux = terminal(size, ntasks)
    columns, lines = map(int, size.split("x"))
    *rows, job, counts = tmux.block()
    assert len(rows) == min(ntasks, lines - 3)
    assert all(len(line) < columns for line in [*rows, job, counts])
    numbers = [int(row.split()[0]) for row in rows]
    assert len(set(numbers)) == len(numbers)
    if ntasks <= lines - 3:
        assert numbers == list(range(ntasks))
    bars = {(row.index("|"), row.rindex("|")) for row in [*rows, job]}
    assert len(bars) == 1, "the bars are not in line"
    assert "failed" in counts
    told = "node05 UNREACHABLE, 1 BUSY" if columns == 40 else "node03 BUSY, node05 UNREACHABLE"
    assert counts.endswith(told) or "(no answer for 35 s)" in counts
    assert tmux.has_cursor()


def test_resizing_both_ways(terminal: Callable[..., Tmux]) -> None:
    """After each resize the block is whole, fits, and stands alone at the foot."""
    tmux = terminal("80x24", 30)
    for size in ("60x12", "100x30", "40x10", "80x24"):
        tmux.resize(size)
        columns, lines = map(int, size.split("x"))

        def fits(columns: int = columns, lines: int = lines) -> bool:
            block = tmux.block()
            bars = {row.rindex("|") for row in block[:-1] if "|" in row}
            return (
                tmux.block_is_whole()
                and len(block) == min(30, lines - 3) + 2
                and len(bars) == 1
                and columns - 40 < max(map(len, block)) < columns
            )

        tmux.wait_for(fits)


def test_what_the_program_prints_stays(terminal: Callable[..., Tmux]) -> None:
    """print, several lines, stderr, text without an end and tqdm.write stand above, unharmed."""
    tmux = terminal("80x12", 30)
    orders = {
        "print('one'); print('two\\n  three')": "three",
        "print('four', file=sys.stderr)": "four",
        "tqdm.write('five')": "five",
        "tqdm.write('six', file=sys.__stdout__)": "six",
        "print('sev', end='', flush=True)": "sev",
        "print('en')": "seven",
        "sys.stdout.writelines(['eight\\n', 'n' * 100])": "n" * 20,
    }
    for order, shown in orders.items():
        tmux.do(order)
        tmux.wait_for(partial(tmux.shows, shown))
    tmux.wait_for(tmux.block_is_whole)
    printed = tmux.screen("-S", "-")
    printed = printed[printed.index("before the bars") : -11]
    told = ["one", "two", "  three", "four", "five", "six", "seven", "eight", "n" * 80, "n" * 20]
    assert [line for line in printed if line] == ["before the bars", *told]


def test_the_end(terminal: Callable[..., Tmux]) -> None:
    """The last screen stays, the cursor goes below it, and print is the program's own again."""
    tmux = terminal("80x24", 5)
    (tmux.directory / "stop").touch()
    tmux.wait_for(lambda: "after the bars" in tmux.screen())
    lines = [line for line in tmux.screen() if line]
    at = lines.index("after the bars")
    assert "100%|" in lines[at - 2]
    assert "5/5 done" in lines[at - 2]
    assert lines[at - 1].startswith("1 failed, 4 completed")
    tmux.wait_for(tmux.has_prompt)


@pytest.mark.parametrize("order", ["raise RuntimeError('a bug')", "sys.exit('a bug')"])
def test_a_program_that_dies(terminal: Callable[..., Tmux], order: str) -> None:
    """An exception is readable above the bars, and the prompt comes below them."""
    tmux = terminal("80x24", 5)
    tmux.do(order)
    tmux.wait_for(tmux.has_prompt)
    lines = [line for line in tmux.screen() if line]
    assert any(line.endswith("a bug") for line in lines)
    assert lines[-3].startswith("sweep")
    assert sum(line.startswith("sweep") for line in lines) == 1
    assert tmux.has_cursor()


def test_interrupted(terminal: Callable[..., Tmux]) -> None:
    """Ctrl-C leaves a whole screen and a prompt below it."""
    tmux = terminal("80x24", 5)
    tmux.run("send-keys", "C-c")
    tmux.wait_for(tmux.has_prompt)
    lines = [line for line in tmux.screen() if line]
    assert "KeyboardInterrupt" in lines
    assert lines[-3].startswith("sweep")


def test_colours(terminal: Callable[..., Tmux]) -> None:
    """Failures are red and unreachable nodes yellow."""
    coloured = "\n".join(terminal("80x24", 5).screen("-e"))
    assert re.search(r"\x1b\[31m[^\x1b]*FAILED", coloured)
    assert re.search(r"\x1b\[33m[^\x1b]*UNREACHABLE", coloured)


def test_no_color(terminal: Callable[..., Tmux]) -> None:
    """NO_COLOR is obeyed."""
    assert "\x1b" not in "\n".join(terminal("80x24", 5, NO_COLOR="1").screen("-e"))


def test_a_terminal_without_unicode(terminal: Callable[..., Tmux]) -> None:
    """Bars are made of ASCII signs where the terminal knows no others."""
    plain = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    block = terminal("80x24", 30, **plain).block()
    assert all(line.isascii() for line in block)
    assert "###" in block[-2]


@pytest.fixture
def pseudo_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[PseudoTerminal]:
    monkeypatch.setenv("TERM", "xterm")
    with closing(PseudoTerminal()) as made:
        yield made


def test_a_terminal_of_unknown_size(pseudo_terminal: PseudoTerminal) -> None:
    """Where the terminal says 0 by 0, 80 by 24 is taken; at most max_bars tasks are shown."""
    board = make_board(pseudo_terminal.stream, max_bars=3)
    assert isinstance(board, TerminalBoard)
    board.draw(snapshot(30))
    board.draw(snapshot(30))  # too soon after the first to be drawn
    written = pseudo_terminal.read()
    assert written.count("\r\n") == 3 + 2
    lines = [re.sub(r"\x1b\[[0-9]*[A-Za-z]|\r", "", line) for line in written.split("\n")]
    assert max(map(len, lines)) == 79
    board.close()
    board.close()
    board.draw(snapshot(30))
    assert pseudo_terminal.read().endswith("\x1b[J")


def test_a_terminal_that_goes_away(tmp_path: Path) -> None:
    """A window that was closed does not take the program with it."""
    script = (
        "import os, pty, sys\n"
        "from test_progress import snapshot\n"
        "from allot.progress import TerminalBoard\n"
        "other, own = pty.openpty()\n"
        "stream = os.fdopen(own, 'w')\n"
        "board = TerminalBoard(stream)\n"
        "board.draw(snapshot(3)); os.close(other)\n"
        "board._drawn_at = 0; board.draw(snapshot(4)); board.close(snapshot(4, ended=True))\n"
        "print('goes on'); sys.stdout.flush(); os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"goes on\n", done.stderr


def test_a_thousand_tasks_cost_little(pseudo_terminal: PseudoTerminal) -> None:
    """A drawing makes calls for the rows it shows, and a few for each task beyond them."""
    board, calls = TerminalBoard(pseudo_terminal.stream), []
    for count in (1000, 10_000):
        board._drawn_at = float("-inf")
        calls.append(calls_of(partial(board.draw, snapshot(count))))
        assert pseudo_terminal.read().count("\r\n") == 24 - 1
    board.close()
    assert 1000 < calls[0] < 25 * 1000, "14.5 a task on the developers' machine"
    assert calls[1] - calls[0] < 12 * 9000, "6.3 a task on the developers' machine"


def test_lines_where_there_is_no_terminal() -> None:
    """In a pipe or a file there are whole lines and no control characters."""
    stream = io.StringIO()
    board = make_board(stream)
    assert isinstance(board, PlainBoard)
    board.draw(snapshot(30))
    board.draw(snapshot(30))
    board.close(snapshot(30, ended=True))
    board.close(snapshot(30))
    text = stream.getvalue()
    assert text.endswith("\n")
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("task 0 ") == 2
    assert text.splitlines()[-1].endswith("sweep: 30/30 done (4 failed, 26 completed)")


def test_asked_lines_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, what print_progress says is on stdout, at once."""
    board = make_board(live=False)
    board.draw(snapshot(1000))
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (52, "")
    board.close()
    assert capsys.readouterr().out == ""


class BrokenPipe(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:  # noqa: ARG002
        raise BrokenPipeError


def test_nobody_reads_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Once a pipe's reader is gone the board says what goes on, and is closed."""
    board = make_board(BrokenPipe())
    with pytest.raises(BrokenPipeError):
        board.draw(snapshot(5))
    board.close(snapshot(5))
    with pytest.raises(BrokenPipeError):
        make_board(BrokenPipe()).close(snapshot(3, ended=True))
    told = capsys.readouterr().err
    assert told == "allot: nobody reads on where the job was shown; 4 tasks of job sweep go on\n"


def test_the_last_screen_is_a_list(pseudo_terminal: PseudoTerminal) -> None:
    """Rows that tasks took from one another while they ran stand in order at the end."""
    board = TerminalBoard(pseudo_terminal.stream, max_bars=4)
    running = snapshot(9)
    some = [replace(task, state=C) if task.proc_id in (1, 2) else task for task in running.tasks]
    later = replace(running, tasks=tuple(some))

    def rows() -> list[str]:
        return re.findall(r"\n(\d) node", pseudo_terminal.read())[-4:]

    board.draw(running)
    assert rows() == ["3", "0", "1", "2"]
    board._drawn_at = 0
    board.draw(later)
    assert rows() == ["3", "0", "5", "6"]  # 4 is on a node out of reach
    board.close(later)
    assert rows() == ["0", "3", "5", "6"]


def test_a_dumb_terminal(pseudo_terminal: PseudoTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets lines."""
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_board(pseudo_terminal.stream), PlainBoard)


def test_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook there are widgets: the job and its counts on top, then the tasks."""
    pytest.importorskip("ipywidgets")
    ipython = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    board = make_board()
    assert isinstance(board, NotebookBoard)
    monkeypatch.undo()
    board.draw(snapshot(40))
    bars = list(board._bars)
    assert len(bars) == 32
    board.draw(snapshot(40))  # too soon
    board.close(snapshot(40, ended=True))
    board.close()
    assert bars[0].container.children[1].value == 1.0
    assert "6\N{NO-BREAK SPACE}failed" in bars[1].container.children[2].value
