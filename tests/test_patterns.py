r"""Progress of unmodified programs: tqdm's bars and users' regexes, however the bytes arrive."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.errors import ConfigError
from allot.markers import MarkerParser
from allot.model import Progress
from allot.patterns import MOST_LINE_BYTES, ProgressParser, check_pattern, make_parser

# How long an example takes says more about the machine than about the code.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

STEPS = r"step (?P<step>[\d.]+)\s*/\s*(?P<total>[\d.]+)"
PATTERNS = ["allot", "tqdm", STEPS]
UP = b"\x1b[A"


def bar(step: int | str, total: int | str, end: bytes = b"", label: str = "") -> bytes:
    """As tqdm draws it."""
    text = f"\r{label}  3%|▎         | {step}/{total} [00:01<00:32, 11.9it/s]"
    return text.encode() + end


def fed(pattern: str, *pieces: bytes) -> Progress | None:
    parser = make_parser(pattern)
    for piece in pieces:
        parser.feed(piece)
    return parser.latest


# Dense with what matters: bars, nested bars, lines of a user's, markers, ends of lines, rubbish.
NUMBER = st.sampled_from(["0", "1", "2", "7", "2.5", "1.20k", "1k", "0.98M", "x", ""])
OUTPUT = st.lists(
    st.one_of(
        st.binary(max_size=4),
        st.sampled_from([b"\n", b"\r", b"\r\n", UP, b" ", b"|", b"\xe2\x96", b"\x021/2\x03"]),
        st.builds(bar, NUMBER, NUMBER, st.sampled_from([b"", b"\r", b"\n", UP, b"\n" + UP])),
        st.builds(lambda s, t: f"step {s}/{t}".encode(), NUMBER, NUMBER),
        st.integers(MOST_LINE_BYTES - 60, MOST_LINE_BYTES + 10).map(lambda n: b"x" * n),
    ),
    max_size=12,
).map(b"".join)


@BUSY_MACHINE
@given(
    pattern=st.sampled_from(PATTERNS), data=OUTPUT, cuts=st.lists(st.integers(0, 900), max_size=6)
)
def test_any_split_reads_as_one_piece(pattern: str, data: bytes, cuts: list[int]) -> None:
    """Wherever the network cuts the output, and however long a line, the progress is the same."""
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert fed(pattern, *pieces) == fed(pattern, data)


@BUSY_MACHINE
@given(pattern=st.sampled_from(PATTERNS), data=OUTPUT)
def test_byte_by_byte_reads_as_one_piece(pattern: str, data: bytes) -> None:
    """The same in the smallest pieces; what a piece is said to tell is the latest."""
    data = data[:400]
    parser = make_parser(pattern)
    for end in range(1, len(data) + 1):
        found = parser.feed(data[end - 1 : end])
        assert found in (None, parser.latest)
        assert parser.latest == fed(pattern, data[:end])


@BUSY_MACHINE
@given(pattern=st.sampled_from(PATTERNS), pieces=st.lists(st.binary(max_size=200), max_size=5))
def test_rubbish_raises_nothing(pattern: str, pieces: list[bytes]) -> None:
    """An output may hold any bytes; a progress is always within its total."""
    progress = fed(pattern, *pieces)
    assert progress is None or 0 <= progress.step <= progress.total > 0


@BUSY_MACHINE
@given(pattern=st.sampled_from(["tqdm", STEPS]), data=OUTPUT, start=st.integers(0, 900))
def test_what_begins_in_mid_line_is_read_from_the_next_line_on(
    pattern: str, data: bytes, start: int
) -> None:
    """Half of ``12/400`` is not taken for ``2/400``."""
    parser = make_parser(pattern)
    parser.feed(b"\rstep 1/3\n" + bar(1, 3))
    parser.reset(mid_line=True)
    assert parser.latest is None
    parser.feed(data[start:])
    rest = re.split(rb"[\r\n]", data[start:], maxsplit=1)[1:]
    assert parser.latest == fed(pattern, *rest)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  3%|▎         | 12/400 [00:01<00:32, 11.9it/s]", (12, 400)),
        ("train:   3%|▎         | 12/400 [00:01<00:32, 11.9it/s, loss=0.5]", (12, 400)),
        ("  3%|3         | 12/400 [1:00:01<27:30:32, 11.9s/it]", (12, 400)),
        ("  3% 12/400 [00:01<00:32, 11.9it/s]", (12, 400)),
        ("  0%|          | 0/400 [00:00<?, ?it/s]", (0, 400)),
        ("  3%|\x1b[32m▎         \x1b[0m| 12/400 [00:01<00:32, 11.9it/s]", (12, 400)),
        ("  3%|▎| 12/400 [00:01<", (12, 400)),
        ("50%|x| 1/2 [00:00<00:00]  3%|▎| 12/400 [00:01<00:32]", (12, 400)),
        ("50%|█████     | 1.20k/3.4k [00:01<00:32, 11.9it/s]", (1200, 3400)),
        ("50%|█████     | 1.50M/2.00G [00:01<00:32, 11.9MB/s]", (1_500_000, 2_000_000_000)),
        ("50%|█████     | 1.50T/2.0Y [00:01<00:32, 11.9MB/s]", (15 * 10**11, 2 * 10**24)),
        ("50%|█████     | 999k/0.98M [00:01<00:32, 11.9MB/s]", (1_022_976, 1_027_604)),
        ("50%|█████     | 1.00/200 [00:01<00:32, 11.9it/s]", (1, 200)),
        ("50%|█████     | 1.00/10.0 [00:01<00:32, 11.9it/s]", (1000, 10_000)),
        ("50%|█████     | 0.30000000000000004/1.0 [00:01<00:32]", (300, 1000)),
        ("50%|█████     | 12.5/100 [00:01<00:32]", (12, 100)),
        ("12it [00:01, 11.9it/s]", None),
        ("12/400 [00:01<00:32, 11.9it/s]", None),
        ("| 12/400 [00:01<00:32, 11.9it/s]", None),
        ("  3%|▎| 12/4", None),
        ("  3%|▎| 12/400", None),
        ("  3%|▎| 12/? [00:01<00:32, 11.9it/s]", None),
        ("103%|██████████| 412/400 [00:01<00:32, 11.9it/s]", None),
        ("  0%|          | 0/0 [00:01<00:32, 11.9it/s]", None),
        ("  3%|▎| -1/400 [00:01<00:32, 11.9it/s]", None),
        ("  3%|▎| 1e-05/1.0 [00:01<00:32, 11.9it/s]", None),
        (f"  3%|▎| 1/{10**60} [00:01<00:32, 11.9it/s]", None),
    ],
)
def test_what_is_a_bar(text: str, expected: tuple[int, int] | None) -> None:
    """With a total and within it, whatever its look; seen at once and when its line has ended."""
    progress = Progress(*expected) if expected else None
    parser = make_parser("tqdm")
    assert parser.feed(b"\r" + text.encode()) == progress
    assert parser.latest == progress
    parser.feed(b"\ndone\n")
    assert parser.latest == progress


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (bar(1, 3) + b"\n" + bar(5, 8, UP), (1, 3)),
        (bar(1, 3) + b"\n" + bar(5, 8, b"   " + UP + b"text"), (1, 3)),
        (b"\n\n" + bar(5, 8, UP + UP), None),
        (bar(1, 3) + b"\n" + bar(8, 8, UP) + bar(8, 8, b"\n"), (1, 3)),
        (bar(1, 3) + bar(8, 8, b"\n") + bar(9, 9, b"\n") + bar(2, 3), (2, 3)),
        (bar(1, 3) + bar(8, 8, b"\n") + bar(3, 3, b"\n"), (3, 3)),
        (bar(1, 3) + bar(8, 8, b"\n") + bar(3, 3, b"\n") + bar(9, 9, b"\n"), (9, 9)),
        (bar(3, 3, b"\n") + bar(8, 8, b"\n"), (8, 8)),
        (bar(1, 3, b"\n") + bar(0, 8) + bar(8, 8, b"\n"), (8, 8)),
        (bar(1, 3) + b"\rtext 7/9\n" + bar(9, 3), (1, 3)),
    ],
)
def test_of_nested_bars_the_outermost_counts(
    output: bytes, expected: tuple[int, int] | None
) -> None:
    """An inner bar is known by the cursor going up, or by being full before the outer one is."""
    progress = Progress(*expected) if expected else None
    assert fed("tqdm", output) == progress
    assert fed("tqdm", *(output[i : i + 1] for i in range(len(output)))) == progress


def test_a_nested_bar_is_known_once_it_is_whole() -> None:
    """Cut off before the cursor goes up it counts for a moment, and then no more."""
    parser = make_parser("tqdm")
    parser.feed(bar(1, 3) + b"\n" + bar(5, 8))
    assert parser.latest == Progress(5, 8)
    assert parser.feed(UP) is None
    assert parser.latest == Progress(1, 3)


RUN = """
import os, sys
from tqdm import tqdm
total, n, options = eval(sys.argv[1])
bar = tqdm(total=total, mininterval=0, miniters=0.1, **options)
for step in range(3):
    bar.update(n / 3 if n % 3 else n // 3)
sys.argv[2] == "close" and bar.close()
os._exit(0)
"""


@pytest.mark.parametrize("ending", ["close", "killed"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((400, 12, {}), (12, 400)),
        ((400, 399, {"desc": "epoch 1/9: 50%| 3/4"}), (399, 400)),
        ((400, 12, {"ascii": True, "ncols": 60}), (12, 400)),
        ((400, 12, {"ascii": " .oO", "ncols": 120, "colour": "green"}), (12, 400)),
        ((400, 12, {"ncols": 0}), (12, 400)),
        ((400, 12, {"ncols": 30, "postfix": {"loss": 0.5}}), (12, 400)),
        ((400, 12, {"unit_scale": True}), (12, 400)),
        ((3400, 1200, {"unit_scale": True}), (1200, 3400)),
        ((2 * 10**9, 1_500_000, {"unit_scale": True, "unit": "B"}), (1_500_000, 2 * 10**9)),
        ((2**30, 3 * 2**20, {"unit_scale": True, "unit_divisor": 1024}), (3 * 10**6, 10**9)),
        ((400, 12, {"unit_scale": 128}), (12 * 128, 400 * 128)),
        ((1.0, 0.75, {}), (750, 1000)),
        ((400, 400, {"desc": "a b"}), (400, 400)),
        ((None, 12, {}), None),
        ((10, 12, {}), (8, 10)),
    ],
)
def test_a_real_bar_is_read_right(
    tmp_path: Path,
    arguments: tuple[float | None, float, dict[str, object]],
    expected: tuple[int, int] | None,
    ending: str,
) -> None:
    """What tqdm itself writes into a file, whether it got to its end or not."""
    path = tmp_path / "0.out"
    with path.open("wb") as file:
        command = [sys.executable, "-c", RUN, repr(arguments), ending]
        subprocess.run(command, stderr=file, check=True, timeout=60)
    assert fed("tqdm", path.read_bytes()) == (Progress(*expected) if expected else None)


NESTED = """
import sys, time
from tqdm import tqdm
for i in tqdm(range(3), desc="outer", mininterval=0):
    for j in tqdm(range(8), desc="inner", mininterval=0, leave=sys.argv[1] == "leave"):
        if i == 2 and j == 5:
            sys.stderr.flush()
            __import__("os")._exit(0)
"""


@pytest.mark.parametrize("leave", ["leave", "vanish"])
def test_real_nested_bars_tell_the_outer_loop(tmp_path: Path, leave: str) -> None:
    """At every byte of the output the progress is the outer loop's, and never falls."""
    path = tmp_path / "0.out"
    with path.open("wb") as file:
        command = [sys.executable, "-c", NESTED, leave]
        subprocess.run(command, stderr=file, check=True, timeout=60)
    data = path.read_bytes()
    pieces = re.split(rb"(?=\n\r|\r)", data)  # as tqdm wrote them
    parser = make_parser("tqdm")
    told = []
    for piece in pieces:
        parser.feed(piece)
        told.append(parser.latest)
    steps = [progress.step for progress in told if progress]
    assert {progress.total for progress in told if progress} == {3}
    assert steps == sorted(steps)
    assert steps[-1] == 2


@pytest.mark.parametrize(
    ("pattern", "output", "expected"),
    [
        (STEPS, b"step 3/10\n", (3, 10)),
        (STEPS, b"step 3/10\rstep 4/10\r", (4, 10)),
        (STEPS, b"step 3/10\r\nstep 4/10\r\n", (4, 10)),
        (STEPS, b"step 3/10 step 4/10 step x/10\n", (4, 10)),
        (STEPS, b"step 3/10\nstep 4/1", (3, 10)),
        (STEPS, b"step 3/10\nother\nstep 11/10\nstep 0/0\nstep ./.\n", (3, 10)),
        (STEPS, b"step 12.5/100\n", (12_500, 100_000)),
        (STEPS, b"step 13.0/100\n", (13_000, 100_000)),
        (STEPS, b"step 0.12349/1.0\n", (123, 1000)),
        (STEPS, b"step 1/0.0001\n", None),
        (STEPS, b"step 3\n/10\n", None),  # \s does not reach into the next line
        (STEPS, b"step 1/%d\n" % 10**60, None),
        (STEPS, "step ١/٢\n".encode(), None),
        (STEPS, b"\xff\x00step 3/10\xfe\n", (3, 10)),
        (r"^(?P<step>.+) von (?P<total>.+)$", b"3  von  10\nx 4 von 10\n", (3, 10)),
        (r"é{2} (?P<step>\d+)·(?P<total>\d+)", "éé 3·10\n".encode(), (3, 10)),
        (r"(?P<total>\d+) left (?P<step>\d+)", b"10 left 3\n", (3, 10)),
        (r"at (?P<step>\d+)(?:/(?P<total>\d+))?", b"at 3/10\nat 4\n", (3, 10)),
        (r"(?P<step>\d*)/(?P<total>\d*)", b"/\n", None),
    ],
)
def test_what_a_regex_finds(pattern: str, output: bytes, expected: tuple[int, int] | None) -> None:
    """In lines that have ended; the last match that is a progress counts."""
    assert fed(pattern, output) == (Progress(*expected) if expected else None)


@pytest.mark.parametrize("pattern", ["tqdm", STEPS])
def test_a_long_line_is_cut(pattern: str) -> None:
    """Its beginning is read, at once when it is that long; the rest is not; the next line is."""
    line = b"step 3/10 " + bar(3, 10).lstrip(b"\r")
    parser = make_parser(pattern)
    assert parser.feed(line.ljust(MOST_LINE_BYTES, b" ")) == Progress(3, 10)
    assert parser.feed(b"step 4/10 " + bar(4, 10).lstrip(b"\r")) is None
    assert parser.feed(b"\n" + line.replace(b"3/10", b"5/10") + b"\n") == Progress(5, 10)
    whole = line.ljust(MOST_LINE_BYTES, b" ") + line.replace(b"3/10", b"4/10") + b"\n"
    assert fed(pattern, whole) == Progress(3, 10)
    assert parser.most_bytes >= MOST_LINE_BYTES


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_line_without_end_takes_no_memory(pattern: str) -> None:
    """A task that prints an endless line costs the client no memory but for the piece itself."""
    parser = make_parser(pattern)
    line = b"12% " * 16_384
    parser.feed(line)
    tracemalloc.start()
    try:
        for _ in range(50):
            assert parser.feed(line) is None
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 16_384
    assert peak < 4 * len(line)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "rubbish",
    [bar(3, 9), bar(9, 9, b"\n"), bar(3, 9, UP), b"\r", b"12%| ", b"1/1 [", b"step 3/9\n", b"1"],
)
def test_dense_output_is_read_quickly(pattern: str, rubbish: bytes) -> None:
    """Two megabytes of nothing but bars, or of pieces of them, hold up nobody."""
    piece = rubbish * (65_536 // len(rubbish))
    parser = make_parser(pattern)
    began = time.process_time()
    for _ in range(32):
        parser.feed(piece)
    # It takes 0.3 s at the most; a reading that grows with the square takes minutes.
    assert time.process_time() - began < 5


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_output_begun_anew_is_read_anew(pattern: str) -> None:
    """Neither old progress nor half a line is left."""
    parser = make_parser(pattern)
    assert parser.feed(b"\x021/3\x03 step 1/3\n" + bar(1, 3) + b"\r50%|x| 2") == Progress(1, 3)
    parser.reset()
    assert parser.latest is None
    assert parser.feed(b"/3 [00:00<00:01]\nstep 5/5\x025/5\x03\n" + bar(5, 5)) == Progress(5, 5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_good_patterns_are_taken(pattern: str) -> None:
    """The two words and a regex with both groups."""
    check_pattern(pattern)
    parser: ProgressParser = make_parser(pattern)
    assert isinstance(parser, MarkerParser) == (pattern == "allot")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("tdqm", "no group named step and none named total"),
        ("", "no group named step and none named total"),
        (r"(?P<step>\d+)", "no group named total"),
        (r"(\d+)/(?P<total>\d+)", "no group named step"),
        (r"(?P<step>\d+", "no valid regular expression"),
        (r"(?<step>\d+)/(?<total>\d+)", "no valid regular expression"),
        (r"(?P<step>a{99999999999})(?P<total>)", "no valid regular expression"),
        ("(" * 5000 + r"(?P<step>\d+)(?P<total>\d+)" + ")" * 5000, "no valid regular expression"),
        (3, "must be text"),
        (None, "must be text"),
        (rb"(?P<step>\d+)/(?P<total>\d+)", "must be text"),
        (["tqdm"], "must be text"),
    ],
)
def test_a_bad_pattern_is_refused_with_the_remedy(pattern: str, problem: str) -> None:
    """It says which argument, what it was, what is wrong with it and what it may be."""
    with pytest.raises(ConfigError) as refusal:
        check_pattern(pattern)
    message = str(refusal.value)
    assert message.startswith("progress_pattern ")
    assert repr(pattern)[:100] in message
    assert problem in message
    assert '"allot", "tqdm"' in message
    assert "(?P<step>...)" in message
    with pytest.raises(ConfigError):
        make_parser(pattern)
