"""The words of Allot: what users read off states, nodes, tasks, summaries and errors."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from allot import errors
from allot.errors import (
    AllotError,
    ConfigError,
    NodeError,
    NodeFileError,
    NotEnoughNodesError,
    TaskConfigError,
    TasksFailedError,
)
from allot.model import (
    NodeSpec,
    NodeState,
    NodeStatus,
    NodeTaskConfig,
    Progress,
    Summary,
    Task,
    TaskState,
    TaskStatus,
    describe_end,
)


def test_task_states_are_slurms_words() -> None:
    """The states are text, print as their word, and say which of them are final."""
    assert [str(state) for state in TaskState if not state.is_final] == ["PENDING", "RUNNING"]
    assert [f"{state}" for state in TaskState if state.is_final] == [
        "COMPLETED",
        "FAILED",
        "TIMEOUT",
        "CANCELLED",
        "NODE_FAIL",
    ]
    assert TaskState("FAILED") is TaskState.FAILED
    assert json.dumps([TaskState.RUNNING]) == '["RUNNING"]'


def test_node_states_print_as_their_word() -> None:
    """A node's state reads the same in a message, a table and a comparison."""
    assert f"{NodeState.BUSY}" == str(NodeState.BUSY) == "BUSY"
    assert {state.value for state in NodeState} == {
        "READY",
        "BUSY",
        "UNREACHABLE",
        "SPARE",
        "DRAINED",
    }


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        (NodeSpec("node01"), "node01"),
        (NodeSpec("node02", user="alice", port=2222), "alice@node02:2222"),
        (NodeSpec("fd00::7"), "[fd00::7]"),
        (NodeSpec("fd00::7", port=22, slots=4), "[fd00::7]:22"),
    ],
)
def test_a_node_reads_as_in_a_host_file(spec: NodeSpec, address: str) -> None:
    """``address`` is what a user would write; an IPv6 address stands in brackets."""
    assert spec.address == address


def test_progress_has_a_fraction() -> None:
    """A bar's length is step / total, from 0 to 1."""
    assert [Progress(step, 4).fraction for step in (0, 1, 4)] == [0.0, 0.25, 1.0]


def test_a_task_takes_one_command_or_several() -> None:
    """A string is one command; a list keeps its order; the rest stays unset."""
    assert Task("hostname").cmds == ("hostname",)
    task = Task(["cd proj", "make"])
    assert task.cmds == ("cd proj", "make")
    assert (task.output_file, task.config, task.cwd, task.error_file) == (None,) * 4
    assert task.env == {}


def test_a_task_turns_what_it_is_given_into_text_and_paths() -> None:
    """Paths may be text, variables may be numbers, and the caller's dict is not shared."""
    config = NodeTaskConfig("job", "id", Path("/out"), "node01", 0, 3, 0, 1, 4, 2)
    env: dict[str, object] = {"SEED": 7, "OUT": Path("/tmp/x")}
    task = Task(
        "run",
        "3.out",
        config,
        env=env,  # type: ignore[arg-type]
        cwd=Path("proj"),
        error_file="3.err",
    )
    env["SEED"] = 8
    assert task.output_file == Path("3.out")
    assert task.error_file == Path("3.err")
    assert task.cwd == "proj"
    assert task.config is config
    assert dict(task.env) == {"SEED": "7", "OUT": "/tmp/x"}


def test_a_task_names_its_files() -> None:
    """One path or several, as text or ``Path``."""
    task = Task("x", stage_in=Path("in/a"), collect="out/*")
    assert (task.stage_in, task.collect) == (("in/a",), ("out/*",))
    task = Task("x", stage_in=["a", Path("b")], collect=iter(["c"]))
    assert (task.stage_in, task.collect) == (("a", "b"), ("c",))
    assert Task("x").stage_in == Task("x").collect == ()


@pytest.mark.parametrize("argument", ["stage_in", "collect"])
@pytest.mark.parametrize("value", [7, b"a", {"a": "b"}, [1], None])
def test_files_that_are_no_paths_are_refused(argument: str, value: object) -> None:
    """The refusal names the argument and what it was."""
    with pytest.raises(TaskConfigError, match=f"{argument} must .* not "):
        Task("x", **{argument: value})  # type: ignore[arg-type]


