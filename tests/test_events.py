"""The event file of a node: whole lines are read, and nothing else, however the bytes arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.events import (
    MAX_LINE,
    Cancelled,
    Cause,
    Ended,
    Event,
    Refused,
    Started,
    Warned,
    parse_events,
)

BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NUMBERS = st.one_of(st.integers(0, 50), st.just(10**18 - 1))
TIMES = st.one_of(
    st.integers(0, 2**34).map(str), st.sampled_from(["1795403069.075494", "1795403069,075494"])
)
LINES = st.one_of(
    st.builds("S {} {} {} {} {} .".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS, TIMES),
    st.builds(
        "E {} {} {} {} {} {} .".format,
        NUMBERS,
        NUMBERS,
        st.integers(0, 255),
        st.integers(0, 1),
        st.sampled_from([cause.value for cause in Cause]),
        TIMES,
    ),
    st.builds(
        "X {} {} {} {} .".format, NUMBERS, NUMBERS, st.sampled_from(["cwd", "events"]), TIMES
    ),
    st.builds(
        "W {} {} {} {} .".format, NUMBERS, NUMBERS, st.sampled_from(["setup", "full"]), TIMES
    ),
    st.builds("C {} {} {} .".format, NUMBERS, NUMBERS, TIMES),
).map(str.encode)
# Dense with what matters: whole lines, torn ones, rubbish and long lines, in any order.
RUBBISH = st.one_of(
    st.binary(max_size=6),
    st.text("SEXWC 01.,\r\n", max_size=12).map(str.encode),
    LINES.flatmap(lambda line: st.integers(0, len(line)).map(lambda cut: line[:cut])),
    st.integers(MAX_LINE - 3, MAX_LINE + 3).map(lambda count: b"x" * count),
)
FILES = st.lists(
    st.one_of(LINES.map(lambda line: line + b"\n"), LINES, RUBBISH, st.just(b"\n")), max_size=12
).map(b"".join)


def read_in_pieces(pieces: list[bytes]) -> list[Event]:
    """As the client does: what was not taken stands before the next piece."""
    events, left = [], b""
    for piece in pieces:
        found, taken = parse_events(left + piece)
        events += found
        left = (left + piece)[taken:]
    return events


def read_naively(data: bytes) -> list[Event]:
    """The rule in its plainest form: each line alone, and only if it has an end."""
    return [event for line in data.split(b"\n")[:-1] for event in parse_events(line + b"\n")[0]]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"S 3 0 4711 99 17.25 .", Started(3, 0, 4711, 99, 17.25)),
        (b"S 3 0 4711 99 17,25 .", Started(3, 0, 4711, 99, 17.25)),
        (b"E 3 1 0 1 end 17 .", Ended(3, 1, 0, True, 17.0, Cause.END)),
        (b"E 3 1 143 0 cancel 17 .", Ended(3, 1, 143, False, 17.0, Cause.CANCEL)),
        (b"E 3 1 6 0 timeout 17 .", Ended(3, 1, 6, False, 17.0, Cause.TIMEOUT)),
        (b"X 3 2 cwd 17 .", Refused(3, 2, "cwd", 17.0)),
        (b"W 3 2 setup 17 .", Warned(3, 2, "setup", 17.0)),
        (b"C 3 2 17 .", Cancelled(3, 2, 17.0)),
    ],
)
def test_each_event_is_read(line: bytes, event: Event) -> None:
    """Each kind of line is read as what it is; the decimal sign is that of the node's locale."""
    assert parse_events(line + b"\n") == ([event], len(line) + 1)
    assert parse_events(line) == ([], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"S 3 0 4711 99 17.25",
        b"S 3 0 4711 99 17.25 ..",
        b"S 3 0 4711 99 17.25 .\r",
        b"S 3 0 4711 17.25 .",
        b"S -3 0 4711 99 17.25 .",
        b"S 3 0 4711 99 1e3 .",
        b"S 3 0 4711 99 nan .",
        b"S 3 0 4711 99 17. .",
        b"S  3 0 4711 99 17.25 .",
        "S ٣ 0 4711 99 17.25 .".encode(),
        b"S 1000000000000000000 0 4711 99 17.25 .",
        b"E 3 1 0 1 17 .",
        b"E 3 1 0 2 end 17 .",
        b"E 3 1 1000 1 end 17 .",
        b"E 3 1  1 end 17 .",
        b"E 3 1 0 1 END 17 .",
        b"E 3 1 0 1 mislaid 17 .",
        b"W 3 1 OTHER 17 .",
        b"C 3 17 .",
        b"C 3 1 0 17 .",
        b"X 3 2 CWD 17 .",
        b"X 3 2 a b 17 .",
        b"Y 3 2 cwd 17 .",
        b"C 3 2 17 .Y 3 2 cwd 17 .",
        b"\0" * 100,
    ],
)
def test_what_is_no_event_is_passed_over(line: bytes) -> None:
    """A line that Allot did not write so is skipped, and the one behind it is read."""
    good = b"X 3 2 cwd 17 .\n"
    data = line + b"\n" + good
    assert parse_events(data) == ([Refused(3, 2, "cwd", 17.0)], len(data))


@BUSY_MACHINE
@given(data=st.one_of(st.binary(max_size=2000), FILES))
def test_any_bytes_are_read_without_complaint(data: bytes) -> None:
    """Whatever lies in the file, reading it goes on, and little is ever read twice."""
    events, taken = parse_events(data)
    assert events == read_naively(data)
    assert data.rfind(b"\n") < taken <= len(data)
    assert len(data) - taken <= MAX_LINE


@BUSY_MACHINE
@given(data=FILES, cuts=st.lists(st.integers(0, 900), max_size=8))
def test_any_split_reads_as_one_piece(data: bytes, cuts: list[int]) -> None:
    """Wherever a read ends, the same events come out, in the same order, each once."""
    edges = [0, *sorted(cuts), max(len(data), *cuts, 0)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert read_in_pieces(pieces) == read_naively(data)


@BUSY_MACHINE
@given(lines=st.lists(LINES, min_size=1, max_size=3), extra=st.sampled_from([b"", b"x", b"\r"]))
def test_byte_by_byte_an_event_comes_with_its_line_end(lines: list[bytes], extra: bytes) -> None:
    """A file that grows byte by byte gives each event once, also behind rubbish of any length."""
    data = b"".join(line + b"\n" for line in lines) + extra * (2 * MAX_LINE) + lines[0] + b"\n"
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert read_in_pieces(pieces) == read_naively(data)
    assert len(read_in_pieces(pieces)) == len(lines) + 1


@BUSY_MACHINE
@given(torn=LINES, whole=LINES, cut=st.integers(1, 100))
def test_a_torn_line_is_never_taken_for_a_whole_one(torn: bytes, whole: bytes, cut: int) -> None:
    """What a full disk left of a line is no event, and spoils none: alone, or glued to another."""
    head = torn[: min(cut, len(torn) - 1)]
    assert parse_events(head) == ([], 0)
    assert parse_events(head + b"\n") == ([], len(head) + 1)
    assert parse_events(head + whole + b"\n")[0] == parse_events(whole + b"\n")[0]
    assert parse_events(head + b"\n" + whole + b"\n")[0] == parse_events(whole + b"\n")[0]


def test_a_line_without_end_takes_no_memory() -> None:
    """Of rubbish without a line end no more than a few bytes are kept for the next look."""
    left = b""
    for _ in range(100):
        found, taken = parse_events(left + b"\0" * 10_000)
        assert found == []
        left = (left + b"\0" * 10_000)[taken:]
        assert len(left) == MAX_LINE
