"""Where the time of the first row goes: the client's by whose code it is, the nodes' by calls.

The client is sampled by py-spy, all threads, whenever one holds the interpreter; each sample is of
the innermost package that is ours or paramiko's. The nodes' processes and system calls are counted
by strace over two sizes of the job, so that what is spent once falls out. Both slow down what they
look at: shares and counts are of use, times are not.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.clients import job, with_asyncssh
from bench.rig import Site, client, sshd_site

_SLOTS = 4
_HZ = 250
_FEW = 100
_CALLS_SHOWN = 14
_FRAME = re.compile(r"(?P<function>.+?) \((?P<file>.+?)(?::\d+)?\)")


def show(tasks: int) -> None:
    """Print where the time of a job of so many trivial tasks goes."""
    with sshd_site(8) as site:
        figures = client(job.trivial, site, tasks=tasks, slots=_SLOTS)()
        print(f"== {tasks} tasks in {figures['took_s']:.2f} s, CPU time a task:")
        print(f"   client {1e3 * figures['cpu_s'] / tasks:.2f} ms", end=", ")
        print(f"nodes {1e3 * figures['nodes_cpu_s'] / tasks:.2f} ms")
        _show_client(site, tasks)
        if shutil.which("strace"):
            _show_nodes(site, tasks)


def _show_client(site: Site, tasks: int) -> None:
    stacks = site.directory / "stacks"
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--threads", "--rate"]
    spy += [str(_HZ), "--format", "raw", "--full-filenames", "--output", str(stacks), "--"]
    client(job.trivial, site, under=spy, tasks=tasks, slots=_SLOTS)()
    owners: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        thread, *frames = stack.split(";")
        owner, module = _owner(frames)
        owners[owner] += int(samples)
        modules[module] += int(samples)
        threads[_kind(thread)] += int(samples)
    for title, found in (("code", owners), ("module", modules), ("thread", threads)):
        print(f"== the client's samples by {title}")
        for name, times in found.most_common(_CALLS_SHOWN):
            print(f"   {times / found.total():6.1%} {name}")


def _kind(thread: str) -> str:
    """``allot-ssh`` for ``thread (4711): allot-ssh-nd06``."""
    return re.sub(r"[-_]?(nd)?\d+.*", "", thread.partition(": ")[2]) or "other"


def _owner(frames: list[str]) -> tuple[str, str]:
    """Whose a sample is, and in which module and function it was taken."""
    for frame in reversed(frames):
        match = _FRAME.fullmatch(frame)
        if match is None:
            continue
        file = Path(match["file"])
        for package in ("allot", "paramiko", "cryptography"):
            if file.parent.name == package:
                return package, f"{package}/{file.name} {match['function']}"
    starting = any("importlib" in frame for frame in frames)
    return "imports" if starting else "other", frames[-1] if frames else "other"


def _show_nodes(site: Site, tasks: int) -> None:
    for name, function in (("Allot", job.trivial), ("asyncssh", with_asyncssh.trivial)):
        counts = []
        for count in (_FEW, _FEW + tasks // 4):
            with _counted(site) as calls:
                client(function, site, tasks=count, slots=_SLOTS)()
            counts.append(calls)
        few, more = counts
        each = {call: (more[call] - few[call]) / (tasks // 4) for call in more}
        print(f"== system calls on the nodes, a task of {name}: {sum(each.values()):.0f} in all")
        forks = sum(each.get(call, 0.0) for call in ("clone", "clone3", "fork", "vfork"))
        print(f"   {forks:.2f} forks, {each.get('execve', 0.0):.2f} execve")
        for call, each_task in sorted(each.items(), key=lambda one: -one[1])[:_CALLS_SHOWN]:
            print(f"   {each_task:6.1f} {call}")


@contextmanager
def _counted(site: Site) -> Iterator[Counter[str]]:
    """Counts the system calls of everything on the nodes, filled in at the end."""
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r") as file:
        argv = ["strace", "-f", "-c", "-U", "name,calls", "-o", file.name]
        argv += [word for pid in site.servers for word in ("-p", str(pid))]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for _ in site.servers:
                process.stderr.readline()  # attached
            yield counts
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        for line in file.read().splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdecimal() and words[0] != "total":
                counts[words[0]] += int(words[1])
