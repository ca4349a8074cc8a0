"""Looking at a node: what it has, what is free, and whether a job may use it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from allot import paths, script
from allot.errors import ConfigError, ConnectionFailedError
from allot.model import NodeHealth

_LOCAL_FILE_SYSTEMS = frozenset(
    {"btrfs", "ext2/ext3", "f2fs", "jfs", "overlayfs", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
)
_KIB = 1024
_QUOTA = re.compile(r"(\d+) (\d+)")


@dataclass(frozen=True)
class NodeProbe:
    """When a node may be used.

    Attributes:
        max_load_per_cpu: Highest 1-minute load average for each CPU; None switches it off.
        min_free_memory: Bytes of memory that must be free; None switches it off.
        timeout: Seconds a node has for each step: to connect, to log in, to answer.
    """

    max_load_per_cpu: float | None = 1.0
    min_free_memory: int | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Refuse limits that no node could meet.

        Raises:
            ConfigError: A limit is negative, or ``timeout`` is not positive.
        """
        for name in ("max_load_per_cpu", "min_free_memory"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"NodeProbe: {name} must be 0 or more, or None, not {value!r}")
        if not self.timeout > 0:
            raise ConfigError(f"NodeProbe: timeout must be above 0 seconds, not {self.timeout!r}")

    def objection(self, health: NodeHealth) -> str:
        """Why a node in this health is too busy to be used; empty if it is not."""
        limit = self.max_load_per_cpu
        if limit is not None and health.foreign_cpus > limit * health.cpus:
            return (
                f"busy: load {health.foreign_cpus:.2f} on {health.cpus} CPUs, "
                f"the limit is {limit:g} for each CPU"
            )
        need = self.min_free_memory
        if need is not None and health.memory_free < need:
            return (
                f"busy: {health.memory_free / _KIB**3:.1f} GiB of memory are free, "
                f"{need / _KIB**3:.1f} GiB must be"
            )
        return ""


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
    """

    health: NodeHealth
    home_writable: bool
    sharing: Sharing
    clock_offset: float


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


def probe_node(shell: Shell, node_id: int, test: SharingTest, timeout: float) -> NodeFacts:
    """Look at a node.

    Args:
        shell: The connected node.
        node_id: A number of its own, for the name of its answer to ``test``.
        test: How to find out what it shares with the client.
        timeout: Seconds it has to answer.

    Raises:
        ConnectionFailedError: The connection broke, or the answer makes no sense.
    """
    answer = paths.nonce_answer(test.nonce_file, node_id)
    reply = shell.request(
        script.probe_script(str(test.output_dir), str(test.nonce_file), test.nonce, str(answer)),
        timeout=timeout,
    )
    now = time.time()
    try:
        values = parse_reply(reply)
        health = node_health(values)
        clock = float(values["clock"][-1].replace(",", "."))
    except (KeyError, ValueError) as error:
        raise ConnectionFailedError(
            shell.name, f"its answer to the probe makes no sense ({error!r}): is it Linux?"
        ) from error
    shared = "shared" in values and answer.exists()
    answer.unlink(missing_ok=True)
    is_local = values.get("file_system", [""])[0] in _LOCAL_FILE_SYSTEMS
    return NodeFacts(
        health=health,
        home_writable="home" in values,
        sharing=Sharing(shared, fresh=shared and is_local and test.client_is_fresh),
        clock_offset=now - clock,
    )


def parse_reply(reply: bytes) -> Mapping[str, list[str]]:
    """The ``key=value`` lines of a probe's reply; a key may come more than once."""
    values: dict[str, list[str]] = {}
    for line in reply.decode("utf-8", "replace").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values.setdefault(key, []).append(value.strip())
    return values


def node_health(values: Mapping[str, list[str]]) -> NodeHealth:
    """Make sense of a probe's reply.

    Raises:
        KeyError: A value that every Linux node has is missing.
        ValueError: A value is no number.
    """
    load = float(values["load"][0].partition(" ")[0])
    total = int(values["MemTotal"][0]) * _KIB
    free = int(values.get("MemAvailable", values["MemFree"])[0]) * _KIB
    limits = [int(text) for text in values.get("memory_max", ()) if text.isdigit()]
    return NodeHealth(
        cpus=_usable_cpus(int(values["cpus"][0]), values.get("cpu_max", ())),
        load_1m=load,
        foreign_cpus=load,
        memory_free=min([free, *limits]),
        memory_total=min([total, *limits]),
        gpus=len(values.get("gpu", ())),
        boot_id=values["boot_id"][0],
    )


def _usable_cpus(cpus: int, quotas: list[str] | tuple[str, ...]) -> int:
    for text in quotas:
        match = _QUOTA.fullmatch(text)
        if match is not None and int(match[2]):
            cpus = min(cpus, max(1, int(match[1]) // int(match[2])))
    return cpus


def lies_on_local_file_system(file_system: str) -> bool:
    """Whether a file system, as ``stat -f -c %T`` names it, is certainly no network one."""
    return file_system in _LOCAL_FILE_SYSTEMS
