"""The thread that watches a job: it alone changes the ledger, and it decides by the scheduler.

Rules: pool workers take a driver through a turn and put what it brought on the monitor's queue;
the monitor applies it, plans, and sends out what is due. Everyone else reads snapshots. A node
that does not answer costs a worker, never the monitor.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from allot.driver import Began, NodeDriver, Report, Stepped, Turn
from allot.errors import NodeError
from allot.launcher import Launcher, Place
from allot.lifecycle import Ledger, Placement
from allot.model import NodeState, NodeStatus, TaskState, TaskStatus
from allot.output import Reader
from allot.scheduler import Distribution, NodeSlots, plan
from allot.script import Launch

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_IDLE_S = 0.5


@dataclass
class Seat:
    """A node as the monitor drives it."""

    driver: NodeDriver
    place: Place
    status: NodeStatus
    inbox: list[Launch] = field(default_factory=list)
    due: float | None = None
    under_way: bool = False
    sends: bool = False
    failures: int = 0


class Monitor:
    """Watches and feeds the nodes of one job until every task is final, or it is closed."""

    def __init__(
        self,
        ledger: Ledger,
        launcher: Launcher,
        pool: Executor,
        seats: Sequence[Seat],
        distribution: Distribution,
    ) -> None:
        """Take over a job; nothing happens before :meth:`start`."""
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.final_at: float | None = None
        self._ledger = ledger
        self._launcher = launcher
        self._pool = pool
        self._distribution = distribution
        self._seats = {seat.place.node_id: seat for seat in seats}
        self._turns: queue.SimpleQueue[tuple[int, Turn | BaseException] | None] = (
            queue.SimpleQueue()
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="allot-monitor", daemon=True)

    def start(self, wave: Sequence[tuple[Placement, Launch]]) -> None:
        """Send out the first wave and begin to watch."""
        for placement, launch in wave:
            self._send(placement, launch)
        self._thread.start()

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """Every task as it stands."""
        return self._ledger.tasks

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """Every node used as it stands, by ``node_id``."""
        return tuple(seat.status for seat in self._seats.values())

    @property
    def is_final(self) -> bool:
        """True when no task waits or runs."""
        return self._ledger.is_final

    def output_reader(self, node_id: int) -> Reader:
        """Reads the outputs of tasks that run on a node.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return self._seats[node_id].driver.output_reader

    def count(self, state: TaskState) -> int:
        """Number of tasks in a state."""
        return self._ledger.count(state)

    def wait_until_final(self, timeout: float) -> None:
        """Block until no task waits or runs, or ``timeout`` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.error is not None or self.is_final, timeout)

    def wait_until_sent(self, timeout: float) -> None:
        """Block until nothing that was placed is still to be sent, or ``timeout`` seconds."""

        def is_sent() -> bool:
            return self.error is not None or not any(
                seat.inbox or (seat.under_way and seat.sends) for seat in self._seats.values()
            )

        with self.changed:
            self.changed.wait_for(is_sent, timeout)

    def stop(self, timeout: float) -> None:
        """End the thread; turns under way are left to their workers."""
        self._closing.set()
        self._turns.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._dispatch()
                self._collect(self._seconds_to_next_turn())
                self._fill_slots()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            _log.exception("the monitor stopped")
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def _dispatch(self) -> None:
        now = time.monotonic()
        for node_id, seat in self._seats.items():
            is_due = seat.due is not None and seat.due <= now
            has_mail = bool(seat.inbox) and seat.status.state is not NodeState.UNREACHABLE
            if seat.under_way or not (is_due or has_mail):
                continue
            launches, seat.inbox = seat.inbox, []
            seat.due, seat.under_way, seat.sends = None, True, bool(launches)
            self._pool.submit(self._take_turn, node_id, seat.driver, launches)

    def _take_turn(self, node_id: int, driver: NodeDriver, launches: Sequence[Launch]) -> None:
        try:
            self._turns.put((node_id, driver.turn(launches)))
        except BaseException as error:  # noqa: BLE001 - raised again in the monitor
            self._turns.put((node_id, error))

    def _seconds_to_next_turn(self) -> float:
        due = [
            seat.due for seat in self._seats.values() if seat.due is not None and not seat.under_way
        ]
        return max(0.0, min(due) - time.monotonic()) if due else _IDLE_S

    def _collect(self, timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            item = self._turns.get(timeout=min(timeout, _IDLE_S))
            while item is not None:
                self._apply(*item)
                item = self._turns.get_nowait()
        if self.final_at is None and self.is_final:
            self.final_at = time.monotonic()
        with self.changed:
            self.changed.notify_all()

    def _apply(self, node_id: int, turn: Turn | BaseException) -> None:
        if isinstance(turn, BaseException):
            raise turn
        seat = self._seats[node_id]
        seat.under_way = seat.sends = False
        for report in turn.reports:
            self._apply_report(report)
        now = time.monotonic()
        if turn.error is not None:
            seat.failures += 1
            seat.due = now + _retry_delay(seat.failures)
            self._mark_unreachable(seat, turn.error)
        else:
            seat.failures = 0
            seat.due = None if turn.pause is None else now + turn.pause
            if seat.status.state is NodeState.UNREACHABLE:
                seat.status = replace(seat.status, state=NodeState.READY, reason="")

    def _apply_report(self, report: Report) -> None:
        if self._ledger[report.proc_id].attempt != report.attempt:
            return
        if isinstance(report, Began):
            self._ledger.start(report.proc_id, report.time)
        elif isinstance(report, Stepped):
            self._ledger.progress(report.proc_id, report.progress)
        elif report.exit_code == 0:
            self._ledger.succeed(report.proc_id, report.time, report.reason)
        else:
            self._ledger.fail(report.proc_id, report.time, report.exit_code, report.reason)

    def _mark_unreachable(self, seat: Seat, error: NodeError) -> None:
        if seat.status.state is NodeState.UNREACHABLE:
            return
        since = time.strftime("%H:%M:%S")
        _log.warning("%s is out of reach: %s", seat.place.node_name, error.reason)
        seat.status = replace(
            seat.status, state=NodeState.UNREACHABLE, reason=f"since {since}: {error.reason}"
        )

    def _fill_slots(self) -> None:
        if not self.count(TaskState.PENDING):
            return
        nodes = [
            NodeSlots(node_id, seat.status.state, seat.place.slots)
            for node_id, seat in self._seats.items()
        ]
        for placement in plan(self._ledger, nodes, self._distribution):
            self._place(placement)

    def _place(self, placement: Placement) -> None:
        place = self._seats[placement.node_id].place
        task = self._ledger[placement.proc_id]
        try:
            launch = self._launcher.prepare(placement, place, task.params, task.attempt)
        except Exception as error:  # noqa: BLE001 - the user's own code
            self._ledger.place(placement, place.node_name, None)
            reason = f"task_factory: {type(error).__name__}: {error}"
            self._ledger.fail(placement.proc_id, time.time(), None, reason)
            _log.exception("task %d could not be made", placement.proc_id)
        else:
            self._send(placement, launch)

    def _send(self, placement: Placement, launch: Launch) -> None:
        seat = self._seats[placement.node_id]
        self._ledger.place(placement, seat.place.node_name, launch.output_file)
        seat.inbox.append(launch)


def _retry_delay(failures: int) -> float:
    longest = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
