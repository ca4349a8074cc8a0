r"""Markers in a task's output: what counts as progress, however the bytes arrive."""

from __future__ import annotations

import itertools
import re
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.markers import MarkerParser, without_markers
from allot.model import Progress

# How long an example takes says more about the machine than about the code.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read_naively(data: bytes) -> Progress | None:
    r"""The rule in its plainest form: front to back, byte by byte."""
    latest = None
    body: bytes | None = None
    for value in data:
        byte = bytes([value])
        if byte == b"\x02":
            body = b""
        elif byte == b"\x03":
            whole = re.fullmatch(rb"([0-9]{1,60})/([0-9]{1,60})", body or b"")
            if whole and 0 < int(whole[2]) >= int(whole[1]):
                latest = Progress(int(whole[1]), int(whole[2]))
            body = None
        elif body is not None:
            body += byte
    return latest


def feed_all(parser: MarkerParser, pieces: Sequence[bytes]) -> list[Progress | None]:
    return [parser.feed(piece) for piece in pieces]


# Dense with what matters: whole, broken and cut-off markers, and the bytes they are made of.
OUTPUT = st.lists(
    st.one_of(
        st.binary(max_size=4),
        st.text(alphabet="\x02\x03/0123\n", max_size=8).map(str.encode),
        st.builds(lambda s, t: b"\x02%d/%d\x03" % (s, t), st.integers(0, 30), st.integers(0, 30)),
        st.integers(55, 65).map(lambda n: b"\x02" + b"0" * n),
        st.integers(55, 65).map(lambda n: b"/" + b"0" * n + b"1\x03"),
        st.integers(118, 126).map(lambda n: b"x" * n),
    ),
    max_size=12,
).map(b"".join)


@BUSY_MACHINE
@given(data=OUTPUT, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_split_reads_as_one_piece(data: bytes, cuts: list[int]) -> None:
    """Wherever the network cuts the output, the same progress is seen."""
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    parser = MarkerParser()
    found = [progress for progress in feed_all(parser, pieces) if progress is not None]
    assert parser.latest == read_naively(data)
    assert found[-1:] == ([parser.latest] if parser.latest else [])


@BUSY_MACHINE
@given(data=OUTPUT)
def test_byte_by_byte_each_piece_tells_its_own_marker(data: bytes) -> None:
    """Progress is reported with the piece that ends its marker, once, and with no other."""
    data = data[:250]
    parser = MarkerParser()
    for end in range(1, len(data) + 1):
        before = parser.latest
        found = parser.feed(data[end - 1 : end])
        assert parser.latest == read_naively(data[:end])
        assert found in (None, parser.latest)
        if found is None:
            assert parser.latest == before
        else:
            assert data[end - 1 : end] == b"\x03"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x020/120\x03", Progress(0, 120)),
        (b"\x021/2\x03 and \x022/2\x03\n", Progress(2, 2)),
        (b"\x021/2\x03\x029/2\x03", Progress(1, 2)),
        (b"\x02007/010\x03", Progress(7, 10)),
        (b"\x021/2\x023/4\x03", Progress(3, 4)),
        (b"\x02\x02\x023/4\x03\x03", Progress(3, 4)),
        (b"one\n\x023/4\x03\ntwo\n", Progress(3, 4)),
        (b"\xff\x00\x023/4\x03\xfe\x02", Progress(3, 4)),
        (b"\x02%d/%d\x03" % (10**59, 10**59), Progress(10**59, 10**59)),
        (b"\x021/%d\x03" % 10**60, None),
        (b"", None),
        (b"no marker", None),
        (b"1/2\x03", None),
        (b"\x021/2", None),
        (b"\x020/0\x03", None),
        (b"\x023/2\x03", None),
        (b"\x02-1/2\x03", None),
        (b"\x02+1/2\x03", None),
        (b"\x021.0/2\x03", None),
        (b"\x02 1/2\x03", None),
        (b"\x021/2\n\x03", None),
        (b"\x021/2/3\x03", None),
        (b"\x02/2\x03", None),
        (b"\x021/\x03", None),
        (b"\x021_0/20\x03", None),
        ("\x02١/٢\x03".encode(), None),
        (b"\x02\x03", None),
        (b"\x021\x03/2\x03", None),
    ],
)
def test_what_is_a_marker(data: bytes, expected: Progress | None) -> None:
    """Decimal digits with 0 <= step <= total and total > 0 count; all else is skipped."""
    parser = MarkerParser()
    assert parser.feed(data) == expected
    assert parser.latest == expected


def test_the_longest_marker_may_be_cut_anywhere() -> None:
    """Two numbers of 60 digits are found whichever byte a piece ends with."""
    number = 10**59
    data = b"\x02%d/%d\x03" % (number, number)
    for cut in range(len(data)):
        parser = MarkerParser()
        found = feed_all(parser, [b"x" * 200 + data[:cut], data[cut:] + b"x" * 200])
        assert found == [None, Progress(number, number)]


def test_of_two_markers_in_a_piece_the_later_counts() -> None:
    """A marker that began in the piece before is older than one within this piece."""
    parser = MarkerParser()
    parser.feed(b"\x021/")
    assert parser.feed(b"4\x03" + b"x" * 200 + b"\x023/4\x03") == Progress(3, 4)


def test_output_without_a_new_marker_keeps_the_latest() -> None:
    """A task that only prints text between two markers keeps its progress."""
    parser = MarkerParser()
    parser.feed(b"\x023/4\x03")
    assert parser.feed(b"thinking\n") is None
    assert parser.latest == Progress(3, 4)


def test_a_file_begun_anew_is_read_anew() -> None:
    """After a rerun begins the file anew, neither old progress nor half a marker is left."""
    parser = MarkerParser()
    parser.feed(b"\x023/4\x03\x021/")
    parser.reset()
    assert parser.latest is None
    assert parser.feed(b"2\x03") is None


@pytest.mark.parametrize(
    "line", [b"x" * 65536, b"\x02" * 65536, b"\x02" + b"1" * 65535, b"\x021/2" * 16384]
)
def test_a_line_without_end_takes_no_memory(line: bytes) -> None:
    """A task that prints an endless line, or an endless marker, costs the client no memory."""
    parser = MarkerParser()
    parser.feed(line)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            assert parser.feed(line) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 16_384
    assert parser.feed(b"\x023/4\x03") == Progress(3, 4)


@pytest.mark.parametrize(
    "pattern",
    [b"\x029/9\x03", b"\x02", b"\x03", b"\x02\x03", b"\x021/2", b"1", b"\x02" + b"1" * 61 + b"/"],
)
def test_dense_rubbish_is_read_quickly(pattern: bytes) -> None:
    """Ten megabytes of nothing but markers, or of pieces of them, hold up nobody."""
    data = pattern * (10_000_000 // len(pattern))
    parser = MarkerParser()
    began = time.process_time()
    parser.feed(data)
    # It takes 0.15 s at the most; a reading that grows with the square takes hours.
    assert time.process_time() - began < 5


def test_what_a_person_reads_has_no_markers() -> None:
    """Lines of markers only are left out, an empty line of the program's own stays."""
    text = "begin\n\x021/3\x03\n\n\x022/3\x03loss 0.5\nTraceback\n\x02x\x03\n"
    assert without_markers(text) == "begin\n\nloss 0.5\nTraceback\n"