def test_a_task_does_not_change() -> None:
    """A task that was handed over cannot be changed behind the launcher's back."""
    task = Task("run", env={"A": "1"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.cwd = "/elsewhere"  # type: ignore[misc]
    with pytest.raises(TypeError):
        task.env["A"] = "2"  # type: ignore[index]
    assert task == Task(["run"], env={"A": "1"})


@pytest.mark.parametrize(
    ("cmds", "named"), [([], r"\[\]"), (None, "None"), (7, "7"), (["ls", 7], "7"), ({"ls"}, "ls")]
)
def test_commands_that_are_not_text_are_refused(cmds: object, named: str) -> None:
    """What is wrong with ``cmds`` is in the message."""
    with pytest.raises(TaskConfigError, match=f"cmds must .* not .*{named}"):
        Task(cmds)  # type: ignore[arg-type]


def failed_task(proc_id: int) -> TaskStatus:
    return TaskStatus(proc_id, TaskState.FAILED, node_name="node01", exit_code=3)


def test_a_summary_counts_every_state() -> None:
    """``counts`` holds each state, those without a task with 0."""
    summary = Summary((TaskStatus(0, TaskState.COMPLETED), failed_task(1)), elapsed=2.0)
    assert summary.counts[TaskState.COMPLETED] == 1
    assert summary.counts[TaskState.FAILED] == 1
    assert sum(summary.counts.values()) == 2
    assert list(summary.counts) == list(TaskState)


def test_a_summary_with_all_completed_is_ok() -> None:
    """Nothing is raised when every task completed."""
    summary = Summary((TaskStatus(0, TaskState.COMPLETED),), elapsed=2.0)
    assert summary.ok
    assert summary.failed == ()
    summary.raise_for_failures()


def test_unfinished_tasks_are_neither_ok_nor_failed() -> None:
    """A task that still runs keeps the job from being ok and is no failure."""
    summary = Summary((TaskStatus(0, TaskState.RUNNING),), elapsed=2.0)
    assert not summary.ok
    assert summary.failed == ()
    summary.raise_for_failures()


def test_failures_are_named_with_the_end_of_their_output() -> None:
    """The error names each failed task, its node, exit code and last lines."""
    tasks = (
        TaskStatus(0, TaskState.COMPLETED),
        failed_task(1),
        TaskStatus(2, TaskState.CANCELLED, reason="by the user"),
    )
    summary = Summary(tasks, elapsed=2.0, output_tails={1: "Traceback\nValueError: no"})
    assert summary.failed == tasks[1:]
    with pytest.raises(TasksFailedError) as caught:
        summary.raise_for_failures()
    assert str(caught.value).splitlines() == [
        "2 of 3 tasks did not complete:",
        "  task 1 on node01 FAILED (exit code 3)",
        "    | Traceback",
        "    | ValueError: no",
        "  task 2 CANCELLED: by the user",
    ]
    assert caught.value.summary is summary


def test_many_failures_are_summed_up() -> None:
    """A thousand failures make a message that fits a screen."""
    summary = Summary(tuple(failed_task(i) for i in range(1000)), elapsed=2.0)
    with pytest.raises(TasksFailedError) as caught:
        summary.raise_for_failures()
    lines = str(caught.value).splitlines()
    assert lines[0] == "1000 of 1000 tasks did not complete:"
    assert lines[-1] == "  … and 980 more"
    assert len(lines) == 22


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (TaskStatus(4), "task 4 PENDING"),
        (
            TaskStatus(4, TaskState.COMPLETED, node_name="n1", exit_code=0),
            "task 4 on n1 COMPLETED",
        ),
        (
            TaskStatus(4, TaskState.NODE_FAIL, node_name="n1", reason="the node was rebooted"),
            "task 4 on n1 NODE_FAIL: the node was rebooted",
        ),
    ],
)
def test_a_tasks_end_reads_as_one_line(task: TaskStatus, line: str) -> None:
    """Number, node, state and reason; an exit code only where it says something."""
    assert describe_end(task) == line


def test_every_error_is_an_allot_error_and_is_drawn() -> None:
    """One ``except AllotError`` catches all, and the module's head shows the whole tree."""
    classes = [
        item
        for _, item in inspect.getmembers(errors, inspect.isclass)
        if item.__module__ == errors.__name__
    ]
    assert all(issubclass(item, AllotError) for item in classes)
    assert {item.__name__ for item in classes} == {
        word for word in (errors.__doc__ or "").split() if word.endswith("Error")
    } - {"ValueError"}


def test_configuration_errors_are_value_errors_too() -> None:
    """Code that knows Python only, not Allot, catches a wrong argument as ValueError."""
    with pytest.raises(ValueError, match="cmds must"):
        Task([])
    assert issubclass(NodeFileError, ConfigError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NodeFileError("bad", path="hosts.txt", line=3), "hosts.txt, line 3: bad"),
        (NodeFileError("bad", path="hosts.txt"), "hosts.txt: bad"),
        (NodeFileError("bad", line=3), "line 3: bad"),
        (NodeFileError("bad"), "bad"),
    ],
)
def test_a_host_file_error_names_the_place(error: NodeFileError, message: str) -> None:
    """The file and the line lead the message where they are known."""
    assert str(error) == message


def test_a_node_error_names_its_node() -> None:
    """The node leads the message, and both parts can be had alone."""
    error = NodeError("node01", "connection refused")
    assert (str(error), error.node) == ("node01: connection refused", "node01")
    assert error.reason == "connection refused"


def test_too_few_nodes_keeps_every_nodes_reason() -> None:
    """The statuses of all nodes asked come with the error."""
    refused = NodeStatus("node01", NodeState.BUSY, reason="load 9.1 on 4 CPUs")
    error = NotEnoughNodesError("0 of 1 nodes passed", [refused])
    assert str(error) == "0 of 1 nodes passed"
    assert error.nodes == (refused,)


def test_variables_of_a_task_are_a_mapping() -> None:
    """The slip of a string is told at once."""
    with pytest.raises(TaskConfigError, match=r"env must be a mapping .* not 'A=1'"):
        Task("true", env="A=1")  # type: ignore[arg-type]
