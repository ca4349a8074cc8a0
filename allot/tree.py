"""Files and directories of the client's that go to the nodes: what they are made of.

Rules: nothing is read but names and what the file system says of them. Links stay links where
they lead to something in the same tree; one that leads out is refused, since it would mean
something else, or nothing, on a node. A source itself may be a link: the user named it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from allot import paths
from allot.errors import ConfigError
from allot.model import Params
from allot.staging import Entry, Source, as_mtime, check_names, sources_of
from allot.template import names_in


def scan(source: Source, leave_out: Collection[Path] = ()) -> tuple[Entry, ...]:
    """Every file, link and empty directory of a source, in the order of their names.

    Args:
        source: What to look at.
        leave_out: Directories that are not gone into, such as the job's outputs.

    Raises:
        ConfigError: It is not there, cannot be read, or holds a link that leads out of it.
    """
    try:
        mode = source.path.stat().st_mode
        if stat.S_ISDIR(mode):
            return tuple(_walk(source, {os.path.realpath(one) for one in leave_out}))
        if stat.S_ISREG(mode):
            return (_file(source.path, source.name),)
    except OSError as error:
        raise ConfigError(
            f"stage_in: {error.filename or source.path}: {error.strerror or error}"
        ) from error
    raise ConfigError(
        f"stage_in: {source.path} is neither a file nor a directory: write it to a file first"
    )


def _walk(source: Source, leave_out: Collection[str]) -> Iterator[Entry]:
    root = os.path.realpath(source.path)
    folders = [("", "" if source.name == "." else f"{source.name}/")]
    while folders:
        within, prefix = folders.pop()
        with os.scandir(source.path / within) as found:
            members = sorted(found, key=lambda one: one.name)
        if prefix and not members:
            yield Entry(source.path / within, prefix.removesuffix("/"), 0, 0, 0o777, "")
        for one in members:
            path, name = source.path / within / one.name, f"{prefix}{one.name}"
            place = os.path.join(within, one.name)
            if one.is_symlink():
                yield _link(path, name, root, place)
            elif one.is_dir():
                if os.path.join(root, place) not in leave_out:
                    folders.append((place, f"{name}/"))
            elif one.is_file():
                yield _file(path, name)


def _file(path: Path, name: str) -> Entry:
    if not os.access(path, os.R_OK):
        raise PermissionError(None, "it cannot be read", str(path))
    said = path.stat()
    return Entry(path, name, said.st_size, as_mtime(said.st_mtime_ns), stat.S_IMODE(said.st_mode))


def _link(path: Path, name: str, root: str, place: str) -> Entry:
    """A link at a place of the tree below ``root``."""
    target = os.path.realpath(path)
    if os.path.commonpath((target, root)) != root or not os.path.exists(target):
        raise ConfigError(
            f"stage_in: {path} is a link that leads out of {root}, or nowhere: name what it "
            "stands for in stage_in as well, or put a copy in its place"
        )
    said = os.readlink(path)
    folder = os.path.dirname(place)
    if os.path.isabs(said) or os.path.normpath(f"./{folder}/{said}").split("/")[0] == "..":
        # On a node it would lead elsewhere, though it comes back here.
        said = os.path.relpath(target, os.path.join(root, folder))
    return Entry(path, name, 0, 0, 0o777, said)


class Trees:
    """What the sources of a job are made of, for all its nodes; each is looked at once.

    A later attempt of a task looks anew: what was changed for it must go along.
    """

    def __init__(self, leave_out: Collection[Path]) -> None:
        """Prepare; ``leave_out`` are directories that are not gone into.

        One of them may be a source all the same; what Allot keeps in it never goes along.
        """
        self._leave_out = [*leave_out, *map(paths.state_directory, leave_out)]
        self._lock = threading.Lock()
        self._known: dict[tuple[Source, int], tuple[Entry, ...]] = {}

    def entries(self, source: Source, attempt: int) -> tuple[Entry, ...]:
        """See :func:`scan`; may be called from any thread.

        Raises:
            ConfigError: It is not there, cannot be read, or holds a link that leads out of it.
        """
        with self._lock:
            key = source, attempt
            if key not in self._known:
                self._known[key] = scan(source, self._leave_out)
            return self._known[key]

    def check(self, texts: Sequence[str], start: Path, params: Sequence[Params]) -> None:
        """See to it that all is there that the tasks of a job need, as far as it is known yet.

        Args:
            texts: The paths as the user wrote them.
            start: The directory that relative ones count from.
            params: The tasks' parameters.

        Raises:
            ConfigError: Something is not there, cannot be read, or two would arrive as one.
        """
        seen: dict[str, Source] = {}
        for proc_id, one in enumerate(params):
            check_names(sources_of(texts, start, {"proc_id": proc_id}, one), seen)
        for source in seen.values():
            if not names_in(str(source.path)):
                self.entries(source, 0)
