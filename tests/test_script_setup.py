"""What surrounds the commands of a task, by a real Bash: setup, profile, niceness, old output."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from localnode import JOB_DIRECTORY, JOB_ID, LocalNode, local_nodes

from allot import script
from allot.errors import TaskConfigError
from allot.events import Ended, Event, Refused, Started, Warned


def run(node: LocalNode, setup: Sequence[str], *cmds: str, **changes: Any) -> list[Event]:
    """One task with a setup; what was written down of it."""
    text = script.task_script(cmds, setup=setup)
    launch = node.launch(**{"script": text, "proc_id": 3, "attempt": 2, **changes})
    node.start(launch)
    node.wait()
    return [event for event in node.events() if event.proc_id == launch.proc_id]


@pytest.mark.parametrize(
    ("setup", "code", "output"),
    [
        (["false"], 1, ""),
        (["true", "echo so far; (exit 7)", "echo never"], 7, "so far\n"),
        (["exit 5"], 5, ""),
        (["set -e; false; true"], 1, ""),
        (["set -e", "false"], 1, ""),
        (["exec 2>&-; set -u; echo $nope"], 1, ""),
        (["exec 2>&-", "echo 'a"], 2, ""),
        (["trap 'echo mine' EXIT", "(exit 4)"], 4, "mine\n"),
        (["ALLOT_PROCID=9 ALLOT_ATTEMPT=9", "cd /", "false"], 1, ""),
        (["exec 8>/dev/null 9>/dev/null", "false"], 1, ""),
    ],
)
def test_a_setup_that_fails_is_told_before_the_end(
    node: LocalNode, setup: list[str], code: int, output: str
) -> None:
    """The commands do not run, the exit code is the setup's, and what failed is written down."""
    start, failure, end = run(node, setup, "echo never")
    assert isinstance(start, Started)
    assert isinstance(failure, Warned)
    assert failure.word == "setup"
    assert isinstance(end, Ended)
    assert (failure.proc_id, failure.attempt, end.exit_code) == (3, 2, code)
    assert (node.outputs / "3.out").read_text() == output


@pytest.mark.parametrize(
    ("setup", "cmds", "code", "output"),
    [
        (["x=1; cd /; f() { echo f; }"], ['echo $x "$PWD"; f'], 0, "1 /\nf\n"),
        (["true"], ["false", "echo never"], 1, ""),
        (["true"], ["exit 6"], 6, ""),
        (["set -e"], ["false; echo never"], 1, ""),
        (["set -eu"], ["echo on; (exit 3)"], 3, "on\n"),
        (["trap 'echo mine' EXIT"], ["echo a; (exit 2)"], 2, "a\nmine\n"),
        (["exit 0"], ["echo never"], 0, ""),
        (["# 'only a comment"], ["trap; compgen -v __allot; compgen -A function"], 0, None),
    ],
)
def test_a_setup_that_works_is_part_of_the_task(
    node: LocalNode, setup: list[str], cmds: list[str], code: int, output: str | None
) -> None:
    """The commands run in the Bash that the setup has prepared; how they end is their business."""
    start, end = run(node, setup, *cmds)
    assert isinstance(start, Started)
    assert isinstance(end, Ended)
    assert end.exit_code == code
    expected = "__allot_check\n" if output is None else output
    assert (node.outputs / "3.out").read_text() == expected


def test_a_setup_holds_nothing_open(node: LocalNode) -> None:
    """Neither setup nor commands have more open than their input and outputs."""
    run(node, ["ls /proc/self/fd | tr '\\n' ' '"], "ls /proc/self/fd | tr '\\n' ' '")
    assert (node.outputs / "3.out").read_text() == "0 1 2 3 " * 2


def test_a_setup_in_an_odd_directory_is_told(tmp_path: Path) -> None:
    """The failure is written down wherever the home lies."""
    odd = tmp_path / "a b'$(x)\"\n"
    odd.mkdir()
    with local_nodes(odd) as make:
        node = make()
        node.request(script.prelude(JOB_DIRECTORY, {}, generation=1))
        events = run(node, ["false"], output_file=tmp_path / "out")
    assert [type(event) for event in events] == [Started, Warned, Ended]


