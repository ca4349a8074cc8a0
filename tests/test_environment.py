"""The variables that programs made for Slurm, torch and GPUs look for."""

from __future__ import annotations

from pathlib import Path

import pytest

from allot import environment
from allot.environment import Rendezvous
from allot.model import NodeTaskConfig

CONFIG = NodeTaskConfig(
    job_name="train",
    job_id="20261123-101500-ab12cd34",
    output_dir=Path("/out"),
    node_name="ws02",
    node_id=1,
    proc_id=3,
    local_id=1,
    nnodes=2,
    ntasks=4,
    ntasks_per_node=2,
    cpus_per_task=8,
    attempt=1,
)


def test_slurms_names_say_what_allots_say() -> None:
    """A program written for ``srun`` finds its numbers; the job's number is a number."""
    variables = environment.slurm_variables(CONFIG, ["ws01", "ws02"])
    assert variables["SLURM_JOB_ID"] == "20261123101500"
    assert variables["SLURM_JOB_NODELIST"] == "ws01,ws02"
    assert variables["SLURMD_NODENAME"] == "ws02"
    numbers = {
        "PROCID": 3,
        "LOCALID": 1,
        "NODEID": 1,
        "NTASKS": 4,
        "NPROCS": 4,
        "NNODES": 2,
        "JOB_NUM_NODES": 2,
        "NTASKS_PER_NODE": 2,
        "CPUS_PER_TASK": 8,
        "RESTART_COUNT": 1,
    }
    assert {name: variables[f"SLURM_{name}"] for name in numbers} == {
        name: str(number) for name, number in numbers.items()
    }


def test_torch_finds_its_process_group() -> None:
    """The ranks are ours, and each attempt meets at a port of its own."""
    variables = environment.torch_variables(CONFIG, Rendezvous("10.0.0.1", [2001, 2002]), 2)
    assert variables == {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "2002",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }


@pytest.mark.parametrize("vendor", ["nvidia", None])
def test_nvidia_gpus_are_shown_by_their_bus_order(vendor: str | None) -> None:
    """The indices of nvidia-smi are those of CUDA only in that order."""
    assert environment.gpu_variables([2], [1, 2], vendor) == {
        "ALLOT_GPU_IDS": "2",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_amd_gpus_are_shown_by_their_variable_only() -> None:
    """With CUDA's beside it, ROCm would show none."""
    assert environment.gpu_variables([0, 1], [0, 1], "amd") == {
        "ALLOT_GPU_IDS": "0,1",
        "ROCR_VISIBLE_DEVICES": "0,1",
    }


def test_without_gpus_nothing_is_said_of_them() -> None:
    """A task that asked for none sees what the node shows anyone."""
    assert environment.gpu_variables([], [], "nvidia") == {}


def test_parameters_are_variables() -> None:
    """By name in capitals; a scalar is the line."""
    assert environment.param_variables({"lr": 0.1, "batch-size": 4}) == {
        "ALLOT_PARAM_LR": "0.1",
        "ALLOT_PARAM_BATCH_SIZE": "4",
    }
    assert environment.param_variables("a b") == {"ALLOT_PARAM_LINE": "a b"}
    assert environment.param_variables(None) == {}
