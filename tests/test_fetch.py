"""Bringing files from a node to the client; the node is a directory beside the client's."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from allot.errors import ConnectionFailedError
from allot.fetch import Fetched, Fetcher, Wanted, make_empty
from allot.node import FileRead
from allot.output import Data, LocalReader


def outputs(files: list[Path], attempt: int) -> list[Wanted]:
    """Outputs of a task, which lie under the same names on its node."""
    return [Wanted(file, str(file), attempt) for file in files]


class NodeReader:
    """Reads the node's files under the names that the client has for them.

    Attributes:
        client: The directory as the client knows it.
        node: What lies under that name on the node.
        before_read: Done before each round of reads.
        before_sizes: Done before sizes are asked for.
    """

    def __init__(self, client: Path, node: Path) -> None:
        self.client = client
        self.node = node
        self.before_read: Callable[[], None] = lambda: None
        self.before_sizes: Callable[[], None] = lambda: None
        self._local = LocalReader()

    def read(self, reads: Sequence[FileRead]) -> list[Data]:
        self.before_read()
        return self._local.read([replace(read, path=self._there(read.path)) for read in reads])

    def sizes(self, files: Sequence[str]) -> list[int | OSError]:
        self.before_sizes()
        return self._local.sizes([self._there(file) for file in files])

    def forget(self, files: Sequence[str]) -> None:
        pass

    def _there(self, path: str) -> str:
        return path.replace(str(self.client), str(self.node), 1)


@pytest.fixture
def there(tmp_path: Path) -> NodeReader:
    """A client and a node that share nothing."""
    for name in ("client", "node"):
        (tmp_path / name).mkdir()
    return NodeReader(tmp_path / "client", tmp_path / "node")


def fetch(there: NodeReader, *names: str) -> dict[str, Fetched]:
    """Fetch files until all are settled; nothing half-written is left."""
    fetcher = Fetcher("job")
    fetcher.add(outputs([there.client / name for name in names], 0))
    settled: list[Fetched] = []
    for _ in range(1000):
        if not fetcher.busy:
            break
        settled += fetcher.advance(there)
    assert not fetcher.busy
    assert no_parts(there)
    assert len(settled) == len(names)
    return {str(one.path.relative_to(there.client)): one for one in settled}


def no_parts(there: NodeReader) -> bool:
    return not list(there.client.rglob("*.part"))


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """So many files may be opened beside those that are open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(1000) if not Path(f"/proc/self/fd/{number}").exists()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_files_arrive_as_they_are(there: NodeReader) -> None:
    """Empty, small and large ones, in directories that are made here where they are missing."""
    (there.node / "deep").mkdir()
    contents = {"empty": b"", "small": b"\x00\xff\n", "deep/large": os.urandom(5_000_001)}
    for name, content in contents.items():
        (there.node / name).write_bytes(content)
    settled = fetch(there, *contents)
    assert not any(one.problem for one in settled.values())
    assert {name: (there.client / name).read_bytes() for name in contents} == contents


def test_a_large_file_lets_others_have_their_turn(there: NodeReader) -> None:
    """One call brings a part of it; until the whole is here nothing bears its name."""
    (there.node / "large").write_bytes(os.urandom(5_000_000))
    fetcher = Fetcher("job")
    fetcher.add(outputs([there.client / "large"], 0))
    assert fetcher.advance(there) == []
    assert fetcher.busy
    assert not (there.client / "large").exists()
    fetcher.abandon()
    assert no_parts(there)


def test_two_hundred_files_need_few_descriptors(there: NodeReader) -> None:
    """All of them arrive, however few files the client may have open."""
    names = [f"{number}.out" for number in range(200)]
    for name in names:
        (there.node / name).write_bytes(name.encode() * 20_000)
    with few_descriptors(spare=6):
        settled = fetch(there, *names)
    assert [one.problem for one in settled.values() if one.problem] == []
    assert all((there.client / name).read_bytes() == name.encode() * 20_000 for name in names)


def test_without_descriptors_the_loss_is_told(there: NodeReader) -> None:
    """A client that can open nothing says so of each file, and keeps none in part."""
    for name in ("a", "b"):
        (there.node / name).write_bytes(b"precious")
    fetcher = Fetcher("job")
    fetcher.add(outputs([there.client / "a", there.client / "b"], 0))
    with few_descriptors(spare=0):
        settled = fetcher.advance(there)
    assert ["Too many open files" in one.problem for one in settled] == [True, True]
    assert not any(one.is_missing for one in settled)
    assert not fetcher.busy
    assert list(there.client.iterdir()) == []


