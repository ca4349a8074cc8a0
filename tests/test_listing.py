"""Tasks and nodes as tables and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from allot import listing
from allot.model import (
    NodeHealth,
    NodeState,
    NodeStatus,
    Params,
    Progress,
    TaskState,
    TaskStatus,
)
from allot.wording import display_width

HEALTH = NodeHealth(8, 0.5, 0.25, 3 * 2**30, 16 * 2**30, 2, "boot")


def test_a_table_of_tasks() -> None:
    """A line a task: where it is, how far, how long, how it ended; a dash where nothing is."""
    tasks = [
        TaskStatus(0),
        TaskStatus(
            1, TaskState.RUNNING, "ws01", 0, 0, progress=Progress(999, 1000), started_at=100.0
        ),
        TaskStatus(
            12,
            TaskState.FAILED,
            "ws02",
            1,
            0,
            attempt=2,
            exit_code=0,
            started_at=100.0,
            ended_at=103.5,
            reason="lost",
        ),
        TaskStatus(13, TaskState.RUNNING, "ws02", started_at=999.0),
    ]
    assert listing.task_table(tasks, 165.0).splitlines() == [
        "TASK  STATE    NODE  TRY  DONE  TIME   EXIT  REASON",
        "0     PENDING  -     0    -     -      -",
        "1     RUNNING  ws01  0    99%   01:05  -",
        "12    FAILED   ws02  2    -     00:03  0     lost",
        "13    RUNNING  ws02  0    -     00:00  -",
    ]


def test_a_table_of_nodes() -> None:
    """What the last look found, or dashes."""
    nodes = [
        NodeStatus("ws01", NodeState.READY, 0, "", HEALTH),
        NodeStatus("ws02", NodeState.UNREACHABLE, None, "no route"),
    ]
    assert listing.node_table(nodes).splitlines() == [
        "NODE  STATE        CPUS  LOAD  FREE  MEMORY  GPUS  REASON",
        "ws01  READY        8     0.50  3.0G  16.0G   2",
        "ws02  UNREACHABLE  -     -     -     -       -     no route",
    ]


def test_counts() -> None:
    """States that are there, in their order."""
    states = [TaskState.FAILED, TaskState.PENDING, TaskState.FAILED]
    tasks = [TaskStatus(number, state) for number, state in enumerate(states)]
    assert listing.counts_line(tasks) == "3 tasks: 1 PENDING, 2 FAILED"
    assert listing.counts_line([]) == "0 tasks: none"


def test_columns_stand_below_each_other_with_wide_characters() -> None:
    """What fills two columns counts for two."""
    nodes = [NodeStatus("機械", NodeState.READY, reason="x"), NodeStatus("ws1", NodeState.BUSY)]
    header, first, _ = listing.node_table(nodes).splitlines()
    at = header.index("STATE")
    assert display_width(first[: first.index("READY")]) == at
    assert display_width(first[: first.index("x")]) == header.index("REASON")


@given(st.text(), st.text())
def test_nothing_foreign_reaches_the_terminal(name: str, reason: str) -> None:
    """A name or reason stays on its line, and a terminal acts upon nothing in it."""
    for table in (
        listing.node_table([NodeStatus(name, NodeState.BUSY, reason=reason)]),
        listing.task_table([TaskStatus(0, node_name=name, reason=reason)], 0.0),
    ):
        assert len(table.split("\n")) == 2
        assert all(line.isprintable() for line in table.split("\n"))


SCALARS = st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PARAMS = st.none() | st.booleans() | SCALARS | st.dictionaries(st.text(min_size=1), SCALARS)


@given(PARAMS)
def test_params_come_through_json(params: Params) -> None:
    """Whatever they are, programs read what was given."""
    text = listing.job_json("job", "id", "/out", [TaskStatus(0, params=params)], [])
    assert json.loads(text)["tasks"][0]["params"] == params
    assert text.isascii()


def test_json_of_a_job() -> None:
    """The names are those of the attributes; a path is its text, a state its word."""
    task = TaskStatus(
        0,
        TaskState.COMPLETED,
        "ws01",
        0,
        1,
        1,
        Progress(1, 2),
        0,
        Path("/out/0.out"),
        1.5,
        2.5,
        "why",
        {"file": Path("/data/x")},
    )
    node = NodeStatus("ws01", NodeState.READY, 0, "", HEALTH)
    shown = json.loads(listing.job_json("job", "id", "/out", [task, TaskStatus(1)], [node]))
    assert shown["version"] == listing.JSON_VERSION
    assert (shown["job_name"], shown["job_id"], shown["output_dir"]) == ("job", "id", "/out")
    assert shown["counts"] == {state.value: 0 for state in TaskState} | {
        "COMPLETED": 1,
        "PENDING": 1,
    }
    assert shown["tasks"][0] == {
        "proc_id": 0,
        "state": "COMPLETED",
        "node_name": "ws01",
        "node_id": 0,
        "local_id": 1,
        "attempt": 1,
        "progress": [1, 2],
        "exit_code": 0,
        "output_file": "/out/0.out",
        "started_at": 1.5,
        "ended_at": 2.5,
        "reason": "why",
        "params": {"file": "/data/x"},
    }
    assert shown["tasks"][1]["progress"] is None
    assert shown["tasks"][1]["output_file"] is None
    assert {*shown["tasks"][1]} == {*TaskStatus.__dataclass_fields__}
    assert shown["nodes"][0]["health"] == vars(HEALTH)


def test_json_of_nodes() -> None:
    """One without a look has none."""
    spare = NodeStatus("a", NodeState.SPARE, transfer=Progress(1, 4))
    shown = json.loads(listing.node_table([spare], as_json=True))
    assert shown == {
        "version": listing.JSON_VERSION,
        "nodes": [
            {
                "name": "a",
                "state": "SPARE",
                "node_id": None,
                "reason": "",
                "health": None,
                "transfer": [1, 4],
            }
        ],
    }
