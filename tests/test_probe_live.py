"""Looking at nodes over SSH: whose load it is, whose GPUs, whose hours."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodes import open_gateway, reach
from sandbox import wait_until

from allot import LoopbackNodes
from allot.node import Node
from allot.probe import NodeFacts, NodeProbe, SharingTest, look_again, probe_node

# As the tool of a machine with two cards answers; one is computed on by the process in "user".
NVIDIA_SMI = r"""#!/bin/bash
case $1 in
  --query-gpu=*)
    echo "0, GPU-52d1c8e6-9e6f-b0a2-5f2c-0d7e6a1b2c3d, 3, 11"
    echo "1, GPU-0f9e8d7c-6b5a-4938-2716-05f4e3d2c1b0, $(< "${0%/*}/used"), 20321" ;;
  --query-compute-apps=*)
    [[ ! -s ${0%/*}/user ]] ||
      echo "GPU-0f9e8d7c-6b5a-4938-2716-05f4e3d2c1b0, $(< "${0%/*}/user")" ;;
esac
"""


@pytest.fixture
def node() -> Iterator[Node]:
    with (
        LoopbackNodes(1) as nodes,
        open_gateway() as gateway,
        reach(nodes.names[0], nodes.ssh_config, gateway) as node,
    ):
        node.connect()
        yield node


@pytest.fixture
def tool(node: Node, tmp_path: Path) -> Path:
    """The directory of a stand-in nvidia-smi that is on the node's PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "nvidia-smi").write_text(NVIDIA_SMI)
    (directory / "nvidia-smi").chmod(0o755)
    (directory / "user").write_text("")
    (directory / "used").write_text("0")
    node.request(f"PATH={directory}:$PATH")
    return directory


@contextmanager
def process(command: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, as another login's are."""
    environment = {**os.environ, **variables}
    running = subprocess.Popen(["bash", "-c", command], env=environment, start_new_session=True)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def look(node: Node, directory: Path, probe: NodeProbe | None = None) -> NodeFacts:
    nonce = directory / "nonce"
    nonce.write_text("secret\n")
    test = SharingTest(directory, nonce, "secret", client_is_fresh=True)
    return probe_node(node, 0, test, probe or NodeProbe(), job_id="j-1")


def seconds_used(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_first_look_finds_all(node: Node, tmp_path: Path) -> None:
    """Before the job runs there the load is the load average, and the directory is shared."""
    found = look(node, tmp_path)
    assert found.health.foreign_cpus == found.health.load_1m
    assert found.sharing.shared
    assert found.home_writable
    assert abs(found.clock_offset) < 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nonce"]


def test_the_jobs_own_load_is_not_others(node: Node, tmp_path: Path) -> None:
    """Two busy processes, one of the job: the load is the other's, whatever else there is."""
    probe = NodeProbe()
    spin = "while :; do :; done"
    first = look(node, tmp_path)

    def load_of_others(job_id: str) -> float:
        """Over a window that this test measures too; the machine may have other work."""
        look_again(node, first, probe, job_id=job_id)
        began, used = time.monotonic(), seconds_used(other.pid)
        wait_until(lambda: seconds_used(other.pid) - used > 0.5, 60, "it does not spin")
        low = (seconds_used(other.pid) - used) / (time.monotonic() - began)
        found = look_again(node, first, probe, job_id=job_id).health.foreign_cpus
        assert found > 0.7 * low
        return found

    with process(spin) as other, process(spin, ALLOT_JOB_ID="j-1") as own:
        used, began = seconds_used(own.pid), time.monotonic()
        others = load_of_others("j-1")
        share = (seconds_used(own.pid) - used) / (time.monotonic() - began)
        cpus = os.cpu_count() or 1
        assert others < cpus - 0.5 * share


def test_a_node_is_looked_at_with_every_demand(node: Node, tmp_path: Path) -> None:
    """The hours are the node's own; the reason names them and the time there."""
    local = time.localtime(time.time() + 7200)
    later = f"{local.tm_hour:02}:00-{(local.tm_hour + 1) % 24:02}:00"
    closed = NodeProbe(max_load_per_cpu=None, hours=later, min_idle=0.0)
    reason = closed.objection(look(node, tmp_path, closed))
    assert reason.startswith(f"busy: outside of hours {later} (it is ")
    always = NodeProbe(max_load_per_cpu=None, hours="00:00-24:00", min_idle=0.0)
    assert always.objection(look(node, tmp_path, always)) == ""


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_gpus_of_others_are_left_alone(node: Node, tmp_path: Path, tool: Path) -> None:
    """One on which another's process computes is busy until that is gone; the job's is not."""
    first = look(node, tmp_path)
    assert (first.health.gpus, first.gpu_vendor) == (2, "nvidia")
    assert [gpu.busy for gpu in first.gpus] == [False, False]

    def busy(probe: NodeProbe) -> list[str]:
        return [gpu.reason for gpu in look_again(node, first, probe, job_id="j-1").gpus]

    with process("sleep 100") as other, process("sleep 100", ALLOT_JOB_ID="j-1") as own:
        (tool / "user").write_text(str(other.pid))
        assert busy(NodeProbe()) == ["", f"others compute on it (process {other.pid})"]
        assert busy(NodeProbe(share_gpus=True)) == ["", ""]
        (tool / "used").write_text("63")
        shared = NodeProbe(share_gpus=True, max_gpu_utilization=50)
        assert busy(shared) == ["", "utilization 63 %, the limit is 50 %"]
        (tool / "user").write_text(str(own.pid))
        assert busy(shared) == ["", ""]
    (tool / "user").write_text("")
    with process("sleep 100", ALLOT_JOB_ID="j-2", ALLOT_GPU_IDS="0"):
        assert busy(NodeProbe()) == ["held by another job of yours, j-2", ""]


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_declared_gpus_need_no_driver(node: Node, tmp_path: Path) -> None:
    """Where the host file says how many there are, so many there are, but for those held."""
    first = look(node, tmp_path)
    with process("sleep 100", ALLOT_JOB_ID="j-2", ALLOT_GPU_IDS="0,2"):
        found = look_again(node, first, NodeProbe(), job_id="j-1", declared_gpus=3)
    assert [gpu.busy for gpu in found.gpus] == [True, False, True]
    assert found.health.gpus == 3
