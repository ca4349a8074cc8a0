"""Clients as programs of their own, which can be killed, stopped and woken up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from program import environment, running
from sshd import SshdNodes

# Heartbeats as quick as tests want them, and a program's beginning that has them.
QUICK_LEASE = {"LEASE_S": 1.5, "_BEAT_S": 0.2, "_SUCCEED_S": 2.5}
WITH_QUICK_LEASE = f"import allot.lease\nvars(allot.lease).update({QUICK_LEASE})"

_PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from allot import Cluster, NodeProbe, Task

def factory(ntc):
    return COMMAND.replace("{proc_id}", str(ntc.proc_id))

def begin(**options):
    given = dict(node_file=NODE_FILE, ssh_config=SSH_CONFIG, oversubscribe=True,
                 probe=NodeProbe(max_load_per_cpu=None))
    return Cluster("job", OUT, factory, **(given | options))

def load(*arguments):
    return Cluster.load(OUT, *arguments)

def say(word):
    print(word, flush=True)
"""


class Client:
    """A program that makes or loads a job.

    Attributes:
        process: The program.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self, word: str) -> None:
        """Wait for a line that it prints; the test's own time limit is the bound."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"it ended without {word!r}: {self.errors()}")

    def errors(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill(self) -> None:
        """As the power going off: nothing of its own is done any more."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """As a laptop whose lid is closed."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """As one that is opened again."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def client(
    nodes: SshdNodes, out: Path, command: str, script: str, *, before: Sequence[str] = ()
) -> Iterator[Client]:
    """Run a program with ``begin``, ``load``, ``factory`` and ``say`` at hand.

    Args:
        nodes: Where tasks run.
        out: The output directory.
        command: What each task runs; ``{proc_id}`` is its number.
        script: What the program does.
        before: Pieces of a program that come first.
    """
    names = {
        "COMMAND": command,
        "OUT": str(out),
        "NODE_FILE": str(nodes.node_file),
        "SSH_CONFIG": str(nodes.ssh_config),
    }
    constants = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    text = "\n".join([*before, _PROGRAM, constants, script])
    with running([sys.executable, "-c", text], environment()) as process:
        yield Client(process)
