"""Jobs of plain data: a command, its parameters, and what needs no Python function any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run

from allot import AllotError, Cluster, ConfigError, TaskState, grid

S = 60.0
HOSTILE = ["$(touch pwned)", "'; touch pwned; '", 'a "b" c', "", "*", "-n", "é\n2"]


def texts(directory: Path, count: int) -> list[str]:
    return [(directory / f"{number}.out").read_text() for number in range(count)]


def test_each_value_arrives_as_it_is(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Quoted for Bash, and in ``ALLOT_PARAM_<NAME>``; ``params`` stands in each task's status."""
    params = [{"value": value, "n": 1} for value in HOSTILE]
    command = "printf '<%s>' {value} \"$ALLOT_PARAM_VALUE\" {n} {proc_id} | awk '{print $0}'"
    with run(five_nodes, tmp_path, None, command=command, params=params, cwd=tmp_path) as cluster:
        assert cluster.wait(S, progress=False).ok
        assert [task.params for task in cluster.tasks] == params
    expected = [f"<{v}><{v}><1><{number}>\n" for number, v in enumerate(HOSTILE)]
    assert texts(tmp_path, len(HOSTILE)) == expected
    assert not (tmp_path / "pwned").exists()


def test_a_line_is_a_path_too(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A scalar is ``{line}``, and ``{basename}``, ``{stem}``, ``{parent}`` of it."""
    command = "echo {line} {basename} {stem} {parent} {node_name} {node_id} {local_id}"
    with run(five_nodes, tmp_path, None, command=command, params=["a b/c.tar", 7]) as cluster:
        assert cluster.wait(S, progress=False).ok
        first, second = cluster.tasks
    assert texts(tmp_path, 2) == [
        f"a b/c.tar c.tar c a b {first.node_name} {first.node_id} {first.local_id}\n",
        f"7 7 7 . {second.node_name} {second.node_id} {second.local_id}\n",
    ]


def test_the_queue_goes_on_without_a_function(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """``load`` starts what waits, ``rerun`` runs it again, also with another command."""
    nodes = sshd_nodes(1)
    go_on = tmp_path / "go-on"
    command = f"while [ ! -e {go_on} ]; do sleep 0.05; done; [ {{n}} != 1 ] && echo {{n}}"
    out = tmp_path / "out"
    given: dict[str, Any] = {"command": command, "params": grid(n=range(4)), "ntasks_per_node": 1}
    with run(nodes, out, None, **given) as cluster:
        cluster.close(tell=False)
    with Cluster.load(out, start_waiting=False) as cluster:
        assert [task.state for task in cluster.tasks].count(TaskState.PENDING) == 3
        go_on.touch()
        wait_until(lambda: cluster.tasks[0].state is TaskState.COMPLETED, S, str)
        assert cluster.tasks[1].state is TaskState.PENDING
        with pytest.raises(AllotError, match="3 tasks wait"):
            cluster.wait(S, progress=False)
        cluster.close(tell=False)
    with Cluster.load(out) as cluster:
        states = [task.state for task in cluster.wait(S, progress=False).tasks]
        assert states.count(TaskState.COMPLETED) == 3
        assert states[1] is TaskState.FAILED
        with pytest.raises(ConfigError, match="stands in quotes"):
            cluster.rerun(command="echo '{n}'")
        assert cluster.rerun(command="echo now {n} in {node_name}") == 1
        assert cluster.wait(S, progress=False).ok
    assert (out / "1.out").read_text() == f"now 1 in {nodes.names[0]}\n"
    with Cluster.load(out) as cluster:  # the new command is remembered
        assert cluster.rerun([0]) == 1
        assert cluster.wait(S, progress=False).ok
    assert (out / "0.out").read_text() == f"now 0 in {nodes.names[0]}\n"


def test_a_grid_may_grow(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``resume`` keeps what completed with the same parameters, whatever its number was."""
    log = tmp_path / "log"
    command = f"echo {{a}}{{b}} | tee -a {log}; [ {{b}} != 2 ] || [ -e {tmp_path}/mended ]"
    out = tmp_path / "out"
    with run(five_nodes, out, None, command=command, params=grid(a=["x"], b=[1, 2])) as cluster:
        cluster.wait(S, progress=False)
        old = cluster.job_id
    (tmp_path / "mended").touch()
    log.unlink()
    given: dict[str, Any] = {"command": command, "params": grid(a=["w", "x"], b=[1, 2])}
    with run(five_nodes, out, None, resume=True, **given) as cluster:
        assert cluster.wait(S, progress=False).ok
        files = [task.output_file for task in cluster.tasks]
        assert [task.params for task in cluster.tasks] == given["params"]
        assert cluster.output(2) == "x1\n"
    assert sorted(log.read_text().split()) == ["w1", "w2", "x2"]
    assert files == [out / "0.out", out / "1.out", out / f".allot/{old}/0.out", out / "3.out"]
    assert [file.read_text() for file in files if file is not None] == [
        "w1\n",
        "w2\n",
        "x1\n",
        "x2\n",
    ]


def test_params_of_another_kind_of_job_keep_nothing(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A job without any and one with some have no task in common."""
    with run(five_nodes, tmp_path, lambda _: "echo old", ntasks=2) as cluster:
        assert cluster.wait(S, progress=False).ok
    given: dict[str, Any] = {"command": "echo {line}", "params": ["new", "new"], "resume": True}
    with run(five_nodes, tmp_path, None, **given) as cluster:
        assert cluster.wait(S, progress=False).ok
    assert texts(tmp_path, 2) == ["new\n"] * 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "give either a task_factory or a command"),
        ({"command": 5}, "command must be a Bash line, not 5"),
        ({"command": " "}, "command must be a Bash line"),
        ({"command": "echo '{n}'", "params": [{"n": 1}]}, "stands in quotes"),
        ({"command": "true", "params": [1, 2], "ntasks": 3}, "ntasks is 3, but there are 2 params"),
        ({"command": "true", "params": []}, "params is empty"),
        ({"command": "true", "params": "abc"}, "params must be a sequence"),
        ({"command": "true", "params": [{"a": 1}, {"b": 1}]}, "has other keys"),
        ({"command": "true", "progress_pattern": "("}, "progress_pattern"),
    ],
)
def test_what_makes_no_sense_is_refused(
    five_nodes: SshdNodes, tmp_path: Path, given: dict[str, Any], why: str
) -> None:
    """Before anything is asked or started."""
    with pytest.raises(ConfigError, match=why):
        run(five_nodes, tmp_path / "out", None, **given)
    assert not (tmp_path / "out").exists()


def test_tasks_start_where_the_files_are_shared(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """``shared_cwd`` holds on nodes that share the output directory; ``cwd`` goes before it."""
    out, here = tmp_path / "out", tmp_path / "here"
    here.mkdir()
    given: dict[str, Any] = {"command": "pwd", "shared_cwd": here}
    with run(sshd_nodes(1), out, None, **given) as cluster:
        assert cluster.wait(S, progress=False).ok
        assert list(cluster.sharing.values()) == [True]
    assert (out / "0.out").read_text() == f"{here}\n"
    with run(sshd_nodes(1), out, None, cwd=tmp_path, **given) as cluster:
        assert cluster.wait(S, progress=False).ok
    assert (out / "0.out").read_text() == f"{tmp_path}\n"
    nodes = sshd_nodes(1, private=["~", out])
    with run(nodes, out, None, **given) as cluster:
        assert cluster.wait(S, progress=False).ok
        assert list(cluster.sharing.values()) == [False]
    assert (out / "0.out").read_text() == f"{nodes.home}\n"


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("tqdm", r"printf '\r 40%%|####      | 4/10 [00:01<00:02,  3.00it/s]' >&2"),
        (r"epoch (?P<step>\d+) of (?P<total>\d+)", "echo epoch 4 of 10"),
    ],
)
def test_progress_of_a_program_as_it_is(
    five_nodes: SshdNodes, tmp_path: Path, pattern: str, command: str
) -> None:
    """A bar of tqdm's, or what a regular expression finds."""
    given: dict[str, Any] = {"command": command, "progress_pattern": pattern, "ntasks": 1}
    with run(five_nodes, tmp_path, None, **given) as cluster:
        (task,) = cluster.wait(S, progress=False).tasks
    assert task.progress is not None
    assert (task.progress.step, task.progress.total) == (4, 10)


def test_a_page_about_a_job(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """``report`` writes one file, with the end of what failed."""
    given: dict[str, Any] = {"command": "echo the last words; exit {line}", "params": [0, 3]}
    with run(five_nodes, tmp_path, None, **given) as cluster:
        cluster.wait(S, progress=False)
        cluster.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "the last words" in page


def test_an_output_is_followed(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """From its start or its last lines, as it grows, with no character cut in two, to its end."""
    out, go_on = tmp_path / "out", tmp_path / "go-on"
    out.mkdir()
    nodes = sshd_nodes(1, private=["~", out])
    command = (
        rf"printf 'one\ntwo\n\303'; while [ ! -e {go_on} ]; do sleep 0.05; done; printf '\251!'"
    )
    with run(nodes, out, None, command=command, ntasks=1) as cluster:
        wait_until(lambda: "two" in cluster.output(0), S, str)
        whole, end = cluster.follow(0), cluster.follow(0, tail=1)
        texts = [next(whole), next(end)]
        go_on.touch()
        assert texts[0] + "".join(whole) == "one\ntwo\né!"
        assert texts[1] + "".join(end) == "é!"
        with pytest.raises(ConfigError, match="there is no task 1"):
            next(cluster.follow(1))
