"""Tasks that are ended on their node, by a real Bash: cancelled, out of time, in whatever state."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from localnode import JOB_ID, PATIENCE_S, LocalNode, launch_script
from sandbox import Process, process_table, wait_until

from allot import script
from allot.events import Cancelled, Cause, Ended, Event, Refused, Started
from allot.script import CancelOrder

_numbers = itertools.count(1)


class Sleep:
    """A very long sleep that is known by its duration, wherever it went."""

    def __init__(self) -> None:
        self.duration = f"{10_000 + next(_numbers)}.{os.getpid()}"

    def __str__(self) -> str:
        return f"sleep {self.duration}"

    def processes(self) -> list[Process]:
        """Those that sleep it now."""
        own = str(self)
        return [p for p in process_table().values() if p.command == own]

    def begun(self) -> int:
        """Wait for the first, and tell its number."""
        wait_until(lambda: bool(self.processes()), PATIENCE_S, f"{self} did not begin")
        return self.processes()[0].pid


def cancel(
    node: LocalNode,
    proc_id: int = 0,
    *,
    attempt: int = 0,
    grace: float = 30.0,
    is_lost: bool = False,
) -> bytes:
    """Give an order; the node's answer."""
    order = CancelOrder(proc_id, attempt, grace, is_lost=is_lost)
    return node.request(script.cancel_script([order], generation=1))


def finals(node: LocalNode, proc_id: int = 0) -> list[Event]:
    """The events that end a task."""
    own = [event for event in node.events() if event.proc_id == proc_id]
    return [event for event in own if not isinstance(event, Started)]


def only_end(node: LocalNode, proc_id: int = 0) -> Ended:
    """How a task ended, which is told once."""
    (end,) = finals(node, proc_id)
    assert isinstance(end, Ended)
    return end


def marked() -> list[Process]:
    """The processes that carry the mark of task 0."""
    entry = f"ALLOT_TASK={JOB_ID}/0/0".encode()
    found = []
    for process in process_table().values():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if entry in environment.split(b"\0"):
            found.append(process)
    return found


def started(node: LocalNode, proc_id: int = 0) -> Started:
    """The first start of a task."""

    def found() -> list[Event]:
        return [event for event in node.events() if event.proc_id == proc_id]

    wait_until(lambda: bool(found()), PATIENCE_S, "no start was written down")
    return cast(Started, found()[0])


def kill_recorder(node: LocalNode, proc_id: int = 0) -> None:
    """As the machine does when it is out of memory."""
    pid = started(node, proc_id).pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in process_table(), PATIENCE_S, "it did not die")


# Cancelling what runs.

_TREES = {
    "a plain one": "{0}",
    "stubborn": "trap '' TERM; {0}; {0}; {0}",
    "stubborn grandchildren": "trap '' TERM; (({0}; {0}) & wait; {0}) & wait; {0}",
    "a session of its own": "setsid {0} & wait",
    "a session that was left alone": "(setsid bash -c '{0}; :' &); {0}",
    "a stubborn session": "setsid bash -c \"trap '' TERM; {0}; {0}\" & {0}",
    "an empty environment": "env -i {0} & wait",
    "an empty environment and a session": "setsid env -i {0} & wait",
    "below a stubborn one": "setsid env -i bash -c \"trap '' TERM; {0} & wait; {0}\" & {0}",
    "another group": "set -m; {0} & {0} & wait",
    "an orphan": "({0} &); sleep 0.2; {0}",
    "an orphan in its group": "(env -i {0} &); {0}",
    "a stopped one": "(sleep 0.1; kill -STOP $$) & {0}",
    "a restless one": "trap ': again' TERM; while :; do {0}; done",
    "hidden by its name": "exec -a ') S 1 1 1 (' {0}",
}


@pytest.mark.parametrize("tree", _TREES.values(), ids=_TREES)
def test_all_of_a_cancelled_task_is_gone_when_its_end_is_told(node: LocalNode, tree: str) -> None:
    """Group, descendants and what carries the task's mark are gone; the end is told, and why."""
    sleep = Sleep()
    node.start(node.launch(tree.format(sleep)))
    sleep.begun() if "exec -a" not in tree else wait_until(
        lambda: bool(marked()), PATIENCE_S, "it did not begin"
    )
    cancel(node, grace=0.3)
    wait_until(lambda: bool(finals(node)), PATIENCE_S, "no end was written down")
    assert sleep.processes() == marked() == []
    assert only_end(node).cause is Cause.CANCEL
    node.wait()


