"""The command line in a hurry: what is refused, in which words, and that nothing is left of it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from program import GATE, PROGRAM, S, environment, run_words
from servers import free_port
from sshd import SshdNodes

from allot import Cluster, ConfigError, NodeProbe, cli

Refused: TypeAlias = Callable[..., None]


@pytest.fixture(scope="module")
def over(five_nodes: SshdNodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a job of two tasks that is over."""
    out = tmp_path_factory.mktemp("over") / "out"
    words = run_words(five_nodes, out, "-N", "1", "--param", "k=a,b", "--", "echo {k}")
    assert cli.main(words) == 0
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that one stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Asserts that a command is refused with one line on stderr, and nothing on stdout."""

    def check(*words: str | Path, about: str, code: int = 2) -> None:
        capsys.readouterr()
        assert cli.main([*map(str, words)]) == code
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        assert err.startswith("allot: ")
        assert about in err

    return check


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Bash in which ``$ALLOT`` is the program."""
    program = " ".join(PROGRAM)
    return subprocess.run(
        ["bash", "-c", line],
        env=environment(ALLOT=program, **variables),
        capture_output=True,
        text=True,
        timeout=2 * S,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["status", "D"],
        ["status", "D", "--offline"],
        ["attach", "D"],
        ["cancel", "D"],
        ["rerun", "D"],
        ["logs", "D", "0"],
        ["report", "D"],
        ["node", "D", "drain", "nd01"],
        ["probe", "F"],
        ["run", "--node-file", "F", "--output-dir", "new", "--", "true"],
    ],
    ids=" ".join,
)
def test_an_ssh_configuration_that_is_not_there(
    over: Path, five_nodes: SshdNodes, here: Path, refused: Refused, words: list[str]
) -> None:
    """Every command that takes one refuses it, also where it would not need it."""
    given = [{"D": str(over), "F": str(five_nodes.node_file)}.get(word, word) for word in words]
    at = given.index("--") if "--" in given else len(given)
    for config in ("missing.cfg", ".", "~nosuch/cfg"):
        refused(*given[:at], "--ssh-config", config, *given[at:], about=config)
    assert not (here / "new").exists()


def test_an_order_that_is_refused_beside_another_client(
    five_nodes: SshdNodes, tmp_path: Path, refused: Refused
) -> None:
    """The error alone is told, not who drives the job, and no task or node is touched."""
    out, go = tmp_path / "out", tmp_path / "go"
    with Cluster(
        "job",
        out,
        command=GATE.replace("go", str(go), 1) + " # {k}",
        params=[{"k": "a"}],
        node_file=five_nodes.node_file,
        ssh_config=five_nodes.ssh_config,
        nnodes=1,
        probe=NodeProbe(max_load_per_cpu=None),
    ) as cluster:
        refused("rerun", out, "99999", about="there is no task 99999: the last one is 0")
        refused("rerun", out, "--", "echo '{k}'", about="quotes")
        refused("cancel", out, "0", "1", about="there is no task 1")
        refused("cancel", out, "--grace", "-1", about="grace")
        refused("node", out, "down", "nd77", about="no node 'nd77'")
        assert [task.state for task in cluster.tasks] == ["RUNNING"]
        go.touch()
        assert cluster.wait(S, progress=False).ok


