"""Outputs of whole jobs on nodes that share nothing, and what may go wrong on their way."""

from __future__ import annotations

import io
import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNode, SshdNodes
from test_cluster import run

from allot import Cluster, NodeState, NodeTaskConfig, Progress, Task, TaskState
from allot.claims import Claims
from allot.driver import NodeDriver
from allot.errors import ConnectionFailedError
from allot.events import Started, parse_events
from allot.harvest import Harvest
from allot.model import NodeHealth
from allot.monitor import Monitor
from allot.node import FileRead
from allot.probe import NodeFacts, Sharing
from allot.script import Launch
from allot.seats import Seat
from allot.stage import Stager
from allot.tree import Trees
from allot.turns import Began, Finished, Mail

S = 60.0
"""Seconds that anything may take on a busy machine."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output directory that each private node has for itself, under the same name."""
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


def wait_for_progress(cluster: Cluster, proc_id: int, step: int) -> None:
    def is_there() -> bool:
        progress = cluster.tasks[proc_id].progress
        return progress is not None and progress.step == step

    wait_until(is_there, S, lambda: str(cluster.tasks))


def recorder_of(node: SshdNode, home: Path, proc_id: int) -> Started:
    """Whoever records the end of a task, once the node's event file tells it."""

    def starts() -> list[Started]:
        files = node.path(home).glob(".allot/*/*/events")
        events = [event for file in files for event in parse_events(file.read_bytes())[0]]
        return [e for e in events if isinstance(e, Started) and e.proc_id == proc_id]

    wait_until(lambda: bool(starts()), S, "no start was written down")
    return starts()[0]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_an_output_that_cannot_be_brought_home_fails_its_task(
    sshd_nodes: NodesFactory, out: Path, tmp_path: Path
) -> None:
    """FAILED with exit code 0 and the reason; the job is not ok, the content is on the node."""
    nodes = sshd_nodes(1, private=["~", out])
    go_on = tmp_path / "go-on"

    def factory(ntc: NodeTaskConfig) -> Task:
        where = out / f"deep{ntc.proc_id}" / "result.txt"
        return Task(f"echo precious; while [ ! -e {go_on} ]; do sleep 0.05; done", where, ntc)

    with run(nodes, out, factory, ntasks_per_node=3) as cluster:
        (out / "deep0").rmdir()
        (out / "deep0").write_text("a file where the directory was")
        (out / "deep1" / "result.txt").mkdir()
        go_on.touch()
        summary = cluster.wait(S, progress=False)
    assert [task.state.value for task in summary.tasks] == ["FAILED", "FAILED", "COMPLETED"]
    assert [task.exit_code for task in summary.tasks] == [0, 0, 0]
    assert not summary.ok
    for task in summary.tasks[:2]:
        assert f"{task.output_file} cannot be written here" in task.reason
        assert task.output_file is not None
        assert nodes.node(0).path(task.output_file).read_text() == "precious\n"
    assert (out / "deep2" / "result.txt").read_text() == "precious\n"
    assert not list(out.rglob("*.part"))


