"""The fault suite: its own parts, that it sees what is broken in Allot, and a few seeds.

``tests/faults/soak`` runs as many seeds as one likes.
"""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
from faults.checks import Cause, Deed, History, Outcome, Rule, Violation, violations
from faults.plan import Attempt, Fault, Kind, Plan, Way, make_plan
from faults.proxy import Proxy
from faults.runner import Report, run
from faults.tasks import Line, output, read_journals, script
from sshd import NeedsRootError

# Each does something else; all of them end soon.
SHORT_SEEDS = (3, 50, 187)


def plan_of(*tasks: Sequence[Attempt], slots: int = 2) -> Plan:
    """A plan of tasks, each with what its attempts do."""
    return Plan(
        seed=0,
        nnodes=1,
        slots=slots,
        retries=len(tasks[0]) - 1,
        shared_fs=None,
        private=False,
        sftp=True,
        poll_interval=1.0,
        tasks=tuple(map(tuple, tasks)),
    )


def begin(proc_id: int, time: float, attempt: int = 0, node: str = "nd01") -> Line:
    """A task's first line."""
    return Line("job-1", proc_id, attempt, node, 1000 + proc_id, time)


def end(proc_id: int, time: float, code: int = 0, attempt: int = 0, node: str = "nd01") -> Line:
    """A task's last line."""
    return Line("job-1", proc_id, attempt, node, 1000 + proc_id, time, code)


def outcome(
    proc_id: int, state: str = "COMPLETED", code: int | None = 0, attempt: int = 0, reason: str = ""
) -> Outcome:
    """What Allot says of a task that printed nothing but what all tasks print."""
    return Outcome(
        proc_id=proc_id,
        state=state,
        node="nd01",
        attempt=attempt,
        exit_code=code,
        progress=(1, 1),
        reason=reason,
        output=output(Attempt(), proc_id, attempt),
        earlier={number: output(Attempt(), proc_id, number) for number in range(attempt)},
    )


ONE = plan_of([Attempt()])
RETRIED = plan_of([Attempt(), Attempt()])


def killed(cause: Cause, attempt: int = 0, time: float = 2.0) -> Deed:
    """Something that the runner did to task 0, or to its node."""
    if cause is Cause.POWER:
        return Deed(cause, "nd01", time, time + 0.1)
    return Deed(cause, "", time, time, 0, attempt)


def found(history: History) -> list[Violation]:
    """What is wrong with it, where one more client finds the same, unless told otherwise."""
    return violations(history if history.again else replace(history, again=history.outcomes))


