"""Commands with placeholders, and the parameters that fill them."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allot.errors import ConfigError
from allot.model import NodeTaskConfig, Params
from allot.template import (
    Template,
    as_command,
    as_factory,
    as_ntasks,
    as_params,
    fill_text,
    grid,
    names_in,
    names_of,
    place_of,
    values_of,
)

HOSTILE = ["$(x)", "`x`", "'; x; '", '"', "a\nb", "a b", "", "*", "~", "-n", "\\", "!x", "{a,b}"]
_ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
VALUES = st.one_of(st.sampled_from(HOSTILE), _ANY)


class Counted:
    """What NumPy's numbers look like."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def item(self) -> object:
        """The only value."""
        if len(self.values) != 1:
            raise ValueError("can only convert an array of size 1")
        return self.values[0]


def filled(command: str, params: Params) -> str:
    """The line for one task."""
    return Template(command, params).preview(3, params)


def config(params: Params) -> NodeTaskConfig:
    """A place for a task."""
    return NodeTaskConfig("job", "1", Path("/out"), "node 1", 5, 7, 2, 9, 11, 3, params=params)


def words_of(lines: Sequence[str]) -> list[str]:
    """The words that real Bash makes of lines that print a NUL behind every word."""
    script = 'for line; do eval "$line"; done'
    done = subprocess.run(["bash", "-c", script, "bash", *lines], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_grid() -> None:
    """All combinations; the last name changes quickest, whatever the values come from."""
    assert grid(a=[1, 2], b=(one for one in "xy")) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert [one["seed"] for one in grid(seed=range(3))] == [0, 1, 2]


def test_one_value_of_a_grid() -> None:
    """A string, a path or a number counts as one value."""
    values: dict[str, Any] = {"text": "abc", "path": Path("a/b"), "n": 7}
    assert grid(**values) == [{"text": "abc", "path": Path("a/b"), "n": 7}]


def test_an_empty_grid() -> None:
    """A name without values makes no tasks, which nobody means."""
    with pytest.raises(ConfigError, match="grid: b has no values"):
        grid(a=[1], b=[])


def test_params() -> None:
    """Dicts or scalars, one a task, also from a generator."""
    assert as_params([{"a": 1, "b": "x"}, {"b": "y", "a": 2}]) == (
        {"a": 1, "b": "x"},
        {"b": "y", "a": 2},
    )
    assert as_params(one for one in (1, 0.5, "x", "", Path("a b"))) == (
        1,
        0.5,
        "x",
        "",
        Path("a b"),
    )
    assert as_params(range(2)) == (0, 1)


def test_params_become_plain() -> None:
    """A bool stays one; what NumPy counts with becomes Python's."""
    assert as_params([True])[0] is True
    plain = as_params([Counted(3), Counted(0.5), Counted("x"), Counted(True)])
    assert [(one, type(one)) for one in plain] == [(3, int), (0.5, float), ("x", str), (True, bool)]

    class Text(str):
        __slots__ = ()

    assert type(as_params([{"a": Text("x")}])[0]["a"]) is str  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abc", "must be a sequence"),
        (b"abc", "must be a sequence"),
        ({"a": [1, 2]}, "must be a sequence"),
        (7, "must be a sequence"),
        ([], "params is empty"),
        ([None], r"params\[0\] must be text"),
        ([1, [2]], r"params\[1\] must be text"),
        ([{"a": b"x"}], r"params\[0\]\['a'\] must be text"),
        ([Counted(None)], r"params\[0\] must be text"),
        ([Counted(1, 2)], r"params\[0\] must be one value"),
        ([math.nan], "must be finite"),
        ([{"a": -math.inf}], "must be finite"),
        ([Counted(math.inf)], "must be finite"),
        (["a\0b"], "NUL"),
        ([Path("a\0b")], "NUL"),
        ([{1: 2}], "1 cannot be a name"),
        ([{"a-b": 2}], "cannot be a name"),
        ([{"é": 2}], "cannot be a name"),
        ([{"": 2}], "cannot be a name"),
        ([{"proc_id": 2}], "Allot's own"),
        ([{"node_name": 2}], "Allot's own"),
        ([{"a": 1}, {"b": 1}], r"params\[1\] has other keys"),
        ([{"a": 1}, {"a": 1}, {"a": 1, "b": 1}], r"params\[2\] has other keys"),
        ([{"a": 1}, 1], r"params\[1\] has other keys"),
    ],
)
def test_params_that_are_refused(value: object, message: str) -> None:
    """Each says which one is wrong, and how."""
    with pytest.raises(ConfigError, match=message):
        as_params(value)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("t --lr {lr} {name}", "t --lr 0.1 'a b'"),
        ("t {lr}{name}", "t '0.1''a b'"),
        ("t {lr}>f x={lr}", "t '0.1'>f x='0.1'"),
        ("$x{lr} {lr}", "$x'0.1' 0.1"),
        ("{lr}\n{lr}", "0.1\n0.1"),
        ("[[ {lr} == {name} ]]", "[[ '0.1' == 'a b' ]]"),
        ('t "$(cat {name})"', "t \"$(cat 'a b')\""),
        ("t {proc_id}", "t 3"),
        ("t {node_name} {local_id}", "t {node_name} {local_id}"),
        ("t ${lr} \"${lr}\" '${lr}' $(x ${lr})", "t ${lr} \"${lr}\" '${lr}' $(x ${lr})"),
        ('t \\{lr} "\\{lr}"', 't \\{lr} "\\{lr}"'),
        ("awk '{print $1}' {a,b} {1..3} {} {other} {lr,x}", None),
        ("t # {lr}", None),
        ("t '{other}' \"{line}\"", None),
    ],
)
def test_placeholders(command: str, expected: str | None) -> None:
    """Filled in and quoted; other braces stay, as do ``${...}``, ``\\{...}`` and comments."""
    params: Params = {"lr": 0.1, "name": "a b"}
    assert filled(command, params) == (command if expected is None else expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1"),
        (-0.5, "-0.5"),
        (1e-5, "1e-05"),
        (True, "True"),
        (Path("runs/a.tar"), "runs/a.tar"),
        ("a-b", "a-b"),
        ("-n", "'-n'"),
        ("a=1", "'a=1'"),
        ("esac", "'esac'"),
        ("time", "'time'"),
        ("", "''"),
        ("é", "'é'"),
        ("it's", "'it'\"'\"'s'"),
    ],
)
def test_quotes(value: Params, expected: str) -> None:
    """Left out only where they could not make a difference."""
    assert filled("t {line} x", value) == f"t {expected} x"


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("t '{lr}'", "stands in quotes"),
        ('t "{lr}"', "stands in quotes"),
        ("t $'{lr}'", "stands in quotes"),
        ("t `cat {lr}`", "stands in backticks"),
        ("t $(( {lr} + 1 ))", "stands in arithmetic"),
        ("(( {lr} > 1 ))", "stands in arithmetic"),
        ("cat <<E\n{lr}\nE\n", "stands in a here-document"),
        ("t $[{lr}]", "cannot be read for certain"),
    ],
)
def test_placeholders_that_are_refused(command: str, place: str) -> None:
    """The message names the placeholder, where it stands, and what is around it."""
    with pytest.raises(ConfigError, match=place) as caught:
        Template(command, {"lr": 1})
    assert "{lr} stands in" in str(caught.value)
    Template(command, {"other": 1})


