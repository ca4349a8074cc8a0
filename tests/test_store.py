"""A job's state on disk: nothing that was written is lost, and readers follow, whatever fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BUSY_MACHINE, JOB, NODE, changes_of, running, small_job, states, waiting

from allot import lease as lease_module
from allot import paths
from allot import store as store_module
from allot.errors import StateFileError
from allot.lease import LEASE_S, Lease, SupersededError, Vigil, claim, newest_generation
from allot.records import Changes, JobState
from allot.statefile import Head, Remembered, write_changes, write_snapshot
from allot.store import Store, StoredState, write_whole

NOTHING = Changes()


class Kept:
    """A job that is written down, and what of it must be found on disk.

    Attributes:
        store: What writes it.
        remembered: What it was told.
        wholes: How often it asked for all of the job.
    """

    def __init__(self, store: Store, state: JobState) -> None:
        self.store = store
        self.remembered = Remembered(state)
        self.wholes = 0

    def commit(self, changes: Changes, *, durable: bool = True) -> None:
        """Something changes, and is to be written down."""
        self.remembered.apply([changes], "test")
        self.write(changes, durable=durable)

    def write(self, changes: Changes = NOTHING, *, durable: bool = True) -> None:
        """Write down what changed before."""
        self.store.commit(changes, self.whole, durable=durable)

    def say(self, proc_id: int, reason: str, *, durable: bool = True) -> None:
        """A task that waits says why."""
        self.commit(Changes(tasks=(waiting(proc_id, reason),)), durable=durable)

    def whole(self) -> JobState:
        """All of the job."""
        self.wholes += 1
        return self.remembered.state

    def on_disk(self) -> JobState:
        """What a client finds that comes now; it changes nothing by looking."""
        directory = self.store.state_file.parent
        before = contents(directory)
        state = StoredState(self.store.state_file).remembered.state
        assert contents(directory) == before
        return state

    def check(self) -> None:
        """What was told is on disk, and nothing else lies there."""
        assert self.on_disk() == self.remembered.state
        head = StoredState(self.store.state_file).head
        file = self.store.state_file
        expected = [
            file,
            paths.snapshot_file(file, *head.numbers),
            paths.journal_file(file, *head.numbers),
            paths.lease_file(file, self.store.lease.generation),
        ]
        assert sorted(file.parent.iterdir()) == sorted(expected)


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """What lies in a directory and is no lease, which changes by itself."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.is_file() and path.suffix != ".lease"
    }


def journal_of(state_file: Path) -> Path:
    """The only journal of a job."""
    [journal] = state_file.parent.glob(f"{state_file.stem}.*.journal")
    return journal


@contextmanager
def keeping(state_file: Path, state: JobState) -> Iterator[Kept]:
    """The next client that drives a job."""
    lease = claim(state_file, state.job.job_id, newest_generation(state_file))
    assert lease is not None
    store = Store(state_file, lease, state)
    try:
        yield Kept(store, state)
    finally:
        store.close()


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """Where the job's state lies."""
    return tmp_path / "out" / ".allot" / "job.json"


@pytest.fixture
def kept(state_file: Path) -> Iterator[Kept]:
    """A job of three tasks that wait."""
    with keeping(state_file, small_job()) as kept:
        yield kept