def test_a_task_may_use_its_grace(node: LocalNode) -> None:
    """A task that saves its work on TERM is left in peace until it has; its exit code is kept."""
    sleep = Sleep()
    trap = "trap 'sleep 0.4; echo saved >> ~/saved; exit 6' TERM"
    node.start(node.launch(trap, "echo here", f"{sleep} & wait"))
    sleep.begun()
    cancel(node)
    node.wait()
    end = only_end(node)
    assert (end.exit_code, end.has_output, end.cause) == (6, True, Cause.CANCEL)
    assert (node.home / "saved").read_text() == "saved\n"  # once: TERM came once
    assert (node.outputs / "0.out").read_text() == "here\n"


def test_a_stubborn_task_has_its_grace_and_no_more(node: LocalNode) -> None:
    """KILL comes after the grace, and not before; the order itself does not wait for it."""
    sleep = Sleep()
    node.start(node.launch(f"trap '' TERM; {sleep}; {sleep}"))
    sleep.begun()
    ordered = time.time()
    cancel(node, grace=1.5)
    answered = time.time()
    assert only_after(node, 1.4, ordered)
    node.wait()
    assert answered - ordered < 1.4
    assert only_end(node).exit_code == 128 + signal.SIGKILL


def only_after(node: LocalNode, seconds: float, since: float) -> bool:
    """Whether a task's end comes so late."""
    wait_until(lambda: bool(finals(node)), PATIENCE_S, "no end was written down")
    return only_end(node).time - since >= seconds


def test_the_others_go_on(node: LocalNode) -> None:
    """Cancelling one task touches no other, nor who launched it, nor what only resembles it."""
    sleeps = [Sleep() for _ in range(3)]
    node.start(
        *(node.launch(str(sleep), proc_id=n) for n, sleep in zip((1, 11, 0), sleeps, strict=True))
    )
    own = [sleep.begun() for sleep in sleeps]
    other = Sleep()
    stranger = subprocess.Popen(
        ["sleep", other.duration], env=os.environ | {"ALLOT_TASK": f"{JOB_ID}/1/01"}
    )
    try:
        cancel(node, 1, grace=0.1)
        wait_until(lambda: bool(finals(node, 1)), PATIENCE_S, "no end was written down")
        assert [bool(sleep.processes()) for sleep in sleeps] == [False, True, True]
        assert [sleep.begun() for sleep in sleeps[1:]] == own[1:]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    cancel(node, 11, grace=0.1)
    cancel(node, 0, grace=0.1)
    node.wait()


def test_asked_twice_only_a_shorter_grace_changes_anything(node: LocalNode) -> None:
    """A second order may cut the grace short, as ``scancel`` twice; it does not prolong it."""
    sleep = Sleep()
    node.start(node.launch("trap 'echo TERM' TERM", f"trap '' INT; {sleep}; {sleep}; {sleep}"))
    sleep.begun()
    began = time.time()
    for grace in (600, 1200, 1, 600):
        cancel(node, grace=grace)
    node.wait()
    assert only_end(node).time - began < 60
    assert (only_end(node).exit_code, only_end(node).cause) == (137, Cause.CANCEL)


def test_what_has_ended_is_left_as_it_is(node: LocalNode) -> None:
    """An order that comes after the end does nothing, whatever the end was."""
    node.run(node.launch("exit 4"), node.launch("true", proc_id=1, cwd="/nowhere"))
    before = node.events()
    for proc_id in (0, 1, 0, 1):
        assert cancel(node, proc_id) == b""
    node.wait()
    assert node.events() == before
    assert only_end(node).cause is Cause.END


def test_a_task_that_ended_by_itself_meanwhile_keeps_its_end(node: LocalNode) -> None:
    """An order for a task whose own process is over changes nothing of how it ended."""
    node.request("sleep() { : > ~/tried; command sleep 0.01; }")
    events, aside = node.directory / "events", node.directory / "aside"
    node.start(
        node.launch(
            f"cd {script.quote(str(node.directory))}; mv events aside; ln -s no/where events"
        )
    )
    wait_until((node.home / "tried").exists, PATIENCE_S, "the recorder did not try")
    cancel(node)
    aside.replace(events)
    node.wait()
    assert (only_end(node).exit_code, only_end(node).cause) == (0, Cause.END)


