"""What a node's answer means: CPUs, memory, load, terminals, GPUs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allot.answers import (
    Gpu,
    Vendor,
    gpus_of,
    health_of,
    idle_of,
    parse_reply,
    parse_time_of_day,
)
from allot.model import NodeHealth

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
    "local_time": "09:12",
    "clock": "1795403069.075494",
}


def reply(*more: str, **changes: str | None) -> bytes:
    """A probe's reply; None leaves a line out."""
    values = {**PLAIN, **changes}
    lines = [f"{key}={value}" for key, value in values.items() if value is not None]
    return "\n".join([*lines, *more, ""]).encode()


def health(*more: str, **changes: str | None) -> NodeHealth:
    return health_of(parse_reply(reply(*more, **changes)))


def test_a_plain_node() -> None:
    """CPUs, load, memory in bytes, and the boot are read off the reply."""
    assert health() == NodeHealth(16, 0.5, 0.5, 48 * GIB, 64 * GIB, 0, "6fd7-11")


def test_an_old_kernel_does_not_say_what_is_available() -> None:
    """Without MemAvailable (before Linux 3.14) what is free counts."""
    assert health(MemAvailable=None).memory_free == 2 * GIB


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
    assert health(*(f"cpu_max={quota}" for quota in quotas)).cpus == cpus


def test_a_memory_limit_counts() -> None:
    """The smallest limit of the cgroups is all the memory there is."""
    limits = ["memory_max=max", f"memory_max={4 * GIB}", f"memory_max={2**63 - 4096}"]
    found = health(*limits)
    assert (found.memory_free, found.memory_total) == (4 * GIB, 4 * GIB)


def test_while_the_job_runs_the_load_is_what_others_use() -> None:
    """Thousandths of a CPU, measured on the node, stand in the place of the load average."""
    found = health("foreign=2375")
    assert (found.load_1m, found.foreign_cpus) == (0.5, 2.375)
    assert health("foreign=-10").foreign_cpus == 0.0


@pytest.mark.parametrize("key", ["boot_id", "load", "cpus", "MemTotal", "MemFree"])
def test_what_every_linux_node_has_may_not_be_missing(key: str) -> None:
    """A reply without it does not come from Linux; so says the error's kind."""
    with pytest.raises(KeyError):
        health(**{key: None})


@pytest.mark.parametrize("key", ["load", "cpus", "MemTotal", "MemAvailable", "foreign"])
@pytest.mark.parametrize("value", ["", "many", "²", "nan"])
def test_a_value_that_is_no_number_is_told(key: str, value: str) -> None:
    """So nothing is guessed where a file was empty or held something else."""
    with pytest.raises(ValueError, match=r"could not convert|invalid literal|not a finite"):
        health(**{key: value})


def test_a_node_without_a_cpu_is_refused() -> None:
    """An answer that makes no sense is not calculated with."""
    with pytest.raises(ValueError, match="not a number of CPUs: 0"):
        health(cpus="0")


def test_a_key_may_come_more_than_once() -> None:
    """All its values are kept, in order; lines without a key are passed over."""
    values = parse_reply(b"gpu=0\nhello\ngpu= 1 \n\na=b=c\n\xff=\xff\n")
    assert values == {"gpu": ["0", "1"], "a": ["b=c"], "\ufffd": ["\ufffd"]}


@pytest.mark.parametrize(
    ("text", "minutes"), [("00:00", 0), ("9:05", 545), ("19:00", 1140), ("24:00", 1440)]
)
def test_a_time_of_day(text: str, minutes: int) -> None:
    """Hours and minutes, as a clock shows them."""
    assert parse_time_of_day(text) == minutes


@pytest.mark.parametrize("text", ["", "19", "24:01", "25:00", "12:60", "1:1", " 9:00", "²:00"])
def test_no_time_of_day(text: str) -> None:
    """What no clock shows is refused."""
    with pytest.raises(ValueError, match="no time of day"):
        parse_time_of_day(text)


@pytest.mark.parametrize(
    ("typed", "idle"),
    [
        ([], None),
        (["1795403000"], 69.0),
        (["1795402000", "1795403000", "5"], 69.0),
        (["1795403099"], 0.0),
        (["?", "-5", "²", "9" * 500], None),
    ],
)
def test_who_typed_last_counts(typed: list[str], idle: float | None) -> None:
    """The latest input at any terminal; one in the future, by the node's clock, is now."""
    values = {"clock": ["1795403069,5"], "typed": typed}
    assert idle_of(values) == pytest.approx(idle and idle + 0.5)


# GPUs, as `nvidia-smi` tells of them.

A, B, C = (f"GPU-{letter * 8}-1111-2222-3333-{letter * 12}" for letter in "abc")
THREE = f"gpu=0, {A}, 0, 3\ngpu=1, {B}, 97, 20321\ngpu=2, {C}, 5, 450\n"
FREE = {0: "", 1: "", 2: ""}


def reasons(
    text: str, declared: int | None = None, *, share: bool = False, limit: float | None = None
) -> dict[int, str]:
    gpus, _ = gpus_of(
        parse_reply(text.encode()), declared=declared, share=share, max_utilization=limit
    )
    assert all(gpu.busy == bool(gpu.reason) for gpu in gpus)
    return {gpu.index: gpu.reason for gpu in gpus}


def test_gpus_that_nobody_uses_are_free() -> None:
    """Each line of the driver's table is a GPU; how busy it is does not count unless asked."""
    assert reasons(THREE) == FREE
    assert gpus_of(parse_reply(THREE.encode()))[0][0] == Gpu(0, busy=False)


