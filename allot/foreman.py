"""What is done about the tasks of a job: placed, ended, retried, cancelled, queued again.

Rules: used by the monitor's thread only, which is the one writer of the ledger; what to do is
decided by the scheduler and the lifecycle, what is done on the nodes goes into their seats.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Iterable, Sequence

from allot.driver import Began, Finished, Report, Stepped, Turn
from allot.errors import ConfigError
from allot.launcher import Launcher
from allot.lifecycle import Ledger, Placement
from allot.model import TaskState, TaskStatus
from allot.scheduler import may_retry, plan, should_drain
from allot.script import CancelOrder, Launch
from allot.seats import Seat
from allot.settings import Settings

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
        self, ledger: Ledger, launcher: Launcher, seats: Sequence[Seat], settings: Settings
    ) -> None:
        """Take over the tasks and the nodes of a job."""
        self.ledger = ledger
        self.seats = {seat.place.node_id: seat for seat in seats}
        self.ended: list[TaskStatus] = []
        self._launcher = launcher
        self._settings = settings
        self._wanted = len(seats)
        self._failures = 0
        self._stopped = False
        self._cancelled: dict[int, str] = {}
        self._holding = threading.Event()

    @property
    def lacks_nodes(self) -> bool:
        """Whether tasks wait while fewer nodes than at the start can take any."""
        usable = sum(seat.may_take_tasks for seat in self.seats.values())
        waiting = self.ledger.count(TaskState.PENDING) and not self._holding.is_set()
        return usable < self._wanted and bool(waiting)

    def send(self, placement: Placement, launch: Launch) -> None:
        """Give a task its place and put it in its node's inbox."""
        seat = self.seats[placement.node_id]
        self.ledger.place(placement, seat.place.node_name, launch.output_file)
        seat.note_placement(launch)

    def hold(self) -> None:
        """Place nothing any more; may be called from any thread."""
        self._holding.set()

    def apply(self, seat: Seat, turn: Turn) -> None:
        """Note what a turn brought."""
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
        for launch in unsent:
            task = self.ledger[launch.proc_id]
            if task.attempt == launch.attempt and task.state is TaskState.RUNNING:
                if (reason := self._cancelled.pop(launch.proc_id, None)) is None:
                    self.ledger.give_back(launch.proc_id)
                else:
                    self._end_unstarted(launch.proc_id, reason)

    def _apply_report(self, seat: Seat, report: Report) -> None:
        if isinstance(report, Began):
            self.ledger.start(report.proc_id, report.time)
        elif isinstance(report, Stepped):
            self.ledger.progress(report.proc_id, report.progress)
        else:
            self._end(seat, report)

    def _end(self, seat: Seat, end: Finished) -> None:
        ledger, proc_id = self.ledger, end.proc_id
        if end.state is TaskState.COMPLETED:
            seat.completed += 1
            seat.failed_in_a_row = 0
            ledger.succeed(proc_id, end.time, end.reason)
        elif end.state is TaskState.TIMEOUT:
            ledger.time_out(proc_id, end.time, end.exit_code, end.reason)
        elif end.state is TaskState.CANCELLED:
            reason = self._cancelled.get(proc_id, "") or end.reason
            ledger.cancel(proc_id, end.time, end.exit_code, reason)
        elif end.state is TaskState.NODE_FAIL:
            ledger.lose(proc_id, end.time, end.reason)
        else:
            ledger.fail(proc_id, end.time, end.exit_code, end.reason)
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
        is_unwanted = self._cancelled.pop(proc_id, None) is not None or self._stopped
        if not is_unwanted and may_retry(task.state, ledger.retried(proc_id), settings.retries):
            failed_on = {task.node_id} if task.node_id is not None else set()
            ledger.requeue(proc_id, ledger.avoids(proc_id) | failed_on)
            return
        self.ended.append(task)
        if task.state in (TaskState.COMPLETED, TaskState.CANCELLED):
            return
        self._failures += 1
        if settings.kill_on_bad_exit and self._failures == 1:
            self._stopped = True
            reason = f"task {proc_id} did not complete (kill_on_bad_exit)"
            self.cancel(None, _KILL_GRACE_S, reason)
        elif settings.max_failures is not None and self._failures >= settings.max_failures:
            self._stopped = True
            waiting = [
                task.proc_id for task in self.ledger.tasks if task.state is TaskState.PENDING
            ]
            reason = f"{self._failures} tasks did not complete (max_failures)"
            self.cancel(waiting, _KILL_GRACE_S, reason)

    def fill_slots(self) -> None:
        """Place waiting tasks in free slots; one that cannot be made frees its slot again."""
        while self.ledger.count(TaskState.PENDING) and not self._holding.is_set():
            nodes = []
            for node_id, seat in self.seats.items():
                running, held = len(self.ledger.taken(node_id)), self.ledger.held_gpus(node_id)
                nodes.append(seat.slots(running, list(held)))
            settings = self._settings
            gpus = settings.gpus_per_task
            placements = plan(self.ledger, nodes, settings.distribution, gpus_per_task=gpus)
            made = [self._place(placement) for placement in placements]
            if all(made):
                return

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
        self._cancelled[task.proc_id] = reason
        seat.cancels.append(CancelOrder(task.proc_id, task.attempt, grace))

    def requeue(self, proc_ids: Iterable[int] | None) -> int:
        """Queue tasks once more (None: all that ended other than COMPLETED); how many.

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
        for proc_id in chosen:
            self.ledger.requeue(proc_id)
        if chosen:
            self._failures, self._stopped = 0, False
        return len(chosen)

    def give_up(self, seat: Seat) -> None:
        """Give a node up at the user's word: its tasks are NODE_FAIL."""
        seat.drain("down at the user's word")
        seat.inbox.clear()
        for proc_id in list(self.ledger.taken(seat.place.node_id).values()):
            attempt = self.ledger[proc_id].attempt
            self.ledger.lose(proc_id, time.time(), "its node was given up at the user's word")
            seat.cancels.append(CancelOrder(proc_id, attempt, 0.0))
            seat.forgets.append((proc_id, attempt))
            self._after_end(proc_id)

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