@pytest.fixture
def compact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new snapshot is due after a line or two."""
    monkeypatch.setattr(store_module, "_LEAST_JOURNAL_BYTES", 80)
    monkeypatch.setattr(store_module, "_JOURNAL_RATIO", 0)


def test_the_files_are_for_their_owner_only(state_file: Path) -> None:
    """Parameters and commands may be secret; whatever the umask is."""
    before = os.umask(0)
    try:
        with keeping(state_file, small_job()) as kept:
            kept.say(0, "secret")
            modes = {path.name: path.stat().st_mode for path in state_file.parent.iterdir()}
    finally:
        os.umask(before)
    assert {name: stat.S_IMODE(mode) for name, mode in modes.items()} == {
        "job.json": 0o600,
        "job.1-0.snapshot": 0o600,
        "job.1-0.journal": 0o600,
        "job.1.lease": 0o600,
    }


def test_a_reader_follows_what_is_written(kept: Kept, state_file: Path) -> None:
    """It is told whether there was anything, and takes in a line at a time."""
    reader = StoredState(state_file)
    assert reader.remembered.state == small_job()
    assert not reader.read_on()
    for number in range(3):
        kept.say(number, f"change {number}", durable=number == 2)
        assert reader.read_on()
        assert reader.remembered.state == kept.remembered.state
        assert not reader.read_on()
    assert kept.wholes == 0
    kept.check()


def test_a_line_in_the_making_is_taken_in_once_it_is_whole(kept: Kept, state_file: Path) -> None:
    """A reader that comes in the middle of a write sees what was before, then what is there."""
    line = write_changes(Changes(tasks=(waiting(0, "late"),)), durable=True)
    reader = StoredState(state_file)
    with journal_of(state_file).open("ab", buffering=0) as journal:
        for byte in line[:-1]:
            journal.write(bytes([byte]))
            assert not reader.read_on()
        journal.write(line[-1:])
    assert reader.read_on()
    assert reader.remembered.tasks[0] == waiting(0, "late")


@settings(BUSY_MACHINE, max_examples=25)
@given(
    data=st.data(),
    state=states(most_tasks=2, most_nodes=1).filter(lambda state: state.tasks),
    most_bytes=st.sampled_from([0, 300, 10**9]),
)
def test_whatever_changes_is_found_on_disk(
    data: st.DataObject, state: JobState, most_bytes: int
) -> None:
    """By whoever reads all of it, and by those that follow, also over new snapshots."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_LEAST_JOURNAL_BYTES", most_bytes)
        patch.setattr(store_module, "_JOURNAL_RATIO", 0)
        state_file = Path(name) / "job.json"
        with keeping(state_file, state) as kept:
            eager, lazy = StoredState(state_file), StoredState(state_file)
            for _ in range(data.draw(st.integers(1, 3))):
                kept.commit(data.draw(changes_of(state)), durable=data.draw(st.booleans()))
                eager.read_on()
                assert eager.remembered.state == kept.remembered.state
            lazy.read_on()
            assert lazy.remembered.state == kept.remembered.state
            kept.check()


def test_the_journal_is_begun_anew_before_it_grows_large(
    kept: Kept, state_file: Path, compact: None
) -> None:
    """The old one goes, and the new snapshot has all that was in it."""
    for number in range(8):
        kept.say(number % 3, f"change {number}")
        kept.check()
    assert kept.wholes >= 2
    assert StoredState(state_file).head == Head(1, kept.wholes)


def test_a_reader_follows_over_many_snapshots(kept: Kept, state_file: Path, compact: None) -> None:
    """While one client writes as fast as it can, another never sees anything go back."""
    count = 60
    seen: list[int] = []
    reader = StoredState(state_file)
    is_over = threading.Event()

    def follow() -> None:
        last = False
        while not last:
            last = is_over.is_set()
            reader.read_on()
            seen.append(len(reader.remembered.tasks[0].status.reason))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        for number in range(1, count + 1):
            kept.say(0, "x" * number, durable=False)
            assert len(StoredState(state_file).remembered.tasks[0].status.reason) == number
    finally:
        is_over.set()
        thread.join()
    assert kept.wholes > 10
    assert seen == sorted(seen)
    assert seen[-1] == count


def test_a_snapshot_is_read_whose_journal_was_not_begun_yet(kept: Kept, state_file: Path) -> None:
    """A client that came between the two, or after a crash there, misses nothing."""
    kept.say(0, "before")
    reader = StoredState(state_file)
    head = Head(1, 1)
    write_whole(state_file, write_snapshot(kept.remembered.state, head), "test")
    journal_of(state_file).unlink()
    assert reader.read_on()
    assert not reader.read_on()
    assert reader.head == head
    assert reader.remembered.state == StoredState(state_file).remembered.state
    assert reader.remembered.state == kept.remembered.state


def test_a_copy_is_all_there_is_of_a_job(tmp_path: Path, kept: Kept, state_file: Path) -> None:
    """One that was saved elsewhere has no journal, though it is called like one that has."""
    kept.say(0, "later")
    copy = state_file.with_name("copy.json")
    copy.write_bytes(write_snapshot(small_job(), Head(1, 0, copy_of=str(state_file))))
    shutil.copy(journal_of(state_file), paths.journal_file(copy, 1, 0))
    assert StoredState(copy).remembered.state == small_job()
    assert StoredState(copy).head.copy_of == str(state_file)


