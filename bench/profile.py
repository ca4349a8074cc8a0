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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.clients import job, with_asyncssh
from bench.rig import Site, client, sshd_site

_SLOTS = 4
_HZ = 250
_FEW = 100
_CALLS_SHOWN = 14
_PACKAGES = ("allot", "paramiko", "cryptography")
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
    if any("importlib" in frame for frame in frames):
        return "imports", "imports"
    for frame in reversed(frames):
        match = _FRAME.fullmatch(frame)
        file = Path(match["file"]) if match else Path()
        if match and file.parent.name in _PACKAGES:
            return file.parent.name, f"{file.parent.name}/{file.name} {match['function']}"
    return "other", frames[-1] if frames else "other"


def _show_nodes(site: Site, tasks: int) -> None:
    few, more = _FEW, _FEW + tasks // 4
    for name, program in (("Allot", job), ("asyncssh", with_asyncssh)):
        with _counted(site) as small:
            client(program.trivial, site, tasks=few, slots=_SLOTS)()
        with _counted(site) as large:
            client(program.trivial, site, tasks=more, slots=_SLOTS)()
        calls = {call: (large[call] - small[call]) / (more - few) for call in large}
        print(f"== on the nodes, a task of {name}: {_processes(calls)}")
        print(f"   {sum(calls.values()):.0f} system calls")
        for call, number in sorted(calls.items(), key=lambda one: -one[1])[:_CALLS_SHOWN]:
            print(f"   {number:6.1f} {call}")
        with _counted(site) as once:
            client(program.one_each, site)()
        each = {call: number / len(site.names) for call, number in once.items()}
        print(f"== on a node, {name} from login to logout with one task: {_processes(each)}")


def _processes(calls: Mapping[str, float]) -> str:
    forks = sum(calls.get(call, 0.0) for call in ("clone", "clone3", "fork", "vfork"))
    return f"{forks:.1f} forks, {calls.get('execve', 0.0):.1f} execve"


@contextmanager
def _counted(site: Site) -> Iterator[Counter[str]]:
    """Counts the system calls that succeed on the nodes, filled in at the end."""
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r") as file:
        argv = ["strace", "-f", "-c", "-U", "name,calls,errors", "-o", file.name]
        argv += [word for pid in site.servers for word in ("-p", str(pid))]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for _ in site.servers:
                process.stderr.readline()  # attached
            yield counts
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        for line in file.read().splitlines():
            name, *numbers = line.split() or [""]
            if numbers and numbers[0].isdecimal() and name != "total":
                calls, *errors = map(int, numbers)
                counts[name] += calls - sum(errors)
