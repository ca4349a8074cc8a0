"""A node without SSH: a Bash kept open on this machine, framed as ``node`` frames it."""

from __future__ import annotations

import itertools
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sandbox import MARK, Process, descendants, process_table, wait_until

from allot import script
from allot.events import Ended, Event, Started, parse_events
from allot.script import Launch
from allot.shell import KeptShell

# Of this run of the tests alone: a task is known by its job, and others may run beside it.
JOB_ID = f"job-{os.getpid()}"
JOB_DIRECTORY = f".allot/{JOB_ID}/nd01"
PATIENCE_S = 60.0


def launch_script(*launches: Launch) -> str:
    """What the first client sends to start tasks, early enough."""
    return script.launch_script(launches, generation=1, until=1 << 50)


class LocalChannel:
    """A process on this machine in the place of an SSH channel."""

    exit_status = -1

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.sent = bytearray()
        self.status_event = threading.Event()
        self.status_event.set()
        self._home = home
        self._environment = environment
        self._timeout = 0.0

    def exec_command(self, command: str) -> None:
        # As sshd does: a session of its own, signals at their defaults, little environment.
        self.stderr = self._home / f"stderr-{id(self)}"
        plain = {name: os.environ[name] for name in ("PATH", MARK)}
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                ["env", "--default-signal=INT,QUIT,PIPE", "bash", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self._home,
                env={**plain, "HOME": str(self._home), **self._environment},
                start_new_session=True,
                bufsize=0,
            )

    def sendall(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.sent += data
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def settimeout(self, timeout: float) -> None:
        self._timeout = timeout

    def recv(self, size: int) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self._timeout)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), size)

    def recv_stderr_ready(self) -> bool:
        return False

    def exit_status_ready(self) -> bool:
        return False

    def recv_ready(self) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.stdout.close()


class LocalNode:
    """A Bash kept open as on a node, with the node's own framing, and its home in a directory."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.outputs = home / "out"
        self._numbers = itertools.count(1000)
        self.channel = LocalChannel(home, environment or {})
        self.shell = KeptShell(cast(Any, self.channel))
        self.shell.start(time.monotonic() + PATIENCE_S)

    def request(self, text: str) -> bytes:
        return self.shell.request(text, time.monotonic() + PATIENCE_S)

    def prepare(self, variables: Mapping[str, str] | None = None, **options: Any) -> None:
        options = {"generation": 1, **options}
        reply = self.request(script.prelude(JOB_DIRECTORY, variables or {}, **options))
        assert re.fullmatch(
            rb"ready (old|new) \d+ " + re.escape(os.fsencode(self.directory)) + b"\n", reply
        )

    @property
    def directory(self) -> Path:
        return self.home / JOB_DIRECTORY

    def launch(self, *cmds: str, **changes: Any) -> Launch:
        proc_id = changes.get("proc_id", 0)
        plain = Launch(
            proc_id=proc_id,
            attempt=0,
            local_id=0,
            output_file=self.outputs / f"{proc_id}.out",
            error_file=None,
            cwd=None,
            env={},
            script=script.task_script(cmds),
        )
        return replace(plain, **changes)

    def start(self, *launches: Launch) -> None:
        assert self.request(launch_script(*launches)) == b""

    def wait(self) -> None:
        """Until every recorder has ended; a Bash without job control waits for all of them."""
        assert self.request("__allot_let_go; wait") == b""

    def run(self, *launches: Launch) -> dict[int, Event]:
        """Launch, wait, and tell how each task ended, by ``proc_id``."""
        self.start(*launches)
        self.wait()
        return {e.proc_id: e for e in self.events() if not isinstance(e, Started)}

    def finish(self, *launches: Launch) -> dict[int, int]:
        """Launch, wait for the ends, and tell who recorded each; recorders stay for the next."""
        self.start(*launches)
        keys = {(launch.proc_id, launch.attempt) for launch in launches}

        def ends() -> set[tuple[int, int]]:
            own = [event for event in self.events() if not isinstance(event, Started)]
            return {(event.proc_id, event.attempt) for event in own}

        wait_until(lambda: keys <= ends(), PATIENCE_S, "a task did not end")
        starts = [event for event in self.events() if isinstance(event, Started)]
        return {e.proc_id: e.pid for e in starts if (e.proc_id, e.attempt) in keys}

    def second_task(self, launch: Launch) -> int:
        """Have a recorder that has ended other tasks run one; the recorder."""
        seen: set[int] = set()
        while True:
            (recorder,) = self.finish(self.launch("true", proc_id=next(self._numbers))).values()
            if recorder in seen:
                break
            seen.add(recorder)
        while True:  # it may not wait yet
            again = replace(launch, attempt=next(self._numbers))
            if (recorder := self.finish(again)[launch.proc_id]) in seen:
                return recorder
            seen.add(recorder)

    def run_one(self, *cmds: str, **changes: Any) -> tuple[int, str]:
        """One task's exit code and output."""
        launch = self.launch(*cmds, **changes)
        end = self.run(launch)[launch.proc_id]
        assert isinstance(end, Ended)
        return end.exit_code, launch.output_file.read_text()

    def events(self) -> list[Event]:
        """What was written down, and nothing else was."""
        data = (self.directory / "events").read_bytes()
        events, taken = parse_events(data)
        assert taken == len(data)
        assert len(events) == data.count(b"\n")
        return events

    def events_among_rubbish(self) -> list[Event]:
        """What was written down, where a test has spoilt some of it."""
        return parse_events((self.directory / "events").read_bytes())[0]

    def started(self) -> Started:
        wait_until(lambda: bool(self.events()), PATIENCE_S, "no start was written down")
        event = self.events()[0]
        assert isinstance(event, Started)
        return event

    def below(self, pid: int) -> set[Process]:
        table = process_table()
        return {p for p in descendants(table, [pid]) if p.pid != pid}


@contextmanager
def local_nodes(directory: Path) -> Iterator[Callable[..., LocalNode]]:
    """Makes nodes with one home; none of their Bashes may have complained."""
    nodes: list[LocalNode] = []

    def make(**environment: str) -> LocalNode:
        nodes.append(LocalNode(directory / "home", environment))
        return nodes[-1]

    yield make
    for node in nodes:
        node.channel.hang_up()
    said = [line for node in nodes for line in node.channel.stderr.read_text().splitlines()]
    # Of a recorder that a test killed Bash tells by itself.
    assert [line for line in said if not re.search(r" \d+ Killed +\( trap ", line)] == []
