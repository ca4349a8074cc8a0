"""Files that are read again only when they have changed: a room full of nodes asks for the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

_T = TypeVar("_T")
_State = tuple[int, ...]


class Unchanged(Generic[_T]):
    """What files say, each as it is now; may be used from any thread."""

    def __init__(self, parse: Callable[[Path, bytes], _T]) -> None:
        """Prepare; nothing is read yet.

        Args:
            parse: Makes of a file's name and content what it says.
        """
        self._parse = parse
        self._known: dict[Path, tuple[_State, _T]] = {}

    def read(self, path: Path) -> _T:
        """What a file says; the same object as long as nobody changed it.

        Raises:
            OSError: It cannot be read.
        """
        known = self._known.get(path)
        if known is not None and known[0] == _state(path.stat()):
            return known[1]
        with path.open("rb") as file:
            state = _state(os.fstat(file.fileno()))
            said = self._parse(path, file.read())
        self._known[path] = state, said
        return said


def _state(said: os.stat_result) -> _State:
    return (said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns)
