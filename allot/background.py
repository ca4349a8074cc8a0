"""A client of its own that goes on with a job after the one that began it has left.

Rules: it is what ``allot attach`` is, in a session of its own; what it says goes into a log.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from allot import paths
from allot.errors import AllotError
from allot.progress import say

# As ``python -m allot``, but the directory one stands in is not looked in: a user's own random.py
# or allot/ there would be taken for what is meant.
_PROGRAM = (
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv.pop(1)]; "
    "from allot.cli import main; sys.exit(main())"
)


def attach_command(output_dir: Path, job_name: str) -> list[str]:
    """The words that come back to a job."""
    return ["allot", "attach", str(output_dir), "--job-name", job_name]


def start(output_dir: Path, job_name: str) -> None:
    """Start it, and say so.

    Raises:
        AllotError: It cannot be started, or its log not be written.
    """
    log = paths.log_file(output_dir, job_name)
    words = attach_command(output_dir, job_name)
    try:
        process = _start(words[1:], log)
    except OSError as error:
        raise AllotError(
            f"no client can be started in the background: {error.filename or log}: "
            f"{error.strerror}; what runs goes on, what waits starts with: {shlex.join(words)}"
        ) from error
    say(f"job {job_name} goes on under process {process.pid}, which writes to {log}")
    say(f"to see it: {shlex.join(words)}; to end it: {shlex.join(['allot', 'cancel', *words[2:]])}")
    if "SSH_AUTH_SOCK" in os.environ and "SSH_CONNECTION" in os.environ:
        say(
            "the ssh agent here is forwarded and ends with this session: where a connection breaks "
            "after that, nobody can log in again; a key on this machine can"
        )


def _start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[1]), *words],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
