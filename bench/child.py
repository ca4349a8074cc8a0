"""Runs one measurement in a process of its own, so that its CPU time and memory are the client's.

``python -m bench.child FD``, with a pickled call on stdin; what it found goes pickled to FD.
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sandbox import MARK, session

from bench.figures import Figures

_TIMEOUT_S = 1800.0


class MeasurementError(RuntimeError):
    """A measurement did not come to its end."""


def run(
    function: Callable[..., Figures],
    *arguments: Any,
    under: Sequence[str] = (),
    **options: Any,
) -> Figures:
    """Call a function of ``bench.clients`` in a process of its own.

    Args:
        function: What to call.
        arguments: For the function.
        under: A command line that runs the process, such as a profiler's.
        options: For the function.

    Returns:
        Its figures, and the process's own: ``cpu_s`` and ``peak_mb`` unless it has them.

    Raises:
        MeasurementError: It failed, or took half an hour; with the end of what it said.
    """
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        fd = answer.fileno()
        process = subprocess.Popen(
            [*under, sys.executable, "-m", "bench.child", str(fd)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            pass_fds=[fd],
            env={**os.environ, MARK: session().new_mark()},
        )
        try:
            process.communicate(pickle.dumps((function, arguments, options)), _TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{function.__module__} took {_TIMEOUT_S:g} s") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-4000:]
            raise MeasurementError(f"{function.__module__}: {end}")
        answer.seek(0)
        figures: Figures = pickle.load(answer)
        return figures


def main(answer: str) -> None:
    """Do one measurement, as this process's only work."""
    function, arguments, options = pickle.load(sys.stdin.buffer)
    figures = function(*arguments, **options)
    used = resource.getrusage(resource.RUSAGE_SELF)
    own = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": _peak_mb()}
    with os.fdopen(int(answer), "wb") as file:
        pickle.dump({**own, **figures}, file)


def _peak_mb() -> float:
    """The most memory this program held; getrusage would count what it was forked from."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise MeasurementError("the kernel does not tell VmHWM in /proc/self/status")
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(sys.argv[1])
