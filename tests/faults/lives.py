"""The clients of a run: started, killed at their moments, and what they died of by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import allot
from faults.client import Setup, state_file
from faults.plan import Life, Moment, Plan

_MOST_TROUBLES = 3
_TESTS = Path(__file__).resolve().parent.parent


class Clients:
    """The clients of a run, one after another.

    Attributes:
        number: How many were started.
        killed: How many of them were killed.
        troubles: What the others died of, where they did.
    """

    def __init__(
        self, plan: Plan, directory: Path, setup: Setup, note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._lives = list(plan.lives)
        self._ntasks = plan.ntasks
        self._pause = 0.0
        self._directory = directory
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._life: Life | None = None
        self._dies_at: float | None = None
        self._beside: set[str] = set()
        self._starts_at = time.monotonic()
        self.number = 0
        self.killed = 0
        self.troubles: list[str] = []

    @property
    def has_ended(self) -> bool:
        """Whether the job's end was told, or the clients are in too much trouble."""
        is_gone = self._process is None
        return is_gone and (
            Path(self._setup.result).exists() or len(self.troubles) >= _MOST_TROUBLES
        )

    def look(self) -> None:
        """Start, kill or bury a client, when its time has come."""
        now = time.monotonic()
        if self.has_ended:
            return
        if self._process is None:
            if now >= self._starts_at:
                self._start()
        elif self._process.poll() is not None:
            self._bury(self._process.returncode)
        elif self._life is not None and self._has_come(self._life.moment):
            self._dies_at = now + self._life.seconds
            self._life = None
        elif self._dies_at is not None and now >= self._dies_at:
            self.kill()

    def kill(self) -> None:
        """Kill the client, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(timeout=10)
        if self._process.returncode != -signal.SIGKILL:
            self._bury(self._process.returncode)
            return
        self._process = None
        self._starts_at = time.monotonic() + self._pause
        self.killed += 1
        self._note(f"client {self.number} was killed")

    def _start(self) -> None:
        self.number += 1
        log = self._directory / f"client-{self.number}.log"
        self._process = start_client(self._directory, "setup.json", log)
        self._note(f"client {self.number} starts as {self._process.pid}")
        self._life = self._lives.pop(0) if self._lives else None
        self._dies_at = None
        self._pause = 0.5 if self._life is None else self._life.pause
        self._beside = self._files_beside()

    def _has_come(self, moment: Moment) -> bool:
        if moment is Moment.CLAIM:
            return bool(self._files_beside() - self._beside)
        if moment is Moment.TAIL:
            return len(os.listdir(self._setup.journal)) == self._ntasks
        return True

    def _files_beside(self) -> set[str]:
        """The names of the files that Allot keeps for the job."""
        directory = state_file(Path(self._setup.output_dir)).parent
        return set(os.listdir(directory)) if directory.exists() else set()

    def _bury(self, code: int) -> None:
        """A client ended by itself; before there is a state, for want of nodes it may."""
        self._process = None
        self._starts_at = time.monotonic() + self._pause
        self._note(f"client {self.number} ended with {code}")
        said = (self._directory / f"client-{self.number}.log").read_text(errors="replace")
        has_state = state_file(Path(self._setup.output_dir)).exists()
        if code == 0 and Path(self._setup.result).exists():
            return
        if "NotEnoughNodesError" in said and not has_state:
            return
        end = " | ".join(said.strip().splitlines()[-4:])
        self.troubles.append(f"client {self.number} ended with {code}: {end}")


def start_client(directory: Path, setup: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a client.

    Args:
        directory: Where it starts.
        setup: The name of its setup there.
        log: Where its words go.
    """
    path = [str(_TESTS), str(Path(allot.__file__).resolve().parent.parent)]
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "faults.client", str(directory / setup)],
            cwd=directory,
            env={
                **os.environ,
                "HOME": str(directory / "home"),
                "PYTHONPATH": os.pathsep.join(path),
                "PYTHONFAULTHANDLER": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
