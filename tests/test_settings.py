"""What a user asks of a cluster: nonsense is refused with the argument's name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from allot.errors import ConfigError
from allot.scheduler import Distribution
from allot.settings import (
    Settings,
    as_directory,
    as_distribution,
    as_lines,
    as_texts,
    as_variables,
)


def make(**changes: Any) -> Settings:
    return Settings(**{"job_name": "job", "output_dir": Path("/out"), **changes})


@pytest.mark.parametrize("name", ["job", "a b'c", "Größe", ".x", "-x", "a" * 200, "\udcff"])
def test_a_job_may_have_any_name_a_file_can_have(name: str) -> None:
    """Spaces, quotes and other alphabets are no trouble."""
    assert make(job_name=name).job_name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\0b", "a" * 201, "ö" * 101, "\ud83d", None, 7, b"job"]
)
def test_a_name_no_file_can_have_is_refused(name: Any) -> None:
    """It would name the job's files, so it is refused before anything is made."""
    with pytest.raises(ConfigError, match="job_name"):
        make(job_name=name)


COUNTS = ("nnodes", "ntasks", "ntasks_per_node", "cpus_per_task", "max_failures", "max_bars")


@pytest.mark.parametrize("argument", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "4"])
def test_a_count_is_a_whole_number_from_one(argument: str, value: Any) -> None:
    """The refusal names the argument and what it was."""
    with pytest.raises(ConfigError, match=f"{argument} must be .* not {value!r}"):
        make(**{argument: value})
    assert getattr(make(**{argument: 3}), argument) == 3


@pytest.mark.parametrize("argument", COUNTS)
def test_a_count_may_be_left_out(argument: str) -> None:
    """None leaves it to Allot."""
    assert getattr(make(**{argument: None}), argument) is None


@pytest.mark.parametrize("value", ["yes", 2, []])
def test_shared_fs_is_a_plain_answer(value: Any) -> None:
    """None, True and False are all there is."""
    with pytest.raises(ConfigError, match="shared_fs"):
        make(shared_fs=value)
    assert [make(shared_fs=answer).shared_fs for answer in (None, True, False)] == [
        None,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "1", None])
def test_the_poll_interval_is_above_zero(value: Any) -> None:
    """Looking without a pause, or never, is refused."""
    with pytest.raises(ConfigError, match="poll_interval"):
        make(poll_interval=value)
    assert make(poll_interval=1).poll_interval == 1


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "4"])
def test_a_node_timeout_is_above_zero_or_none(value: Any) -> None:
    """None means that no node is ever given up."""
    with pytest.raises(ConfigError, match="node_timeout"):
        make(node_timeout=value)
    assert make().node_timeout is None
    assert make(node_timeout=30).node_timeout == 30


def test_distributions_are_words_of_slurm() -> None:
    """``"block"`` and ``"cyclic"`` are known, anything else is refused with both named."""
    assert as_distribution("block") is Distribution.BLOCK
    assert as_distribution(Distribution.CYCLIC) is as_distribution("cyclic")
    others: list[object] = ["plane", "BLOCK", None, []]
    for value in others:
        with pytest.raises(ConfigError, match='"block" or "cyclic"'):
            as_distribution(value)


@pytest.mark.parametrize("argument", ["gpus_per_task", "retries"])
def test_some_counts_may_be_0(argument: str) -> None:
    """No GPUs, no retries; less than none is refused."""
    assert getattr(make(**{argument: 0}), argument) == 0
    with pytest.raises(ConfigError, match=f"{argument} must be .* from 0"):
        make(**{argument: -1})


def test_a_node_may_fail_at_least_once() -> None:
    """Draining after no failure at all would drain every node."""
    with pytest.raises(ConfigError, match="node_max_failures"):
        make(node_max_failures=0)


@pytest.mark.parametrize("argument", ["oversubscribe", "kill_on_bad_exit", "login_shell"])
def test_a_switch_is_on_or_off(argument: str) -> None:
    """A text such as "no" would be taken for yes otherwise."""
    assert getattr(make(**{argument: True}), argument) is True
    with pytest.raises(ConfigError, match=f"{argument} must be True or False"):
        make(**{argument: "no"})


