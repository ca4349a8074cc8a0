"""The commands on a job's directory: ``status, attach, cancel, rerun, logs, node, report``.

Rules: words in, words out; what is done is done by :class:`allot.Cluster`. Only ``attach`` and
``rerun`` start what waits.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

from allot import paths
from allot.clirun import Commands, command_of, refuse_unfillable, wait
from allot.cluster import Cluster
from allot.errors import ConfigError
from allot.hostfile import node_names
from allot.listing import counts_line, job_json, node_table, task_table
from allot.logins import resolve
from allot.model import NodeHealth, NodeStatus, TaskStatus
from allot.orders import Order
from allot.post import find_state_file
from allot.roster import config_path
from allot.statefile import Remembered
from allot.store import StoredState
from allot.template import Template
from allot.timeline import save_timeline

_JSON = (
    "an object of version (1), job_name, job_id, output_dir, counts (state to number), tasks, each "
    f"with {', '.join(TaskStatus.__dataclass_fields__)}, and nodes, each with "
    f"{', '.join(NodeStatus.__dataclass_fields__)} (null, or "
    f"{', '.join(NodeHealth.__dataclass_fields__)}). Times are Unix seconds, sizes bytes, progress "
    "is [step, total]. Names may be added; version grows when one changes its meaning or goes away"
)


def add_commands(commands: Commands) -> None:
    """Add them to the command line."""
    status = _add(commands, "status", "show counts, tasks and nodes", "out --json")
    status.add_argument("--json", action="store_true", help=f"for programs: {_JSON}")
    status.add_argument("--offline", action="store_true", help="ask no node: what is on disk")
    status.set_defaults(run=_status)
    attach = _add(commands, "attach", "bars until the end, the queue included", "out")
    attach.set_defaults(run=_attach)
    cancel = _add(commands, "cancel", "end tasks; returns when they are final", "out 3 4")
    cancel.add_argument("proc_ids", nargs="*", type=int, metavar="PROC_ID", help="(all)")
    cancel.add_argument("--grace", type=float, default=10.0, metavar="S", help="TERM to KILL (10)")
    cancel.set_defaults(run=_cancel)
    rerun = _add(commands, "rerun", "queue tasks once more", "out -- python train.py --lr {lr}")
    rerun.add_argument(
        "proc_ids", nargs="*", type=int, metavar="PROC_ID", help="(all not COMPLETED)"
    )
    rerun.set_defaults(run=_rerun, words=[])
    logs = _add(commands, "logs", "print a task's output", "out 3 --follow")
    logs.add_argument("proc_id", type=int, metavar="PROC_ID")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the task ends")
    logs.add_argument("--tail", type=int, metavar="N", help="the last N lines")
    logs.set_defaults(run=_logs)
    report = _add(commands, "report", "write a page about a job", "out --time-line out/time.svg")
    report.add_argument("-o", "--output", metavar="F", help="(D/<job name>.html)")
    report.add_argument("--time-line", metavar="F", help="the time line as .png or .svg as well")
    report.set_defaults(run=_report)
    node = _add(commands, "node", "change what a node is used for", "out drain ws03")
    node.add_argument("what", choices=("drain", "resume", "down"))
    node.add_argument("node", metavar="NODE")
    node.set_defaults(run=_node)


def _add(commands: Commands, name: str, what: str, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"Example: allot {name} {words}",
    )
    parser.add_argument("directory", metavar="D", help="the job's output directory")
    parser.add_argument("-J", "--job-name", metavar="NAME", help="where D holds several")
    parser.add_argument("--ssh-config", metavar="F", help="(the one the job began with)")
    return parser


def _load(options: argparse.Namespace, *, start_waiting: bool = False) -> Cluster:
    _refuse_unknown(options, _stored(options).remembered)
    return Cluster.load(
        options.directory,
        job_name=options.job_name,
        ssh_config=options.ssh_config,
        start_waiting=start_waiting,
    )


def _stored(options: argparse.Namespace) -> StoredState:
    """What is on disk of the job; an ssh configuration that is of no use is refused here."""
    path = Path(options.directory).expanduser().absolute()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.listdir(paths.state_directory(path))  # what may not be read is not empty
    stored = StoredState(find_state_file(path, options.job_name))
    if options.ssh_config is not None:
        resolve(stored.remembered.job.specs[0], config_path(options.ssh_config))
    return stored


def _refuse_unknown(options: argparse.Namespace, job: Remembered) -> None:
    """What can be known to be wrong is, before anybody is connected to or told who drives."""
    last = len(job.tasks) - 1
    one = [options.proc_id] if hasattr(options, "proc_id") else []
    for proc_id in getattr(options, "proc_ids", one):
        if proc_id not in range(last + 1):
            raise ConfigError(f"there is no task {proc_id}: the last one is {last}")
    named = node_names(job.job.specs)
    if getattr(options, "node", None) not in (None, *named):
        raise ConfigError(
            f"no node {options.node!r} is used by this job; there are {', '.join(named)}"
        )


def _status(options: argparse.Namespace) -> int:
    if options.offline:
        state = _stored(options).remembered.state
        job, tasks, nodes = state.job, state.statuses, [node.status for node in state.nodes]
        return _show(
            options, (job.settings.job_name, job.job_id, job.settings.output_dir), tasks, nodes
        )
    with _load(options) as cluster:
        job_words = (cluster.job_name, cluster.job_id, cluster.output_dir)
        code = _show(options, job_words, cluster.tasks, cluster.nodes)
        cluster.close(tell=False)
    return code


def _show(
    options: argparse.Namespace,
    job: tuple[str, str, Path],
    tasks: list[TaskStatus],
    nodes: list[NodeStatus],
) -> int:
    name, job_id, output_dir = job
    if options.json:
        print(job_json(name, job_id, str(output_dir), tasks, nodes))
    else:
        print(f"job {name} ({job_id}) in {output_dir}")
        print(counts_line(tasks), node_table(nodes), task_table(tasks, time.time()), sep="\n\n")
    return 0


def _attach(options: argparse.Namespace) -> int:
    with _load(options, start_waiting=True) as cluster:
        return wait(cluster)


def _cancel(options: argparse.Namespace) -> int:
    Order("cancel", grace=options.grace)  # refused before anything else is said
    with _load(options) as cluster:
        chosen = options.proc_ids or None
        cluster.cancel(chosen, grace=options.grace)
        left = {task.proc_id for task in cluster.tasks} if chosen is None else set(chosen)
        while left := {n for n in left if not cluster.tasks[n].state.is_final}:
            cluster.wait_a_moment()
        print(counts_line(cluster.tasks))
        cluster.close(tell=False)
    return 0


def _rerun(options: argparse.Namespace) -> int:
    command = command_of(options.words) if options.words else None
    if command is not None:
        params = _stored(options).remembered.job.params
        refuse_unfillable(command, params)
        Template(command, params[0] if params else None)
    with _load(options, start_waiting=True) as cluster:
        count = cluster.rerun(options.proc_ids or None, command=command)
        print(f"allot: {count} tasks queued once more", file=sys.stderr)
        return wait(cluster)


def _logs(options: argparse.Namespace) -> int:
    with _load(options) as cluster:
        pieces = (
            cluster.follow(options.proc_id, tail=options.tail)
            if options.follow
            else [cluster.output(options.proc_id, tail=options.tail)]
        )
        for piece in pieces:
            sys.stdout.buffer.write(piece.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        cluster.close(tell=False)
    return 0


def _node(options: argparse.Namespace) -> int:
    with _load(options) as cluster:
        {"drain": cluster.drain, "resume": cluster.resume, "down": cluster.down}[options.what](
            options.node
        )
        cluster.close(tell=False)
    return 0


def _report(options: argparse.Namespace) -> int:
    with _load(options) as cluster:
        file = Path(options.output or paths.report_file(cluster.output_dir, cluster.job_name))
        if options.time_line:
            save_timeline(Path(options.time_line), cluster.tasks, time.time())
        cluster.report(file)
        print(file, *[options.time_line] if options.time_line else (), sep="\n")
        cluster.close(tell=False)
    return 0
