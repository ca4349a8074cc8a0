"""The options of the command line that are arguments of :class:`allot.Cluster`.

Rules: words in, keyword arguments out; an option is named as its argument, and one that was not
given is left to the default there.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allot.errors import ConfigError
from allot.model import Params, Scalar
from allot.probe import NodeProbe
from allot.template import grid
from allot.units import as_bytes

_RANGE = re.compile(r"(\d+)-(\d+)", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
MOST_TASKS = 1_000_000
"""More in one job are a slip of the pen."""

_MOST_DIGITS = 18
_NO_LIMIT = -1.0
_PROBE = ("max_load", "min_free_memory", "max_gpu_utilization", "share_gpus", "hours", "min_idle")


def add_nodes(parser: argparse.ArgumentParser) -> None:
    """The options that name nodes, and when they may be used."""
    nodes = parser.add_argument_group("nodes")
    nodes.add_argument("--node-file", metavar="F", help="host file, one node a line")
    nodes.add_argument("-w", "--nodelist", metavar="LIST", help='instead: such as "ws[01-12],g2"')
    nodes.add_argument("--ssh-config", metavar="F", help="OpenSSH configuration (~/.ssh/config)")
    add_probe(parser)


def add_probe(parser: argparse.ArgumentParser) -> None:
    """The options that say when a node may be used."""
    probe = parser.add_argument_group("when a node may be used")
    probe.add_argument(
        "--max-load", type=_load, metavar="X", help='most load a CPU by others, or "none" (1.0)'
    )
    probe.add_argument("--min-free-memory", metavar="SIZE", help="such as 4G")
    probe.add_argument("--max-gpu-utilization", type=float, metavar="PERCENT")
    probe.add_argument("--share-gpus", action="store_true", help="use GPUs others compute on")
    probe.add_argument("--hours", metavar="HH:MM-HH:MM", help="on the node's clock")
    probe.add_argument("--min-idle", type=float, metavar="S", help="since others' last input")


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """The options that say how tasks are placed and run."""
    place = parser.add_argument_group("places")
    place.add_argument("-N", "--nnodes", type=int, metavar="N", help="nodes to use (all that pass)")
    place.add_argument("-n", "--ntasks", type=int, metavar="N", help="tasks in all")
    place.add_argument("--ntasks-per-node", type=int, metavar="N", help="slots per node")
    place.add_argument("-c", "--cpus-per-task", type=int, metavar="N")
    place.add_argument("--gpus-per-task", type=int, metavar="N")
    place.add_argument("--mem-per-task", metavar="SIZE", help="such as 4G")
    place.add_argument("--oversubscribe", action="store_true", help="slots beyond the node's CPUs")
    place.add_argument("--distribution", choices=("block", "cyclic"))
    place.add_argument("--wait-for-nodes", type=float, metavar="S")
    place.add_argument("--node-timeout", type=float, metavar="S")
    place.add_argument("--shared-fs", choices=("yes", "no"), help="do nodes share D (find out)")
    files = parser.add_argument_group("files, where nodes do not share yours")
    files.add_argument(
        "--stage-in", action="append", metavar="PATH", help="to each node's DIR first; repeatable"
    )
    files.add_argument(
        "--collect", action="append", metavar="PATTERN", help="results to D/<proc_id>/; repeatable"
    )
    files.add_argument("--collect-to", metavar="DIR", help="results to DIR instead")
    task = parser.add_argument_group("tasks")
    task.add_argument(
        "-t", "--time-limit", "--time", metavar="T", help="such as 90s, 30m, 1:30:00, 1-12:00:00"
    )
    task.add_argument("--retries", type=int, metavar="N")
    task.add_argument("--kill-on-bad-exit", action="store_true")
    task.add_argument("--max-failures", type=int, metavar="N")
    task.add_argument("--node-max-failures", type=int, metavar="N")
    task.add_argument("--setup", action="append", metavar="LINE", help="runs first; repeatable")
    task.add_argument("--cwd", metavar="DIR", help="where tasks start")
    task.add_argument("--login-shell", action="store_true", help="read the profile first")
    task.add_argument("--nice", type=int, metavar="N")
    task.add_argument("--env", action="append", metavar="K=V", help="repeatable")
    task.add_argument("--export", action="append", metavar="NAME", help="slurm, torch, a variable")
    task.add_argument("--poll-interval", type=float, metavar="S")
    task.add_argument("--progress-pattern", metavar="P", help="allot, tqdm, or a regex")
    task.add_argument("--max-bars", type=int, metavar="N")


def node_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What names the nodes.

    Raises:
        ConfigError: Both ways were used.
    """
    if options.node_file and options.nodelist:
        raise ConfigError("give either --node-file or --nodelist")
    found = {"node_file": options.node_file, "nodes": options.nodelist}
    found["ssh_config"] = options.ssh_config
    return {name: value for name, value in found.items() if value is not None}


