"""Reading outputs as they grow: on the client, over SFTP, and over a shell without SFTP."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest
from conftest import NodesFactory
from nodes import connected
from sshd import NeedsRootError, SshdNodes

from allot.along import ReadAlong
from allot.claims import Claims
from allot.errors import ConnectionFailedError
from allot.harvest import Harvest
from allot.looks import LOOK_BYTES, Watch, look, look_last
from allot.model import Progress
from allot.node import FileRead
from allot.output import Data, LocalReader, Reader, SftpReader, ShellReader, read_text
from allot.patterns import MOST_LINE_BYTES, make_parser
from allot.probe import Sharing
from allot.script import Launch

Look: TypeAlias = Callable[[Reader, Sequence[Watch]], list[tuple[Watch, Progress]]]

# A task that begins its output anew is found out after so many looks at the latest.
LOOKS = 10


@pytest.fixture(scope="module", params=["local", "sftp", "shell"])
def reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    """Each kind of reader, the last two over real servers that see the client's files."""
    if request.param == "local":
        yield LocalReader()
        return
    has_sftp = request.param == "sftp"
    try:
        with (
            SshdNodes(1, tmp_path_factory.mktemp("node"), sftp=has_sftp) as nodes,
            connected(nodes) as node,
        ):
            assert node.open_sftp() == has_sftp
            yield SftpReader(node) if has_sftp else ShellReader(node)
    except (NeedsRootError, FileNotFoundError) as error:
        pytest.skip(str(error))


class Gauge:
    """A reader that notes how much is asked for."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._local = LocalReader()

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        self.lengths += [read.length for read in reads]
        return self._local.read(reads)

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        return self._local.sizes(files)

    def forget(self, files: Sequence[str]) -> None:
        self._local.forget(files)


def marker(step: int, total: int = 9) -> bytes:
    return b"\x02%d/%d\x03\n" % (step, total)


def progress_of(reader: Reader, watch: Watch) -> Progress | None:
    """What one look tells."""
    news = look(reader, [watch])
    return news[0][1] if news else None


def last_of(reader: Reader, watch: Watch) -> Progress | None:
    """What the last look tells."""
    news = look_last(reader, [watch])
    return news[0][1] if news else None


def test_the_progress_of_a_growing_output_is_told_once(reader: Reader, tmp_path: Path) -> None:
    """Each look tells what is new; one that finds nothing new tells nothing."""
    path = tmp_path / "0.out"
    watch = Watch(str(path))
    assert progress_of(reader, watch) is None  # not there yet
    path.write_bytes(b"begin\n" + marker(1))
    assert progress_of(reader, watch) == Progress(1, 9)
    assert progress_of(reader, watch) is None
    with path.open("ab") as file:
        file.write(b"\x022/")
        file.flush()
        assert progress_of(reader, watch) is None
        file.write(b"9\x03")
    assert progress_of(reader, watch) == Progress(2, 9)


def test_many_outputs_are_looked_at_in_one_go(reader: Reader, tmp_path: Path) -> None:
    """More than are read at once; those that are not there are no trouble."""
    for step in range(0, 80, 2):
        (tmp_path / f"{step}.out").write_bytes(marker(step, 80))
    watches = [Watch(str(tmp_path / f"{step}.out")) for step in range(80)]
    told = {Path(watch.path).name: progress.step for watch, progress in look(reader, watches)}
    assert told == {f"{step}.out": step for step in range(0, 80, 2)}


class Breaking(Gauge):
    """A reader whose connection breaks at its second request."""

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        if len(self.lengths) == 1:
            self.lengths.append(0)
            raise ConnectionFailedError("nd01", "cut")
        self.lengths.append(len(reads))
        return self._local.read(reads)


@pytest.mark.parametrize("how", [look, look_last])
def test_what_was_found_before_a_break_is_told_after_it(tmp_path: Path, how: Look) -> None:
    """More outputs than go into one request: the progress of the first ones is not lost."""
    watches = []
    for number in range(40):
        (tmp_path / f"{number}.out").write_bytes(b"\x02%d/50\x03" % number)
        watches.append(Watch(str(tmp_path / f"{number}.out")))
    reader = Breaking()
    with pytest.raises(ConnectionFailedError):
        look(reader, watches)
    assert [progress.step for _, progress in how(reader, watches)] == list(range(40))
    assert how(reader, watches) == []


def test_the_progress_of_a_replaced_output_is_seen(reader: Reader, tmp_path: Path) -> None:
    """A task that writes a new file and moves it over its output is followed into the new one."""
    path = tmp_path / "0.out"
    path.write_bytes(b"a long beginning " * 50 + marker(7))
    watch = Watch(str(path))
    assert progress_of(reader, watch) == Progress(7, 9)
    (tmp_path / "new").write_bytes(marker(2))
    (tmp_path / "new").replace(path)
    assert Progress(2, 9) in [progress_of(reader, watch) for _ in range(LOOKS)]


def test_the_progress_of_a_truncated_output_is_seen(reader: Reader, tmp_path: Path) -> None:
    """A task that begins its output anew is followed, and its markers count from then on."""
    path = tmp_path / "0.out"
    path.write_bytes(b"a long beginning " * 50 + marker(7))
    watch = Watch(str(path))
    assert progress_of(reader, watch) == Progress(7, 9)
    path.write_bytes(marker(1))
    assert Progress(1, 9) in [progress_of(reader, watch) for _ in range(LOOKS)]
    with path.open("ab") as file:
        file.write(marker(3))
    assert progress_of(reader, watch) == Progress(3, 9)


@pytest.mark.parametrize("behind", [0, 300_000, 3_000_000])
def test_the_last_look_finds_the_last_marker(reader: Reader, tmp_path: Path, behind: int) -> None:
    """However much was written after it, and whatever looks before had read."""
    path = tmp_path / "0.out"
    path.write_bytes(marker(1))
    watch = Watch(str(path))
    assert progress_of(reader, watch) == Progress(1, 9)
    with path.open("ab") as file:
        file.write(b"y" * 500_000 + marker(9) + b"x" * behind)
    assert last_of(reader, watch) == Progress(9, 9)
    assert last_of(reader, watch) is None


def test_the_last_of_many_markers_far_apart_is_the_progress(tmp_path: Path) -> None:
    """Nine markers, 400 kB behind each: the ninth counts, not the last one that looks met."""
    path = tmp_path / "0.out"
    path.write_bytes(b"".join(marker(step) + b"x" * 400_000 for step in range(1, 10)))
    watch = Watch(str(path))
    look(LocalReader(), [watch])
    look_last(LocalReader(), [watch])
    assert watch.parser.latest == Progress(9, 9)


@pytest.mark.parametrize("shift", range(7))
def test_a_marker_where_two_pieces_meet_is_found(tmp_path: Path, shift: int) -> None:
    """The last look reads backwards in pieces, and loses nothing between two of them."""
    path = tmp_path / "0.out"
    path.write_bytes(marker(4) + b"y" * 90_000 + marker(5) + b"x" * (64 * 1024 - shift))
    assert last_of(LocalReader(), Watch(str(path))) == Progress(5, 9)


REGEX = r"(?P<step>\d+)/(?P<total>\d+)"


def telling(pattern: str, step: int) -> bytes:
    """A line of a program's own that tells its progress, 400 in all."""
    return (
        b"\rrun:  9%%|# | %d/400 [00:01<00:32]" % step if pattern == "tqdm" else b"%d/400\n" % step
    )


