"""The Bash that puts files into place and finds results, run by a real one."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from localnode import LocalNode

from allot import errands
from allot.errands import Collected, Look
from allot.staging import Entry, Found, as_line, is_within, read_lines

IN_BASH = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
HOSTILE = ["-n", "-", "a b", "a\nb", "'\"", "\\", "$(x)", "*", "[a]", "\udcff", "~", "é", " x "]
SAFE = st.binary(min_size=1, max_size=20).map(
    lambda data: os.fsdecode(re.sub(rb"[\0/]", b"_", data).replace(b".", b"_"))
)


def entry(name: str, target: str | None = None) -> Entry:
    return Entry(Path("/here") / name, name, 0, 0, 0o644, target)


def look(node: LocalNode, root: Path | str, names: list[str], key: str = "job-0") -> Look:
    return errands.parse_look(
        node.request(errands.look_script(str(root), names, key, f"{key}-own"))
    )


def put(node: LocalNode, *pieces: tuple[str, int, bytes]) -> list[str]:
    texts = [(path, offset, base64.b64encode(data).decode()) for path, offset, data in pieces]
    return errands.parse_problems(node.request(errands.write_script(texts)))


def collect(node: LocalNode, root: Path | str, *patterns: str) -> Collected:
    reply = node.request(errands.collect_script([(str(root), patterns)]))
    [found] = errands.parse_collected(reply)
    return found


def names(found: Collected) -> list[str]:
    return sorted(file.name for file in found.files)


def grow(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def test_a_look_makes_directories_and_sees_what_is_there(node: LocalNode) -> None:
    """Of any name; what is no file of that name there is not told."""
    work = node.home / "work"
    assert look(node, "~/work", ["in/deep/x", "y"]) == Look(str(work))
    assert (work / "in/deep").is_dir()
    for name in HOSTILE:
        (work / name).write_text("abc")
        os.utime(work / name, (5, 1_700_000_000))
    found = look(node, "~/work", [*HOSTILE, "missing"])
    assert found == Look(str(work), dict.fromkeys(HOSTILE, (3, 1_700_000_000)))


def test_a_look_removes_what_an_earlier_client_left(node: LocalNode) -> None:
    """Unfinished files of this job on this node, where something goes; nothing else."""
    names = [".0a.job-1-aa.part", ".0a.job-12-aa.part", "x.job-1-aa.part", ".x"]
    work = grow(node.home / "work", *names, *(f"in/{name}" for name in names))
    look(node, work, ["in/data"], key="job-1")
    assert sorted(path.name for path in (work / "in").iterdir()) == sorted(names[1:])
    assert (work / names[0]).exists()


@pytest.mark.parametrize("root", ["~/file/x", "/dev/null"])
def test_a_directory_that_cannot_be_made_is_told(node: LocalNode, root: str) -> None:
    """With the system's own words, on one line."""
    grow(node.home, "file")
    found = look(node, root, ["x"])
    assert found.root == ""
    assert re.search("mkdir: .*(Not a directory|File exists)", found.problem)
    assert "\n" not in found.problem


def test_a_directory_without_files_is_made(node: LocalNode) -> None:
    """A source may be an empty directory."""
    assert look(node, "~/work/-", []) == Look(str(node.home / "work/-"))
    assert look(node, "-", []).root == str(node.home / "-")


@given(st.binary(max_size=100))
def test_a_garbled_look_is_no_error(data: bytes) -> None:
    """What cannot be understood is not there."""
    for reply in (data, b"/w\0" + data + b"\0" + b"9" * 5000 + b" 1 x\0"):
        found = errands.parse_look(reply)
        assert bool(found.root) != bool(found.problem)
    assert errands.parse_look(b"").problem == "no answer"


def test_links_are_made_and_empty_directories(node: LocalNode) -> None:
    """A link takes the place of a file or a link, never of a directory, which is told."""
    work = grow(node.home / "work", "old", "folder/x")
    (work / "other").symlink_to("nowhere")
    links = [entry("old", "new"), entry("other", "a\n'b"), entry("folder", "x")]
    links += [entry("-", "-n"), entry("empty/deep", "")]
    reply = node.request(errands.link_script(str(work), links))
    problems = errands.parse_problems(reply)
    assert problems[:2] == problems[3:] == ["", ""]
    assert "cannot overwrite directory" in problems[2]
    assert [os.readlink(work / one.name) for one in (links[0], links[1], links[3])] == [
        "new",
        "a\n'b",
        "-n",
    ]
    assert (work / "empty/deep").is_dir()


def test_a_link_that_says_the_same_in_other_words_stays(node: LocalNode) -> None:
    """The directory may be the client's own: nothing in it is rewritten."""
    work = grow(node.home / "work", "data/v1")
    (work / "latest").symlink_to(work / "data/v1")
    node.request(errands.link_script(str(work), [entry("latest", "data/v1")]))
    assert os.readlink(work / "latest") == str(work / "data/v1")


