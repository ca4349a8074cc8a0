"""Who drives a job: one client at a time, by a lease with a heartbeat and a generation number.

The client of each generation has a lease file of its own beside the job's state, and the highest
generation drives. A lease holds for ``LEASE_S`` after its last beat, on a clock that goes on while
a laptop sleeps; who let it run out must win the next generation like anyone else. The next one is
won by creating its file (``O_EXCL``), after the earlier lease was given back, its holder is known
to be dead, or its beat stood still for longer than a lease holds: no clocks of two machines are
ever compared. A file is opened anew for each look, as NFS wants it (nfs(5), close-to-open).

Rules: whoever holds a lease that has not run out is the only one that starts tasks.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from allot import paths
from allot.codec import decode
from allot.errors import AllotError

_log = logging.getLogger(__name__)

LEASE_S = 15.0
"""Seconds that a lease holds after its last beat."""

_BEAT_S = 3.0
_SUCCEED_S = LEASE_S + 5.0
_LOOK_S = 0.1
_RECORD_BYTES = 1024


class SupersededError(AllotError):
    """Another client drives the job now."""


def now() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says.

    Attributes:
        job_id: The job.
        generation: Its number in the row of those that drove the job.
        host: Its machine.
        pid: Its process.
        start_ticks: When that began, field 22 of ``/proc/<pid>/stat``.
        boot_id: Its machine's.
        pid_space: Where its process number counts (``/proc/self/ns/pid``).
        since: Since when it drives, Unix seconds.
        makes_tasks: Whether it can make the tasks that wait.
        beat: Grows as long as it is there.
        is_over: It gave the lease back.
    """

    job_id: str
    generation: int
    host: str
    pid: int
    start_ticks: int
    boot_id: str
    pid_space: str
    since: float
    makes_tasks: bool = True
    beat: int = 0
    is_over: bool = False

    def __str__(self) -> str:
        try:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        except (OverflowError, ValueError, OSError):  # a file may say anything
            since = "nobody knows when"
        return f"process {self.pid} on {self.host}, since {since}"

    def is_same_client(self, other: Holder) -> bool:
        """Whether another record is of the same client, at whatever time."""
        return (
            replace(self, generation=other.generation, beat=other.beat, is_over=other.is_over)
            == other
        )

    @property
    def is_of_here(self) -> bool:
        """Whether its process, dead or alive, is one of those that this client sees."""
        return self.boot_id == _boot_id() and self.pid_space == _pid_space()

    @property
    def is_dead(self) -> bool:
        """True where its process is certainly gone; one elsewhere can never be known to be."""
        return self.is_of_here and _start_ticks(self.pid) != self.start_ticks


def newest_generation(state_file: Path) -> int:
    """The highest generation there is a lease of, 0 without any.

    Raises:
        OSError: The directory cannot be read.
    """
    try:
        names = os.listdir(state_file.parent)
    except FileNotFoundError:
        return 0
    found = [paths.generation_of(state_file, name) for name in names]
    return max((number for number in found if number is not None), default=0)


def _generation_written(state_file: Path) -> int:
    """The highest generation that wrote a state, also where somebody removed its lease."""
    names = os.listdir(state_file.parent) if state_file.parent.is_dir() else []
    kinds = ("journal", "snapshot")
    found = [paths.numbers_of(state_file, name, kind) for name in names for kind in kinds]
    return max((numbers[0] for numbers in found if numbers is not None), default=0)


