"""A job of the same name that was there before: refused, cancelled, or put away.

Rules: nothing of an earlier job is lost. Its outputs and a copy of its state go together to
``.allot/<its job_id>/``, once nothing but the disk can be in the way of the new job any more, and
its name belongs to the new one. Its state file stays until the new job's takes its place, so that
a move that was broken off is taken up again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allot import paths
from allot.claims import as_claim, read_claims
from allot.errors import ConfigError, JobExistsError
from allot.lease import Holder, Lease, Vigil, claim
from allot.model import Params, TaskState
from allot.records import JobState, TaskRecord
from allot.statefile import Head, write_snapshot
from allot.store import StoredState, write_whole


def find_previous(state_file: Path) -> JobState | None:
    """The job that has a state file, or None where there is none.

    Raises:
        StateFileError: It is no state of a job, or cannot be read.
    """
    return StoredState(state_file).remembered.state if os.path.lexists(state_file) else None


def is_over(state: JobState) -> bool:
    """Whether no task of a job waits or runs."""
    return all(task.status.state.is_final for task in state.tasks)


def runs(state: JobState) -> bool:
    """Whether a task of a job may still run."""
    return any(task.status.state is TaskState.RUNNING for task in state.tasks)


def refuse(state: JobState, state_file: Path) -> JobExistsError:
    """The error for a job that is not over, which says how to go on."""
    job = state.job.settings
    states = [task.status.state for task in state.tasks]
    driver = driven_by(state_file)
    return JobExistsError(
        f"job {job.job_name} in {job.output_dir} is not over: {states.count(TaskState.RUNNING)} "
        f"tasks run, {states.count(TaskState.PENDING)} wait"
        f"{f' (it is driven by {driver})' if driver else ''}; Cluster.load({str(job.output_dir)!r})"
        " goes on with it, overwrite=True cancels it first"
    )


def driven_by(state_file: Path) -> Holder | None:
    """Who may drive a job now, or None; it takes some seconds where that client was elsewhere.

    Raises:
        ConfigError: That cannot be found out.
    """
    try:
        return Vigil(state_file).wait()
    except OSError as error:
        raise ConfigError(f"{state_file.parent} cannot be read: {error.strerror}") from error


def completed(state: JobState, params: Sequence[Params] | None) -> Mapping[int, TaskRecord]:
    """The tasks of a job that need not run again in a new one, by their ``proc_id`` there.

    Args:
        state: The earlier job.
        params: Those of the new job: where both have some, equal ones tell that two tasks are
            the same, and else the ``proc_id``.
    """
    before = state.job.params
    if (before is None) != (params is None):
        return {}
    places: dict[object, list[int]] = {}
    for proc_id, one in enumerate(params or ()):
        places.setdefault(_key(one), []).append(proc_id)
    kept: dict[int, TaskRecord] = {}
    for old, task in enumerate(state.tasks):
        if task.status.state is not TaskState.COMPLETED:
            continue
        found = [old] if before is None else places.get(_key(before[old]), [])
        if found:
            proc_id = found.pop(0)
            kept[proc_id] = _as_kept(task, proc_id, state)
    return kept


def _key(params: Params) -> object:
    """What is equal for equal parameters; True is not 1 here, and 1.0 is not either."""
    named = params if isinstance(params, Mapping) else {"": params}
    return frozenset((name, type(value), value) for name, value in named.items())


def _as_kept(task: TaskRecord, proc_id: int, state: JobState) -> TaskRecord:
    """A task under its number in the new job; with another one its output has gone away too."""
    kept = replace(
        task,
        status=replace(task.status, node_id=None, proc_id=proc_id),
        avoids=frozenset(),
        retried=0,
    )
    if proc_id == task.status.proc_id:
        return kept
    output_dir = state.job.settings.output_dir
    return _with_moved_files(kept, output_dir, paths.archive(output_dir, state.job.job_id))


def claim_new(state_file: Path, job_id: str, previous: JobState | None) -> Lease:
    """Become the one that drives a new job; a client that has the earlier one still loses it.

    Raises:
        JobExistsError: Another client began one of this name at the same moment, or runs tasks
            of the earlier one again.
        ConfigError: The lease cannot be written.
    """
    try:
        vigil = Vigil(state_file)
        holder = vigil.look()
        earlier = None if previous is None else previous.job.job_id
        is_free = holder is None or holder.job_id == earlier
        if not is_free:
            holder = vigil.wait()
            is_free = holder is None
        lease = claim(state_file, job_id, vigil.generation) if is_free else None
    except OSError as error:
        raise ConfigError(
            f"the state of the job cannot be kept in {state_file.parent}: "
            f"{error.strerror or error}; nothing was started"
        ) from error
    if lease is None:
        raise JobExistsError(
            f"a job {state_file.stem} was just begun in {state_file.parent.parent} by "
            f"{holder or 'another client'}: give this one another name"
        )
    try:
        found = find_previous(state_file)
        was_over = previous is not None and is_over(previous)
        if found is not None and (found.job.job_id != earlier or (was_over and not is_over(found))):
            raise refuse(found, state_file)
    except BaseException:
        lease.release()
        raise
    return lease


def settle(state_file: Path, *, cancel: Callable[[], None] | None, resume: bool) -> JobState | None:
    """The earlier job of a name, once it is over and may be put away.

    Args:
        state_file: Where its state lies.
        cancel: Cancels its tasks, where the user said so.
        resume: Whether what waits there may be taken over, if nothing runs.

    Raises:
        JobExistsError: It is not over.
        StateFileError: It cannot be read.
    """
    previous = find_previous(state_file)
    if previous is None or is_over(previous):
        return previous
    if cancel is not None:
        cancel()
        return find_previous(state_file)
    if resume and not runs(previous) and not driven_by(state_file):
        return previous
    raise refuse(previous, state_file)


def take_over(
    state_file: Path, job_id: str, previous: JobState | None, kept: Mapping[int, TaskRecord]
) -> Lease:
    """Become the one that drives a new job, and put the earlier one away.

    Raises:
        JobExistsError: Another client was quicker.
        ConfigError: The lease cannot be written, or something cannot be moved.
    """
    lease = claim_new(state_file, job_id, previous)
    try:
        if previous is not None:
            put_away(previous, state_file, kept)
    except BaseException:
        lease.release()
        raise
    return lease


def put_away(state: JobState, state_file: Path, kept: Mapping[int, TaskRecord]) -> None:
    """Move a job that is over, outputs and all, out of the way of one of the same name.

    Args:
        state: The job.
        state_file: Where its state lies.
        kept: Tasks whose outputs stay where they are, since they count for the new job.

    Raises:
        ConfigError: Something cannot be moved; the rest is where it was.
    """
    output_dir = state.job.settings.output_dir
    archive = paths.archive(output_dir, state.job.job_id)
    tasks = list(state.tasks)
    try:
        archive.mkdir(parents=True, exist_ok=True)
        for proc_id, task in enumerate(state.tasks):
            if not _stays(task, kept.get(proc_id)):
                tasks[proc_id] = _move(task, output_dir, archive)
        _move_results(tasks, output_dir, archive, state_file, kept)
        moved = write_snapshot(replace(state, tasks=tuple(tasks)), Head(put_away=True))
        write_whole(archive / state_file.name, moved, "moved")
    except OSError as error:
        raise ConfigError(
            f"the earlier job {state.job.job_id} cannot be moved to {archive}: "
            f"{error.strerror or error}"
        ) from error


def _move_results(
    tasks: Sequence[TaskRecord],
    output_dir: Path,
    archive: Path,
    state_file: Path,
    kept: Mapping[int, TaskRecord],
) -> None:
    """Move what was collected beside the outputs; what went elsewhere is the user's now."""
    record = paths.claims_file(state_file)
    stays: list[bytes] = []
    for path, proc_id in read_claims(record).items():
        if proc_id < len(tasks) and _stays(tasks[proc_id], kept.get(proc_id)):
            stays.append(as_claim(path, proc_id))
        elif path.is_relative_to(paths.results_directory(output_dir, proc_id)) and path.is_file():
            target = archive / path.relative_to(output_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            for folder in path.relative_to(output_dir).parents[:-1]:
                with contextlib.suppress(OSError):  # something of the user's is in it
                    (output_dir / folder).rmdir()
    if record.exists():
        whole = paths.temporary_file(record, state_file.stem)
        whole.write_bytes(b"".join(stays))
        whole.replace(record)


def _stays(task: TaskRecord, kept: TaskRecord | None) -> bool:
    """Whether a task's outputs stay where they are, since it is kept under its number."""
    return kept is not None and kept.status.output_file == task.status.output_file


def _move(task: TaskRecord, output_dir: Path, archive: Path) -> TaskRecord:
    status = task.status
    for file in (status.output_file, task.error_file):
        if file is None or not file.is_relative_to(output_dir):
            continue
        earlier = [paths.earlier_attempt(file, attempt) for attempt in range(status.attempt)]
        for one in [*earlier, file]:
            target = archive / one.relative_to(output_dir)
            if one.is_file() and not one.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                one.replace(target)
    return _with_moved_files(task, output_dir, archive)


def _with_moved_files(task: TaskRecord, output_dir: Path, archive: Path) -> TaskRecord:
    output = _moved(task.status.output_file, output_dir, archive)
    return replace(
        task,
        status=replace(task.status, output_file=output),
        error_file=_moved(task.error_file, output_dir, archive),
    )


def _moved(file: Path | None, output_dir: Path, archive: Path) -> Path | None:
    if file is None or not file.is_relative_to(output_dir):
        return file
    return archive / file.relative_to(output_dir)
