"""Who drives a job: one client at a time, and the next one as soon as that is certain."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox import process_table, wait_until
from strategies import BUSY_MACHINE, JSON

from allot import lease as lease_module
from allot import paths
from allot.errors import AllotError
from allot.lease import (
    LEASE_S,
    Holder,
    Lease,
    SupersededError,
    Vigil,
    claim,
    forget_earlier,
    newest_generation,
)

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 20.0
# Longer than any lease holds, and than anyone waits for one that may hold still.
LONG_S = LEASE_S + 10
JOB_ID = "j1"


class Clock:
    """Time that passes only when a test says so.

    Attributes:
        time: Now.
        step: Seconds that each reading takes.
        sleeps: What happens before each of the next readings by a lease's own thread.
    """

    def __init__(self) -> None:
        self.time = 1000.0
        self.step = 0.0
        self.sleeps: list[Callable[[], None]] = []

    def __call__(self) -> float:
        if self.sleeps and threading.current_thread().name == "allot-lease":
            self.sleeps.pop(0)()
        self.time += self.step
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all leases of this process."""
    clock = Clock()
    monkeypatch.setattr(lease_module, "now", clock)
    return clock


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearts beat all the time, so that nothing has to be waited for."""
    monkeypatch.setattr(lease_module, "_BEAT_S", 0.01)


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """Where a job's state would lie; its directory is not there yet."""
    return tmp_path / "out" / ".allot" / "job.json"


Take = Callable[..., Lease]


@pytest.fixture
def take(state_file: Path) -> Iterator[Take]:
    """Wins the lease after a generation; all are given back at the end."""
    with ExitStack() as stack:

        def one(after: int = 0, *, job_id: str = JOB_ID, file: Path = state_file) -> Lease:
            lease = claim(file, job_id, after)
            assert lease is not None
            stack.callback(lease.release)
            return lease

        yield one


class Looks:
    """Every look of a lease's own thread for a successor; it can be held up just behind it.

    Attributes:
        count: How many there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._look = newest_generation
        self._changed = threading.Condition()
        self._passes: float = float("inf")
        self._waiting = 0
        self._held: set[threading.Thread] = set()
        monkeypatch.setattr(lease_module, "newest_generation", self._look_and_wait)

    def hold(self) -> None:
        """Let the only one go on no more; it waits, with what it saw, when this returns."""
        with self._changed:
            self._held = {one for one in threading.enumerate() if one.name == "allot-lease"}
            self._passes = 0
            assert self._changed.wait_for(lambda: self._waiting == 1, PATIENCE_S)

    def pass_one(self) -> None:
        """Let the one that waits go on, until it has looked the next time."""
        with self._changed:
            self._passes, before = 1, self._waiting
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._passes == 0, PATIENCE_S)
            assert self._changed.wait_for(lambda: self._waiting == before, PATIENCE_S)

    def let_go(self) -> None:
        """Let all go on."""
        with self._changed:
            self._passes = float("inf")
            self._changed.notify_all()

    def _look_and_wait(self, state_file: Path) -> int:
        self.count += 1
        generation = self._look(state_file)
        if threading.current_thread() in self._held:
            with self._changed:
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._passes > 0)
                self._waiting -= 1
                self._passes -= 1
                self._changed.notify_all()
        return generation


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, quick: None, take: Take) -> Iterator[Looks]:
    """Has a hand on the threads of all leases; they go on before these are given back."""
    looks = Looks(monkeypatch)
    yield looks
    looks.let_go()


def edit(file: Path, **changes: Any) -> None:
    """Have a lease file say something else."""
    holder = json.loads(file.read_text())
    assert holder.keys() >= changes.keys()
    file.write_text(json.dumps(holder | changes))


def fail_to_write(*_: object) -> int:
    """As a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_CLAIM = """
import sys
from pathlib import Path
from allot.lease import claim
state_file = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
lease = claim(state_file, "j1", 0)
print("lost" if lease is None else "won", flush=True)
sys.stdin.readline()
if lease is not None:
    lease.release()
"""


