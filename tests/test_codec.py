"""Records as JSON and back: nothing is lost, and what does not fit is refused by its place."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ANY_CHANGES,
    ANY_STATES,
    BUSY_MACHINE,
    JOB,
    JSON,
    NODE,
    at,
    places,
    running,
    small_job,
    states,
    waiting,
)

from allot.codec import decode, encode
from allot.environment import Group, Rendezvous
from allot.errors import ConfigError
from allot.lease import Holder
from allot.orders import Order
from allot.probe import NodeProbe
from allot.records import Changes, JobRecord, JobState, TaskRecord

KINDS: list[type[Any]] = [JobState, Changes, TaskRecord, Order, Holder, Group]


def there_and_back(value: Any) -> Any:
    """As a file has it in between."""
    return decode(type(value), json.loads(json.dumps(encode(value))))


@BUSY_MACHINE
@given(value=ANY_STATES | ANY_CHANGES)
def test_whatever_is_remembered_comes_back_unchanged(value: JobState | Changes) -> None:
    """Any text, path, number, set or mapping, also file names that are no UTF-8."""
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "param",
    [
        None,
        True,
        1,
        1.0,
        -0.0,
        10**40,
        10**301,
        1e305,
        math.inf,
        -math.inf,
        "1",
        "",
        "\udcff",
        Path("1"),
        Path("/\udcff"),
        {"lr": 0.1, "on": True, "file": Path("x"), "n": 1, "most": math.inf, "": ""},
        {"path": "x"},
        {"path": 5},
        {"path": Path("x")},
        {"$path": "x"},
        {},
    ],
)
def test_a_parameter_stays_what_it_is(param: Any) -> None:
    """Text that looks like a number stays text, a path a path, True no 1, and 1 no 1.0."""
    back = there_and_back(replace(JOB, params=(param,))).params[0]
    assert repr(back) == repr(param)


def test_not_a_number_stays_none() -> None:
    """A parameter may be one."""
    back = there_and_back(replace(JOB, params=(math.nan, {"x": math.nan}))).params
    assert math.isnan(back[0])
    assert math.isnan(back[1]["x"])


@pytest.mark.parametrize("limit", ["max_load_per_cpu", "interval", "min_idle"])
def test_a_limit_may_be_infinite(limit: str) -> None:
    """``NodeProbe(max_load_per_cpu=math.inf)`` is taken, and the job can be loaded again."""
    infinite: dict[str, Any] = {limit: math.inf}
    job = replace(JOB, probe=NodeProbe(**infinite))
    assert there_and_back(job) == job


def assert_no_defaults(value: Any, encoded: Any) -> None:
    """Each field is there exactly where it says something."""
    if isinstance(value, tuple):
        for one, written in zip(value, encoded, strict=True):
            assert_no_defaults(one, written)
    if not is_dataclass(value):
        return
    said = {}
    for field in fields(value):
        mine = getattr(value, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING or mine != default:
            said[field.name] = mine
    assert encoded.keys() == said.keys()
    for name, mine in said.items():
        assert_no_defaults(mine, encoded[name])


@BUSY_MACHINE
@given(value=ANY_STATES | ANY_CHANGES)
def test_a_default_takes_no_room(value: JobState | Changes) -> None:
    """A task that waits is a few bytes, whatever a task can be."""
    assert_no_defaults(value, encode(value))


def test_what_is_written_is_plain() -> None:
    """An enum is its value, a path its text, and a set or a tuple a list."""
    assert encode(waiting(0)) == {"status": {"proc_id": 0}}
    assert encode(Changes()) == {}
    task = replace(running(3, 1), avoids=frozenset({7}), gpu_ids=(0, 1), error_file=Path("/e"))
    assert encode(task) == {
        "status": {
            "proc_id": 3,
            "state": "RUNNING",
            "node_name": "nd01",
            "node_id": 0,
            "local_id": 1,
        },
        "gpu_ids": [0, 1],
        "avoids": [7],
        "launch": {
            "proc_id": 3,
            "attempt": 0,
            "local_id": 1,
            "output_file": "/out/3.out",
            "error_file": None,
            "cwd": None,
            "env": {},
            "script": "true",
        },
        "error_file": "/e",
    }
    group = Group(Rendezvous("nd01", range(2)), sizes={0: 2, 11: 1}, gpus={0: [1]})
    assert encode(group) == {
        "rendezvous": {"address": "nd01", "ports": [0, 1]},
        "sizes": {"0": 2, "11": 1},
        "gpus": {"0": [1]},
    }


def test_whole_numbers_pass_for_floats_and_the_other_way_round() -> None:
    """Whoever wrote the file may have another idea of 1 and 1.0."""
    made = decode(JobRecord, {**encode(JOB), "created": 7, "nnodes": 2.0})
    assert (made.created, made.nnodes) == (7.0, 2)
    assert (type(made.created), type(made.nnodes)) == (float, int)


@dataclass(frozen=True)
class Loose:
    """A value that may be a path or text, and nothing else; the files have none such yet."""

    value: str | Path


def test_a_path_is_told_from_text() -> None:
    """Where both may stand, what is neither is refused, None included."""
    assert there_and_back(Loose("x")) == Loose("x")
    assert there_and_back(Loose(Path("x"))) == Loose(Path("x"))
    for value in (
        None,
        1,
        {},
        {"path": "x"},
        ["path", 1],
        ["path"],
        ["path", "x", "y"],
        ["x", "y"],
    ):
        with pytest.raises(ValueError, match="value"):
            decode(Loose, {"value": value})


WHOLE = encode(replace(small_job(1), job=replace(JOB, params=({"lr": 0.1},)), tasks=(running(0),)))


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ((), [], "it should be an object, not []"),
        ((), None, "it should be an object, not None"),
        (("extra",), 1, "it has an unknown field 'extra'"),
        (("job",), MISSING, "it lacks the field 'job'"),
        (("job", "job_id"), MISSING, "job lacks the field 'job_id'"),
        (("job", "job_id"), 7, "job.job_id should be str, not 7"),
        (("job", "color"), 7, "job has an unknown field 'color'"),
        (("job", "nnodes"), "1", "job.nnodes should be int, not '1'"),
        (("job", "nnodes"), True, "job.nnodes should be int, not True"),
        (("job", "nnodes"), 1.5, "job.nnodes should be int, not 1.5"),
        (("job", "nnodes"), math.nan, "job.nnodes should be int, not nan"),
        (("job", "nnodes"), math.inf, "job.nnodes should be int, not inf"),
        (("job", "created"), "now", "job.created should be float, not 'now'"),
        (("job", "created"), None, "job.created should be float, not None"),
        (("job", "created"), math.nan, "job.created should be float, not nan"),
        (("job", "stopped"), 1, "job.stopped should be bool, not 1"),
        (("job", "stopped"), None, "job.stopped should be bool, not None"),
        (("job", "ssh_config"), 5, "job.ssh_config should be str, not 5"),
        (("job", "specs"), {}, "job.specs should be a list, not {}"),
        (("job", "specs", 0), "nd01", "job.specs[0] should be an object, not 'nd01'"),
        (("job", "specs", 0, "port"), "22", "job.specs[0].port should be int, not '22'"),
        (("job", "params", 0), [], "job.params[0] cannot be []"),
        (("job", "params", 0, "lr"), None, "job.params[0].lr cannot be None"),
        (("job", "params", 0, "lr"), {}, "job.params[0].lr cannot be {}"),
        (("job", "params", 0, "lr"), ["path", 1], "job.params[0].lr should be str, not 1"),
        (("job", "settings", "distribution"), "x", "job.settings.distribution cannot be 'x'"),
        (("job", "settings", "distribution"), [], "job.settings.distribution cannot be []"),
        (("job", "settings", "env"), [], "job.settings.env should be an object, not []"),
        (("job", "settings", "env"), {"A": 1}, "job.settings.env.A should be str, not 1"),
        (("job", "group"), {"rendezvous": 1}, "job.group.rendezvous should be an object, not 1"),
        (("nodes", 0, "facts", "gpu_vendor"), "x", "nodes[0].facts.gpu_vendor cannot be 'x'"),
        (("nodes", 0, "facts", "gpu_vendor"), 1.5, "nodes[0].facts.gpu_vendor cannot be 1.5"),
        (("nodes", 0, "orphans"), [[1]], "nodes[0].orphans[0] should have 2 members, not 1"),
        (("nodes", 0, "orphans"), [7], "nodes[0].orphans[0] should be a list, not 7"),
        (("nodes", 0, "orphans"), [[1, "2"]], "nodes[0].orphans[0][1] should be int, not '2'"),
        (("tasks", 0, "status", "state"), "LOST", "tasks[0].status.state cannot be 'LOST'"),
        (("tasks", 0, "status", "state"), 1, "tasks[0].status.state cannot be 1"),
        (("tasks", 0, "avoids"), [0, None], "tasks[0].avoids[1] should be int, not None"),
        (("tasks", 0, "avoids"), 0, "tasks[0].avoids should be a list, not 0"),
        (("tasks", 0, "status", "reason"), ["x"] * 99, f"{str(['x'] * 12)[:57]}..."),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(
    place: tuple[str | int, ...], value: Any, complaint: str
) -> None:
    """Somebody who edited the file reads where, and what should stand there."""
    whole: Any = copy.deepcopy(WHOLE)
    if not place:
        whole = value
    elif value is MISSING:
        del at(whole, place[:-1])[place[-1]]
    else:
        at(whole, place[:-1])[place[-1]] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        decode(JobState, whole)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("key", ["", "x", "-1", "1.5", "³"])
def test_a_key_that_should_be_a_number_is_one(key: str) -> None:
    """What is no decimal number is no node's number."""
    rendezvous = {"address": "nd01", "ports": []}
    with pytest.raises(ValueError, match="sizes has a key that is no number"):
        decode(Group, {"rendezvous": rendezvous, "sizes": {key: 1}, "gpus": {}})


