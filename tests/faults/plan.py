"""From a seed: a job, what each attempt of its tasks does, and what is broken when.

Rules: pure; the same seed gives the same plan on any machine. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random


class Harm(str, Enum):
    """What the runner does to a task that waits for it."""

    GROUP = "group"
    """Its process group is killed."""
    RECORDER = "recorder"
    """What records its end is killed."""


class Kind(str, Enum):
    """What can be broken on the way to a node, or on it."""

    POWER = "power"
    """All processes of the node die."""
    CUT = "cut"
    """The server and its connections die, tasks live on."""
    FREEZE = "freeze"
    """All processes of the node stand still."""
    LAG = "lag"
    """The Bashes to which the client speaks stand still, and connections are reset after a time:
    what was asked by an old connection is read after it was asked again by a new one."""
    SWALLOW = "swallow"
    """Connections stay open and nothing arrives any more; those of that time never recover."""
    STALL = "stall"
    """Nothing arrives for a time, then all of it does."""
    RESET = "reset"
    """Connections are reset, and new ones as well for a time."""
    CLIP = "clip"
    """Connections end after so many more bytes."""
    SLOW = "slow"
    """All bytes arrive late."""


class Way(str, Enum):
    """A direction of the line."""

    UP = "up"
    """From the client to the node."""
    DOWN = "down"
    """From the node to the client."""
    BOTH = "both"
    """Both."""


NODE_KINDS = (Kind.POWER, Kind.CUT, Kind.FREEZE, Kind.LAG, Kind.LAG)


@dataclass(frozen=True)
class Attempt:
    """What one attempt of a task does.

    Attributes:
        seconds: How long it takes.
        code: The exit code it ends with, 128+n for a signal.
        signal: The signal that it sends to itself at its end, or empty.
        lines: How many lines it prints.
        steps: How many progress markers it prints, 1 at least.
        child: Seconds that a child takes which it leaves in its process group, 0 for none.
        harm: What it waits for, or None. It ends by itself where that never comes.
    """

    seconds: float = 0.0
    code: int = 0
    signal: str = ""
    lines: int = 0
    steps: int = 1
    child: float = 0.0
    harm: Harm | None = None


class Moment(str, Enum):
    """From when a client's days are counted."""

    START = "start"
    """Its start."""
    CLAIM = "claim"
    """It put the first new file beside the job's state: it takes the job over."""
    TAIL = "tail"
    """Every task has begun: the end of the job is near."""


@dataclass(frozen=True)
class Life:
    """A client that is killed.

    Attributes:
        seconds: How long it lives on after the moment, if it ever comes.
        pause: Seconds until the next client is started.
        moment: From when its seconds count.
    """

    seconds: float
    pause: float
    moment: Moment = Moment.START


