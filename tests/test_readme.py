"""README.md is true: its Python blocks run, with smaller numbers, and so do its commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from program import ROOT
from sandbox import IS_ROOT
from sshd import SshdNodes
from user import README, User

from allot import Cluster, LoopbackNodes, NodeProbe, cli, parse_nodes


@dataclass(frozen=True)
class Setting:
    """What stands around a block of README.md in the program that the test makes of it.

    Attributes:
        sign: Words that are in this block and in no other.
        before: What the reader's program did before.
        after: What must hold then.
        says: What the program prints, among other things.
        smaller: Numbers of the block, and those that are enough for a test.
    """

    sign: str
    before: str = ""
    after: str = ""
    says: str = ""
    smaller: tuple[tuple[str, str], ...] = ()


_FACTORY = "task_factory = lambda ntc: f'echo task {ntc.proc_id}'\n"
_SMALL_JOB = (
    "from allot import Cluster\n" + _FACTORY + "cluster = Cluster('job', 'out', task_factory, "
    "node_file='hostfile.txt', nnodes=2, ntasks_per_node=1, ntasks=4)\n"
)
SETTINGS = (
    Setting(
        'job_name="training"',
        smaller=(("ntasks=100", "ntasks=12"),),
        after="outputs = list(Path('out').glob('ws*-*.out'))\n"
        "assert {int(path.stem.split('-')[1]) for path in outputs} == set(range(12))\n"
        "assert all('\\x02' in path.read_text() for path in outputs)",
    ),
    Setting(
        "cluster.print_progress()",
        before=_SMALL_JOB,
        after="assert [cluster.output(n) for n in range(4)] == [f'task {n}\\n' for n in range(4)]",
    ),
    Setting(
        "LoopbackNodes(3)",
        after="from pathlib import Path\nassert len(list(Path('out').glob('*.out'))) == 3",
    ),
    Setting(
        "params=grid(",
        smaller=(("range(150)", "range(3)"),),
        after="assert summary.ok and len(summary.tasks) == 6\n"
        "assert cluster.output(4).endswith('--lr 0.01 --seed 1\\n')",
    ),
    Setting(
        "stage_in=",
        before="from allot import Cluster",
        after="from pathlib import Path\nassert summary.ok\n"
        "assert [Path(f'out/{n}/frame-{n}.png').read_text() for n in range(3)] == list('abc')",
    ),
    Setting(r'print(f"\x02{i}', before="i, n = 3, 7", says="\x023/7\x03"),
    Setting(
        "track(batches)",
        before="batches, trained = range(3), []\ntrain = trained.append",
        after="assert trained == [0, 1, 2]",
        says="\x023/3\x03",
    ),
    Setting(
        "cluster.as_completed()",
        before="from allot import Cluster\n" + _FACTORY,
        smaller=(("ntasks=1000", "ntasks=12"), ("cpus_per_task=4", "cpus_per_task=1")),
        after="assert summary.ok and len(summary.tasks) == 12",
    ),
    Setting(
        "Cluster.load(",
        before=_SMALL_JOB + "cluster.close()",
        after="assert summary.ok and len(summary.tasks) == 4",
    ),
)

TRAIN = r"import sys; print('\x021/1\x03', *sys.argv[1:])"
RENDER = """import shutil, sys, lib.copies
lib.copies.copy(sys.argv[1], sys.argv[3])
"""


def blocks(language: str) -> list[str]:
    """The fenced blocks of README.md in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def setting(block: str) -> Setting:
    """What stands around a block."""
    found = [one for one in SETTINGS if one.sign in block]
    assert len(found) == 1, f"SETTINGS must say once how to run this block:\n{block}"
    return found[0]