@pytest.mark.parametrize("pattern", ["tqdm", REGEX])
def test_a_programs_own_progress_is_told(reader: Reader, tmp_path: Path, pattern: str) -> None:
    """As it grows, behind a gap that no look reads, and at its end."""
    path = tmp_path / "0.out"
    watch = Watch(str(path), parser=make_parser(pattern))
    path.write_bytes(telling(pattern, 12))
    assert progress_of(reader, watch) == Progress(12, 400)
    with path.open("ab") as file:
        file.writelines(telling(pattern, step) for step in range(13, 390) for _ in range(300))
    assert progress_of(reader, watch) == Progress(389, 400)
    with path.open("ab") as file:
        file.write(telling(pattern, 390) + b"x\n" * 500_000)
    assert last_of(reader, watch) == Progress(390, 400)


@pytest.mark.parametrize("pattern", ["tqdm", REGEX])
@pytest.mark.parametrize("length", [40, MOST_LINE_BYTES - 1, MOST_LINE_BYTES])
@pytest.mark.parametrize("shift", [*range(25), 39])
def test_a_line_where_two_pieces_meet_is_read_whole(
    tmp_path: Path, pattern: str, length: int, shift: int
) -> None:
    """The last look reads backwards in pieces: ``112/400`` is not taken for ``12/400``."""
    path = tmp_path / "0.out"
    line = telling(pattern, 112).strip().ljust(length) + b"\n"
    # The last piece begins so many bytes behind the line's first.
    behind = (b"\n" * LOOK_BYTES)[: LOOK_BYTES - len(line) + shift]
    path.write_bytes(telling(pattern, 5) + b"z\n" * 40_000 + line + behind)
    assert last_of(LocalReader(), Watch(str(path), parser=make_parser(pattern))) == Progress(
        112, 400
    )


