"""What a task finds in its environment beside what its user put there.

Rules: pure; names are those of the programs that read them. Sources: srun(1) "OUTPUT ENVIRONMENT
VARIABLES", torch.distributed's ``env://`` initialization, the CUDA and ROCm programming guides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allot.model import NodeTaskConfig, Params, Scalar


@dataclass(frozen=True)
class Rendezvous:
    """Where the tasks of a job that is one torch process group meet.

    Attributes:
        address: Node 0 as the other nodes reach it.
        ports: Free TCP ports there; each attempt takes the next one.
    """

    address: str
    ports: Sequence[int]


@dataclass(frozen=True)
class Group:
    """The tasks of a job that are one torch process group.

    Attributes:
        rendezvous: Where they meet.
        sizes: Number of tasks on each node, by ``node_id``.
        gpus: The GPUs they hold together on each node.
    """

    rendezvous: Rendezvous
    sizes: Mapping[int, int]
    gpus: Mapping[int, Sequence[int]]


def job_variables(config: NodeTaskConfig) -> dict[str, str]:
    """The variables that all tasks of a node have in common."""
    return {
        "ALLOT_JOB_NAME": config.job_name,
        "ALLOT_JOB_ID": config.job_id,
        "ALLOT_OUTPUT_DIR": str(config.output_dir),
        "ALLOT_NODENAME": config.node_name,
        "ALLOT_NODEID": str(config.node_id),
        "ALLOT_NNODES": str(config.nnodes),
        "ALLOT_NTASKS": str(config.ntasks),
        "ALLOT_NTASKS_PER_NODE": str(config.ntasks_per_node),
        "ALLOT_CPUS_PER_TASK": str(config.cpus_per_task),
    }


def param_variables(params: Params) -> dict[str, str]:
    """``ALLOT_PARAM_<NAME>`` for each entry of a task's parameters."""
    if params is None:
        return {}
    named: Mapping[str, Scalar] = params if isinstance(params, Mapping) else {"line": params}
    return {
        f"ALLOT_PARAM_{re.sub('[^A-Za-z0-9_]', '_', name).upper()}": str(value)
        for name, value in named.items()
    }


def slurm_variables(config: NodeTaskConfig, node_names: Sequence[str]) -> dict[str, str]:
    """What ``srun`` sets for the same things; the job's number is made of our job id's digits."""
    number = re.sub(r"\D", "", config.job_id.rpartition("-")[0]) or "1"
    nodelist = ",".join(node_names)
    return {
        "SLURM_JOB_ID": number,
        "SLURM_JOBID": number,
        "SLURM_JOB_NAME": config.job_name,
        "SLURM_JOB_NODELIST": nodelist,
        "SLURM_NODELIST": nodelist,
        "SLURM_JOB_NUM_NODES": str(config.nnodes),
        "SLURM_NNODES": str(config.nnodes),
        "SLURM_NTASKS": str(config.ntasks),
        "SLURM_NPROCS": str(config.ntasks),
        "SLURM_NTASKS_PER_NODE": str(config.ntasks_per_node),
        "SLURM_CPUS_PER_TASK": str(config.cpus_per_task),
        "SLURMD_NODENAME": config.node_name,
        "SLURM_NODEID": str(config.node_id),
        "SLURM_PROCID": str(config.proc_id),
        "SLURM_LOCALID": str(config.local_id),
        "SLURM_RESTART_COUNT": str(config.attempt),
    }


def torch_variables(
    config: NodeTaskConfig, rendezvous: Rendezvous, local_world_size: int
) -> dict[str, str]:
    """What ``torch.distributed`` reads with ``init_method="env://"``."""
    return {
        "MASTER_ADDR": rendezvous.address,
        "MASTER_PORT": str(rendezvous.ports[config.attempt % len(rendezvous.ports)]),
        "RANK": str(config.proc_id),
        "WORLD_SIZE": str(config.ntasks),
        "LOCAL_RANK": str(config.local_id),
        "LOCAL_WORLD_SIZE": str(local_world_size),
    }


def gpu_variables(
    held: Sequence[int], visible: Sequence[int], vendor: str | None
) -> dict[str, str]:
    """Which GPUs a task sees; never for both makers, since that hides AMD's.

    Args:
        held: The indices that are the task's own.
        visible: The indices it is to see: the same, or all of the job's on the node.
        vendor: ``"amd"``, else NVIDIA is meant.
    """
    if not held:
        return {}
    indices = ",".join(map(str, visible))
    own = {"ALLOT_GPU_IDS": ",".join(map(str, held))}
    if vendor == "amd":
        return {**own, "ROCR_VISIBLE_DEVICES": indices}
    return {**own, "CUDA_VISIBLE_DEVICES": indices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
