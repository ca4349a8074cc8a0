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
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from allot.desk import OrderDesk
from allot.errors import AllotError, ConnectionFailedError
from allot.foreman import Foreman
from allot.interpreter import notice_of_exit
from allot.lease import SupersededError
from allot.memory import needs_disk
from allot.model import NodeStatus, TaskState, TaskStatus
from allot.orders import Order
from allot.output import Reader
from allot.records import Changes, JobState
from allot.seats import Seat, clean_up
from allot.store import Store
from allot.timetable import Timetable, due_seats, standing
from allot.turns import Mail, Turn
from allot.watched import Watched

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_IDLE_S = 0.5
# What happened while the state was written is gathered for a multiple of the time that took.
_GATHER_RATIO = 9
_MOST_GATHER_S = 0.02
_ORDER_S = 30.0
_SPARE_RETRY_S = 30.0
_ORDERS_S = 0.5
_KEEP_ALL_S = 2.0
_NOTHING = Changes()

Recruit: TypeAlias = Callable[[int], Seat | None]
_Item: TypeAlias = Callable[[], bool | None]  # False: there is no news in it


class Monitor(Watched):
    """Drives the nodes of one job until it is stopped, or another client succeeds this one."""

    drives = True

    def __init__(
        self,
        foreman: Foreman,
        pool: Executor,
        store: Store,
        *,
        recruit: Recruit,
        hang_up: Callable[[], None],
    ) -> None:
        """Take over a job; nothing happens before :meth:`start`.

        Args:
            foreman: Its tasks and nodes.
            pool: Where turns are taken.
            store: Where its state is kept; the monitor closes it.
            recruit: Finds a spare and makes it the node of that number; run in the pool.
            hang_up: Closes all connections.
        """
        super().__init__()
        self._foreman = foreman
        self._pool = pool
        self._store = store
        self._desk = OrderDesk(store.state_file, foreman.memory, self._obey)
        self._recruit = recruit
        self._hang_up = hang_up
        self._give_way: Callable[[], None] = lambda: None
        self._tell: Callable[[str], None] = _log.warning
        self._recruiting = False
        self._recruit_at = 0.0
        self._orders_at = 0.0
        self._keep_all_at = 0.0
        self._gather_until = 0.0
        self._timetable = Timetable()
        self._is_final = False
        self._unkept: OSError | None = None
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="allot-monitor", daemon=True)

    def start(self, give_way: Callable[[], None], tell: Callable[[str], None]) -> None:
        """Begin to send and to watch.

        Args:
            give_way: Called by the monitor's thread, as its last act, where another client
                succeeds this one.
            tell: Shows the user a line on what cannot wait to be asked for.
        """
        self._give_way, self._tell = give_way, tell
        self._thread.start()

    # What others read: snapshots.

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """See :class:`Watched`."""
        return self._foreman.ledger.tasks

    @property
    def nodes(self) -> tuple[NodeStatus, ...]:
        """See :class:`Watched`."""
        return tuple(seat.status for seat in list(self._foreman.seats.values()))

    @property
    def ended(self) -> Sequence[TaskStatus]:
        """See :class:`Watched`."""
        return self._foreman.ended

    @property
    def is_final(self) -> bool:
        """See :class:`Watched`; what says so is on disk."""
        return self._is_final

    @property
    def is_stuck(self) -> bool:
        """See :class:`Watched`."""
        return self._foreman.is_stuck

    def count(self, state: TaskState) -> int:
        """See :class:`Watched`."""
        return self._foreman.ledger.count(state)

    @property
    def unheard(self) -> int:
        """See :class:`Watched`."""
        lost = {i for i, seat in list(self._foreman.seats.items()) if not seat.is_reachable}
        running = (task for task in self.tasks if task.state is TaskState.RUNNING)
        return sum(task.started_at is None and task.node_id in lost for task in running)

    def output_reader(self, node_id: int, file: Path) -> Reader:
        """See :class:`Watched`."""
        return self._foreman.seats[node_id].driver.output_reader(file)

    def wait_until_heard(self, timeout: float) -> None:
        """See :class:`Watched`; what was placed has been sent then."""
        now, every = time.monotonic(), list(self._foreman.seats.values())
        seats = [seat for seat in every if seat.inbox or seat.under_way or seat.is_due(now)]
        self.wait_for(lambda: all(seat.turns or not seat.is_reachable for seat in seats), timeout)

    def hold(self, timeout: float) -> None:
        """See :class:`Watched`."""
        self._foreman.hold()
        seats = list(self._foreman.seats.values())
        self.wait_for(
            lambda: self._closing.is_set() or not any(seat.owes_mail for seat in seats), timeout
        )

    def stop(self, timeout: float) -> None:
        """End the thread; turns under way are left to their workers."""
        self._come_to_an_end()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def release(self) -> None:
        """See :class:`Watched`; no turn may be under way any more."""
        for seat in self._foreman.seats.values():
            seat.driver.release()

    def hang_up(self) -> None:
        """See :class:`Watched`; what fails by it is no news of the nodes."""
        self._come_to_an_end()
        self._hang_up()

    def _come_to_an_end(self) -> None:
        self._closing.set()
        self._queue.put(lambda: None)

    def clean_up(self, timeout: float) -> None:
        """See :class:`Watched`; what could not be ended on a node yet keeps its directory."""
        if not self._is_final or self.is_over:
            return
        give_up = time.monotonic() + timeout
        every = list(self._foreman.seats.values())
        # One that was just picked up may not be connected yet.
        self.wait_for(
            lambda: (
                not any(s.is_reachable and s.driver.was_prepared and not s.turns for s in every)
            ),
            timeout,
        )
        seats = [seat for seat in every if not seat.orphans]
        clean_up(seats, self._pool, max(0.0, give_up - time.monotonic()))

    # What users order.

    def carry_out(self, order: Order) -> int:
        """See :class:`Watched`; it is on disk when this returns."""
        return self.ask(lambda: self._obey(order))

    def _obey(self, order: Order) -> int:
        count = self._foreman.obey(order)
        self._keep(durable=True)
        if self._unkept is not None:
            raise AllotError(f"the order is followed, but cannot be recorded: {self._unkept}")
        return count

    def save(self) -> JobState:
        """See :class:`Watched`."""
        return self.ask(self._save)

    def _save(self) -> JobState:
        self._keep(all_of=True)
        if self._unkept is not None:
            raise AllotError(f"the state of the job cannot be written: {self._unkept}")
        return self._foreman.state

    def ask(self, order: Callable[[], _T]) -> _T:
        """Have something done by the monitor's thread.

        Raises:
            AllotError: Nobody watches the job any more.
        """
        if self.is_over or self.error is not None or self._closing.is_set():
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
                if isinstance(error, SupersededError):
                    raise
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
        is_superseded = False
        try:
            with notice_of_exit() as is_exiting:
                while not (self._closing.is_set() or is_exiting()):
                    self._go_round()
                is_ending = not self._closing.is_set()
            self._keep(all_of=True)
            if is_ending:
                self.error = AllotError("the program ends")
        except SupersededError as error:
            self._tell(f"{error}; this client only watches now")
            is_superseded = True
        except BaseException as error:
            _log.exception("the monitor stopped")
            self.error = error
        finally:
            self._closing.set()
            self._store.close()
            if is_superseded or self.error is not None:
                self._hang_up()  # what must be kept is: a program may end by this, with its thread
            if is_superseded:
                self._follow_by_a_watcher()
            self._publish()

    def _go_round(self) -> None:
        self._store.lease.check_successor()
        self._dispatch()
        self._collect()
        self._take_orders()
        self._foreman.give_up_silent()
        if self._unkept is None:
            self._foreman.fill_slots()
            self._replace_lost_nodes()
        self._keep()
        self._publish()

    def _follow_by_a_watcher(self) -> None:
        try:
            self._give_way()
        except Exception as error:
            _log.exception("nobody watches the job any more")
            self.error = error
        else:
            self.is_over = True

    def _keep(self, *, all_of: bool = False, durable: bool = False) -> None:
        """Write down what changed; a placement must be on disk before it is sent."""
        now = time.monotonic()
        is_final = self._foreman.ledger.is_final
        all_of |= now >= self._keep_all_at or (is_final and not self._is_final)
        if all_of:
            self._keep_all_at = now + _KEEP_ALL_S
        changes = self._foreman.take_changes(all_of=all_of)
        is_durable = durable or is_final or self._unkept is not None or needs_disk(changes)
        try:
            is_new = self._unkept is not None or changes != _NOTHING
            if is_new or (all_of and not self._store.is_whole):
                self._store.commit(changes, lambda: self._foreman.state, durable=is_durable)
                done = time.monotonic()
                self._gather_until = done + min(_MOST_GATHER_S, _GATHER_RATIO * (done - now))
        except OSError as error:
            if self._unkept is None:
                self._tell(
                    f"the state of job {self._store.state_file.stem} cannot be written ({error}): "
                    "nothing new starts until it can; what runs goes on"
                )
            self._unkept = error
            self._foreman.withdraw()
            return
        if self._unkept is not None:
            self._tell(f"the state of job {self._store.state_file.stem} can be written again")
            self._unkept = None

    def _take_orders(self) -> None:
        now = time.monotonic()
        if now < self._orders_at:
            return
        self._orders_at = now + _ORDERS_S
        try:
            asked_to_leave = self._desk.follow()
        except OSError as error:
            _log.warning("orders of other clients cannot be looked for: %s", error)
            return
        if asked_to_leave and not self._foreman.makes_tasks:
            raise SupersededError("another client can make the tasks that wait")

    def _publish(self) -> None:
        with self.changed:
            self._is_final = self._foreman.ledger.is_final and self._unkept is None
            self.changed.notify_all()

    def _dispatch(self) -> None:
        for seat in due_seats(self._foreman.seats.values()):
            self._submit(self._take_turn, seat, seat.take_mail())

    def _submit(self, work: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the interpreter is on its way out
            self._pool.submit(work, *arguments)

    def _take_turn(self, seat: Seat, mail: Mail) -> None:
        try:
            turn = seat.driver.turn(mail)
        except Exception as error:
            _log.exception("%s: a turn failed", seat.place.node_name)
            seat.driver.node.close()
            why = ConnectionFailedError(seat.place.node_name, f"unexpected: {error!r}")
            turn = Turn((), None, error=why)
        self._queue.put(lambda: self._apply(seat, turn))
        if not turn.error:
            seat.driver.node.when_heard(lambda: self._queue.put(lambda: self._hear(seat)))

    def _apply(self, seat: Seat, turn: Turn) -> bool:
        if turn.error and self._closing.is_set():
            return False
        before = standing(seat)
        with self.changed:  # who waits sees all of a turn, or nothing of it
            self._foreman.apply(seat, turn)
        self._timetable.enter(seat, turn)
        return bool(turn.reports or turn.unsent or turn.error) or standing(seat) != before

    def _hear(self, seat: Seat) -> bool:
        self._timetable.hurry(seat)
        return False

    def _collect(self) -> None:
        self._timetable.begin(self._foreman.seats.values(), _IDLE_S)
        has_news = False
        while not has_news:
            try:
                item = self._queue.get(timeout=self._timetable.seconds_left())
            except queue.Empty:
                break
            self._closing.wait(self._gather_until - time.monotonic())
            with contextlib.suppress(queue.Empty):
                while True:
                    has_news |= item() is not False
                    item = self._queue.get_nowait()

    def _replace_lost_nodes(self) -> None:
        if self._recruiting or time.monotonic() < self._recruit_at or not self._foreman.lacks_nodes:
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
            _log.info("%s steps in", seat.place.node_name)
            self._foreman.add(seat)