@contextmanager
def another_client(state_file: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that claims the lease when it is told to, and holds it until it is told."""
    with subprocess.Popen(
        [sys.executable, "-c", _CLAIM, state_file],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert tell(process, "") == "ready"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str = "go on\n") -> str:
    """What it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_the_first_client_drives_the_job(state_file: Path, take: Take) -> None:
    """The directory is made, the file is for its owner's eyes, and says who it is."""
    vigil = Vigil(state_file)
    assert vigil.look() is None
    assert vigil.generation == newest_generation(state_file) == 0
    before = os.umask(0)
    try:
        lease = take()
    finally:
        os.umask(before)
    lease.check()
    assert lease.generation == newest_generation(state_file) == 1
    assert 0 < lease.seconds_left() <= LEASE_S
    assert [file.stat().st_mode & 0o777 for file in state_file.parent.iterdir()] == [0o600]
    holder = vigil.look()
    assert holder is not None
    assert (holder.job_id, holder.generation, holder.pid) == (JOB_ID, 1, os.getpid())
    assert str(holder).startswith(f"process {os.getpid()} on {os.uname().nodename}, since 2")


def test_of_many_threads_one_wins(state_file: Path) -> None:
    """However many ask at the same moment, for a new job or after an earlier client."""
    count = 16
    barrier = threading.Barrier(count)

    def ask(after: int) -> Lease | None:
        barrier.wait()
        return claim(state_file, JOB_ID, after)

    with ThreadPoolExecutor(count) as pool:
        for after in range(4):
            won = [lease for lease in pool.map(ask, [after] * count) if lease is not None]
            assert [lease.generation for lease in won] == [after + 1]
            won[0].release()


def test_of_many_processes_one_wins(state_file: Path) -> None:
    """The others are told so at once, and that it is taken afterwards."""
    with ExitStack() as stack:
        others = [stack.enter_context(another_client(state_file)) for _ in range(3)]
        for other in others:
            assert other.stdin is not None
            other.stdin.write("go on\n")
            other.stdin.flush()
        assert sorted(tell(other, "") for other in others) == ["lost", "lost", "won"]
        assert Vigil(state_file).look() is not None
        assert claim(state_file, JOB_ID, 0) is None


def test_a_lease_that_was_given_back_is_succeeded_at_once(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """Nobody waits; who gave it back holds nothing any more, and may do so twice."""
    first = take()
    assert claim(state_file, JOB_ID, 0) is None
    first.release()
    first.release()
    assert first.seconds_left() <= 0
    vigil = Vigil(state_file)
    assert vigil.look() is None
    second = take(vigil.generation)
    assert second.generation == 2
    with pytest.raises(SupersededError):
        first.check()


def test_a_client_that_was_killed_is_succeeded_at_once(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """On the same machine its process is known to be gone, also before anyone waited for it."""
    vigil = Vigil(state_file)
    with another_client(state_file) as other:
        assert tell(other) == "won"
        holder = vigil.look()
        assert holder is not None
        assert holder.pid == other.pid
        other.kill()
        wait_until(lambda: other.pid not in process_table(), PATIENCE_S, "it would not die")
        assert vigil.look() is None
        other.wait(PATIENCE_S)
        assert vigil.look() is None
        assert take(vigil.generation).generation == 2


def test_a_process_number_that_came_round_again_is_another_process(
    state_file: Path, take: Take
) -> None:
    """Whoever has the number of the client that died is not taken for it."""
    take()
    edit(paths.lease_file(state_file, 1), start_ticks=1)
    assert Vigil(state_file).look() is None


@pytest.mark.parametrize("where", ["boot_id", "pid_space"])
def test_elsewhere_a_beat_that_moves_is_a_client_that_lives(
    state_file: Path, take: Take, clock: Clock, where: str
) -> None:
    """On another machine, or in a container, no process can be looked for; the beat can."""
    take()
    file = paths.lease_file(state_file, 1)
    vigil = Vigil(state_file)
    for beat in range(5):
        edit(file, **{where: "another", "pid": 2**22 + 1, "beat": beat})
        assert vigil.look() is not None
        clock.time += LEASE_S
        assert vigil.look() is not None
        assert claim(state_file, JOB_ID, 0) is None
    clock.time += LONG_S - LEASE_S
    assert vigil.look() is None
    assert take(vigil.generation).generation == 2


def test_whoever_begins_to_look_waits_for_as_long_as_a_lease_holds(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """However old the file is: no clocks of two machines are compared."""
    take()
    file = paths.lease_file(state_file, 1)
    edit(file, boot_id="another", since=0.0)
    os.utime(file, (0, 0))
    clock.time += 1e6
    vigil = Vigil(state_file)
    assert vigil.look() is not None
    clock.time += LEASE_S
    assert vigil.look() is not None
    assert claim(state_file, JOB_ID, vigil.generation - 1) is None
    clock.time += LONG_S
    assert vigil.look() is None


def test_whoever_waits_for_certainty_gets_it(
    state_file: Path, take: Take, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once on this machine; elsewhere as soon as the beat moves, or has stood for long."""
    assert Vigil(state_file).wait() is None
    lease = take()
    holder = Vigil(state_file).wait()
    assert holder is not None
    assert holder.is_of_here
    lease.release()
    assert Vigil(state_file).wait() is None
    take(1)
    file = paths.lease_file(state_file, 2)
    edit(file, boot_id="another")
    monkeypatch.setattr(lease_module, "_LOOK_S", 0.0)
    clock.step = 0.01
    assert Vigil(state_file).wait() is None
    clock.step = 0.0
    slept = 0

    def beat(seconds: float) -> None:
        nonlocal slept
        slept += 1
        edit(file, beat=slept // 3)

    monkeypatch.setattr(time, "sleep", beat)
    holder = Vigil(state_file).wait()
    assert holder is not None
    assert (holder.boot_id, holder.beat, slept) == ("another", 1, 3)


def test_a_client_says_whether_it_can_make_tasks(state_file: Path) -> None:
    """One that can is better as the job's driver, and may ask for its place."""
    lease = claim(state_file, JOB_ID, 0, makes_tasks=False)
    assert lease is not None
    holder = Vigil(state_file).look()
    lease.release()
    assert holder is not None
    assert not holder.makes_tasks


def test_a_lease_that_cannot_be_written_is_not_left_empty(
    state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file would be somebody's whom nobody knows, and be waited for."""
    monkeypatch.setattr(os, "pwrite", fail_to_write)
    with pytest.raises(OSError, match="No space left"):
        claim(state_file, JOB_ID, 0)
    assert Vigil(state_file).look() is None


def test_a_successor_is_waited_for_anew(state_file: Path, take: Take, clock: Clock) -> None:
    """That one lease stood still says nothing about the next one."""
    take()
    edit(paths.lease_file(state_file, 1), boot_id="another")
    vigil = Vigil(state_file)
    assert vigil.look() is not None
    clock.time += LONG_S
    take(1)
    edit(paths.lease_file(state_file, 2), boot_id="a third", beat=1)
    holder = vigil.look()
    assert holder is not None
    assert (holder.generation, vigil.generation) == (2, 2)


def test_after_a_sleep_the_lease_is_won_again(
    state_file: Path, take: Take, clock: Clock, quick: None
) -> None:
    """Nobody came meanwhile: it goes on as the next generation, and may start tasks again."""
    lease = take()
    clock.time += LONG_S
    wait_until(lambda: lease.seconds_left() > 0, PATIENCE_S, "it was not won again")
    assert lease.generation == newest_generation(state_file) == 2
    lease.check()
    holder = Vigil(state_file).look()
    assert holder is not None
    assert holder.generation == 2
    assert claim(state_file, JOB_ID, 1) is None


def test_a_lease_that_ran_out_is_none(state_file: Path, take: Take, clock: Clock) -> None:
    """Until it is won again it must not be acted upon, and the error is one that may pass."""
    lease = take()
    clock.time += LEASE_S + 0.1
    assert lease.seconds_left() < 0
    with pytest.raises(OSError, match="run out"):
        lease.check()


def test_after_a_sleep_another_client_may_drive_the_job(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """Whoever slept is told who came, changes nothing of the other's, and stays out."""
    first = take()
    edit(paths.lease_file(state_file, 1), boot_id="another")
    vigil = Vigil(state_file)
    vigil.look()
    clock.time += LONG_S
    assert vigil.look() is None
    second = take(vigil.generation)
    for _ in range(2):
        with pytest.raises(SupersededError, match=f"job job is .* now: process {os.getpid()} on"):
            first.check()
        assert first.seconds_left() == 0
    first.release()
    second.check()
    assert Vigil(state_file).look() is not None


def test_a_client_finds_its_successor_by_itself(
    state_file: Path, take: Take, clock: Clock, quick: None
) -> None:
    """Within a heartbeat, though its own lease would hold for longer."""
    first = take()
    take(1)
    wait_until(lambda: first.seconds_left() == 0, PATIENCE_S, "it goes on")
    with pytest.raises(SupersededError):
        first.check()
    assert newest_generation(state_file) == 2


def test_of_many_that_waited_one_succeeds(state_file: Path, take: Take, clock: Clock) -> None:
    """And the one that had slept is not among them, since it was not the first to wake."""
    slept = take()
    clock.time += LONG_S
    won = [lease for _ in range(3) if (lease := claim(state_file, JOB_ID, 1)) is not None]
    assert len(won) == 1
    with pytest.raises(SupersededError):
        slept.check()
    won[0].release()


RUBBISH = [
    b"",
    b"\0" * 1024,
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b"1" * 5000,
    b'{"job_id": "j1"}',
    json.dumps({"pid": 1, "name": "left-pad"}).encode(),
]


@pytest.mark.parametrize("content", RUBBISH)
def test_a_lease_that_cannot_be_read_holds_as_long_as_any(
    state_file: Path, take: Take, clock: Clock, content: bytes
) -> None:
    """It may be in the making: nobody is let in before the time, and then somebody is."""
    file = paths.lease_file(state_file, 3)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    vigil = Vigil(state_file)
    for _ in range(2):
        holder = vigil.look()
        assert holder is not None
        assert "another host" in str(holder)
        assert claim(state_file, JOB_ID, 2) is None
        clock.time += LEASE_S / 2
    clock.time += LONG_S
    assert vigil.look() is None
    assert take(vigil.generation).generation == 4


def test_a_lease_that_is_no_file_holds_as_long_as_any(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """Somebody made a directory of this name: the one after it can be had."""
    paths.lease_file(state_file, 1).mkdir(parents=True)
    vigil = Vigil(state_file)
    assert vigil.look() is not None
    clock.time += LONG_S
    assert vigil.look() is None
    assert take(vigil.generation).generation == 2


@settings(BUSY_MACHINE, max_examples=60)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(list(Holder.__dataclass_fields__)), JSON).map(
            lambda values: json.dumps(HOLDER | values).encode()
        ),
    )
)
def test_any_bytes_in_a_lease_file_are_looked_at_without_complaint(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """It is a client, or nobody where its process is gone; never an exception."""
    state_file = tmp_path_factory.getbasetemp() / "fuzzed.json"
    paths.lease_file(state_file, 1).write_bytes(content)
    vigil = Vigil(state_file)
    assert isinstance(vigil.look(), (Holder, type(None)))
    assert vigil.generation == 1


HOLDER: dict[str, Any] = {
    "job_id": JOB_ID,
    "generation": 1,
    "host": "h",
    "pid": 1,
    "start_ticks": 1,
    "boot_id": "another",
    "pid_space": "",
    "since": 0.0,
}


def test_a_client_of_any_time_can_be_named() -> None:
    """Whatever the file says: the message that another client drives the job is made of it."""
    assert "process 1 on h" in str(Holder(**HOLDER | {"since": 1e20}))


def test_a_heart_that_cannot_beat_is_told_of_once_and_beats_on(
    state_file: Path, take: Take, clock: Clock, looks: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    """While the directory cannot be used the lease runs out; afterwards it is won again."""
    caplog.set_level(logging.WARNING)
    lease = take()
    aside = state_file.parent.with_name("aside")
    looks.hold()
    state_file.parent.rename(aside)
    state_file.parent.touch()
    looks.let_go()
    several = looks.count + 5
    wait_until(lambda: looks.count >= several, PATIENCE_S, "it gave up")
    clock.time += LONG_S
    with pytest.raises(OSError, match="Not a directory"):
        lease.check()
    state_file.parent.unlink()  # it can be made anew from here on
    wait_until(lambda: lease.seconds_left() > 0, PATIENCE_S, "it was not won again")
    lease.check()
    assert caplog.text.count("no heartbeat") == 1


def test_a_lease_that_ran_out_for_want_of_a_beat_says_so(
    state_file: Path,
    take: Take,
    clock: Clock,
    looks: Looks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file can be looked for, but not written: the trouble is in the error."""
    lease = take()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail_to_write)
        several = looks.count + 3
        wait_until(lambda: looks.count >= several, PATIENCE_S, "it gave up")
        clock.time += LONG_S
        with pytest.raises(OSError, match=r"cannot be written: .*No space left"):
            lease.check()
    wait_until(lambda: lease.seconds_left() > 0, PATIENCE_S, "it was not won again")
    lease.check()


def test_a_directory_that_was_removed_is_made_again(
    state_file: Path, take: Take, clock: Clock, looks: Looks
) -> None:
    """The lease is there once more, of the same generation, and holds on."""
    lease = take()
    looks.hold()
    shutil.rmtree(state_file.parent)
    looks.let_go()
    wait_until(lambda: newest_generation(state_file) == 1, PATIENCE_S, "it was not made again")
    lease.check()
    assert Vigil(state_file).look() is not None


def test_another_job_in_the_place_of_one_that_was_removed_supersedes_it(
    state_file: Path, take: Take, clock: Clock, looks: Looks
) -> None:
    """A later job of the same name begins to count anew; the earlier client must not go on."""
    first = take()
    looks.hold()
    shutil.rmtree(state_file.parent)
    second = claim(state_file, "j2", 0)
    assert second is not None
    looks.let_go()
    wait_until(lambda: first.seconds_left() == 0, PATIENCE_S, "it goes on")
    with pytest.raises(SupersededError):
        first.check()
    first.release()
    assert json.loads(paths.lease_file(state_file, 1).read_text())["job_id"] == "j2"
    assert Vigil(state_file).look() is not None
    second.release()


def test_of_two_that_win_the_next_lease_at_once_one_has_it(
    state_file: Path, take: Take, clock: Clock, looks: Looks
) -> None:
    """Awake again, it had looked before the other one came; the file tells who was first."""
    slept = take()
    looks.hold()
    clock.time += LONG_S
    second = claim(state_file, JOB_ID, 1)
    assert second is not None
    looks.let_go()
    wait_until(lambda: slept.seconds_left() == 0, PATIENCE_S, "it goes on")
    with pytest.raises(SupersededError):
        slept.check()
    assert newest_generation(state_file) == 2
    second.release()


def test_a_client_whose_lease_file_was_removed_does_not_drive_beside_the_next(
    state_file: Path, take: Take, clock: Clock, looks: Looks
) -> None:
    """Somebody took the file for a stale lock: the job is driven by one client all the same."""
    first = take()
    looks.hold()
    paths.lease_file(state_file, 1).unlink()
    second = take()
    looks.let_go()
    both = (first, second)
    wait_until(lambda: any(one.seconds_left() <= 0 for one in both), 1.0, "both drive it")


def test_a_client_that_is_slow_to_begin_does_not_hold_its_lease_beside_the_next(
    state_file: Path, take: Take, clock: Clock
) -> None:
    """Between winning it and the first task it reads and connects, which may take long."""
    slow = take()
    clock.time += LONG_S
    second = take(1)
    assert slow.seconds_left() <= 0
    with pytest.raises(SupersededError):
        slow.check()
    with pytest.raises(SupersededError):
        slow.check_successor()
    second.check()
    second.check_successor()


def test_a_client_that_slept_in_the_midst_of_a_beat_does_not_hold_its_lease(
    state_file: Path, take: Take, clock: Clock, looks: Looks
) -> None:
    """The lid was closed after it had seen that nobody came, and before it said it is there."""
    first = take()

    def sleep() -> None:
        clock.time += LONG_S
        paths.lease_file(state_file, 2).write_text(json.dumps(HOLDER | {"generation": 2}))

    looks.hold()
    clock.sleeps = [lambda: None, sleep]
    looks.pass_one()
    assert not clock.sleeps
    assert newest_generation(state_file) == 2
    left = first.seconds_left()
    assert left <= 0


def test_earlier_leases_are_forgotten_and_no_others(tmp_path: Path) -> None:
    """By number, not by name, and of this job only."""
    names = ["job.1.lease", "job.9.lease", "job.10.lease", "job.11.lease"]
    others = ["job.json", "job.1-0.journal", "job.2.lease.tmp", "job.x.lease", "job.1.1.lease"]
    others += ["a.1.lease", "jobs.1.lease", "job..lease", "job.1.leases"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    forget_earlier(tmp_path / "job.json", 10)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"job.10.lease", "job.11.lease", *others}
    assert newest_generation(tmp_path / "job.json") == 11


@pytest.mark.parametrize(("name", "longer"), [("a", "a.1"), ("a.1", "a.1.2"), ("a", "a.1.lease")])
def test_jobs_whose_names_begin_alike_do_not_see_each_other(
    tmp_path: Path, take: Take, name: str, longer: str
) -> None:
    """Each has leases of its own, whatever the other's files are called."""
    one, other = tmp_path / f"{name}.json", tmp_path / f"{longer}.json"
    second = take(file=other)
    assert Vigil(one).look() is None
    first = take(file=one)
    assert (first.generation, second.generation) == (1, 1)
    second.release()
    assert Vigil(one).look() is not None
    assert Vigil(other).look() is None
    third = take(1, file=other)
    forget_earlier(other, 2)
    forget_earlier(one, 9)
    assert newest_generation(one) == 0
    assert newest_generation(other) == 2
    third.check()


def test_a_directory_that_cannot_be_read_is_no_job_without_a_driver(tmp_path: Path) -> None:
    """Who cannot look must not think that nobody is there."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Vigil(tmp_path / "file" / "job.json").look()
    with pytest.raises(NotADirectoryError):
        claim(tmp_path / "file" / "job.json", JOB_ID, 0)


def test_to_be_superseded_is_one_of_allots_errors() -> None:
    """And none of the system's, which may pass."""
    assert issubclass(SupersededError, AllotError)
    assert not issubclass(SupersededError, OSError)
