"""Why a task ended that nobody wrote an end down for, in words."""

from __future__ import annotations

from pathlib import Path

from allot.model import TaskState
from allot.reasons import REFUSALS, describe_loss
from allot.script import Launch


def test_a_loss_is_explained_by_what_is_known_of_the_node() -> None:
    """A reboot is one; a node that ends all at logout is named as the likely cause."""
    assert describe_loss(TaskState.NODE_FAIL, ends_at_logout=True) == "the node rebooted"
    plain = describe_loss(TaskState.FAILED, ends_at_logout=False)
    assert "was killed on the node" in plain
    assert describe_loss(TaskState.FAILED, ends_at_logout=True).startswith(plain)
    assert "KillUserProcesses=yes" in describe_loss(TaskState.FAILED, ends_at_logout=True)


def test_a_refusal_names_the_file_or_directory_that_is_in_the_way() -> None:
    """Whatever was asked for, each sentence can be completed with it."""
    launch = Launch(0, 0, 0, Path("/out/0.out"), Path("/out/0.err"), "/data", {}, "")
    told = {word: sentence.format(launch=launch) for word, sentence in REFUSALS.items()}
    assert "/out/0.out" in told["output"]
    assert "/out/0.err" in told["error"]
    assert "/data" in told["cwd"]
    assert "home directory" in told["events"]
