"""What goes to the nodes before a task, and comes back after it: names, patterns, comparisons.

Rules: pure. Every name is checked here: nothing leaves the task's working directory on a node,
nor the directory for its results on the client. A relative path keeps its directories; an
absolute one arrives by its last name.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

from allot.errors import ConfigError
from allot.model import Params
from allot.template import fill_text, values_of

Identity: TypeAlias = "tuple[int, int] | str"
"""What tells whether a file is still the same: size and time (Unix seconds), or a link's target."""

_PLAIN_IN_PATTERN = re.compile(r"[\w./*?\[\]!^:-]", re.ASCII)
_SIZE_AND_TIME = re.compile(r"(\d{1,19})-(-?\d{1,11})", re.ASCII)

_KINDS = ("S", "C")
_MOST_TIME = (1 << 32) - 1  # SFTP's third version knows no other times


@dataclass(frozen=True)
class Source:
    """A file or directory of the client's that a task needs.

    Attributes:
        path: Where it is here, absolute.
        name: Where it goes, below the task's working directory; ``.`` for a directory whose
            content goes right there.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Entry:
    """One file, symbolic link or empty directory of a source.

    Attributes:
        path: Where it is on the client.
        name: Where it goes, below the task's working directory.
        size: Bytes; 0 for what is no file.
        mtime: Last change, Unix seconds.
        mode: Its permissions.
        target: What a link says, empty for a directory, None for a file.
    """

    path: Path
    name: str
    size: int
    mtime: int
    mode: int
    target: str | None = None

    @property
    def identity(self) -> Identity:
        """What tells whether it is still the same."""
        return (self.size, self.mtime) if self.target is None else self.target


@dataclass(frozen=True)
class Found:
    """A result that lies on a node.

    Attributes:
        name: Its place below the task's working directory.
        size: Bytes.
        mtime: Last change, Unix seconds on the node's clock.
        mode: Its permissions.
    """

    name: str
    size: int
    mtime: int
    mode: int


def as_mtime(nanoseconds: int) -> int:
    """A time as it is set on a node and compared with what lies there: whole Unix seconds."""
    return min(max(nanoseconds // 1_000_000_000, 0), _MOST_TIME)


def as_source(text: str, start: Path) -> Source:
    """A path to be staged in.

    Args:
        text: As the user wrote it; a leading ``~`` is the client's.
        start: The directory that a relative one counts from.

    Raises:
        ConfigError: It is empty, no text, or leads upwards.
    """
    if not _is_name(text):
        raise ConfigError(f"stage_in: {text!r} is no path; name a file or a directory")
    path = Path(os.path.expanduser(text))
    if ".." in path.parts:
        raise ConfigError(
            f"stage_in: {text} leads upwards; name it by an absolute path, it arrives by its "
            "last name then"
        )
    name = path.name if path.is_absolute() else path.as_posix()
    if not name:
        raise ConfigError(f"stage_in: {text} is a whole file system: name what is needed of it")
    return Source(start / path, name)


def as_pattern(text: str) -> str:
    """A pattern of results to be collected, counted from the task's working directory.

    Raises:
        ConfigError: It is empty, or names what lies outside of it.
    """
    path = PurePosixPath(text)
    if not _is_name(text) or path == PurePosixPath():
        raise ConfigError(f"collect: {text!r} names nothing; give a file, a directory or a pattern")
    if path.is_absolute() or ".." in path.parts or text.startswith("~"):
        raise ConfigError(
            f"collect: {text} is not below the directory in which the task runs (cwd): only what "
            "lies there can be collected"
        )
    return path.as_posix()


def sources_of(
    texts: Iterable[str], start: Path, place: Mapping[str, object], params: Params
) -> tuple[Source, ...]:
    """The sources of one task; placeholders are filled.

    Args:
        texts: The paths as the user wrote them.
        start: The directory that relative ones count from.
        place: The task's place as far as it is known, by placeholder.
        params: The task's parameters.

    Raises:
        ConfigError: One is no path, or two would arrive under one name.
    """
    values = {**place, **values_of(params)}
    found: dict[str, Source] = {}
    check_names((as_source(fill_text(text, values), start) for text in texts), found)
    return tuple(found.values())


def patterns_of(
    texts: Sequence[str], place: Mapping[str, object], params: Params
) -> tuple[str, ...]:
    """The patterns of one task; what is filled in counts as it is, also where it holds ``*``.

    Raises:
        ConfigError: One names what lies outside of the task's working directory.
    """
    if not texts:  # of most jobs: nothing is to be done for each task
        return ()
    values = {
        name: glob.escape(str(value)) for name, value in {**place, **values_of(params)}.items()
    }
    return tuple(dict.fromkeys(as_pattern(fill_text(text, values)) for text in texts))


def check_names(sources: Iterable[Source], seen: dict[str, Source]) -> None:
    """See to it that no two sources of a job arrive under one name; ``seen`` is added to.

    Raises:
        ConfigError: Two would.
    """
    for source in sources:
        other = seen.setdefault(source.name, source)
        if other != source:
            raise ConfigError(
                f"stage_in: {other.path} and {source.path} would both arrive as {source.name}: "
                "name them by relative paths, which keep their directories"
            )


def as_bash_pattern(pattern: str) -> str:
    """A pattern as Bash takes it, with nothing but ``*``, ``?`` and ``[…]`` of its own meaning."""
    return "".join(
        char if _PLAIN_IN_PATTERN.fullmatch(char) else "$'\\n'" if char == "\n" else f"\\{char}"
        for char in f"./{pattern}"
    )


def _is_name(text: str) -> bool:
    """Whether the system can be given it."""
    try:
        return b"\0" not in os.fsencode(text) and text != ""
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def is_asked_for(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name that a node told is what a pattern means, or lies below that."""
    parts = name.split("/")
    return any(_matches(parts, pattern.split("/")) for pattern in patterns)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """As Bash matches, or more where it is ``[…]``; all is meant that lies below a match."""
    if not pattern:
        return True
    if not parts:
        return False
    first, *rest = pattern
    if first == "**" and rest and _matches(parts, rest):
        return True
    if parts[0].startswith(".") and not first.startswith((".", "[")):
        return False
    if first == "**" and _matches(parts[1:], pattern):
        return True
    return ("[" in first or fnmatchcase(parts[0], first)) and _matches(parts[1:], rest)


