"""Sending files: what arrives is a file as it once was, under its name only when it is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import NodesFactory
from localnode import LocalNode
from nodes import connected, open_gateway, reach
from sandbox import IS_ROOT
from sshd import SshdNodes

from allot import LoopbackNodes, errands
from allot.errors import ConnectionFailedError
from allot.node import FileMove, FileWrite, Node
from allot.sending import Sender, Sent, SftpWriter, ShellWriter, Writer
from allot.staging import Source
from allot.tree import scan

ROUND = 1 << 17
HALF = ROUND // 2


class Disk:
    """A node's files in memory, with what a test does between two requests."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.moves: list[FileMove] = []
        self.sizes: list[int] = []
        self.between: Callable[[], object] = lambda: None
        self.refusals: dict[str, OSError] = {}
        self.is_gone = False

    def write(self, pieces: Sequence[FileWrite]) -> list[OSError | None]:
        """As :class:`Writer` says."""
        if self.is_gone:
            raise ConnectionFailedError("nd01", "timed out")
        self.sizes.append(sum(len(piece.data) for piece in pieces))
        for piece in pieces:
            assert len(piece.data) <= 32 * 1024
            before = b"" if piece.offset == 0 else self.parts[piece.path]
            assert len(before) == piece.offset
            self.parts[piece.path] = before + piece.data
        self.between()
        return [self.refusals.get("write") for _ in pieces]

    def move(self, moves: Sequence[FileMove]) -> list[OSError | None]:
        """As :class:`Writer` says."""
        self.moves += moves
        for move in moves:
            self.files[move.path] = self.parts.pop(move.part)
        return [self.refusals.get("move") for _ in moves]


def send(sender: Sender, writer: Writer, rounds: int = 200) -> list[Sent]:
    settled: list[Sent] = []
    while sender.busy:
        assert rounds > 0, "it goes on without end"
        rounds -= 1
        settled += sender.advance(writer)
    return settled