def test_a_directory_in_the_way_is_told(there: NodeReader) -> None:
    """With the file's name and the word that its content lies on the node still."""
    (there.node / "0.out").write_bytes(b"precious")
    (there.client / "0.out").mkdir()
    fetched = fetch(there, "0.out")["0.out"]
    assert f"{there.client / '0.out'} cannot be written here" in fetched.problem
    assert "on its node still" in fetched.problem
    assert not fetched.is_missing
    assert (there.node / "0.out").read_bytes() == b"precious"


def test_a_directory_that_cannot_be_made_is_told(there: NodeReader) -> None:
    """A file where the output's directory should be spoils the files in it, and no others."""
    (there.node / "deep").mkdir()
    for name in ("deep/0.out", "deep/1.out", "2.out"):
        (there.node / name).write_bytes(b"precious")
    (there.client / "deep").write_bytes(b"in the way")
    settled = fetch(there, "deep/0.out", "2.out", "deep/1.out")
    assert "cannot be written here" in settled["deep/0.out"].problem
    assert "cannot be written here" in settled["deep/1.out"].problem
    assert settled["2.out"].problem == ""
    assert (there.client / "2.out").read_bytes() == b"precious"


def test_a_name_that_is_too_long_is_told(there: NodeReader) -> None:
    """What this file system refuses is the file's problem, not the job's."""
    name = "x" * 300
    settled = fetch(there, f"{name}/0.out")
    assert "cannot be written here" in settled[f"{name}/0.out"].problem


def test_a_directory_that_is_shared_after_all_is_left_alone(tmp_path: Path) -> None:
    """A file is never copied over itself."""
    same = NodeReader(tmp_path, tmp_path)
    (tmp_path / "0.out").write_bytes(b"precious")
    before = (tmp_path / "0.out").stat()
    assert fetch(same, "0.out")["0.out"].problem == ""
    after = (tmp_path / "0.out").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_grows_all_the_time_comes_to_an_end(there: NodeReader) -> None:
    """As much comes as was there when the fetch began."""
    first = os.urandom(3_000_000)
    (there.node / "0.out").write_bytes(first)

    def grow() -> None:
        with (there.node / "0.out").open("ab") as file:
            file.write(b"more" * 1_000_000)

    there.before_read = grow
    assert fetch(there, "0.out")["0.out"].problem == ""
    assert (there.client / "0.out").read_bytes() == first


def test_a_file_that_shrinks_comes_as_far_as_it_goes(there: NodeReader) -> None:
    """Its end is its end, wherever that is meanwhile."""
    (there.node / "0.out").write_bytes(b"x" * 100_000)
    there.before_read = lambda: os.truncate(there.node / "0.out", 70_000)
    assert fetch(there, "0.out")["0.out"].problem == ""
    assert (there.client / "0.out").read_bytes() == b"x" * 70_000


def test_what_an_earlier_run_left_is_not_taken_for_an_output(there: NodeReader) -> None:
    """A task that removed its own file has none here either, and that is told."""
    (there.client / "0.out").write_bytes(b"of an earlier run")
    fetched = fetch(there, "0.out")["0.out"]
    assert fetched.is_missing
    assert "is not on the node any more" in fetched.problem
    assert not (there.client / "0.out").exists()


@pytest.mark.parametrize("attempt", [0, 1])
def test_an_empty_output_is_made_here_without_asking(tmp_path: Path, attempt: int) -> None:
    """With the directories on its way; again and again does no harm to a first attempt's."""
    wanted = Wanted(tmp_path / "deep" / "0.out", "/there/0.out", attempt)
    assert make_empty(wanted)
    assert wanted.path.read_bytes() == b""
    assert make_empty(wanted) is (attempt == 0)


