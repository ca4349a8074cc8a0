"""When a node is too busy, what may be demanded, and that any answer is read or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_answers import PLAIN, reply

from allot.errors import ConfigError, ConnectionFailedError
from allot.model import NodeHealth
from allot.probe import (
    NodeFacts,
    NodeProbe,
    Sharing,
    SharingTest,
    lies_on_local_file_system,
    look_again,
    probe_node,
)

BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GIB = 2**30


def facts(minute: int = 0, idle: float | None = None, **changes: Any) -> NodeFacts:
    plain: Mapping[str, Any] = {
        "cpus": 4,
        "load_1m": 0.0,
        "foreign_cpus": 0.0,
        "memory_free": 3 * GIB,
        "memory_total": 8 * GIB,
        "gpus": 0,
        "boot_id": "b",
    }
    return NodeFacts(
        health=NodeHealth(**{**plain, **changes}),
        home_writable=True,
        sharing=Sharing(shared=True, fresh=True),
        clock_offset=0.0,
        minute=minute,
        idle=idle,
    )


class AnyShell:
    """A node that answers what it is told to."""

    name = "nd01"

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def request(self, script: str, *, timeout: float = 30.0) -> bytes:
        assert "__allot_probe" in script
        assert timeout > 0
        return self.answer


@pytest.mark.parametrize(
    ("probe", "seen", "busy"),
    [
        (NodeProbe(), {"foreign_cpus": 4.0}, False),
        (NodeProbe(), {"foreign_cpus": 4.01}, True),
        (NodeProbe(max_load_per_cpu=0.5), {"foreign_cpus": 2.5}, True),
        (NodeProbe(max_load_per_cpu=0), {"foreign_cpus": 0.0}, False),
        (NodeProbe(max_load_per_cpu=0), {"foreign_cpus": 0.01}, True),
        (NodeProbe(max_load_per_cpu=None), {"foreign_cpus": 400.0}, False),
        (NodeProbe(), {"foreign_cpus": 1.0, "load_1m": 90.0}, False),
        (NodeProbe(), {"memory_free": 0}, False),
        (NodeProbe(min_free_memory=3 * GIB), {}, False),
        (NodeProbe(min_free_memory=3 * GIB + 1), {}, True),
    ],
)
def test_when_a_node_is_busy(probe: NodeProbe, seen: dict[str, Any], busy: bool) -> None:
    """Above the load limit, or below the memory limit; at the limit it is still free."""
    assert bool(probe.objection(facts(**seen))) is busy


def test_the_objection_names_what_was_found_and_the_limit() -> None:
    """A user reads why a node was left out without looking anything up."""
    probe = NodeProbe(max_load_per_cpu=0.5, min_free_memory=4 * GIB)
    assert probe.objection(facts(foreign_cpus=3.14)) == (
        "busy: load 3.14 on 4 CPUs, the limit is 0.5 for each CPU"
    )
    assert probe.objection(facts()) == "busy: 3.0 GiB of memory are free, 4.0 GiB must be"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_load_per_cpu", -0.1),
        ("max_load_per_cpu", float("nan")),
        ("max_load_per_cpu", "1"),
        ("max_load_per_cpu", True),
        ("min_free_memory", -1),
        ("max_gpu_utilization", -1),
        ("min_idle", -1),
        ("min_idle", "10m"),
        ("interval", -1),
        ("interval", None),
        ("interval", float("nan")),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", float("nan")),
    ],
)
def test_limits_no_node_could_meet_are_refused(argument: str, value: Any) -> None:
    """The refusal names the limit and its value."""
    with pytest.raises(ConfigError, match=f"NodeProbe: {argument} .* not {value!r}$"):
        NodeProbe(**{argument: value})


def test_only_what_is_certainly_local_counts_as_local() -> None:
    """A file system that nobody listed is taken for one of the network's."""
    assert lies_on_local_file_system("ext2/ext3")
    for name in ("nfs", "fuseblk", "lustre", "UNKNOWN (0x65735546)", ""):
        assert not lies_on_local_file_system(name)