def test_a_line_as_a_path() -> None:
    """A scalar is ``{line}``, and taken as a path its parts."""
    command = "t {line} {basename} {stem} {parent}"
    assert filled(command, "/a b/c.tar.gz") == "t '/a b/c.tar.gz' c.tar.gz c.tar '/a b'"
    assert filled(command, Path("x")) == "t x x x ."
    assert filled(command, 7) == "t 7 7 7 ."
    assert filled("t {basename} {stem} {parent}", "a/b/") == "t '' b a"


def test_a_line_in_its_place() -> None:
    """What is Allot's own comes from the place of the task."""
    command = "t {proc_id} {node_id} {local_id} {node_name} {lr} {line}"
    params = {"lr": 0.1}
    assert Template(command, params).line(config(params)) == "t 7 5 2 'node 1' 0.1 {line}"
    assert Template(command, None).line(config(None)) == "t 7 5 2 'node 1' {lr} {line}"
    assert Template(command, "x").line(config("y z")) == "t 7 5 2 'node 1' {lr} 'y z'"


def test_a_path_is_filled_as_it_is() -> None:
    """Nothing is quoted; what has no value, and braces of other kinds, stay."""
    values = {"proc_id": 3, "lr": 0.5, "name": "a b'"}
    assert fill_text("in/{proc_id}-{lr}/{name}", values) == "in/3-0.5/a b'"
    assert fill_text("{other}/${lr}/{a,b}/{}", values) == "{other}/$0.5/{a,b}/{}"
    assert fill_text("{name}", {"name": "{lr}", "lr": 1}) == "{lr}"