@IN_BASH
@given(
    name=SAFE,
    pieces=st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    mode=st.sampled_from([0o600, 0o755, 0o4750, 0o444]),
    mtime=st.integers(0, (1 << 32) - 1),
)
def test_a_file_is_written_and_put_into_place(
    node: LocalNode, name: str, pieces: list[bytes], mode: int, mtime: int
) -> None:
    """Byte for byte, under any name, with its time and mode; what was there is replaced."""
    part, path = str(node.home / f"{name}.part"), str(node.home / name)
    offsets = [sum(map(len, pieces[:at])) for at in range(len(pieces))]
    asked = [(part, offset, data) for offset, data in zip(offsets, pieces, strict=True)]
    # A piece after an empty first one has offset 0 too, and begins the file anew.
    assert put(node, *asked) == [""] * len(pieces)
    assert os.stat(part).st_mode & 0o777 == 0o600
    script = errands.settle_script([(part, path, mtime, mode)])
    assert errands.parse_problems(node.request(script)) == [""]
    said = os.stat(path)
    assert (said.st_mode & 0o7777, int(said.st_mtime)) == (mode & 0o777, mtime)
    assert Path(path).read_bytes() == b"".join(pieces)
    assert not os.path.exists(part)
    os.unlink(path)


def test_pieces_that_do_not_fit_together_are_refused(node: LocalNode) -> None:
    """Where the beginning is gone or is another, the rest is not taken for all of it."""
    part = str(node.home / "x.part")
    assert put(node, (part, 0, b"abc")) == [""]
    os.unlink(part)
    [problem] = put(node, (part, 3, b"def"))
    assert "somebody removed or changed it" in problem
    assert not os.path.exists(part)
    put(node, (part, 0, b"ab"))
    assert put(node, (part, 3, b"def")) != [""]
    assert Path(part).read_bytes() == b"ab"


def test_what_cannot_be_written_is_told_for_each(node: LocalNode) -> None:
    """And does not keep the others from being written."""
    grow(node.home, "file")
    (node.home / "folder").mkdir()
    missing, fine = str(node.home / "file/x"), str(node.home / "fine")
    first, second = put(node, (missing, 0, b"x"), (fine, 0, b"y"))
    assert "Not a directory" in first
    assert second == ""
    script = errands.settle_script(
        [(missing, missing, 1, 0o600), (fine, str(node.home / "folder"), 1, 0o600)]
    )
    first, second = errands.parse_problems(node.request(script))
    assert "chmod" in first
    assert "cannot overwrite directory" in second


def test_a_node_remembers_what_it_was_told(node: LocalNode) -> None:
    """Line by line, whatever the names; nothing before it was told something."""
    assert node.request(errands.RECALL) == b""
    lines = [as_line("S", "~/w", name, (1, 2)) for name in HOSTILE]
    node.request(errands.note_script(lines[:3]))
    node.request(errands.note_script(lines[3:]))
    assert read_lines(node.request(errands.RECALL)) == {
        ("S", "~/w", name): (1, 2) for name in HOSTILE
    }


def test_what_is_removed(node: LocalNode) -> None:
    """The files, and directories that are empty then; whatever else is there stays."""
    work = grow(node.home / "work", *HOSTILE, "in/x", "in/deep/y", "out/result")
    node.request(errands.remove_script(str(work), [*HOSTILE, "in/x", "in/deep/y"], []))
    assert [path.name for path in work.iterdir()] == ["out"]
    node.request(errands.remove_script(str(work), ["out/result"], []))
    assert not work.exists()
    assert node.request(errands.remove_script(str(work), ["x"], [])) == b""


def test_results_are_found_by_their_patterns(node: LocalNode) -> None:
    """With size, time and mode; directories with all that is in them; what misses is told."""
    work = grow(node.home / "work", *HOSTILE, "out/a.pt", "out/deep/.b", ".hidden")
    os.utime(work / "out/a.pt", (5, 1_700_000_000))
    (work / "out/a.pt").chmod(0o640)
    found = collect(node, "~/work", "*", "out", "none*", "out/a.pt", "none")
    assert found.root == str(work)
    assert names(found) == sorted([*HOSTILE, "out/a.pt", "out/deep/.b"])
    assert Found("out/a.pt", 8, 1_700_000_000, 0o640) in found.files
    assert found.missing == (2, 4)
    assert found.problems == ()
    assert names(collect(node, work, ".hidden")) == [".hidden"]
    assert names(collect(node, work, "**/*.pt")) == ["out/a.pt"]
    assert names(collect(node, work, "**")) == sorted([*HOSTILE, "out/a.pt", "out/deep/.b"])
    assert names(collect(node, work, "out/**")) == ["out/a.pt", "out/deep/.b"]


def test_a_task_without_a_directory_has_no_results(node: LocalNode) -> None:
    """Each task has its own answer, in order."""
    work = grow(node.home / "work", "x")
    script = errands.collect_script([("~/gone", ["x"]), (str(work), ["x", "y"])])
    gone, found = errands.parse_collected(node.request(script))
    assert gone == Collected()
    assert (names(found), found.missing) == (["x"], (1,))


