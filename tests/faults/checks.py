"""What must hold of a run, compared with what its tasks wrote: the product of the suite.

Rules: pure. What the runner did to a task (`Deed`) only widens what may have become of it; who
was not harmed has one way to end. A task that wrote no ``end 0`` never is COMPLETED, harmed or
not, and no attempt ever begins twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from faults.plan import Plan
from faults.tasks import Line, output

# A task's last line is written by itself, its end by its recorder: so much later at most, in
# seconds, on a machine that has a lot to do. Who is harmed in between may have ended either way.
_RECORDED_S = 5.0

_LOST = frozenset({("FAILED", None), ("NODE_FAIL", None), ("FAILED", 137)})
_RETRIED = ("FAILED", "NODE_FAIL")


class Rule(str, Enum):
    """What was broken."""

    DOUBLE = "an attempt ran twice"
    STATE = "a wrong state"
    CODE = "a wrong exit code"
    ATTEMPT = "a wrong number of attempts"
    LOST = "a lost task"
    UNFINISHED = "not final"
    OUTPUT = "a wrong output"
    PROGRESS = "a wrong progress"
    SLOTS = "too many at once"
    LEFT = "left behind"
    DISK = "another state on disk"
    CLIENT = "a client in trouble"
    JOURNAL = "a strange journal"


class Cause(str, Enum):
    """What the runner did."""

    GROUP = "its process group was killed"
    RECORDER = "its recorder was killed"
    POWER = "its node lost its power"


@dataclass(frozen=True)
class Deed:
    """What the runner did to one attempt, or to all that ran on a node; times are Unix seconds."""

    cause: Cause
    node: str
    start: float
    end: float
    proc_id: int | None = None
    attempt: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task in the words of Allot.

    Attributes:
        proc_id: The task.
        state: Its last state.
        node: Where its last attempt ran.
        attempt: Which that was.
        exit_code: Its exit code, or None.
        progress: The last step and the total, or None.
        reason: What else is said.
        output: The content of its output file on the client, None without one.
        earlier: The same of earlier attempts, by number.
    """

    proc_id: int
    state: str
    node: str | None
    attempt: int
    exit_code: int | None
    progress: tuple[int, int] | None
    reason: str = ""
    output: bytes | None = None
    earlier: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """A run, after its end.

    Attributes:
        plan: What it was meant to be.
        job_id: The job, empty where no client ever told.
        lines: What the tasks wrote.
        outcomes: What Allot says of them; none where it never came to an end.
        again: What it says to one more client, which comes back to the job after its end.
        deeds: What the runner did.
        left: Processes that are still there, each in words.
        troubles: What the clients died of by themselves.
    """

    plan: Plan
    job_id: str
    lines: Sequence[Line]
    outcomes: Sequence[Outcome]
    again: Sequence[Outcome] = ()
    deeds: Sequence[Deed] = ()
    left: Sequence[str] = ()
    troubles: Sequence[str] = ()


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, and the evidence."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.text}"


@dataclass
class _Told:
    """All that is known of an attempt other than from Allot."""

    begins: list[Line] = field(default_factory=list)
    ends: list[Line] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)

    @property
    def fates(self) -> set[tuple[str, int | None]]:
        """The states and exit codes that may have come of it."""
        fates: set[tuple[str, int | None]] = set()
        for end in self.ends:
            fates.add(("FAILED", end.code) if end.code else ("COMPLETED", 0))
        for deed in self.deeds:
            if deed.cause is Cause.GROUP:
                fates.add(("FAILED", 137))
            elif deed.cause is Cause.RECORDER:
                fates.add(("FAILED", None))
            else:
                fates |= _LOST
        return fates

    def __str__(self) -> str:
        words = [f"began at {line.time:.3f} on {line.node} as {line.pid}" for line in self.begins]
        words += [f"wrote end {line.code} at {line.time:.3f}" for line in self.ends]
        words += [f"{deed.cause.value} at {deed.start:.3f}" for deed in self.deeds]
        return ", ".join(words) or "wrote nothing"