GOOD = {
    "an end with 0": History(ONE, "job-1", [begin(0, 1), end(0, 2)], [outcome(0)]),
    "an end with another code": History(
        ONE, "job-1", [begin(0, 1), end(0, 2, 3)], [outcome(0, "FAILED", 3)]
    ),
    "a retry": History(
        RETRIED,
        "job-1",
        [begin(0, 1), end(0, 2, 3), begin(0, 3, 1), end(0, 4, 0, 1)],
        [outcome(0, attempt=1)],
    ),
    "a killed group": History(
        ONE, "job-1", [begin(0, 1)], [outcome(0, "FAILED", 137)], deeds=[killed(Cause.GROUP)]
    ),
    "a group that was killed too late": History(
        ONE, "job-1", [begin(0, 1), end(0, 2)], [outcome(0)], deeds=[killed(Cause.GROUP)]
    ),
    "a killed recorder": History(
        ONE,
        "job-1",
        [begin(0, 1)],
        [outcome(0, "FAILED", None, reason="killed")],
        deeds=[killed(Cause.RECORDER)],
    ),
    "a node without power": History(
        ONE,
        "job-1",
        [begin(0, 1)],
        [outcome(0, "NODE_FAIL", None, reason="rebooted")],
        deeds=[killed(Cause.POWER)],
    ),
    "a node without power before the task wrote anything": History(
        ONE, "job-1", [], [outcome(0, "FAILED", None, reason="killed")], deeds=[killed(Cause.POWER)]
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_what_is_right_is_no_violation(history: History) -> None:
    """Whoever was harmed may end as one who was harmed, all others as they say."""
    assert found(history) == []


BAD = {
    "an attempt that began twice": (
        History(ONE, "job-1", [begin(0, 1), begin(0, 1.5), end(0, 2)], [outcome(0)]),
        [Rule.DOUBLE],
    ),
    "a second job": (
        History(
            ONE,
            "job-1",
            [begin(0, 1), end(0, 2), replace(begin(0, 3, 1), job_id="job-0")],
            [outcome(0)],
        ),
        [Rule.DOUBLE, Rule.ATTEMPT],
    ),
    "COMPLETED without an end": (
        History(ONE, "job-1", [begin(0, 1)], [outcome(0)]),
        [Rule.STATE],
    ),
    "COMPLETED though it was killed": (
        History(ONE, "job-1", [begin(0, 1)], [outcome(0)], deeds=[killed(Cause.POWER)]),
        [Rule.STATE],
    ),
    "COMPLETED with another end": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2, 3)], [outcome(0)]),
        [Rule.STATE],
    ),
    "COMPLETED that never ran": (History(ONE, "job-1", [], [outcome(0)]), [Rule.STATE]),
    "FAILED though it ended with 0": (
        History(
            ONE,
            "job-1",
            [begin(0, 1), end(0, 2)],
            [outcome(0, "FAILED", None, reason="its recorder was killed")],
        ),
        [Rule.STATE],
    ),
    "FAILED though the power was lost long after": (
        History(
            ONE,
            "job-1",
            [begin(0, 1), end(0, 2)],
            [outcome(0, "FAILED", None, reason="its recorder was killed")],
            deeds=[killed(Cause.POWER, time=20)],
        ),
        [Rule.STATE],
    ),
    "another exit code": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2, 3)], [outcome(0, "FAILED", 4)]),
        [Rule.CODE],
    ),
    "CANCELLED, which nobody did": (
        History(
            ONE,
            "job-1",
            [begin(0, 1)],
            [outcome(0, "CANCELLED", None, reason="?")],
            deeds=[killed(Cause.RECORDER)],
        ),
        [Rule.STATE],
    ),
    "a failure without a reason": (
        History(
            ONE,
            "job-1",
            [begin(0, 1)],
            [outcome(0, "FAILED", None)],
            deeds=[killed(Cause.RECORDER)],
        ),
        [Rule.STATE],
    ),
    "a task that is gone": (History(ONE, "job-1", [], [outcome(1)]), [Rule.LOST]),
    "a task that still runs": (
        History(ONE, "job-1", [begin(0, 1)], [outcome(0, "RUNNING", None)]),
        [Rule.UNFINISHED],
    ),
    "a job that never ends": (History(ONE, "", [begin(0, 1)], []), [Rule.UNFINISHED]),
    "a retry after a success": (
        History(
            RETRIED,
            "job-1",
            [begin(0, 1), end(0, 2), begin(0, 3, 1), end(0, 4, 0, 1)],
            [outcome(0, attempt=1)],
        ),
        [Rule.ATTEMPT],
    ),
    "a retry of one that never ran": (
        History(RETRIED, "job-1", [begin(0, 3, 1), end(0, 4, 0, 1)], [outcome(0, attempt=1)]),
        [Rule.ATTEMPT],
    ),
    "a retry too few": (
        History(RETRIED, "job-1", [begin(0, 1), end(0, 2, 3)], [outcome(0, "FAILED", 3)]),
        [Rule.ATTEMPT],
    ),
    "an attempt that nobody knows of": (
        History(
            RETRIED,
            "job-1",
            [begin(0, 1), end(0, 2), begin(0, 3, 1), end(0, 4, 0, 1)],
            [outcome(0)],
        ),
        [Rule.ATTEMPT],
    ),
    "half an output": (
        History(
            ONE, "job-1", [begin(0, 1), end(0, 2)], [replace(outcome(0), output=b"\x021/1\x03tr")]
        ),
        [Rule.OUTPUT],
    ),
    "no output": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2)], [replace(outcome(0), output=None)]),
        [Rule.OUTPUT],
    ),
    "no output of the first attempt": (
        History(
            RETRIED,
            "job-1",
            [begin(0, 1), end(0, 2, 3), begin(0, 3, 1), end(0, 4, 0, 1)],
            [replace(outcome(0, attempt=1), earlier={})],
        ),
        [Rule.OUTPUT],
    ),
    "an old progress": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2)], [replace(outcome(0), progress=(0, 1))]),
        [Rule.PROGRESS],
    ),
    "too many at once": (
        History(
            plan_of([Attempt()], [Attempt()], slots=1),
            "job-1",
            [begin(0, 1), end(0, 3), begin(1, 2), end(1, 4)],
            [outcome(0), outcome(1)],
        ),
        [Rule.SLOTS],
    ),
    "a process that is left": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2)], [outcome(0)], left=["process 7"]),
        [Rule.LEFT],
    ),
    "another end for who comes back": (
        History(
            ONE,
            "job-1",
            [begin(0, 1), end(0, 2)],
            [outcome(0)],
            again=[outcome(0, "RUNNING", None)],
        ),
        [Rule.DISK],
    ),
    "a client that died": (
        History(ONE, "job-1", [begin(0, 1), end(0, 2)], [outcome(0)], troubles=["a traceback"]),
        [Rule.CLIENT],
    ),
}


