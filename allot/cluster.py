"""The front of Allot: a job on a cluster of nodes, from its start to its end.

Rules: wiring and life span only. What is decided is decided in ``scheduler`` and ``lifecycle``,
what is done is done by ``monitor`` and ``driver``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TextIO

from allot.control import Control
from allot.errors import ConfigError
from allot.launcher import TaskFactory
from allot.markers import without_markers
from allot.model import (
    JobSnapshot,
    NodeSpec,
    NodeState,
    NodeStatus,
    Summary,
    TaskState,
)
from allot.monitor import Monitor
from allot.muster import Muster
from allot.node import Gateway
from allot.output import LocalReader, last_lines, read_text
from allot.probe import NodeProbe
from allot.progress import Board, make_board
from allot.roster import config_path, read_specs
from allot.settings import Settings, as_distribution, as_lines, as_variables
from allot.units import as_bytes, as_seconds

_log = logging.getLogger(__name__)

_MOST_WORKERS = 128
_REDRAW_S = 0.2
_SEND_S = 60.0
_CLOSE_S = 5.0
_LONGEST_GRACE_S = 86400
_TAILS = 20
_TAIL_LINES = 10
_TAIL_BYTES = 4096


class Cluster(Control):
    """A job: tasks on nodes, launched when it is made, watched until it is closed.

    Making one connects to the nodes, probes them and launches the first wave of tasks; it
    returns while they run. Tasks that find no free slot wait and are started as slots get free.

    Attributes:
        job_id: Identifier of this run of the job.
        job_name: Name of the job.
        output_dir: Where outputs go, absolute.

    Example:
        >>> with Cluster("sweep", "out", lambda ntc: f"python3 train.py --seed {ntc.proc_id}",
        ...              node_file="hostfile.txt", ntasks=100) as cluster:
        ...     summary = cluster.wait()
        >>> summary.raise_for_failures()
    """

    def __init__(
        self,
        job_name: str,
        output_dir: str | Path,
        task_factory: TaskFactory,
        *,
        node_file: str | Path | None = None,
        nodes: str | Iterable[str | NodeSpec] | None = None,
        nnodes: int | None = None,
        ntasks: int | None = None,
        ntasks_per_node: int | None = None,
        cpus_per_task: int | None = None,
        gpus_per_task: int = 0,
        mem_per_task: int | str | None = None,
        oversubscribe: bool = False,
        distribution: str = "block",
        time_limit: float | str | timedelta | None = None,
        retries: int = 0,
        kill_on_bad_exit: bool = False,
        max_failures: int | None = None,
        node_max_failures: int = 3,
        setup: str | Iterable[str] = (),
        cwd: str | Path | None = None,
        login_shell: bool = False,
        nice: int = 0,
        env: Mapping[str, object] | None = None,
        export: str | Iterable[str] = (),
        probe: NodeProbe | None = None,
        wait_for_nodes: float = 0.0,
        shared_fs: bool | None = None,
        poll_interval: float = 1.0,
        ssh_config: str | Path | None = None,
        max_bars: int | None = None,
    ) -> None:
        """Connect, probe, and launch the first wave.

        Args:
            job_name: Name of the job.
            output_dir: Where outputs go; made where it is missing, on the nodes too.
            task_factory: Makes each task when it is given its place; never called twice at once.
            node_file: A host file, one node a line.
            nodes: Instead: a hostlist such as ``"ws[01-12],g2"``, or host file lines. Neither:
                the nodes of the Slurm allocation one is in.
            nnodes: How many nodes to use: the first that pass the probe, the others are spares.
                None: all that pass.
            ntasks: Tasks in all. None: as many as there are slots.
            ntasks_per_node: Slots per node. None: the host file's ``slots=``, else with
                ``ntasks`` the node's CPUs divided by ``cpus_per_task``, else 1.
            cpus_per_task: CPUs counted for each task, 1 if None; where it is given,
                ``OMP_NUM_THREADS`` is set to it unless the node has one.
            gpus_per_task: GPUs each task gets for itself, by index.
            mem_per_task: Memory counted for each task, bytes or ``"4G"``. None: not counted.
            oversubscribe: Take the slots as they are wished, even beyond a node's CPUs and
                memory, and whatever others use of them.
            distribution: Of the first wave: ``"block"`` fills node 0 first, ``"cyclic"`` deals
                round.
            time_limit: How long a task may take: seconds, a ``timedelta``, ``"90s"``, ``"2h"``
                or Slurm's ``"[D-]HH:MM:SS"``. It is kept on the node.
            retries: How often a FAILED or NODE_FAIL task is queued again by itself.
            kill_on_bad_exit: The first task that does not complete cancels all others.
            max_failures: After so many tasks that did not complete nothing new starts.
            node_max_failures: A node on which so many tasks in a row fail, and none completes
                while others complete elsewhere, is drained.
            setup: Lines that run in each task's Bash before it.
            cwd: Where tasks start on their node. None: the login directory.
            login_shell: Read the user's profile first, so that ``module`` and conda are there.
            nice: Niceness of every task, -20 to 19.
            env: Variables for every task.
            export: ``"slurm"`` or ``"torch"`` for the variables that ``srun`` and ``torchrun``
                set, or names of variables to pass on.
            probe: When a node may be used.
            wait_for_nodes: Seconds to keep probing while too few nodes pass.
            shared_fs: Whether the nodes share ``output_dir`` with the client. None: find out.
            poll_interval: Seconds between two looks at a running task's output.
            ssh_config: The OpenSSH client configuration to obey. None: the user's own.
            max_bars: Most task bars shown at once. None: what fits the screen.

        Raises:
            ConfigError: An argument makes no sense.
            NodeFileError: The host file or hostlist does not follow the grammar.
            TaskConfigError: The factory returned what cannot be launched.
            NotEnoughNodesError: Too few nodes passed the probe.
            Exception: Whatever the factory raised in the first wave; nothing was launched then.
        """
        for name, path in (("output_dir", output_dir), ("node_file", node_file)):
            if not isinstance(path, (str, Path)) and not (name == "node_file" and path is None):
                raise ConfigError(f"{name} must be a path, not {path!r}")
        if not str(output_dir):
            raise ConfigError("output_dir is empty: name a directory")
        if probe is not None and not isinstance(probe, NodeProbe):
            raise ConfigError(f"probe must be a NodeProbe, not {probe!r}")
        if not callable(task_factory):
            raise ConfigError(f"task_factory must be a function, not {task_factory!r}")
        exported = as_lines("export", export)
        self._settings = Settings(
            job_name=job_name,
            output_dir=Path(os.path.abspath(Path(output_dir).expanduser())),
            nnodes=nnodes,
            ntasks=ntasks,
            ntasks_per_node=ntasks_per_node,
            cpus_per_task=cpus_per_task,
            gpus_per_task=gpus_per_task,
            mem_per_task=None if mem_per_task is None else as_bytes("mem_per_task", mem_per_task),
            oversubscribe=oversubscribe,
            distribution=as_distribution(distribution),
            time_limit=None if time_limit is None else as_seconds("time_limit", time_limit),
            retries=retries,
            kill_on_bad_exit=kill_on_bad_exit,
            max_failures=max_failures,
            node_max_failures=node_max_failures,
            setup=as_lines("setup", setup),
            cwd=None if cwd is None else str(cwd),
            login_shell=login_shell,
            nice=nice,
            env=as_variables(env or {}, exported, os.environ),
            export=exported,
            wait_for_nodes=wait_for_nodes,
            shared_fs=shared_fs,
            poll_interval=poll_interval,
            max_bars=max_bars,
        )
        super().__init__(job_name)
        self.output_dir = self._settings.output_dir
        self.job_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        specs = read_specs(node_file, nodes)
        self._gateway = Gateway()
        self._pool = ThreadPoolExecutor(min(len(specs) + 1, _MOST_WORKERS), "allot")
        self._muster = Muster(
            self._settings, self.job_id, probe or NodeProbe(), self._pool, self._gateway
        )
        self._board: Board | None = None
        self._board_file: TextIO | None = None
        self._started = time.monotonic()
        try:
            used = self._muster.gather(specs, config_path(ssh_config))
            self._monitor = self._muster.launch(used, task_factory)
            for warning in self._muster.warnings:
                sys.stderr.write(f"allot: {warning}\n")
            self._monitor.wait_until_launched(_SEND_S)
            self._raise_monitor_error()
        except BaseException:
            self.close()
            raise

    @property
    def nodes(self) -> list[NodeStatus]:
        """Every node as it was last seen: those used by ``node_id``, then the others."""
        used = [] if self._monitor is None else list(self._monitor.nodes)
        names = {status.name for status in used}
        return used + [one.status for one in self._muster.candidates if one.name not in names]

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> Summary:
        """Block until every task is final.

        Args:
            timeout: Seconds to wait at most; None: for ever.
            progress: Show bars meanwhile.

        Returns:
            How the job ended.

        Raises:
            TimeoutError: The tasks took longer; they go on.
            KeyboardInterrupt: Ctrl-C; the tasks that run go on, the cluster is closed.
            AllotError: The job is not watched any more.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        monitor = self._watching()
        self._close_board()
        board = make_board(max_bars=self._settings.max_bars) if progress else None
        try:
            while not monitor.is_final:
                self._raise_monitor_error()
                self._refuse_if_closed()
                left = _REDRAW_S if give_up is None else min(_REDRAW_S, give_up - time.monotonic())
                if left <= 0:
                    raise TimeoutError(
                        f"job {self.job_name} is not final after {timeout:g} s; its tasks go on"
                        f"{self._lost_nodes()}"
                    )
                if board is not None:
                    board.draw(self._snapshot())
                monitor.wait_for(lambda: monitor.is_final, left)
        except KeyboardInterrupt:
            self._detach(board)
            raise
        finally:
            if board is not None:
                board.close(self._snapshot())
        return self._summary()

    def print_progress(self, file: TextIO | None = None) -> None:
        """Show once how the job stands.

        On a terminal and in a notebook: bars, in place. Elsewhere: what changed since the last
        call, a line a task, at most 50, and one line for the job.

        Args:
            file: Where to; None is stdout.
        """
        self._raise_monitor_error()
        if self._board is None or file is not self._board_file:
            self._close_board()
            self._board_file = file
            self._board = make_board(file, max_bars=self._settings.max_bars, live=False)
        self._board.draw(self._snapshot())

    def close(self) -> None:
        """Detach: stop watching and hang up; what runs goes on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            if self._monitor is not None:
                stack.callback(self._monitor.release)
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            stack.callback(self._muster.hang_up)
            if self._monitor is not None:
                stack.callback(self._tell_what_is_left, self._monitor)
                stack.callback(self._monitor.stop, _CLOSE_S)
                stack.callback(self._monitor.hold, _CLOSE_S)
            stack.callback(self._close_board)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not self._closed:
            self._detach(None)
        self.close()

    def __repr__(self) -> str:
        counts = Summary(tuple(self.tasks), 0.0).counts
        parts = [f"{number} {state}" for state, number in counts.items() if number]
        return f"<Cluster {self.job_name!r} {self.job_id}: {', '.join(parts) or 'no tasks'}>"

    def _snapshot(self) -> JobSnapshot:
        return JobSnapshot(self.job_name, tuple(self.tasks), tuple(self.nodes), self._elapsed())

    def _summary(self) -> Summary:
        tasks = self._watching().tasks
        tails: dict[int, str] = {}
        for task in Summary(tasks, 0.0).failed[:_TAILS]:
            if task.output_file is not None:
                with contextlib.suppress(OSError):  # what cannot be read has no end to show
                    text = read_text(LocalReader(), str(task.output_file), None, _TAIL_BYTES)
                    tails[task.proc_id] = last_lines(without_markers(text), _TAIL_LINES)
        return Summary(tasks, self._elapsed(), tails)

    def _elapsed(self) -> float:
        ended = self._watching().final_at
        return (time.monotonic() if ended is None else ended) - self._started

    def _lost_nodes(self) -> str:
        lost = [node for node in self.nodes if node.state is NodeState.UNREACHABLE]
        held = {task.node_name for task in self.tasks if task.state is TaskState.RUNNING}
        names = [f"{node.name} (UNREACHABLE {node.reason})" for node in lost if node.name in held]
        if not names:
            return ""
        return f"; some wait for {', '.join(names)}: down(node) gives a node up"

    def _detach(self, board: Board | None) -> None:
        if board is not None:
            board.close(self._snapshot())
        running = self._watching().count(TaskState.RUNNING)
        sys.stderr.write(
            f"allot: detached; {running} tasks of job {self.job_name} go on, "
            f"their outputs lie in {self.output_dir}\n"
        )
        try:
            self.close()
        except KeyboardInterrupt:
            self._muster.hang_up()  # a second Ctrl-C: nothing is waited for
            raise

    def _tell_what_is_left(self, monitor: Monitor) -> None:
        lines = []
        if waiting := monitor.count(TaskState.PENDING):
            lines.append(f"{waiting} tasks of job {self.job_name} waited and were not started")
        if unheard := monitor.unheard:
            lines.append(
                f"{unheard} tasks of job {self.job_name} were sent to nodes that have not "
                "answered since: they may have started or not"
            )
        sys.stderr.writelines(f"allot: {line}\n" for line in lines)

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