def test_of_an_output_full_of_markers_only_the_end_is_read(tmp_path: Path) -> None:
    """Once it was seen to grow fast; where its end tells nothing, all that is new is read."""
    path, gauge = tmp_path / "0.out", Gauge()
    watch = Watch(str(path))

    def told(text: bytes) -> tuple[Progress | None, int]:
        """What a look tells after the output has got something more, and what it asked for."""
        with path.open("ab") as file:
            file.write(text)
        gauge.lengths.clear()
        look(gauge, [watch])
        assert watch.offset == path.stat().st_size
        return watch.told, sum(gauge.lengths)

    seen = []
    for first in (10_000, 20_000, 30_000):
        progress, asked = told(b"".join(marker(first + n, 99_999) for n in range(10_000)))
        assert progress == Progress(first + 9_999, 99_999)
        seen.append(asked)
    assert seen == [3 * LOOK_BYTES, LOOK_BYTES + 8192, LOOK_BYTES + 8192]
    assert told(marker(50_000, 99_999) + b"nothing\n" * 9_000)[0] == Progress(50_000, 99_999)
    assert told(marker(50_001, 99_999)) == (Progress(50_001, 99_999), LOOK_BYTES)


def test_half_a_number_behind_a_gap_is_not_read(tmp_path: Path) -> None:
    """Where reading goes on behind what no look reads, it begins with the next line."""
    path = tmp_path / "0.out"
    path.write_bytes(b"y\n" * (4 * LOOK_BYTES) + b"112/400\n" + b"y\n" * (3 * LOOK_BYTES // 2 - 3))
    assert path.stat().st_size - 3 * LOOK_BYTES == path.read_bytes().index(b"12/400") + 1
    assert progress_of(LocalReader(), Watch(str(path), parser=make_parser(REGEX))) is None


def test_the_last_line_needs_no_end_once_the_task_has_ended(tmp_path: Path) -> None:
    """While it grows, ``1/40`` may become ``1/400``; at the end it is what it is."""
    path = tmp_path / "0.out"
    path.write_bytes(b"1/40\r2/40")
    watch = Watch(str(path), parser=make_parser(REGEX))
    assert progress_of(LocalReader(), watch) == Progress(1, 40)
    assert last_of(LocalReader(), watch) == Progress(2, 40)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Progress(1, 9)),
        ({"progress_pattern": "tqdm"}, Progress(12, 400)),
        ({"progress_pattern": REGEX}, Progress(3, 40)),
    ],
)
def test_a_harvest_reads_outputs_by_its_pattern(
    tmp_path: Path, options: dict[str, str], expected: Progress
) -> None:
    """Markers where nothing was said; bars in the error file, where there is one."""
    files = [tmp_path / "0.out", tmp_path / "0.err"]
    files[0].write_bytes(marker(1) + b"3/40\n")
    files[1].write_bytes(marker(2) + telling("tqdm", 12))
    sharing = Sharing(True, True)
    claims = Claims(tmp_path / "claims")
    none = cast(Any, None)
    harvest = Harvest(none, "job", claims, sharing, tmp_path, poll_interval=1.0, **options)
    output = harvest.output(Launch(0, 0, 0, files[0], files[1], None, {}, "true"))
    assert output.files == tuple(files)
    assert [progress for _, progress in harvest.look([output])] == [expected]


def test_a_replaced_output_is_read_anew_at_the_end(reader: Reader, tmp_path: Path) -> None:
    """What a reader kept open of the old file is not taken for the new one."""
    path = tmp_path / "0.out"
    path.write_bytes(marker(1) * 3)
    watch = Watch(str(path))
    assert progress_of(reader, watch) == Progress(1, 9)
    (tmp_path / "new").write_bytes(b"new " * 9 + marker(8))
    (tmp_path / "new").replace(path)
    assert last_of(reader, watch) == Progress(8, 9)


def test_a_gigabyte_is_not_read(reader: Reader, tmp_path: Path) -> None:
    """An output that outran its looks is read at its end only."""
    path = tmp_path / "0.out"
    path.write_bytes(marker(1))
    os.truncate(path, 1 << 30)
    with path.open("ab") as file:
        file.write(marker(6))
    watch = Watch(str(path))
    assert progress_of(reader, watch) == Progress(6, 9)
    gauge = Gauge()
    assert last_of(gauge, Watch(str(path))) == Progress(6, 9)
    assert sum(gauge.lengths) < 1_000_000


def test_a_tail_is_cut_at_newlines_only(reader: Reader, tmp_path: Path) -> None:
    """A carriage return, as bars write it, begins no line; the last one may have no end."""
    path = tmp_path / "0.out"
    path.write_bytes(b"first\nsecond\n10%\r20%\r30%\n")
    assert read_text(reader, str(path), 2) == "second\n10%\r20%\r30%\n"
    assert read_text(reader, str(path), 0) == ""
    assert read_text(reader, str(path), 99) == path.read_bytes().decode()
    path.write_bytes(b"first\x0bstill\x1cfirst\nsecond\nthi\xffrd")
    assert read_text(reader, str(path), 2) == "second\nthi\N{REPLACEMENT CHARACTER}rd"
    assert read_text(reader, str(path), 3) == read_text(reader, str(path), None)