def test_links_among_results(node: LocalNode) -> None:
    """What they name is brought where it lies below; what leads out, or nowhere, is refused."""
    work = grow(node.home / "work", "out/a", "data\n/b", "x y")
    grow(node.home, "secret/s")
    links = {
        "out/file": "a",
        "out/up": "../x y",
        "out/folder": "../data\n",
        "top": "data\n",
        "self": ".",
        "out/away\n": "../../secret/s",
        "out/nowhere": "missing",
        "out/loop": "loop",
        "away": "../secret",
    }
    for name, target in links.items():
        (work / name).symlink_to(target)
    found = collect(node, work, "out", "top")
    some = ["out/a", "out/file", "out/up"]
    assert names(found) == [*some, "top/b"]
    assert sorted(one.split(" is ")[0] for one in found.problems) == [
        "out/away",
        "out/loop",
        "out/nowhere",
    ]
    assert "leads out of the task's directory, or nowhere: have the task copy" in found.problems[0]
    assert names(collect(node, work, "self/x y", "top/b")) == ["self/x y", "top/b"]
    found = collect(node, work, "self")
    assert (found.files, found.missing, found.problems) == ((), (), ())
    found = collect(node, work, "out", "out/*", "**")
    assert len(found.problems) == len(set(found.problems)) == 4
    assert names(found) == sorted([*some, "out/folder/b", "top/b", "data\n/b", "x y"])
    for pattern in ("away", "away/s", "away/*", "self/away/s"):
        found = collect(node, work, pattern)
        assert found.files == ()
        assert len(found.problems) == 1
    assert collect(node, work, "away/none").missing == (0,)


@pytest.mark.parametrize("pattern", [".*", ".?", ".?/*", "in/.*", "[.]*", ".*/.*"])
def test_no_pattern_leads_upwards(node: LocalNode, pattern: str) -> None:
    """Bash counts ``.`` and ``..`` among the names that begin with a dot."""
    work = grow(node.home / "work", "in/.x", "y", ".z/.w")
    grow(node.home, "secret")
    found = collect(node, work, pattern)
    expected = {".*": [".z/.w"], "in/.*": ["in/.x"], ".*/.*": [".z/.w"], ".?": [".z/.w"]}
    assert names(found) == expected.get(pattern, [])
    assert found.problems == ()


def test_what_is_unfinished_is_no_result(node: LocalNode) -> None:
    """Another task's input may be on its way into the same directory."""
    part = ".0123456789abcdef.job-0-11223344-0.part"
    work = grow(node.home / "work", f"out/{part}", "out/.x.part", "out/y")
    assert names(collect(node, work, "out", f"out/{part}")) == ["out/.x.part", "out/y"]


def test_what_is_no_file_is_no_result(node: LocalNode) -> None:
    """A pipe or an empty directory is matched and brings nothing."""
    work = grow(node.home / "work", "x")
    (work / "empty").mkdir()
    os.mkfifo(work / "pipe")
    found = collect(node, work, "*")
    assert (names(found), found.missing, found.problems) == (["x"], (), ())


def test_a_node_that_cannot_look_says_so(node: LocalNode) -> None:
    """Results that were found and not described must not be lost without a word."""
    work = grow(node.home / "work", "a", "b")
    node.request("stat() { return 1; }")
    found = collect(node, work, "*")
    assert found.files == ()
    assert sorted(found.problems) == [
        f"{name} cannot be looked at there: see who may read it" for name in "ab"
    ]
    node.request('stat() { rm -f a; command stat "$@"; }')
    assert names(collect(node, work, "*")) == ["b"]


@IN_BASH
@given(folder=SAFE, name=SAFE)
def test_any_result_is_found(node: LocalNode, folder: str, name: str) -> None:
    """Whatever a task calls it."""
    work = grow(node.home / "work", f"{folder}/{name}")
    found = collect(node, work, "*")
    assert names(found) == [f"{folder}/{name}"]
    node.request(errands.remove_script(str(work), names(found), []))
    assert not work.exists()


WORDS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"T/w", b"T", b"P0", b"P1", b"L./x", b"U", b"F1 2 644 ./x", b"E", b""]),
    st.sampled_from([b"F1 2 644 ../x", b"F1 2 644 /x", b"F1 2 644 ./.", b"F9 9", b"F1 2 999 x"]),
    st.just(b"F" + b"1" * 5000 + b" 2 644 ./x"),
)


@given(st.lists(WORDS, max_size=12), st.binary(max_size=5))
def test_a_garbled_reply_leads_nowhere(words: list[bytes], rest: bytes) -> None:
    """No error, no name that leads out, none twice; a reply that broke off is none."""
    found = errands.parse_collected(b"\0".join([*words, rest]))
    assert len(found) <= sum(word == b"E" for word in words)
    for one in found:
        assert all(is_within(file.name) for file in one.files)
        assert len({Path(file.name) for file in one.files}) == len(one.files)


def test_what_a_node_makes_up_is_left_out() -> None:
    """A name that leads out is no result; one in two forms would be brought twice."""
    reply = b"T/w\0P1\0F1 2 644 ./a/b\0F1 2 644 ././a//b\0F1 2 644 ../x\0F1 2 644 /x\0E\0"
    assert errands.parse_collected(reply) == [Collected("/w", (Found("a/b", 1, 2, 0o644),))]
