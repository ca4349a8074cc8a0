"""The command line: words in, words out; what is done is done by :class:`allot.Cluster`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from allot.cluster import Cluster
from allot.errors import AllotError, NotEnoughNodesError
from allot.loopback import LoopbackNodes
from allot.model import NodeTaskConfig, Summary, Task, TaskState
from allot.probe import NodeProbe

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TOO_FEW_NODES = 3
EXIT_INTERRUPTED = 130

_DEMO_STEP_S = 0.4
_MOST = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None takes those it was called with.

    Returns:
        The exit code: 0 if all is done, 1 if some task did not complete, 2 for wrong usage or
        configuration, 3 for too few nodes, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except NotEnoughNodesError as error:
        return _refuse(error, EXIT_TOO_FEW_NODES)
    except (AllotError, OSError) as error:
        return _refuse(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allot",
        description="Run Bash commands on many nodes over SSH, with nothing installed on them.",
        epilog="Try it: allot demo",
    )
    parser.add_argument("--version", action="version", version=f"allot {version('allot')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="run an example job on nodes inside this process",
        description="Run an example job, with bars, on SSH nodes inside this process.",
        epilog="Example: allot demo --nnodes 3 --ntasks-per-node 4",
    )
    demo.add_argument("--nnodes", type=_count, default=5, metavar="N", help="nodes (5)")
    demo.add_argument(
        "--ntasks-per-node", type=_count, default=2, metavar="N", help="tasks on each node (2)"
    )
    demo.add_argument("--steps", type=_count, default=20, metavar="N", help="steps of a task (20)")
    demo.set_defaults(run=_demo)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST}, not {text!r}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> int:
    def task_factory(ntc: NodeTaskConfig) -> Task:
        pace = _DEMO_STEP_S * (1 + (ntc.proc_id % 3) / 10)
        lines = [
            f"echo this is task {ntc.proc_id} on {ntc.node_name}",
            # A demo that was broken off leaves no task behind.
            f"for ((i = 0; i <= {arguments.steps}; i++)); do "
            f"kill -0 {os.getpid()} 2>/dev/null || exit; "
            rf"printf '\002%d/{arguments.steps}\003\n' $i; sleep {pace:.2f}; done",
            "echo finished",
        ]
        return Task(lines, ntc.output_dir / f"{ntc.node_name}-{ntc.proc_id}.out", ntc)

    with LoopbackNodes(arguments.nnodes) as nodes:
        output_dir = Path(tempfile.mkdtemp(prefix="allot-demo-"))
        with Cluster(
            "demo",
            output_dir,
            task_factory,
            node_file=nodes.node_file,
            ssh_config=nodes.ssh_config,
            ntasks_per_node=arguments.ntasks_per_node,
            oversubscribe=True,
            probe=NodeProbe(max_load_per_cpu=None, timeout=60.0),
        ) as cluster:
            summary = cluster.wait()
    print(_describe(summary))
    print(f"outputs: {output_dir}")
    return 0 if summary.ok else EXIT_FAILED


def _describe(summary: Summary) -> str:
    ended = ", ".join(f"{number} {state}" for state, number in summary.counts.items() if number)
    done = summary.counts[TaskState.COMPLETED]
    return f"{done} of {len(summary.tasks)} tasks completed in {summary.elapsed:.1f} s ({ended})"


def _refuse(error: Exception, code: int) -> int:
    print(f"allot: {error}", file=sys.stderr)
    return code
