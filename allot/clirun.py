"""``allot run``, ``probe`` and ``demo``: the commands that need no job.

Rules: words in, words out; what is done is done by :class:`allot.Cluster`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

from allot import background
from allot.cluster import Cluster
from allot.errors import ConfigError, TasksFailedError
from allot.listing import node_table
from allot.loopback import LoopbackNodes
from allot.model import NodeTaskConfig, Params, Summary, Task, TaskState
from allot.options import (
    MOST_TASKS,
    add_nodes,
    add_probe,
    add_tasks,
    node_arguments,
    params_of,
    probe_of,
    task_arguments,
)
from allot.probe import NodeProbe
from allot.survey import survey
from allot.template import Template, as_command, as_ntasks, as_params, names_of

Commands: TypeAlias = "argparse._SubParsersAction[Any]"

EXIT_FAILED = 1
EXIT_TOO_FEW_NODES = 3
EXIT_INTERRUPTED = 130

_DEMO_STEP_S = 0.4
_MOST = 1000


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    _add_demo(commands)
    _add_run(commands)
    probe = commands.add_parser(
        "probe",
        help="look at nodes",
        description="Connect to the nodes of a host file and show what they have, and who is free.",
        epilog="Example: allot probe hostfile.txt --max-load 0.5",
    )
    probe.add_argument("node_file", metavar="F", help="host file, one node a line")
    probe.add_argument("--ssh-config", metavar="F", help="OpenSSH configuration (~/.ssh/config)")
    probe.add_argument(
        "--json", action="store_true", help="for programs: version and nodes, as of status --json"
    )
    add_probe(probe)
    probe.set_defaults(run=_probe)


def _add_demo(commands: Commands) -> None:
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


def _add_run(commands: Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run a command line as tasks",
        usage="allot run --node-file F --output-dir D [options] -- COMMAND",
        description="Run a command line as tasks on many nodes, with a bar for each. One argument "
        "is a Bash line, several are a program and its arguments. {proc_id}, {node_id}, "
        "{local_id}, {node_name}, the names of --param and --csv, and with --args-file {line}, "
        "{basename}, {stem} and {parent} are filled in, each quoted by itself.",
        epilog="Example: allot run --node-file hosts.txt --output-dir out --param lr=0.1,0.01 "
        "--param seed=0-99 -- python train.py --lr {lr} --seed {seed}",
    )
    run.add_argument("--output-dir", metavar="D", required=True, help="where outputs go")
    run.add_argument("-J", "--job-name", metavar="NAME", default="allot", help="(allot)")
    run.add_argument("--args-file", metavar="F", help="a task for each line; - is stdin")
    run.add_argument("--csv", action="store_true", help="the args file is CSV with a header")
    run.add_argument(
        "--param", action="append", metavar="K=A,B", help="or K=0-299; repeated: all combinations"
    )
    run.add_argument("--dry-run", action="store_true", help="print the tasks' lines, run nothing")
    run.add_argument("--detach", action="store_true", help="leave it to a client in the background")
    run.add_argument("--overwrite", action="store_true", help="cancel a job of this name first")
    run.add_argument("--resume", action="store_true", help="keep what completed, run the rest")
    add_nodes(run)
    add_tasks(run)
    run.add_argument("words", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    run.set_defaults(run=_run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST}, not {text!r}")
    return int(text)


def command_of(words: list[str]) -> str:
    """The Bash line that a user gave: as it is, or as a program and its arguments.

    Raises:
        ConfigError: There is none.
    """
    if not words or not " ".join(words).strip():
        raise ConfigError("there is no command: put it behind --")
    return words[0] if len(words) == 1 else as_command(words)


def _run(options: argparse.Namespace) -> int:
    command = command_of(options.words)
    if options.ntasks is not None and not 1 <= options.ntasks <= MOST_TASKS:
        raise ConfigError(f"--ntasks must be from 1 to {MOST_TASKS}, not {options.ntasks}")
    if options.args_file == "-" and sys.stdin.isatty():
        print("allot: type the lines, one a task; Ctrl-D ends them", file=sys.stderr)
    given = params_of(options)
    params = None if given is None else as_params(given)
    nodes, tasks, probe = node_arguments(options), task_arguments(options), probe_of(options)
    refuse_unfillable(command, params)
    if options.dry_run:
        return _dry_run(command, params, options.ntasks)
    here = None if options.cwd else os.getcwd()
    cluster = Cluster(
        options.job_name,
        options.output_dir,
        command=command,
        params=params,
        probe=probe,
        overwrite=options.overwrite,
        resume=options.resume,
        shared_cwd=here,
        **nodes,
        **tasks,
    )
    with cluster:
        if here is not None:
            _say_where(cluster, here, stages=bool(options.stage_in))
        if options.detach:
            cluster.close(tell=False)
            background.start(cluster.output_dir, cluster.job_name)
            return 0
        return wait(cluster)


def refuse_unfillable(command: str, params: tuple[Params, ...] | None) -> None:
    """A name that is no parameter is one that was forgotten, where it is one of ``{line}``'s.

    Raises:
        ConfigError: It is.
    """
    if params is None and (names := names_of(command)):
        raise ConfigError(
            f"command: {{{names[0]}}} has nothing to be filled from: give --args-file, or write "
            f"\\{{{names[0]}}} where it is meant as it is"
        )


def _dry_run(command: str, params: tuple[Params, ...] | None, ntasks: int | None) -> int:
    template = Template(command, params[0] if params else None)
    if params is None and ntasks is None:
        print(command)
        print("allot: as many tasks as the nodes have slots", file=sys.stderr)
        return 0
    for proc_id in range(as_ntasks(ntasks, params) or 0):
        line = template.preview(proc_id, None if params is None else params[proc_id])
        sys.stdout.buffer.write(f"{line}\n".encode("utf-8", "surrogateescape"))
    return 0


def _say_where(cluster: Cluster, here: str, *, stages: bool) -> None:
    sharing = [name for name, shares in cluster.sharing.items() if shares]
    others = [name for name, shares in cluster.sharing.items() if not shares]
    parts = []
    if sharing:
        parts.append(f"in {here}{f' on {_few(sharing)}' if others else ''}")
    if others:
        own = "in the job's own directory there, with what is staged in"
        where = own if stages else "in the login directory"
        parts.append(f"{where}{f' on {_few(others)}' if sharing else ''}")
    print(f"allot: tasks start {', '.join(parts)}", file=sys.stderr, flush=True)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004


def wait(cluster: Cluster) -> int:
    """Show bars until a job ends, then what became of it.

    Returns:
        The exit code.
    """
    try:
        summary = cluster.wait()
    except KeyboardInterrupt:
        _offer_background(cluster)
        return EXIT_INTERRUPTED
    print(describe(summary))
    print(f"outputs: {cluster.output_dir}")
    try:
        summary.raise_for_failures()
    except TasksFailedError as error:
        print(f"allot: {error}", file=sys.stderr)
        print(f"allot: to run them once more: {cluster.shell_line('rerun')}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _offer_background(cluster: Cluster) -> None:
    waiting = sum(task.state is TaskState.PENDING for task in cluster.tasks)
    on_terminal = all(one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr))
    if not waiting or not on_terminal:  # a pager would have the question, and the answer
        return
    print(
        f"allot: start the {waiting} tasks that wait from a client in the background? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        background.start(cluster.output_dir, cluster.job_name)


def _probe(options: argparse.Namespace) -> int:
    nodes = survey(options.node_file, options.ssh_config, probe_of(options))
    print(node_table(nodes, as_json=options.json))
    return 0


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
    print(describe(summary))
    print(f"outputs: {output_dir}")
    return 0 if summary.ok else EXIT_FAILED


def describe(summary: Summary) -> str:
    """How a job ended, in a line."""
    ended = ", ".join(f"{number} {state}" for state, number in summary.counts.items() if number)
    done = summary.counts[TaskState.COMPLETED]
    return f"{done} of {len(summary.tasks)} tasks completed in {summary.elapsed:.1f} s ({ended})"