def sender_of(root: Path, to: str = "/w") -> Sender:
    sender = Sender("job-0-0a1b2c3d")
    sender.add(to, scan(Source(root, ".")))
    return sender


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file need not be large to take several."""
    monkeypatch.setattr("allot.sending._ROUND_BYTES", ROUND)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


def test_many_small_files_and_a_large_one(here: Path) -> None:
    """All arrive; a round is bounded, and shared by what is under way."""
    expected = {f"/w/{n}": b"%d" % n * n for n in range(300)} | {"/w/big": os.urandom(5 * HALF + 7)}
    for name, data in expected.items():
        (here / name[3:]).write_bytes(data)
    sender, disk = sender_of(here), Disk()
    assert sender.total == sum(map(len, expected.values()))
    shares = [0.0]
    disk.between = lambda: shares.append(sender.done / sender.total)
    assert {sent.path for sent in send(sender, disk) if not sent.problem} == expected.keys()
    assert disk.files == expected
    assert disk.parts == {}
    assert shares == sorted(shares)
    assert sender.done == sender.total
    assert max(disk.sizes) <= ROUND
    assert len(disk.sizes) < 10
    assert not sender.busy


def test_what_is_added_meanwhile_counts(here: Path) -> None:
    """The share that has arrived is of all that is on its way."""
    (here / "x").write_bytes(bytes(3 * HALF))
    sender, disk = sender_of(here), Disk()
    sender.advance(disk)
    sender.add("/v", scan(Source(here, ".")))
    assert (sender.done, sender.total) == (ROUND, 6 * HALF)
    assert {sent.path for sent in send(sender, disk)} == {"/w/x", "/v/x"}
    assert sender.done == sender.total
    sender.add("/u", scan(Source(here, ".")))
    assert (sender.done, sender.total) == (0, 3 * HALF)


def test_nothing_is_under_its_name_before_it_is_whole(here: Path) -> None:
    """It has a name of its own till then, hidden, beside its place; its time and mode go along."""
    (here / "x").write_bytes(bytes(3 * HALF))
    (here / "x").chmod(0o640)
    os.utime(here / "x", (5, 1_700_000_000))
    sender, disk = sender_of(here), Disk()
    assert sender.advance(disk) == []
    [part] = disk.parts
    assert part.startswith("/w/.")
    assert part.endswith(".part")
    assert ".job-0-0a1b2c3d" in part
    assert disk.files == {}
    assert sender.advance(disk) == [Sent("/w/x")]
    assert disk.moves == [FileMove(part, "/w/x", 1_700_000_000, 0o640)]


def test_an_empty_file_is_a_file(here: Path) -> None:
    """Also where there is nothing else."""
    (here / "x").touch()
    disk = Disk()
    assert send(sender_of(here), disk) == [Sent("/w/x")]
    assert disk.files == {"/w/x": b""}


@pytest.mark.parametrize("size", [0, 10, 3 * HALF])
@pytest.mark.parametrize("new", [0, 11, 4 * HALF])
def test_a_file_that_changes_is_begun_anew(here: Path, size: int, new: int) -> None:
    """Grown, shrunk or written over: what arrives is all old or all new."""
    (here / "x").write_bytes(b"o" * size)
    sender, disk = sender_of(here), Disk()

    def change() -> None:
        (here / "x").write_bytes(b"n" * new)
        os.utime(here / "x", (1, 1))
        disk.between = lambda: None

    disk.between = change
    assert send(sender, disk) == [Sent("/w/x")]
    assert disk.files == {"/w/x": b"n" * new}
    assert disk.moves[-1].mtime == 1
    assert 0 <= sender.done <= sender.total


@pytest.mark.parametrize("size", [0, 10, 5 * HALF])
def test_a_file_that_never_rests_is_given_up(here: Path, size: int) -> None:
    """With what to do; the others arrive."""
    (here / "log").write_bytes(bytes(size))
    (here / "x").write_bytes(b"fine")
    sender, disk = sender_of(here), Disk()
    times = iter(range(1000))
    disk.between = lambda: os.utime(here / "log", ns=(0, next(times)))
    settled = {sent.path: sent.problem for sent in send(sender, disk)}
    assert settled["/w/x"] == ""
    assert settled["/w/log"] == (
        f"stage_in: {here}/log cannot be read here: it changes all the time; name a copy of it"
    )
    assert disk.files == {"/w/x": b"fine"}


@pytest.mark.parametrize("size", [10, 3 * HALF])
@pytest.mark.parametrize("is_begun", [False, True])
def test_a_file_that_vanishes_is_told(here: Path, size: int, is_begun: bool) -> None:
    """Before it was begun, under way, or just before it would be put into place."""
    (here / "x").write_bytes(bytes(size))
    sender, disk = sender_of(here), Disk()
    if is_begun:
        disk.between = lambda: (here / "x").unlink(missing_ok=True)
    else:
        (here / "x").unlink()
    assert send(sender, disk) == [
        Sent("/w/x", f"stage_in: {here}/x cannot be read here: No such file or directory")
    ]
    assert disk.files == {}


def test_a_file_that_became_a_pipe_is_not_waited_for(here: Path) -> None:
    """Nobody will ever write to it."""
    (here / "x").write_bytes(b"abc")
    sender, disk = sender_of(here), Disk()
    (here / "x").unlink()
    os.mkfifo(here / "x")
    [sent] = send(sender, disk)
    assert sent.problem == f"stage_in: {here}/x cannot be read here: it is no file any more"


@pytest.mark.parametrize("when", ["write", "move"])
@pytest.mark.parametrize(
    ("number", "words", "remedy"),
    [
        (None, "Failure", "is there room?"),
        (errno.EACCES, "Permission denied", "who may write there?"),
        (errno.ENOENT, "No such file", "was a directory removed?"),
    ],
)
def test_what_the_node_refuses_is_told(
    here: Path, when: str, number: int | None, words: str, remedy: str
) -> None:
    """With its place there, why, and what to look at."""
    (here / "x").write_bytes(bytes(3 * HALF))
    sender, disk = sender_of(here), Disk()
    disk.refusals[when] = OSError(number, words)
    problem = f"stage_in: /w/x cannot be written there: {words}; {remedy}"
    assert send(sender, disk) == [Sent("/w/x", problem)]


def test_what_was_broken_off_is_begun_anew_under_another_name(here: Path) -> None:
    """What was sent before may still be carried out there, and must not get in between."""
    (here / "x").write_bytes(bytes(3 * HALF))
    sender, disk = sender_of(here), Disk()
    sender.advance(disk)
    disk.is_gone = True
    with pytest.raises(ConnectionFailedError):
        sender.advance(disk)
    disk.is_gone = False
    sender.abandon()
    assert not sender.busy
    old = set(disk.parts)
    sender.add("/w", scan(Source(here, ".")))
    assert (sender.done, sender.total) == (0, 3 * HALF)
    assert send(sender, disk) == [Sent("/w/x")]
    assert len(disk.files["/w/x"]) == 3 * HALF
    assert disk.moves[-1].part not in old
    assert set(disk.parts) == old


# Over real connections, or through Bash.


@pytest.fixture(params=["sshd", "loopback", "sshd without SFTP", "bash"])
def writer(
    request: pytest.FixtureRequest, sshd_nodes: NodesFactory, five_nodes: SshdNodes
) -> Iterator[Writer]:
    """All ways to write on a node."""
    if request.param == "bash":
        node: LocalNode = request.getfixturevalue("node")
        yield ShellWriter(cast(Any, node))
    elif request.param == "loopback":
        with (
            LoopbackNodes(1) as loopback,
            open_gateway() as gateway,
            reach(loopback.names[0], loopback.ssh_config, gateway) as reached,
        ):
            reached.connect()
            yield writer_of(reached)
    else:
        nodes = five_nodes if request.param == "sshd" else sshd_nodes(1, sftp=False)
        with connected(nodes) as reached:
            yield writer_of(reached)


def writer_of(node: Node) -> Writer:
    return SftpWriter(node) if node.open_sftp() else ShellWriter(node)


def test_real_files_arrive_as_they_are(
    here: Path, tmp_path: Path, writer: Writer, request: pytest.FixtureRequest
) -> None:
    """Names, bytes, modes and times; what was there is replaced; nothing else is left."""
    names = ["a b", "-n", "x\ny", "é", "'\"", "sub/$(x)", "*"]
    if "[loopback]" not in request.node.name:  # its server takes names for text
        names.append("\udcff")
    there = tmp_path / "there"
    for place in (here, there):
        (place / "sub").mkdir(parents=True)
    for number, name in enumerate(names):
        (here / name).write_bytes(os.urandom(10_000 * number))
        (here / name).chmod(0o600 + number)
        os.utime(here / name, (5, 1_700_000_000 + number))
    (there / "a b").write_text("old and longer than what comes")
    (there / "-n").symlink_to("nowhere")
    (here / "big").write_bytes(os.urandom(3 * HALF + 1))
    os.utime(here / "big", (-5, -5))
    settled = send(sender_of(here, str(there)), writer)
    assert [sent for sent in settled if sent.problem] == []
    assert {sent.path for sent in settled} == {str(there / name) for name in [*names, "big"]}
    for name in [*names, "big"]:
        old, new = (here / name).stat(), (there / name).stat()
        assert (there / name).read_bytes() == (here / name).read_bytes()
        assert new.st_mtime == max(old.st_mtime, 0)
        assert new.st_mode == old.st_mode
    assert not (there / "-n").is_symlink()
    assert sum(1 for path in there.rglob("*") if path.is_file()) == len(names) + 1


def test_where_both_sides_are_one_nothing_is_changed(here: Path, writer: Writer) -> None:
    """A file is never sent over itself, nor over a link that stands for it."""
    (here / "x").write_bytes(b"abc")
    (here / "empty").touch()
    (here / "big").write_bytes(bytes(3 * HALF))
    before = {path.name: path.stat() for path in here.iterdir()}
    settled = send(sender_of(here, str(here)), writer)
    assert {sent.path for sent in settled if not sent.problem} == {
        str(here / one) for one in before
    }
    after = {path.name: path.stat() for path in here.iterdir()}
    assert {name: (one.st_ino, one.st_mtime_ns) for name, one in after.items()} == {
        name: (one.st_ino, one.st_mtime_ns) for name, one in before.items()
    }


def test_what_a_real_node_refuses_is_told(here: Path, tmp_path: Path, writer: Writer) -> None:
    """A directory in its place, or none to go to; the rest arrives."""
    for name in ("fine", "folder", "gone/x"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(b"abc")
    (tmp_path / "there/folder").mkdir(parents=True)
    settled = send(sender_of(here, str(tmp_path / "there")), writer)
    problems = {sent.path.rpartition("there/")[2]: sent.problem for sent in settled}
    assert problems["fine"] == ""
    for name in ("folder", "gone/x"):
        assert problems[name].startswith(f"stage_in: {tmp_path}/there/{name} cannot be written")
        assert problems[name].endswith("?")
    assert (tmp_path / "there/folder").is_dir()


@pytest.mark.skipif(not IS_ROOT, reason="accounts of their own need root")
@pytest.mark.parametrize("sftp", [True, False])
def test_a_node_that_may_not_write_there(here: Path, sshd_nodes: NodesFactory, sftp: bool) -> None:
    """The system's words are told."""
    (here / "x").write_bytes(b"abc")
    with connected(sshd_nodes(1, own_uid=True, sftp=sftp)) as node:
        [sent] = send(sender_of(here, "/"), writer_of(node))
    assert sent.path == "/x"
    assert "Permission denied" in sent.problem
    assert not Path("/x").exists()