def _read(file: Path) -> Holder | None:
    try:
        return decode(Holder, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # torn, in the making, or removed meanwhile
        return None


class Vigil:
    """Looks whether a job is without a driver, which takes a while where that is elsewhere.

    Attributes:
        generation: The highest that was seen, 0 for none.
    """

    def __init__(self, state_file: Path) -> None:
        """Begin to look."""
        self.generation = 0
        self._state_file = state_file
        self._seen: tuple[int, int] | None = None
        self._seen_at = 0.0

    def wait(self) -> Holder | None:
        """Look until it is certain whether anybody drives the job; see :meth:`look`.

        That takes a little longer than a lease holds, where the last driver is not of this machine.
        """
        first = self.look()
        while (holder := self.look()) is not None:
            if holder.is_of_here or first is None or holder.beat != first.beat:
                return holder
            time.sleep(_LOOK_S)
        return None

    def look(self) -> Holder | None:
        """Whoever may drive the job now; None where certainly nobody does.

        Raises:
            OSError: The directory cannot be read.
        """
        generation = self.generation = newest_generation(self._state_file)
        if not generation:
            return None
        holder = _read(paths.lease_file(self._state_file, generation))
        if holder is not None and (holder.is_over or holder.is_dead):
            return None
        seen = (generation, -1 if holder is None else holder.beat)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now()
        if now() - self._seen_at > _SUCCEED_S:
            return None
        return holder or _nobody_known(generation)


class Lease:
    """The lease of this client; a thread of its own keeps it alive from the start."""

    def __init__(self, state_file: Path, holder: Holder, began: float) -> None:
        """Take over a lease file that was created, not before ``began``; see :func:`claim`."""
        self._state_file = state_file
        self._holder = holder
        self._lock = threading.Lock()  # over the file, and what says whose it is
        self._beat_at = began
        self._over = threading.Event()
        self._lost_to: Holder | None = None
        self._trouble = ""
        self._thread = threading.Thread(target=self._keep, name="allot-lease", daemon=True)
        self._thread.start()

    @property
    def generation(self) -> int:
        """Its number; it grows where the lease had run out and was won again."""
        return self._holder.generation

    def seconds_left(self) -> float:
        """For how long this client is certainly the only one that drives the job."""
        if self._over.is_set() or self._lost_to is not None:
            return 0.0
        return self._beat_at + LEASE_S - now()

    def check(self) -> None:
        """Make sure that it holds: nobody can have succeeded this client then.

        Raises:
            SupersededError: Another client drives the job.
            OSError: It has run out for now, or cannot be looked for.
        """
        if self.seconds_left() > 0:
            return
        if self._lost_to is None:
            with self._lock:
                self._find_successor()
        self.check_successor()
        raise OSError(None, self._trouble or "this client's lease has run out")

    def check_successor(self) -> None:
        """Tell of a later client, as far as one is known.

        Raises:
            SupersededError: Another client drives the job.
        """
        if self._lost_to is not None:
            raise SupersededError(
                f"job {self._state_file.stem} is driven by another client now: {self._lost_to}"
            )

    def release(self) -> None:
        """Give it back, so that the next client need not wait."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_BEAT_S)
        if not self._lock.acquire(timeout=_BEAT_S):
            return  # its file system hangs: the next client finds this one gone
        try:
            if self._lost_to is None and not self._holder.is_over:
                self._holder = replace(self._holder, is_over=True)
                self._write()
        except OSError as error:  # the next client waits, or sees this one dead
            _log.debug("%s: the lease cannot be given back: %s", self._state_file, error)
        finally:
            self._lock.release()

    def _keep(self) -> None:
        while not self._over.wait(_BEAT_S):
            with self._lock:
                try:
                    self._renew()
                except OSError as error:
                    if not self._trouble:
                        _log.warning("%s: no heartbeat: %s", self._state_file, error)
                    self._trouble = f"the heartbeat cannot be written: {error}"
                if self._lost_to is not None:
                    return

    def _renew(self) -> None:
        began = now()
        self._find_successor()
        if self._lost_to is None and self.seconds_left() <= 0:
            self._win_again()
        if self._lost_to is None and not self._over.is_set():
            self._beat(began)

    def _find_successor(self) -> None:
        generation = newest_generation(self._state_file)
        if not generation:
            return
        holder = _read(paths.lease_file(self._state_file, generation))
        is_anothers = holder is not None and not holder.is_same_client(self._holder)
        if generation > self.generation or is_anothers:
            self._lost_to = holder or _nobody_known(generation)

    def _win_again(self) -> None:
        """Go on after a sleep, if nobody else took the job meanwhile."""
        following = replace(self._holder, generation=self.generation + 1)
        try:
            _create(self._state_file, following)
        except FileExistsError:
            self._find_successor()
        else:
            _log.warning("%s: the lease had run out, and is held again", self._state_file)
            self._holder = following
            forget_earlier(self._state_file, self.generation)

    def _beat(self, began: float) -> None:
        """Say that it is there; it was certain at ``began`` that nobody had come."""
        self._holder = replace(self._holder, beat=self._holder.beat + 1)
        try:
            self._write()
        except FileNotFoundError:  # somebody removed the directory, but nobody took the job
            _create(self._state_file, self._holder)
        self._beat_at, self._trouble = began, ""

    def _write(self) -> None:
        """Overwrite the file in place: that takes no new room on a disk that is full."""
        file = paths.lease_file(self._state_file, self.generation)
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, _encoded(self._holder), 0)
        finally:
            os.close(descriptor)


def claim(state_file: Path, job_id: str, after: int, *, makes_tasks: bool = True) -> Lease | None:
    """Try to become the next to drive a job.

    Args:
        state_file: The job's state.
        job_id: The job.
        after: The generation that is known to be over, 0 where there was none.
        makes_tasks: Whether this client can make the tasks that wait.

    Returns:
        The lease, which is kept alive from now on; None where another client was quicker.

    Raises:
        OSError: The file cannot be made.
    """
    written = _generation_written(state_file)  # before the look at leases: they come first
    if newest_generation(state_file) > after:
        return None
    holder = Holder(
        job_id=job_id,
        generation=max(after, written) + 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        start_ticks=_start_ticks(os.getpid()),
        boot_id=_boot_id(),
        pid_space=_pid_space(),
        since=time.time(),
        makes_tasks=makes_tasks,
    )
    began = now()
    try:
        _create(state_file, holder)
    except FileExistsError:
        return None
    return Lease(state_file, holder, began)


def forget_earlier(state_file: Path, generation: int) -> None:
    """Remove the lease files of those before a generation."""
    for name in os.listdir(state_file.parent):
        number = paths.generation_of(state_file, name)
        if number is not None and number < generation:
            paths.lease_file(state_file, number).unlink(missing_ok=True)


def _create(state_file: Path, holder: Holder) -> None:
    file = paths.lease_file(state_file, holder.generation)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.pwrite(descriptor, _encoded(holder), 0)
        finally:
            os.close(descriptor)
    except OSError:
        file.unlink(missing_ok=True)  # an empty one would be somebody's whom nobody knows
        raise


def _encoded(holder: Holder) -> bytes:
    return f"{json.dumps(asdict(holder)):<{_RECORD_BYTES - 1}}\n".encode()


def _nobody_known(generation: int) -> Holder:
    return Holder("", generation, "another host", 0, 0, "", "", time.time())


def _boot_id() -> str:
    return _first_line(lambda: Path("/proc/sys/kernel/random/boot_id").read_text())


def _pid_space() -> str:
    return _first_line(lambda: os.readlink("/proc/self/ns/pid"))


def _start_ticks(pid: int) -> int:
    text = _first_line(lambda: Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    words = text.rpartition(")")[2].split()
    # Field 22; the state, field 3, comes first here. A zombie is dead.
    return int(words[19]) if len(words) > 19 and words[0] not in "ZX" else 0  # noqa: PLR2004


def _first_line(read: Callable[[], str]) -> str:
    try:
        return read().strip()
    except OSError:
        return ""