def test_two_hundred_outputs_at_once_need_few_descriptors(
    sshd_nodes: NodesFactory, out: Path, tmp_path: Path
) -> None:
    """A client that may open a hundred files brings two hundred large outputs home."""
    nodes = sshd_nodes(1, private=["~", out])
    go_on = tmp_path / "go-on"
    command = f"head -c 2000000 /dev/zero; while [ ! -e {go_on} ]; do sleep 0.2; done"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with run(nodes, out, lambda _: command, ntasks_per_node=200) as cluster:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
        try:
            go_on.touch()
            summary = cluster.wait(2 * S, progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {task.reason for task in summary.tasks} == {""}
    assert summary.ok
    assert [(out / f"{number}.out").stat().st_size for number in range(200)] == [2_000_000] * 200


def test_a_replaced_output_comes_home_with_its_progress(
    sshd_nodes: NodesFactory, out: Path, tmp_path: Path
) -> None:
    """What a task moved over its output counts, while it runs and at its end."""
    nodes = sshd_nodes(1, private=["~", out])
    moved, go_on = tmp_path / "moved", tmp_path / "go-on"
    command = "\n".join(
        [
            r"printf 'old old old old old \0021/9\003'",
            f"while [ ! -e {moved} ]; do sleep 0.02; done",
            rf"printf 'new \0025/9\003' > {out}/new; mv {out}/new {out}/0.out",
            f"while [ ! -e {go_on} ]; do sleep 0.02; done",
            rf"printf '\0027/9\003' >> {out}/0.out",
        ]
    )
    with run(nodes, out, lambda _: command, poll_interval=0.05) as cluster:
        wait_for_progress(cluster, 0, 1)
        moved.touch()
        wait_for_progress(cluster, 0, 5)
        go_on.touch()
        summary = cluster.wait(S, progress=False)
    assert summary.ok
    assert (out / "0.out").read_text() == "new \x025/9\x03\x027/9\x03"
    assert summary.tasks[0].progress == Progress(7, 9)


def test_an_output_that_is_begun_anew_tells_its_progress(
    sshd_nodes: NodesFactory, out: Path, tmp_path: Path
) -> None:
    """A task that truncates its output goes on to be watched, and only the rest comes home."""
    nodes = sshd_nodes(1, private=["~", out])
    go_on = tmp_path / "go-on"
    command = "\n".join(
        [
            r"printf 'a long beginning, that is gone soon \0028/9\003'",
            f"while [ ! -e {go_on} ]; do sleep 0.02; done",
            r": > $ALLOT_OUTPUT_DIR/0.out; printf '\0022/9\003'",
            f"while [ -e {go_on} ]; do sleep 0.02; done",
        ]
    )
    with run(nodes, out, lambda _: command, poll_interval=0.05) as cluster:
        wait_for_progress(cluster, 0, 8)
        go_on.touch()
        wait_for_progress(cluster, 0, 2)
        go_on.unlink()
        assert cluster.wait(S, progress=False).ok
    assert (out / "0.out").read_bytes() == b"\x022/9\x03"


def test_an_output_that_grows_after_the_end_holds_nothing_up(
    sshd_nodes: NodesFactory, out: Path, tmp_path: Path
) -> None:
    """A task is final though something of it writes on; what was there at its end has come."""
    nodes = sshd_nodes(1, private=["~", out])
    enough = tmp_path / "enough"
    writer = f"while [ ! -e {enough} ]; do head -c 100000 /dev/zero; sleep 0.01; done"
    try:
        with run(nodes, out, lambda _: f"echo first\n({writer}) &\nexit 0") as cluster:
            summary = cluster.wait(S, progress=False)
    finally:
        enough.touch()
    assert summary.ok
    here = (out / "0.out").read_bytes()
    assert here.startswith(b"first\n")
    assert nodes.node(0).path(out / "0.out").read_bytes().startswith(here)


def test_dev_null_takes_what_nobody_wants(sshd_nodes: NodesFactory, out: Path) -> None:
    """Several tasks may name it, for both streams; it is no loss, and stays what it is."""
    nodes = sshd_nodes(1, private=["~", out])
    null = Path("/dev/null")

    def factory(ntc: NodeTaskConfig) -> Task:
        error_file = null if ntc.proc_id else None
        return Task("echo nobody wants this; echo nor this >&2", null, ntc, error_file=error_file)

    with run(nodes, out, factory, ntasks_per_node=4, ntasks=12) as cluster:
        summary = cluster.wait(S, progress=False)
        assert cluster.output(0) == ""
    assert summary.ok
    assert {task.reason for task in summary.tasks} == {""}
    assert stat.S_ISCHR(os.stat(null).st_mode)
    assert stat.S_ISCHR(os.stat(nodes.node(0).path(null)).st_mode)


@pytest.mark.parametrize(
    "command",
    [
        r"printf '\0029/9\003\n'; head -c 300000 /dev/zero",
        r"for i in 1 2 3 4 5 6 7 8 9; do printf '\002'$i'/9\003\n'; head -c 400000 /dev/zero; done",
    ],
    ids=["one", "nine"],
)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "not shared"])
def test_the_last_progress_is_the_progress_at_the_end(
    sshd_nodes: NodesFactory, out: Path, command: str, shared: bool
) -> None:
    """However much a task prints behind its last marker."""
    nodes = sshd_nodes(1, private=[] if shared else ["~", out])
    with run(nodes, out, lambda _: command) as cluster:
        summary = cluster.wait(S, progress=False)
    assert summary.ok
    assert summary.tasks[0].progress == Progress(9, 9)