def test_a_recorder_ends_no_task_without_an_order(node: LocalNode) -> None:
    """TERM to the recorder alone, as from a shutdown or the task itself, ends nothing."""
    node.start(node.launch("kill $PPID; sleep 0.1; kill $PPID; echo on; exit 3"))
    node.wait()
    assert (only_end(node).exit_code, only_end(node).cause) == (3, Cause.END)
    assert (node.outputs / "0.out").read_text() == "on\n"


# Cancelling what has not begun, or is about to.


def test_what_was_cancelled_first_never_starts(node: LocalNode) -> None:
    """An order that comes before the launch holds, also when it is given twice."""
    assert cancel(node) == b""
    assert cancel(node) == b""
    node.start(node.launch("touch ~/ran"))
    node.wait()
    event = node.events()[0]
    assert isinstance(event, Cancelled)
    assert {(type(one), one.proc_id, one.attempt) for one in node.events()} == {(Cancelled, 0, 0)}
    assert abs(event.time - time.time()) < 60
    assert not (node.home / "ran").exists()
    node.run(node.launch("touch ~/ran", attempt=1))
    assert (node.home / "ran").exists()


def test_an_order_that_a_dying_client_left_holds(node: LocalNode) -> None:
    """Where an order was written down and nothing else was done, the recorder finds it."""
    (node.directory / "0.0.cancel").write_text("100\n")
    node.start(node.launch("touch ~/ran"))
    node.wait()
    assert [type(event) for event in node.events()] == [Started, Cancelled]
    assert not (node.home / "ran").exists()


def test_what_was_given_up_never_starts_and_is_no_wish(node: LocalNode) -> None:
    """That it never started is written down as a loss, however often it is told again."""
    unheard = [(Refused, "unheard")]
    assert cancel(node, is_lost=True) == b""
    node.start(node.launch("touch ~/ran"))
    cancel(node)
    cancel(node, is_lost=True)
    node.wait()
    assert [(type(one), getattr(one, "word", "")) for one in node.events()] == unheard * 2
    (node.directory / "1.0.cancel").write_text("100 lost\n")
    node.start(node.launch("touch ~/ran", proc_id=1))
    node.wait()
    assert [(type(one), getattr(one, "word", "")) for one in finals(node, 1)] == unheard
    assert not (node.home / "ran").exists()


@pytest.mark.parametrize("pause_s", [0.0, 0.003, 0.01])
@pytest.mark.parametrize("others", [False, True])
def test_cancelled_in_flight_nothing_goes_on(
    make_node: Callable[..., LocalNode], pause_s: float, others: bool
) -> None:
    """However close the order follows the launch, each task is over, once, and nothing is left."""
    node = make_node()
    node.prepare()
    orderer = make_node() if others else node
    orderer.prepare()
    sleep = Sleep()
    numbers = range(12)
    orders = script.cancel_script(
        [CancelOrder(number, 0, 20.0) for number in numbers], generation=1
    )
    launch = launch_script(*[node.launch(str(sleep), proc_id=n) for n in numbers])
    began = time.time()
    if others:
        node.request(launch)
        time.sleep(pause_s)
        orderer.request(orders)
    else:
        node.request(f"{launch}\nsleep {pause_s}\n{orders}")
    node.wait()
    for number in numbers:
        end = finals(node, number)[0]
        # A recorder that comes late tells of a cancellation again.
        assert {type(one) for one in finals(node, number)} == {type(end)}
        assert isinstance(end, Cancelled) or (
            isinstance(end, Ended) and end.cause is Cause.CANCEL and end.exit_code == 143
        )
    assert sleep.processes() == []
    assert time.time() - began < 18  # none had to wait for its KILL


def test_an_order_that_cannot_be_kept_is_told(node: LocalNode) -> None:
    """Where the node can write nothing down, the client hears which order failed."""
    shutil.rmtree(node.directory)
    assert cancel(node, 3, attempt=2) == b"failed 3 2\n"
    node.prepare()
    (node.directory / "events").unlink()
    (node.directory / "events").mkdir()
    assert cancel(node, 3) == b"failed 3 0\n"
    (node.directory / "events").rmdir()
    assert cancel(node, 3) == b""
    assert [type(event) for event in node.events()] == [Cancelled]


# When the recorder is gone.