def put(directory: Path, files: dict[str, str]) -> None:
    """Write files."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.fixture
def reader(five_nodes: SshdNodes, tmp_path: Path) -> Iterator[User]:
    """A user with all that the blocks name, here and in the home on the nodes."""
    if not IS_ROOT:
        pytest.skip("puts files into the home on the nodes: only root has one for tests")
    user = User(five_nodes, tmp_path, prefix="ws")
    user.write_hosts("hostfile.txt")
    user.write_hosts("hosts.txt", "gpus=1")
    there = {"train.py": TRAIN, "project/train.py": TRAIN, "venv/bin/activate": ""}
    put(five_nodes.home, there)
    scenes = {f"scenes/{letter}.blend": letter for letter in "abc"}
    put(user.directory, {"render.py": RENDER, "lib/copies.py": "from shutil import copy", **scenes})
    put(user.directory, {"train.py": TRAIN})
    yield user
    for name in there:
        (five_nodes.home / name).unlink()


def test_every_setting_is_of_a_block() -> None:
    """What is no more in README.md is not in this file."""
    assert {setting(block) for block in blocks("python")} == set(SETTINGS)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_python_runs(block: str, reader: User) -> None:
    """A program with the block in it succeeds, and did what README.md says."""
    around = setting(block)
    for words, fewer in around.smaller:
        assert words in block
        block = block.replace(words, fewer)
    program = reader.directory / "program.py"
    program.write_text(f"{around.before}\n{block}\n{around.after}\n")
    assert around.says in "\n".join(reader.run(program))


def test_no_block_is_forgotten() -> None:
    """Each has a language of which a test knows; shell lines are run here or by other tests."""
    fences = re.findall(r"^```(.+)$", README, re.MULTILINE)
    assert set(fences) == {"python", "bash"}
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    elsewhere = [line for line in lines if re.match(r"python3 -m venv .* demo$|tests/run$", line)]
    assert [line for line in lines if line not in elsewhere] == _first_commands()


def test_the_host_file_is_one() -> None:
    """It is understood to its end."""
    (block,) = (block for block in blocks("") if "# one node a line" in block)
    assert [node.host for node in parse_nodes(block)][-2:] == ["node20", "fd00::7"]


def test_a_variable_brings_text_to_an_inner_shell(tmp_path: Path) -> None:
    """As README.md advises for commands that read an argument as code."""
    (command,) = re.findall(r"`(bash -c '.*?')`", README)
    value = "$(echo it ran)"
    with (
        LoopbackNodes(1) as nodes,
        Cluster(
            "job",
            tmp_path / "out",
            command=command,
            params=[{"lr": value}],
            node_file=nodes.node_file,
            ssh_config=nodes.ssh_config,
            probe=NodeProbe(max_load_per_cpu=None),
        ) as cluster,
    ):
        assert cluster.wait(60, progress=False).ok
        assert cluster.output(0) == f"{value}\n"


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_commands_run(
    reader: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A probe, a sweep, and each line of the table of what can be done later."""
    monkeypatch.chdir(reader.directory)
    monkeypatch.setenv("HOME", str(reader.home))
    section = README.partition("## From the shell")[2].partition("\n## ")[0]
    later = re.findall(r"^\| `(allot [^`]+)` \|", section, re.MULTILINE)
    assert len(later) >= 7
    for line in [*_first_commands(), *later]:
        words = shlex.split(line.replace("seed=0-149", "seed=0-3"))[1:]
        if words[0] in ("probe", "run"):
            words[1:1] = ["--max-load", "none"]
        assert cli.main(words) == 0, (line, capsys.readouterr())


def _first_commands() -> list[str]:
    return next(block for block in blocks("bash") if "allot run" in block).splitlines()


def test_the_figures_are_those_of_the_last_run() -> None:
    """What README.md shows of the goals is what bench/RESULTS.md has of them."""
    between = README.partition("<!-- written by bench/run: -->")[2].partition("<!-- to here -->")[0]
    results = (ROOT / "bench/RESULTS.md").read_text().partition("\n## ")[0]
    shown, found = (
        [line for line in text.splitlines() if line.startswith(("|", "Written by"))]
        for text in (between, results)
    )
    assert len(shown) > 10
    assert shown == found
