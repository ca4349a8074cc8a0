r"""``track``: what a loop prints as it goes, and how it behaves as a loop."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from allot import tracking
from allot.errors import ConfigError
from allot.markers import MarkerParser
from allot.model import Progress
from allot.tracking import track


class Clock:
    """A clock that goes only where a test sets it: a throttle cannot be seen otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracking, "time", clock)
    return clock


def markers(text: str) -> list[tuple[int, int]]:
    return [(int(s), int(t)) for s, t in re.findall(r"\x02(\d+)/(\d+)\x03\n", text)]


def test_each_item_is_counted_after_its_body(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """0/total comes before the first body, i/total after the i-th, each on a line of its own."""
    seen = []
    for item in track("abc"):
        seen.append((item, capsys.readouterr().out))
        clock.now += 1
    assert seen == [
        ("a", "\x020/3\x03\n"),
        ("b", "\x021/3\x03\n"),
        ("c", "\x022/3\x03\n"),
    ]
    assert capsys.readouterr().out == "\x023/3\x03\n"


def test_a_fast_loop_prints_few_markers_and_the_last(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop of 10,000 items a second prints at most 20 markers a second, and its last."""
    for _ in track(range(20_000)):
        clock.now += 0.0001
    printed = markers(capsys.readouterr().out)
    assert printed[0] == (0, 20_000)
    assert printed[-1] == (20_000, 20_000)
    assert len(printed) == len(set(printed))
    assert 35 <= len(printed) <= 42


def test_markers_are_out_while_the_body_runs() -> None:
    """Through a pipe, as a task's output goes, a marker is there before the loop goes on."""
    program = (
        "import sys\nfrom allot.tracking import track\nfor i in track([1]): sys.stdin.read(1)\n"
    )
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "nothing came while the body ran"
        first = process.stdout.readline()
        rest, _ = process.communicate(b"\n", timeout=60)
    assert first == b"\x020/1\x03\n"
    assert rest == b"\x021/1\x03\n"
    assert process.returncode == 0


def test_the_markers_are_ones_that_allot_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``track`` prints is what the monitor finds."""
    for item in track(range(7)):
        print("working on", item)
    assert MarkerParser().feed(capsys.readouterr().out.encode()) == Progress(7, 7)


def test_a_given_total_serves_what_has_no_length(capsys: pytest.CaptureFixture[str]) -> None:
    """A generator is tracked when its total is told."""
    assert list(track((i * i for i in range(3)), total=3)) == [0, 1, 4]
    assert markers(capsys.readouterr().out)[-1] == (3, 3)


def test_more_items_than_told_are_yielded_and_not_counted(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A total that is too small loses no item and prints no broken or repeated marker."""
    items = []
    for item in track(range(5), total=2):
        clock.now += 1
        items.append(item)
    assert items == [0, 1, 2, 3, 4]
    assert markers(capsys.readouterr().out) == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.usefixtures("clock")
def test_fewer_items_than_told_end_at_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    """A total that is too large is not made up: the last marker says how many there were."""
    assert len(list(track(range(3), total=9))) == 3
    assert markers(capsys.readouterr().out) == [(0, 9), (3, 9)]


@pytest.mark.parametrize("total", [None, 0])
def test_an_empty_loop_prints_nothing(
    total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """0/0 would be a broken marker, so there is none."""
    assert list(track([], total)) == []
    assert capsys.readouterr().out == ""


def test_a_total_of_zero_still_yields_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a bar to fill, the loop runs all the same."""
    assert list(track([1, 2], total=0)) == [1, 2]
    assert capsys.readouterr().out == ""


class Loader:
    """Like a data loader over a stream: it has a length by name only."""

    def __len__(self) -> int:
        raise TypeError("a stream has no len()")

    def __iter__(self) -> Iterator[int]:
        return iter(())


@pytest.mark.parametrize("iterable", [iter([1, 2]), (i for i in "ab"), Loader()])
def test_an_unknown_length_is_refused_at_once(iterable: object) -> None:
    """The call itself says what to do, before the loop starts."""
    with pytest.raises(ConfigError, match=r"length of this .* is unknown; give it .*total=N"):
        track(iterable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (-1, "0 or more, not -1"),
        (2.5, "whole number, not 2.5"),
        ("9", "whole number, not '9'"),
    ],
)
def test_a_total_that_makes_no_sense_is_refused_at_once(total: int, message: str) -> None:
    """A negative or fractional total is named, before the loop starts."""
    with pytest.raises(ConfigError, match=message):
        track([1], total=total)


def test_an_item_whose_body_leaves_the_loop_does_not_count(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """After ``break`` the bar stands at what was finished, and the source is let go."""
    closed = []

    def source() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append(True)

    loop = track(source(), total=9)
    for item in loop:
        clock.now += 1
        if item == 2:
            break
    loop.close()
    del loop
    assert closed == [True]
    assert markers(capsys.readouterr().out) == [(0, 9), (1, 9), (2, 9)]


def test_exceptions_pass_through(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """What the source raises reaches the loop unchanged, with no marker for that item."""

    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    loop = track(source(), total=2)
    assert next(loop) == 1
    clock.now += 1
    with pytest.raises(OSError, match="disk gone"):
        next(loop)
    assert markers(capsys.readouterr().out) == [(0, 2), (1, 2)]