def task_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Every other argument that was given.

    Raises:
        ConfigError: One makes no sense.
    """
    names = (
        "nnodes ntasks ntasks_per_node cpus_per_task gpus_per_task mem_per_task oversubscribe "
        "distribution wait_for_nodes node_timeout time_limit retries kill_on_bad_exit "
        "max_failures node_max_failures setup cwd login_shell nice poll_interval max_bars "
        "progress_pattern stage_in collect collect_to"
    )
    given = {name: getattr(options, name) for name in names.split()}
    found = {name: value for name, value in given.items() if _was_given(value)}
    if "time_limit" in found and found["time_limit"].isdecimal():
        found["time_limit"] = float(found["time_limit"])
    if "mem_per_task" in found and found["mem_per_task"].isdecimal():
        found["mem_per_task"] = int(found["mem_per_task"])
    if options.shared_fs is not None:
        found["shared_fs"] = options.shared_fs == "yes"
    if options.export:
        found["export"] = [name for one in options.export for name in one.split(",") if name]
    found["env"] = dict(_variable(one) for one in options.env or ())
    return found


def probe_of(options: argparse.Namespace) -> NodeProbe:
    """When a node may be used.

    Raises:
        ConfigError: One of the options makes no sense.
    """
    given = {name: getattr(options, name) for name in _PROBE}
    found = {name: value for name, value in given.items() if _was_given(value)}
    if "max_load" in found:
        load = found.pop("max_load")
        found["max_load_per_cpu"] = None if load == _NO_LIMIT else load
    if "min_free_memory" in found:
        found["min_free_memory"] = as_bytes("min_free_memory", found["min_free_memory"])
    return NodeProbe(**found)


def params_of(options: argparse.Namespace) -> list[Params] | None:
    """The tasks' parameters: of each line or row of the args file, those of the grid.

    Raises:
        ConfigError: They make no sense.
    """
    if options.csv and not options.args_file:
        raise ConfigError("--csv says how --args-file is read: give that too")
    lists = _lists(options.param or ())
    if (count := math.prod(map(len, lists.values()))) > MOST_TASKS:
        raise ConfigError(f"--param: {count} combinations, at most {MOST_TASKS} tasks can be made")
    combined = grid(**lists)
    if options.args_file is None:
        return list(combined) if options.param else None
    text = _read(options.args_file)
    if options.csv:
        rows = _rows(options.args_file, text)
        if both := [name for name in rows[0] if name in combined[0]]:
            raise ConfigError(f"--param {both[0]}: it is a column of {options.args_file} already")
        return [{**row, **one} for row in rows for one in combined]
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"--args-file {options.args_file} has no lines")
    if not options.param:
        return list(lines)
    if "line" in combined[0]:
        raise ConfigError("--param line: it is the line of --args-file already")
    return [{"line": line, **one} for line in lines for one in combined]


def _lists(params: Sequence[str]) -> dict[str, list[Scalar]]:
    lists: dict[str, list[Scalar]] = {}
    for param in params:
        name, equals, values = param.partition("=")
        if not equals or not name.isidentifier() or name in lists:
            raise ConfigError(
                f"--param {param!r} must be NAME=VALUE,VALUE or NAME=FIRST-LAST, each name once"
            )
        lists[name] = [value for one in values.split(",") for value in _expand(param, one)]
    return lists


def _expand(param: str, value: str) -> list[str]:
    found = _RANGE.fullmatch(value)
    if found is None:
        return [value]
    is_long = max(len(found[1]), len(found[2])) > _MOST_DIGITS
    first, last = (0, -1) if is_long else (int(found[1]), int(found[2]))
    if not first <= last < first + MOST_TASKS:
        raise ConfigError(f"--param {param!r}: {value} is no range of at most {MOST_TASKS}")
    width = len(found[1]) if found[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"--args-file {file} cannot be read: {error.strerror}") from error
    return data.decode("utf-8-sig", "surrogateescape")


def _rows(file: str, text: str) -> list[dict[str, Scalar]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *others = [row for row in rows if row]
    except (csv.Error, ValueError) as error:
        raise ConfigError(f"--args-file {file}: it should be CSV with a header: {error}") from error
    for number, row in enumerate(others, 2):
        if len(row) != len(header):
            raise ConfigError(
                f"--args-file {file}: row {number} has {len(row)} fields, the header {len(header)}"
            )
    if doubles := [name for name in header if header.count(name) > 1]:
        raise ConfigError(f"--args-file {file}: two columns are named {doubles[0]!r}")
    if not others:
        raise ConfigError(f"--args-file {file} has no rows below its header")
    return [dict(zip(header, row, strict=True)) for row in others]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise ConfigError(f"--env {text!r} must be NAME=VALUE (--export passes one on as it is)")
    return name, value


def _was_given(value: object) -> bool:
    return value is not None and value is not False  # 0 is


def _load(text: str) -> float:
    if text == "none":
        return _NO_LIMIT
    try:
        load = float(text)
    except ValueError:
        load = math.nan
    if not 0 <= load < math.inf:
        raise argparse.ArgumentTypeError(f'must be a number from 0, or "none", not {text!r}')
    return load
