"""What a node's answer means, and when a node is too busy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allot.errors import ConfigError
from allot.model import NodeHealth
from allot.probe import NodeProbe, lies_on_local_file_system, node_health, parse_reply

BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GIB = 2**30
PLAIN = {
    "bash": "5.2.15(1)-release",
    "boot_id": "6fd7-11",
    "load": "0.50 0.40 0.30 1/234 5678",
    "cpus": "16",
    "MemTotal": str(64 * 2**20),
    "MemFree": str(2 * 2**20),
    "MemAvailable": str(48 * 2**20),
    "clock": "1795403069.075494",
}


def reply(*more: str, **changes: str | None) -> bytes:
    """A probe's reply; None leaves a line out."""
    values = {**PLAIN, **changes}
    lines = [f"{key}={value}" for key, value in values.items() if value is not None]
    return "\n".join([*lines, *more, ""]).encode()


def health_of(*more: str, **changes: str | None) -> NodeHealth:
    return node_health(parse_reply(reply(*more, **changes)))


def health(**changes: Any) -> NodeHealth:
    plain: Mapping[str, Any] = {
        "cpus": 4,
        "load_1m": 0.0,
        "foreign_cpus": 0.0,
        "memory_free": 3 * GIB,
        "memory_total": 8 * GIB,
        "gpus": 0,
        "boot_id": "b",
    }
    return NodeHealth(**{**plain, **changes})


def test_a_plain_node() -> None:
    """CPUs, load, memory in bytes, and the boot are read off the reply."""
    assert health_of() == NodeHealth(16, 0.5, 0.5, 48 * GIB, 64 * GIB, 0, "6fd7-11")


def test_an_old_kernel_does_not_say_what_is_available() -> None:
    """Without MemAvailable (before Linux 3.14) what is free counts."""
    assert health_of(MemAvailable=None).memory_free == 2 * GIB


@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        (["max 100000"], 16),
        (["200000 100000"], 2),
        (["250000 100000"], 2),
        (["50000 100000"], 1),
        (["3200000 100000"], 16),
        (["max 100000", "400000 100000", "800000 100000"], 4),
        (["-1 100000"], 16),
        (["100000 0"], 16),
        (["rubbish"], 16),
    ],
)
def test_a_cpu_quota_counts(quotas: list[str], cpus: int) -> None:
    """A container's quota at any level of its cgroup limits the CPUs, never below one."""
    assert health_of(*(f"cpu_max={quota}" for quota in quotas)).cpus == cpus


def test_a_memory_limit_counts() -> None:
    """The smallest limit of the cgroups is all the memory there is."""
    limits = ["memory_max=max", f"memory_max={4 * GIB}", f"memory_max={2**63 - 4096}"]
    found = health_of(*limits)
    assert (found.memory_free, found.memory_total) == (4 * GIB, 4 * GIB)


def test_gpus_are_counted() -> None:
    """Each line of the driver's tool is one GPU."""
    assert health_of("gpu=0", "gpu=1", "gpu=3").gpus == 3


@pytest.mark.parametrize("key", ["boot_id", "load", "cpus", "MemTotal", "MemFree"])
def test_what_every_linux_node_has_may_not_be_missing(key: str) -> None:
    """A reply without it does not come from Linux; so says the error's kind."""
    with pytest.raises(KeyError):
        health_of(**{key: None})


@pytest.mark.parametrize("key", ["load", "cpus", "MemTotal", "MemAvailable"])
@pytest.mark.parametrize("value", ["", "many", "²"])
def test_a_value_that_is_no_number_is_told(key: str, value: str) -> None:
    """So nothing is guessed where a file was empty or held something else."""
    with pytest.raises(ValueError, match=r"could not convert|invalid literal"):
        health_of(**{key: value})


@BUSY_MACHINE
@given(data=st.binary(max_size=300), lines=st.lists(st.sampled_from(sorted(PLAIN)), max_size=3))
def test_any_reply_is_read_or_refused(data: bytes, lines: list[str]) -> None:
    """Whatever a node prints, there is a health or one of the two errors that are told."""
    rubbish = data + b"\n" + b"\n".join(key.encode() + b"=" + data for key in lines) + b"\n"
    for whole in (rubbish, rubbish + reply(), reply() + rubbish):
        try:
            found = node_health(parse_reply(whole))
        except (KeyError, ValueError):
            continue
        assert found.cpus <= int(parse_reply(whole)["cpus"][0])
        assert found.memory_free >= 0


def test_a_key_may_come_more_than_once() -> None:
    """All its values are kept, in order; lines without a key are passed over."""
    values = parse_reply(b"gpu=0\nhello\ngpu= 1 \n\na=b=c\n\xff=\xff\n")
    assert values == {"gpu": ["0", "1"], "a": ["b=c"], "\ufffd": ["\ufffd"]}


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
    assert bool(probe.objection(health(**seen))) is busy


def test_the_objection_names_what_was_found_and_the_limit() -> None:
    """A user reads why a node was left out without looking anything up."""
    probe = NodeProbe(max_load_per_cpu=0.5, min_free_memory=4 * GIB)
    assert probe.objection(health(foreign_cpus=3.14)) == (
        "busy: load 3.14 on 4 CPUs, the limit is 0.5 for each CPU"
    )
    assert probe.objection(health()) == "busy: 3.0 GiB of memory are free, 4.0 GiB must be"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_load_per_cpu", -0.1),
        ("max_load_per_cpu", float("nan")),
        ("min_free_memory", -1),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", float("nan")),
    ],
)
def test_limits_no_node_could_meet_are_refused(argument: str, value: float) -> None:
    """The refusal names the limit and its value."""
    with pytest.raises(ConfigError, match=f"NodeProbe: {argument} .* not {value!r}"):
        NodeProbe(**{argument: value})  # type: ignore[arg-type]


def test_only_what_is_certainly_local_counts_as_local() -> None:
    """A file system that nobody listed is taken for one of the network's."""
    assert lies_on_local_file_system("ext2/ext3")
    for name in ("nfs", "fuseblk", "lustre", "UNKNOWN (0x65735546)", ""):
        assert not lies_on_local_file_system(name)