@pytest.mark.parametrize(("history", "broken"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_seen(history: History, broken: list[Rule]) -> None:
    """Each violation says which rule was broken."""
    assert [violation.rule for violation in found(history)] == broken


def test_a_violation_shows_its_evidence() -> None:
    """Which task, what Allot says, what the task wrote and what was done to it."""
    history = History(ONE, "job-1", [begin(0, 1)], [outcome(0)], deeds=[killed(Cause.GROUP)])
    (violation,) = found(history)
    assert str(violation) == (
        "a wrong state: task 0 attempt 0 is COMPLETED, exit code 0, but it "
        "began at 1.000 on nd01 as 1000, its process group was killed at 2.000"
    )


def test_a_seed_is_a_plan() -> None:
    """The same one each time; another seed makes another."""
    assert make_plan(5) == make_plan(5)
    assert make_plan(5) != make_plan(6)
    assert make_plan(5, kills=False) == replace(make_plan(5), lives=())


def test_plans_are_of_the_size_that_was_asked_for() -> None:
    """Some hundred tasks on a few nodes; everything that can be broken is, by some seed."""
    plans = [make_plan(seed) for seed in range(200)]
    assert all(60 <= plan.ntasks <= 200 and plan.nnodes in (3, 4) for plan in plans)
    assert all(len(attempts) == plan.retries + 1 for plan in plans for attempts in plan.tasks)
    assert {fault.kind for plan in plans for fault in plan.faults} == set(Kind)
    assert all(0.3 <= fault.seconds <= 20 for plan in plans for fault in plan.faults)
    for plan in plans:
        for node in range(plan.nnodes):
            faults = [fault for fault in plan.faults if fault.node == node]
            for one, next_one in pairwise(faults):
                assert one.at + one.seconds < next_one.at


@pytest.mark.parametrize(
    "attempt",
    [
        Attempt(),
        Attempt(0.02, code=3, steps=3, lines=2),
        Attempt(code=143, signal="TERM"),
        Attempt(lines=30_000),
        Attempt(steps=2000),
        Attempt(child=0.05),
    ],
)
def test_a_task_writes_what_it_says(tmp_path: Path, attempt: Attempt) -> None:
    """A line at each end, and to its output exactly what the checks expect."""
    (tmp_path / "journal").mkdir()
    variables = {"JOB_ID": "j", "PROCID": "7", "ATTEMPT": "1", "NODENAME": "nd01"}
    done = subprocess.run(
        ["bash", "-c", script(attempt, tmp_path / "journal")],
        env={f"ALLOT_{name}": value for name, value in variables.items()}
        | {"PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        check=False,
        timeout=20,
    )
    assert done.returncode in (attempt.code, 128 - attempt.code)
    assert done.stdout == output(attempt, 7, 1)
    first, last = read_journals(tmp_path / "journal")
    assert (first.job_id, first.proc_id, first.attempt, first.node) == ("j", 7, 1, "nd01")
    assert first.code is None
    assert last == replace(first, time=last.time, code=attempt.code)
    assert first.time <= last.time


class Wire:
    """A server without a program behind it, and a proxy before it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(10)
        self.proxy = stack.enter_context(Proxy("127.0.0.1", self._listener.getsockname))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection."""
        client = self.call()
        server, _ = self._listener.accept()
        server.settimeout(10)
        return client, self._stack.enter_context(server)

    def call(self) -> socket.socket:
        """A new connection's client, whatever comes of it."""
        address = (self.proxy.address, self.proxy.port)
        return self._stack.enter_context(socket.create_connection(address, timeout=10))

    def hang_up(self) -> None:
        """The server listens no more."""
        self._listener.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A proxied line."""
    with ExitStack() as stack:
        yield Wire(stack)


def is_silent(sock: socket.socket) -> bool:
    """Nothing comes, for a while."""
    return not select.select([sock], [], [], 0.2)[0]


def test_the_proxy_passes_everything_on(wire: Wire) -> None:
    """Both ways, large pieces too, and the end of each side."""
    client, server = wire.connect()
    data = bytes(range(256)) * 8000
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client.sendall, data)
        assert receive(server, len(data)) == data
        sent.result(timeout=10)
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"more")
    server.close()
    assert receive(client, 4) == b"more"
    assert client.recv(1) == b""


def test_the_proxy_swallows(wire: Wire) -> None:
    """One direction or both; what was lost stays lost, new connections work when it is mended."""
    client, server = wire.connect()
    wire.proxy.swallow(Way.UP)
    client.sendall(b"lost")
    server.sendall(b"heard")
    assert receive(client, 5) == b"heard"
    later, at_server = wire.connect()
    later.sendall(b"lost too")
    wire.proxy.mend()
    client.sendall(b"never mended")
    assert is_silent(server)
    assert is_silent(at_server)
    client.close()
    assert is_silent(server)
    new, new_server = wire.connect()
    new.sendall(b"fine")
    assert receive(new_server, 4) == b"fine"


def test_the_proxy_stalls(wire: Wire) -> None:
    """Nothing arrives, and all of it when it is mended."""
    client, server = wire.connect()
    wire.proxy.stall()
    client.sendall(b"late")
    assert is_silent(server)
    wire.proxy.mend()
    assert receive(server, 4) == b"late"


def test_the_proxy_resets(wire: Wire) -> None:
    """Old connections on both sides, and new ones until it is mended."""
    client, server = wire.connect()
    wire.proxy.reset()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with pytest.raises(ConnectionResetError):
        wire.call().recv(1)
    wire.proxy.mend()
    new, new_server = wire.connect()
    new.sendall(b"fine")
    assert receive(new_server, 4) == b"fine"


def test_the_proxy_resets_whom_no_server_answers(wire: Wire) -> None:
    """A server that is down is heard of as a reset."""
    wire.hang_up()
    with pytest.raises(ConnectionResetError):
        wire.call().recv(1)


def test_the_proxy_cuts_in_the_middle(wire: Wire) -> None:
    """So many bytes arrive and not one more; then both sides are at their end."""
    client, server = wire.connect()
    other, _ = wire.connect()
    wire.proxy.clip(Way.UP, 5)
    client.sendall(b"123")
    client.sendall(b"4567")
    assert receive(server, 5) == b"12345"
    assert server.recv(1) == b""
    for sock in (client, other):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    new, new_server = wire.connect()
    new.sendall(b"fine, and long")
    assert receive(new_server, 14) == b"fine, and long"


def test_the_proxy_is_slow(wire: Wire) -> None:
    """Bytes arrive no earlier than so much later, and in order."""
    client, server = wire.connect()
    wire.proxy.slow(0.2)
    before = monotonic()
    client.sendall(b"1")
    client.sendall(b"2")
    assert receive(server, 2) == b"12"
    assert monotonic() - before >= 0.2


def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, however they come."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("seed", SHORT_SEEDS)
def test_a_seed_breaks_nothing(tmp_path: Path, seed: int) -> None:
    """Whatever is broken: each attempt runs once, and all that Allot says of it is true."""
    report = run_plan(make_plan(seed), tmp_path)
    assert report.violations == (), str(report)


def lags(rounds: int = 3, nnodes: int = 3) -> Plan:
    """Time and again requests to each node are held up, asked again elsewhere, and read then.

    The tasks are so short that there are launches among these requests.
    """
    moments = [
        (round(1.0 + 3.0 * i + 0.1 * node, 3), node)
        for i in range(rounds)
        for node in range(nnodes)
    ]
    return Plan(
        seed=0,
        nnodes=nnodes,
        slots=3,
        retries=0,
        shared_fs=None,
        private=False,
        sftp=True,
        poll_interval=0.2,
        tasks=((Attempt(0.3),),) * 180,
        faults=tuple(Fault(at, node, Kind.LAG, 2.0, amount=500) for at, node in moments),
    )


def test_requests_that_are_read_late_run_nothing_twice(tmp_path: Path) -> None:
    """What an old connection asked for is done by whoever asked again."""
    report = run_plan(lags(), tmp_path)
    assert report.violations == (), str(report)
    assert report.done.get("lag", 0) > 1, str(report)


# For each: what is switched off, what the suite must find then, and where it does.
SABOTAGED = {
    "claim": (Rule.DOUBLE, [lags(), lags(5)]),
    "offset": (Rule.STATE, [make_plan(seed) for seed in (30, 325, 580)]),
}


@pytest.mark.parametrize("part", SABOTAGED)
def test_the_suite_can_fail(tmp_path: Path, part: str) -> None:
    """With a part of Allot switched off, it finds what that part is there for."""
    rule, plans = SABOTAGED[part]
    others: list[str] = []
    for number, plan in enumerate(plans):
        directory = tmp_path / str(number)
        directory.mkdir()
        report = run_plan(plan, directory, sabotage=part, patience=20.0)
        others += map(str, report.violations)
        if rule in [violation.rule for violation in report.violations]:
            return
    pytest.fail(f"{rule} was not found, but {others}")


def run_plan(plan: Plan, directory: Path, *, sabotage: str = "", patience: float = 60.0) -> Report:
    """Carry a plan out, where this machine can."""
    try:
        return run(plan, directory, sabotage=sabotage, patience=patience)
    except (NeedsRootError, FileNotFoundError) as error:
        pytest.skip(str(error))
