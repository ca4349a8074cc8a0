"""The block at the foot of a terminal, seen from the other end of a pseudo terminal."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from terminals import PseudoTerminal
from test_progress import snapshot
from tqdm import tqdm

from allot.progress import make_board
from allot.screen import Screen

BLOCK = "\r\nrow\x1b[K\r\njob\x1b[K\x1b[J\x1b[2A\r"


class OwnTerminal(PseudoTerminal):
    """A pseudo terminal that is ``sys.stdout`` once a screen is open; ``sys.stderr`` is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._monkeypatch = monkeypatch

    def open_screen(self) -> Screen:
        # Here and not in the fixture: pytest's capture puts its own stream there in between.
        self._monkeypatch.setattr(sys, "stdout", self.stream)
        return Screen(self.stream, threading.RLock())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnTerminal]:
    with closing(OwnTerminal(monkeypatch)) as made:
        yield made


def test_one_write_a_drawing(terminal: OwnTerminal) -> None:
    """The block is drawn below the cursor, which comes back to where it was."""
    screen = terminal.open_screen()
    screen.show(["row", "job"])
    assert terminal.read() == f"\r{BLOCK}"
    screen.restore()
    assert terminal.read() == BLOCK
    screen.leave()
    screen.leave()
    assert terminal.read() == "\r\nrow\x1b[K\r\njob\x1b[K\r\n\x1b[J"
    screen.restore()
    screen.show([])
    assert terminal.read() == "\r"
    screen.erase()
    assert terminal.read() == "\r\x1b[K"
    screen.leave()


def test_print_while_the_block_is_there(terminal: OwnTerminal) -> None:
    """What the program prints goes above the block; a line begun is gone on with."""
    screen = terminal.open_screen()
    own, err = sys.stdout, sys.stderr
    screen.show(["row", "job"])
    terminal.read()
    assert sys.stdout is not own
    assert sys.stderr is err
    assert sys.stdout.isatty()
    print("begun ", end="")
    assert terminal.read() == "begun "
    sys.stdout.write("done\n")
    assert terminal.read().startswith("\rbegun done\x1b[K\n\x1b[K\r\nrow")
    sys.stdout.writelines(["x" * 200])
    assert terminal.read().startswith("\r" + "x" * 200 + "\x1b[K\n")
    screen.leave()
    assert sys.stdout is own


def test_a_stream_kept_by_others_goes_on(terminal: OwnTerminal) -> None:
    """A stream taken while the block was there still prints when it is gone."""
    screen = terminal.open_screen()
    screen.show(["row", "job"])
    kept = sys.stdout
    screen.leave()
    terminal.read()
    kept.write("later\n")
    kept.flush()
    assert terminal.read() == "later\n"


def test_a_stream_of_the_programs_own_stays(
    terminal: OwnTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that redirects stdout meanwhile finds its redirection as it left it."""
    screen, theirs = terminal.open_screen(), io.StringIO()
    screen.show(["row", "job"])
    monkeypatch.setattr(sys, "stdout", theirs)
    screen.leave()
    assert sys.stdout is theirs


def test_two_jobs_in_one_terminal(terminal: OwnTerminal) -> None:
    """A second block begins below the first, which is left whole."""
    first, second = terminal.open_screen(), terminal.open_screen()
    own = sys.stdout
    first.show(["row", "job"])
    second.show(["other"])
    drawn = terminal.read()
    assert drawn.endswith("\r\nrow\x1b[K\r\njob\x1b[K\r\n\x1b[J\r\r\nother\x1b[K\x1b[J\x1b[1A\r")
    second.leave()
    first.leave()
    assert sys.stdout is own


def test_a_closed_stream_is_let_be(terminal: OwnTerminal) -> None:
    """Once the terminal is gone the screen falls silent instead of failing."""
    stream = io.TextIOWrapper(io.BytesIO())
    screen = Screen(stream, threading.RLock())
    assert screen.size() == (80, 24)
    stream.close()
    screen.show(["row"])
    screen.show(["row"])
    screen.leave()


def test_tqdm_write(terminal: OwnTerminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm.write to the terminal itself takes the block away and brings it back."""
    monkeypatch.setenv("TERM", "xterm")
    board = make_board(terminal.stream)
    board.draw(snapshot(2))
    terminal.read()
    tqdm.write("told", file=terminal.stream)
    written = terminal.read()
    assert written.startswith("\r\x1b[K\x1b[B\x1b[J\x1b[Atold\n\r\n0 node01")
    board.close()
