"""Allot: run Bash commands on many nodes over SSH, with nothing installed on them."""

import logging

from allot.cluster import Cluster
from allot.errors import (
    AllotError,
    AuthenticationFailedError,
    ConfigError,
    ConnectionFailedError,
    HostKeyError,
    JobExistsError,
    NodeError,
    NodeFileError,
    NotEnoughNodesError,
    StateFileError,
    TaskConfigError,
    TasksFailedError,
)
from allot.hostfile import parse_nodes
from allot.loopback import LoopbackNodes
from allot.model import (
    NodeHealth,
    NodeSpec,
    NodeState,
    NodeStatus,
    NodeTaskConfig,
    Progress,
    Summary,
    Task,
    TaskState,
    TaskStatus,
)
from allot.probe import NodeProbe
from allot.template import grid
from allot.tracking import track

# What the program that uses Allot does not ask for is not written to its stderr.
logging.getLogger("allot").addHandler(logging.NullHandler())

__all__ = [
    "AllotError",
    "AuthenticationFailedError",
    "Cluster",
    "ConfigError",
    "ConnectionFailedError",
    "HostKeyError",
    "JobExistsError",
    "LoopbackNodes",
    "NodeError",
    "NodeFileError",
    "NodeHealth",
    "NodeProbe",
    "NodeSpec",
    "NodeState",
    "NodeStatus",
    "NodeTaskConfig",
    "NotEnoughNodesError",
    "Progress",
    "StateFileError",
    "Summary",
    "Task",
    "TaskConfigError",
    "TaskState",
    "TaskStatus",
    "TasksFailedError",
    "grid",
    "parse_nodes",
    "track",
]
