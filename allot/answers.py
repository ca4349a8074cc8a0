"""What a node's answer to the probe means.

Rules: pure. What every Linux node says must be there and make sense; what depends on drivers
(GPUs) or on others is passed over where it makes none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from allot.model import NodeHealth

Values: TypeAlias = Mapping[str, Sequence[str]]
Vendor: TypeAlias = Literal["nvidia", "amd"]

_KIB = 1024
_QUOTA = re.compile(r"(\d+) (\d+)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,12}")
_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_MOST_GPUS = 1024


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node.

    Attributes:
        index: Its number there.
        busy: Whether the job must leave it alone now.
        reason: Why it is busy, in words; empty otherwise.
    """

    index: int
    busy: bool
    reason: str = ""


def parse_reply(reply: bytes) -> Values:
    """The ``key=value`` lines of a reply; a key may come more than once."""
    values: dict[str, list[str]] = {}
    for line in reply.decode("utf-8", "replace").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values.setdefault(key, []).append(value.strip())
    return values


def parse_number(text: str) -> float:
    """A finite number.

    Raises:
        ValueError: It is none.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {text!r}")
    return value


def parse_time_of_day(text: str) -> int:
    """Minutes since midnight of a time ``HH:MM``, up to ``24:00``.

    Raises:
        ValueError: It is none.
    """
    match = _TIME.fullmatch(text)
    minutes = 60 * int(match[1]) + int(match[2]) if match else math.inf
    if minutes > 24 * 60:
        raise ValueError(f"no time of day: {text!r}")
    return int(minutes)


def clock_of(values: Values) -> float:
    """The node's clock in Unix seconds; its locale may write a comma.

    Raises:
        KeyError, ValueError: It is missing, or no number.
    """
    return parse_number(values["clock"][-1].replace(",", "."))


def health_of(values: Values, *, gpus: int = 0) -> NodeHealth:
    """What a node has and what is free.

    Args:
        values: The answer.
        gpus: How many GPUs it has.

    Raises:
        KeyError: A value that every Linux node has is missing.
        ValueError: A value is no number.
    """
    load = parse_number(values["load"][0].partition(" ")[0])
    total = int(values["MemTotal"][0]) * _KIB
    free = int(values.get("MemAvailable", values["MemFree"])[0]) * _KIB
    limits = [int(text) for text in values.get("memory_max", ()) if text.isdigit()]
    foreign = values.get("foreign")
    return NodeHealth(
        cpus=_usable_cpus(int(values["cpus"][0]), values.get("cpu_max", ())),
        load_1m=load,
        foreign_cpus=max(0, int(foreign[0])) / 1000 if foreign else load,
        memory_free=min([free, *limits]),
        memory_total=min([total, *limits]),
        gpus=gpus,
        boot_id=values["boot_id"][0],
    )


def _usable_cpus(cpus: int, quotas: Sequence[str]) -> int:
    if cpus < 1:
        raise ValueError(f"not a number of CPUs: {cpus}")
    for text in quotas:
        match = _QUOTA.fullmatch(text)
        if match is not None and int(match[2]):
            cpus = min(cpus, max(1, int(match[1]) // int(match[2])))
    return cpus


def idle_of(values: Values) -> float | None:
    """Seconds since another user's last input at a terminal; None where there is no terminal."""
    now = clock_of(values)
    typed = [int(text) for text in values.get("typed", ()) if _SECONDS.fullmatch(text)]
    return max(0.0, now - max(typed)) if typed else None


def gpus_of(
    values: Values,
    *,
    declared: int | None = None,
    share: bool = False,
    max_utilization: float | None = None,
) -> tuple[tuple[Gpu, ...], Vendor | None]:
    """The GPUs of a node, by index, and whose they are.

    The formats are those of ``nvidia-smi --query-gpu`` and ``--query-compute-apps`` with
    ``--format=csv,noheader`` (``nvidia-smi --help-query-gpu``). What the driver does not tell
    (``[N/A]``, ``[Not Supported]``) is taken for nothing in the way.

    Args:
        values: The answer.
        declared: How many there are by the user's word; their indices begin at 0.
        share: Whether those on which others compute are free too.
        max_utilization: Percent above which others' work makes one busy; None: no limit.
    """
    cards = [card for line in values.get("gpu", ()) if (card := _card(line)) is not None]
    found = {card.index: card for card in cards}
    amd = range(min(len(values.get("amd", ())), _MOST_GPUS))
    vendor: Vendor | None = "nvidia" if found else "amd" if amd else None
    indices = sorted(found or amd) if declared is None else range(declared)
    foreign = _users(values.get("app", ()))
    own = _users(values.get("own_app", ()))
    held = _held(values.get("held", ()))

    def reason(index: int) -> str:
        if index in held:
            return f"held by another job of yours, {held[index]}"
        card = found.get(index)
        if card is None:
            return ""
        if not share and card.uuid in foreign:
            return f"others compute on it{foreign[card.uuid]}"
        limit, used = max_utilization, card.utilization
        if limit is not None and used is not None and used > limit and card.uuid not in own:
            return f"utilization {used:g} %, the limit is {limit:g} %"
        return ""

    return tuple(Gpu(index, bool(why), why) for index in indices for why in [reason(index)]), vendor


@dataclass(frozen=True)
class _Card:
    index: int
    uuid: str
    utilization: float | None


def _card(line: str) -> _Card | None:
    """One line of the driver's table; None for what it says in place of one."""
    index, uuid, utilization, *_ = [*map(str.strip, line.split(",")), "", "", ""]
    if not _NUMBER.fullmatch(index) or int(index) >= _MOST_GPUS:
        return None
    percent = _NUMBER.match(utilization)  # "87", and "87 %" from a driver that keeps the unit
    return _Card(int(index), uuid, float(percent.group()) if percent else None)


def _users(lines: Sequence[str]) -> dict[str, str]:
    """A process that computes on each card, in words where its number is told, by UUID."""
    users = {}
    for line in lines:
        uuid, separator, pid = map(str.strip, line.partition(","))
        if separator:
            # A slice of a card (MIG) was named MIG-GPU-<UUID of the card>/<instance>/<instance>.
            card = uuid.removeprefix("MIG-").partition("/")[0]
            users[card] = f" (process {pid})" if _NUMBER.fullmatch(pid) else ""
    return users


def _held(lines: Sequence[str]) -> dict[int, str]:
    """Which other job of the user's holds each index."""
    held = {}
    for line in lines:
        indices, _, job = line.partition(" ")
        for index in indices.split(","):
            if _NUMBER.fullmatch(index):
                held[int(index)] = job
    return held
