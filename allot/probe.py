"""Looking at a node: what it has, what is free, and whether a job may use it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from allot import answers, paths, questions
from allot.answers import Gpu, Values, Vendor
from allot.errors import ConfigError, ConnectionFailedError
from allot.model import NodeHealth

_LOCAL_FILE_SYSTEMS = frozenset(
    {"btrfs", "ext2/ext3", "f2fs", "jfs", "overlayfs", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
)
_KIB = 1024
_GPU_PATIENCE_S = 5.0


@dataclass(frozen=True)
class NodeProbe:
    """When a node may be used.

    Attributes:
        max_load_per_cpu: Highest load for each CPU; None switches it off. Before the job's own
            tasks run there it is the 1-minute load average, then the CPUs that others use.
        min_free_memory: Bytes of memory that must be free; None switches it off.
        max_gpu_utilization: Highest utilization, in percent, that a GPU may have by others'
            work; None switches it off.
        share_gpus: Whether GPUs on which others compute are used too.
        hours: When the node may be used, on its own clock, as ``"19:00-07:00"``; None: always.
        min_idle: Seconds since another user's last input at a terminal there; None switches it
            off. Terminals are looked at, also those in windows, but no mouse.
        timeout: Seconds a node has for each step: to connect, to log in, to answer.
        interval: Seconds, at least, between two looks at a node while the job runs.
    """

    max_load_per_cpu: float | None = 1.0
    min_free_memory: int | None = None
    max_gpu_utilization: float | None = None
    share_gpus: bool = False
    hours: str | None = None
    min_idle: float | None = None
    timeout: float = 10.0
    interval: float = 30.0

    def __post_init__(self) -> None:
        """Refuse limits that no node could meet.

        Raises:
            ConfigError: A limit is negative or no number, ``timeout`` is not positive, or
                ``hours`` are not of the form ``"19:00-07:00"``.
        """
        for name in ("max_load_per_cpu", "min_free_memory", "max_gpu_utilization", "min_idle"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value >= 0):
                raise ConfigError(f"NodeProbe: {name} must be 0 or more, or None, not {value!r}")
        if not (_is_number(self.interval) and self.interval >= 0):
            raise ConfigError(
                f"NodeProbe: interval must be 0 seconds or more, not {self.interval!r}"
            )
        if not (_is_number(self.timeout) and self.timeout > 0):
            raise ConfigError(f"NodeProbe: timeout must be above 0 seconds, not {self.timeout!r}")
        if self.hours is not None:
            _parse_hours(self.hours)

    def objection(self, facts: NodeFacts) -> str:
        """Why a node is too busy to be used; empty if it is not."""
        return (
            self._load_objection(facts.health)
            or self._memory_objection(facts.health)
            or self._hours_objection(facts.minute)
            or self._idle_objection(facts.idle)
        )

    def _load_objection(self, health: NodeHealth) -> str:
        limit = self.max_load_per_cpu
        if limit is None or health.foreign_cpus <= limit * health.cpus:
            return ""
        return (
            f"busy: load {health.foreign_cpus:.2f} on {health.cpus} CPUs, "
            f"the limit is {limit:g} for each CPU"
        )

    def _memory_objection(self, health: NodeHealth) -> str:
        need = self.min_free_memory
        if need is None or health.memory_free >= need:
            return ""
        return (
            f"busy: {health.memory_free / _KIB**3:.1f} GiB of memory are free, "
            f"{need / _KIB**3:.1f} GiB must be"
        )

    def _hours_objection(self, minute: int) -> str:
        if self.hours is None:
            return ""
        first, last = _parse_hours(self.hours)
        is_within = first <= minute < last if first < last else minute >= first or minute < last
        if is_within:
            return ""
        clock = f"{minute // 60:02}:{minute % 60:02}"
        return f"busy: outside of hours {self.hours} (it is {clock} there)"

    def _idle_objection(self, idle: float | None) -> str:
        if self.min_idle is None or idle is None or idle >= self.min_idle:
            return ""
        return f"busy: another user typed {idle:.0f} s ago, min_idle is {self.min_idle:g} s"


@dataclass(frozen=True)
class Sharing:
    """Where an output directory lies, seen from the client and from one node.

    Attributes:
        shared: The client and the node see the same files there.
        fresh: What the node writes there the client sees at once: no network file system lies
            between them.
    """

    shared: bool
    fresh: bool


@dataclass(frozen=True)
class NodeFacts:
    """What one probe found.

    Attributes:
        health: What it has and what is free.
        home_writable: Whether Allot can keep its files there.
        sharing: Where the output directory lies.
        clock_offset: Seconds to add to the node's clock to get the client's.
        minute: The time of day on the node's clock, in minutes since midnight.
        idle: Seconds since another user's last input at a terminal; None where there is no
            such terminal, or it was not asked.
        gpus: Its GPUs, by index.
        gpu_vendor: Whose GPUs they are; None where that was not found out.
        kills_at_logout: Whether systemd ends the user's processes there at logout.
    """

    health: NodeHealth
    home_writable: bool
    sharing: Sharing
    clock_offset: float
    minute: int = 0
    idle: float | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_vendor: Vendor | None = None
    kills_at_logout: bool = False


class Shell(Protocol):
    """The part of a node that a probe needs."""

    name: str

    def request(self, script: str, *, timeout: float = ...) -> bytes:
        """Run Bash on the node and return what it printed."""


@dataclass(frozen=True)
class SharingTest:
    """A file on the client by which nodes that share its directory are known.

    Attributes:
        output_dir: The directory.
        nonce_file: The file in it.
        nonce: Its content.
        client_is_fresh: Whether the directory lies on a local file system of the client's.
    """

    output_dir: Path
    nonce_file: Path
    nonce: str
    client_is_fresh: bool


def probe_node(
    shell: Shell,
    node_id: int,
    test: SharingTest | None,
    probe: NodeProbe,
    *,
    job_id: str = "",
    running: bool = False,
    declared_gpus: int | None = None,
) -> NodeFacts:
    """Look at a node.

    Args:
        shell: The connected node.
        node_id: A number of its own, for the name of its answer to ``test``.
        test: How to find out what it shares with the client; None: that is not asked.
        probe: How long it has to answer, and when a GPU counts as busy.
        job_id: The job whose own processes are not others'.
        running: Whether tasks of the job may run there: its load is then what others use.
        declared_gpus: How many GPUs the host file says it has.

    Raises:
        ConnectionFailedError: The connection broke, or the answer makes no sense.
    """
    question = _question(probe, job_id, running=running, declared_gpus=declared_gpus)
    if test is None:
        return _look(shell, question, probe, declared_gpus)[1]
    answer = paths.nonce_answer(test.nonce_file, node_id)
    sharing = questions.sharing_script(
        str(test.output_dir),
        str(test.nonce_file),
        test.nonce,
        str(answer),
        file_system=test.client_is_fresh,
    )
    values, facts = _look(shell, sharing + question, probe, declared_gpus)
    shared = "shared" in values and answer.exists()
    answer.unlink(missing_ok=True)
    is_local = values.get("file_system", [""])[0] in _LOCAL_FILE_SYSTEMS
    fresh = shared and is_local and test.client_is_fresh
    return replace(facts, sharing=Sharing(shared, fresh))


def look_again(
    shell: Shell,
    before: NodeFacts,
    probe: NodeProbe,
    *,
    job_id: str,
    declared_gpus: int | None = None,
) -> NodeFacts:
    """Look at a node once more while the job runs there.

    Args:
        shell: The connected node.
        before: What was found first; what does not change is taken from it.
        probe: See :func:`probe_node`.
        job_id: See :func:`probe_node`.
        declared_gpus: See :func:`probe_node`.

    Raises:
        ConnectionFailedError: The connection broke, or the answer makes no sense.
    """
    question = _question(probe, job_id, running=True, declared_gpus=declared_gpus)
    _, facts = _look(shell, question, probe, declared_gpus)
    return replace(facts, sharing=before.sharing, kills_at_logout=before.kills_at_logout)


def _question(probe: NodeProbe, job_id: str, *, running: bool, declared_gpus: int | None) -> str:
    return questions.probe_script(
        job_id,
        running=running,
        declared_gpus=declared_gpus,
        terminals=probe.min_idle is not None,
        patience=min(_GPU_PATIENCE_S, probe.timeout / 2),
    )


def _look(
    shell: Shell, question: str, probe: NodeProbe, declared_gpus: int | None
) -> tuple[Values, NodeFacts]:
    """Ask; the facts do not say yet where the output directory lies."""
    values = answers.parse_reply(shell.request(question, timeout=probe.timeout))
    now = time.time()
    ends = values.get("logout", ())
    gpus, vendor = answers.gpus_of(
        values,
        declared=declared_gpus,
        share=probe.share_gpus,
        max_utilization=probe.max_gpu_utilization,
    )
    try:
        facts = NodeFacts(
            health=answers.health_of(values, gpus=len(gpus)),
            home_writable="home" in values,
            sharing=Sharing(shared=False, fresh=False),
            clock_offset=now - answers.clock_of(values),
            minute=answers.parse_time_of_day(values["local_time"][0]),
            idle=answers.idle_of(values),
            gpus=gpus,
            gpu_vendor=vendor,
            kills_at_logout="kills" in ends and "spares" not in ends,
        )
    except (KeyError, ValueError) as error:
        raise ConnectionFailedError(
            shell.name, f"its answer to the probe makes no sense ({error!r}): is it Linux?"
        ) from error
    return values, facts


def _parse_hours(text: str) -> tuple[int, int]:
    """The first minute of the day that is within, and the first that is not any more."""
    try:
        first, last = map(answers.parse_time_of_day, text.split("-"))
        if first == last:
            raise ValueError
    except (AttributeError, ValueError):
        raise ConfigError(
            f'NodeProbe: hours must be two times of the day like "19:00-07:00", not {text!r}'
        ) from None
    return first, last


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def lies_on_local_file_system(file_system: str) -> bool:
    """Whether a file system, as ``stat -f -c %T`` names it, is certainly no network one."""
    return file_system in _LOCAL_FILE_SYSTEMS