def test_a_setup_that_no_program_can_be_given_is_refused() -> None:
    """As a command is, before anything is sent."""
    with pytest.raises(TaskConfigError):
        script.task_script(["true"], setup=["echo a\0b"])


# The Bash of a task.


@pytest.mark.parametrize("nice", [0, 7])
def test_a_task_has_its_niceness(make_node: Callable[..., LocalNode], nice: int) -> None:
    """Every process of a task is as nice as was asked for; the recorder is as it was."""
    node = make_node()
    node.prepare(nice=nice)
    own = os.nice(0)
    cmd = "cut -d' ' -f19 /proc/self/stat /proc/$PPID/stat"
    code, output = node.run_one(cmd, env={"PATH": "/usr/bin:/bin:/nowhere"})
    assert (code, output) == (0, f"{min(own + nice, 19)}\n{own}\n")


def test_a_niceness_needs_no_path(make_node: Callable[..., LocalNode]) -> None:
    """A PATH of the task's own does not hide what makes it nice."""
    node = make_node()
    node.prepare(nice=3)
    assert node.run_one("echo on", env={"PATH": "/nowhere"}) == (0, "on\n")


def test_a_login_shell_reads_the_profile(make_node: Callable[..., LocalNode]) -> None:
    """What a profile defines is there, and what it does at the end changes no exit code."""
    node = make_node()
    (node.home / ".bash_profile").write_text("module() { echo module $1; }\nexport FROM=profile\n")
    (node.home / ".bash_logout").write_text("false\nexit 99\n")
    node.prepare()
    assert node.run_one("declare -F module", 'echo "$FROM"')[0] == 1
    node.prepare(login_shell=True)
    own = {"FROM": "me"}
    code, output = node.run_one("module load; echo $FROM; false", attempt=1, env=own)
    assert (code, output) == (1, "module load\nprofile\n")
    node.prepare(login_shell=True, nice=2)
    assert node.run_one("shopt -q login_shell", "nice", attempt=2)[1] == f"{os.nice(0) + 2}\n"


def test_each_task_carries_its_mark(node: LocalNode) -> None:
    """Job, task and attempt stand in the environment of all that a task starts."""
    node.run(*(node.launch("env | grep ^ALLOT_TASK=", proc_id=n, attempt=n) for n in (0, 5)))
    outputs = [(node.outputs / f"{n}.out").read_text() for n in (0, 5)]
    assert outputs == [f"ALLOT_TASK={JOB_ID}/{n}/{n}\n" for n in (0, 5)]


# Earlier attempts.


def test_what_an_earlier_attempt_printed_is_kept(node: LocalNode) -> None:
    """A later attempt begins its files anew; the earlier ones bear the attempt's number."""
    output, error = node.home / "-a b.out", node.home / "e.err"
    for attempt in range(3):
        cmd = f"echo out {attempt}; [[ {attempt} == 1 ]] || echo err {attempt} >&2"
        node.run(node.launch(cmd, attempt=attempt, output_file=output, error_file=error))
    files = {path.name: path.read_text() for path in node.home.iterdir() if path.is_file()}
    own = {name: text for name, text in files.items() if not name.startswith("stderr")}
    assert own == {
        "-a b.out": "out 2\n",
        "-a b.out.0": "out 0\n",
        "-a b.out.1": "out 1\n",
        "e.err": "err 2\n",
        "e.err.0": "err 0\n",
        "e.err.1": "",
    }


def test_where_an_earlier_attempt_ran_elsewhere_there_is_nothing_to_keep(node: LocalNode) -> None:
    """A retry on another node begins as a first attempt does; a device is left where it is."""
    assert node.run_one("echo a", attempt=4) == (0, "a\n")
    node.run(node.launch("echo b", proc_id=1, attempt=1, output_file=Path("/dev/null")))
    assert Path("/dev/null").is_char_device()
    assert [path.name for path in node.outputs.iterdir()] == ["0.out"]


def test_an_earlier_output_that_cannot_be_kept_is_not_lost(node: LocalNode) -> None:
    """Where its new name is taken by a directory, the retry is refused."""
    node.run(node.launch("echo first"))
    (node.outputs / "0.out.0").mkdir()
    node.run(node.launch("echo second", attempt=1))
    assert isinstance(node.events()[-1], Refused)
    assert (node.outputs / "0.out").read_text() == "first\n"