@pytest.mark.parametrize(
    ("hours", "free", "busy"),
    [
        ("19:00-07:00", ["19:00", "23:59", "00:00", "06:59"], ["18:59", "07:00", "12:00"]),
        ("9:00-17:30", ["09:00", "17:29"], ["08:59", "17:30", "00:00", "23:59"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        ("22:00-24:00", ["22:00", "23:59"], ["00:00", "21:59"]),
        ("24:00-06:00", ["00:00", "05:59"], ["06:00", "23:59"]),
        ("22:00-00:00", ["22:00", "23:59"], ["00:00", "21:59"]),
    ],
)
def test_a_node_may_have_hours(hours: str, free: list[str], busy: list[str]) -> None:
    """On its own clock, over midnight too; the first minute is within and the last is not."""

    def objection(clock: str) -> str:
        hour, minute = clock.split(":")
        return NodeProbe(hours=hours).objection(facts(minute=60 * int(hour) + int(minute)))

    assert [objection(clock) for clock in free] == [""] * len(free)
    assert [objection(clock) for clock in busy] == [
        f"busy: outside of hours {hours} (it is {clock} there)" for clock in busy
    ]


@pytest.mark.parametrize(
    "hours",
    ["", "19-07", "19:00", "19:00-", "19:00-25:00", "07:00-07:00", "1:00-2:00-3:00", "19:60-07:00"],
)
def test_hours_nobody_understands_are_refused(hours: str) -> None:
    """The refusal shows what they look like."""
    with pytest.raises(ConfigError, match='hours must be two times of the day like "19:00-07:00"'):
        NodeProbe(hours=hours)


def test_hours_must_be_text() -> None:
    """A pair of numbers is refused like any other text nobody understands."""
    with pytest.raises(ConfigError, match=r"not \(19, 7\)"):
        NodeProbe(hours=(19, 7))  # type: ignore[arg-type]


def test_a_node_may_belong_to_someone_at_its_keyboard() -> None:
    """Until ``min_idle`` seconds after another user's last input it is left alone."""
    probe = NodeProbe(min_idle=600)
    assert probe.objection(facts(idle=12.3)) == (
        "busy: another user typed 12 s ago, min_idle is 600 s"
    )
    assert probe.objection(facts(idle=600)) == ""
    assert probe.objection(facts(idle=None)) == ""
    assert NodeProbe().objection(facts(idle=0)) == ""


def sharing_test(directory: Path) -> SharingTest:
    return SharingTest(directory, directory / "nonce", "secret", client_is_fresh=True)


def test_an_answer_becomes_facts(tmp_path: Path) -> None:
    """What the node said, with what the host file says of its GPUs."""
    shell = AnyShell(reply("gpu=0, GPU-a, 3, 5", "app=GPU-a, 7", "home=writable", "foreign=1500"))
    found = probe_node(shell, 0, sharing_test(tmp_path), NodeProbe(), declared_gpus=2)
    assert (found.health.gpus, found.health.foreign_cpus) == (2, 1.5)
    assert [gpu.busy for gpu in found.gpus] == [True, False]
    assert (found.gpu_vendor, found.home_writable, found.minute) == ("nvidia", True, 552)
    assert found.sharing == Sharing(shared=False, fresh=False)


def test_a_later_look_keeps_where_the_outputs_lie() -> None:
    """Only what changes is asked again."""
    before = facts()
    found = look_again(AnyShell(reply("foreign=250")), before, NodeProbe(), job_id="j")
    assert found.sharing == before.sharing
    assert found.health.foreign_cpus == 0.25


def test_an_answer_that_makes_no_sense_is_a_failed_connection() -> None:
    """It says what is missing, and what the node may be."""
    shell = AnyShell(reply(boot_id=None))
    with pytest.raises(ConnectionFailedError, match=r"nd01.*makes no sense.*boot_id.*is it Linux"):
        look_again(shell, facts(), NodeProbe(), job_id="j")


@BUSY_MACHINE
@given(data=st.binary(max_size=300), keys=st.lists(st.sampled_from([*PLAIN, "typed", "foreign"])))
def test_any_answer_is_read_or_refused(data: bytes, keys: list[str]) -> None:
    """Whatever a node prints, there are facts or a failed connection that names it."""
    rubbish = data + b"\n" + b"".join(key.encode() + b"=" + data + b"\n" for key in keys)
    for whole in (rubbish, rubbish + reply(), reply() + rubbish):
        shell = AnyShell(whole)
        try:
            found = look_again(
                shell, facts(), NodeProbe(min_idle=1.0, hours="1:00-2:00"), job_id="j"
            )
        except ConnectionFailedError:
            continue
        assert found.health.cpus >= 1
        assert found.health.memory_free >= 0
        assert found.health.foreign_cpus >= 0
