"""Bringing a task's output, and its results, from its node to the client.

Rules: a file is put together under a temporary name and renamed when it is whole, so nothing
half-written is ever taken for an output. The two names may be one file after all, when the client
and the node share the directory unnoticed: a directory is fetched into only after a temporary
file, made by the client, was found missing on the node. What is no regular file on the client
(``/dev/null``) is left as it is. As much is fetched as was there when the task ended.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allot import paths
from allot.model import Progress
from allot.node import FileRead
from allot.output import Reader

_log = logging.getLogger(__name__)

# Every SFTP server answers reads of this size whole
# (draft-ietf-secsh-filexfer-02, section 3: 32768 bytes of data).
_PIECE_BYTES = 32 * 1024
_PIECES_A_ROUND = 64
_MOST_OPEN = 32


@dataclass(frozen=True)
class Wanted:
    """A file on the node that is to come here.

    Attributes:
        path: Where it goes.
        source: Where it lies on the node.
        attempt: For a task's output: which try of it; what an earlier one wrote is kept. None for
            a result, which takes its place.
        size: Bytes that it had when it was found, for a result.
        mtime: Its last change, Unix seconds, for a result.
        mode: Its permissions, for a result.
    """

    path: Path
    source: str
    attempt: int | None = None
    size: int = 0
    mtime: int = 0
    mode: int = 0o600

    @property
    def folders(self) -> tuple[Path, str]:
        """Where it goes, and where it lies: both may be one directory after all."""
        return self.path.parent, os.path.dirname(self.source)


@dataclass(frozen=True)
class Fetched:
    """How a fetch ended.

    Attributes:
        path: The file.
        problem: Empty if it is here, else what was in the way.
        is_missing: The node has no such file: the task removed it, nothing was lost on the way.
    """

    path: Path
    problem: str = ""
    is_missing: bool = False


def make_empty(wanted: Wanted) -> bool:
    """Have an output that is empty on its node here, without asking the node.

    Returns:
        Whether it is; where something else may lie in its place, it must be fetched.
    """
    path = wanted.path
    try:
        try:
            path.touch(exist_ok=False)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except FileExistsError:  # the node's own file, perhaps
            found = path.stat()
            return not (wanted.attempt or found.st_size) and stat.S_ISREG(found.st_mode)
    except OSError:  # as the fetch will tell
        return False
    return True


class _Transfer:
    """One file on its way; its bytes are written as they come, and no descriptor is kept."""

    def __init__(self, wanted: Wanted, job_id: str, size: int) -> None:
        self.wanted = wanted
        self.size = size
        self.partial = paths.partial_file(wanted.path, job_id)
        self.offset = 0
        self.partial.write_bytes(b"")

    def reads(self, most: int) -> list[FileRead]:
        """The next pieces to ask for."""
        ends = range(self.offset, self.size, _PIECE_BYTES)[:most]
        name = self.wanted.source
        return [FileRead(name, at, min(_PIECE_BYTES, self.size - at)) for at in ends]

    def ends(self, reads: Sequence[FileRead]) -> bool:
        """Whether it is whole once these pieces are there."""
        return self.offset + sum(read.length for read in reads) >= self.size

    def write(self, data: bytes) -> None:
        with self.partial.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)
        self.offset += len(data)

    def keep(self) -> None:
        wanted = self.wanted
        if wanted.attempt is None:
            self.partial.chmod(wanted.mode & 0o777 | 0o600)
            os.utime(self.partial, (wanted.mtime, wanted.mtime))
        else:
            _make_way(wanted.path, wanted.attempt)
        self.partial.replace(wanted.path)

    def drop(self) -> None:
        _remove(self.partial)


class Fetcher:
    """The files of one node that are on their way to the client."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._waiting: deque[Wanted] = deque()
        self._transfers: list[_Transfer] = []
        self._same: dict[tuple[Path, str], bool] = {}

    @property
    def busy(self) -> bool:
        """Whether a file is on its way."""
        return bool(self._waiting or self._transfers)

    @property
    def progress(self) -> Progress | None:
        """How many bytes have come of the files that are under way, None where none are."""
        total = sum(transfer.size for transfer in self._transfers)
        done = sum(transfer.offset for transfer in self._transfers)
        return Progress(done, total) if total else None

    def add(self, files: Iterable[Wanted]) -> None:
        """Take on some files of a task that has ended."""
        self._waiting.extend(files)

    def advance(self, reader: Reader) -> list[Fetched]:
        """Go on with what is under way, and begin with what waits.

        Returns:
            The files that are settled now.
        """
        settled = self._begin(reader)
        while self._transfers:
            settled += self._read_round(reader)
            if any(transfer.offset for transfer in self._transfers):
                break  # a large one: the node's other work has its turn between two rounds
            settled += self._begin(reader)
        return settled

    def abandon(self) -> None:
        """Drop what is under way; temporary files go with it."""
        for transfer in self._transfers:
            transfer.drop()
        self._transfers.clear()
        self._waiting.clear()

    def _begin(self, reader: Reader) -> list[Fetched]:
        count = min(len(self._waiting), _MOST_OPEN - len(self._transfers))
        files = [self._waiting.popleft() for _ in range(count)]
        settled = [Fetched(one.path) for one in files if _is_special(one.path)]
        files = [one for one in files if not _is_special(one.path)]
        elsewhere = [one for one in files if not self._same.get(one.folders)]
        sizes: dict[str, int | OSError] = {}
        if elsewhere:
            reader.forget([one.source for one in elsewhere])  # a task may have replaced its output
            sizes = self._ask_for_sizes(reader, elsewhere, settled)
        settled += [Fetched(one.path) for one in files if self._same.get(one.folders)]
        for one in elsewhere:
            if self._same.get(one.folders) is not False:
                continue
            size = sizes[one.source]
            if isinstance(size, OSError):
                settled.append(_unread(one, size))
                continue
            try:
                self._transfers.append(_Transfer(one, self._job_id, size))
            except OSError as error:
                settled.append(_unwritten(one.path, error))
        return settled

    def _ask_for_sizes(
        self, reader: Reader, files: Sequence[Wanted], settled: list[Fetched]
    ) -> dict[str, int | OSError]:
        """The sizes of files on the node; and whether their folders are the same ones as here."""
        tests = {one.folders: one.path for one in files if one.folders not in self._same}
        partials: dict[tuple[Path, str], Path] = {}
        for folders, path in tests.items():
            partial = paths.partial_file(path, self._job_id)
            try:
                folders[0].mkdir(parents=True, exist_ok=True)
                partial.touch()
            except OSError as error:
                settled += [_unwritten(one.path, error) for one in files if one.folders == folders]
            else:
                partials[folders] = partial
        seen = {folders: f"{folders[1]}/{one.name}" for folders, one in partials.items()}
        names = list(dict.fromkeys([*seen.values(), *(one.source for one in files)]))
        try:
            sizes = dict(zip(names, reader.sizes(names), strict=True))
        finally:
            for partial in partials.values():
                _remove(partial)
        for folders, name in seen.items():
            self._same[folders] = not isinstance(sizes[name], OSError)
        return sizes

    def _read_round(self, reader: Reader) -> list[Fetched]:
        most = max(1, _PIECES_A_ROUND // len(self._transfers))
        asked = [(transfer, transfer.reads(most)) for transfer in self._transfers]
        answers = iter(reader.read([read for _, reads in asked for read in reads]))
        grown = self._grown(reader, [transfer for transfer, reads in asked if transfer.ends(reads)])
        settled = []
        for transfer, reads in asked:
            pieces = [next(answers) for _ in reads]
            if transfer in grown:
                done: Fetched | None = Fetched(transfer.wanted.path, grown[transfer])
            else:
                done = _take(transfer, reads, pieces)
            if done is not None:
                settled.append(done)
                self._transfers.remove(transfer)
                if done.problem:
                    transfer.drop()
        return settled

    @staticmethod
    def _grown(reader: Reader, ending: Sequence[_Transfer]) -> dict[_Transfer, str]:
        """The results that are still written to although their task has ended, and what to say."""
        results = [one for one in ending if one.wanted.attempt is None]
        if not results:
            return {}
        sources = [one.wanted.source for one in results]
        reader.forget(sources)
        return {
            one: f"{one.wanted.source} is still written to: have the task wait for what it started"
            for one, size in zip(results, reader.sizes(sources), strict=True)
            if size != one.wanted.size
        }


def _take(
    transfer: _Transfer, reads: Sequence[FileRead], pieces: Sequence[bytes | OSError]
) -> Fetched | None:
    """Add some pieces to a file; how it ended, or None while more is missing."""
    path = transfer.wanted.path
    data = []
    is_cut = False
    for read, piece in zip(reads, pieces, strict=True):
        if isinstance(piece, OSError):
            return _unread(transfer.wanted, piece)
        data.append(piece)
        is_cut = len(piece) < read.length  # it became shorter: this is its end
        if is_cut:
            break
    if is_cut and transfer.wanted.attempt is None:
        return Fetched(path, f"{transfer.wanted.source} was changed while it was brought")
    try:
        transfer.write(b"".join(data))
        if not is_cut and transfer.offset < transfer.size:
            return None
        transfer.keep()
    except OSError as error:
        return _unwritten(path, error)
    return Fetched(path)


def _is_special(path: Path) -> bool:
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except OSError:  # it cannot be looked at: nor written, which is told then
        return False


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s is left behind: %s", partial, error)


def _make_way(path: Path, attempt: int) -> None:
    """Keep what an earlier attempt printed, as the node keeps it.

    Where that was kept already, what lies here is this attempt's own, from a fetch whose end was
    never written down.
    """
    earlier = paths.earlier_attempt(path, attempt - 1)
    if attempt and path.is_file() and not earlier.exists():
        path.replace(earlier)


def _unread(wanted: Wanted, error: OSError) -> Fetched:
    path = wanted.path
    if not isinstance(error, FileNotFoundError):
        why = error.strerror or error
        return Fetched(path, f"{wanted.source} cannot be read on the node: {why}")
    gone = f"{wanted.source} is not on the node any more"
    if wanted.attempt is None:
        return Fetched(path, gone)
    try:
        _make_way(path, wanted.attempt)
        path.unlink(missing_ok=True)  # what an earlier run left is not this one's output
    except OSError as problem:
        return _unwritten(path, problem)
    return Fetched(path, gone, is_missing=True)


def _unwritten(path: Path, error: OSError) -> Fetched:
    why = error.strerror or error
    return Fetched(path, f"{path} cannot be written here, it lies on its node still: {why}")
