"""Small files of a node, read before an SFTP session is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes import open_gateway, reach

from allot import LoopbackNodes
from allot.claims import Claims
from allot.errors import ConnectionFailedError
from allot.harvest import Harvest
from allot.model import Progress
from allot.node import FileRead, Node
from allot.peek import NodeReader
from allot.probe import Sharing
from allot.script import Launch

# One connection serves all examples of a test: its fixture is begun once on purpose.
ON_ONE_NODE = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def loopback() -> Iterator[LoopbackNodes]:
    with LoopbackNodes(1) as nodes:
        yield nodes


@pytest.fixture
def node(loopback: LoopbackNodes) -> Iterator[Node]:
    """A node that was not asked for SFTP yet."""
    with open_gateway() as gateway, reach(loopback.names[0], loopback.ssh_config, gateway) as node:
        node.connect()
        yield node


def test_small_texts_need_no_sftp(node: Node, tmp_path: Path) -> None:
    """They come as they are, with what is said of a missing file."""
    text = "one\n  two \\n\tthree \u00e4\xff\n\n".encode("utf-8", "surrogateescape")
    (tmp_path / "a").write_bytes(text)
    (tmp_path / "empty").touch()
    names = [str(tmp_path / name) for name in ("a", "empty", "missing")]
    reader = NodeReader(node)
    seen = reader.read([FileRead(name, 0, 1000) for name in names])
    assert seen[:2] == [text, b""]
    assert isinstance(seen[2], FileNotFoundError)
    sizes = reader.sizes(names)
    assert sizes[:2] == [len(text), 0]
    assert isinstance(sizes[2], FileNotFoundError)
    reader.forget(names)
    assert node.has_sftp is None


@ON_ONE_NODE
@given(
    data=st.binary(max_size=3000) | st.text(max_size=300).map(str.encode),
    offset=st.integers(0, 400),
    length=st.integers(1, 3000),
)
def test_any_piece_of_any_file_is_what_it_is(
    node: Node, tmp_path: Path, data: bytes, offset: int, length: int
) -> None:
    """Whoever reads it in the end."""
    file = tmp_path / "-a 'b"
    file.write_bytes(data)
    reader = NodeReader(node)
    assert reader.read([FileRead(str(file), offset, length)]) == [data[offset : offset + length]]
    assert reader.sizes([str(file)]) == [len(data)]
    reader.forget([str(file)])


@pytest.mark.parametrize(
    "data",
    [b"a\0b", b"x" * 20000, b"\x1eallot E 0 0 0 1 end 2 .\n"],
    ids=["binary", "large", "like a notice"],
)
def test_what_bash_does_not_show_comes_over_sftp(node: Node, tmp_path: Path, data: bytes) -> None:
    """In one answer with what it does show."""
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_text("plain")
    reader = NodeReader(node)
    names = [str(tmp_path / name) for name in ("a", "b")]
    assert reader.sizes(names) == [len(data), 5]
    assert node.has_sftp
    assert reader.read([FileRead(name, 0, 30000) for name in names]) == [data, b"plain"]
    assert node.take_notices() == []


def test_what_cannot_be_read_is_told(node: Node, tmp_path: Path) -> None:
    """A pipe with nobody at its other end holds nobody up."""
    os.mkfifo(tmp_path / "pipe")
    reader = NodeReader(node)
    answers = reader.read([FileRead(str(tmp_path), 0, 10)])
    assert isinstance(answers[0], OSError)
    assert reader.sizes([str(tmp_path / "pipe")]) == [0]


def test_a_question_comes_along_with_one_look(node: Node, tmp_path: Path) -> None:
    """Once; its answer is kept until it is taken, whatever is read meanwhile."""
    (tmp_path / "a").write_text("x")
    piece = FileRead(str(tmp_path / "a"), 0, 10)
    reader = NodeReader(node)
    reader.ask_along(r"__allot_reply+=$'one\ntwo\n'")
    assert reader.take_answer() is None
    assert reader.read([piece]) == [b"x"]
    assert reader.take_answer() is None
    reader.ask_along(r"__allot_reply+=$'one\ntwo\n'")
    assert [reader.read([piece]), reader.read([piece])] == [[b"x"], [b"x"]]
    assert reader.take_answer() == b"one\ntwo\n"
    assert reader.take_answer() is None


def test_over_sftp_no_question_is_asked(node: Node, tmp_path: Path) -> None:
    """Who asks must ask for himself."""
    (tmp_path / "a").write_text("x")
    reader = NodeReader(node)
    assert node.open_sftp()
    reader.ask_along("echo one")
    assert reader.read([FileRead(str(tmp_path / "a"), 0, 10)]) == [b"x"]
    assert reader.take_answer() is None


def test_outputs_that_have_begun_are_told_along_with_the_event_file(
    node: Node, tmp_path: Path
) -> None:
    """And those of which nobody asked along are asked of for themselves."""
    events = tmp_path / "events"
    events.touch()
    harvest = Harvest(
        node, "job", Claims(tmp_path), Sharing(False, False), tmp_path, poll_interval=1e-9
    )
    outputs = []
    for number in range(4):
        (tmp_path / f"{number}.out").touch()
        launch = Launch(number, 0, 0, tmp_path / f"{number}.out", None, None, {}, "true")
        outputs.append(harvest.output(launch))
    assert list(harvest.look(outputs)) == []
    for number in (1, 3):
        (tmp_path / f"{number}.out").write_text("\x021/2\x03")
    first_two = harvest.reader_along(outputs[:2])
    assert first_two.read([FileRead(str(events), 0, 10)]) == [b""]
    told = {id(output): progress for output, progress in harvest.look(outputs)}
    assert told == {id(outputs[number]): Progress(1, 2) for number in (1, 3)}
    assert [output.watch.is_known_empty for output in outputs] == [True, False, True, False]


def test_many_looks_are_worth_a_session(node: Node, tmp_path: Path) -> None:
    """After some, or where many files are read at once, it is opened."""
    (tmp_path / "a").write_text("x")
    reader = NodeReader(node)
    piece = FileRead(str(tmp_path / "a"), 0, 10)
    while node.has_sftp is None:
        assert reader.read([piece]) == [b"x"]
    assert reader.read([piece] * 20) == [b"x"] * 20
    node.close()
    with pytest.raises(ConnectionFailedError):
        reader.read([piece])


def test_a_shell_that_answers_rubbish_is_a_broken_connection(node: Node, tmp_path: Path) -> None:
    """What it says is not taken for a file's content."""
    node.request("""printf() { builtin printf "$1" "${2%?}" "${@:3}"; }""")
    with pytest.raises(ConnectionFailedError, match="garbled answer of its shell"):
        NodeReader(node).read([FileRead(str(tmp_path), 0, 10)])


def test_outputs_that_are_empty_are_looked_at_all_the_same(node: Node, tmp_path: Path) -> None:
    """Whichever begins, with or without progress in it, is seen at the next look, and only that."""
    launches = [
        Launch(number, 0, 0, tmp_path / f"it's {number} \u00e4.out", None, None, {}, "true")
        for number in range(12)
    ]
    sharing = Sharing(False, False)
    harvest = Harvest(node, "job", Claims(tmp_path), sharing, tmp_path, poll_interval=1e-6)
    outputs = [harvest.output(launch) for launch in launches]
    for launch in launches[:6]:
        launch.output_file.touch()
    assert list(harvest.look(outputs)) == []
    seen = []
    for number, text in ((3, "\x021/4\x03"), (9, "just words\n"), (7, "\x023/4\x03")):
        launches[number].output_file.write_text(text)
        seen.append([(one.files[0], progress) for one, progress in harvest.look(outputs)])
    assert seen == [
        [(launches[3].output_file, Progress(1, 4))],
        [],
        [(launches[7].output_file, Progress(3, 4))],
    ]
    launches[3].output_file.write_text("\x021/4\x03\x022/4\x03")
    assert [progress for _, progress in harvest.look(outputs)] == [Progress(2, 4)]
