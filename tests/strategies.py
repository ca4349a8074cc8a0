"""What a job can be remembered as, for Hypothesis: any records, and whole jobs that make sense."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from allot.answers import Gpu
from allot.environment import Group, Rendezvous
from allot.events import Cursor
from allot.model import (
    NodeHealth,
    NodeSpec,
    NodeState,
    Params,
    Progress,
    Scalar,
    TaskState,
    TaskStatus,
)
from allot.probe import NodeFacts, NodeProbe, Sharing
from allot.records import (
    CancelRecord,
    Changes,
    JobRecord,
    JobState,
    NodeRecord,
    TaskRecord,
)
from allot.scheduler import Distribution
from allot.script import Launch
from allot.settings import Settings

# How long an example takes says more about the machine than about the code.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Two halves that make up one sign are that sign to JSON, and to every file name.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SIGNS = st.one_of(st.characters(codec="utf-8"), st.integers(0xD800, 0xDFFF).map(chr))

TEXT = st.one_of(
    st.sampled_from(["", "node01", "a b'c", "path", '"\\\n\0', "\udcff", "\ud83d", "ß🙂"]),
    st.text(_SIGNS, max_size=6).filter(lambda text: not _PAIR.search(text)),
)
PATHS = st.one_of(
    st.sampled_from([Path("/out/0.out"), Path("."), Path("~/x"), Path("/\udcff")]), TEXT.map(Path)
)
INTS = st.one_of(st.integers(0, 3), st.integers(-(2**70), 2**70))
COUNTS = st.one_of(st.integers(1, 3), st.integers(1, 2**62))
FLOATS = st.one_of(st.sampled_from([0.0, 0.1, 1795403069.075494]), st.floats(-1e12, 1e12))
LIMITS = st.one_of(st.floats(0.001, 1e9), st.just(math.inf))
SECONDS = st.floats(0.001, 1e9)
MAYBE_TEXT = st.none() | TEXT
MAYBE_COUNT = st.none() | COUNTS
SMALL = st.integers(0, 4)
VARIABLES = st.dictionaries(TEXT, TEXT, max_size=2)

SCALARS: st.SearchStrategy[Scalar] = st.one_of(
    st.booleans(), INTS, st.floats(allow_nan=False), TEXT, PATHS
)
PARAMS: st.SearchStrategy[Params] = st.one_of(
    st.none(), SCALARS, st.dictionaries(TEXT, SCALARS, max_size=3)
)

_T = TypeVar("_T")


def some(
    kind: Callable[..., _T], *needed: st.SearchStrategy[Any], **others: st.SearchStrategy[Any]
) -> st.SearchStrategy[_T]:
    """Records with some of the fields that need not be given: few of many, which is quick."""
    pairs = [st.tuples(st.just(name), strategy) for name, strategy in others.items()]
    given = st.lists(st.one_of(pairs), max_size=4).map(dict)
    return st.builds(lambda given, *first: kind(*first, **given), given, *needed)


SPECS = some(
    NodeSpec, TEXT, user=MAYBE_TEXT, port=MAYBE_COUNT, slots=MAYBE_COUNT, gpus=st.none() | SMALL
)
PROBES = some(
    NodeProbe,
    max_load_per_cpu=st.none() | LIMITS,
    min_free_memory=MAYBE_COUNT,
    max_gpu_utilization=st.none() | LIMITS,
    share_gpus=st.booleans(),
    hours=st.sampled_from([None, "19:00-07:00", "00:00-00:01"]),
    min_idle=st.none() | LIMITS,
    timeout=SECONDS,
    interval=LIMITS,
)
SETTINGS = some(
    Settings,
    st.sampled_from(["job", "a b'c", "Größe", ".x", "\udcff", "a" * 200]),
    PATHS,
    nnodes=MAYBE_COUNT,
    ntasks=MAYBE_COUNT,
    ntasks_per_node=MAYBE_COUNT,
    cpus_per_task=MAYBE_COUNT,
    gpus_per_task=SMALL,
    mem_per_task=MAYBE_COUNT,
    oversubscribe=st.booleans(),
    distribution=st.sampled_from(Distribution),
    time_limit=st.none() | SECONDS,
    retries=SMALL,
    kill_on_bad_exit=st.booleans(),
    max_failures=MAYBE_COUNT,
    node_max_failures=COUNTS,
    setup=st.lists(TEXT, max_size=2).map(tuple),
    cwd=MAYBE_TEXT,
    login_shell=st.booleans(),
    nice=st.integers(-20, 19),
    env=VARIABLES,
    export=st.sampled_from([(), ("slurm",), ("HOME", "slurm")]),
    wait_for_nodes=SECONDS,
    node_timeout=st.none() | SECONDS,
    shared_fs=st.none() | st.booleans(),
    poll_interval=SECONDS,
    max_bars=MAYBE_COUNT,
)
GROUPS = st.builds(
    Group,
    st.builds(Rendezvous, TEXT, st.lists(COUNTS, max_size=2).map(tuple)),
    sizes=st.dictionaries(st.integers(0, 99), SMALL, max_size=2),
    gpus=st.dictionaries(st.integers(0, 99), st.lists(SMALL, max_size=2).map(tuple), max_size=2),
)
FACTS = some(
    NodeFacts,
    st.builds(NodeHealth, COUNTS, FLOATS, FLOATS, COUNTS, COUNTS, SMALL, TEXT),
    st.booleans(),
    st.builds(Sharing, shared=st.booleans(), fresh=st.booleans()),
    FLOATS,
    minute=SMALL,
    idle=st.none() | SECONDS,
    gpus=st.lists(st.builds(Gpu, SMALL, st.booleans(), TEXT), max_size=2).map(tuple),
    gpu_vendor=st.sampled_from([None, "nvidia", "amd"]),
    kills_at_logout=st.booleans(),
)
CANCELS = st.builds(CancelRecord, SECONDS, TEXT)


def launches(
    proc_id: st.SearchStrategy[int],
    attempt: st.SearchStrategy[int],
    local_id: st.SearchStrategy[int],
) -> st.SearchStrategy[Launch]:
    """What was sent to a node."""
    rest = (PATHS, st.none() | PATHS, MAYBE_TEXT, VARIABLES, TEXT)
    return st.builds(Launch, proc_id, attempt, local_id, *rest)


def jobs(params: st.SearchStrategy[tuple[Params, ...] | None]) -> st.SearchStrategy[JobRecord]:
    """What does not belong to one task or node."""
    return some(
        JobRecord,
        st.sampled_from(["20260101-120000-ab12", "j", "J.1_x-", "a" * 100]),
        COUNTS,
        FLOATS,
        SETTINGS,
        PROBES,
        st.lists(SPECS, max_size=2).map(tuple),
        st.none() | PATHS,
        params,
        group=st.none() | GROUPS,
        stopped=st.booleans(),
        followed=st.lists(TEXT, max_size=2).map(tuple),
    )


def nodes(node_id: st.SearchStrategy[int]) -> st.SearchStrategy[NodeRecord]:
    """One node that is used."""
    return some(
        NodeRecord,
        TEXT,
        node_id,
        SPECS,
        COUNTS,
        FACTS,
        state=st.sampled_from(NodeState),
        reason=TEXT,
        drained=TEXT,
        is_prepared=st.booleans(),
        orphans=st.lists(st.tuples(SMALL, SMALL), max_size=2).map(tuple),
        cursor=st.builds(Cursor, COUNTS, TEXT),
    )


@st.composite
def tasks(draw: st.DrawFn, proc_id: int, nnodes: int) -> TaskRecord:
    """A task of a job with so many nodes, in a state that makes sense."""
    states = [state for state in TaskState if nnodes or state is not TaskState.RUNNING]
    state, attempt = draw(st.sampled_from(states)), draw(SMALL)
    local_id = proc_id  # and GPUs of its own: no two tasks that run have one
    place: dict[str, Any] = {}
    if nnodes and state is not TaskState.PENDING:
        node_id = draw(st.integers(0, nnodes - 1))
        place = {"node_name": draw(TEXT), "node_id": node_id, "local_id": local_id}
    status = some(
        partial(TaskStatus, proc_id, state, attempt=attempt, **place),
        progress=st.tuples(st.integers(0, 9), st.integers(9, 12)).map(lambda p: Progress(*p)),
        exit_code=st.integers(0, 255),
        output_file=PATHS,
        started_at=FLOATS,
        ended_at=FLOATS,
        reason=TEXT,
    )
    launch = launches(st.just(proc_id), st.just(attempt), st.just(local_id))
    gpus = st.integers(9 * proc_id, 9 * proc_id + 8)
    record = some(
        TaskRecord,
        status,
        turn=INTS,
        gpu_ids=st.lists(gpus, max_size=2, unique=True).map(tuple),
        avoids=st.frozensets(SMALL, max_size=2),
        retried=SMALL,
        error_file=PATHS,
        cancel=CANCELS,
    )
    return replace(draw(record), launch=draw(launch) if state is TaskState.RUNNING else None)


@st.composite
def states(draw: st.DrawFn, most_tasks: int = 3, most_nodes: int = 2) -> JobState:
    """A whole job that makes sense."""
    nnodes, ntasks = draw(st.integers(0, most_nodes)), draw(st.integers(0, most_tasks))
    params = st.none() | st.lists(PARAMS, min_size=ntasks, max_size=ntasks).map(tuple)
    return JobState(
        draw(jobs(params)),
        tuple(draw(nodes(st.just(node_id))) for node_id in range(nnodes)),
        tuple(draw(tasks(proc_id, nnodes)) for proc_id in range(ntasks)),
    )


@st.composite
def changes_of(draw: st.DrawFn, state: JobState) -> Changes:
    """What may come next of a job that has tasks: some of them, a node, or a node more."""
    nnodes, proc_ids = len(state.nodes), st.integers(0, len(state.tasks) - 1)
    job = replace(state.job, stopped=True)
    progress = st.tuples(proc_ids, SMALL, st.integers(0, 9), st.integers(9, 12))
    numbers = draw(st.lists(proc_ids, max_size=2, unique=True))
    return Changes(
        draw(st.sampled_from([None, job])),
        tuple(draw(st.lists(nodes(st.integers(0, nnodes)), max_size=1))),
        tuple(draw(tasks(number, nnodes)) for number in numbers),
        tuple(draw(st.lists(progress, max_size=2))),
    )


# Not a job that makes sense, but every field has any value that its type allows.
ANY_TASKS = some(
    TaskRecord,
    some(
        TaskStatus,
        INTS,
        st.sampled_from(TaskState),
        node_name=MAYBE_TEXT,
        node_id=st.none() | INTS,
        local_id=st.none() | INTS,
        attempt=INTS,
        progress=st.none() | st.builds(Progress, INTS, INTS),
        exit_code=st.none() | INTS,
        output_file=st.none() | PATHS,
        started_at=st.none() | FLOATS,
        ended_at=st.none() | FLOATS,
        reason=TEXT,
        params=PARAMS,
    ),
    turn=INTS,
    gpu_ids=st.lists(INTS, max_size=2).map(tuple),
    avoids=st.frozensets(INTS, max_size=2),
    retried=INTS,
    launch=st.none() | launches(INTS, INTS, INTS),
    error_file=st.none() | PATHS,
    cancel=st.none() | CANCELS,
)
ANY_JOBS = jobs(st.none() | st.lists(PARAMS, max_size=2).map(tuple))
ANY_STATES = st.builds(
    JobState,
    ANY_JOBS,
    st.lists(nodes(INTS), max_size=1).map(tuple),
    st.lists(ANY_TASKS, max_size=2).map(tuple),
)
ANY_CHANGES = st.builds(
    Changes,
    st.none() | ANY_JOBS,
    st.lists(nodes(INTS), max_size=1).map(tuple),
    st.lists(ANY_TASKS, max_size=2).map(tuple),
    st.lists(st.tuples(INTS, INTS, INTS, INTS), max_size=2).map(tuple),
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        INTS,
        st.floats(),
        TEXT,
        st.sampled_from(["RUNNING", "job", "status", "proc_id", 10**400, 1e308]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(TEXT, st.sampled_from(["job", "nodes", "tasks", "status", "params"])),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


def places(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to every value within a JSON value, but itself."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    found = []
    for key, one in inner:
        found += [(*place, key), *places(one, (*place, key))]
    return found


def at(value: Any, place: tuple[str | int, ...]) -> Any:
    """What lies there in a JSON value."""
    for key in place:
        value = value[key]
    return value


# A small job written by hand, for tests where what it is does not matter.
JOB = JobRecord("j1", 1, 1e9, Settings("job", Path("/out")), NodeProbe(), (NodeSpec("nd01"),))
HEALTH = NodeHealth(8, 0.5, 0.5, 2**30, 2**31, 0, "boot")
NODE = NodeRecord("nd01", 0, NodeSpec("nd01"), 2, NodeFacts(HEALTH, True, Sharing(True, True), 0.0))


def waiting(proc_id: int, reason: str = "") -> TaskRecord:
    """A task that waits, and says why."""
    return TaskRecord(TaskStatus(proc_id, reason=reason), turn=proc_id)


def running(proc_id: int, local_id: int = 0) -> TaskRecord:
    """A task that runs on the only node."""
    launch = Launch(proc_id, 0, local_id, Path(f"/out/{proc_id}.out"), None, None, {}, "true")
    status = TaskStatus(proc_id, TaskState.RUNNING, "nd01", 0, local_id)
    return TaskRecord(status, launch=launch)


def small_job(ntasks: int = 3) -> JobState:
    """One node, and tasks that all wait."""
    return JobState(JOB, (NODE,), tuple(waiting(proc_id) for proc_id in range(ntasks)))
