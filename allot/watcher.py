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
from allot.lease import Lease, Vigil, claim
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

Succeed: TypeAlias = Callable[[Lease], None]
"""Takes the job over; called by the watcher's thread, as its last act."""


class Watcher(Watched):
    """Follows what is on disk of a job until it is stopped, or can take the job over."""

    def __init__(self, stored: StoredState, connect: Callable[[NodeRecord], Node]) -> None:
        """Begin with what was read.

        Args:
            stored: The job's state.
            connect: Makes a connection to a node, to look at an output there.
        """
        super().__init__()
        self._stored = stored
        self._connect = connect
        self._orders = OrderBook(stored.state_file)
        self._vigil = Vigil(stored.state_file)
        self._succeed: Succeed | None = None
        self._tell: Callable[[str], None] = _log.warning
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
        if not self._is_copy:
            self._thread.start()

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """See :class:`Watched`."""
        return self._tasks

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """See :class:`Watched`."""
        return tuple(node.status for node in self._stored.remembered.state.nodes)

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
        return self._is_copy and not self.is_final

    @property
    def _is_copy(self) -> bool:
        return bool(self._stored.head.copy_of)

    def count(self, state: TaskState) -> int:
        """See :class:`Watched`."""
        return sum(task.state is state for task in self._tasks)

    def carry_out(self, order: Order) -> int:
        """See :class:`Watched`; it is on disk, with the job's driver, when this returns."""
        if self._is_copy:
            raise AllotError(
                f"{self._stored.state_file} is a copy: load {self._stored.head.copy_of} to give "
                "orders"
            )
        try:
            key = self._orders.give(order)
        except OSError as error:
            raise AllotError(f"the order cannot be written: {error}") from error
        give_up = time.monotonic() + _ORDER_S
        while time.monotonic() < give_up:
            answer = self._orders.take_answer(key)
            if isinstance(answer, AllotError):
                raise answer
            if answer is not None:
                self._follow()
                return answer
            time.sleep(_ANSWER_LOOK_S)
        self._orders.withdraw(key)
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
                self._follow()
                if self._take_place():
                    return
        except BaseException as error:
            _log.exception("the watcher stopped")
            self.error = error
        finally:
            with self.changed:
                self.changed.notify_all()

    def _follow(self) -> None:
        with self._lock:
            try:
                is_new = self._stored.read_on()
            except StateFileError:
                if self._stored.state_file.exists():
                    raise
                raise AllotError(
                    f"{self._stored.state_file} is gone: another job took its place?"
                ) from None
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
        params = self._stored.remembered.job.params
        self._tasks = tasks
        if not before:
            ended = [task for task in tasks if task.state.is_final]
            self._ended = sorted(ended, key=lambda task: task.ended_at or 0.0)
            return
        for old, new in zip(before, tasks, strict=True):
            if new.state.is_final and (old.attempt, old.state) != (new.attempt, new.state):
                self._ended.append(new)

    def _take_place(self) -> bool:
        """Take the driver's place if that is gone; whether it was done."""
        job_id = self._stored.remembered.job.job_id
        try:
            if self._vigil.look() is not None or self._succeed is None:
                return False
            lease = claim(self._stored.state_file, job_id, self._vigil.generation)
        except OSError as error:  # a directory one may only read: watching goes on
            _log.debug("%s: no place can be taken: %s", self._stored.state_file, error)
            return False
        if lease is None:
            return False
        self._succeed(lease)
        name = self._stored.state_file.stem
        self._tell(f"the client that drove job {name} is gone: this one drives it now")
        self.is_over = True
        self.hang_up()
        return True
