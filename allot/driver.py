"""All that happens on one node, in turns.

Rules: a driver is used by one thread at a time, a pool worker for each turn; it decides nothing
about tasks but reports what it saw. Everything about a break is undone in the next turn: the
functions are sent anew, what was not heard of is asked for again (the claims on the node make
sure that it starts once), and the event file is read on from where it was left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from allot import questions
from allot.answers import parse_number
from allot.errors import ConnectionFailedError, NodeError
from allot.eventfile import EventFile
from allot.events import (
    BEGINNING,
    Cancelled,
    Cause,
    Cursor,
    Ended,
    Event,
    Refused,
    Started,
    Warned,
    parse_events,
)
from allot.foothold import Foothold, Mandate, RefusedError
from allot.harvest import Harvest
from allot.model import TaskState
from allot.node import Node
from allot.output import Reader
from allot.pace import IDLE_LOOK_S, QUICK_S, Pace
from allot.probe import NodeFacts
from allot.reasons import FULL_HOME, REFUSALS, WARNINGS
from allot.running import Running
from allot.script import CancelOrder, Launch
from allot.stage import Stager
from allot.turns import Began, Finished, Mail, Report, Stepped, Turn

_ALIVE_S = 10.0
_ORDER_AGAIN_S = 0.2
_ANSWER_S = 10.0
_BATCH = 200
_CLOCK_SET_S = 2.0
_MOST_ASKS = 6
_NOBODY = (0, 0)


class NodeDriver:
    """One node of a job, and the tasks that run on it.

    Attributes:
        node: Its connection.
        was_prepared: The job's directory was made there, by this client or an earlier one.
    """

    def __init__(
        self,
        node: Node,
        harvest: Harvest,
        stager: Stager,
        facts: NodeFacts,
        *,
        prelude: Callable[[int], str],
        mandate: Mandate,
        look_at_node: Callable[[], NodeFacts],
        poll_interval: float,
        cursor: Cursor = BEGINNING,
        was_prepared: bool = False,
    ) -> None:
        """Take over a node that was probed.

        Args:
            node: Its connection.
            harvest: Its outputs.
            stager: Brings it what tasks need.
            facts: What the last probe found.
            prelude: The Bash that prepares it for tasks under a generation.
            mandate: By what right tasks are started.
            look_at_node: Probes it while the job runs there.
            poll_interval: Seconds between two looks at a running task's output.
            cursor: How far its event file was taken in by an earlier client.
            was_prepared: Whether an earlier client made the job's directory there.
        """
        self.node = node
        self.was_prepared = was_prepared
        self._foothold = Foothold(node, prelude, mandate)
        self._harvest = harvest
        self._stager = stager
        self._look_at_node = look_at_node
        self._ends_at_logout = facts.kills_at_logout
        self._clock_offset = facts.clock_offset
        self._boot_id = facts.health.boot_id
        self._pace = Pace(poll_interval)
        self._events = EventFile(cursor)
        self._tasks: dict[tuple[int, int], Running] = {}
        self._cancels: dict[tuple[int, int], CancelOrder] = {}
        self._reports: list[Report] = []
        self._complaint = ""
        self._holds_back = False
        self._alive_at = time.monotonic()

    def adopt(self, launches: Iterable[Launch]) -> None:
        """Take over tasks that an earlier client may have started; no turn was taken yet."""
        for launch in launches:
            self._add(launch).was_asked = True

    def output_reader(self, file: Path) -> Reader:
        """Reads an output while it is written.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return self._harvest.reader(file)

    def hold_back(self) -> None:
        """Give back what waits for files, in the next turn; may be called from any thread."""
        self._holds_back = True

    def turn(self, mail: Mail) -> Turn:
        """Do what is asked, then see what happened."""
        self.node.when_heard(None)
        for launch in mail.launches:
            self._add(launch)
        for key in mail.forgets:
            self._forget(key)
        for order in mail.cancels:  # a guard may take its recorder's place, and tell nobody
            if task := self._tasks.get((order.proc_id, order.attempt)):
                task.tells = False
                self._pace.note_moved()
        self._cancels |= {(order.proc_id, order.attempt): order for order in mail.cancels}
        facts: NodeFacts | None = None
        error: NodeError | None = None
        try:
            self._connect(mail.launches)
            self._cancel()
            self._stage()
            if mail.probe:
                facts = self._look_at_node()
                self._harvest.sharing = facts.sharing
            elif not (self._tasks or mail.cancels):
                self.node.request("", timeout=_ANSWER_S)  # is it still there?
            must_read = self._take_notices() or bool(mail.cancels)
            if must_read or self._pace.is_due(self._tasks.values()):
                self._read_events()
            self._look()
            self._finish()
            self._look_for_the_dead()
        except Exception as caught:
            self.release()
            if not isinstance(caught, NodeError):
                raise  # what was reported so far goes with the next turn
            error = caught
        reports, self._reports = self._reports, []
        unsent = self._take_out_unsent()
        return Turn(
            reports,
            self._next_pause(),
            facts=facts,
            error=error,
            unsent=unsent,
            cursor=self._safe_cursor(),
            owed=frozenset(self._cancels),
            complaint=self._complaint,
            transfer=self._stager.progress or self._harvest.progress,
            holds=any(not self._tasks[key].was_asked for key in self._stager.held),
        )

    def _add(self, launch: Launch) -> Running:
        task = Running(launch, self._harvest.output(launch))
        self._tasks[task.key] = task
        return task

    def _safe_cursor(self) -> Cursor:
        """From where the event file holds all that was told of the tasks that run."""
        started = [task.since for task in self._tasks.values() if task.since is not None]
        return min([*started, self._events.cursor], key=lambda cursor: cursor.offset)

    def release(self) -> None:
        """Let go of what is under way to the client, and to the node."""
        self._stager.begin_anew()
        self._harvest.begin_anew([task.output for task in self._tasks.values()])

    def clean_up(self, timeout: float) -> str:
        """Remove the job's directory there; where files are kept that nobody collected, or ""."""
        if not self._foothold.is_ready:
            return ""
        try:
            self._stager.clear_out(timeout)
        except ConnectionFailedError:
            return ""
        is_gone, kept = self._foothold.clean_up(timeout)
        self.was_prepared = not (is_gone or kept)
        return kept

    def _connect(self, launches: Sequence[Launch]) -> None:
        if self._foothold.is_ready:
            self._send(launches)
            return
        self._events.path, is_new = self._foothold.prepare()
        was_prepared, self.was_prepared = self.was_prepared, True
        self._stager.begin_anew(is_new=is_new)
        self._pace.note_read()  # what was asked for before is read of below
        for task in self._tasks.values():
            task.tells = False
        if any(task.was_asked for task in self._tasks.values()):
            self._alive_at = 0.0
            self._read_events()
            if is_new and was_prepared:
                self._lose_the_unheard()
        self._send([task.launch for task in self._tasks.values() if task.since is None])

    def _lose_the_unheard(self) -> None:
        """The job's directory was removed: what was asked for may have started and even ended."""
        for task in self._tasks.values():
            if task.was_asked and task.since is None:
                task.since = self._events.cursor
                task.recorders.add(_NOBODY)
                task.warnings.append(WARNINGS["gone"])

    def _send(self, launches: Sequence[Launch]) -> None:
        """Launch what needs nothing; the others are held until all they need is there."""
        for launch in launches:
            if launch.stage_in:
                self._stager.hold(launch)
        self._launch([launch for launch in launches if not launch.stage_in])

    def _stage(self) -> None:
        ready, failed = self._stager.advance()
        self._launch(ready)
        for launch, problem in failed:
            task = self._tasks[launch.proc_id, launch.attempt]
            if task.was_asked:  # by an earlier client, perhaps: nobody may start it now
                self._cancels[task.key] = CancelOrder(*task.key, grace=0.0)
            self._over(task, TaskState.FAILED, None, time.time(), problem)

    def _launch(self, launches: Sequence[Launch]) -> None:
        for first in range(0, len(launches), _BATCH):
            batch = launches[first : first + _BATCH]
            asked = [self._tasks[launch.proc_id, launch.attempt] for launch in batch]
            anew = [task for task in asked if not task.was_asked]
            self._pace.note_moved()
            for task in asked:  # before it is: it may be heard there, and nothing here
                task.note_asked(time.monotonic())
            try:
                self._foothold.launch(batch)
            except RefusedError:
                for task in anew:
                    task.was_asked = False
                raise

    def _take_out_unsent(self) -> list[Launch]:
        held = {} if self._holds_back else self._stager.held
        unsent = [
            task for task in self._tasks.values() if not task.was_asked and task.key not in held
        ]
        for task in unsent:
            self._forget(task.key)
        return [task.launch for task in unsent]

    def _cancel(self) -> None:
        if self._cancels:
            self._cancels = self._foothold.cancel(self._cancels)

    def _read_events(self, reader: Reader | None = None) -> None:
        """Take in what is new; by default along with the outputs that are looked at next."""
        if not self._tasks:
            return
        self._pace.note_read()
        try:
            if reader is None:
                looked_at = [task.output for task in self._tasks.values() if task.recorders]
                reader = self._harvest.reader_along(looked_at)
            for before, events in self._events.read(reader):
                for event in events:
                    self._note(event, before)
        except OSError as error:
            self._foothold.forget()  # where it was removed, it is made again
            raise ConnectionFailedError(
                self.node.name, f"{self._events.path} cannot be read there: {error}"
            ) from error

    def _running(self) -> list[Running]:
        return [task for task in self._tasks.values() if task.recorders and not task.ended]

    def _note(self, event: Event, place: Cursor) -> None:
        task = self._tasks.get((event.proc_id, event.attempt))
        if task is None or task.lost is not None:
            return
        self._pace.note_moved()
        task.since = place if task.since is None else task.since
        if isinstance(event, Started):
            if not task.recorders:  # a later one lost the race, or took a killed one's place
                self._reports.append(Began(*task.key, self._here(event.time)))
            task.recorders.add((event.pid, event.start_ticks))
        elif isinstance(event, Ended):
            task.note_end(event)
        elif isinstance(event, Warned):
            task.warnings.append(WARNINGS.get(event.word, event.word))
        elif isinstance(event, Cancelled):
            when = self._here(event.time)
            self._over(task, TaskState.CANCELLED, None, when, "before it started")
        else:
            self._refuse(task, event)

    def _refuse(self, task: Running, event: Refused) -> None:
        reason = REFUSALS.get(event.word, event.word).format(launch=task.launch)
        self._over(task, TaskState.FAILED, None, self._here(event.time), reason)

    def _look(self) -> None:
        running = self._running()
        owners = {id(task.output): task for task in running}
        for output, progress in self._harvest.look([task.output for task in running]):
            self._reports.append(Stepped(*owners[id(output)].key, progress))

    def _finish(self) -> None:
        ended = {id(task.output): task for task in self._tasks.values() if task.ended}
        if not ended:
            return
        home = self._harvest.bring_home([task.output for task in ended.values()])
        for output, progress in self._harvest.look_last(
            [output for output in home if ended[id(output)].has_output]
        ):
            self._reports.append(Stepped(*ended[id(output)].key, progress))
        for output in home:
            if output.results is not None and not output.is_lost:
                self._stager.note_collected(output.results)
            task = ended[id(output)]
            state, code, reason, when = task.verdict(ends_at_logout=self._ends_at_logout)
            self._over(task, state, code, self._here(when), reason)

    def _look_for_the_dead(self) -> None:
        """Find tasks whose recorder is gone without a word: killed, or lost in a reboot."""
        now = time.monotonic()
        held = self._stager.held
        running = [task for task in self._tasks.values() if not task.ended and task.key not in held]
        if not (running or self._complaint) or now - self._alive_at < _ALIVE_S:
            return
        self._alive_at = now
        self._ask_again([task for task in running if not task.recorders], now)
        running = [task for task in running if task.recorders]
        asked = [recorder for task in running for recorder in task.recorders]
        reply = self.node.request(questions.alive_script(asked)).decode("ascii", "replace")
        boot_id, clock, room, *pids = reply.split()
        alive = {int(pid) for pid in pids if pid.isdecimal()}
        self._set_clock(clock)
        self._complaint = FULL_HOME if room == "full" else ""
        dead = [task for task in running if not any(pid in alive for pid, _ in task.recorders)]
        rebooted, self._boot_id = boot_id != self._boot_id, boot_id
        if not dead:
            return
        self._events.reopen(self._harvest.node_reader)
        self._read_events(self._harvest.node_reader)
        self._finish()
        for task in dead:
            is_taken_over = not task.recorders.issubset(asked)
            if task.key in self._tasks and task.ended is None and not is_taken_over:
                self._give_up(task, rebooted=rebooted)

    def _ask_again(self, unheard: Sequence[Running], now: float) -> None:
        """Ask once more for what was sent and never heard of; in the end it is given up."""
        for task in unheard:
            if now - task.asked_at < _ALIVE_S:
                continue
            if task.asks < _MOST_ASKS:
                self._foothold.forget()  # being prepared, it is asked once more
            else:
                task.warnings.append(WARNINGS["unheard"])
                self._give_up(task, rebooted=False)

    def _set_clock(self, clock: str) -> None:
        """Follow the node's clock where somebody set it."""
        offset = time.time() - parse_number(clock.replace(",", "."))
        if abs(offset - self._clock_offset) > _CLOCK_SET_S:
            self._clock_offset = offset

    def _give_up(self, task: Running, *, rebooted: bool) -> None:
        task.lost = TaskState.NODE_FAIL if rebooted else TaskState.FAILED
        if not rebooted:
            self._cancels[task.key] = CancelOrder(*task.key, grace=0.0, is_lost=True)
        now = time.time() - self._clock_offset
        task.ended = Ended(*task.key, 0, True, now, Cause.END)  # its output is brought home first

    def _over(
        self, task: Running, state: TaskState, exit_code: int | None, when: float, reason: str
    ) -> None:
        self._forget(task.key)
        self._reports.append(Finished(*task.key, state, exit_code, when, reason))

    def _forget(self, key: tuple[int, int]) -> None:
        self._tasks.pop(key, None)
        self._stager.drop(key)

    def _take_notices(self) -> bool:
        """Take in what recorders told; whether more of it stands in the event file."""
        must_read = False
        for notice in self.node.take_notices():
            events = parse_events(notice.replace(";", "\n").encode("utf-8", "replace") + b"\n")[0]
            for event in events:
                self._note(event, self._events.cursor)
            must_read |= not events
        return must_read

    def _here(self, node_time: float) -> float:
        return node_time + self._clock_offset

    def _next_pause(self) -> float:
        if self._cancels:
            return _ORDER_AGAIN_S
        if self._stager.busy or (self._tasks and self._harvest.busy):
            return 0.0
        if not self._tasks:
            return IDLE_LOOK_S
        looked_at = self._harvest.next_look([task.output for task in self._running()])
        left = min(self._pace.next_read(self._tasks.values()), looked_at) - time.monotonic()
        return min(max(QUICK_S, left), IDLE_LOOK_S)
