"""A job's files as bytes: what was written is read, what was torn is missed, the rest refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    BUSY_MACHINE,
    JOB,
    JSON,
    NODE,
    TEXT,
    at,
    changes_of,
    places,
    running,
    small_job,
    states,
    waiting,
)

from allot.errors import StateFileError
from allot.model import Progress, TaskState, TaskStatus
from allot.records import Changes, JobState, TaskRecord
from allot.statefile import (
    VERSION,
    Head,
    Remembered,
    read_changes,
    read_snapshot,
    write_changes,
    write_snapshot,
)

PLACE = "/out/.allot/job.json"
HEADS = st.builds(Head, st.integers(0, 10**9), st.integers(-1, 10**9), TEXT, st.booleans())
# Journals of one job, quickly: what the records are is another test's matter.
LINES = st.builds(
    write_changes,
    st.sampled_from(
        [
            Changes(),
            Changes(tasks=(waiting(0, "why"),)),
            Changes(tasks=(running(1), waiting(2))),
            Changes(nodes=(NODE,)),
            Changes(progress=((0, 0, 1, 2), (1, 0, 2, 2))),
        ]
    ),
    durable=st.booleans(),
)


def read(data: bytes) -> list[Changes]:
    """The changes in a journal, which is read whole."""
    changes, taken = read_changes(data, PLACE)
    assert taken <= len(data)
    return changes


@settings(BUSY_MACHINE, max_examples=40)
@given(state=states(), head=HEADS)
def test_a_snapshot_is_the_whole_job(state: JobState, head: Head) -> None:
    """All of a job comes back from one line of ASCII, with its numbers."""
    data = write_snapshot(state, head)
    assert data.isascii()
    assert (data.count(b"\n"), data[-1:]) == (1, b"\n")
    assert read_snapshot(data, PLACE) == (head, state)


@settings(BUSY_MACHINE, max_examples=40)
@given(data=st.data(), state=states().filter(lambda state: state.tasks))
def test_a_journal_is_what_changed_in_order(data: st.DataObject, state: JobState) -> None:
    """Whatever changes is read as it was written, also in pieces, and makes the same job."""
    changes = data.draw(st.lists(changes_of(state), max_size=2))
    lines = [write_changes(one, durable=data.draw(st.booleans())) for one in changes]
    assert read(b"".join(lines)) == changes
    assert [read(line) for line in lines] == [[one] for one in changes]
    at_once, by_line = Remembered(state), Remembered(state)
    at_once.apply(changes, PLACE)
    for line in lines:
        by_line.apply(read(line), PLACE)
    assert at_once.state == by_line.state
    snapshot = write_snapshot(at_once.state, Head())
    assert read_snapshot(snapshot, PLACE)[1] == at_once.state


def test_changes_replace_what_was_there() -> None:
    """A record counts as a whole; progress only where it is of the attempt that runs."""
    remembered = Remembered(small_job())
    assert remembered.state == small_job()
    later = replace(NODE, node_id=1, name="nd02")
    remembered.apply(
        [
            Changes(tasks=(running(0), waiting(2, "busy")), nodes=(later,)),
            Changes(progress=((0, 0, 1, 9), (1, 1, 5, 9), (0, 0, 2, 9))),
            Changes(job=replace(JOB, stopped=True)),
        ],
        PLACE,
    )
    assert remembered.state.job.stopped
    assert remembered.state.nodes == (NODE, later)
    assert remembered.tasks[0].status == replace(running(0).status, progress=Progress(2, 9))
    assert remembered.tasks[1:] == [waiting(1), waiting(2, "busy")]


@BUSY_MACHINE
@given(lines=st.lists(LINES, min_size=1, max_size=4), data=st.data())
def test_a_journal_torn_anywhere_tells_what_came_before(
    lines: list[bytes], data: st.DataObject
) -> None:
    """Wherever a crash cut it, its whole lines are read, and what is behind them is missed."""
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(b"".join(lines[:count])) for count in range(len(lines) + 1)]
    count = max(number for number, end in enumerate(ends) if end <= cut)
    changes, taken = read_changes(whole[:cut], PLACE)
    assert (changes, taken) == (read(whole)[:count], ends[count])
    rest, more = read_changes(whole[taken:], PLACE)
    assert (changes + rest, taken + more) == (read(whole), len(whole))


RUBBISH = st.one_of(
    st.just(b""),
    st.just(b"\n"),
    st.just(b"\0" * 40),
    st.binary(max_size=9),
    LINES.flatmap(lambda line: st.integers(1, len(line) - 1).map(lambda cut: line[:cut])),
)


@BUSY_MACHINE
@given(lines=st.lists(LINES, max_size=3), more=st.lists(LINES, max_size=2), rubbish=RUBBISH)
def test_what_a_crash_left_at_the_end_is_missed(
    lines: list[bytes], more: list[bytes], rubbish: bytes
) -> None:
    """A torn end, holes in it and lines behind them that nothing rested on count for nothing."""
    loose = [write_changes(read(line)[0], durable=False) for line in more]
    data = b"".join(lines)
    found = read_changes(data + b"torn " + rubbish + b"\n" + b"".join(loose), PLACE)
    assert found == (read(data), len(data))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A journal with one line spoiled before one that was made sure of, and where that begins."""
    before, after = draw(st.lists(LINES, max_size=2)), draw(st.lists(LINES, max_size=2))
    last = write_changes(Changes(tasks=(waiting(0),)), durable=True)
    line = draw(LINES)[:-1]  # its end stays: without it the line behind would be spoiled too
    first = draw(st.integers(0, len(line) - 1))
    until = draw(st.integers(first, min(len(line), first + 4)))
    put = draw(st.binary(min_size=1 if first == until else 0, max_size=4))
    spoiled = line[:first] + put + line[until:]
    if spoiled == line:
        spoiled = line[:first] + bytes([line[first] ^ 1]) + line[first + 1 :]
    start = len(b"".join(before))
    return b"".join([*before, spoiled + b"\n", *after, last]), start