def violations(history: History) -> list[Violation]:
    """All that does not hold, each once."""
    told = _gather(history)
    found = [
        *(Violation(Rule.CLIENT, trouble) for trouble in history.troubles),
        *_of_journals(history, told),
        *(Violation(Rule.LEFT, process) for process in history.left),
        *_of_slots(history, told),
    ]
    known = {outcome.proc_id: outcome for outcome in history.outcomes}
    if not known:
        return [*found, Violation(Rule.UNFINISHED, "no client ever came to the end of the job")]
    for proc_id in range(history.plan.ntasks):
        if proc_id not in known:
            found.append(Violation(Rule.LOST, f"task {proc_id} is not among the job's tasks"))
        else:
            found += _of_task(history, known[proc_id], told)
    return [*found, *_of_disk(history, known)]


def _of_disk(history: History, known: Mapping[int, Outcome]) -> Iterator[Violation]:
    again = {outcome.proc_id: outcome for outcome in history.again}
    for proc_id, outcome in sorted(known.items()):
        if again.get(proc_id) != outcome:
            yield Violation(
                Rule.DISK,
                f"{_short(outcome)}, but who comes back finds {_short(again.get(proc_id))}",
            )


def _short(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing"
    return (
        f"task {outcome.proc_id} attempt {outcome.attempt} {outcome.state}, exit code "
        f"{outcome.exit_code}, progress {outcome.progress} ({outcome.reason})"
    )


def _gather(history: History) -> dict[tuple[int, int], _Told]:
    told: dict[tuple[int, int], _Told] = defaultdict(_Told)
    for line in history.lines:
        one = told[line.proc_id, line.attempt]
        (one.begins if line.code is None else one.ends).append(line)
    for deed in history.deeds:
        if deed.proc_id is not None and deed.attempt is not None:
            told[deed.proc_id, deed.attempt].deeds.append(deed)
        else:
            for one in told.values():
                if _hits(deed, one):
                    one.deeds.append(deed)
    return told


def _hits(deed: Deed, told: _Told) -> bool:
    """Whether the loss of a node's power may have met an attempt."""
    begins = [line.time for line in told.begins if line.node == deed.node]
    if not begins or min(begins) > deed.end:
        return False
    return not told.ends or max(line.time for line in told.ends) > deed.start - _RECORDED_S


def _of_journals(history: History, told: Mapping[tuple[int, int], _Told]) -> Iterator[Violation]:
    for (proc_id, attempt), one in sorted(told.items(), key=lambda item: item[0]):
        who = f"task {proc_id} attempt {attempt}"
        if len(one.begins) > 1:
            yield Violation(Rule.DOUBLE, f"{who} {one}")
        if len(one.ends) > len(one.begins):
            yield Violation(Rule.JOURNAL, f"{who} {one}")
    for job_id in sorted({line.job_id for line in history.lines} - {history.job_id}):
        if history.job_id:
            proc_ids = sorted({line.proc_id for line in history.lines if line.job_id == job_id})
            yield Violation(
                Rule.DOUBLE, f"the job is {history.job_id}, but {proc_ids} ran as job {job_id} too"
            )


def _of_task(
    history: History, outcome: Outcome, told: Mapping[tuple[int, int], _Told]
) -> Iterator[Violation]:
    proc_id, last = outcome.proc_id, outcome.attempt
    says = f"task {proc_id} attempt {last} is {outcome.state}, exit code {outcome.exit_code}"
    says += f" ({outcome.reason})" if outcome.reason else ""
    if outcome.state in ("PENDING", "RUNNING"):
        yield Violation(Rule.UNFINISHED, says)
        return
    yield from _of_attempts(history, outcome, told, says)
    one = told.get((proc_id, last), _Told())
    fates = _fates(history, one)
    if (outcome.state, outcome.exit_code) not in fates:
        wrong = Rule.STATE if outcome.state not in {state for state, _ in fates} else Rule.CODE
        yield Violation(wrong, f"{says}, but it {one}")
    elif outcome.exit_code is None and not outcome.reason:
        yield Violation(Rule.STATE, f"{says} without a reason, and it {one}")
    if one.ends and not one.deeds:
        yield from _of_output(history.plan, outcome, says)
    for attempt in range(last):
        one = told.get((proc_id, attempt), _Told())
        wanted = output(history.plan.tasks[proc_id][attempt], proc_id, attempt)
        kept = outcome.earlier.get(attempt)
        if one.ends and not one.deeds and kept != wanted:
            yield Violation(
                Rule.OUTPUT, f"task {proc_id} attempt {attempt}; {_difference(kept, wanted)}"
            )


def _fates(history: History, one: _Told) -> set[tuple[str, int | None]]:
    fates = one.fates
    if not one.begins and any(deed.cause is Cause.POWER for deed in history.deeds):
        fates |= _LOST  # it may have been met before it could write anything
    return fates


def _of_attempts(
    history: History, outcome: Outcome, told: Mapping[tuple[int, int], _Told], says: str
) -> Iterator[Violation]:
    proc_id, last, retries = outcome.proc_id, outcome.attempt, history.plan.retries
    for attempt in range(last):
        one = told.get((proc_id, attempt), _Told())
        if not any(state in _RETRIED for state, _ in _fates(history, one)):
            yield Violation(
                Rule.ATTEMPT, f"task {proc_id} was tried again after attempt {attempt}: it {one}"
            )
    later = sorted(a for p, a in told if p == proc_id and a > last)
    if later:
        yield Violation(Rule.ATTEMPT, f"{says}, but attempts {later} ran as well")
    if last > retries:
        yield Violation(Rule.ATTEMPT, f"{says}, with {retries} retries")
    if outcome.state in _RETRIED and last < retries:
        yield Violation(Rule.ATTEMPT, f"{says}, and was not tried again ({retries} retries)")


def _of_output(plan: Plan, outcome: Outcome, says: str) -> Iterator[Violation]:
    """Outputs of whoever came to the end undisturbed are complete, down to the last byte."""
    last = outcome.attempt
    does = plan.tasks[outcome.proc_id][last]
    wanted = output(does, outcome.proc_id, last)
    if outcome.output != wanted:
        yield Violation(Rule.OUTPUT, f"{says}; {_difference(outcome.output, wanted)}")
    if outcome.progress != (does.steps, does.steps):
        yield Violation(
            Rule.PROGRESS,
            f"{says}; its last marker is {does.steps}/{does.steps}, "
            f"its progress {outcome.progress}",
        )


def _difference(found: bytes | None, wanted: bytes) -> str:
    if found is None:
        return "it has no output file"
    same = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    return (
        f"its output has {len(found)} bytes instead of {len(wanted)} and differs at {same}: "
        f"{found[same : same + 40]!r} instead of {wanted[same : same + 40]!r}"
    )


def _of_slots(history: History, told: Mapping[tuple[int, int], _Told]) -> Iterator[Violation]:
    """Never more at once on a node than it has slots, by what is known for sure."""
    changes: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for (proc_id, attempt), one in told.items():
        if len(one.begins) != 1 or any(deed.cause is Cause.RECORDER for deed in one.deeds):
            continue  # a double is a violation of its own; nobody waits for what has no recorder
        stops = [line.time for line in one.ends] or [deed.start for deed in one.deeds]
        begin = one.begins[0]
        if stops and min(stops) > begin.time:
            who = f"{proc_id}.{attempt}"
            changes[begin.node] += [(begin.time, 1, who), (min(stops), -1, who)]
    for node, moments in changes.items():
        running: set[str] = set()
        for time, change, who in sorted(moments):
            if change < 0:
                running.discard(who)
                continue
            running.add(who)
            if len(running) > history.plan.slots:
                yield Violation(
                    Rule.SLOTS,
                    f"{node} has {history.plan.slots} slots, but at {time:.3f} ran "
                    f"{', '.join(sorted(running))}",
                )
                break
