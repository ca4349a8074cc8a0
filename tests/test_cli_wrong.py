"""The command line in a hurry: what is refused, in which words, and that nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import free_port
from sshd import SshdNodes
from test_cli_run import S, allot, environment, run_words

from allot import ConfigError, Cluster, LoopbackNodes, NotEnoughNodesError, cli


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of two jobs that are over, ``one`` and ``two``, of two tasks each."""
    out = tmp_path_factory.mktemp("over") / "out"
    with LoopbackNodes(1) as nodes:
        for name in ("one", "two"):
            words = [*LOOPBACK(nodes), "--output-dir", str(out), "-J", name]
            assert cli.main([*words, "--param", "k=a,b", "--", "echo {k}"]) == 0
        yield out


def LOOPBACK(nodes: LoopbackNodes) -> list[str]:
    given = ["--node-file", str(nodes.node_file), "--ssh-config", str(nodes.ssh_config)]
    return ["run", *given, "--max-load", "none", "--oversubscribe"]
