"""Whoever watches a job from here: a monitor that drives it, or a watcher, by turns.

Rules: one at a time. A monitor that was superseded is followed by a watcher, a watcher that
outlives the job's driver by a monitor; each of them makes the change itself, as its last act.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from pathlib import Path

from allot.errors import AllotError, StateFileError
from allot.launcher import TaskFactory
from allot.lease import Holder, Lease, Vigil, claim
from allot.monitor import Monitor
from allot.outfit import Outfit
from allot.progress import say
from allot.records import JobState
from allot.revival import charter_of, revive
from allot.store import StoredState
from allot.watched import Watched
from allot.watcher import Watcher

_PATIENCE_S = 5.0


class Post:
    """One job, watched from here until it is left.

    Attributes:
        state_file: Where the job's state lies.
        watched: Whoever watches it now.
        outfit: The means of that one to work on the nodes.
        driver: Who drove the job instead of this client when it was taken up, or None.
        trouble: Why this client cannot drive it, or empty.
    """

    def __init__(
        self,
        state_file: Path,
        pool: Executor,
        *,
        task_factory: TaskFactory | None,
        ssh_config: Path | None,
    ) -> None:
        """Prepare.

        Args:
            state_file: Where the job's state lies, or will lie.
            pool: Where the work is done.
            task_factory: Makes the tasks; None: those that wait go on waiting.
            ssh_config: To be obeyed instead of the remembered one, or None.
        """
        self.state_file = state_file
        self.watched: Watched | None = None
        self.outfit: Outfit | None = None
        self.driver: Holder | None = None
        self.trouble = ""
        self._pool = pool
        self._task_factory = task_factory
        self._ssh_config = ssh_config
        self._lock = threading.Lock()  # over a change, and the next
        self._is_left = False

    @property
    def notice(self) -> str:
        """What the user should know of who drives the job instead of this client, or empty."""
        if self.driver is not None:
            return f"is driven by {self.driver}; this client watches it"
        if self.trouble:
            return f"is only watched, it cannot be driven from here: {self.trouble}"
        return ""

    def take(self, monitor: Monitor, outfit: Outfit) -> None:
        """Begin with a new job."""
        self.watched, self.outfit = monitor, outfit
        job_id = outfit.charter.job_id
        monitor.start(lambda: self._watch(job_id), say)

    def take_up(self, stored: StoredState) -> None:
        """Go on with a job: drive it, or where another client does, watch.

        Raises:
            ConfigError: The ssh configuration makes no sense, or the state cannot be written.
            StateFileError: The state cannot be read.
        """
        lease = None if stored.head.frozen else self._try_to_win(stored)
        if lease is not None:
            try:
                self._drive(lease)
            except (AllotError, OSError) as error:
                self.trouble = str(error)
        if self.watched is None:
            self._begin_watching(stored)

    def _try_to_win(self, stored: StoredState) -> Lease | None:
        vigil = Vigil(self.state_file)
        try:
            self.driver = vigil.look()
            if self.driver is not None:
                return None
            lease = claim(
                self.state_file,
                stored.remembered.job.job_id,
                vigil.generation,
                makes_tasks=self._task_factory is not None,
            )
            self.driver = vigil.look() if lease is None else None
        except OSError as error:
            self.trouble = f"{self.state_file.parent}: {error.strerror or error}"
            return None
        return lease

    def leave(self) -> Watched | None:
        """No change any more; whoever watches the job now is left to be stopped."""
        with self._lock:
            self._is_left = True
            return self.watched

    def _drive(self, lease: Lease) -> None:
        with self._lock:
            try:
                if self._is_left:
                    raise AllotError("the job was left")
                stored = StoredState(self.state_file)
                outfit = self._new_outfit(stored.remembered.state)
                monitor = revive(
                    stored.remembered.state,
                    self._task_factory,
                    outfit,
                    lease,
                    pool=self._pool,
                    state_file=self.state_file,
                )
            except BaseException:
                lease.release()
                raise
            self.take(monitor, outfit)

    def _watch(self, job_id: str) -> None:
        with self._lock:
            if self._is_left:
                return
            stored = StoredState(self.state_file, job_id)
            self._begin_watching(stored, patience=_PATIENCE_S)

    def _begin_watching(self, stored: StoredState, patience: float = 0.0) -> None:
        outfit = self._new_outfit(stored.remembered.state)
        makes_tasks = self._task_factory is not None
        watcher = Watcher(stored, outfit.node, makes_tasks=makes_tasks, patience=patience)
        self.watched, self.outfit = watcher, outfit
        watcher.start(self._drive, say)

    def _new_outfit(self, state: JobState) -> Outfit:
        return Outfit(charter_of(state, self._ssh_config), self._pool)


def find_state_file(path: Path, job_name: str | None) -> Path:
    """The state file that a user means.

    Args:
        path: The file itself, or the output directory.
        job_name: Which job, where the directory holds several.

    Raises:
        StateFileError: There is none, or there are several.
    """
    if not path.is_dir():
        if not path.exists():
            raise StateFileError(f"{path} does not exist: give an output directory or state file")
        return path
    directory = path / ".allot"
    if job_name is not None:
        file = directory / f"{job_name}.json"
        if not file.exists():
            raise StateFileError(f"{path} holds no job {job_name!r}{_names_in(directory)}")
        return file
    files = sorted(directory.glob("*.json"))
    if not files:
        raise StateFileError(f"{path} holds no job of Allot's (there is no .allot/*.json in it)")
    if len(files) > 1:
        raise StateFileError(f"{path} holds several jobs: give job_name{_names_in(directory)}")
    return files[0]


def _names_in(directory: Path) -> str:
    names = sorted(file.stem for file in directory.glob("*.json"))
    return f" ({', '.join(names)})" if names else ""
