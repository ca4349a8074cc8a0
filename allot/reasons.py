"""Why tasks end as they do, and nodes get nothing new, in words for their users.

Rules: pure; the words of the event file (see ``events.py``) are turned into sentences here.
"""

from __future__ import annotations

from allot.model import TaskState

_UNHEARD = "its node never told that it started"
REFUSALS = {
    "events": "the home directory of the node cannot be written to (disk full or read-only?)",
    "output": "its output file cannot be written on the node: {launch.output_file}",
    "error": "its error file cannot be written on the node: {launch.error_file}",
    "cwd": "its working directory cannot be entered on the node: {launch.cwd}",
    "unheard": _UNHEARD,
}
_LOST = {
    TaskState.FAILED: (
        "what records its end was killed on the node (by a user, or for want of memory?)"
    ),
    TaskState.NODE_FAIL: "the node rebooted",
}
WARNINGS = {
    "setup": "setup failed",
    "full": "the file system of its output is full on the node (or a quota there is used up)",
    "gone": "the job's directory in ~/.allot on the node was removed",
    "unheard": _UNHEARD,
}

FULL_HOME = "the file system of ~/.allot is full there: no end of a task can be written down"


def describe_loss(state: TaskState, *, ends_at_logout: bool) -> str:
    """Why a task ended that nobody wrote an end down for.

    Args:
        state: FAILED or NODE_FAIL.
        ends_at_logout: Whether its node ends the processes of users that log out.
    """
    if state is TaskState.FAILED and ends_at_logout:
        return f"{_LOST[state]}; KillUserProcesses=yes in logind.conf there does so at logout"
    return _LOST[state]