def test_gpus_on_which_others_compute_are_busy() -> None:
    """Unless they are to be shared; the job's own processes are in nobody's way."""
    text = f"{THREE}app={B}, 4242\nown_app={C}, 4243\n"
    assert reasons(text) == {**FREE, 1: "others compute on it (process 4242)"}
    assert reasons(text, share=True) == FREE
    nameless = f"{THREE}app={A}, [Insufficient Permissions]\n"
    assert reasons(nameless) == {**FREE, 0: "others compute on it"}


def test_gpus_that_others_keep_busy_are_busy() -> None:
    """Above the limit, at which one is still free; the job's own work is not others'."""
    assert reasons(THREE, limit=5) == {**FREE, 1: "utilization 97 %, the limit is 5 %"}
    assert set(reasons(THREE, limit=4).values()) == {
        "",
        "utilization 97 %, the limit is 4 %",
        "utilization 5 %, the limit is 4 %",
    }
    assert reasons(f"{THREE}own_app={B}, 7\n", limit=5) == FREE
    assert reasons(f"{THREE}own_app={B}, 7\napp={B}, 8\n", share=True, limit=5) == FREE
    assert reasons(THREE.replace("97", "97 %"), limit=5)[1] == "utilization 97 %, the limit is 5 %"


def test_gpus_that_another_job_of_the_user_holds_are_busy() -> None:
    """Also where they are to be shared with others: Allot hands none out twice."""
    text = f"{THREE}held=0,2 sweep-17\nheld=, x\nheld=7 y\n"
    why = "held by another job of yours, sweep-17"
    assert reasons(text, share=True) == {0: why, 1: "", 2: why}


@pytest.mark.parametrize(
    "line",
    [
        "gpu=NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "gpu=No devices were found",
        "gpu=Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.",
        "gpu=[N/A], [N/A], [N/A], [N/A]",
        "gpu=",
        "gpu=99999999, x, 1, 2",
        "gpu=²",
        "app=[Not Supported]",
        "app=[N/A], [N/A]",
        "app=No running processes found",
        "app=",
        "held=?",
        "held=0",
    ],
)
def test_what_a_driver_says_in_place_of_a_table(line: str) -> None:
    """No GPU is invented, and none is taken for busy on a word that means nothing."""
    expected = {**FREE, 0: "held by another job of yours, "} if line == "held=0" else FREE
    assert reasons(f"{THREE}{line}\n") == expected
    assert gpus_of(parse_reply(f"{line}\n".encode())) == ((), None)


@pytest.mark.parametrize("utilization", ["[N/A]", "[Not Supported]", "[Unknown Error]", ""])
def test_a_utilization_that_is_not_known_is_no_reason(utilization: str) -> None:
    """Cards that are cut into slices (MIG), and old ones, do not tell it."""
    assert reasons(f"gpu=0, {A}, {utilization}, [N/A]\n", limit=0) == {0: ""}
    assert reasons("gpu=0\n", limit=0) == {0: ""}


def test_who_computes_on_a_slice_is_on_its_card() -> None:
    """Older drivers name a slice by its card; one that cannot be told is passed over."""
    assert reasons(f"{THREE}app=MIG-{B}/1/0, 9\n")[1] == "others compute on it (process 9)"
    assert reasons(f"{THREE}app=MIG-5f2b0a3e-0000, 9\n") == FREE


def test_declared_gpus_count_from_0() -> None:
    """The host file's word is taken for how many; what is known of each still counts."""
    text = f"{THREE}app={B}, 4242\nheld=4 j2\n"
    why = "others compute on it (process 4242)"
    assert reasons(text, 2) == {0: "", 1: why}
    assert reasons(text, 5) == {**FREE, 1: why, 3: "", 4: "held by another job of yours, j2"}
    assert reasons(text, 0) == {}
    assert reasons("", 2) == {0: "", 1: ""}


@pytest.mark.parametrize(
    ("text", "count", "vendor"),
    [
        ("", 0, None),
        (THREE, 3, "nvidia"),
        ("amd=4098\namd=51\n", 2, "amd"),
        (f"{THREE}amd=51\n", 3, "nvidia"),
        ("gpu=No devices were found\namd=51\n", 1, "amd"),
    ],
)
def test_whose_gpus_they_are(text: str, count: int, vendor: Vendor | None) -> None:
    """NVIDIA's where its tool lists some, whatever graphics an AMD processor has beside them."""
    gpus, found = gpus_of(parse_reply(text.encode()))
    assert (len(gpus), found) == (count, vendor)


LINES = st.lists(
    st.one_of(
        st.sampled_from([*THREE.splitlines(), f"app={A}, 12", "held=1,1,9 j", "amd=1"]),
        st.text(alphabet="gpuapheldmown_=,[]/ 0123456789²-\n", max_size=30),
    ),
    max_size=12,
)


@BUSY_MACHINE
@given(lines=LINES, declared=st.none() | st.integers(0, 9), share=st.booleans())
@example(lines=["gpu=1, x", "gpu=1, y"], declared=None, share=False)
def test_any_table_is_read(lines: list[str], declared: int | None, share: bool) -> None:
    """Whatever the tools print, each index comes once, in order, as many as were declared."""
    indices = list(reasons("\n".join(lines), declared, share=share, limit=50))
    assert indices == sorted(set(indices))
    assert declared is None or len(indices) == declared