@BUSY_MACHINE
@given(case=damaged())
def test_damage_before_what_was_made_sure_of_is_told(case: tuple[bytes, int]) -> None:
    """No crash can have done that: the error names the file, the byte, and that it is left."""
    data, start = case
    with pytest.raises(StateFileError) as caught:
        read_changes(data, PLACE)
    message = f"{PLACE} is damaged at byte {start}, and more follows; it is left as it is"
    assert str(caught.value) == message


@BUSY_MACHINE
@given(data=st.one_of(st.binary(max_size=200), st.lists(LINES | RUBBISH).map(b"".join)))
def test_any_bytes_are_a_journal_or_refused(data: bytes) -> None:
    """Whatever lies in the file, it is read, or refused with its name."""
    try:
        assert len(read(data)) <= data.count(b"\n")
    except StateFileError as error:
        told = str(error)
        assert told.startswith(PLACE)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no|Expecting value"),
        (b"[]", "should be an object"),
        (b"{", "makes no sense"),
        (b"\xff", "makes no sense"),
        (b'{"color": 1}', "unknown field 'color'"),
        (b'{"tasks": 1}', "tasks should be a list, not 1"),
        (b'{"progress": [[1, 2, 3]]}', r"progress\[0\] should have 4 members, not 3"),
        (b"[" * 100_000, "makes no sense"),
        (b"1" * 5000, "makes no sense"),
    ],
)
def test_a_whole_line_that_says_nonsense_is_refused(content: bytes, complaint: str) -> None:
    """Its sum is right, so it was written so: that is no crash, wherever it stands."""
    rest = b"- " + content
    with pytest.raises(StateFileError, match=complaint) as caught:
        read_changes(b"%08x %b\n" % (crc32(rest), rest), PLACE)
    assert str(caught.value).startswith(PLACE)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (Changes(tasks=(waiting(3),)), "there is no task 3"),
        (Changes(tasks=(waiting(-1),)), "there is no task -1"),
        (Changes(progress=((7, 0, 1, 2),)), "there is no task 7"),
        (Changes(progress=((0, 0, 3, 2),)), r"tasks\[0\]: its progress is 3 of 2"),
        (Changes(nodes=(replace(NODE, node_id=2),)), r"the nodes are numbered \[0, 2\]"),
        (Changes(tasks=(replace(running(1), launch=None),)), r"tasks\[1\]: it runs, but"),
        (Changes(job=replace(JOB, params=(1,))), "1 params for 3 tasks"),
        (Changes(job=replace(JOB, job_id="..")), r"job.job_id cannot be '\.\.'"),
    ],
)
def test_changes_of_another_job_are_refused(changes: Changes, complaint: str) -> None:
    """What cannot follow on the snapshot is no journal of it."""
    with pytest.raises(StateFileError, match=complaint) as caught:
        Remembered(small_job()).apply([changes], PLACE)
    assert str(caught.value).startswith(f"{PLACE} makes no sense: ")