def test_an_answer_that_does_not_fit_is_a_broken_connection(here: Path) -> None:
    """Which file would it be about? Nothing is taken for written."""

    class Garbled:
        name = "nd01"

        def request(self, script: str) -> bytes:
            """One answer too many."""
            return b"\0" * (script.count("base64") + 1)

    (here / "x").write_bytes(b"abc")
    with pytest.raises(ConnectionFailedError, match=r"nd01.*garbled"):
        sender_of(here).advance(ShellWriter(cast(Any, Garbled())))


def test_a_request_to_bash_is_bounded(
    here: Path, tmp_path: Path, node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it must arrive within the time that a node has to answer."""
    monkeypatch.setattr("allot.sending._ROUND_BYTES", 20 * ROUND)
    (here / "x").write_bytes(bytes(10 * ROUND))
    (tmp_path / "there").mkdir()
    writer = ShellWriter(cast(Any, node))
    lengths: list[int] = []
    request = node.request

    def measured(text: str) -> bytes:
        lengths.append(len(text))
        return request(text)

    monkeypatch.setattr(node, "request", measured)
    assert send(sender_of(here, str(tmp_path / "there")), writer, rounds=1) == [
        Sent(str(tmp_path / "there/x"))
    ]
    assert max(lengths) < 1_000_000
    assert (tmp_path / "there/x").read_bytes() == bytes(10 * ROUND)


def test_a_beginning_that_is_gone_is_noticed(here: Path, tmp_path: Path, node: LocalNode) -> None:
    """Somebody removed what is unfinished: the rest is not taken for the file."""
    (here / "x").write_bytes(bytes(3 * HALF))
    there = tmp_path / "there"
    there.mkdir()
    sender, writer = sender_of(here, str(there)), ShellWriter(cast(Any, node))
    assert sender.advance(writer) == []
    node.request(errands.look_script(str(there), ["x"], "job-0", "job-0-other"))
    assert list(there.iterdir()) == []
    [sent] = send(sender, writer)
    assert "somebody removed or changed it while it was sent" in sent.problem
    assert not (there / "x").exists()
