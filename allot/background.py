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
from allot.progress import say


def attach_command(output_dir: Path, job_name: str) -> list[str]:
    """The words that come back to a job."""
    return ["allot", "attach", str(output_dir), "--job-name", job_name]


def start(output_dir: Path, job_name: str) -> None:
    """Start it, and say so.

    Raises:
        OSError: It cannot be started, or its log not be written.
    """
    log = paths.log_file(output_dir, job_name)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    words = attach_command(output_dir, job_name)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    say(f"job {job_name} goes on under process {process.pid}, which writes to {log}")
    say(f"to see it: {shlex.join(words)}; to end it: {shlex.join(['allot', 'cancel', *words[2:]])}")
    if "SSH_AUTH_SOCK" in os.environ and "SSH_CONNECTION" in os.environ:
        say(
            "the ssh agent here is forwarded and ends with this session: where a connection breaks "
            "after that, nobody can log in again; a key on this machine can"
        )
