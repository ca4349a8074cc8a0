"""Looking at outputs while they grow: what progress they tell, without reading it all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from allot.markers import MarkerParser
from allot.model import Progress
from allot.node import FileRead
from allot.output import Reader
from allot.patterns import ProgressParser

LOOK_BYTES = 64 * 1024
"""Read at most from one output at one look; what is far behind skips ahead to the end."""

_ROUNDS = 4
_GROUP = 32
_LOOKS_A_FILE = 10
_END_BYTES = 8 * 1024
_LAST_LOOK_BYTES = 4 * 1024 * 1024


@dataclass
class Watch:
    """How far one output was read, and what progress it told.

    Attributes:
        path: The file.
        offset: Bytes read so far.
        not_before: When it may be looked at first, seconds on the monotonic clock.
        looked_at: When it was looked at last, by the same clock.
        grew_at: When a look found something new last; before that, since when it is watched.
        looks: How often it was looked at.
        is_fast: At the last look one read did not reach its end, which is enough to tell its
            progress.
        told: The progress that was told last.
        parser: Finds the progress in what is read.
    """

    path: str
    offset: int = 0
    not_before: float = 0.0
    looked_at: float = float("-inf")
    grew_at: float = field(default_factory=time.monotonic)
    looks: int = 0
    is_fast: bool = False
    told: Progress | None = None
    parser: ProgressParser = field(default_factory=MarkerParser)

    @property
    def is_known_empty(self) -> bool:
        """Whether it was looked at, and nothing was there."""
        return self.offset == 0 and self.looks > 0


def look(reader: Reader, watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """Read what is new of some outputs.

    An output that grows faster than it is read skips ahead: only the latest progress counts. Of
    one that is full of markers only the end is read. Now and then a file is opened anew, since it
    may have been replaced or begun anew by its task.

    Returns:
        The watches whose progress is new, with it.
    """
    _look_for_new_files(reader, watches)
    _leap(reader, [watch for watch in watches if watch.is_fast])
    for first in range(0, len(watches), _GROUP):
        due = list(watches[first : first + _GROUP])
        for _ in range(_ROUNDS):
            due = _read_once(reader, due)
            if not due:
                break
            _skip_ahead(reader, due)
    return _news(watches)


def look_last(reader: Reader, watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """Find the last progress of outputs that will not grow any more, from their ends backwards.

    Returns:
        The watches whose progress is new, with it.
    """
    reader.forget([watch.path for watch in watches])
    sizes = reader.sizes([watch.path for watch in watches])
    for watch, size in zip(watches, sizes, strict=True):
        if isinstance(size, OSError):
            continue
        end = size
        while end > 0 and size - end < _LAST_LOOK_BYTES:
            start = max(0, end - LOOK_BYTES)
            # The pieces overlap by as much as may tell a progress.
            length = min(end + watch.parser.most_bytes, size) - start
            data = reader.read([FileRead(watch.path, start, length)])[0]
            if isinstance(data, OSError):
                break
            watch.parser.reset(mid_line=start > 0)
            # What does not grow any more has no open line.
            if watch.parser.feed(data + b"\n" if end == size else data) is not None:
                break
            end = start
    return _news(watches)


def _news(watches: Sequence[Watch]) -> list[tuple[Watch, Progress]]:
    """What was not told yet, also of what was found in a look that broke off."""
    news = []
    for watch in watches:
        latest = watch.parser.latest
        if latest is not None and latest != watch.told:
            watch.told = latest
            news.append((watch, latest))
    return news


def _look_for_new_files(reader: Reader, watches: Sequence[Watch]) -> None:
    old = [watch for watch in watches if watch.looks % _LOOKS_A_FILE == _LOOKS_A_FILE - 1]
    for watch in watches:
        watch.looks += 1
    if not old:
        return
    sizes = reader.sizes([watch.path for watch in old])
    # One of the same size has nothing new in either case.
    changed = [
        (watch, size) for watch, size in zip(old, sizes, strict=True) if size != watch.offset
    ]
    reader.forget([watch.path for watch, _ in changed])
    for watch, size in changed:
        if not isinstance(size, OSError) and size < watch.offset:
            watch.offset = 0
            watch.parser.reset()


def first_reads(watches: Sequence[Watch]) -> list[FileRead]:
    """What :func:`look` reads first of all of these outputs, but for those it leaps over."""
    return _reads([watch for watch in watches[:_GROUP] if not watch.is_fast])


def _reads(watches: Sequence[Watch]) -> list[FileRead]:
    return [FileRead(watch.path, watch.offset, LOOK_BYTES) for watch in watches]


def _leap(reader: Reader, watches: Sequence[Watch]) -> None:
    """Go to the ends of outputs that grow fast, where a marker is there: no other one counts."""
    if not watches:
        return
    sizes = reader.sizes([watch.path for watch in watches])
    far = [
        (watch, size - _END_BYTES)
        for watch, size in zip(watches, sizes, strict=True)
        if not isinstance(size, OSError) and size - watch.offset > LOOK_BYTES
    ]
    for watch in watches:
        watch.is_fast = False
    ends = reader.read([FileRead(watch.path, start, _END_BYTES) for watch, start in far])
    for (watch, start), data in zip(far, ends, strict=True):
        if isinstance(data, OSError):
            continue
        probe = MarkerParser()
        if probe.feed(data) is not None:
            watch.parser, watch.offset = probe, start + len(data)
            watch.grew_at, watch.is_fast = time.monotonic(), True


def _read_once(reader: Reader, watches: Sequence[Watch]) -> list[Watch]:
    behind = []
    for watch, data in zip(watches, reader.read(_reads(watches)), strict=True):
        if not data or isinstance(data, OSError):
            continue
        watch.grew_at = time.monotonic()
        watch.offset += len(data)
        watch.parser.feed(data)
        if len(data) == LOOK_BYTES:
            # Others find a progress only by what stands before it.
            watch.is_fast = isinstance(watch.parser, MarkerParser)
            behind.append(watch)
    return behind


def _skip_ahead(reader: Reader, watches: Sequence[Watch]) -> None:
    sizes = reader.sizes([watch.path for watch in watches])
    for watch, size in zip(watches, sizes, strict=True):
        if not isinstance(size, OSError) and size - watch.offset > _ROUNDS * LOOK_BYTES:
            watch.offset = size - (_ROUNDS - 1) * LOOK_BYTES
            watch.parser.reset(mid_line=True)
