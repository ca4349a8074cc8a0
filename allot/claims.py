"""Which task brought which result to the client: one file a job, a line a result.

Rules: a result is written down before it is put in its place, so that one that lies there is
known for the task's own after any end of the client. Lines that are torn count for nothing.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes


def read_claims(file: Path) -> dict[Path, int]:
    """What is written down: the task, by its result.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    found: dict[Path, int] = {}
    for line in data.split(b"\n")[:-1]:
        proc_id, _, name = line.decode("ascii", "replace").partition(" ")
        if proc_id.isdecimal() and name:
            found[Path(os.fsdecode(unquote_to_bytes(name)))] = int(proc_id)
    return found


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
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, as_claim(path, proc_id))
            finally:
                os.close(descriptor)
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
    """One line of the file."""
    return f"{proc_id} {quote_from_bytes(os.fsencode(path))}\n".encode()
