"""What the words of the command line become: arguments of a job."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import pytest

from allot import NodeProbe, options
from allot.errors import ConfigError
from allot.model import Params


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_nodes(parser)
    options.add_tasks(parser)
    parser.add_argument("--args-file")
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--param", action="append")
    return parser.parse_args(words)


def params(*words: str) -> list[Params] | None:
    return options.params_of(parse(*words))


def test_what_is_not_given_is_left_to_the_job() -> None:
    """No argument is made up."""
    assert options.node_arguments(parse()) == {}
    assert options.task_arguments(parse()) == {"env": {}}
    assert options.probe_of(parse()) == NodeProbe()
    assert params() is None


def test_options_become_arguments_of_their_names() -> None:
    """Text, numbers, switches, and Slurm's short names."""
    words = "-N 2 -n 8 -c 4 -t 1:30:00 --ntasks-per-node 3 --gpus-per-task 1 --mem-per-task 4G "
    words += "--oversubscribe --distribution cyclic --retries 0 --nice 5 --shared-fs no "
    words += "--export slurm,HOME --export torch --setup a --setup b --login-shell --env A=b=c"
    assert options.task_arguments(parse(*words.split())) == {
        "nnodes": 2,
        "ntasks": 8,
        "cpus_per_task": 4,
        "time_limit": "1:30:00",
        "ntasks_per_node": 3,
        "gpus_per_task": 1,
        "mem_per_task": "4G",
        "oversubscribe": True,
        "distribution": "cyclic",
        "retries": 0,
        "nice": 5,
        "shared_fs": False,
        "export": ["slurm", "HOME", "torch"],
        "setup": ["a", "b"],
        "login_shell": True,
        "env": {"A": "b=c"},
    }
    given = parse("-w", "ws[01-02]", "--ssh-config", "c")
    assert options.node_arguments(given) == {"nodes": "ws[01-02]", "ssh_config": "c"}


def test_plain_numbers_are_seconds_and_bytes() -> None:
    """Where text in other forms is taken too."""
    given = options.task_arguments(parse("--time-limit", "90", "--mem-per-task", "4096"))
    assert given == {"time_limit": 90.0, "mem_per_task": 4096, "env": {}}


def test_when_a_node_may_be_used() -> None:
    """0 is a limit and not "nothing given"; ``none`` switches the load off."""
    assert options.probe_of(parse("--max-load", "none")).max_load_per_cpu is None
    assert options.probe_of(parse("--max-load", "0")).max_load_per_cpu == 0
    words = "--max-load 0.5 --min-free-memory 4G --max-gpu-utilization 0 --share-gpus"
    words += " --hours 19:00-07:00 --min-idle 60"
    assert options.probe_of(parse(*words.split())) == NodeProbe(
        max_load_per_cpu=0.5,
        min_free_memory=4 * 2**30,
        max_gpu_utilization=0,
        share_gpus=True,
        hours="19:00-07:00",
        min_idle=60,
    )


@pytest.mark.parametrize("load", ["-1", "nan", "inf", "much", ""])
def test_a_load_that_is_none(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that would be no limit is refused."""
    with pytest.raises(SystemExit):
        parse(f"--max-load={load}")
    assert "must be a number from 0" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["A", "=x", "1A=x", "A B=x", "Ä=x", "A-B=x"])
def test_a_variable_that_is_none(variable: str) -> None:
    """What Bash takes for no name is refused before anything is connected to."""
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        options.task_arguments(parse("--env", variable))


def test_two_ways_to_name_nodes() -> None:
    """One of them must do."""
    with pytest.raises(ConfigError, match="either"):
        options.node_arguments(parse("--node-file", "f", "-w", "ws01"))


@pytest.mark.parametrize(
    ("param", "values"),
    [
        ("a,b", ["a", "b"]),
        ("0-2", ["0", "1", "2"]),
        ("01-03", ["01", "02", "03"]),
        ("08-11", ["08", "09", "10", "11"]),
        ("5-5", ["5"]),
        ("x,1-2,7", ["x", "1", "2", "7"]),
        ("1e-3,-1,a-b,1-2-3", ["1e-3", "-1", "a-b", "1-2-3"]),
        ("", [""]),
        ("a=b", ["a=b"]),
    ],
)
def test_values_of_a_param(param: str, values: list[str]) -> None:
    """Lists and ranges of whole numbers, which keep their leading zeros."""
    assert params("--param", f"k={param}") == [{"k": value} for value in values]


def test_params_are_combined() -> None:
    """The last one changes quickest; with an args file each line is combined with all."""
    assert params("--param", "a=1,2", "--param", "b=x,y") == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]


@pytest.mark.parametrize(
    "words", ["a", "=1", "1a=1", "a=9-1", "a=0-1000000", "a=1 --param a=2", "a b=1"]
)
def test_a_param_that_is_none(words: str) -> None:
    """The refusal names what was written."""
    given = ["--param", words] if "--param" not in words else f"--param {words}".split()
    with pytest.raises(ConfigError, match="--param"):
        params(*given)


def test_an_args_file(tmp_path: Path) -> None:
    """A task a line, as it stands there; empty ones are none, and only a newline ends one."""
    file = tmp_path / "args"
    file.write_bytes(b"\xef\xbb\xbffirst\r\n\n  \n two \x0b\x0c\xc2\x85\xe2\x80\xa8 words\n\xff'\"")
    lines = ["first", " two \x0b\x0c\x85\u2028 words", "\udcff'\""]
    assert params("--args-file", str(file)) == lines
    combined = params("--args-file", str(file), "--param", "s=0-1")
    assert combined == [{"line": line, "s": s} for line in lines for s in ("0", "1")]


def test_an_args_file_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is what comes in."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert params("--args-file", "-") == ["a", "b"]


def test_rows_of_csv(tmp_path: Path) -> None:
    """Named by the header; quoted fields may hold commas and newlines."""
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfname,size\r\n"a, ""b""\nc",1\r\n\r\nd,2\r\n')
    rows = [{"name": 'a, "b"\nc', "size": "1"}, {"name": "d", "size": "2"}]
    assert params("--args-file", str(file), "--csv") == rows
    combined = params("--args-file", str(file), "--csv", "--param", "s=0-1")
    assert combined == [{**row, "s": s} for row in rows for s in ("0", "1")]


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("\n \n", "", "no lines"),
        ("", "--csv", "header"),
        ("a,b\n", "--csv", "no rows"),
        ("a,b\n1\n", "--csv", "row 2 has 1 fields, the header 2"),
        ('a,b\n1,"2\n', "--csv", "CSV"),
        ("a,a\n1,2\n", "--csv", "two columns"),
        ("a,b\n1,2\n", "--csv --param b=3", "column"),
        ("x\n", "--param line=3", "line"),
    ],
)
def test_an_args_file_that_is_none(tmp_path: Path, text: str, words: str, reason: str) -> None:
    """Nothing is left out or overwritten without a word."""
    file = tmp_path / "args"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        params("--args-file", str(file), *words.split())


def test_an_args_file_that_is_not_there(tmp_path: Path) -> None:
    """It is named; and ``--csv`` says nothing without one."""
    with pytest.raises(ConfigError, match="missing cannot be read: No such file"):
        params("--args-file", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="--args-file"):
        params("--csv")