def snapshot(change: Callable[[Any], None]) -> bytes:
    """A good snapshot, changed as JSON."""
    state = JobState(JOB, (NODE, replace(NODE, node_id=1)), (running(0), waiting(1)))
    whole = json.loads(write_snapshot(state, Head(1, 2)))
    change(whole)
    return json.dumps(whole).encode()


def put(*place: str | int, value: Any) -> bytes:
    """A good snapshot with another value in one place."""
    return snapshot(lambda whole: at(whole, place[:-1]).__setitem__(place[-1], value))


NEWEST_OF_ALL = 10**400


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\0" * 4096, "is torn, or no state of a job"),
        (b"\xff\xfe\x00", "is torn, or no state of a job"),
        (b"#!/bin/sh\n", "is torn, or no state of a job"),
        (write_snapshot(small_job(), Head())[:-3], "is torn, or no state of a job"),
        (b"[" * 100_000 + b"]" * 100_000, "is torn, or no state of a job"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is torn, or no state of a job"),
        (b"1" * 5000, "is torn, or no state of a job"),
        (b"[]", "is not the state of a job of Allot's"),
        (b"null", "is not the state of a job of Allot's"),
        (b'{"name": "left-pad", "version": 1}', "is not the state of a job of Allot's"),
        (b'{"allot": ["state"]}', "is not the state of a job of Allot's"),
        (b'{"allot": "state"}', "no such version: None"),
        (put("version", value=VERSION + 1), "was written by a newer Allot .*: use that one"),
        (put("version", value=NEWEST_OF_ALL), "was written by a newer Allot"),
        (put("version", value=0), "no such version: 0"),
        (put("version", value="1"), "no such version: '1'"),
        (put("version", value=[]), r"no such version: \[\]"),
        (put("generation", value="1"), "generation should be int, not '1'"),
        (put("copy_of", value=None), "copy_of should be str, not None"),
        (put("color", value=1), "it has an unknown field 'color'"),
        (put("job", value=[]), r"job should be an object, not \[\]"),
        (put("job", "job_id", value="../x"), "job.job_id cannot be '../x'"),
        (put("job", "job_id", value=""), "job.job_id cannot be ''"),
        (put("job", "job_id", value=".."), "job.job_id cannot be"),
        (put("job", "job_id", value="a\n"), "job.job_id cannot be"),
        (put("job", "job_id", value="a b"), "job.job_id cannot be"),
        (put("job", "job_id", value="a" * 101), "job.job_id cannot be"),
        (put("job", "settings", "ntasks", value=-1), "ntasks must be a whole number from 1"),
        (put("job", "probe", "timeout", value=0), "timeout must be above 0 seconds"),
        (put("job", "probe", "hours", value="x"), "hours must be two times of the day"),
        (put("job", "params", value=[1]), "1 params for 2 tasks"),
        (put("nodes", 1, "node_id", value=2), r"the nodes are numbered \[0, 2\]"),
        (put("nodes", 0, "node_id", value=1), r"the nodes are numbered \[1, 1\]"),
        (put("nodes", 0, "node_id", value=-1), r"the nodes are numbered \[-1, 1\]"),
        (put("nodes", 0, "state", value="OK"), r"nodes\[0\].state cannot be 'OK'"),
        (put("tasks", 0, "status", "proc_id", value=1), r"tasks\[0\]: it is numbered 1"),
        (put("tasks", 1, "status", "attempt", value=-1), r"tasks\[1\]: .* attempt -1"),
        (put("tasks", 0, "status", "node_id", value=2), r"tasks\[0\]: it runs, but it is not"),
        (put("tasks", 0, "status", "node_id", value=-1), r"tasks\[0\]: it runs, but it is not"),
        (put("tasks", 0, "status", "local_id", value=None), r"tasks\[0\]: it runs, but it is not"),
        (put("tasks", 0, "launch", value=None), r"tasks\[0\]: it runs, but it is not told"),
        (put("tasks", 0, "launch", "proc_id", value=1), "what runs is another task"),
        (put("tasks", 0, "launch", "attempt", value=1), "what runs is another task"),
    ],
)
def test_what_is_no_job_is_refused_with_what_and_where(data: bytes, complaint: str) -> None:
    """Torn, empty, another program's, of a newer version, or edited into nonsense."""
    with pytest.raises(StateFileError, match=complaint) as caught:
        read_snapshot(data, PLACE)
    assert str(caught.value).startswith(PLACE)


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (("tasks", 0, "status", "started_at"), r"tasks\[0\]: its times are inf and None"),
        (("tasks", 1, "status", "ended_at"), r"tasks\[1\]: its times are None and inf"),
        (("nodes", 1, "facts", "clock_offset"), "the clock of a node"),
    ],
)
def test_a_time_can_be_told(place: tuple[str | int, ...], complaint: str) -> None:
    """One that is infinite is none: no span could be made of it."""
    with pytest.raises(StateFileError, match=complaint):
        read_snapshot(put(*place, value=math.inf), PLACE)