def is_within(name: str) -> bool:
    """Whether a name that a node told is one below the directory it counts from."""
    path = PurePosixPath(name)
    return path.parts != () and not path.is_absolute() and ".." not in path.parts


def as_line(kind: str, root: str, name: str, identity: Identity) -> str:
    """What a node keeps of a file that was staged (``S``) or collected (``C``): one line."""
    said = identity if isinstance(identity, str) else f"{identity[0]}-{identity[1]}"
    form = "L" if isinstance(identity, str) else "F"
    return " ".join(
        (kind, form, *(quote_from_bytes(os.fsencode(one)) for one in (root, name, said)))
    )


def read_lines(data: bytes) -> dict[tuple[str, str, str], Identity]:
    """What a node keeps, by kind, root and name; lines that are torn count for nothing."""
    known: dict[tuple[str, str, str], Identity] = {}
    for line in data.split(b"\n")[:-1]:
        words = line.decode("ascii", "replace").split(" ")
        if len(words) != len(("kind", "form", "root", "name", "identity")):
            continue
        kind, form, *rest = words
        if kind not in _KINDS:
            continue
        root, name, said = (os.fsdecode(unquote_to_bytes(one)) for one in rest)
        if form == "L":
            known[kind, root, name] = said
        elif form == "F" and (found := _SIZE_AND_TIME.fullmatch(said)):
            known[kind, root, name] = (int(found[1]), int(found[2]))
    return known