def test_what_is_known_of_a_task() -> None:
    """Its place, and its parameters: of a line also its parts as a path."""
    assert place_of(config(None)) == {
        "proc_id": 7,
        "node_id": 5,
        "local_id": 2,
        "node_name": "node 1",
    }
    assert values_of(None) == {}
    assert values_of({"lr": 0.1}) == {"lr": 0.1}
    assert values_of("in/x.csv")["stem"] == "x"
    assert names_in("{node_id}/{lr}-{proc_id}/{node_name") == ["node_id", "proc_id"]


def test_a_factory() -> None:
    """A command makes the tasks of a job."""
    assert as_factory("t {lr}", [{"lr": 1}, {"lr": 2}])(config({"lr": 2})) == "t 2"
    assert as_factory("t {proc_id} {line}", None)(config(None)) == "t 7 {line}"


@pytest.mark.parametrize("command", ["", " \n", None, ["a"], b"a"])
def test_no_command(command: object) -> None:
    """A command is a text with something in it."""
    with pytest.raises(ConfigError, match="must be a Bash line"):
        as_factory(command, None)


def test_number_of_tasks() -> None:
    """As many as ``params``, and no other number."""
    assert as_ntasks(None, None) is None
    assert as_ntasks(3, None) == 3
    assert as_ntasks(None, [1, 2]) == as_ntasks(2, [1, 2]) == 2
    with pytest.raises(ConfigError, match="ntasks is 3, but there are 2 params"):
        as_ntasks(3, [1, 2])


def test_names_that_only_a_line_fills() -> None:
    """Those of the placeholders that would be filled."""
    assert names_of("t {line} {lr} \\{stem} ${parent} {proc_id} {basename}") == ["line", "basename"]


def test_words_as_a_line() -> None:
    """Each word is quoted, but for what is a placeholder in it."""
    words = ["t", "a b", "", "$x", "{lr}", "--lr={lr}", "'{name}'", "{other}", "{a,b}", "a{lr}$"]
    line = as_command(words)
    params = {"lr": "1 2", "name": "x"}
    assert shlex.split(filled(line, params)) == [
        *("t", "a b", "", "$x", "1 2", "--lr=1 2", "'x'", "{other}", "{a,b}", "a1 2$"),
    ]
    assert as_command([]) == ""
    assert filled(as_command(["sh", "-c", "echo ${line}"]), "x") == "sh -c 'echo ${line}'"


def test_the_first_word_is_a_command() -> None:
    """Also one that Bash has for itself, or that looks like an assignment."""
    assert as_command(["time", "-v", "time"]) == "\\time -v time"
    assert as_command(["a=1", "b=2"]) == "\\a=1 b=2"
    assert as_command(["timer", "a=1"]) == "timer a=1"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=5, max_size=20))
def test_values_arrive_as_they_are(pairs: list[tuple[str, str]]) -> None:
    """Whatever a value is, real Bash passes it on unchanged."""
    template = Template("printf '%s\\0' {a} x{b}y$n{a} \"$(printf %s {b}.)\"", {"a": "", "b": ""})
    lines = [template.fill({"a": a, "b": b}) for a, b in pairs]
    assert words_of(lines) == [word for a, b in pairs for word in (a, f"x{b}y{a}", f"{b}.")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=5, max_size=20))
def test_words_arrive_as_they_are(argvs: list[list[str]]) -> None:
    """Whatever a word is, real Bash passes it on unchanged."""
    lines = [as_command(["printf", "%s\\0", *argv]) for argv in argvs]
    assert words_of(lines) == [word for argv in argvs for word in argv]
