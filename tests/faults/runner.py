"""Carries out a plan on real nodes: the job, its clients, all that breaks, and the mending.

Rules: one thread. What is random was decided in the plan; here it is only done at its time. What
is done to tasks is written down, for the checks.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sandbox import Process, process_table
from sshd import SshdNode, SshdNodes

from faults.checks import Cause, Deed, History, Outcome, Violation, violations
from faults.client import Setup
from faults.lives import Clients, start_client
from faults.plan import NODE_KINDS, Fault, Harm, Kind, Plan
from faults.proxy import Proxy
from faults.tasks import read_journal, read_journals

PATIENCE_S = 120.0
"""Seconds after the last fault was mended within which a job must be final."""

LEFTOVERS_S = 20.0
"""Seconds after its end within which nothing of a job may be left on its nodes."""

_TICK_S = 0.004
_LOOK_S = 0.05
_LOOK_BACK_S = 60.0


@dataclass(frozen=True)
class Report:
    """How a run went.

    Attributes:
        plan: What was meant to be done.
        violations: What does not hold.
        clients: How many clients there were.
        attempts: How many attempts of tasks began.
        done: How often each thing was broken in truth, by name.
        seconds: How long it took.
    """

    plan: Plan
    violations: tuple[Violation, ...]
    clients: int
    attempts: int
    done: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        done = ", ".join(f"{number} {name}" for name, number in sorted(self.done.items()))
        result = "ok" if not self.violations else f"{len(self.violations)} VIOLATIONS"
        return (
            f"seed {self.plan.seed}: {result}; {self.plan.ntasks} tasks, {self.attempts} attempts, "
            f"{self.clients} clients, {self.seconds:.0f} s; broken: {done or 'nothing'}"
        )


def run(
    plan: Plan,
    directory: Path,
    *,
    sabotage: str = "",
    patience: float = PATIENCE_S,
) -> Report:
    """Carry out a plan and check what came of it.

    Args:
        plan: The plan.
        directory: An empty directory, for all files; they are left there.
        sabotage: What is switched off in Allot, or empty.
        patience: Seconds to wait for the end of the job after the last fault was mended.
    """
    started = time.monotonic()
    with _Run.begin(plan, directory, sabotage) as one:
        one.see_through(patience)
        history = one.end()
        found = tuple(violations(history))
        (directory / "violations").write_text("".join(f"{violation}\n" for violation in found))
        if found:
            one.keep_evidence()
    attempts = sum(line.code is None for line in history.lines)
    seconds = time.monotonic() - started
    return Report(plan, found, one.clients.number, attempts, one.done, seconds)


class _Run:
    """A run under way."""

    def __init__(
        self, plan: Plan, directory: Path, nodes: SshdNodes, proxies: list[Proxy], setup: Setup
    ) -> None:
        self.done: dict[str, int] = {}
        self.clients = Clients(plan, directory, setup, self._note)
        self._plan = plan
        self._directory = directory
        self._nodes = nodes
        self._proxies = proxies
        self._setup = setup
        self._deeds: list[Deed] = []
        self._log = (directory / "log").open("w", buffering=1)
        self._started = time.monotonic()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._broken: dict[int, Fault] = {}
        self._events: dict[tuple[str, Path], BinaryIO] = {}
        self._waiting = {
            (proc_id, number): attempt.harm
            for proc_id, attempts in enumerate(plan.tasks)
            for number, attempt in enumerate(attempts)
            if attempt.harm
        }
        for fault in plan.faults:
            self._at(fault.at, partial(self._break, fault))

    @classmethod
    @contextmanager
    def begin(cls, plan: Plan, directory: Path, sabotage: str) -> Iterator[_Run]:
        """Bring up the nodes and the proxies before them."""
        for name in ("out", "journal", "sshd", "home"):
            (directory / name).mkdir()
        private: list[Path | str] = ["~", directory / "out"] if plan.private else []
        with ExitStack() as stack:
            nodes = stack.enter_context(
                SshdNodes(plan.nnodes, directory / "sshd", private=private, sftp=plan.sftp)
            )
            proxies = [
                stack.enter_context(Proxy(node.address, partial(_place, node)))
                for node in nodes.nodes
            ]
            setup = Setup(
                plan=str(directory / "plan"),
                output_dir=str(directory / "out"),
                journal=str(directory / "journal"),
                node_file=str(nodes.node_file),
                ssh_config=str(directory / "ssh_config"),
                result=str(directory / "result.json"),
                sabotage=sabotage,
            )
            (directory / "plan").write_bytes(pickle.dumps(plan))
            setup.save(directory / "setup.json")
            _lead_through(nodes, proxies, directory)
            one = cls(plan, directory, nodes, proxies, setup)
            stack.callback(one._close_files)
            stack.callback(one.clients.kill)
            stack.callback(one._mend_all)
            yield one

    def see_through(self, patience: float) -> None:
        """Until a client has told the end of the job, or there is no hope of it."""
        last = max((fault.at + fault.seconds for fault in self._plan.faults), default=0.0)
        lives = sum(life.seconds + life.pause for life in self._plan.lives)
        give_up = self._started + max(last, lives) + patience
        look_at = 0.0
        while not self.clients.has_ended and time.monotonic() < give_up:
            self.clients.look()
            self._do_what_is_due()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_S
                self._harm_who_waits()
                self._look_for_evidence()
            time.sleep(_TICK_S)

    def end(self) -> History:
        """Mend all, wait until the nodes are quiet, and gather what is known."""
        self._due.clear()
        self._mend_all()
        self.clients.kill()
        for proxy in self._proxies:
            proxy.close()
        left = self._wait_for_quiet()
        job_id, outcomes = _told(Path(self._setup.result))
        again = self._look_back() if outcomes else ()
        if self.clients.killed:
            self.done["client"] = self.clients.killed
        return History(
            plan=self._plan,
            job_id=job_id,
            lines=read_journals(self._directory / "journal"),
            outcomes=outcomes,
            again=again,
            deeds=self._deeds,
            left=left,
            troubles=self.clients.troubles,
        )

    def _look_back(self) -> Sequence[Outcome]:
        """What one more client finds of the job, without any of its nodes."""
        result, log = self._directory / "again.json", self._directory / "again.log"
        replace(self._setup, result=str(result)).save(self._directory / "setup-again.json")
        client = start_client(self._directory, "setup-again.json", log)
        try:
            client.wait(_LOOK_BACK_S)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait(10)
        if client.returncode:
            end = " | ".join(log.read_text(errors="replace").strip().splitlines()[-4:])
            self.clients.troubles.append(f"coming back after the end: {client.returncode}, {end}")
        return _told(result)[1]

    def keep_evidence(self) -> None:
        """Write down what the event files held, which are gone at the end of a job."""
        for (name, path), file in self._events.items():
            file.seek(0)
            (self._directory / f"events-{name}-{path.parent.parent.name}").write_bytes(file.read())

    def _look_for_evidence(self) -> None:
        for node in self._nodes.nodes:
            for path in node.path(self._nodes.home / ".allot").glob(f"*/{node.name}/events"):
                with suppress(FileNotFoundError):
                    if (node.name, path) not in self._events:
                        self._events[node.name, path] = path.open("rb")

    def _close_files(self) -> None:
        self._log.close()
        for file in self._events.values():
            file.close()

    def _at(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (seconds, next(self._order), what))

    def _do_what_is_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic() - self._started:
            heapq.heappop(self._due)[2]()

    def _note(self, what: str) -> None:
        self._log.write(f"{time.time():.3f} +{time.monotonic() - self._started:.3f} {what}\n")

    def _count(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1

    def _break(self, fault: Fault) -> None:
        self._note(f"break {fault}")
        self._count(fault.kind.value)
        self._broken[fault.node] = fault
        if fault.kind in NODE_KINDS:
            self._break_node(fault, self._nodes.node(fault.node))
        else:
            self._break_line(fault, self._proxies[fault.node])
        since = time.monotonic() - self._started
        self._at(since + fault.seconds, lambda: self._mend(fault))

    def _break_node(self, fault: Fault, node: SshdNode) -> None:
        start = time.time()
        if fault.kind is Kind.FREEZE:
            node.freeze()
        elif fault.kind is Kind.LAG:
            self._hold_up(fault, node)
        elif fault.kind is Kind.CUT:
            node.cut()
        else:
            node.kill()
            self._deeds.append(Deed(Cause.POWER, node.name, start, time.time()))

    def _hold_up(self, fault: Fault, node: SshdNode) -> None:
        processes = {process.pid: process for process in node.processes()}
        for process in processes.values():
            parent = processes.get(process.parent)
            if process.program == "bash" and parent and parent.program.startswith("sshd"):
                process.send(signal.SIGSTOP)

        def reset() -> None:
            self._proxies[fault.node].reset()
            self._proxies[fault.node].mend()

        self._at(time.monotonic() - self._started + fault.amount / 1000, reset)

    def _break_line(self, fault: Fault, proxy: Proxy) -> None:
        if fault.kind is Kind.SWALLOW:
            proxy.swallow(fault.way)
        elif fault.kind is Kind.STALL:
            proxy.stall(fault.way)
        elif fault.kind is Kind.RESET:
            proxy.reset()
        elif fault.kind is Kind.CLIP:
            proxy.clip(fault.way, fault.amount)
        else:
            proxy.slow(fault.amount / 1000)

    def _mend(self, fault: Fault) -> None:
        if self._broken.get(fault.node) != fault:
            return
        self._note(f"mend {fault}")
        del self._broken[fault.node]
        node = self._nodes.node(fault.node)
        if fault.kind in (Kind.FREEZE, Kind.LAG):
            node.thaw()
        elif fault.kind in NODE_KINDS:
            node.start()
            node.wait_until_up()
        else:
            self._proxies[fault.node].mend()

    def _mend_all(self) -> None:
        for fault in list(self._broken.values()):
            self._mend(fault)

    def _harm_who_waits(self) -> None:
        for (proc_id, number), harm in list(self._waiting.items()):
            lines = list(read_journal(self._directory / "journal" / str(proc_id)))
            pids = [line.pid for line in lines if line.attempt == number and line.code is None]
            if not pids:
                continue
            del self._waiting[proc_id, number]
            self._at(
                time.monotonic() - self._started + 0.05 * (proc_id % 8),
                partial(self._harm, proc_id, number, pids[0], harm),
            )

    def _harm(self, proc_id: int, number: int, pid: int, harm: Harm) -> None:
        process = process_table().get(pid)
        if process is None or not _is_attempt(process, proc_id, number):
            return  # its node lost its power
        cause = Cause.GROUP if harm is Harm.GROUP else Cause.RECORDER
        now = time.time()
        self._deeds.append(Deed(cause, "", now, now, proc_id, number))
        self._note(f"{cause.value}: task {proc_id} attempt {number}, process {pid}")
        self._count(harm.value)
        with suppress(ProcessLookupError):
            if harm is Harm.GROUP:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(process.parent, signal.SIGKILL)

    def _wait_for_quiet(self) -> list[str]:
        """What is left on the nodes when nothing should be any more, in words."""
        give_up = time.monotonic() + LEFTOVERS_S
        while left := self._left():
            if time.monotonic() > give_up:
                break
            time.sleep(0.1)
        return left

    def _left(self) -> list[str]:
        return [
            f"process {process.pid} ({process.state}) on {node.name}: "
            f"{process.command or process.program}; {_mark(process)}"
            for node in self._nodes.nodes
            for process in node.processes()
            if process.pid != node.pid
        ]


def _place(node: SshdNode) -> tuple[str, int]:
    return node.address, node.port


def _lead_through(nodes: SshdNodes, proxies: list[Proxy], directory: Path) -> None:
    """The ssh configuration by which the nodes are reached through their proxies."""
    hosts = directory / "known_hosts"
    config, known = nodes.ssh_config.read_text(), nodes.known_hosts.read_text()
    for node, proxy in zip(nodes.nodes, proxies, strict=True):
        config = config.replace(f"Port {node.port}\n", f"Port {proxy.port}\n")
        known = known.replace(f"[{node.address}]:{node.port} ", f"[{node.address}]:{proxy.port} ")
    hosts.write_text(known)
    path = directory / "ssh_config"
    path.write_text(config.replace(str(nodes.known_hosts), str(hosts)))
    path.chmod(0o600)


def _is_attempt(process: Process, proc_id: int, number: int) -> bool:
    return (
        _mark(process).endswith(f"/{proc_id}/{number}") and os.getpgid(process.pid) == process.pid
    )


def _mark(process: Process) -> str:
    """The mark that Allot gives to a task's processes, empty without one."""
    with suppress(OSError):
        for entry in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"ALLOT_TASK="):
                return entry.decode(errors="replace")
    return ""


def _told(result: Path) -> tuple[str, Sequence[Outcome]]:
    """The job and its tasks as a client told of them at the end; nothing where none did."""
    if not result.exists():
        return "", ()
    told = json.loads(result.read_text())
    return told["job_id"], [_outcome(task) for task in told["tasks"]]


def _outcome(task: dict[str, Any]) -> Outcome:
    file = task["output_file"]
    output: bytes | None = None
    earlier: dict[int, bytes] = {}
    if file is not None:
        with suppress(FileNotFoundError):
            output = Path(file).read_bytes()
        for attempt in range(task["attempt"]):
            with suppress(FileNotFoundError):
                earlier[attempt] = Path(f"{file}.{attempt}").read_bytes()
    progress = task["progress"]
    return Outcome(
        proc_id=task["proc_id"],
        state=task["state"],
        node=task["node"],
        attempt=task["attempt"],
        exit_code=task["exit_code"],
        progress=None if progress is None else (progress[0], progress[1]),
        reason=task["reason"],
        output=output,
        earlier=earlier,
    )
