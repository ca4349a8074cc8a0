"""``allot run`` on a terminal that is left, over a job that is there, and its rarer options."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from program import GATE, S, allot, assert_refused, called, environment, run_words
from sandbox import session, wait_until
from sshd import SshdNodes

ENTRY = "import sys\nfrom allot.cli import main\nsys.exit(main())\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The directory that the command is called from."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._ours = ours
        self.shown = b""

    def read_until(self, text: bytes) -> None:
        """Read what is shown until ``text`` is; the test's own time limit is the bound."""
        while text not in self.shown:
            self.shown += os.read(self._ours, 65536)

    def read_on(self) -> None:
        """Read to the end."""
        try:
            while data := os.read(self._ours, 65536):
                self.shown += data
        except OSError:  # the terminal's other end is closed
            self.process.wait(S)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)


@contextmanager
def on_terminal(words: list[str], cwd: Path) -> Iterator[Terminal]:
    """The command as it is installed, with the terminal's keys at hand."""
    entry = cwd.parent / "bin/allot"
    entry.parent.mkdir(exist_ok=True)
    entry.write_text(ENTRY)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, str(entry), *words],
        cwd=cwd,
        env=environment(TERM="xterm", COLUMNS="80", LINES="24"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)


def counts(out: Path) -> dict[str, int]:
    done = called("status", out, "--offline", "--json")
    assert done.returncode == 0, done.stderr
    return {state: n for state, n in json.loads(done.stdout)["counts"].items() if n}


@pytest.mark.parametrize("answer", [b"y\n", b"N\n"])
def test_ctrl_c_offers_a_client_in_the_background(
    five_nodes: SshdNodes, tmp_path: Path, here: Path, answer: bytes
) -> None:
    """With ``y`` the queue goes on without the terminal; else it waits for whoever comes back."""
    out = tmp_path / "out"
    (here / "random.py").write_text("raise SystemExit('it was taken for that of Python')\n")
    words = run_words(five_nodes, out, "-N", "1", "--ntasks-per-node", "1", "-n", "3")
    with on_terminal([*words, "--", f"touch began; {GATE}"], here) as terminal:
        wait_until((here / "began").exists, S, "no task began")
        terminal.read_until(b"RUNNING")
        terminal.type(b"\x03")
        terminal.read_until(b"start the 2 tasks that wait from a client in the background? [y/N] ")
        terminal.type(answer)
        terminal.read_on()
    said = terminal.shown.decode()
    assert terminal.process.returncode == 130
    assert "detached; 1 tasks of job allot go on, 2 wait" in said
    assert "Traceback" not in said
    found = re.search(r"goes on under process (\d+)", said)
    (here / "go").touch()
    if answer == b"y\n":
        assert found is not None
        log = out / ".allot/allot.log"
        pid = int(found[1])
        wait_until(
            lambda: pid not in {process.pid for process in session().processes()},
            2 * S,
            log.read_text,
        )
        assert "3 of 3 tasks completed" in log.read_text()
        assert counts(out) == {"COMPLETED": 3}
    else:
        assert found is None
        assert counts(out)["PENDING"] == 2
        done = called("cancel", out)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_job_that_is_not_over_is_refused_or_overwritten(
    five_nodes: SshdNodes, tmp_path: Path, here: Path
) -> None:
    """What can be done is said; with ``--overwrite`` the old tasks end before new ones start."""
    out = tmp_path / "out"
    words = run_words(five_nodes, out, "-N", "1", "--ntasks-per-node", "1", "-n", "2")
    line = f"trap 'echo ended >>log; exit 1' TERM; touch began; {GATE}"
    assert allot(*words, "--detach", "--", line, cwd=here).returncode == 0
    wait_until((here / "began").exists, S, "no task began")
    done = called(*words, "--", "echo new >>log", cwd=here)
    assert_refused(done, "is not over: 1 tasks run, 1 wait")
    assert f"allot attach '{out}' goes on with it, --overwrite cancels it first" in done.stderr
    done = allot(*words, "--overwrite", "--", "echo new >>log", cwd=here)
    assert done.returncode == 0, done.stderr
    assert (here / "log").read_text() == "ended\nnew\nnew\n"
    (moved,) = (path for path in (out / ".allot").iterdir() if path.is_dir())
    assert counts(moved / "allot.json") == {"CANCELLED": 2}


def test_no_client_can_be_started_in_the_background(
    five_nodes: SshdNodes, tmp_path: Path, here: Path
) -> None:
    """One line says why, that what runs goes on, and how the rest is started."""
    out = tmp_path / "out"
    (out / ".allot/allot.log").mkdir(parents=True)
    words = run_words(five_nodes, out, "-N", "1", "--ntasks-per-node", "1", "-n", "2", "--detach")
    done = allot(*words, "--", "true", cwd=here)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("allot: no client can be started in the background: ")
    assert f"{out}/.allot/allot.log: Is a directory" in said
    assert said.endswith(f"what waits starts with: allot attach {out} --job-name allot")
    assert called("attach", out, "--job-name", "allot").returncode == 0


def test_progress_as_a_program_tells_it_and_the_profile(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """``--progress-pattern`` reads what tasks print; ``--login-shell`` reads the profile first."""
    profile = five_nodes.home / ".bash_profile"
    before = profile.read_text() if profile.exists() else None
    profile.write_text("FROM_PROFILE=it\n")
    try:
        pattern = r"epoch (?P<step>\d+) of (?P<total>\d+)"
        words = run_words(five_nodes, tmp_path, "-n", "1", "--progress-pattern", pattern)
        line = "echo epoch 3 of 4; echo profile $FROM_PROFILE"
        done = allot(*words, "--login-shell", "--", line)
        assert done.returncode == 0, done.stderr
    finally:
        profile.unlink() if before is None else profile.write_text(before)
    assert "profile it\n" in (tmp_path / "0.out").read_text()
    shown = json.loads(called("status", tmp_path, "--offline", "--json").stdout)
    assert shown["tasks"][0]["progress"] == [3, 4]
