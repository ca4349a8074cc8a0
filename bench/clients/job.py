"""Allot: jobs of short tasks."""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

from allot import Cluster, NodeProbe, NodeTaskConfig, Task
from allot.monitor import Monitor
from bench.figures import Figures
from bench.rig import Site

TIMEOUT_S = 1500.0
_PROBE = NodeProbe(max_load_per_cpu=None)


def make_cluster(
    site: Site, scratch: Path, line: str, *, probe: NodeProbe = _PROBE, **options: Any
) -> Cluster:
    """A job whose tasks all run ``line``; the nodes take as many as they are told to."""
    outputs = scratch / "out"

    def make_task(place: NodeTaskConfig) -> Task:
        return Task(line, output_file=outputs / f"{place.proc_id}.out", config=place)

    return Cluster(
        "bench",
        site.disk,
        make_task,
        node_file=site.node_file,
        ssh_config=site.ssh_config,
        oversubscribe=True,
        probe=probe,
        **options,
    )


def trivial(
    site: Site,
    scratch: Path,
    *,
    tasks: int,
    slots: int,
    shared_fs: bool | None = False,
    probe: NodeProbe = _PROBE,
) -> Figures:
    """From nothing to the last end: tasks that do nothing, ``slots`` of a node at once."""
    began = time.perf_counter()
    with make_cluster(
        site,
        scratch,
        "true",
        ntasks=tasks,
        ntasks_per_node=slots,
        shared_fs=shared_fs,
        probe=probe,
    ) as cluster:
        summary = cluster.wait(TIMEOUT_S, progress=False)
        took = time.perf_counter() - began
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    summary.raise_for_failures()
    rate = tasks / took
    return {"tasks": tasks, "took_s": took, "rate": rate, "threads": threads, "files": files}


def trivial_and_state(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:
    """The same, and what keeping the job's state took of the time.

    That is CPU time of the monitor's thread: to gather what changed counts, to wait for the disk
    does not.
    """
    kept, keep = 0.0, Monitor._keep

    def measured(monitor: Monitor, *, all_of: bool = False, durable: bool = False) -> None:
        nonlocal kept
        began = time.thread_time()
        try:
            keep(monitor, all_of=all_of, durable=durable)
        finally:
            kept += time.thread_time() - began

    with mock.patch.object(Monitor, "_keep", measured):
        figures = trivial(site, scratch, tasks=tasks, slots=slots)
    return {**figures, "state_pct": 100 * kept / figures["took_s"]}


def one_each(site: Site, scratch: Path) -> Figures:
    """Connect to every node, probe it, and run one task there."""
    figures = trivial(site, scratch, tasks=len(site.names), slots=1)
    return {**figures, "nodes": len(site.names)}


def one_each_of_many(site: Site, scratch: Path) -> Figures:
    """The same where the nodes are so many that the machine they share is slow to answer.

    The client begins with the usual soft limit of 1,024 open files.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    patient = NodeProbe(max_load_per_cpu=None, timeout=120.0, interval=3600.0)
    count = len(site.names)
    return {**trivial(site, scratch, tasks=count, slots=1, probe=patient), "nodes": count}


def launched(site: Site, scratch: Path) -> Figures:
    """From nothing to every node connected, probed and its task launched."""
    began = time.perf_counter()
    with make_cluster(site, scratch, "true", ntasks_per_node=1) as cluster:
        took = time.perf_counter() - began
        cluster.wait(TIMEOUT_S, progress=False).raise_for_failures()
    return {"nodes": len(site.names), "took_s": took}


def short(site: Site, scratch: Path, *, tasks: int, slots: int) -> Figures:
    """Tasks of 0.2 s, and the part of the slots' time in which none ran, from their own stamps."""
    line = "echo $EPOCHREALTIME; sleep 0.2; echo $EPOCHREALTIME"
    began = time.perf_counter()
    with make_cluster(site, scratch, line, ntasks=tasks, ntasks_per_node=slots) as cluster:
        summary = cluster.wait(TIMEOUT_S, progress=False)
    took = time.perf_counter() - began
    summary.raise_for_failures()
    times: dict[tuple[int | None, int | None], list[tuple[float, float]]] = {}
    for task in summary.tasks:
        start, end = map(float, (scratch / f"out/{task.proc_id}.out").read_text().split())
        times.setdefault((task.node_id, task.local_id), []).append((start, end))
    span = sum(max(end for _, end in each) - min(each)[0] for each in times.values())
    busy = sum(end - start for each in times.values() for start, end in each)
    return {"tasks": tasks, "took_s": took, "idle_pct": 100 * (1 - busy / span)}