def test_a_task_without_its_recorder_is_ended_all_the_same(node: LocalNode) -> None:
    """With the recorder killed, who is asked to cancel ends the task, and tells it once."""
    sleep = Sleep()
    node.start(node.launch(f"setsid {sleep} & trap '' TERM; {sleep}; {sleep}"))
    sleep.begun()
    kill_recorder(node)
    began = time.time()
    for grace in (600, 900, 0.5):
        cancel(node, grace=grace)
    assert time.time() - began < 30
    node.wait()
    end = only_end(node)
    assert (end.exit_code, end.cause, end.has_output) == (143, Cause.CANCEL, True)
    assert sleep.processes() == marked() == []
    cancel(node)
    node.wait()
    assert only_end(node) == end


def test_a_task_that_is_given_up_is_ended_and_told_to_be_lost(node: LocalNode) -> None:
    """Nobody wished it to end, which the node itself remembers; a later wish changes nothing."""
    sleep = Sleep()
    node.start(node.launch(f"trap '' TERM; {sleep}; {sleep}"))
    sleep.begun()
    kill_recorder(node)
    cancel(node, grace=600, is_lost=True)
    cancel(node, grace=0.5)
    node.wait()
    assert (only_end(node).exit_code, only_end(node).cause) == (143, Cause.LOST)
    assert sleep.processes() == marked() == []


def test_who_takes_the_recorders_place_is_named(node: LocalNode) -> None:
    """While a task without its recorder is being ended, a start line names who does it."""
    sleep = Sleep()
    node.start(node.launch(f"trap '' TERM; {sleep}; {sleep}"))
    sleep.begun()
    kill_recorder(node)
    cancel(node, grace=600)
    first, second = [event for event in node.events() if isinstance(event, Started)]
    assert process_table()[second.pid].start == second.start_ticks
    assert second.pid != first.pid
    cancel(node, grace=0)
    node.wait()
    assert only_end(node).cause is Cause.CANCEL


def test_an_end_that_nobody_saw_is_told(node: LocalNode) -> None:
    """With recorder and task both gone, an order still brings an end."""
    sleep = Sleep()
    node.start(node.launch(f"exec {sleep}"))
    task = sleep.begun()
    kill_recorder(node)
    os.kill(task, signal.SIGKILL)
    cancel(node)
    node.wait()
    assert (only_end(node).exit_code, only_end(node).cause) == (143, Cause.CANCEL)


@pytest.mark.parametrize("claim", ["{pid} {other} {boot}", "{pid} {ticks} other-boot", ""])
def test_a_number_that_came_round_again_is_not_trusted(node: LocalNode, claim: str) -> None:
    """Another process under the recorder's number, or from before a reboot, is left alone."""
    sleep = Sleep()
    stranger = subprocess.Popen(["sleep", sleep.duration], start_new_session=True)
    ticks = process_table()[stranger.pid].start
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        text = claim.format(pid=stranger.pid, ticks=ticks, other=ticks - 1, boot=boot)
        (node.directory / "0.0").write_text(f"{text}\n")
        with (node.directory / "events").open("a") as file:
            file.write(f"S 0 0 {stranger.pid} {ticks - 1} 17 .\n")
        cancel(node, grace=0)
        node.wait()
        assert only_end(node).cause is Cause.CANCEL
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_init_and_everyone_are_never_meant(node: LocalNode) -> None:
    """No number that ``kill`` takes for init, a group or all processes counts as one."""
    ticks = process_table()[1].start
    words = ("1", "0", "-1", "", "00", "self", f"-{os.getpid()}")
    asked = "\n".join(f"__allot_is {script.quote(word)} {ticks} && echo {word}" for word in words)
    assert node.request(f"exec 2>/dev/null\n{asked}") == b""


def test_a_claim_that_a_full_disk_left_empty_is_no_secret(node: LocalNode) -> None:
    """The recorder is found by its start line then, though a loser and a torn line stand there."""
    sleep = Sleep()
    node.start(node.launch("trap 'exit 9' TERM", f"{sleep} & wait"))
    sleep.begun()
    (node.directory / "0.0").write_text("")
    events = node.directory / "events"
    with events.open("a") as file:
        file.write("S 0 0 999999999 17 17 .\nS 0 0 9999")
    cancel(node)
    node.wait()
    ends = [event for event in node.events_among_rubbish() if isinstance(event, Ended)]
    assert [(end.exit_code, end.cause) for end in ends] == [(9, Cause.CANCEL)]


# The time limit.


