"""The command line, as a user calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from program import allot, assert_refused, called, environment
from sandbox import wait_until

from allot import ConfigError, NotEnoughNodesError, cli, clirun


def test_demo_runs_the_example_job() -> None:
    """Every task completes; the summary and the place of the outputs come last."""
    done = allot("demo", "--nnodes", "2", "--ntasks-per-node", "2", "--steps", "2")
    assert (done.returncode, done.stderr) == (0, "")
    *_, summary, place = done.stdout.splitlines()
    assert summary.startswith("4 of 4 tasks completed in ")
    output_dir = Path(place.removeprefix("outputs: "))
    try:
        outputs = sorted(path.name for path in output_dir.glob("*.out"))
        assert outputs == ["loop01-0.out", "loop01-1.out", "loop02-2.out", "loop02-3.out"]
        text = (output_dir / outputs[0]).read_text()
        assert text.startswith("this is task 0 on loop01\n")
        assert text.endswith("\x022/2\x03\nfinished\n")
    finally:
        subprocess.run(["rm", "-r", output_dir], check=True)


def test_demo_shows_a_bar_a_task_on_a_terminal(tmp_path: Path) -> None:
    """In a real terminal there is a row a task, and the job's own below."""
    tmux = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    command = f"{sys.executable} -m allot demo --nnodes 3 --steps 5; echo ended with $?; exec cat"

    def screen() -> str:
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True
        )
        return shown.stdout

    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "80", "-y", "24", command],
        check=True,
        env=environment(LC_ALL="C.UTF-8"),
    )
    try:
        wait_until(lambda: bool(re.search(r"5 loop03 +[24]0%\|█+", screen())), 60, screen)
        rows = [line for line in screen().splitlines() if re.match(r" *\d loop0\d ", line)]
        assert len(rows) == 6
        wait_until(lambda: "ended with 0" in screen(), 60, screen)
        assert len(re.findall(r"loop0\d 100%\|.*COMPLETED", screen())) == 6
        place = re.search(r"outputs: (\S+)", screen())
        assert place is not None
        subprocess.run(["rm", "-r", place[1]], check=True)
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["demo", "--nnodes", "0"], "--nnodes"),
        (["demo", "--steps", "many"], "many"),
    ],
)
def test_wrong_usage_is_one_clear_error(words: list[str], about: str) -> None:
    """Exit code 2, and one line on stderr that names what is wrong."""
    assert_refused(called(*words), about)


def test_wrong_usage_is_not_the_programs_fault() -> None:
    """The program itself ends with that code and that line, and no traceback."""
    assert_refused(allot("demo", "--nnodes", "0"), "--nnodes")


@pytest.mark.parametrize(
    "command",
    ["run", "probe", "demo", "status", "attach", "cancel", "rerun", "logs", "node", "report"],
)
def test_help_shows_an_example(command: str) -> None:
    """``--help`` of every command."""
    done = called(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: allot {command} " in done.stdout
    every = called("--help").stdout
    assert command in every
    assert "allot demo" in every


def test_version() -> None:
    """``--version`` names the program and its version."""
    assert re.fullmatch(r"allot \d+\.\d+\.\d+\n", allot("--version").stdout)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no such thing"), 2),
        (NotEnoughNodesError("too few", []), 3),
        (OSError("disk full"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    """Each kind of error has an exit code of its own, and one line on stderr."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(clirun, "LoopbackNodes", fail)
    assert cli.main(["demo"]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if code == 130 else 1)


@pytest.mark.parametrize(
    ("line", "expected"), [("allot re", {"rerun", "report"}), ("allot run --param", {"--param"})]
)
def test_a_shell_completes_commands_and_options(
    tmp_path: Path, line: str, expected: set[str]
) -> None:
    """As argcomplete's Bash function asks for it."""
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run(
        [sys.executable, "-m", "allot"],
        env=environment(**asked, _ARGCOMPLETE_IFS="\n", _ARGCOMPLETE_STDOUT_FILENAME=str(answer)),
        timeout=60,
        check=True,
    )
    assert {word.strip() for word in answer.read_text().split("\n")} == expected
