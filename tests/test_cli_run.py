"""``allot run`` and ``allot probe`` as a user calls them, on real nodes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NodesFactory
from program import GATE, PROGRAM, S, allot, assert_refused, called, environment, run_words, started
from sandbox import wait_until
from servers import free_port
from sshd import SshdNodes


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The directory that the command is called from."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


def test_lines_arrive_as_the_text_they_are(
    five_nodes: SshdNodes, tmp_path: Path, here: Path
) -> None:
    """A task a line, in the directory one stands in, and nothing of a line is run."""
    lines = ["$(touch pwned)'\"`touch pwned`", "  spaces  around ", "a;b & touch pwned", "é\\n\\"]
    file = tmp_path / "args"
    file.write_text("\n".join(lines) + "\n\n")
    words = run_words(five_nodes, tmp_path / "out", "--args-file", file)
    done = allot(*words, "--", "printf %s {line} >got.$ALLOT_PROCID; printf %s {line}", cwd=here)
    assert done.returncode == 0, done.stderr
    assert [(here / f"got.{n}").read_text() for n in range(4)] == lines
    assert [(tmp_path / f"out/{n}.out").read_text() for n in range(4)] == lines
    assert {path.name for path in here.iterdir()} == {f"got.{n}" for n in range(4)}
    assert f"allot: tasks start in {here}\n" in done.stderr
    *_, summary, place = done.stdout.splitlines()
    assert summary.startswith("4 of 4 tasks completed in ")
    assert place == f"outputs: {tmp_path / 'out'}"


def test_several_words_are_a_program_and_its_arguments(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """Each arrives as one argument, unexpanded; lines come from stdin too."""
    words = run_words(five_nodes, tmp_path, "--args-file", "-", "--", "printf", "%s|")
    done = allot(*words, "a b", "$HOME", "{line}", "--{x}", "", stdin="x y\n$(id)\n")
    assert done.returncode == 0, done.stderr
    outputs = [(tmp_path / f"{n}.out").read_text() for n in range(2)]
    assert outputs == ["a b|$HOME|x y|--{x}||", "a b|$HOME|$(id)|--{x}||"]


def test_rows_of_csv_and_combinations(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A row is filled in by its header; braces of other programs and of Bash stay."""
    file = tmp_path / "rows.csv"
    file.write_text('name,size\n"a, b",1\n"say ""x""",2\n')
    words = run_words(five_nodes, tmp_path / "out", "--args-file", file, "--csv")
    line = "X=1; echo {name} {size} {seed} ${X} $ALLOT_PARAM_SEED | awk '{print $0}'"
    done = allot(*words, "--param", "seed=0-1", "--", line)
    assert done.returncode == 0, done.stderr
    outputs = [(tmp_path / f"out/{n}.out").read_text() for n in range(4)]
    assert outputs == [
        "a, b 1 0 1 0\n",
        "a, b 1 1 1 1\n",
        'say "x" 2 0 1 0\n',
        'say "x" 2 1 1 1\n',
    ]


def test_a_dry_run_shows_the_lines_and_makes_nothing(tmp_path: Path) -> None:
    """Lists, ranges, padded ranges, and all combinations; no directory, no connection."""
    out = tmp_path / "out"
    words: list[str | Path] = ["run", "--output-dir", out, "--dry-run", "--param", "lr=0.1,a b"]
    done = called(
        *words, "--param", "seed=0-2", "--param", "n=09-10", "--", "t {lr} {seed} {n} {x}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"t {lr} {seed} {n} {{x}}"
        for lr in ("0.1", "'a b'")
        for seed in range(3)
        for n in ("09", "10")
    ]
    assert not out.exists()
    assert called(
        "run", "--output-dir", out, "--dry-run", "-n", "2", "--", "t {proc_id}"
    ).stdout == ("t 0\nt 1\n")
    done = called("run", "--output-dir", out, "--dry-run", "--", "t {proc_id}")
    assert (done.returncode, done.stdout) == (0, "t {proc_id}\n")
    assert "slots" in done.stderr


