"""A job's state on disk: written by the client that drives the job, read by all others.

A snapshot is written under another name, made sure to be on disk, and renamed; ``<job_name>.json``
is a second name of it. What changes since goes to the end of its journal. Both are known by the
client's generation and a serial, so that one who wakes up after another took the job can only
write files that nobody looks at: the highest numbers count, whatever ``<job_name>.json`` is at
that moment. Every file can be read by its owner only.

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
        """Write the first snapshot.

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
        self._is_copied = False
        try:
            self._begin_anew(state)
            forget_earlier(state_file, lease.generation)
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        """Whether the files are those that were written: nobody removed or replaced one."""
        journal = self._journal
        if journal is None:
            return False
        numbers = self._head.numbers
        try:
            mine = os.stat(paths.snapshot_file(self.state_file, *numbers))
            return os.path.samestat(os.stat(self._journal_file), os.fstat(journal)) and (
                self._is_copied or os.path.samestat(os.stat(self.state_file), mine)
            )
        except OSError:
            return False

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
        try:
            self._commit(changes, whole, durable=durable)
        except BaseException:
            self._close_journal()
            raise

    def _commit(self, changes: Changes, whole: Callable[[], JobState], *, durable: bool) -> None:
        self.lease.check()
        most = max(_LEAST_JOURNAL_BYTES, _JOURNAL_RATIO * self._snapshot_bytes)
        if self._journal is None or self._journal_bytes > most or not self.is_whole:
            self._begin_anew(whole())
            return
        line = write_changes(changes, durable=durable)
        _write_all(self._journal, line)
        if durable:
            os.fdatasync(self._journal)
        self._journal_bytes += len(line)

    def close(self) -> None:
        """Stop writing, and give the lease back."""
        self._close_journal()
        self.lease.release()

    def _begin_anew(self, state: JobState) -> None:
        self._close_journal()
        head = self._head = replace(self._head, serial=self._head.serial + 1)
        data = write_snapshot(state, head)
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        snapshot = paths.snapshot_file(self.state_file, *head.numbers)
        write_whole(snapshot, data, "new")
        self._journal_file = paths.journal_file(self.state_file, *head.numbers)
        self._journal = _create(self._journal_file)
        # A client that was asleep until now may be superseded: its lower numbers do no harm.
        self.lease.check()
        self._is_copied = not _link(snapshot, self.state_file)
        if self._is_copied:
            write_whole(self.state_file, data, f"{head.generation}-{head.serial}")
        _sync_directory(self.state_file.parent)
        self._snapshot_bytes, self._journal_bytes = len(data), 0
        self._remove_earlier()

    def _remove_earlier(self) -> None:
        for name in os.listdir(self.state_file.parent):
            for kind in ("journal", "snapshot"):
                numbers = paths.numbers_of(self.state_file, name, kind)
                if numbers is not None and numbers < self._head.numbers:
                    self.state_file.with_name(name).unlink(missing_ok=True)

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            with contextlib.suppress(OSError):  # what it may have left is not relied upon
                os.close(journal)


def _link(snapshot: Path, state_file: Path) -> bool:
    """Give a snapshot its other name; False where the file system has no hard links."""
    temporary = paths.temporary_file(state_file, snapshot.suffixes[-2].lstrip("."))
    temporary.unlink(missing_ok=True)
    try:
        os.link(snapshot, temporary)
    except OSError:
        return False
    try:
        temporary.replace(state_file)
    finally:
        temporary.unlink(missing_ok=True)
    return True


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

    def __init__(self, state_file: Path, job_id: str | None = None) -> None:
        """Read all of it.

        Args:
            state_file: Where it lies.
            job_id: The job whose state it should be; None: whichever it is.

        Raises:
            StateFileError: It is missing, torn, foreign, of a newer version, nonsense, or
                another job's.
        """
        self.state_file = state_file
        self.head, self.remembered, self._place = self._read_all(job_id)

    def read_on(self) -> bool:
        """Take in what is new; whether there was anything.

        Raises:
            StateFileError: It makes no sense, or is gone.
        """
        if _identity(self.state_file) != self._place.identity:
            job_id = self.remembered.job.job_id
            self.head, self.remembered, self._place = self._read_all(job_id)
            return True
        before = self._place
        self._place = _read_journal(before, self.remembered)
        return self._place != before

    def _read_all(self, job_id: str | None) -> tuple[Head, Remembered, _Place]:
        for _ in range(_TRIES):
            identity = _identity(self.state_file)
            head, state = _read_snapshot(self.state_file)
            later = None if head.frozen else self._later(head)
            if later is not None:
                try:
                    head, state = _read_snapshot(later)
                except StateFileError:
                    if not later.exists():
                        continue
                    raise
            if job_id not in (None, state.job.job_id):
                raise StateFileError(
                    f"{self.state_file} is that of a later job now: this one was put away to "
                    f"{self.state_file.parent / str(job_id)}"
                )
            place = _Place(identity, paths.journal_file(self.state_file, *head.numbers))
            remembered = Remembered(state)
            if not head.frozen:
                place = _read_journal(place, remembered)
            # Else its journal may have been removed for that of the next snapshot.
            if _identity(self.state_file) == identity and (head.frozen or not self._later(head)):
                return head, remembered, place
        raise StateFileError(f"{self.state_file} changes faster than it can be read")

    def _later(self, head: Head) -> Path | None:
        """A later snapshot than the state file holds, if there is one."""
        names = _names(self.state_file.parent)
        found = [paths.numbers_of(self.state_file, name, "snapshot") for name in names]
        newest = max((numbers for numbers in found if numbers is not None), default=(0, 0))
        return paths.snapshot_file(self.state_file, *newest) if newest > head.numbers else None


def _read_snapshot(file: Path) -> tuple[Head, JobState]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StateFileError(f"{file} cannot be read: {error.strerror or error}") from error
    return read_snapshot(data, str(file))


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise StateFileError(f"{directory} cannot be read: {error.strerror or error}") from error


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
