"""The command ``allot`` as the tests call it: as a program of its own, or in this process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from sshd import SshdNodes

from allot import cli

ROOT = Path(__file__).resolve().parent.parent

S = 60.0
"""Seconds that anything may take on a busy machine."""

PROGRAM = [sys.executable, "-m", "allot"]
GATE = "until [ -e go ]; do sleep 0.05; done"


def environment(**variables: str) -> dict[str, str]:
    """This process's variables and more, and where the program is found."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def allot(
    *words: str | Path, cwd: Path | None = None, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program and wait for its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        cwd=cwd,
        env=env or environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * S,
        check=False,
    )


def called(
    *words: str | Path, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The same in this process: to start the program takes longer than most of what it does.

    It is for what needs no process of its own: no signals, no terminal, no other environment.
    An exception that would be a traceback of the program goes through.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    given = [*map(str, words)]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        try:
            code = cli.main(given)
        except SystemExit as ended:
            code = int(ended.code or 0)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(given, code, *said)


@contextlib.contextmanager
def started(*words: str | Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """The program while it runs."""
    with running([*PROGRAM, *map(str, words)], environment(), cwd) as process:
        yield process


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], variables: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Any program while it runs."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run_words(nodes: SshdNodes, out: Path, *words: str | Path) -> list[str]:
    """``allot run`` on test nodes, which may be as busy as they like."""
    given = ["--node-file", nodes.node_file, "--ssh-config", nodes.ssh_config, "--output-dir", out]
    return ["run", *map(str, given), "--max-load", "none", "--oversubscribe", *map(str, words)]


def assert_refused(done: subprocess.CompletedProcess[str], about: str = "") -> None:
    """Exit code 2 and one line on stderr, which names what is wrong."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("allot")
    assert about in done.stderr
