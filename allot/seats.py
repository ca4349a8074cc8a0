"""A node as the monitor drives it: where it stands, what it is owed, when its turn is.

Rules: changed by the monitor's thread only; decides by the scheduler's rules.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from allot.driver import NodeDriver
from allot.errors import NodeError
from allot.events import BEGINNING, Cursor
from allot.launcher import Place
from allot.model import NodeSpec, NodeState, NodeStatus
from allot.nodedir import KEPT_DAYS
from allot.pace import IDLE_LOOK_S
from allot.probe import NodeFacts, NodeProbe
from allot.progress import say
from allot.records import NodeRecord
from allot.scheduler import Demand, NodeSlots, slots_now
from allot.script import CancelOrder, Launch
from allot.turns import Mail, Turn

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_MOST_NAMED = 5


@dataclass(frozen=True)
class Terms:
    """On what terms the nodes of a job are used."""

    probe: NodeProbe
    demand: Demand
    oversubscribe: bool


@dataclass
class Seat:
    """One node that is used.

    Attributes:
        driver: What drives it.
        spec: Its line of the host file.
        place: What its tasks see of it.
        terms: On what terms it is used.
        facts: What the last probe found.
        status: Where it stands.
        inbox: Tasks that are to be launched there.
        cancels: Tasks that are to be cancelled there.
        forgets: Tasks (and attempts) there that were given up.
        orphans: Those of them that are still to be ended there.
        cursor: How far its event file need not be read again.
        due: When its next turn is worth while (monotonic clock); None: not before there is mail.
        under_way: Whether a worker takes it through a turn.
        sends: Whether that turn carries launches or orders.
        turns: How many turns it has had.
        failed_in_a_row: Tasks that failed there since the last one that did not.
        completed: Tasks that completed there.
    """

    driver: NodeDriver
    spec: NodeSpec
    place: Place
    terms: Terms
    facts: NodeFacts
    status: NodeStatus
    inbox: list[Launch] = field(default_factory=list)
    cancels: list[CancelOrder] = field(default_factory=list)
    forgets: list[tuple[int, int]] = field(default_factory=list)
    orphans: dict[tuple[int, int], None] = field(default_factory=dict)
    cursor: Cursor = BEGINNING
    due: float | None = field(default_factory=lambda: time.monotonic() + IDLE_LOOK_S)
    under_way: bool = False
    sends: bool = False
    holds: bool = False
    turns: int = 0
    failed_in_a_row: int = 0
    completed: int = 0
    _broken_turns: int = 0
    _wants_probe: bool = False
    _probed_at: float = field(default_factory=time.monotonic)
    _ran_at_probe: int = 0
    _answered: bool = True
    _drained: str = ""
    _busy: str = ""
    _complaint: str = ""
    _unreachable: str = ""
    _heard_at: float = field(default_factory=time.monotonic)
    _told: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_reachable(self) -> bool:
        """False from a break on until a turn went through again."""
        return not self._unreachable

    @property
    def silent_for(self) -> float:
        """Seconds without contact, 0 while it can be reached."""
        return 0.0 if self.is_reachable else time.monotonic() - self._heard_at

    @property
    def drained(self) -> str:
        """Why it is given nothing new for good, or empty."""
        return self._drained

    @property
    def record(self) -> NodeRecord:
        """What is remembered of it."""
        place = self.place
        return NodeRecord(
            name=place.node_name,
            node_id=place.node_id,
            spec=self.spec,
            slots=place.slots,
            facts=self.facts,
            state=self.status.state,
            reason=self.status.reason,
            drained=self._drained,
            is_prepared=self.driver.was_prepared,
            orphans=tuple(self.orphans),
            cursor=self.cursor,
        )

    @property
    def may_take_tasks(self) -> bool:
        """Whether it is neither drained nor out of reach."""
        return not (self._drained or self._unreachable)

    def is_due(self, now: float) -> bool:
        """Whether it should be taken through a turn now."""
        if self.under_way:
            return False
        if self.due is not None and self.due <= now:
            return True
        return self.is_reachable and bool(self.inbox or self.cancels or self._wants_probe)

    def take_mail(self) -> Mail:
        """Everything that is owed; a turn is under way from now on."""
        self.sends = bool(self.inbox or self.cancels)
        self.under_way, self.due = True, None
        mail = Mail(self.inbox, self.cancels, self.forgets, self._wants_probe)
        self.inbox, self.cancels, self.forgets, self._wants_probe = [], [], [], False
        self._told = list(self.orphans)
        return mail

    def orphan(self, proc_id: int, attempt: int) -> None:
        """Have an attempt that was given up ended, and hear of it no more."""
        self.cancels.append(CancelOrder(proc_id, attempt, 0.0))
        self.forgets.append((proc_id, attempt))
        self.orphans[proc_id, attempt] = None

    @property
    def owes_mail(self) -> bool:
        """Whether something that can be sent is not on its node yet."""
        owes = self.inbox or self.cancels or self.holds
        return self.sends or (self.is_reachable and bool(owes))

    def take_back(self, turn: Turn, running: int) -> None:
        """Note what a turn brought, with so many tasks running there."""
        self.under_way = self.sends = False
        self.turns += 1
        now = time.monotonic()
        self.cursor, self.holds = turn.cursor or self.cursor, turn.holds
        if turn.facts is not None:
            self.note_facts(turn.facts, running)
        if turn.error is not None:
            self._broken_turns += 1
            self.due = now + _retry_delay(self._broken_turns)
            self.status = replace(self.status, transfer=None)
            self._note_break(turn.error)
            return
        self._broken_turns = 0
        self._unreachable = ""
        self._complaint = turn.complaint
        self.status = replace(self.status, transfer=turn.transfer)
        self._heard_at = now
        for key in self._told:
            if key not in turn.owed:
                self.orphans.pop(key, None)
        self.due = None if turn.pause is None else now + turn.pause
        self._update()

    def note_facts(self, facts: NodeFacts, running: int) -> None:
        """Note what a probe found while so many tasks ran there."""
        self._probed_at = time.monotonic()
        self._ran_at_probe, self._answered = running, True
        self.facts = facts
        self._busy = self.terms.probe.objection(facts)
        self.status = replace(self.status, health=facts.health)
        self._update()

    def drain(self, reason: str) -> None:
        """Give it nothing new from now on."""
        self._drained = reason
        self._update()

    def resume(self) -> None:
        """Use it again; the failures so far are forgotten."""
        self._drained = ""
        self.failed_in_a_row = 0
        self._update()

    def slots(self, running: int, held_gpus: Sequence[int]) -> NodeSlots:
        """What the scheduler may give out on it now, to tasks that wait.

        A node that was not looked at for the probe's interval is asked first, and gets nothing
        before it has answered.

        Args:
            running: Tasks of the job that run there.
            held_gpus: GPUs that they hold.
        """
        now = self.slots_of(self.place, self.facts, self.terms, self._ran_at_probe, held_gpus)
        if not running and not now.limit and not self._busy:
            self._busy = "busy: others leave no memory for a task"
            self._update()
        state = self.status.state
        is_stale = time.monotonic() - self._probed_at >= self.terms.probe.interval
        usable = state is NodeState.READY and running < self.place.slots
        asks_again = is_stale and (state is NodeState.BUSY or not self._answered)
        if asks_again and (usable or state is NodeState.BUSY):
            self._wants_probe = True
            return replace(now, state=state, limit=running)
        return replace(now, state=state)

    @staticmethod
    def slots_of(
        place: Place,
        facts: NodeFacts,
        terms: Terms,
        running: int = 0,
        held_gpus: Sequence[int] = (),
    ) -> NodeSlots:
        """What a READY node has to give out, as a probe found it."""
        limit = slots_now(
            place.slots,
            facts.health,
            terms.demand,
            own_running=running,
            oversubscribe=terms.oversubscribe,
        )
        free = [gpu.index for gpu in facts.gpus if not gpu.busy]
        gpus = tuple(sorted({*free, *held_gpus}))
        return NodeSlots(place.node_id, NodeState.READY, place.slots, limit, gpus)

    def revive(self, record: NodeRecord, *, connect: bool) -> None:
        """Begin with a node of which an earlier client told; it is asked before it is used.

        Args:
            record: What that told.
            connect: Connect at once, not only when it is needed.
        """
        self._drained = record.drained
        self._probed_at, self._answered = float("-inf"), False
        self._wants_probe = connect
        self.due = time.monotonic() if connect else None
        for proc_id, attempt in record.orphans:
            self.orphan(proc_id, attempt)
        self._update()

    def note_placement(self, launch: Launch) -> None:
        """Put a task in the inbox; what the last probe found is not the whole truth any more."""
        self.inbox.append(launch)
        self._answered = False

    def _note_break(self, error: NodeError) -> None:
        if not self._unreachable:
            self._unreachable = f"since {time.strftime('%H:%M:%S')}: {error.reason}"
            self._update()

    def _update(self) -> None:
        for state, reason in (
            (NodeState.UNREACHABLE, self._unreachable),
            (NodeState.DRAINED, self._drained),
            (NodeState.BUSY, self._complaint or self._busy),
            (NodeState.READY, ""),
        ):
            if reason or state is NodeState.READY:
                self.status = replace(self.status, state=state, reason=reason)
                return


def clean_up(seats: Sequence[Seat], pool: Executor, timeout: float) -> None:
    """Remove a job's directory on its nodes, and say where something is kept.

    Args:
        seats: The nodes.
        pool: Where that is done.
        timeout: Seconds it may take.
    """
    with contextlib.suppress(RuntimeError):  # the interpreter is on its way out
        work = {pool.submit(seat.driver.clean_up, timeout): seat for seat in seats}
        done, _ = futures.wait(work, timeout)
        kept = {work[one].place.node_name: where for one in done if (where := one.result())}
        if kept:
            first = min(kept)
            say(
                f"files that were not collected are kept for {KEPT_DAYS} days on "
                f"{', '.join(sorted(kept)[:_MOST_NAMED])}{', …' if len(kept) > _MOST_NAMED else ''}"
                f" (on {first} in {kept[first]})"
            )


def _retry_delay(broken_turns: int) -> float:
    longest = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(broken_turns - 1, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