def test_nothing_is_left_of_a_job_that_never_began(
    five_nodes: SshdNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No directory is, however late it was refused; one that was there stays as it was."""
    away = f"127.0.0.9:{free_port('127.0.0.9')}"
    new, old = tmp_path / "some/new/out", tmp_path / "old"
    old.mkdir()
    (old / "mine").touch()
    for out in (new, old):
        words = ["run", "-w", away, "--output-dir", str(out), "--max-load", "none", "--", "true"]
        assert cli.main(words) == 3
        words = run_words(five_nodes, out, "-N", "1", "-n", "500", "--export", "torch", "--")
        assert cli.main([*words, "true"]) == 2
        assert "--export torch needs all 500 tasks" in capsys.readouterr().err
    assert not [*tmp_path.glob("some/**/*")]
    assert not (tmp_path / "some").exists()
    assert [path.name for path in old.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="quotes"):
        Cluster("job", new, command="'{proc_id}'", nodes=[away], ntasks=1)
    assert not (tmp_path / "some").exists()


def test_errors_name_the_options(five_nodes: SshdNodes, tmp_path: Path, refused: Refused) -> None:
    """Of an argument of Cluster the command line speaks as the shell does."""
    where = ["--output-dir", tmp_path / "out"]
    refused("run", *where, "--", "true", about="give --node-file or --nodelist")
    refused("probe", five_nodes.node_file, "--min-idle", "-1", about="--min-idle must")
    file = tmp_path / "args"
    file.write_bytes(b"a\nb\0c\n")
    words = ["-w", "127.0.0.9:9", *where, "--args-file", file]
    refused("run", *words, "--", "echo {line}", about="the parameters of task 1: no argument can")
    refused("status", "~nosuch/out", about="there is no home ~nosuch")


def test_a_report_that_cannot_be_written(over: Path, tmp_path: Path, refused: Refused) -> None:
    """The file and the reason, in one line."""
    refused("report", over, "-o", tmp_path / "no/x.html", about=f"{tmp_path}/no/x.html: No such")
    refused("report", over, "-o", tmp_path, about=f"{tmp_path}: Is a directory")


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(
    five_nodes: SshdNodes, tmp_path: Path, streams: str
) -> None:
    """The job runs, and no file of it gets such a stream's number and what is said there."""
    words = run_words(five_nodes, tmp_path / "out", "-N", "1", "-n", "1", "--", "'echo hi'")
    done = shell(f"$ALLOT {' '.join(words)} {streams}")
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/0.out").read_text() == "hi\n"
    out = tmp_path / "out"
    done = shell(f"$ALLOT status {out} --offline {streams}; $ALLOT status {out}/no {streams}")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert ("job allot" in done.stdout) == (">&-" not in streams.replace("2>&-", ""))
    assert ("does not exist" in done.stderr) == ("2>&-" not in streams)


def test_an_output_that_is_full(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """The client sees the queue through, and then says why it could not say anything."""
    words = run_words(five_nodes, tmp_path / "out", "-N", "1", "--ntasks-per-node", "1", "-n", "3")
    done = shell(f"$ALLOT {' '.join(words)} -- true >/dev/full")
    assert done.returncode == 2, done
    assert done.stderr.endswith("allot: the output cannot be written: No space left on device\n")
    done = shell(f"$ALLOT status --offline --json {tmp_path / 'out'}")
    assert json.loads(done.stdout)["counts"]["COMPLETED"] == 3


class Terminal(io.TextIOWrapper):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def test_lines_that_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gives ``--args-file -`` at a terminal is told that it is waited for, and how long."""
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"one\ntwo\n")))
    words = ["run", "-w", "x", "--output-dir", str(tmp_path), "--args-file", "-", "--dry-run"]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO()))
    assert cli.main([*words, "--", "echo {line}"]) == 0
    assert shown.getvalue() == b"echo one\necho two\n"
    assert "Ctrl-D" in capsys.readouterr().err


def test_the_help_tells_the_shape_of_json(over: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name that ``status --json`` prints is in its ``--help``."""
    assert cli.main(["status", str(over), "--offline", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        cli.main(["status", "--help"])
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    task, node = shown["tasks"][0], shown["nodes"][0]
    assert {*shown, *task, *node, *node["health"]} <= words


@contextmanager
def anybody() -> Iterator[None]:
    """Be somebody whom permissions bind, for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)


def test_a_directory_that_may_not_be_read(refused: Refused) -> None:
    """Whether the job's directory, what is in it or its state is somebody else's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        for level in ("out", "out/.allot", "out/.allot/allot.json"):
            state = Path(directory, level.replace("/", "_"), "out/.allot/allot.json")
            state.parent.mkdir(parents=True)
            state.write_text("{}")
            (state.parents[2] / level).chmod(0)
        with anybody():
            for base in Path(directory).iterdir():
                for words in (["status"], ["status", "--offline"], ["cancel"], ["attach"]):
                    refused(words[0], base / "out", *words[1:], about=f"{base}/out")
                refused("logs", base / "out", "0", about="ermission denied")
                words = ["run", "-w", "127.0.0.9:9", "--output-dir", f"{base}/new", "--", "true"]
                refused(*words, about=f"{base}/new cannot be written to: Permission denied")