def test_the_next_client_goes_on_and_clears_up(state_file: Path) -> None:
    """It finds all, writes it anew under its own number, and takes the earlier files away."""
    for generation in range(1, 4):
        state = StoredState(state_file).remembered.state if generation > 1 else small_job()
        assert Vigil(state_file).look() is None
        with keeping(state_file, state) as kept:
            assert StoredState(state_file).head == Head(generation, 0)
            kept.say(generation % 3, f"by client {generation}")
            kept.check()
    assert [task.status.reason[-1:] for task in kept.on_disk().tasks] == ["3", "1", "2"]


def test_jobs_whose_names_begin_alike_keep_out_of_each_others_way(tmp_path: Path) -> None:
    """Neither reads, nor removes, what belongs to the other."""
    with ExitStack() as stack:
        jobs: dict[str, Kept] = {}
        for name in ("a", "a.1", "a.1-0"):
            for _ in range(2):  # the second client clears up after the first one
                with keeping(tmp_path / f"{name}.json", small_job()) as one:
                    one.say(0, name)
            jobs[name] = stack.enter_context(
                keeping(tmp_path / f"{name}.json", one.remembered.state)
            )
            jobs[name].say(1, name)
        for name, one in jobs.items():
            assert one.on_disk() == one.remembered.state
            assert one.remembered.tasks[1] == waiting(1, name)
            assert one.store.lease.generation == 3
        lines = [journal_of(file).name for file in tmp_path.glob("*-0.json")]
        assert lines == ["a.1-0.3-0.journal"]


def test_closing_gives_the_lease_back(kept: Kept, state_file: Path) -> None:
    """The next client need not wait; to close twice is no error."""
    holder = Vigil(state_file).look()
    assert holder is not None
    assert holder.generation == 1
    kept.store.close()
    kept.store.close()
    assert Vigil(state_file).look() is None


def test_a_directory_that_was_removed_is_made_again(kept: Kept, state_file: Path) -> None:
    """With all of the job, not only with what changed last."""
    kept.say(0, "before")
    shutil.rmtree(state_file.parent)
    kept.say(1, "after")
    assert kept.wholes == 1
    assert kept.on_disk() == kept.remembered.state
    kept.say(2, "and on")
    assert kept.wholes == 1
    assert kept.on_disk() == kept.remembered.state


@pytest.mark.parametrize("is_file", [False, True], ids=["removed", "replaced"])
def test_a_journal_that_was_removed_or_replaced_is_not_written_to(
    kept: Kept, state_file: Path, is_file: bool
) -> None:
    """All of the job is written anew, and whatever lies there in its place is not believed."""
    kept.say(0, "before")
    journal = journal_of(state_file)
    journal.unlink()
    if is_file:
        journal.write_bytes(b"somebody else's\n")
    kept.say(1, "after")
    assert kept.wholes == 1
    kept.check()


@pytest.mark.parametrize("pattern", ["job.json", "*.snapshot", "*.journal", "job*"])
def test_what_was_removed_is_made_again(kept: Kept, state_file: Path, pattern: str) -> None:
    """Whichever of its files somebody took for one that is not needed."""
    whole = [kept.store.is_whole]
    for file in state_file.parent.glob(pattern):
        if file.suffix != ".lease":
            file.unlink()
    whole.append(kept.store.is_whole)
    kept.say(0, "after")
    assert [*whole, kept.store.is_whole] == [True, False, True]
    assert kept.wholes == 1
    kept.check()