@dataclass(frozen=True)
class Fault:
    """Something breaks.

    Attributes:
        at: Seconds after the start of the run.
        node: The node, counted from 0.
        kind: What breaks.
        seconds: How long, until it is mended.
        way: In which direction, for what is on the line.
        amount: Bytes for `Kind.CLIP`, milliseconds of delay for `Kind.SLOW`, milliseconds until the
            reset for `Kind.LAG`.
    """

    at: float
    node: int
    kind: Kind
    seconds: float
    way: Way = Way.BOTH
    amount: int = 0


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        seed: What it was made of.
        nnodes: How many nodes.
        slots: Tasks at once on each.
        retries: How often a failed task is tried again.
        shared_fs: The job's option of that name.
        private: The nodes do not share the output directory with the client.
        sftp: The nodes have SFTP.
        poll_interval: The job's option of that name.
        tasks: By ``proc_id`` what each attempt does.
        lives: The clients that are killed; one more follows, which is not.
        faults: What breaks, in order of time.
    """

    seed: int
    nnodes: int
    slots: int
    retries: int
    shared_fs: bool | None
    private: bool
    sftp: bool
    poll_interval: float
    tasks: tuple[tuple[Attempt, ...], ...]
    lives: tuple[Life, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def ntasks(self) -> int:
        """How many tasks."""
        return len(self.tasks)

    def describe(self) -> str:
        """The plan in a few words."""
        kinds = [fault.kind.value for fault in self.faults]
        parts = [f"{kinds.count(kind.value)} {kind.value}" for kind in Kind if kind.value in kinds]
        harms = [attempt.harm for attempts in self.tasks for attempt in attempts if attempt.harm]
        parts += [f"{harms.count(harm)} {harm.value}" for harm in Harm if harm in harms]
        if self.lives:
            parts.append(f"{len(self.lives)} client")
        return f"{self.ntasks} tasks, {self.nnodes}x{self.slots}: {', '.join(parts) or 'no faults'}"


# What a seed's run is about: which of (client, line, node) breaks. All of it most often, but each
# alone as well: what goes wrong there is easier to understand.
_ABOUT = (
    *((True, True, True),) * 4,
    *((True, True, False), (True, False, True), (False, True, True)),
    *((True, False, False),) * 2,
    *((False, True, False), (False, False, True)),
)
_LINE_KINDS = (Kind.CLIP, Kind.CLIP, Kind.RESET, Kind.SLOW, Kind.STALL, Kind.SWALLOW)
_CODES = (1, 2, 3, 42, 126, 127, 255)
_SIGNALS = (("KILL", 9), ("TERM", 15), ("USR1", 10))


def make_plan(seed: int, *, kills: bool = True) -> Plan:
    """The plan of a seed.

    Args:
        seed: Any number.
        kills: Whether clients are killed.
    """
    rng = Random(seed)
    client, line, node = rng.choice(_ABOUT)
    private = rng.random() < 0.3
    retries = rng.choice((0, 1, 1, 2))
    nnodes = rng.choice((3, 4))
    shape = Plan(
        seed=seed,
        nnodes=nnodes,
        slots=rng.choice((2, 3)),
        retries=retries,
        shared_fs=rng.choice((None, None, False)),
        private=private,
        sftp=rng.random() < 0.85,
        poll_interval=rng.choice((0.05, 0.2, 1.0)),
        tasks=_tasks(rng, rng.randint(60, 200), retries),
    )
    lives = _lives(rng) if client else ()
    faults = _faults(rng, nnodes, line=line, node=node)
    given = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    return Plan(**{**given, "lives": lives if kills else (), "faults": faults})


def _tasks(rng: Random, ntasks: int, retries: int) -> tuple[tuple[Attempt, ...], ...]:
    tasks = [[_attempt(rng) for _ in range(retries + 1)] for _ in range(ntasks)]
    for harm, most in ((Harm.GROUP, 6), (Harm.RECORDER, 2)):
        for proc_id in rng.sample(range(ntasks), rng.randint(0, most)):
            tasks[proc_id][rng.randint(0, min(1, retries))] = Attempt(0.1, harm=harm)
    return tuple(map(tuple, tasks))


def _attempt(rng: Random) -> Attempt:
    seconds = 0.0 if rng.random() < 0.3 else round(min(rng.expovariate(2.5), 3.0), 3)
    what = rng.random()
    if what < 0.12:
        return Attempt(seconds, code=rng.choice(_CODES))
    if what < 0.17:
        name, number = rng.choice(_SIGNALS)
        return Attempt(seconds, code=128 + number, signal=name)
    if what < 0.25:
        return Attempt(seconds, lines=rng.randint(1000, 30000))
    if what < 0.33:
        return Attempt(seconds, steps=rng.randint(100, 2000))
    if what < 0.38:
        return Attempt(seconds, child=round(rng.uniform(0.5, 4.0), 2))
    return Attempt(seconds, lines=rng.randint(0, 3), steps=rng.randint(1, 4))


def _lives(rng: Random) -> tuple[Life, ...]:
    """Clients that hardly live at all, into their launches, into the job, or to its end."""
    lives = []
    for _ in range(rng.randint(1, 5)):
        seconds, moment = rng.choice(
            (
                (rng.uniform(0.002, 0.4), Moment.START),
                (rng.uniform(0.4, 2.0), Moment.START),
                (rng.uniform(2.0, 6.0), Moment.START),
                (rng.uniform(0.0, 0.6), Moment.CLAIM),
                (rng.uniform(0.0, 0.6), Moment.CLAIM),
                (rng.uniform(0.0, 1.5), Moment.TAIL),
            )
        )
        pause = rng.choice((0.0, rng.uniform(0.0, 3.0)))
        lives.append(Life(round(seconds, 4), round(pause, 3), moment))
    return tuple(lives)


def _faults(rng: Random, nnodes: int, *, line: bool, node: bool) -> tuple[Fault, ...]:
    """A few faults, never two on a node at once."""
    kinds = [rng.choice(_LINE_KINDS) for _ in range(rng.randint(1, 4))] if line else []
    kinds += [rng.choice(NODE_KINDS) for _ in range(rng.randint(1, 2))] if node else []
    rng.shuffle(kinds)
    faults: list[Fault] = []
    free = [0.3] * nnodes
    for kind in kinds:
        index = rng.randrange(nnodes)
        at = free[index] + rng.uniform(0.2, 6.0)
        seconds = rng.choice((rng.uniform(0.3, 2.0), rng.uniform(0.5, 8.0)))
        if kind in (Kind.FREEZE, Kind.STALL) and rng.random() < 0.2:
            seconds = rng.uniform(8.0, 20.0)
        amount = 0
        if kind is Kind.CLIP:
            amount = rng.randint(1, rng.choice((1, 100, 1000, 10_000, 50_000)))
        elif kind is Kind.SLOW:
            amount = rng.randint(1, 300)
        elif kind is Kind.LAG:
            amount, seconds = rng.randint(100, 1500), seconds + 2.0
        way = rng.choice(tuple(Way))
        fault = Fault(round(at, 3), index, kind, round(seconds, 3), way, amount)
        faults.append(fault)
        free[index] = fault.at + fault.seconds + 0.5
    return tuple(sorted(faults, key=lambda fault: fault.at))
