"""Every example runs as it stands, on nodes of a user's ``~/.ssh/config``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from program import ROOT
from sshd import SshdNodes
from user import User

Example = Callable[..., list[str]]


@pytest.fixture
def example(five_nodes: SshdNodes, tmp_path: Path) -> Example:
    """Runs an example whose tasks sleep less; the lines that are not about its progress."""
    user = User(five_nodes, tmp_path)

    def run(name: str, *words: str) -> list[str]:
        program = (ROOT / "example" / name).read_text()
        (user.directory / name).write_text(re.sub(r"\bsleep 0\.\d", "sleep 0.02", program))
        said = user.run(name, five_nodes.node_file, *words)
        return [line for line in said if not line.startswith("[")]

    return run


def test_a_queue_with_gpus(example: Example) -> None:
    """Here without any: the twelve combinations, in order."""
    lines = example("gpu_queue.py", "0")
    assert [line.split(" on ")[0] for line in lines] == [
        f"rate {rate} seed {seed}" for rate in (0.1, 0.01) for seed in range(6)
    ]


def test_files_there_and_back(example: Example) -> None:
    """The most frequent word of each text, counted on the nodes."""
    assert example("files.py") == ["one.txt: 3 rose", "two.txt: 2 the", "three.txt: 2 one"]


def test_a_torch_rendezvous(example: Example) -> None:
    """The tasks of all nodes have one address, and each its own rank."""
    lines = [line for line in example("rendezvous.py") if "RANK=" in line]
    assert (
        len({re.sub(r".*(MASTER_ADDR=\S+ MASTER_PORT=\S+).*", r"\1", line) for line in lines}) == 1
    )
    ranks = [int(re.sub(r".* RANK=(\d+).*", r"\1", line)) for line in lines]
    assert ranks == list(range(5))


def test_bars_of_other_programs(example: Example) -> None:
    """Both end at their last step."""
    expected = "Progress(step=10, total=10)"
    assert example("pattern.py") == [f"epochs {expected}", f"tqdm {expected}"]


def test_a_job_that_is_left_and_picked_up(example: Example) -> None:
    """All four tasks end as they would have."""
    assert example("reattach.py") == [f"done {proc_id}" for proc_id in range(4)]


def test_an_environment(example: Example) -> None:
    """What ``setup`` exports is there."""
    (line,) = example("environments.py")
    assert line.startswith("hello from ")
