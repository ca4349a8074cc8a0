"""Allot: jobs whose tasks run for long and tell their progress, watched for a while.

The step of a marker is the time at which it was written, in milliseconds, so how late a bar is
can be told from the bar. The tasks take no process for their pauses, and end when a file appears.
"""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from allot import Cluster
from bench.clients.job import TIMEOUT_S, make_cluster
from bench.figures import Figures
from bench.rig import Site

_TOTAL = 99_999_999
_BURST = r"printf -v burst '\002%d/{total}\003' {{1..{more}}}"
_FIRST_STEP = 1000  # those of a burst are less, and one may be seen while it is being written
_LOOK_S = 0.05
_SETTLE_S = 3.0
_TALK = r"""
exec {{clock}}<> <(:)
{burst}
until [[ -e {stop} ]]; do
  now=${{EPOCHREALTIME/[.,]/}}
  printf '%s\002%d/{total}\003' "$burst" $((now / 1000 - {base}))
  read -rt {pause} -u $clock
done
true
"""


@contextmanager
def talking(
    site: Site,
    scratch: Path,
    *,
    slots: int,
    markers_per_s: int = 1,
    **options: Any,
) -> Iterator[tuple[Cluster, int]]:
    """A job that talks on all slots of all nodes.

    Yields:
        The cluster, once every bar has moved; and the time that is step 0, in milliseconds.
    """
    base = int(time.time() * 1000) - _FIRST_STEP
    stop = scratch / "stop"
    pause = _pause(markers_per_s)
    burst = round(markers_per_s * pause)
    line = _TALK.format(
        total=_TOTAL,
        burst=_BURST.format(total=_TOTAL, more=burst - 1) if burst > 1 else "burst=",
        stop=stop,
        base=base,
        pause=pause,
    )
    count = len(site.names) * slots
    with make_cluster(
        site, scratch, line, ntasks=count, ntasks_per_node=slots, **options
    ) as cluster:
        try:
            _wait_until_all_moved(cluster)
            time.sleep(_SETTLE_S)
            yield cluster, base
        finally:
            stop.touch()
            cluster.wait(TIMEOUT_S, progress=False)


def _pause(markers_per_s: int) -> float:
    """Seconds between two times at which a task writes; many markers go out at once."""
    return 1.0 if markers_per_s == 1 else 0.1


def _wait_until_all_moved(cluster: Cluster) -> None:
    give_up = time.monotonic() + TIMEOUT_S
    while any(task.progress is None for task in cluster.tasks):
        if time.monotonic() > give_up:
            raise TimeoutError("not every task told its progress")
        time.sleep(0.5)


def polled(
    site: Site,
    scratch: Path,
    *,
    slots: int,
    seconds: float,
    markers_per_s: int = 1,
    shared_fs: bool = False,
) -> Figures:
    """What it costs to follow the tasks, and how late they are seen; one after the other."""
    with talking(site, scratch, slots=slots, markers_per_s=markers_per_s, shared_fs=shared_fs) as (
        cluster,
        base,
    ):
        count = len(cluster.tasks)
        size, wire = _written(scratch), wire_bytes()
        core = core_pct(seconds)
        polls = count * seconds
        wire_each = (wire_bytes() - wire) / polls
        new_each = (_written(scratch) - size) / polls
        late = sorted(_lateness(cluster, base, seconds, markers_per_s))
    return {
        "tasks": count,
        "core_pct": core,
        "wire_bytes": wire_each,
        "new_bytes": new_each,
        "wire_ratio": wire_each / (2 * new_each + 300),
        "late_p50_s": late[len(late) // 2],
        "late_p99_s": late[len(late) * 99 // 100],
        "late_max_s": late[-1],
    }


def core_pct(seconds: float) -> float:
    """How much of a core this process takes over the next seconds, in per cent."""
    began, used = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    return 100 * (time.process_time() - used) / (time.perf_counter() - began)


def wire_bytes() -> int:
    """All that went over this process's TCP connections so far, both ways (tcp(7), TCP_INFO)."""
    total = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as each:
                info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        except OSError:  # no socket, no TCP, or gone
            continue
        total += sum(struct.unpack_from("QQ", info, 120))  # acknowledged, received
    return total


def _written(scratch: Path) -> int:
    return sum(file.stat().st_size for file in (scratch / "out").glob("*.out"))


def _lateness(cluster: Cluster, base: int, seconds: float, markers_per_s: int) -> Iterator[float]:
    """Seconds from written to seen, for each marker; those that a later one overtook count too."""
    period = _pause(markers_per_s)
    seen: dict[int, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_LOOK_S)
        now, tasks = time.time() - base / 1000, cluster.tasks
        for task in tasks:
            if task.progress is None or task.progress.step < _FIRST_STEP:
                continue
            before, step = seen.get(task.proc_id), task.progress.step
            if step == before:
                continue
            seen[task.proc_id] = step
            if before is None:  # nobody saw when it came
                continue
            for overtaken in range(max(1, round((step - before) / 1000 / period))):
                yield now - step / 1000 + overtaken * period


def idle(site: Site, scratch: Path, *, slots: int, seconds: float) -> Figures:
    """What a job costs whose tasks print nothing."""
    gate = scratch / "gate"
    os.mkfifo(gate, 0o666)
    count = len(site.names) * slots
    # To open it waits until somebody writes.
    with make_cluster(
        site, scratch, f": < {gate}", ntasks=count, ntasks_per_node=slots, shared_fs=False
    ) as cluster:
        give_up = time.monotonic() + TIMEOUT_S
        while any(task.started_at is None for task in cluster.tasks):
            if time.monotonic() > give_up:
                raise TimeoutError("not every task started")
            time.sleep(0.5)
        time.sleep(_SETTLE_S)
        wire = wire_bytes()
        core = core_pct(seconds)
        wire_each = (wire_bytes() - wire) / (count * seconds)
        with gate.open("w"):
            cluster.wait(TIMEOUT_S, progress=False)
    return {"tasks": count, "core_pct": core, "wire_bytes": wire_each}


def drawn(site: Site, scratch: Path, *, slots: int, seconds: float, lines: int) -> Figures:
    """What drawing takes of a core, on a terminal of so many lines: the drawing thread's time."""
    with talking(site, scratch, slots=slots, shared_fs=False) as (cluster, _):
        with _terminal(lines):
            began = time.perf_counter()
            shown = _waited_cpu_s(cluster, seconds, progress=True)
            took = time.perf_counter() - began
        silent = _waited_cpu_s(cluster, seconds, progress=False)
    return {"tasks": len(cluster.tasks), "core_pct": 100 * (shown - silent) / took}


def _waited_cpu_s(cluster: Cluster, seconds: float, *, progress: bool) -> float:
    used = time.thread_time()
    try:
        cluster.wait(seconds, progress=progress)
    except TimeoutError:
        return time.thread_time() - used
    raise RuntimeError("the tasks ended too early")


@contextmanager
def _terminal(lines: int) -> Iterator[None]:
    """Stdout and stderr on a terminal that somebody else reads."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 120, 0, 0))
    saved = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    reader = subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL)
    os.close(master)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(slave, stream.fileno())
    os.close(slave)
    try:
        yield
    finally:
        for stream, fd in zip((sys.stdout, sys.stderr), saved, strict=True):
            stream.flush()
            os.dup2(fd, stream.fileno())
            os.close(fd)
        reader.wait(10)
