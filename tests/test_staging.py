"""What goes to the nodes and comes back: names, patterns and what a node remembers of them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.errors import ConfigError
from allot.staging import (
    Entry,
    Identity,
    Source,
    as_bash_pattern,
    as_line,
    as_mtime,
    as_pattern,
    as_source,
    check_names,
    is_asked_for,
    is_within,
    patterns_of,
    read_lines,
    sources_of,
)

START = Path("/home/u/proj")
NAMES = st.binary(min_size=1, max_size=30).map(lambda data: os.fsdecode(data.replace(b"\0", b"n")))


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("data", START / "data", "data"),
        ("data/./in//x.csv", START / "data/in/x.csv", "data/in/x.csv"),
        ("/srv/sets/mnist", Path("/srv/sets/mnist"), "mnist"),
        (".", START, "."),
        ("-n", START / "-n", "-n"),
        ("a b\n'$x", START / "a b\n'$x", "a b\n'$x"),
        ("\udcff", START / "\udcff", "\udcff"),
    ],
)
def test_where_a_source_is_and_where_it_goes(text: str, path: Path, name: str) -> None:
    """A relative path keeps its directories, an absolute one arrives by its last name."""
    assert as_source(text, START) == Source(path, name)


def test_a_home_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the path comes from: an option, a task, a line of parameters."""
    monkeypatch.setenv("HOME", "/home/u")
    assert as_source("~/set/x", START) == Source(Path("/home/u/set/x"), "x")
    assert sources_of(["{line}"], START, {}, "~/x") == (Source(Path("/home/u/x"), "x"),)
    assert as_source("./~", START) == Source(START / "~", "~")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no path"),
        ("a\0b", "no path"),
        ("\ud83d", "no path"),
        ("../x", "leads upwards; name it by an absolute path"),
        ("/a/../b", "leads upwards"),
        ("/", "whole file system"),
    ],
)
def test_what_cannot_be_staged_is_refused(text: str, words: str) -> None:
    """One line that names the option, what was given and what to do."""
    with pytest.raises(ConfigError, match=f"^stage_in: .*{words}"):
        as_source(text, START)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names nothing"),
        (".", "names nothing"),
        ("./", "names nothing"),
        ("a\0", "names nothing"),
        ("\ud83d", "names nothing"),
        ("/tmp/x", "not below"),
        ("a/../../x", "not below"),
        ("~/x", "not below"),
    ],
)
def test_patterns_that_lead_out_are_refused(text: str, words: str) -> None:
    """Only what lies below the task's directory can be collected."""
    with pytest.raises(ConfigError, match=f"^collect: .*{words}"):
        as_pattern(text)


def test_a_pattern_is_written_in_one_way() -> None:
    """What comes to the same is the same."""
    assert as_pattern("./out//*.pt") == as_pattern("out/*.pt/") == "out/*.pt"


def test_the_sources_of_a_task() -> None:
    """Placeholders are filled, what is named twice counts once, what has no value stays."""
    texts = ["in/{proc_id}-{lr}.csv", "common", "./common", "{node_name}.cfg"]
    assert sources_of(texts, START, {"proc_id": 7}, {"lr": 0.1}) == (
        Source(START / "in/7-0.1.csv", "in/7-0.1.csv"),
        Source(START / "common", "common"),
        Source(START / "{node_name}.cfg", "{node_name}.cfg"),
    )
    assert sources_of(["{line}"], START, {}, "a b.csv") == (Source(START / "a b.csv", "a b.csv"),)


def test_a_value_that_leads_upwards_is_refused() -> None:
    """Also where it comes from the parameters."""
    with pytest.raises(ConfigError, match="leads upwards"):
        sources_of(["in/{name}"], START, {}, {"name": "../../etc"})
    with pytest.raises(ConfigError, match="not below"):
        patterns_of(["out/{name}"], {}, {"name": "../../etc"})


def test_two_sources_of_one_name_are_refused() -> None:
    """In one task, or in two of a job: which of them would lie there?"""
    words = "/a/x and /b/x would both arrive as x: name them by relative paths"
    with pytest.raises(ConfigError, match=words):
        sources_of(["/a/x", "/b/x"], START, {}, None)
    seen: dict[str, Source] = {}
    check_names(sources_of(["/a/x"], START, {}, None), seen)
    check_names(sources_of(["/a/x", "y"], START, {}, None), seen)
    with pytest.raises(ConfigError, match=words):
        check_names(sources_of(["/b/x"], START, {}, None), seen)


def test_the_patterns_of_a_task() -> None:
    """What is filled in stands for itself; a pattern named twice counts once."""
    found = patterns_of(["{name}/*.pt", "log", "./log"], {"proc_id": 1}, {"name": "a*[b]"})
    assert found == ("a[*][[]b]/*.pt", "log")