@pytest.mark.parametrize(
    ("first", "second"), [(running(0, 1), running(1, 1)), (running(0), running(1, 1))]
)
def test_no_two_tasks_that_run_have_the_same_slot_or_gpu(
    first: TaskRecord, second: TaskRecord
) -> None:
    """Such a job could not be gone on with; one of a node's own is no trouble."""
    tasks = (replace(first, gpu_ids=(0, 1)), replace(second, gpu_ids=(1, 2)))
    data = write_snapshot(replace(small_job(2), tasks=tasks), Head())
    with pytest.raises(StateFileError, match=r"tasks\[1\]: another task has its slot or GPU"):
        read_snapshot(data, PLACE)
    tasks = (replace(running(0, 0), gpu_ids=(0, 1)), replace(running(1, 1), gpu_ids=(2, 3)))
    data = write_snapshot(replace(small_job(2), tasks=tasks), Head())
    assert read_snapshot(data, PLACE)[1].tasks == tasks


def test_a_snapshot_says_why_no_job_can_be_driven_by_it() -> None:
    """A copy names what it was made from; one that was put away says so."""
    assert not Head(3, 4).frozen
    assert Head(3, 4).numbers == (3, 4)
    assert "/x/job.json" in Head(copy_of="/x/job.json").frozen
    assert "later job" in Head(put_away=True).frozen


UNCHECKED = "these can be infinite, and no script, and no time of day, can be made of them"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("job", "created"), math.inf),
        (("job", "settings", "time_limit"), math.inf),
        (("tasks", 0, "cancel"), {"grace": math.inf, "reason": "x"}),
    ],
)
def test_a_span_can_be_told(place: tuple[str | int, ...], value: Any) -> None:
    """Neither a grace nor a limit is without end, or it would be None."""
    with pytest.raises(StateFileError):
        read_snapshot(put(*place, value=value), PLACE)