def test_a_dry_run_into_a_pipe_that_is_closed(tmp_path: Path) -> None:
    """``| head -1`` ends it without a word; bytes that are no UTF-8 go through."""
    file = tmp_path / "args"
    file.write_bytes(b"\xff\n" + b"line\n" * 50_000)
    command = f"{sys.executable} -m allot run --output-dir out --dry-run --args-file {file}"
    done = subprocess.run(
        ["bash", "-c", f"{command} -- echo {{line}} | head -1"],
        env=environment(PYTHONIOENCODING="utf-8:strict"),
        capture_output=True,
        timeout=S,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"echo '\xff'\n", b"")


def test_the_surroundings_of_a_task(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Variables, setup lines and a directory; without one of its own nothing is said of it."""
    words = run_words(five_nodes, tmp_path, "-n", "1", "--env", "A=x  y=", "--export", "EXPORTED")
    words += ["--setup", "B=first", "--setup", "B=$B-second", "--cwd", "/usr"]
    line = 'echo "$A|$B|$PWD|$EXPORTED|$0"'
    done = allot(*words, "-J", "my job", "--", line, env=environment(EXPORTED="e"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "0.out").read_text().startswith("x  y=|first-second|/usr|e|")
    assert (tmp_path / ".allot/my job.json").exists()


def test_what_fails_and_what_takes_too_long(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Exit code 1; stderr tells states, exit codes, ends of outputs and how to run them again."""
    line = "if [ {k} = slow ]; then sleep 600; fi; echo last words of {k}; exit 3"
    words = run_words(five_nodes, tmp_path, "--param", "k=slow,bad", "--time-limit", "1")
    done = allot(*words, "--", line)
    assert done.returncode == 1
    assert "allot: 2 of 2 tasks did not complete:" in done.stderr
    assert "TIMEOUT" in done.stderr
    assert "FAILED (exit code 3)" in done.stderr
    assert "| last words of bad" in done.stderr
    assert f"allot rerun {tmp_path}" in done.stderr
    assert "0 of 2 tasks completed" in done.stdout
    assert "Traceback" not in done.stderr


def test_where_files_are_not_shared(sshd_nodes: NodesFactory, tmp_path: Path, here: Path) -> None:
    """Tasks start in the login directory, and that is said."""
    out = tmp_path / "out"
    out.mkdir()
    nodes = sshd_nodes(1, private=[out])
    done = allot(*run_words(nodes, out, "-n", "1", "--", "pwd"), cwd=here)
    assert done.returncode == 0, done.stderr
    assert "allot: tasks start in the login directory\n" in done.stderr
    assert (out / "0.out").read_text() == f"{nodes.home}\n"


def test_a_name_used_twice_and_a_job_resumed(
    five_nodes: SshdNodes, tmp_path: Path, here: Path
) -> None:
    """The earlier job is moved away; with ``--resume`` what completed there is kept."""
    words = run_words(five_nodes, tmp_path / "out", "--param", "k=a,b")
    line = "echo {k} >>log; [ {k} = a ] || [ -e go ]"
    assert called(*words, "--", line, cwd=here).returncode == 1
    (here / "go").touch()
    done = called(*words, "--resume", "--", line, cwd=here)
    assert done.returncode == 0, done.stderr
    assert sorted((here / "log").read_text().split()) == ["a", "b", "b"]
    done = called(*words, "--", line, cwd=here)
    assert done.returncode == 0, done.stderr
    assert sorted((here / "log").read_text().split()) == ["a", "a", "b", "b", "b"]
    moved = [path for path in (tmp_path / "out/.allot").iterdir() if path.is_dir()]
    assert len(moved) == 2
    assert all((path / "1.out").exists() for path in moved)


def test_ctrl_c_leaves_the_tasks_alone(five_nodes: SshdNodes, tmp_path: Path, here: Path) -> None:
    """Exit code 130 and how to come back; the task goes on, and the queue at ``attach``."""
    out = tmp_path / "out"
    words = run_words(five_nodes, out, "-N", "1", "--ntasks-per-node", "1", "-n", "2")
    with started(*words, "--", f"touch began; {GATE}; echo done", cwd=here) as process:
        assert process.stderr is not None
        assert "tasks start in" in process.stderr.readline()
        wait_until((here / "began").exists, S, "no task began")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=S)
    assert process.returncode == 130
    assert "allot: detached; 1 tasks of job allot go on, 1 wait" in errors
    assert f"allot attach {out}" in errors
    assert "Traceback" not in errors
    (here / "go").touch()
    done = allot("attach", out)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 tasks completed" in done.stdout
    assert [(out / f"{n}.out").read_text() for n in range(2)] == ["done\n", "done\n"]


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_colour_on_a_terminal(five_nodes: SshdNodes, tmp_path: Path, no_colour: str) -> None:
    """A failure is red on a terminal, unless NO_COLOR is set."""
    ours, theirs = pty.openpty()
    words = run_words(five_nodes, tmp_path, "-n", "1", "--", "false")
    with subprocess.Popen(
        [*PROGRAM, *words],
        env=environment(TERM="xterm", NO_COLOR=no_colour, COLUMNS="80", LINES="24"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # the terminal's other end is closed
            pass
        finally:
            os.close(ours)
        process.communicate(timeout=S)
    assert process.returncode == 1
    assert b"FAILED" in shown
    assert (b"\x1b[31m" in shown) is not bool(no_colour)


def test_too_few_nodes(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Exit code 3, and why for each node."""
    here = f"127.0.0.9:{free_port('127.0.0.9')}"
    done = allot("run", "-w", here, "--output-dir", tmp_path, "--max-load", "none", "--", "true")
    assert done.returncode == 3
    assert "127.0.0.9: connection refused" in done.stderr
    words = run_words(five_nodes, tmp_path, "--min-free-memory", "900T", "-N", "2", "--", "true")
    done = called(*words)
    assert done.returncode == 3
    assert all(f"{name}: busy" in done.stderr for name in five_nodes.names)


def test_a_look_at_nodes(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """A line a node, for people and for programs; one that is away with the reason."""
    file = tmp_path / "hosts"
    away = f"127.0.0.9:{free_port('127.0.0.9')}"
    file.write_text(f"{five_nodes.names[0]}\n{away}\n{five_nodes.names[1]} slots=2\n")
    words: list[str | Path] = ["probe", file, "--ssh-config", five_nodes.ssh_config]
    done = allot(*words, "--max-load", "none")
    assert (done.returncode, done.stderr) == (0, "")
    header, first, second, third = done.stdout.splitlines()
    assert header.split() == ["NODE", "STATE", "CPUS", "LOAD", "FREE", "MEMORY", "GPUS", "REASON"]
    assert first.split()[:2] == ["nd01", "READY"]
    assert second.split()[:2] == ["127.0.0.9", "UNREACHABLE"]
    assert "connection refused" in second
    assert third.split()[:2] == ["nd02", "READY"]
    done = called(*words, "--max-load", "none", "--min-free-memory", "900T", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["version"] == 1
    assert [node["state"] for node in shown["nodes"]] == ["BUSY", "UNREACHABLE", "BUSY"]
    assert "memory" in shown["nodes"][0]["reason"]
    assert shown["nodes"][0]["health"]["cpus"] >= 1
    assert shown["nodes"][1]["health"] is None


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["--nonsense", "--", "true"], "--nonsense"),
        (["-n", "1"], "no command"),
        (["-n", "1", "--", " "], "no command"),
        (["--node-file", "missing", "--", "true"], "missing"),
        (["--node-file", "a", "-w", "b", "--", "true"], "--nodelist"),
        (["-w", "", "--", "true"], ""),
        (["--args-file", "missing", "--", "true"], "missing"),
        (["--args-file", ".", "--", "true"], "--args-file"),
        (["--args-file", "/dev/null", "--", "true"], "no lines"),
        (["--args-file", "-", "--csv", "--", "true"], "header"),
        (["--csv", "--", "true"], "--args-file"),
        (["--", "echo {line}"], "--args-file"),
        (["--param", "a=1", "--", "echo '{a}'"], "quotes"),
        (["--param", "a=1", "--", 'echo "x {a}"'], "quotes"),
        (["--param", "a", "--", "true"], "--param 'a'"),
        (["--param", "=1", "--", "true"], "--param"),
        (["--param", "a=1", "--param", "a=2", "--", "true"], "once"),
        (["--param", "a=9-1", "--", "true"], "9-1"),
        (["--param", f"a={'9' * 5000}-{'9' * 5001}", "--", "true"], "range"),
        (["--param", "a=0-9999", "--param", "b=0-9999", "--", "true"], "100000000 combinations"),
        (["-n", "0", "--dry-run", "--", "true"], "--ntasks"),
        (["-n", "99999999999", "--", "true"], "--ntasks"),
        (["--args-file", "~nosuch/x", "--", "true"], "~nosuch"),
        (["--node-file", "~nosuch/x", "--", "true"], "~nosuch"),
        (["--ssh-config", ".", "--", "true"], "directory"),
        (["--progress-pattern", "(", "--", "true"], "--progress-pattern"),
        (["--progress-pattern", "no groups", "--", "true"], "step"),
        (["--param", "proc_id=1", "--", "true"], "proc_id"),
        (["--param", "a=1-3", "-n", "2", "--", "true"], "--ntasks"),
        (["--param", "a=1-3", "-n", "2", "--dry-run", "--", "true"], "--ntasks"),
        (["--env", "A", "--", "true"], "--env 'A'"),
        (["--env", "1A=x", "--", "true"], "--env '1A=x'"),
        (["--export", "NOT_SET_HERE", "--", "true"], "NOT_SET_HERE"),
        (["--time-limit", "soon", "--", "true"], "--time-limit"),
        (["--time-limit", "0", "--", "true"], "--time-limit"),
        (["--max-load", "much", "--", "true"], "--max-load"),
        (["--max-load", "nan", "--", "true"], "--max-load"),
        (["--max-load", "-1", "--", "true"], "--max-load"),
        (["--min-free-memory", "much", "--", "true"], "--min-free-memory"),
        (["--hours", "night", "--", "true"], "--hours"),
        (["-N", "two", "--", "true"], "'two'"),
        (["-N", "0", "--", "true"], "--nnodes"),
        (["--retries", "1.5", "--", "true"], "1.5"),
        (["--poll-interval", "0", "--", "true"], "--poll-interval"),
        (["--distribution", "random", "--", "true"], "random"),
        (["-J", "a/b", "--", "true"], "--job-name"),
        (["--ssh-config", "missing", "--", "true"], "missing"),
    ],
)
def test_wrong_use_of_run_is_one_line(tmp_path: Path, words: list[str], about: str) -> None:
    """Exit code 2 and one line that names what is wrong; no job is made."""
    given = [] if {"-w", "--node-file"} & {*words} else ["-w", "127.0.0.9:9"]
    done = called("run", "--output-dir", "out", *given, *words, cwd=tmp_path)
    assert_refused(done, about)
    assert not (tmp_path / "out").exists()


def test_wrong_use_of_the_others_is_one_line(tmp_path: Path) -> None:
    """The output directory is asked for; a host file must be there and hold nodes."""
    assert_refused(called("run", "-w", "127.0.0.9:9", "--", "true"), "--output-dir")
    assert_refused(called("run", "--output-dir", tmp_path, "--", "true"), "node")
    assert_refused(called("probe"), "F")
    assert_refused(called("probe", tmp_path / "missing"), "missing")
    assert_refused(called("probe", "/dev/null"), "/dev/null")
    assert_refused(called("probe", "/dev/null", "--", "true"), "true")