def matches(pattern: str, directory: Path) -> list[str]:
    """What real Bash finds."""
    loop = f"for file in {as_bash_pattern(pattern)}; do"
    print_it = "[[ -e $file ]] && printf '%s\\0' \"$file\""
    script = f"shopt -s nullglob globstar; {loop} {print_it}; done"
    done = subprocess.run(
        ["bash", "-c", os.fsencode(script)], cwd=directory, capture_output=True, check=False
    )
    assert done.stderr == b""
    return sorted(os.fsdecode(one).removeprefix("./") for one in done.stdout.split(b"\0")[:-1])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a b", "a$b", "a1", "a2", "sub"]),
        ("a?", ["a1", "a2"]),
        ("a[!1]", ["a2"]),
        ("a[[:digit:]]", ["a1", "a2"]),
        ("a[1-9]", ["a1", "a2"]),
        ("a b", ["a b"]),
        ("a$b", ["a$b"]),
        ("**/x", ["sub/deep/x"]),
        ("sub/*/x", ["sub/deep/x"]),
        (".h*", [".hidden"]),
        ("{a1,a2}", []),
        ("@(a1|a2)", []),
        ("a[", []),
        ("$(touch ran)", []),
        ("`touch ran`;touch ran", []),
    ],
)
def test_bash_finds_what_a_pattern_means(tmp_path: Path, pattern: str, found: list[str]) -> None:
    """``*``, ``?``, ``[…]`` and ``**`` are patterns; nothing else is anything but text."""
    (tmp_path / "sub/deep").mkdir(parents=True)
    for name in ("a b", "a$b", "a1", "a2", ".hidden", "sub/deep/x"):
        (tmp_path / name).touch()
    assert matches(pattern, tmp_path) == found
    assert not (tmp_path / "ran").exists()


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=NAMES)
def test_any_name_that_is_filled_in_is_found(tmp_path: Path, name: str) -> None:
    """Newlines, quotes, backslashes, globs, bytes that are no text, a dash in front."""
    name = name.replace("/", "_")
    if name in (".", ".."):
        return
    for old in tmp_path.iterdir():
        old.unlink()
    (tmp_path / name).touch()
    (tmp_path / "another").touch()
    pattern = patterns_of(["{name}"], {}, {"name": name}) if not name.startswith("~") else ()
    assert [matches(one, tmp_path) for one in pattern] == [[name]] * len(pattern)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", True),
        ("a/..b/c", True),
        ("-n", True),
        ("", False),
        (".", False),
        ("./.", False),
        ("/etc/passwd", False),
        ("..", False),
        ("a/../../b", False),
    ],
)
def test_what_a_node_tells_stays_below(name: str, expected: bool) -> None:
    """A name of a node's is taken only if it names something below the directory."""
    assert is_within(name) is expected


@given(NAMES)
def test_no_name_of_a_node_leads_out(name: str) -> None:
    """Joined to a directory and cleaned it is still below it."""
    if is_within(name):
        joined = os.path.normpath(PurePosixPath("/base/here", name))
        assert joined.startswith("/base/here/")


IDENTITIES = st.one_of(
    st.tuples(st.integers(0, 1 << 62), st.integers(-(10**10), 10**10)),
    NAMES,
)
KEYS = st.tuples(st.sampled_from("SC"), NAMES, NAMES)


@given(st.dictionaries(KEYS, IDENTITIES, max_size=6))
def test_what_a_node_remembers_is_read_back(known: dict[tuple[str, str, str], Identity]) -> None:
    """Any name, and the target of any link."""
    data = "".join(f"{as_line(*key, said)}\n" for key, said in known.items()).encode()
    assert read_lines(data) == known


@given(st.dictionaries(KEYS, IDENTITIES, min_size=1, max_size=6), st.integers(0, 400), st.data())
def test_a_torn_line_counts_for_nothing(
    known: dict[tuple[str, str, str], Identity], at: int, data: st.DataObject
) -> None:
    """Whatever is missing at the end, or in the middle, nothing wrong is read."""
    lines = [f"{as_line(*key, said)}\n".encode() for key, said in known.items()]
    whole = b"".join(lines)
    read = read_lines(whole[:at])
    assert read.items() <= known.items()
    torn = data.draw(st.integers(0, len(lines) - 1))
    kept = lines[torn][: data.draw(st.integers(0, len(lines[torn]) - 1))]
    found = read_lines(b"".join([*lines[:torn], kept, *lines[torn + 1 :]]))
    assert found.items() <= known.items()


@given(st.binary(max_size=200))
def test_rubbish_is_read_as_nothing(data: bytes) -> None:
    """A garbled reply raises nothing."""
    assert read_lines(b"X F a b 1-2\nSS F a b 1-2\nS X a b 1-2\nS F a b 1-\nS F a b\n") == {}
    for (kind, root, name), said in read_lines(
        data + b"\nS F a b 1" + b"2" * 5000 + b"-1\n"
    ).items():
        assert all(isinstance(one, str) for one in (kind, root, name))
        assert isinstance(said, (str, tuple))


def test_a_time_is_one_that_every_node_can_set() -> None:
    """Whole seconds, none before 1970, none after 2106; never rounded up."""
    assert as_mtime(1_700_000_000_999_999_999) == 1_700_000_000
    assert as_mtime(-5_000_000_000) == 0
    assert as_mtime(1 << 80) == (1 << 32) - 1


def test_what_tells_whether_a_file_is_the_same() -> None:
    """Size and time of a file, the target of a link."""
    assert Entry(START, "x", 3, 4, 0o644).identity == (3, 4)
    assert Entry(START, "x", 0, 0, 0o777, "y").identity == "y"
    assert re.fullmatch(r"S L a%20b x y", as_line("S", "a b", "x", "y"))


@pytest.mark.parametrize(
    ("name", "patterns", "asked"),
    [
        ("r/x.npz", ["r"], True),
        ("r/x.npz", ["r/*.npz"], True),
        ("r/x.npz", ["*.npz"], False),
        ("a/b/x.npz", ["**/*.npz"], True),
        ("x.npz", ["q", "**/*.npz"], True),
        (".ssh/authorized_keys", ["*", "**"], False),
        ("r/.hid", ["r"], True),
        (".ssh/rc", [".*"], True),
        ("r", ["r/x"], False),
        ("file 7", ["file [[:digit:]]"], True),
    ],
)
def test_only_what_was_asked_for_comes_here(name: str, patterns: list[str], asked: bool) -> None:
    """A node cannot name what the user did not."""
    assert is_asked_for(name, patterns) is asked