def test_an_empty_output_takes_no_place_unasked(tmp_path: Path) -> None:
    """What an earlier run left, a directory, what cannot be written: the fetch sees to these."""
    (tmp_path / "full").write_text("of an earlier run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loose").symlink_to("nowhere")
    for name in ("full", "folder", "loose", "full/below", "x" * 300):
        assert not make_empty(Wanted(tmp_path / name, f"/there/{name}", 0))
    assert not make_empty(Wanted(Path("/dev/null"), "/dev/null", 0))
    assert (tmp_path / "full").read_text() == "of an earlier run"


def test_what_cannot_be_read_there_is_told(there: NodeReader) -> None:
    """A directory under the output's name on the node is a loss, not a missing file."""
    (there.node / "0.out").mkdir()
    fetched = fetch(there, "0.out")["0.out"]
    assert "cannot be read on the node" in fetched.problem
    assert not fetched.is_missing


def test_devices_are_left_as_they_are(there: NodeReader) -> None:
    """``/dev/null``, and whatever names it here, gets no content and stays what it is."""
    (there.client / "0.out").symlink_to("/dev/null")
    (there.node / "0.out").write_bytes(b"content")
    fetcher = Fetcher("job")
    fetcher.add(outputs([Path("/dev/null"), there.client / "0.out"], 0))
    assert [one.problem for one in fetcher.advance(there)] == ["", ""]
    assert not fetcher.busy
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert (there.client / "0.out").is_symlink()


def test_a_break_leaves_no_temporary_file(there: NodeReader) -> None:
    """Whether the connection goes when the directory is looked at or in the middle of a file."""
    (there.node / "0.out").write_bytes(b"x" * 5_000_000)

    def snap() -> None:
        raise ConnectionFailedError("nd01", "cut")

    fetcher = Fetcher("job")
    there.before_sizes = snap
    fetcher.add(outputs([there.client / "0.out"], 0))
    with pytest.raises(ConnectionFailedError):
        fetcher.advance(there)
    assert no_parts(there)
    there.before_sizes = lambda: None
    fetcher.add(outputs([there.client / "0.out"], 0))
    fetcher.advance(there)
    there.before_read = snap
    with pytest.raises(ConnectionFailedError):
        fetcher.advance(there)
    assert not no_parts(there)  # it was in the middle
    fetcher.abandon()
    assert no_parts(there)
    assert not fetcher.busy
    assert list(there.client.iterdir()) == []


def test_a_temporary_file_that_somebody_removes_makes_no_holes(there: NodeReader) -> None:
    """The fetch fails with a word, rather than with a file whose beginning is missing."""
    (there.node / "0.out").write_bytes(b"x" * 5_000_000)

    def clean_up() -> None:
        for part in there.client.glob(".*.part"):
            part.unlink()

    there.before_read = clean_up
    assert "cannot be written here" in fetch(there, "0.out")["0.out"].problem
    assert not (there.client / "0.out").exists()


def test_a_fetch_whose_end_nobody_heard_of_is_done_again(there: NodeReader) -> None:
    """The client died right after it: what the attempt before had printed is still there."""
    file = there.client / "0.out"
    file.write_bytes(b"attempt 0")
    (there.node / "0.out").write_bytes(b"attempt 1")
    for _ in range(2):
        fetcher = Fetcher("job")
        fetcher.add(outputs([file], 1))
        assert fetcher.advance(there) == [Fetched(file)]
    assert file.read_bytes() == b"attempt 1"
    assert (there.client / "0.out.0").read_bytes() == b"attempt 0"


@pytest.mark.parametrize("change", ["longer", "shorter", "none"])
def test_a_result_that_is_still_written_to_is_no_result(there: NodeReader, change: str) -> None:
    """Its task has ended, but not all that the task started; nothing is put in its place."""
    source = there.node / "r"
    source.write_bytes(b"x" * 100)
    found = Wanted(there.client / "0" / "r", f"{there.client}/r", None, 100, 1_700_000_000, 0o640)
    sizes = {"longer": 101, "shorter": 99, "none": 100}
    there.before_read = lambda: os.truncate(source, sizes[change])
    fetcher = Fetcher("job")
    fetcher.add([found])
    [settled] = fetcher.advance(there)
    assert bool(settled.problem) is (change != "none")
    assert no_parts(there)
    if change == "none":
        said = found.path.stat()
        assert (said.st_size, said.st_mtime, said.st_mode & 0o777) == (100, 1_700_000_000, 0o640)
    else:
        assert "is still written to" in settled.problem
        assert not found.path.exists()
