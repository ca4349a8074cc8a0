"""The thread that watches a job: it alone has the foreman change the ledger.

Rules: pool workers take a driver through a turn and put what it brought on the monitor's queue;
the monitor has it applied, and sends out what is due. Users' orders come by the same queue.
Everyone else reads snapshots. A node that does not answer costs a worker, never the monitor.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from allot.driver import Mail, Turn
from allot.errors import AllotError, ConnectionFailedError
from allot.foreman import Foreman
from allot.lifecycle import Placement
from allot.model import NodeStatus, TaskState, TaskStatus
from allot.output import Reader
from allot.script import Launch
from allot.seats import Seat

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_IDLE_S = 0.5
_ORDER_S = 30.0
_MOST_BROKEN_AT_ONCE = 64
_BROKEN_S = 0.1
_SPARE_RETRY_S = 30.0

Recruit: TypeAlias = Callable[[int], Seat | None]
_Item: TypeAlias = Callable[[], None]


class Monitor:
    """Watches and feeds the nodes of one job until it is stopped.

    Attributes:
        changed: Notified whenever something may have changed.
        error: What ended the monitor before its time, or None.
        final_at: When the last task ended (monotonic clock), None while one waits or runs.
    """

    def __init__(
        self,
        foreman: Foreman,
        pool: Executor,
        *,
        recruit: Recruit,
        hang_up: Callable[[], None],
    ) -> None:
        """Take over a job; nothing happens before :meth:`start`.

        Args:
            foreman: Its tasks and nodes.
            pool: Where turns are taken.
            recruit: Finds a spare and makes it the node of that number; run in the pool.
            hang_up: Closes all connections.
        """
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.final_at: float | None = None
        self._foreman = foreman
        self._pool = pool
        self._recruit = recruit
        self._hang_up = hang_up
        self._recruiting = False
        self._recruit_at = 0.0
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="allot-monitor", daemon=True)

    def start(self, wave: Sequence[tuple[Placement, Launch]]) -> None:
        """Send out the first wave and begin to watch."""
        for placement, launch in wave:
            self._foreman.send(placement, launch)
        self._thread.start()

    # What others read: snapshots.

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """Every task as it stands."""
        return self._foreman.ledger.tasks

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """Every node used as it stands, by ``node_id``."""
        return tuple(seat.status for seat in list(self._foreman.seats.values()))

    @property
    def is_final(self) -> bool:
        """True when no task waits or runs."""
        return self.final_at is not None

    @property
    def ended(self) -> Sequence[TaskStatus]:
        """The tasks that ended so far, in that order; it only grows."""
        return self._foreman.ended

    def count(self, state: TaskState) -> int:
        """Number of tasks in a state."""
        return self._foreman.ledger.count(state)

    @property
    def unheard(self) -> int:
        """Tasks that may not have started: they were sent to a node that is out of reach."""
        lost = {i for i, seat in list(self._foreman.seats.items()) if not seat.is_reachable}
        running = (task for task in self.tasks if task.state is TaskState.RUNNING)
        return sum(task.started_at is None and task.node_id in lost for task in running)

    def output_reader(self, node_id: int, file: Path) -> Reader:
        """Reads the output of a task that runs on a node.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return self._foreman.seats[node_id].driver.output_reader(file)

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Block until a condition holds or the monitor has ended, ``timeout`` seconds at most."""
        with self.changed:
            return self.changed.wait_for(lambda: self.error is not None or condition(), timeout)

    def wait_for_end(self, seen: int, timeout: float) -> None:
        """Block until more than ``seen`` tasks have ended or all have, or ``timeout`` seconds."""
        self.wait_for(lambda: len(self.ended) > seen or self.is_final, timeout)

    def wait_until_launched(self, timeout: float) -> None:
        """Block until the first wave was sent out, or ``timeout`` seconds."""
        seats = list(self._foreman.seats.values())
        seats = [seat for seat in seats if seat.inbox or seat.under_way]
        self.wait_for(lambda: all(seat.turns or not seat.is_reachable for seat in seats), timeout)

    def hold(self, timeout: float) -> None:
        """Start nothing new, and block until what was placed is sent, or ``timeout`` seconds."""
        self._foreman.hold()
        seats = list(self._foreman.seats.values())
        self.wait_for(lambda: not any(seat.owes_mail for seat in seats), timeout)

    def stop(self, timeout: float) -> None:
        """End the thread; turns under way are left to their workers."""
        self._closing.set()
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def release(self) -> None:
        """Let go of what was under way to the client; no turn may be under way any more."""
        for seat in self._foreman.seats.values():
            seat.driver.release()

    # What users order.

    def cancel(self, proc_ids: Iterable[int] | None, grace: float, reason: str) -> None:
        """Order tasks to be cancelled (None: all); what has ended is left as it is."""
        self._order(lambda: self._foreman.cancel(proc_ids, grace, reason))

    def rerun(self, proc_ids: Iterable[int] | None) -> int:
        """Queue tasks once more (None: all that ended other than COMPLETED); how many."""
        return self._order(lambda: self._foreman.requeue(proc_ids))

    def drain(self, node_name: str) -> None:
        """Give a node nothing new."""
        self._order(lambda: self._foreman.seat(node_name).drain("drained by the user"))

    def resume(self, node_name: str) -> None:
        """Use a node again."""
        self._order(lambda: self._foreman.seat(node_name).resume())

    def down(self, node_name: str) -> None:
        """Give a node up at the user's word: its tasks are NODE_FAIL."""
        self._order(lambda: self._foreman.give_up(self._foreman.seat(node_name)))

    def _order(self, order: Callable[[], _T]) -> _T:
        """Have something done by the monitor's thread.

        Raises:
            AllotError: Nobody watches the job any more.
        """
        if self.error is not None or self._closing.is_set():
            raise AllotError("the job is not watched any more: nothing can be ordered")
        if threading.current_thread() is self._thread:
            return order()  # from the user's factory
        done: Future[_T] = Future()

        def carry_out() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                result = order()
            except Exception as error:
                done.set_exception(error)  # raised again where the order came from
                return
            self._publish()  # before anyone can ask what came of it
            done.set_result(result)

        self._queue.put(carry_out)
        try:
            return done.result(timeout=_ORDER_S)
        except futures.TimeoutError:
            done.cancel()
            raise AllotError("the monitor did not take the order in time") from None

    # What the thread does.

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._dispatch()
                self._collect(self._seconds_to_next_turn())
                self._foreman.fill_slots()
                self._replace_lost_nodes()
                self._publish()
        except BaseException as error:
            _log.exception("the monitor stopped")
            self.error = error
            self._publish()

    def _publish(self) -> None:
        with self.changed:
            if not self._foreman.ledger.is_final:
                self.final_at = None
            elif self.final_at is None:
                self.final_at = time.monotonic()
            self.changed.notify_all()

    def _dispatch(self) -> None:
        now = time.monotonic()
        seats = self._foreman.seats.values()
        broken = sum(seat.under_way and not seat.is_reachable for seat in seats)
        for seat in seats:
            if not seat.is_due(now):
                continue
            if not seat.is_reachable:
                if broken >= _MOST_BROKEN_AT_ONCE:
                    continue
                broken += 1
            self._submit(self._take_turn, seat, seat.take_mail())

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            self._pool.submit(work, *arguments)
        except RuntimeError:  # the interpreter is on its way out
            self._closing.set()

    def _take_turn(self, seat: Seat, mail: Mail) -> None:
        try:
            turn = seat.driver.turn(mail)
        except Exception as error:
            _log.exception("%s: a turn failed", seat.place.node_name)
            seat.driver.node.close()
            why = ConnectionFailedError(seat.place.node_name, f"unexpected: {error!r}")
            turn = Turn((), None, error=why)
        self._queue.put(lambda: self._foreman.apply(seat, turn))

    def _seconds_to_next_turn(self) -> float:
        now = time.monotonic()
        waits = [_IDLE_S]
        for seat in self._foreman.seats.values():
            if seat.due is not None and not seat.under_way:
                # One that waits for its turn to be tried again must not spin the loop.
                waits.append(max(seat.due - now, 0.0 if seat.is_reachable else _BROKEN_S))
        return max(0.0, min(waits))

    def _collect(self, timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=timeout)
            while item is not None:
                item()
                item = self._queue.get_nowait()
        if not threading.main_thread().is_alive():
            self._closing.set()  # nobody closed the cluster, and the pool is being joined
            self._hang_up()

    def _replace_lost_nodes(self) -> None:
        now = time.monotonic()
        if self._recruiting or now < self._recruit_at or not self._foreman.lacks_nodes:
            return
        self._recruiting = True
        self._submit(self._find_spare, len(self._foreman.seats))

    def _find_spare(self, node_id: int) -> None:
        try:
            seat = self._recruit(node_id)
        except Exception:
            _log.exception("no spare could be asked")
            seat = None
        self._queue.put(lambda: self._welcome(seat))

    def _welcome(self, seat: Seat | None) -> None:
        self._recruiting = False
        if seat is None:
            self._recruit_at = time.monotonic() + _SPARE_RETRY_S
        else:
            _log.warning("%s steps in", seat.place.node_name)
            self._foreman.seats[seat.place.node_id] = seat