@pytest.mark.parametrize("value", [-21, 20, 1.5, "5"])
def test_niceness_is_what_nice_takes(value: Any) -> None:
    """-20 to 19."""
    assert make(nice=19).nice == 19
    with pytest.raises(ConfigError, match="nice must be"):
        make(nice=value)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
def test_waiting_for_nodes_is_a_number_of_seconds(value: Any) -> None:
    """From 0, and it ends."""
    assert make(wait_for_nodes=0.5).wait_for_nodes == 0.5
    with pytest.raises(ConfigError, match="wait_for_nodes"):
        make(wait_for_nodes=value)


def test_torch_does_not_go_with_retries() -> None:
    """One task alone cannot join the others again."""
    assert make(export=("torch",)).export == ("torch",)
    with pytest.raises(ConfigError, match="retries"):
        make(export=("torch",), retries=1)


def test_lines_are_one_string_or_several() -> None:
    """A string is one line; what holds anything else is refused by its name."""
    assert as_lines("setup", "a b") == ("a b",)
    assert as_lines("setup", ["a", "b"]) == ("a", "b")
    for value in (7, b"a", {"a": 1}, [1]):
        with pytest.raises(ConfigError, match="setup must"):
            as_lines("setup", value)


def test_paths_are_one_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text or ``Path``; ``~`` is the client's home."""
    monkeypatch.setenv("HOME", "/home/u")
    assert as_texts("stage_in", Path("~/x")) == ("/home/u/x",)
    assert as_texts("stage_in", "a b") == ("a b",)
    assert as_texts("stage_in", [Path("a"), "~"]) == ("a", "/home/u")
    for value in (7, b"a", {"a": 1}, [1], [b"a"]):
        with pytest.raises(ConfigError, match="stage_in must"):
            as_texts("stage_in", value)
    with pytest.raises(ConfigError, match="setup must"):
        as_lines("setup", [Path("a")])


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("stage_in", "../x", "stage_in: ../x leads upwards"),
        ("stage_in", "", "stage_in: '' is no path"),
        ("collect", "/x", "collect: /x is not below"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(argument: str, value: str, words: str) -> None:
    """Before anything is connected to; what is well is kept as it was written."""
    kept = make(stage_in=("a", "in/{proc_id}"), collect=("out/*",), collect_to=Path("/here"))
    assert (kept.stage_in, kept.collect) == (("a", "in/{proc_id}"), ("out/*",))
    with pytest.raises(ConfigError, match=words):
        make(**{argument: ("x", value)})


def test_a_directory_is_an_absolute_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the client's home; what is no path, or empty, is refused by its name."""
    monkeypatch.setenv("HOME", "/home/u")
    assert as_directory("collect_to", "~/x/../y") == Path("/home/u/y")
    assert as_directory("collect_to", Path()) == Path.cwd()
    for value, words in ((7, "must be a path"), ("", "is empty: name a directory")):
        with pytest.raises(ConfigError, match=f"collect_to {words}"):
            as_directory("collect_to", value)


def test_a_place_for_results_needs_results() -> None:
    """It would have no meaning."""
    with pytest.raises(ConfigError, match="collect_to says where results go: name them"):
        make(collect_to=Path("/here"))


def test_variables_are_given_or_passed_on() -> None:
    """Values become text; a variable that is not set here cannot be passed on."""
    own = {"TOKEN": "secret", "HOME": "/root"}
    assert as_variables({"N": 3}, ("slurm", "TOKEN"), own) == {"N": "3", "TOKEN": "secret"}
    assert as_variables({"TOKEN": "mine"}, ("TOKEN",), own) == {"TOKEN": "mine"}
    with pytest.raises(ConfigError, match="NOWHERE is not set"):
        as_variables({}, ("NOWHERE",), own)
    with pytest.raises(ConfigError, match="env: A has no value"):
        as_variables({"A": None}, (), own)
    with pytest.raises(ConfigError, match="env must be a mapping"):
        as_variables([("A", "b")], (), own)  # type: ignore[arg-type]
