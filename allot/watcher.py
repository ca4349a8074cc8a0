"""A job that another client drives, watched by its state on disk; or a copy of a job's state.

Rules: nothing is written but orders to the client that drives the job. Where that is gone, this
one takes its place, if it wins the next lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from allot.errors import AllotError, ConnectionFailedError, StateFileError
from allot.lease import Holder, Lease, Vigil, claim
from allot.model import NodeStatus, TaskState, TaskStatus
from allot.node import Node
from allot.orders import Order, OrderBook
from allot.output import LocalReader, Reader, SftpReader, ShellReader
from allot.records import JobState, NodeRecord
from allot.store import StoredState
from allot.watched import Watched

_log = logging.getLogger(__name__)

_LOOK_S = 0.5
_ORDER_S = 45.0
_ANSWER_LOOK_S = 0.05
_TRY_AGAIN_S = 5.0
_MOST_FAILURES = 20

Succeed: TypeAlias = Callable[[Lease], None]
"""Takes the job over; called by the watcher's thread, as its last act."""


class Watcher(Watched):
    """Follows what is on disk of a job until it is stopped, or can take the job over."""

    def __init__(
        self,
        stored: StoredState,
        connect: Callable[[NodeRecord], Node],
        *,
        makes_tasks: bool,
        patience: float = 0.0,
    ) -> None:
        """Begin with what was read.

        Args:
            stored: The job's state.
            connect: Makes a connection to a node, to look at an output there.
            makes_tasks: Whether this client could make the tasks that wait.
            patience: Seconds before the driver's place is taken, for others to do so.
        """
        super().__init__()
        self._stored = stored
        self._connect = connect
        self._orders = OrderBook(stored.state_file, stored.remembered.job.job_id)
        self._vigil = Vigil(stored.state_file)
        self._succeed: Succeed | None = None
        self._tell: Callable[[str], None] = _log.warning
        self._makes_tasks = makes_tasks
        self._asked: str | None = None
        self._try_at = time.monotonic() + patience
        self._failures = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()  # over the next
        self._connections: dict[int, Node] = {}
        self._tasks: tuple[TaskStatus, ...] = ()
        self._ended: list[TaskStatus] = []
        self._take_in()
        self._thread = threading.Thread(target=self._run, name="allot-watcher", daemon=True)

    def start(self, succeed: Succeed, tell: Callable[[str], None]) -> None:
        """Begin to follow the job, and to wait for its driver's place; never for a copy's.

        Args:
            succeed: Takes the job over.
            tell: Shows the user a line on what cannot wait to be asked for.
        """
        self._succeed, self._tell = succeed, tell
        if not self._stored.head.frozen:
            self._thread.start()

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """See :class:`Watched`."""
        return self._tasks

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """See :class:`Watched`."""
        nodes = self._stored.remembered.nodes
        return tuple(nodes[node_id].status for node_id in sorted(nodes))

    @property
    def ended(self) -> Sequence[TaskStatus]:
        """See :class:`Watched`."""
        return self._ended

    @property
    def is_final(self) -> bool:
        """See :class:`Watched`."""
        return all(task.state.is_final for task in self._tasks)

    @property
    def is_stuck(self) -> bool:
        """See :class:`Watched`: a copy never changes."""
        return bool(self._stored.head.frozen) and not self.is_final

    def count(self, state: TaskState) -> int:
        """See :class:`Watched`."""
        return sum(task.state is state for task in self._tasks)

    def carry_out(self, order: Order) -> int:
        """See :class:`Watched`; it is on disk, with the job's driver, when this returns."""
        if self._stored.head.frozen:
            raise AllotError(f"{self._stored.state_file} {self._stored.head.frozen}")
        try:
            key = self._orders.give(order)
        except OSError as error:
            raise AllotError(f"the order cannot be written: {error}") from error
        try:
            return self._wait_for_answer(key)
        finally:
            self._orders.withdraw(key)

    def _wait_for_answer(self, key: str) -> int:
        give_up = time.monotonic() + _ORDER_S
        while time.monotonic() < give_up:
            answer = self._orders.take_answer(key)
            if isinstance(answer, AllotError):
                raise answer
            if answer is not None:
                self._follow()
                return answer
            if self.error is not None:
                break
            time.sleep(_ANSWER_LOOK_S)
        raise AllotError("nobody who drives the job took the order in time; it was withdrawn")

    def save(self) -> JobState:
        """See :class:`Watched`; what is on disk is all that is known here."""
        with self._lock:
            return self._stored.remembered.state

    def output_reader(self, node_id: int, file: Path) -> Reader:
        """See :class:`Watched`."""
        record = self._stored.remembered.nodes[node_id]
        settings = self._stored.remembered.job.settings
        is_here = record.facts.sharing.fresh and file.is_relative_to(settings.output_dir)
        if settings.shared_fs or is_here:
            return LocalReader()
        with self._lock:
            if self._closing.is_set():
                raise ConnectionFailedError(record.name, "the job is not watched any more")
            node = self._connections.setdefault(node_id, self._connect(record))
        if not node.is_connected:
            node.connect()
        return SftpReader(node) if node.open_sftp() else ShellReader(node)

    def stop(self, timeout: float) -> None:
        """See :class:`Watched`."""
        self._closing.set()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def hang_up(self) -> None:
        """See :class:`Watched`."""
        with self._lock:
            self._closing.set()
            for node in self._connections.values():
                node.close()

    def _run(self) -> None:
        try:
            while not self._closing.wait(_LOOK_S):
                self._follow_if_readable()
                if self._take_place():
                    return
        except BaseException as error:
            _log.exception("the watcher stopped")
            self.error = error
        finally:
            with self.changed:
                self.changed.notify_all()

    def _follow_if_readable(self) -> None:
        """A network file system may show nonsense for a moment, and a disk may have a fault."""
        try:
            self._follow()
            self._failures = 0
        except StateFileError as error:
            self._failures += 1
            if self._failures > _MOST_FAILURES:
                raise
            _log.info("%s", error)

    def _follow(self) -> None:
        with self._lock:
            is_new = self._stored.read_on()
            if is_new:
                self._take_in()
        if is_new:
            with self.changed:
                self.changed.notify_all()

    def _take_in(self) -> None:
        before = self._tasks
        remembered = self._stored.remembered
        tasks = tuple(task.status for task in remembered.tasks)
        if (params := remembered.job.params) is not None:
            tasks = tuple(replace(task, params=params[task.proc_id]) for task in tasks)
        # Those that ended come first: who sees the job at its end must find them told.
        if not before:
            ended = [task for task in tasks if task.state.is_final]
            self._ended = sorted(ended, key=lambda task: task.ended_at or 0.0)
        for old, new in zip(before, tasks, strict=False):
            if new.state.is_final and (old.attempt, old.state) != (new.attempt, new.state):
                self._ended.append(new)
        self._tasks = tasks

    def _take_place(self) -> bool:
        """Take the driver's place if that is gone; whether it was done."""
        if time.monotonic() < self._try_at or self._succeed is None:
            return False
        stored = self._stored
        try:
            if (holder := self._vigil.look()) is not None:
                self._ask_to_give_way(holder)
                return False
            lease = claim(
                stored.state_file,
                stored.remembered.job.job_id,
                self._vigil.generation,
                makes_tasks=self._makes_tasks,
            )
            if lease is None:
                return False
            self._succeed(lease)
        except (OSError, AllotError) as error:  # such as a full disk: watching goes on
            _log.info("%s: its driver's place cannot be taken: %s", stored.state_file, error)
            self._try_at = time.monotonic() + _TRY_AGAIN_S
            return False
        self._tell(f"the client that drove job {stored.state_file.stem} is gone: this one does now")
        self.is_over = True
        self.hang_up()
        return True

    def _ask_to_give_way(self, holder: Holder) -> None:
        """Where tasks wait that the driver cannot make, and this client can."""
        if not self._makes_tasks or holder.makes_tasks or not self.count(TaskState.PENDING):
            return
        if self._asked is None or not self._orders.waits(self._asked):
            self._asked = self._orders.give(Order("give way"))