def test_a_whole_output_is_read_in_pieces(reader: Reader, tmp_path: Path) -> None:
    """Ten megabytes arrive as they are, and a long line's tail is all of it."""
    path = tmp_path / "0.out"
    text = "".join(f"{number:09d}\n" for number in range(1_000_000))
    path.write_text(text)
    assert read_text(reader, str(path), None) == text
    assert read_text(reader, str(path), 2) == "000999998\n000999999\n"
    assert read_text(reader, str(path), None, 15) == "9998\n000999999\n"
    gauge = Gauge()
    assert read_text(gauge, str(path), None) == text
    assert max(gauge.lengths) <= 4 * 1024 * 1024


def test_an_output_that_is_not_there_is_empty(reader: Reader, tmp_path: Path) -> None:
    """A task that was not started yet has printed nothing; a device holds nothing either."""
    missing = str(tmp_path / "0.out")
    assert read_text(reader, missing, None) == ""
    assert read_text(reader, "/dev/null", None) == ""
    assert isinstance(reader.sizes([missing])[0], FileNotFoundError)
    assert isinstance(reader.read([FileRead(missing, 0, 9)])[0], FileNotFoundError)
    assert reader.sizes([]) == []
    assert reader.read([]) == []


def test_hostile_names_are_read_as_they_are(reader: Reader, tmp_path: Path) -> None:
    """Quotes, blanks, newlines and option-like names are names."""
    paths = [tmp_path / name for name in ("a b", "it's", "$HOME `x`", "-n", "two\nlines", "*")]
    for path in paths:
        path.write_bytes(os.fsencode(path.name))
    names = [str(path) for path in paths]
    assert reader.sizes(names) == [len(path.name) for path in paths]
    reads = [FileRead(name, 1, 99) for name in names]
    assert reader.read(reads) == [os.fsencode(path.name)[1:] for path in paths]


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "shell"])
def test_what_may_not_be_read_is_not_missing(sshd_nodes: NodesFactory, sftp: bool) -> None:
    """A file that is there but closed to the user is told apart from none."""
    nodes = sshd_nodes(1, sftp=sftp, own_uid=True)
    path = nodes.home / "0.out"
    path.write_bytes(b"secret")
    path.chmod(0)
    with connected(nodes) as node:
        reader = SftpReader(node) if sftp else ShellReader(node)
        assert reader.sizes([str(path)]) == [6]
        assert isinstance(reader.read([FileRead(str(path), 0, 9)])[0], PermissionError)
        with pytest.raises(PermissionError):
            read_text(reader, str(path), None)
    path.unlink()


def test_a_pipe_nobody_writes_to_holds_nothing_up(tmp_path: Path) -> None:
    """An output file that is a named pipe cannot be read, and that is said at once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    answers: list[Data] = []
    reading = threading.Thread(
        target=lambda: answers.extend(LocalReader().read([FileRead(str(path), 0, 9)]))
    )
    reading.start()
    reading.join(20)
    was_held_up = reading.is_alive()
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # whoever waits for a writer goes on
    reading.join(20)
    assert not was_held_up
    assert isinstance(answers[0], OSError)


def test_what_is_read_along_costs_no_request_of_its_own(tmp_path: Path) -> None:
    """It is asked for with the first request and given out once; later it is read anew."""
    one, two = tmp_path / "events", tmp_path / "0.out"
    one.write_bytes(b"event")
    two.write_bytes(b"old")
    first, more = FileRead(str(one), 0, 10), FileRead(str(two), 0, 10)
    gauge = Gauge()
    reader = ReadAlong(gauge, [more])
    assert reader.read([first]) == [b"event"]
    two.write_bytes(b"new")
    assert reader.read([more]) == [b"old"]
    assert len(gauge.lengths) == 2
    assert reader.read([more, first]) == [b"new", b"event"]


def test_what_was_read_along_of_a_replaced_file_is_forgotten(tmp_path: Path) -> None:
    """A file that is to be opened anew is read anew as well."""
    path = tmp_path / "0.out"
    path.write_bytes(b"old")
    piece = FileRead(str(path), 0, 10)
    reader = ReadAlong(LocalReader(), [piece])
    assert reader.read([]) == []
    path.write_bytes(b"new")
    reader.forget([str(path)])
    assert reader.sizes([str(path)]) == [3]
    assert reader.read([piece]) == [b"new"]