def test_a_file_system_without_hard_links_will_do(
    state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state file is a copy of the snapshot then, and all goes on as anywhere."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with keeping(state_file, small_job()) as kept:
        assert not state_file.samefile(paths.snapshot_file(state_file, 1, 0))
        reader = StoredState(state_file)
        kept.say(0, "one")
        assert kept.store.is_whole
        assert kept.wholes == 0
        kept.check()
        reader.read_on()
        assert reader.remembered.state == kept.remembered.state
        state_file.unlink()
        kept.store.commit(NOTHING, kept.whole, durable=True)
        monkeypatch.setattr(store_module, "_LEAST_JOURNAL_BYTES", -1)
        monkeypatch.setattr(store_module, "_JOURNAL_RATIO", -1)
        kept.say(1, "two")
        kept.check()


def test_a_later_snapshot_counts_whatever_the_state_file_says(kept: Kept, state_file: Path) -> None:
    """A client that slept in the midst of a snapshot puts its own there, which is an old one."""
    old = state_file.read_bytes()
    reader = StoredState(state_file)
    kept.store.close()
    with keeping(state_file, kept.remembered.state) as second:
        second.say(0, "later")
        write_whole(state_file, old, "woken up")
        assert StoredState(state_file).head == Head(2, 0)
        assert second.on_disk() == second.remembered.state
        reader.read_on()
        assert reader.remembered.state == second.remembered.state
        second.say(1, "and on")
        second.check()


@pytest.mark.parametrize("clients", [1, 2])
def test_a_job_whose_lease_was_removed_can_be_taken_up(state_file: Path, clients: int) -> None:
    """Somebody took the file for a stale lock: the next client goes on all the same."""
    state = small_job()
    for _ in range(clients):
        with keeping(state_file, state) as earlier:
            earlier.say(0, "before")
            state = earlier.remembered.state
    paths.lease_file(state_file, clients).unlink()
    with keeping(state_file, state) as later:
        later.say(1, "after")
        assert later.on_disk() == later.remembered.state


# What fails.


@contextmanager
def failing(after: int, *, times: int = 1, write_some: bool = True) -> Iterator[list[str]]:
    """The disk is full from the ``after``-th call on, for so many calls; tells which failed.

    A write that fails may have written a part, as on a disk that is nearly full.
    """
    failed: list[str] = []
    count = 0
    main = threading.get_ident()

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if threading.get_ident() != main:
                return real(*arguments, **options)
            count += 1
            if not after < count <= after + times:
                return real(*arguments, **options)
            failed.append(name)
            if name == "write" and write_some:
                descriptor, data = arguments
                real(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "write", "fsync", "fdatasync"):
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield failed


@pytest.mark.parametrize("write_some", [False, True])
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_after_a_write_that_failed_the_whole_job_is_written(
    kept: Kept, state_file: Path, call: str, write_some: bool
) -> None:
    """Nothing goes behind what was torn; meanwhile all from before can be read."""
    kept.say(0, "before")
    reader = StoredState(state_file)
    before = reader.remembered.state
    with (
        failing(int(call == "fdatasync"), write_some=write_some) as failed,
        pytest.raises(OSError, match="No space left"),
    ):
        kept.say(1, "while it was full")
    assert failed == [call]
    assert kept.on_disk() == (before if call == "write" else kept.remembered.state)
    reader.read_on()
    kept.say(2, "after")
    assert kept.wholes == 1
    kept.check()
    assert reader.read_on()
    assert reader.remembered.state == kept.remembered.state
    kept.say(0, "and on")
    assert kept.wholes == 1
    kept.check()


def live_through(state_file: Path, first_call: int, times: int) -> tuple[list[str], Kept]:
    """A client's life in which some calls in a row fail; it tries again until it succeeds."""
    with failing(first_call, times=times) as failed, ExitStack() as stack:
        while True:
            try:
                kept = stack.enter_context(keeping(state_file, small_job()))
            except OSError:
                assert state_file.parent.exists()
                continue
            break
        for number in range(6):
            before = kept.remembered.state
            try:
                kept.say(number % 3, f"change {number}")
            except OSError:
                assert kept.on_disk() in (before, kept.remembered.state)
                while True:
                    try:
                        kept.write()
                    except OSError:
                        assert kept.on_disk() in (before, kept.remembered.state)
                    else:
                        break
            kept.check()
    return failed, kept


@pytest.mark.parametrize("times", [1, 3])
def test_whatever_call_fails_nothing_is_lost(tmp_path: Path, compact: None, times: int) -> None:
    """Each opening, writing and syncing of a client's life fails in turn, once or some times."""
    calls = 0
    for first_call in range(1, 200):  # the first one is the lease's
        failed, kept = live_through(tmp_path / f"job{first_call}.d" / "job.json", first_call, times)
        if not failed:
            break
        calls += 1
        with keeping(kept.store.state_file, kept.on_disk()) as after:
            after.check()
    assert calls > 20
    assert not failed


def test_a_disk_that_is_really_full_is_survived(kept: Kept, state_file: Path) -> None:
    """The kernel itself cuts a write short: the job is as before, and whole once there is room."""
    kept.say(0, "before")
    size = journal_of(state_file).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            kept.say(1, "x" * 1000)
        with pytest.raises(OSError, match="File too large"):
            kept.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal_of(state_file).stat().st_size == size + 50
    assert kept.on_disk().tasks[:2] == (waiting(0, "before"), waiting(1))
    kept.say(2, "after")
    assert kept.wholes == 2
    kept.check()


def test_what_cannot_be_begun_gives_the_lease_back(state_file: Path) -> None:
    """The next client need not wait for one that could not even begin."""
    lease = claim(state_file, "j1", 0)
    assert lease is not None
    state_file.mkdir()
    with pytest.raises(OSError, match="directory"):
        Store(state_file, lease, small_job())
    assert Vigil(state_file).look() is None


def test_what_cannot_be_begun_leaves_nothing_half_done(state_file: Path) -> None:
    """A directory lies where the state file should: nothing stays beside it for good."""
    lease = claim(state_file, "j1", 0)
    assert lease is not None
    state_file.mkdir()
    with pytest.raises(OSError, match="directory"):
        Store(state_file, lease, small_job())
    state_file.rmdir()
    with keeping(state_file, small_job()) as kept:
        kept.check()


def test_a_file_that_cannot_be_replaced_is_left(tmp_path: Path) -> None:
    """And nothing half-written stays beside it, also of an earlier try that was killed."""
    file = tmp_path / "job.json"
    file.write_bytes(b"before")
    (tmp_path / "job.json.1-0.tmp").write_bytes(b"torn")
    with failing(1), pytest.raises(OSError, match="No space left"):
        write_whole(file, b"after" * 100, "1-0")
    assert contents(tmp_path).keys() == {"job.json"}
    assert file.read_bytes() == b"before"
    (tmp_path / "job.json.1-0.tmp").write_bytes(b"torn")
    write_whole(file, b"after", "1-0")
    assert contents(tmp_path).keys() == {"job.json"}
    assert file.read_bytes() == b"after"


# By what right it is written.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass for all leases of this process."""
    time = [1000.0]
    monkeypatch.setattr(lease_module, "now", lambda: time[0])

    def sleep(seconds: float) -> None:
        time[0] += seconds

    return sleep


def another_one(state_file: Path, after: int) -> Lease:
    """A client that wins the lease after a generation."""
    lease = claim(state_file, "j1", after)
    assert lease is not None
    return lease


def test_nothing_is_written_without_the_lease(
    state_file: Path, clock: Callable[[float], None]
) -> None:
    """One that ran out is an error that may pass; one that another client has, is final."""
    with keeping(state_file, small_job()) as kept:
        before = contents(state_file.parent)
        clock(LEASE_S + 1)
        with pytest.raises(OSError, match="run out"):
            kept.say(0, "asleep")
        other = another_one(state_file, 1)
        for _ in range(2):
            with pytest.raises(SupersededError):
                kept.write()
        assert contents(state_file.parent) == before
        assert kept.wholes == 0
    assert Vigil(state_file).look() is not None
    other.release()


def test_a_client_that_was_too_slow_to_begin_changes_nothing(
    state_file: Path, clock: Callable[[float], None]
) -> None:
    """It won the lease, took long to connect to its nodes, and another one came meanwhile."""
    slow = another_one(state_file, 0)
    clock(LEASE_S + 10)
    with keeping(state_file, small_job()) as kept:
        reader = StoredState(state_file)
        kept.say(0, "by the quicker one")
        with pytest.raises(SupersededError):
            Store(state_file, slow, small_job())
        assert kept.store.is_whole
        assert kept.on_disk() == kept.remembered.state
        kept.say(1, "and on")
        reader.read_on()
        assert reader.remembered.state == kept.remembered.state
        assert kept.on_disk() == kept.remembered.state
        assert kept.wholes == 0


# What is read.


def test_a_torn_end_of_the_journal_is_tolerated(kept: Kept, state_file: Path) -> None:
    """Cut anywhere in its last line, as by a crash: what was before is there, all else is not."""
    kept.say(0, "first")
    kept.say(1, "second")
    before = kept.remembered.state
    kept.store.close()
    journal = journal_of(state_file)
    length = journal.stat().st_size
    line = write_changes(Changes(tasks=(running(2),)), durable=False)
    with journal.open("ab") as file:
        file.write(line)
    assert StoredState(state_file).remembered.state.tasks[2] == running(2)
    for size in reversed(range(length, length + len(line))):
        os.truncate(journal, size)
        assert StoredState(state_file).remembered.state == before
    with keeping(state_file, before) as after:
        after.say(2, "third")
        after.check()


def test_a_journal_damaged_in_its_midst_is_refused(kept: Kept, state_file: Path) -> None:
    """The error names the journal and what is to become of it; nothing is changed."""
    kept.say(0, "first")
    kept.say(1, "second")
    kept.store.close()
    journal = journal_of(state_file)
    journal.write_bytes(journal.read_bytes().replace(b"first", b"worst"))
    before = contents(state_file.parent)
    with pytest.raises(StateFileError, match="is damaged at byte 0") as caught:
        StoredState(state_file)
    assert str(journal) in str(caught.value)
    assert contents(state_file.parent) == before


def test_a_journal_that_cannot_be_read_is_told(kept: Kept, state_file: Path) -> None:
    """It is not taken for one that was not begun yet."""
    reader = StoredState(state_file)
    journal = journal_of(state_file)
    journal.unlink()
    journal.mkdir()
    with pytest.raises(StateFileError, match=f"{journal} cannot be read: Is a directory"):
        reader.read_on()
    with pytest.raises(StateFileError, match="cannot be read"):
        StoredState(state_file)
    journal.rmdir()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda _: None, "cannot be read: No such file"),
        (lambda file: file.mkdir(), "cannot be read: Is a directory"),
        (lambda file: file.symlink_to(file), "cannot be read: Too many levels"),
        (lambda file: file.touch(), "is empty"),
        (lambda file: file.write_bytes(b"\xff\x00"), "is torn"),
        (lambda file: file.write_text(json.dumps({"name": "left-pad"})), "is not the state"),
    ],
    ids=["missing", "directory", "loop", "empty", "rubbish", "foreign"],
)
def test_what_is_no_state_is_refused(
    tmp_path: Path, make: Callable[[Path], None], complaint: str
) -> None:
    """With its name and what is wrong with it."""
    file = tmp_path / "job.json"
    make(file)
    with pytest.raises(StateFileError, match=complaint) as caught:
        StoredState(file)
    assert str(caught.value).startswith(str(file))


