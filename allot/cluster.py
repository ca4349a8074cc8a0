"""The front of Allot: a job on a cluster of nodes, from its start to its end.

Rules: wiring and life span only. What is decided is decided in ``scheduler`` and ``lifecycle``,
what is done is done by ``monitor`` and ``driver``.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from allot import paths
from allot import previous as previous_jobs
from allot.errors import ConfigError, JobExistsError
from allot.front import Front
from allot.launcher import TaskFactory, choose_factory
from allot.lease import Lease
from allot.model import NodeSpec, NodeStatus, Params
from allot.muster import Muster
from allot.outfit import Charter, Outfit
from allot.post import Post, find_state_file
from allot.probe import NodeProbe
from allot.progress import say
from allot.records import TaskRecord
from allot.roster import config_path, make_room_for, read_specs
from allot.settings import Settings, as_directory, as_distribution, as_lines, as_texts, as_variables
from allot.statefile import Head, write_snapshot
from allot.store import StoredState, write_whole
from allot.template import as_ntasks, as_params
from allot.units import as_bytes, as_seconds

_MOST_WORKERS = 128
_HEAR_S = 60.0
_CLOSE_S = 5.0
_CLEAN_UP_S = 5.0
_CANCEL_S = 60.0


class Cluster(Front):
    """A job: tasks on nodes, launched when it is made, watched until it is closed.

    Making one connects to the nodes, probes them and launches the first wave of tasks; it
    returns while they run. Tasks that find no free slot wait and are started as slots get free.

    Attributes:
        job_id: Identifier of this run of the job.
        job_name: Name of the job.
        output_dir: Where outputs go, absolute.
        state_file: What is remembered of the job, kept up to date by itself.

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
        task_factory: TaskFactory | None = None,
        *,
        command: str | None = None,
        params: Iterable[Params] | None = None,
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
        shared_cwd: str | Path | None = None,
        login_shell: bool = False,
        nice: int = 0,
        env: Mapping[str, object] | None = None,
        export: str | Iterable[str] = (),
        probe: NodeProbe | None = None,
        wait_for_nodes: float = 0.0,
        node_timeout: float | None = None,
        shared_fs: bool | None = None,
        stage_in: str | Path | Iterable[str | Path] = (),
        collect: str | Iterable[str] = (),
        collect_to: str | Path | None = None,
        poll_interval: float = 1.0,
        ssh_config: str | Path | None = None,
        progress_pattern: str = "allot",
        max_bars: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Connect, probe, and launch the first wave.

        Args:
            job_name: Name of the job.
            output_dir: Where outputs go; made where it is missing, on the nodes too.
            task_factory: Makes each task when it is given its place; never called twice at once.
            command: Instead: a Bash line. ``{name}`` stands for an entry of the task's ``params``,
                ``{line}`` for one that is no dict, and ``{proc_id}``, ``{node_id}``,
                ``{local_id}``, ``{node_name}`` for its place; each is quoted by itself.
            params: A dict or a scalar for each task.
            node_file: A host file, one node a line.
            nodes: Instead: a hostlist such as ``"ws[01-12],g2"``, or host file lines. Neither: the
                nodes of the Slurm allocation one is in.
            nnodes: How many nodes to use: the first that pass the probe, the others are spares.
                None: all that pass.
            ntasks: Tasks in all. None: one for each of ``params``, else as many as there are
                slots.
            ntasks_per_node: Slots per node. None: the host file's ``slots=``, else with
                ``ntasks`` or ``params`` the node's CPUs divided by ``cpus_per_task``, else 1.
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
            shared_cwd: Where they start instead, without ``cwd``, on nodes that share
                ``output_dir``.
            login_shell: Read the user's profile first, so that ``module`` and conda are there.
            nice: Niceness of every task, -20 to 19.
            env: Variables for every task.
            export: ``"slurm"`` or ``"torch"`` for the variables that ``srun`` and ``torchrun``
                set, or names of variables to pass on.
            probe: When a node may be used.
            wait_for_nodes: Seconds to keep probing while too few nodes pass.
            node_timeout: Seconds without contact after which a node's tasks are NODE_FAIL; None:
                never. One that is retried then may overlap with its old self, which is killed
                when its node returns.
            shared_fs: Whether the nodes share ``output_dir`` with the client. None: find out.
            stage_in: Files and directories of the client's that are put under the directory where
                tasks start, on each node used, before they start; placeholders are filled as in
                ``command``. Without ``cwd`` that is a directory of the job's own.
            collect: Patterns of results, counted from there (``results/*.npz``), with
                placeholders; they are brought to ``output_dir/<proc_id>/`` when a task has ended,
                before it is COMPLETED. One that matches nothing fails the task.
            collect_to: Bring them to this directory instead; a task whose result would replace
                another's file fails.
            poll_interval: Seconds between two looks at a running task's output.
            ssh_config: The OpenSSH client configuration to obey. None: the user's own.
            progress_pattern: How tasks tell their progress: ``"allot"`` by its markers, ``"tqdm"``
                by the bars of tqdm, or a regular expression with groups ``step`` and ``total``.
            max_bars: Most task bars shown at once. None: what fits the screen.
            overwrite: Cancel a job of this name in ``output_dir`` that is not over, first.
            resume: Keep the tasks that completed in an earlier job of this name, and run the
                others.

        Raises:
            ConfigError: An argument makes no sense.
            JobExistsError: A job of this name in ``output_dir`` is not over.
            StateFileError: What should be the state of an earlier job cannot be read.
            NodeFileError: The host file or hostlist does not follow the grammar.
            TaskConfigError: The factory returned what cannot be launched.
            NotEnoughNodesError: Too few nodes passed the probe.
            Exception: Whatever the factory raised in the first wave; nothing was launched then.
        """
        if probe is not None and not isinstance(probe, NodeProbe):
            raise ConfigError(f"probe must be a NodeProbe, not {probe!r}")
        tasks_params = None if params is None else as_params(params)
        task_factory = choose_factory(task_factory, command, tasks_params)
        exported = as_lines("export", export)
        settings = Settings(
            job_name=job_name,
            output_dir=as_directory("output_dir", output_dir),
            nnodes=nnodes,
            ntasks=as_ntasks(ntasks, tasks_params),
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
            shared_cwd=None if shared_cwd is None else str(shared_cwd),
            login_shell=login_shell,
            nice=nice,
            env=as_variables(env or {}, exported, os.environ),
            export=exported,
            wait_for_nodes=wait_for_nodes,
            node_timeout=node_timeout,
            shared_fs=shared_fs,
            poll_interval=poll_interval,
            max_bars=max_bars,
            command=command,
            progress_pattern=progress_pattern,
            stage_in=as_texts("stage_in", stage_in),
            stage_from=Path.cwd() if stage_in else None,
            collect=as_texts("collect", collect),
            collect_to=None if collect_to is None else as_directory("collect_to", collect_to),
        )
        super().__init__(settings, time.time())
        job_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        charter = Charter(
            job_id,
            settings,
            probe or NodeProbe(),
            read_specs(node_file, nodes),
            config_path(ssh_config),
            tasks_params,
        )
        state_file = paths.state_file(settings.output_dir, job_name)
        self._set_up(settings, job_id, state_file, len(charter.specs))
        try:
            self._begin(charter, task_factory, overwrite=overwrite, resume=resume)
        except BaseException as error:
            self._leave(error)
            raise

    def _set_up(self, settings: Settings, job_id: str, state_file: Path, nnodes: int) -> None:
        make_room_for(nnodes)
        self.job_id = job_id
        self.output_dir = settings.output_dir
        self.state_file = state_file
        self._pool = ThreadPoolExecutor(min(nnodes + 1, _MOST_WORKERS), "allot")
        self._outfit: Outfit | None = None

    def _begin(
        self, charter: Charter, task_factory: TaskFactory, *, overwrite: bool, resume: bool
    ) -> None:
        state_file = self.state_file
        cancel = (lambda: self._cancel_previous(charter.ssh_config)) if overwrite else None
        previous = previous_jobs.settle(state_file, cancel=cancel, resume=resume)
        kept: Mapping[int, TaskRecord] = {}
        if previous is not None and resume:
            kept = previous_jobs.completed(previous, charter.params)
        self._outfit = Outfit(charter, self._pool)
        self._outfit.check_files()
        muster = Muster(self._outfit, self._pool)

        def claim() -> Lease:
            return previous_jobs.take_over(state_file, charter.job_id, previous, kept)

        used = muster.gather()
        monitor = muster.launch(used, task_factory, state_file, claim, kept)
        self._post = Post(
            state_file, self._pool, task_factory=task_factory, ssh_config=charter.ssh_config
        )
        self._post.take(monitor, self._outfit)
        for warning in muster.warnings:
            say(warning)
        monitor.wait_until_heard(_HEAR_S)
        self._driving()

    def _cancel_previous(self, ssh_config: Path | None) -> None:
        with Cluster.load(self.state_file, ssh_config=ssh_config) as old:
            old.cancel()
            try:
                old.wait(_CANCEL_S, progress=False)
            except TimeoutError as error:
                raise JobExistsError(
                    f"job {self.job_name} in {self.output_dir} was cancelled, but is not over "
                    f"yet: {error}"
                ) from error

    @classmethod
    def load(
        cls,
        path: str | Path,
        task_factory: TaskFactory | None = None,
        *,
        job_name: str | None = None,
        ssh_config: str | Path | None = None,
        start_waiting: bool = True,
    ) -> Cluster:
        """Pick a job up again: one whose client ended, or another client's.

        Its nodes are connected to, and what happened meanwhile is read there: tasks that run are
        found with their progress, those that ended with their exit codes and outputs. Tasks that
        wait are started where there is a ``task_factory``. Where another client drives the job,
        this one watches it and hands its orders on, and takes its place when that one is gone.

        Args:
            path: The job's output directory, or its state file.
            task_factory: Makes the tasks that wait. None: they go on waiting, unless the job has
                a ``command``.
            job_name: Which job, where the directory holds several.
            ssh_config: The OpenSSH client configuration to obey. None: the one it began with.
            start_waiting: False: start nothing, to have a look or give orders; it returns when
                each node was heard of or is out of reach.

        Raises:
            StateFileError: There is no job, or its state cannot be read; it is left as it is.
            ConfigError: The ssh configuration makes no sense.
        """
        if task_factory is not None and not callable(task_factory):
            raise ConfigError(f"task_factory must be a function, not {task_factory!r}")
        state_file = find_state_file(Path(os.path.abspath(Path(path).expanduser())), job_name)
        stored = StoredState(state_file)
        job = stored.remembered.job
        if not start_waiting:
            task_factory = None
        elif task_factory is None and job.settings.command is not None:
            task_factory = choose_factory(None, job.settings.command, job.params)
        cluster = cls.__new__(cls)
        Front.__init__(cluster, job.settings, job.created)
        cluster._set_up(job.settings, job.job_id, state_file, len(job.specs))
        post = Post(
            state_file,
            cluster._pool,
            task_factory=task_factory,
            ssh_config=None if ssh_config is None else config_path(ssh_config),
        )
        try:
            post.take_up(stored)
        except BaseException:
            cluster.close()
            raise
        cluster._post = post
        if not start_waiting and post.watched is not None:
            post.watched.wait_until_heard(_HEAR_S)
        if post.notice:
            say(f"job {cluster.job_name} {post.notice}")
        return cluster

    def save(self, path: str | Path | None = None) -> None:
        """Write the job's state down, which happens by itself all the time.

        Args:
            path: Write a copy of all of it there, to look at later; ``load`` shows it, but no
                job can be driven by it. None: see to it that the state file is up to date.

        Raises:
            AllotError: The job is not watched any more, or its state cannot be written.
            OSError: The copy cannot be written.
        """
        state = self._driving().save()
        if path is not None:
            copy = Path(path).expanduser()
            write_whole(copy, write_snapshot(state, Head(copy_of=str(self.state_file))), "copy")

    @property
    def nodes(self) -> list[NodeStatus]:
        """Every node as it was last seen: those used by ``node_id``, then the others."""
        watched = self._watched
        used = [] if watched is None else list(watched.nodes)
        outfit = self._means
        return used + ([] if outfit is None else outfit.others({one.name for one in used}))

    @property
    def sharing(self) -> dict[str, bool]:
        """Whether the nodes used share ``output_dir`` with this machine, by name, where known."""
        return {} if self._means is None else self._means.sharing

    @property
    def _means(self) -> Outfit | None:
        return self._outfit if self._post is None else self._post.outfit

    def close(self, *, tell: bool = True) -> None:
        """Detach: stop watching and hang up; what runs goes on. Idempotent.

        What a job that is over has left on its nodes is removed.

        Args:
            tell: Say on stderr what waits.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        watched = None if self._post is None else self._post.leave()
        with ExitStack() as stack:
            stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
            if watched is not None:
                stack.callback(watched.release)
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            if self._outfit is not None:
                stack.callback(self._outfit.hang_up)
            if watched is not None:
                stack.callback(watched.hang_up)
                if tell:
                    stack.callback(self._tell_what_is_left, watched)
                stack.callback(watched.stop, _CLOSE_S)
                stack.callback(watched.clean_up, _CLEAN_UP_S)
                stack.callback(watched.hold, _CLOSE_S)
            stack.callback(self._close_board)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(error)