def test_an_earlier_runs_file_is_no_output(sshd_nodes: NodesFactory, out: Path) -> None:
    """A task that removed its output has none; what lay here before is not shown for it."""
    nodes = sshd_nodes(1, private=["~", out])
    (out / "0.out").write_text("of an earlier run \x027/7\x03")
    with run(nodes, out, lambda _: f"echo mine; rm {out}/0.out") as cluster:
        summary = cluster.wait(S, progress=False)
        assert cluster.output(0) == ""
    task = summary.tasks[0]
    assert task.state is TaskState.COMPLETED
    assert "is not on the node any more" in task.reason
    assert task.progress is None
    assert not (out / "0.out").exists()


def test_an_empty_output_takes_the_place_of_an_earlier_runs(
    sshd_nodes: NodesFactory, out: Path
) -> None:
    """Of a task that printed nothing nothing is shown, whatever lay here before."""
    nodes = sshd_nodes(1, private=["~", out])
    (out / "0.out").write_text("of an earlier run")
    with run(nodes, out, lambda _: "true", ntasks=2) as cluster:
        assert cluster.wait(S, progress=False).ok
        assert [cluster.output(number) for number in range(2)] == ["", ""]
    assert [(out / f"{number}.out").read_bytes() for number in range(2)] == [b"", b""]


def test_closing_while_an_output_is_on_its_way_leaves_no_part_of_it(
    sshd_nodes: NodesFactory, out: Path
) -> None:
    """Neither the temporary file, nor half an output under the output's name."""
    nodes = sshd_nodes(1, private=["~", out])
    with run(nodes, out, lambda _: "truncate -s 2G /dev/stdout") as cluster:
        wait_until(lambda: bool(list(out.glob(".*.part"))), S, lambda: str(cluster.tasks))
    assert not list(out.rglob("*.part"))
    assert not (out / "0.out").exists()