def test_a_reader_is_told_that_its_job_is_gone(kept: Kept, state_file: Path) -> None:
    """Removed, spoiled, or another job's; what was read before stays as it was."""
    reader = StoredState(state_file)
    state_file.unlink()
    with pytest.raises(StateFileError, match="No such file"):
        reader.read_on()
    state_file.write_bytes(b"{}")
    with pytest.raises(StateFileError, match="is not the state"):
        reader.read_on()
    assert reader.remembered.state == small_job()
    journal_of(state_file).with_suffix(".snapshot").unlink()
    later = replace(small_job(), job=replace(JOB, job_id="j2"))
    state_file.write_bytes(write_snapshot(later, Head()))
    with pytest.raises(StateFileError, match="a later job"):
        reader.read_on()


def test_a_state_that_never_stands_still_is_given_up(
    kept: Kept, state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader does not go on for ever where each look finds another snapshot."""
    real, count = Path.read_bytes, 0

    def read_and_replace(file: Path) -> bytes:
        nonlocal count
        data = real(file)
        if file == state_file:
            count += 1
            write_whole(file, data + b" " * count, "test")
        return data

    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    with pytest.raises(StateFileError, match="changes faster than it can be read"):
        StoredState(state_file)


def test_nodes_that_step_in_are_kept(kept: Kept, state_file: Path) -> None:
    """A spare becomes the next node, and is there for whoever reads."""
    spare = replace(NODE, name="nd02", node_id=1)
    reader = StoredState(state_file)
    kept.commit(Changes(nodes=(spare,)))
    assert reader.read_on()
    assert reader.remembered.nodes == {0: NODE, 1: spare}
    kept.check()
