"""What is done about the tasks of a job: placed, ended, retried, cancelled, queued again.

Rules: used by the monitor's thread only, which is the one writer of the ledger; what to do is
decided by the scheduler and the lifecycle, what is done on the nodes goes into their seats.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Collection, Iterable, Sequence

from allot.errors import ConfigError
from allot.launcher import Launcher, choose_factory
from allot.lifecycle import Ledger, Placement
from allot.memory import Memory
from allot.model import NodeState, TaskState, TaskStatus
from allot.orders import Order
from allot.records import CancelRecord, Changes, JobState
from allot.scheduler import NodeSlots, Vacancies, may_retry, plan, should_drain
from allot.script import CancelOrder, Launch
from allot.seats import Seat
from allot.settings import Settings
from allot.turns import Began, Finished, Report, Stepped, Turn

_log = logging.getLogger(__name__)

_KILL_GRACE_S = 10.0


class Foreman:
    """Keeps the tasks of one job going on its nodes.

    Attributes:
        ledger: Every task.
        seats: The nodes used, by ``node_id``.
        ended: The tasks that ended so far, in that order; it only grows.
    """

    def __init__(
        self,
        ledger: Ledger,
        launcher: Launcher,
        seats: Sequence[Seat],
        settings: Settings,
        memory: Memory,
    ) -> None:
        """Take over the tasks and the nodes of a job.

        Args:
            ledger: Every task as it stands.
            launcher: Makes tasks.
            seats: The nodes used.
            settings: What the user asked for.
            memory: What is remembered beside the ledger.
        """
        self.ledger = ledger
        self.seats = {seat.place.node_id: seat for seat in seats}
        ended = [task for task in ledger.tasks if task.state.is_final]
        self.ended = sorted(ended, key=lambda task: task.ended_at or 0.0)
        self.memory = memory
        self._launcher = launcher
        self._settings = settings
        self._wanted = memory.nnodes
        self._failures = sum(_is_failure(task) for task in ended)
        self._holding = threading.Event()
        self._vacancies = Vacancies(ledger, self.seats)

    @property
    def lacks_nodes(self) -> bool:
        """Whether tasks wait while fewer nodes than at the start can take any."""
        usable = sum(seat.may_take_tasks for seat in self.seats.values())
        return usable < self._wanted and self._places_tasks

    @property
    def makes_tasks(self) -> bool:
        """Whether there is anyone to make tasks."""
        return self._launcher.makes_tasks

    @property
    def is_stuck(self) -> bool:
        """Whether tasks wait that nobody can make, and nothing else goes on."""
        waiting, running = map(self.ledger.count, (TaskState.PENDING, TaskState.RUNNING))
        return bool(waiting) and not running and not self.makes_tasks

    @property
    def _places_tasks(self) -> bool:
        waiting = self.ledger.count(TaskState.PENDING)
        return bool(waiting) and self.makes_tasks and not self._holding.is_set()

    @property
    def state(self) -> JobState:
        """The whole job, as it is remembered."""
        return self.memory.state(self.ledger, self.seats)

    def take_changes(self, *, all_of: bool) -> Changes:
        """What is to be remembered since the last call; ``all_of`` it, or what matters at once."""
        return self.memory.take_changes(self.ledger, self.seats, all_of=all_of)

    def add(self, seat: Seat) -> None:
        """Use one more node."""
        self.seats[seat.place.node_id] = seat
        self._vacancies.note(seat.place.node_id)

    def send(self, placement: Placement, launch: Launch) -> None:
        """Give a task its place and put it in its node's inbox."""
        seat = self.seats[placement.node_id]
        self.ledger.place(placement, seat.place.node_name, launch.output_file)
        self.memory.note_launch(launch)
        seat.note_placement(launch)

    def hold(self) -> None:
        """Place nothing any more, nor keep what waits for files; may be called from any thread."""
        self._holding.set()
        for seat in list(self.seats.values()):
            seat.driver.hold_back()

    def apply(self, seat: Seat, turn: Turn) -> None:
        """Note what a turn brought."""
        self._vacancies.note(seat.place.node_id)
        was_reachable = seat.is_reachable
        seat.take_back(turn, running=len(self.ledger.taken(seat.place.node_id)))
        if was_reachable and turn.error is not None:
            _log.warning("%s is out of reach: %s", seat.place.node_name, turn.error.reason)
        self._take_back_unsent(seat, turn)
        for report in turn.reports:
            task = self.ledger[report.proc_id]
            if task.attempt == report.attempt and task.state is TaskState.RUNNING:
                self._apply_report(seat, report)

    def _take_back_unsent(self, seat: Seat, turn: Turn) -> None:
        """Queue again what a broken node was certainly never sent."""
        unsent = list(turn.unsent)
        if turn.error is not None:
            unsent += seat.inbox
            seat.inbox = []
        self._give_back(unsent)

    def withdraw(self) -> None:
        """Queue again what was placed and is not sent yet."""
        for seat in self.seats.values():
            unsent, seat.inbox = seat.inbox, []
            self._give_back(unsent)

    def _give_back(self, unsent: Iterable[Launch]) -> None:
        for launch in unsent:
            task = self.ledger[launch.proc_id]
            if task.attempt == launch.attempt and task.state is TaskState.RUNNING:
                if (cancel := self.memory.cancels.pop(launch.proc_id, None)) is None:
                    self.ledger.give_back(launch.proc_id)
                else:
                    self._end_unstarted(launch.proc_id, cancel.reason)

    def _apply_report(self, seat: Seat, report: Report) -> None:
        if isinstance(report, Began):
            self.ledger.start(report.proc_id, min(report.time, time.time()))
        elif isinstance(report, Stepped):
            self.ledger.progress(report.proc_id, report.progress)
        else:
            self._end(seat, report)

    def _end(self, seat: Seat, end: Finished) -> None:
        ledger, proc_id = self.ledger, end.proc_id
        # A clock that was set meanwhile must not make an end before the start, or tomorrow.
        when = max(min(end.time, time.time()), ledger[proc_id].started_at or 0.0)
        if end.state is TaskState.COMPLETED:
            seat.completed += 1
            seat.failed_in_a_row = 0
            ledger.succeed(proc_id, when, end.reason)
        elif end.state is TaskState.TIMEOUT:
            ledger.time_out(proc_id, when, end.exit_code, end.reason)
        elif end.state is TaskState.CANCELLED:
            cancel = self.memory.cancels.get(proc_id)
            reason = end.reason if cancel is None else cancel.reason
            ledger.cancel(proc_id, when, end.exit_code, reason)
        elif end.state is TaskState.NODE_FAIL:
            ledger.lose(proc_id, when, end.reason)
        else:
            ledger.fail(proc_id, when, end.exit_code, end.reason)
            self._count_failure_of_node(seat)
        self._after_end(proc_id)

    def _count_failure_of_node(self, seat: Seat) -> None:
        seat.failed_in_a_row += 1
        completed = sum(other.completed for other in self.seats.values())
        limit = self._settings.node_max_failures
        if seat.may_take_tasks and should_drain(
            seat.failed_in_a_row, seat.completed, completed - seat.completed, limit
        ):
            seat.drain(f"{seat.failed_in_a_row} tasks in a row failed there, none completed")

    def _after_end(self, proc_id: int) -> None:
        ledger, settings = self.ledger, self._settings
        task = ledger[proc_id]
        is_unwanted = self.memory.cancels.pop(proc_id, None) is not None or self.memory.stopped
        if not is_unwanted and may_retry(task.state, ledger.retried(proc_id), settings.retries):
            failed_on = {task.node_id} if task.node_id is not None else set()
            ledger.requeue(proc_id, ledger.avoids(proc_id) | failed_on)
            return
        self.ended.append(task)
        if not _is_failure(task):
            return
        self._failures += 1
        if settings.kill_on_bad_exit and self._failures == 1:
            self.memory.stopped = True
            reason = f"task {proc_id} did not complete (kill_on_bad_exit)"
            self.cancel(None, _KILL_GRACE_S, reason)
        elif settings.max_failures is not None and self._failures >= settings.max_failures:
            self.memory.stopped = True
            waiting = [
                task.proc_id for task in self.ledger.tasks if task.state is TaskState.PENDING
            ]
            reason = f"{self._failures} tasks did not complete (max_failures)"
            self.cancel(waiting, _KILL_GRACE_S, reason)

    def fill_slots(self) -> None:
        """Place waiting tasks in free slots; one that cannot be made frees its slot again."""
        while self._places_tasks:
            placements = plan(
                self.ledger,
                [self._look_at(node_id) for node_id in self._vacancies.candidates()],
                self._settings.distribution,
                gpus_per_task=self._settings.gpus_per_task,
                elsewhere=self._has_another,
            )
            made = [self._place(placement) for placement in placements]
            if all(made):
                return

    def _look_at(self, node_id: int) -> NodeSlots:
        running, held = len(self.ledger.taken(node_id)), self.ledger.held_gpus(node_id)
        node = self.seats[node_id].slots(running, list(held))
        self._vacancies.see(node)
        return node

    def _has_another(self, avoid: Collection[int]) -> bool:
        """Whether a task that avoids these nodes may wait for one that is full now."""
        return any(
            self.seats[node_id].status.state is NodeState.READY
            for node_id in self._vacancies.full
            if node_id not in avoid
        )

    def _place(self, placement: Placement) -> bool:
        """Give a task its place; False where it could not be made, and its slot is free again."""
        place = self.seats[placement.node_id].place
        task = self.ledger[placement.proc_id]
        if task.state is not TaskState.PENDING:
            return False
        try:
            launch = self._launcher.prepare(placement, place, task.params, task.attempt)
        except Exception as error:
            _log.exception("task %d could not be made", placement.proc_id)
            text = "".join(traceback.format_exception(error))
            output = self._launcher.note_failure(placement.proc_id, task.attempt, text)
            self.ledger.place(placement, place.node_name, output)
            reason = f"task_factory: {type(error).__name__}: {error}"
            self.ledger.fail(placement.proc_id, time.time(), None, reason)
            self._after_end(placement.proc_id)
            return False
        if not self._holding.is_set():
            self.send(placement, launch)
        return True

    def obey(self, order: Order) -> int:
        """Do what a user orders.

        Returns:
            How many tasks were queued once more.

        Raises:
            ConfigError: There is no such task or node, or the order is none for who drives a job.
        """
        if order.kind == "cancel":
            self.cancel(order.proc_ids, order.grace, "cancelled by the user")
        elif order.kind == "rerun":
            return self.requeue(order.proc_ids, order.command)
        elif order.kind == "drain":
            self.seat(order.node).drain("drained by the user")
        elif order.kind == "resume":
            self.seat(order.node).resume()
        elif order.kind == "down":
            self.give_up(self.seat(order.node))
        else:
            raise ConfigError(f"a client that drives a job cannot be told to {order.kind}")
        return 0

    def cancel(self, proc_ids: Iterable[int] | None, grace: float, reason: str) -> None:
        """Cancel tasks (None: all); what has ended is left as it is.

        Raises:
            ConfigError: There is no such task.
        """
        chosen = range(len(self.ledger)) if proc_ids is None else self._known(proc_ids)
        for proc_id in chosen:
            task = self.ledger[proc_id]
            if task.state is TaskState.PENDING:
                self._end_unstarted(proc_id, reason)
            elif task.state is TaskState.RUNNING:
                self._cancel_running(task, grace, reason)

    def _end_unstarted(self, proc_id: int, reason: str) -> None:
        self.ledger.cancel(proc_id, time.time(), reason=reason)
        self.ended.append(self.ledger[proc_id])

    def _cancel_running(self, task: TaskStatus, grace: float, reason: str) -> None:
        seat = self.seats[self._node_of(task)]
        unsent = [launch for launch in seat.inbox if launch.proc_id == task.proc_id]
        if unsent:
            seat.inbox = [launch for launch in seat.inbox if launch.proc_id != task.proc_id]
            self._end_unstarted(task.proc_id, reason)
            return
        self.memory.cancels[task.proc_id] = CancelRecord(grace, reason)
        self.memory.note_order(task.proc_id)
        seat.cancels.append(CancelOrder(task.proc_id, task.attempt, grace))

    def requeue(self, proc_ids: Iterable[int] | None, command: str | None = None) -> int:
        """Queue tasks once more (None: all that ended other than COMPLETED); how many.

        Where a command is given, it is what tasks run from now on.

        Raises:
            ConfigError: There is no such task, or it has not ended.
        """
        if proc_ids is None:
            states = set(TaskState) - {TaskState.COMPLETED}
            chosen = [
                t.proc_id for t in self.ledger.tasks if t.state.is_final and t.state in states
            ]
        else:
            chosen = self._known(proc_ids)
        for proc_id in chosen:
            if not self.ledger[proc_id].state.is_final:
                state = self.ledger[proc_id].state
                raise ConfigError(f"task {proc_id} is {state}: only what has ended can run again")
        if chosen and "torch" in self._settings.export and len(chosen) < len(self.ledger):
            raise ConfigError('export="torch": only all tasks together can run again')
        if command is not None:
            params = [task.params for task in self.ledger.tasks[:1]]
            self._launcher.use(choose_factory(None, command, params))
            self.memory.note_command(command)
        for proc_id in chosen:
            self.ledger.requeue(proc_id)
        if chosen:
            self._failures, self.memory.stopped = 0, False
        return len(chosen)

    def give_up(self, seat: Seat) -> None:
        """Give a node up at the user's word: its tasks are NODE_FAIL."""
        seat.drain("down at the user's word")
        self._lose_tasks(seat, "its node was given up at the user's word")

    def give_up_silent(self) -> None:
        """Give up the tasks of nodes that were out of reach for too long."""
        limit = self._settings.node_timeout
        if limit is None:
            return
        for seat in self.seats.values():
            if seat.silent_for >= limit and self.ledger.taken(seat.place.node_id):
                self._lose_tasks(seat, f"its node was out of reach for {limit:g} s (node_timeout)")

    def _lose_tasks(self, seat: Seat, reason: str) -> None:
        seat.inbox.clear()
        for proc_id in list(self.ledger.taken(seat.place.node_id).values()):
            attempt = self.ledger[proc_id].attempt
            self.ledger.lose(proc_id, time.time(), reason)
            seat.orphan(proc_id, attempt)
            self._after_end(proc_id)

    def pick_up(self) -> None:
        """Send out again what an earlier client had ordered."""
        for proc_id, cancel in self.memory.cancels.items():
            task = self.ledger[proc_id]
            order = CancelOrder(proc_id, task.attempt, cancel.grace)
            self.seats[self._node_of(task)].cancels.append(order)

    def _known(self, proc_ids: Iterable[int]) -> list[int]:
        chosen = list(dict.fromkeys(proc_ids))
        for proc_id in chosen:
            if proc_id not in range(len(self.ledger)):
                raise ConfigError(
                    f"there is no task {proc_id!r}: they are 0 to {len(self.ledger) - 1}"
                )
        return chosen

    def seat(self, node_name: str) -> Seat:
        """The node of a name.

        Raises:
            ConfigError: The job does not use it.
        """
        for seat in self.seats.values():
            if seat.place.node_name == node_name:
                return seat
        names = ", ".join(seat.place.node_name for seat in self.seats.values())
        raise ConfigError(f"no node {node_name!r} is used by this job; there are {names}")

    def _node_of(self, task: TaskStatus) -> int:
        if task.node_id is None:
            raise ConfigError(f"task {task.proc_id} has no node")
        return task.node_id


def _is_failure(task: TaskStatus) -> bool:
    return task.state not in (TaskState.COMPLETED, TaskState.CANCELLED)
