"""Terminals as a user sits before them (tmux, with a shell), and bare ones to be read from."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path

from sandbox import wait_until

ROOT = Path(__file__).resolve().parent.parent


class Terminal:
    """One terminal; close it at the end."""

    def __init__(self, directory: Path, size: str, name: str = "tmux", **environment: str) -> None:
        """Open it.

        Args:
            directory: Where the shell is, and the socket of this terminal's own tmux.
            size: Columns and lines, as in ``80x24``.
            name: The socket's name.
            environment: Further variables of the shell.
        """
        self.directory = directory
        self._socket = name
        columns, lines = size.split("x")
        variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "LANG": "C.UTF-8", "PS1": "$ "}
        pairs = [f"{key}={value}" for key, value in {**variables, **environment}.items()]
        shell = shlex.join(["env", "-u", "NO_COLOR", *pairs, "bash", "--norc", "--noprofile"])
        self.run("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", lines, shell)
        self.run("set", "-g", "status", "off")
        self.run("set", "-g", "window-size", "manual")
        self.resize(size)
        self.wait_for(lambda: self.screen()[0].startswith("$"))

    def close(self) -> None:
        """End the shell and what runs in it."""
        command = ["tmux", "-S", self._socket, "kill-server"]
        subprocess.run(command, cwd=self.directory, timeout=20, check=False, capture_output=True)

    def run(self, *arguments: str) -> str:
        """Have tmux do something; what it says."""
        command = ["tmux", "-S", self._socket, *arguments]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def enter(self, line: str) -> None:
        """Type a line on an empty screen."""
        self.run("send-keys", f"clear; {line}", "Enter")

    def allot(self, *words: str | Path, behind: str = "") -> None:
        """Call the command; ``behind`` is what comes after it on the line."""
        line = shlex.join([sys.executable, "-m", "allot", *map(str, words)])
        script = self.directory / f"{self._socket}.sh"
        script.write_text(f"{line} {behind}\n")
        self.enter(f". {shlex.quote(os.fspath(script))}")

    def resize(self, size: str) -> None:
        columns, lines = size.split("x")
        self.run("resize-window", "-x", columns, "-y", lines)

    def screen(self, *options: str) -> list[str]:
        """What it shows; with ``"-S", "-"`` also what went out of it at the top."""
        return self.run("capture-pane", "-p", *options).split("\n")[:-1]

    def block(self) -> list[str]:
        """The lines below the cursor's."""
        cursor = int(self.run("display-message", "-p", "#{cursor_y}"))
        return [line for line in self.screen()[cursor + 1 :] if line]

    def has_cursor(self) -> bool:
        """Whether the cursor is to be seen."""
        return self.run("display-message", "-p", "#{cursor_flag}") == "1\n"

    def has_prompt(self) -> bool:
        """Whether the shell waits for the next line, on a line of its own."""
        return [line for line in self.screen() if line][-1:] == ["$"]

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.screen("-S", "-"))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, 60, lambda: "on the screen:\n" + "\n".join(self.screen()))


class PseudoTerminal:
    """A terminal that Allot writes to in this process, seen from its other end."""

    # ENQ: nothing of Allot's writes it.
    _END = b"\x05"

    def __init__(self) -> None:
        self._other, own = pty.openpty()
        tty.setraw(own)
        self.stream = os.fdopen(own, "w", encoding="utf-8")

    def read(self) -> str:
        """All that was written since the last look, as it was written.

        The kernel hands it on bit by bit and in a while, so a mark is written behind it and
        read up to. What the terminal cannot hold (4 kB) must be read while it is written.
        """
        os.write(self.stream.fileno(), self._END)
        read = b""
        while not read.endswith(self._END):
            assert select.select([self._other], [], [], 10)[0], f"no end behind {read!r}"
            read += os.read(self._other, 65536)
        return read.removesuffix(self._END).decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._other)