@pytest.mark.parametrize(("step", "total"), [(3, 2), (-1, 2), (0, 0), (0, -1), (-2, -1)])
def test_progress_is_within_its_bounds(step: int, total: int) -> None:
    """A bar can be drawn for whatever is read."""
    progress = {"step": step, "total": total}
    with pytest.raises(StateFileError, match=rf"tasks\[1\]: its progress is {step} of {total}"):
        read_snapshot(put("tasks", 1, "status", "progress", value=progress), PLACE)
    good = put("tasks", 1, "status", "progress", value={"step": 2, "total": 2})
    assert read_snapshot(good, PLACE)[1].tasks[1].status.progress == Progress(2, 2)


@pytest.mark.parametrize("job_id", ["20260101-120000-ab12", "a", "7", "A.b_c-d", "a" * 100])
def test_a_job_may_be_called_as_jobs_are(job_id: str) -> None:
    """Letters, digits and ``._-`` make a directory's name on any node."""
    assert read_snapshot(put("job", "job_id", value=job_id), PLACE)[1].job.job_id == job_id


@BUSY_MACHINE
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_as_a_snapshot(data: bytes) -> None:
    """No exception but ``StateFileError``, which names the file."""
    with pytest.raises(StateFileError) as caught:
        read_snapshot(data, PLACE)
    assert str(caught.value).startswith(PLACE)


GOOD = write_snapshot(
    replace(small_job(), tasks=(running(0), TaskRecord(TaskStatus(1, TaskState.FAILED)))), Head()
)
GOOD_PLACES = places(json.loads(GOOD))


@settings(BUSY_MACHINE, max_examples=200)
@given(place=st.sampled_from(GOOD_PLACES), value=JSON, remove=st.booleans())
def test_a_snapshot_with_any_value_in_one_place_makes_sense_or_is_refused(
    place: tuple[str | int, ...], value: Any, remove: bool
) -> None:
    """What is taken can be written again as it is; all else is refused with the file's name."""
    whole = json.loads(GOOD)
    if remove:
        del at(whole, place[:-1])[place[-1]]
    else:
        at(whole, place[:-1])[place[-1]] = value
    with suppress(StateFileError):
        head, state = read_snapshot(json.dumps(whole).encode(), PLACE)
        assert read_snapshot(write_snapshot(state, head), PLACE) == (head, state)


@settings(BUSY_MACHINE, max_examples=200)
@given(first=st.integers(0, len(GOOD)), length=st.integers(0, 9), new=st.binary(max_size=9))
def test_a_snapshot_with_any_bytes_spoiled_makes_sense_or_is_refused(
    first: int, length: int, new: bytes
) -> None:
    """No other exception, whatever a disk did to it."""
    with suppress(StateFileError):
        head, state = read_snapshot(GOOD[:first] + new + GOOD[first + length :], PLACE)
        assert read_snapshot(write_snapshot(state, head), PLACE) == (head, state)


@pytest.mark.parametrize("depth", range(600, 1000, 7))
def test_nesting_at_the_interpreters_limit_is_refused(depth: int) -> None:
    """Whether the reader of JSON gives up, or what comes after it: it is no job."""
    deep = b"[" * depth + b"]" * depth
    for data in (
        deep,
        b'{"allot":"state","version":1,"job":%b}' % deep,
        b'{"allot":"state","version":%b}' % deep,
    ):
        with pytest.raises(StateFileError, match=PLACE):
            read_snapshot(data, PLACE)


def test_output_files_need_not_be_utf8() -> None:
    """A file name is bytes to its system, and comes back as these bytes."""
    path = Path("/out") / b"\xff\xfe".decode("utf-8", "surrogateescape")
    task = replace(waiting(0), status=TaskStatus(0, output_file=path), error_file=path)
    state = replace(small_job(1), tasks=(task,))
    assert read_snapshot(write_snapshot(state, Head()), PLACE)[1] == state