def test_a_setting_that_makes_no_sense_is_refused_as_when_it_is_given() -> None:
    """What a user may not ask for, a file may not either."""
    whole = copy.deepcopy(WHOLE)
    whole["job"]["settings"]["retries"] = -1
    with pytest.raises(ConfigError, match="retries must be a whole number from 0, not -1"):
        decode(JobState, whole)


def read(kind: type[Any], value: Any) -> ValueError | None:
    """Why it is refused; what is taken is of the type, and can be written and read once more."""
    try:
        made = decode(kind, value)
    except ValueError as error:
        return error
    assert type(made) is kind
    assert there_and_back(made) == made or "nan" in repr(made)
    return None


@BUSY_MACHINE
@given(kind=st.sampled_from(KINDS), value=JSON)
def test_any_json_is_taken_or_refused(kind: type[Any], value: Any) -> None:
    """Whatever a file holds, it is a record or it is refused, with words."""
    error = read(kind, value)
    assert error is None or str(error)


def as_place(place: tuple[str | int, ...]) -> str:
    """As a message names it."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return text.removeprefix(".") or "it"


@BUSY_MACHINE
@given(
    state=states(most_tasks=2, most_nodes=1),
    value=JSON,
    how=st.sampled_from(["replace", "remove", "add"]),
    data=st.data(),
)
def test_a_file_that_is_wrong_in_one_place_is_refused_by_that_place(
    state: JobState, value: Any, how: str, data: st.DataObject
) -> None:
    """The message begins with the place, or with that of what it belongs to."""
    whole = json.loads(json.dumps(encode(state)))
    place = data.draw(st.sampled_from(places(whole)))
    holder = at(whole, place[:-1])
    if how == "remove":
        del holder[place[-1]]
    elif how == "add" and isinstance(holder, dict):
        holder["new"] = value
    else:
        holder[place[-1]] = value
    error = read(JobState, whole)
    if isinstance(error, ConfigError):  # what no user may ask for: the argument is named
        assert place[:2] in [("job", "settings"), ("job", "probe")]
        assert any(isinstance(key, str) and key in str(error) for key in place[2:])
    elif error is not None:
        assert str(error).startswith((as_place(place[:-1]), as_place(place)))


@pytest.mark.parametrize("whole", [NODE, JOB, small_job()])
def test_what_is_read_is_left_as_it_is(whole: Any) -> None:
    """Reading changes nothing in what was given."""
    value = encode(whole)
    before = copy.deepcopy(value)
    assert decode(type(whole), value) == whole
    assert value == before