def test_a_time_limit_ends_the_whole_tree(
    make_node: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TERM when the time is over, KILL after the grace, to all that is the task's."""
    monkeypatch.setattr(script, "LIMIT_GRACE_S", 4.0)
    node = make_node()
    node.prepare(time_limit=0.5)
    sleep = Sleep()
    stubborn = f"trap '' TERM; setsid {sleep} & {sleep}; {sleep}"
    polite = f"trap 'echo bye; exit 5' TERM; {sleep} & wait"
    node.start(*(node.launch(cmd, proc_id=n) for n, cmd in enumerate((stubborn, polite))))
    node.wait()
    ends = [only_end(node, number) for number in (0, 1)]
    assert [(end.exit_code, end.cause) for end in ends] == [
        (137, Cause.TIMEOUT),
        (5, Cause.TIMEOUT),
    ]
    assert ends[0].time - started(node).time >= 4.45
    assert ends[1].time - started(node, 1).time >= 0.45
    assert sleep.processes() == []
    assert (node.outputs / "1.out").read_text() == "bye\n"


@pytest.mark.parametrize("cmd", ["exit 3", "kill -KILL 0", "kill -STOP $PPID; exit 3"])
def test_who_ends_in_time_leaves_no_timer(make_node: Callable[..., LocalNode], cmd: str) -> None:
    """The timer of a task is gone when its end is told, and the limit changes nothing else."""
    node = make_node()
    node.prepare(time_limit=12_345.0)
    node.start(node.launch(cmd))
    if "STOP" in cmd:
        recorder = started(node).pid
        wait_until(lambda: process_table()[recorder].state == "T", PATIENCE_S, "it was not stopped")
        os.kill(recorder, signal.SIGCONT)
    wait_until(lambda: bool(finals(node)), PATIENCE_S, "no end was written down")
    node.wait()
    assert only_end(node).cause is Cause.END
    assert only_end(node).exit_code == (137 if "KILL" in cmd else 3)
    wait_until(lambda: not timers(), PATIENCE_S, "a timer is left")


def timers() -> list[Process]:
    """What sleeps the time limit of the tests."""
    return [p for p in process_table().values() if p.command == "sleep 12345.00"]


def test_a_cancelled_task_leaves_no_timer(make_node: Callable[..., LocalNode]) -> None:
    """Who is cancelled within the limit is cancelled, with or without its recorder."""
    node = make_node()
    node.prepare(time_limit=12_345.0)
    sleeps = Sleep(), Sleep()
    node.start(*(node.launch(str(sleep), proc_id=n) for n, sleep in enumerate(sleeps)))
    for sleep in sleeps:
        sleep.begun()
    wait_until(lambda: len(timers()) == 2, PATIENCE_S, "no timers")
    kill_recorder(node, 1)
    for proc_id in (0, 1):
        cancel(node, proc_id)
    node.wait()
    assert [only_end(node, n).cause for n in (0, 1)] == [Cause.CANCEL] * 2
    wait_until(lambda: not timers(), PATIENCE_S, "a timer is left")


def test_a_limit_holds_without_the_recorder(make_node: Callable[..., LocalNode]) -> None:
    """With the recorder killed the task is ended in time, and its end told."""
    node = make_node()
    node.prepare(time_limit=1.0)
    sleep = Sleep()
    node.start(node.launch(f"setsid {sleep} & {sleep}"))
    sleep.begun()
    kill_recorder(node)
    wait_until(lambda: bool(finals(node)), PATIENCE_S, "no end was written down")
    assert (only_end(node).exit_code, only_end(node).cause) == (143, Cause.TIMEOUT)
    assert sleep.processes() == []
    node.wait()


def test_a_cancel_cuts_the_grace_of_a_limit_short(make_node: Callable[..., LocalNode]) -> None:
    """Who is out of time and stubborn can be cancelled at once; it stays a timeout."""
    node = make_node()
    node.prepare(time_limit=0.2)
    sleep = Sleep()
    node.start(node.launch(f"trap 'echo TERM' TERM; {sleep}; {sleep}; {sleep}"))
    output = node.outputs / "0.out"
    wait_until(
        lambda: output.exists() and "TERM" in output.read_text(), PATIENCE_S, "no limit was kept"
    )
    cancel(node, grace=0)
    node.wait()
    end = only_end(node)
    assert (end.exit_code, end.cause) == (137, Cause.TIMEOUT)
    assert end.time - started(node).time < script.LIMIT_GRACE_S
