"""A job's state on disk: written by the client that drives the job, read by all others.

A snapshot (``<job_name>.json``) is replaced as a whole: written under another name, made sure to
be on disk, renamed. What changes since goes to the end of its journal, which is known by the
snapshot's numbers and begun anew with each. Every file can be read by its owner only.

Rules: whoever writes holds the lease; whatever a failed write left is never written after.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from allot import paths
from allot.errors import StateFileError
from allot.lease import Lease, forget_earlier
from allot.records import Changes, JobState
from allot.statefile import (
    Head,
    Remembered,
    read_changes,
    read_snapshot,
    write_changes,
    write_snapshot,
)

_LEAST_JOURNAL_BYTES = 8 * 1024 * 1024
_JOURNAL_RATIO = 4
_TRIES = 20


class Store:
    """The state of a job that is driven from here.

    Attributes:
        state_file: Where it lies.
        lease: By what right it is written.
    """

    def __init__(self, state_file: Path, lease: Lease, state: JobState) -> None:
        """Write the first snapshot, and keep the lease alive from now on.

        Raises:
            SupersededError: Another client was quicker.
            OSError: It cannot be written.
        """
        self.state_file = state_file
        self.lease = lease
        self._head = Head(lease.generation, -1)
        self._journal: int | None = None
        self._journal_file = state_file
        self._journal_bytes = 0
        self._snapshot_bytes = 0
        lease.start()
        try:
            self._begin_anew(state)
            forget_earlier(state_file, lease.generation)
        except BaseException:
            self.close()
            raise

    def commit(self, changes: Changes, whole: Callable[[], JobState], *, durable: bool) -> None:
        """Write down what changed.

        Args:
            changes: What did.
            whole: Tells all of the job, ``changes`` included, where a snapshot is due.
            durable: Have it on disk when this returns.

        Raises:
            SupersededError: Another client drives the job.
            OSError: It cannot be written; the next commit writes all of the job.
        """
        self.lease.check()
        most = max(_LEAST_JOURNAL_BYTES, _JOURNAL_RATIO * self._snapshot_bytes)
        if self._journal is None or self._journal_bytes > most or self._is_gone():
            self._begin_anew(whole())
            return
        line = write_changes(changes, durable=durable)
        try:
            _write_all(self._journal, line)
            if durable:
                os.fdatasync(self._journal)
        except OSError:
            self._close_journal()
            raise
        self._journal_bytes += len(line)

    def close(self) -> None:
        """Stop writing, and give the lease back."""
        self._close_journal()
        self.lease.release()

    def _is_gone(self) -> bool:
        """Whether the directory was removed, or another file put in the journal's place."""
        if self._journal is None:
            return True
        try:
            return not os.path.samestat(os.stat(self._journal_file), os.fstat(self._journal))
        except FileNotFoundError:
            return True

    def _begin_anew(self, state: JobState) -> None:
        self._close_journal()
        head = self._head = replace(self._head, serial=self._head.serial + 1)
        data = write_snapshot(state, head)
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.state_file, data, f"{head.generation}-{head.serial}")
        self._journal_file = paths.journal_file(self.state_file, head.generation, head.serial)
        self._journal = _create(self._journal_file)
        _sync_directory(self.state_file.parent)
        self._snapshot_bytes, self._journal_bytes = len(data), 0
        for name in os.listdir(self.state_file.parent):
            numbers = paths.journal_numbers(self.state_file, name)
            if numbers is not None and numbers < (head.generation, head.serial):
                self.state_file.with_name(name).unlink(missing_ok=True)

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


def write_whole(file: Path, data: bytes, key: str) -> None:
    """Put a file in the place of another at once, and on disk.

    Raises:
        OSError: It cannot be written; what was there is there still.
    """
    temporary = paths.temporary_file(file, key)
    temporary.unlink(missing_ok=True)
    descriptor = _create(temporary)
    try:
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(file.parent)


@dataclass(frozen=True)
class _Place:
    """How far a snapshot, known by its identity, and its journal were read."""

    identity: tuple[int, int, int]
    journal: Path
    offset: int = 0


class StoredState:
    """A job's state as it lies on disk, read on as it grows.

    Attributes:
        state_file: Where it lies.
        head: Which snapshot was read.
        remembered: The job.
    """

    def __init__(self, state_file: Path) -> None:
        """Read all of it.

        Raises:
            StateFileError: It is missing, torn, foreign, of a newer version, or nonsense.
        """
        self.state_file = state_file
        self.head, self.remembered, self._place = self._read_all()

    def read_on(self) -> bool:
        """Take in what is new; whether there was anything.

        Raises:
            StateFileError: It makes no sense, or is gone.
        """
        if _identity(self.state_file) != self._place.identity:
            job_id = self.remembered.job.job_id
            self.head, self.remembered, self._place = self._read_all()
            if self.remembered.job.job_id != job_id:
                raise StateFileError(
                    f"{self.state_file} is that of a later job now: this one was put away to "
                    f"{self.state_file.parent / job_id}"
                )
            return True
        before = self._place
        self._place = _read_journal(before, self.remembered)
        return self._place != before

    def _read_all(self) -> tuple[Head, Remembered, _Place]:
        file = self.state_file
        for _ in range(_TRIES):
            try:
                identity = _identity(file)
                data = file.read_bytes()
            except OSError as error:
                raise StateFileError(f"{file} cannot be read: {error.strerror or error}") from error
            head, state = read_snapshot(data, str(file))
            place = _Place(identity, paths.journal_file(file, head.generation, head.serial))
            remembered = Remembered(state)
            if not head.copy_of:
                place = _read_journal(place, remembered)
            if _identity(file) == identity:  # else its journal was removed for the next one's
                return head, remembered, place
        raise StateFileError(f"{file} changes faster than it can be read")


def _read_journal(place: _Place, remembered: Remembered) -> _Place:
    """Take in what a journal has got since it was read."""
    try:
        with place.journal.open("rb") as file:
            file.seek(place.offset)
            data = file.read()
    except FileNotFoundError:  # it was not begun yet
        return place
    except OSError as error:
        raise StateFileError(f"{place.journal} cannot be read: {error.strerror}") from error
    changes, taken = read_changes(data, str(place.journal))
    if changes:
        remembered.apply(changes, str(place.journal))
    return replace(place, offset=place.offset + taken)


def _identity(file: Path) -> tuple[int, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
