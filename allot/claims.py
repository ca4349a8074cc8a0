"""Which task brought which result to the client: one file a job, a line a result.

Rules: a result is written down before it is put in its place, so that one that lies there is
known for the task's own after any end of the client. Lines that are torn count for nothing.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

# The end is marked, and each begins with a newline of its own: one that is torn spoils no other.
_LINE = re.compile(rb"(\d{1,18}) ([^ ]+) [.]")


def read_claims(file: Path) -> dict[Path, int]:
    """What is written down: the task, by its result.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    lines = (_LINE.fullmatch(line) for line in data.split(b"\n"))
    return {Path(os.fsdecode(unquote_to_bytes(one[2]))): int(one[1]) for one in lines if one}


class Claims:
    """The results of one job; may be used from any thread."""

    def __init__(self, file: Path) -> None:
        """Prepare; ``file`` is read when it is needed."""
        self._file = file
        self._lock = threading.Lock()
        self._owners: dict[Path, int] | None = None

    def take(self, path: Path, proc_id: int, *, may_replace: bool) -> str:
        """Write down that a result is a task's.

        Args:
            path: Where it goes.
            proc_id: The task.
            may_replace: Whether a file that lies there already may be replaced.

        Returns:
            Empty, or why it may not go there.

        Raises:
            OSError: It cannot be written down.
        """
        with self._lock:
            owners = self._read()
            owner = owners.get(path)
            if owner == proc_id:
                return ""
            if owner is not None:
                return f"task {owner} has brought {path} already: put {{proc_id}} into the name"
            if not may_replace and os.path.lexists(path):
                return f"{path} is here already, and not from this task: move it out of the way"
            _append(self._file, as_claim(path, proc_id))
            owners[path] = proc_id
            return ""

    def owner(self, path: Path) -> int | None:
        """The task that brought a result, or None.

        Raises:
            OSError: What is written down cannot be read.
        """
        with self._lock:
            return self._read().get(path)

    def _read(self) -> dict[Path, int]:
        if self._owners is None:
            self._owners = read_claims(self._file)
        return self._owners


def as_claim(path: Path, proc_id: int) -> bytes:
    """What the file gets for one result."""
    return f"\n{proc_id} {quote_from_bytes(os.fsencode(path))} .\n".encode()


def _append(file: Path, line: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(descriptor)
