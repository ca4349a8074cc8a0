"""A user as examples and README.md think of one: nodes in ``~/.ssh/config``, and a directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from program import ROOT, running
from sshd import SshdNodes

README = (ROOT / "README.md").read_text()

# What a test cannot have: a machine that is not busy, and two minutes.
QUIET_AND_HASTY = """
import time
from allot.probe import NodeProbe
real = time.sleep
time.sleep = lambda s: real(min(s, 0.2))
init = NodeProbe.__init__
init.__defaults__ = (None, *init.__defaults__[1:])  # max_load_per_cpu
"""


class User:
    """Runs programs that find Allot, and the nodes by their names.

    Attributes:
        directory: Where the programs are run.
        home: The user's home.
        nodes: The names of the nodes.
        variables: The environment of the programs.
    """

    def __init__(self, nodes: SshdNodes, directory: Path, *, prefix: str = "nd") -> None:
        """Set up home and directory.

        Args:
            nodes: What the user can log in to.
            directory: An empty directory for all of it.
            prefix: How the names of the nodes begin for this user.
        """
        self.home, self.directory = directory / "home", directory / "here"
        (self.home / ".ssh").mkdir(parents=True)
        self.directory.mkdir()
        config = nodes.ssh_config.read_text().replace("Host nd", f"Host {prefix}")
        (self.home / ".ssh/config").write_text(config)
        self.nodes = [name.replace("nd", prefix) for name in nodes.names]
        site = directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(QUIET_AND_HASTY)
        self.variables = {"HOME": str(self.home), "PYTHONPATH": f"{site}:{ROOT}"}

    def write_hosts(self, name: str, words: str = "") -> Path:
        """Write a host file with all nodes, ``words`` behind each."""
        path = self.directory / name
        path.write_text("".join(f"{node} {words}\n" for node in self.nodes))
        return path

    def run(self, *words: str | Path) -> list[str]:
        """Run a Python program that succeeds; the lines of its output."""
        with self.started(*words) as process:
            said, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        return said.splitlines()

    @contextmanager
    def started(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A Python program while it runs."""
        variables = {**os.environ, **self.variables}
        with running([sys.executable, *words], variables, self.directory) as process:
            yield process