def test_a_killed_recorder_fails_its_task_and_no_other(
    sshd_nodes: NodesFactory, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAILED with a reason, its output is here, its processes are gone, the job goes on."""
    monkeypatch.setattr("allot.driver._ALIVE_S", 0.2)
    nodes = sshd_nodes(1, private=["~", out])
    commands = {0: "echo $$; sleep 1000", 1: "true", 2: "true"}
    with run(nodes, out, lambda ntc: commands[ntc.proc_id], ntasks_per_node=1, ntasks=3) as cluster:
        recorder = recorder_of(nodes.node(0), nodes.home, 0)
        wait_until(lambda: cluster.output(0).endswith("\n"), S, "the task did not begin")
        process = int(cluster.output(0))
        assert is_alive(process)
        os.kill(recorder.pid, signal.SIGKILL)
        summary = cluster.wait(S, progress=False)
        wait_until(lambda: not is_alive(process), S, "the task's process goes on")
    assert [task.state.value for task in summary.tasks] == ["FAILED", "COMPLETED", "COMPLETED"]
    task = summary.tasks[0]
    assert task.exit_code is None
    assert "what records its end was killed" in task.reason
    assert task.started_at is not None
    assert task.ended_at is not None
    assert task.started_at <= task.ended_at
    assert (out / "0.out").read_text() == f"{process}\n"


def test_a_task_that_a_dying_client_gave_up_is_lost_for_the_next_one(
    sshd_nodes: NodesFactory, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has the rest of it ended and is gone before it tells; it is tried again."""
    monkeypatch.setattr("allot.driver._ALIVE_S", 0.2)
    nodes = sshd_nodes(1, private=["~", out])
    command = "[[ $ALLOT_ATTEMPT == 1 ]] || sleep 1000"
    with monkeypatch.context() as patch:
        patch.setattr(Harvest, "bring_home", lambda *_: [])
        with run(nodes, out, lambda _: command, ntasks_per_node=1, retries=1) as cluster:
            os.kill(recorder_of(nodes.node(0), nodes.home, 0).pid, signal.SIGKILL)
            (events,) = nodes.node(0).path(nodes.home / ".allot").glob("*/*/events")
            wait_until(lambda: b"E 0 0 143" in events.read_bytes(), S, "nobody ended the rest")
            assert cluster.tasks[0].state is TaskState.RUNNING
    with Cluster.load(out, lambda ntc: Task(command, config=ntc)) as cluster:
        (task,) = cluster.wait(S, progress=False).tasks
    assert (task.state, task.attempt) == (TaskState.COMPLETED, 1)


def test_an_unexpected_fault_on_one_node_stops_no_other(
    sshd_nodes: NodesFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The node shows UNREACHABLE with the fault and is tried again; nothing it told is lost."""
    caplog.set_level(logging.CRITICAL + 1, "allot")
    is_faulty = threading.Event()
    is_faulty.set()
    look = NodeDriver._look

    def faulty_look(driver: NodeDriver) -> None:
        if driver.node.name == "nd02" and is_faulty.is_set():
            raise RuntimeError("can't start new thread")
        look(driver)

    monkeypatch.setattr(NodeDriver, "_look", faulty_look)
    nodes = sshd_nodes(2)
    with run(nodes, tmp_path, lambda _: "true", ntasks_per_node=1, ntasks=10) as cluster:

        def others_are_done() -> bool:
            return cluster.nodes[1].state is NodeState.UNREACHABLE and (
                sum(task.state is TaskState.COMPLETED for task in cluster.tasks) == 9
            )

        wait_until(others_are_done, S, lambda: f"{cluster.nodes} {cluster.tasks}")
        assert "can't start new thread" in cluster.nodes[1].reason
        is_faulty.clear()
        summary = cluster.wait(S, progress=False)
        assert cluster.nodes[1].state is NodeState.READY
    assert summary.ok
    assert all(task.started_at is not None for task in summary.tasks)


def test_tasks_that_could_not_be_sent_wait_again(
    sshd_nodes: NodesFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their node went before it was asked for them: they did not start, and that is said.

    Also where one looks while the monitor notes the broken turn: that the node is out of reach
    comes before that its tasks wait again.
    """
    nodes = sshd_nodes(1)
    choose, take_back = sys.modules["allot.muster"].choose, Seat.take_back
    hear, half_noted = Monitor.wait_until_heard, threading.Event()

    def take_back_slowly(*arguments: Any, **options: Any) -> None:
        take_back(*arguments, **options)
        half_noted.set()
        time.sleep(0.3)

    def hear_then(monitor: Monitor, timeout: float) -> None:
        assert half_noted.wait(S)
        hear(monitor, timeout)

    def choose_and_cut(*arguments: Any) -> Any:
        chosen = choose(*arguments)
        nodes.node(0).cut()
        return chosen

    monkeypatch.setattr("allot.muster.choose", choose_and_cut)
    monkeypatch.setattr(Seat, "take_back", take_back_slowly)
    monkeypatch.setattr(Monitor, "wait_until_heard", hear_then)
    with run(nodes, tmp_path, lambda _: "true", ntasks_per_node=2, ntasks=5) as cluster:
        assert {task.state for task in cluster.tasks} == {TaskState.PENDING}
    told = capsys.readouterr().err
    assert "5 tasks of job test job wait, and start when it is picked up: Cluster.load" in told


class BrokenPipe(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:  # noqa: ARG002
        raise BrokenPipeError


def test_a_close_that_fails_half_way_closes_all(
    five_nodes: SshdNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stdout and stderr broken: the fault is told, no thread is left, a second one is fine."""
    before = set(threading.enumerate())
    cluster = run(five_nodes, tmp_path, lambda _: "sleep 1", nnodes=1, ntasks_per_node=1, ntasks=3)
    with pytest.raises(BrokenPipeError):
        cluster.print_progress(BrokenPipe())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", BrokenPipe())
        with pytest.raises(BrokenPipeError):
            cluster.close()
    cluster.close()
    wait_until(lambda: set(threading.enumerate()) <= before, S, lambda: str(threading.enumerate()))


def test_tasks_that_cannot_be_made_are_soon_done_with(
    five_nodes: SshdNodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fifty of them end in one go, not one at a time, each with its traceback in its output."""
    caplog.set_level(logging.CRITICAL, "allot")

    def factory(ntc: NodeTaskConfig) -> str:
        if ntc.proc_id:
            raise ValueError(f"nothing for {ntc.proc_id}")
        return "true"

    with run(five_nodes, tmp_path, factory, nnodes=1, ntasks_per_node=1, ntasks=51) as cluster:
        ended = list(cluster.as_completed(S / 4))
        summary = cluster.wait(S, progress=False)
    assert [task.proc_id for task in ended] == list(range(51))
    for task in summary.tasks[1:]:
        assert task.state is TaskState.FAILED
        assert f"ValueError: nothing for {task.proc_id}" in task.reason
        assert task.output_file is not None
        text = task.output_file.read_text()
        assert text.startswith("Traceback")
        assert f"nothing for {task.proc_id}" in text


def test_warnings_are_not_written_to_stderr_by_themselves() -> None:
    """A program that sets up no logging sees none of Allot's."""
    program = "import allot, logging; logging.getLogger('allot.monitor').warning('nd01 is gone')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=S, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


# What a node tells, in pieces that a break may come between: with a node made of words.


@dataclass
class WordNode:
    """A node whose event file is a piece of memory.

    Attributes:
        log: The event file.
        breaks_at: Which read breaks the connection, counted from 1; 0: none.
        says_look: Whether it tells in each turn that there is something in the event file.
        notices: What its shell told beside the event file.
        alive: Which pids live.
        clock_ahead_s: How far its clock is ahead of the client's.
    """

    log: bytes = b""
    breaks_at: int = 0
    says_look: bool = True
    notices: list[str] = field(default_factory=lambda: ["look"])
    alive: Sequence[int] = ()
    clock_ahead_s: float = 0.0
    reads: int = 0
    name: str = "nd01"
    is_connected: bool = True
    has_sftp: bool = True

    def clock(self) -> float:
        """What its clock shows."""
        return time.time() + self.clock_ahead_s

    def connect(self) -> None:
        self.is_connected = True

    def open_sftp(self) -> bool:
        return True

    def request(self, script: str, *, timeout: float = 20.0) -> bytes:  # noqa: ARG002
        if "__allot_alive" in script:
            return " ".join(["boot", f"{self.clock():.1f}", "room", *map(str, self.alive)]).encode()
        return b"ready new 100 /home/.allot/job/nd01" if script == "prelude" else b""

    def read_files(self, reads: Sequence[FileRead]) -> list[bytes | OSError]:
        self.reads += 1
        if self.reads == self.breaks_at:
            self.is_connected = False
            raise ConnectionFailedError(self.name, "cut")
        return [self.log[read.offset : read.offset + read.length] for read in reads]

    def take_notices(self) -> list[str]:
        notices, self.notices = self.notices, ["look"] if self.says_look else []
        return notices

    def when_heard(self, call: Callable[[], None] | None) -> None:
        """Nobody waits."""


class Always:
    """The right to start tasks, for ever."""

    generation = 1

    def seconds_left(self) -> float:
        return 60.0


@contextmanager
def driven(node: WordNode, clock_offset: float = 0.0) -> Iterator[NodeDriver]:
    """A driver of a node that shares the client's files."""
    sharing = Sharing(True, True)
    some = cast(Any, node)
    health = NodeHealth(1, 0.0, 0.0, 0, 0, 0, "boot")
    facts = NodeFacts(health, home_writable=True, sharing=sharing, clock_offset=clock_offset)
    driver = NodeDriver(
        some,
        Harvest(some, "job", Claims(Path("claims")), sharing, Path("/"), poll_interval=1.0),
        Stager(some, Trees([]), key="job-0", work="work"),
        facts,
        prelude=lambda _: "prelude",
        mandate=Always(),
        look_at_node=lambda: facts,
        poll_interval=1.0,
    )
    yield driver
    driver.release()


def launches(directory: Path, count: int) -> list[Launch]:
    return [
        Launch(number, 0, 0, directory / f"{number}.out", None, None, {}, "true")
        for number in range(count)
    ]


def ends_of(turns: Callable[[], Any], count: int) -> list[Finished]:
    """What some turns tell of the ends of tasks."""
    reports = [report for _ in range(count) for report in turns().reports]
    return [report for report in reports if isinstance(report, Finished)]


@pytest.mark.parametrize("breaks_at", [1, 2, 3])
def test_no_event_is_lost_where_a_break_comes_between_two_pieces(
    tmp_path: Path, breaks_at: int
) -> None:
    """Starts and ends read before the break count, those behind it are read after it."""
    starts = [b"S %d 0 1%d 1 100.0 .\n" % (number, number) for number in range(4)]
    ends = [b"E %d 0 0 0 end 200.0 .\n" % number for number in range(4)]
    rubbish = b"x" * 99 + b"\n"
    node = WordNode(b"".join([*starts, *ends[:2], rubbish * 3000, *ends[2:]]), breaks_at)
    with driven(node) as driver:
        first = driver.turn(Mail(launches(tmp_path, 4)))
        assert first.error is not None
        assert all(isinstance(report, Began) for report in first.reports)
        ended = ends_of(lambda: driver.turn(Mail()), 2)
        assert sorted(end.proc_id for end in ended) == [0, 1, 2, 3]
        assert {end.state for end in ended} == {TaskState.COMPLETED}
        pause = driver.turn(Mail()).pause
        assert pause is not None
        assert pause > 10  # nothing is waited for any more


def test_a_refusal_that_could_not_be_written_down_is_told(tmp_path: Path) -> None:
    """A node whose disk is full tells by another way, and the task ended when it was told."""
    node = WordNode(notices=[f"X 0 0 events {time.time() + 5000:.1f} ."])
    before = time.time()
    with driven(node, clock_offset=-5000.0) as driver:
        (end,) = ends_of(lambda: driver.turn(Mail(launches(tmp_path, 1))), 1)
    assert end.state is TaskState.FAILED
    assert "home directory" in end.reason
    assert before - 1 <= end.time <= time.time() + 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("S 0 0 10 1 5.0 .;E 0 0 143 1 lost 6.0 .", "what records its end was killed on the node"),
        ("X 0 0 unheard 6.0 .", "its node never told that it started"),
    ],
)
def test_what_an_earlier_client_gave_up_is_no_cancellation(
    tmp_path: Path, line: str, reason: str
) -> None:
    """That client had the rest of it ended, and died before it could write down what it knew."""
    node = WordNode(notices=[line])
    with driven(node) as driver:
        (end,) = ends_of(lambda: driver.turn(Mail(launches(tmp_path, 1))), 1)
    assert (end.state, end.exit_code) == (TaskState.FAILED, None)
    assert reason in end.reason


def test_an_end_that_is_told_needs_no_look_and_counts_once(tmp_path: Path) -> None:
    """It is known with the launch; the same lines in the event file say nothing new later."""
    lines = ["S 0 0 10 1 5.0 .", "E 0 0 0 0 end 6.0 ."]
    node = WordNode(says_look=False, notices=[";".join(lines)])
    with driven(node) as driver:
        assert node.reads == 0
        first = driver.turn(Mail(launches(tmp_path, 2)))
        assert node.reads == 0
        assert [type(report) for report in first.reports] == [Began, Finished]
        node.log += "".join(f"{line}\n" for line in lines).encode()
        node.log += b"S 1 0 11 1 5.0 .\n"
        node.notices = ["look;"]
        second = driver.turn(Mail())
    assert [(type(report), report.proc_id) for report in second.reports] == [(Began, 1)]


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_node_whose_clock_is_set_while_a_task_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """It began by the old clock and ended by the new one; the client's clock tells both."""
    monkeypatch.setattr("allot.driver._ALIVE_S", 0.0)
    node = WordNode(alive=[10])
    before = time.time()
    with driven(node) as driver:
        node.log += b"S 0 0 10 1 %.1f .\n" % node.clock()
        (began,) = driver.turn(Mail(launches(tmp_path, 1))).reports
        node.clock_ahead_s = 3600.0 * hours
        assert not driver.turn(Mail()).reports  # it runs, and the clock is looked at
        node.log += b"E 0 0 0 0 end %.1f .\n" % node.clock()
        (end,) = ends_of(lambda: driver.turn(Mail()), 1)
    assert isinstance(began, Began)
    assert end.state is TaskState.COMPLETED
    for when in (began.time, end.time):
        assert before - 1 <= when <= time.time() + 1


def test_each_try_keeps_its_output_here_too(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """On nodes that share nothing the outputs of a retried task lie side by side on the client."""
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    nodes = sshd_nodes(2, private=["~", output_dir])
    command = "echo try $ALLOT_ATTEMPT; [ $ALLOT_ATTEMPT = 2 ]"
    with run(nodes, output_dir, lambda _: command, ntasks=1, retries=3) as cluster:
        assert cluster.wait(60, progress=False).tasks[0].attempt == 2
    texts = [(output_dir / f"0.out{suffix}").read_text() for suffix in (".0", ".1", "")]
    assert texts == ["try 0\n", "try 1\n", "try 2\n"]


def test_outputs_outside_the_shared_directory_are_brought_home(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """``output_dir`` is shared, but this task writes where its node has a disk of its own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    nodes = sshd_nodes(1, private=[scratch])

    def factory(ntc: NodeTaskConfig) -> Task:
        return Task(r"echo on the node; printf '\0023/3\003'", scratch / "own.out", ntc)

    with run(nodes, tmp_path / "out", factory) as cluster:
        summary = cluster.wait(60, progress=False)
    assert summary.ok
    assert (scratch / "own.out").read_text() == "on the node\n\x023/3\x03"
    assert summary.tasks[0].progress is not None


def test_a_node_that_was_given_up_does_not_overwrite_what_came_later(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """Its task ran again elsewhere; when it comes back, its old output stays where it is."""
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    nodes = sshd_nodes(2, private=["~", output_dir])
    command = "echo attempt $ALLOT_ATTEMPT; [ $ALLOT_ATTEMPT = 1 ] || sleep 600"
    with run(nodes, output_dir, lambda _: command, ntasks=1, ntasks_per_node=1) as cluster:
        wait_until(lambda: "attempt 0" in cluster.output(0), 30, "it does not run")
        nodes.node(0).freeze()
        cluster.down(nodes.names[0])
        assert cluster.tasks[0].state is TaskState.NODE_FAIL
        assert cluster.rerun() == 1
        assert cluster.wait(60, progress=False).ok
        nodes.node(0).thaw()
        wait_until(
            lambda: not any(p.program == "sleep" for p in nodes.node(0).processes()),
            60,
            "the old task was not killed",
        )
    assert (output_dir / "0.out").read_text() == "attempt 1\n"
