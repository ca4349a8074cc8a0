"""Bringing a task's output from its node to the client.

Rules: a file is put together under a temporary name and renamed when it is whole, so nothing
half-written is ever taken for an output. The two names may be one file after all, when the client
and the node share the directory unnoticed: a directory is fetched into only after a temporary
file, made by the client, was found missing on the node. What is no regular file on the client
(``/dev/null``) is left as it is. As much is fetched as was there when the task ended.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allot import paths
from allot.node import FileRead
from allot.output import Reader

_log = logging.getLogger(__name__)

# Every SFTP server answers reads of this size whole
# (draft-ietf-secsh-filexfer-02, section 3: 32768 bytes of data).
_PIECE_BYTES = 32 * 1024
_PIECES_A_ROUND = 64
_MOST_OPEN = 32


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


class _Transfer:
    """One file on its way; its bytes are written as they come, and no descriptor is kept."""

    def __init__(self, path: Path, job_id: str, attempt: int, size: int) -> None:
        self.path = path
        self.attempt = attempt
        self.size = size
        self.partial = paths.partial_file(path, job_id)
        self.offset = 0
        self.partial.write_bytes(b"")

    def reads(self, most: int) -> list[FileRead]:
        """The next pieces to ask for."""
        ends = range(self.offset, self.size, _PIECE_BYTES)[:most]
        name = str(self.path)
        return [FileRead(name, at, min(_PIECE_BYTES, self.size - at)) for at in ends]

    def write(self, data: bytes) -> None:
        with self.partial.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)
        self.offset += len(data)

    def keep(self) -> None:
        _make_way(self.path, self.attempt)
        self.partial.replace(self.path)

    def drop(self) -> None:
        _remove(self.partial)


class Fetcher:
    """The files of one node that are on their way to the client."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._waiting: deque[tuple[Path, int]] = deque()
        self._transfers: list[_Transfer] = []
        self._same: dict[Path, bool] = {}

    @property
    def busy(self) -> bool:
        """Whether a file is on its way."""
        return bool(self._waiting or self._transfers)

    def add(self, files: Sequence[Path], attempt: int) -> None:
        """Take on some files of a task that has ended; those of its earlier try are kept."""
        self._waiting.extend((file, attempt) for file in files)

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
        attempts = dict(self._waiting.popleft() for _ in range(count))
        files = list(attempts)
        settled = [Fetched(path) for path in files if _is_special(path)]
        files = [path for path in files if not _is_special(path)]
        settled += self._find_out_what_is_shared(reader, files)
        settled += [Fetched(path) for path in files if self._same.get(path.parent)]
        files = [path for path in files if self._same.get(path.parent) is False]
        if not files:
            return settled
        reader.forget([str(path) for path in files])  # a task may have replaced its output
        for path, size in zip(files, reader.sizes([str(path) for path in files]), strict=True):
            if isinstance(size, OSError):
                settled.append(_unread(path, attempts[path], size))
                continue
            try:
                self._transfers.append(_Transfer(path, self._job_id, attempts[path], size))
            except OSError as error:
                settled.append(_unwritten(path, error))
        return settled

    def _find_out_what_is_shared(self, reader: Reader, files: Sequence[Path]) -> list[Fetched]:
        tests = {path.parent: path for path in files if path.parent not in self._same}
        partials: dict[Path, Path] = {}
        settled = []
        for folder, path in tests.items():
            partial = paths.partial_file(path, self._job_id)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                partial.touch()
            except OSError as error:
                settled += [_unwritten(one, error) for one in files if one.parent == folder]
            else:
                partials[folder] = partial
        if partials:
            try:
                sizes = reader.sizes([str(partial) for partial in partials.values()])
            finally:
                for partial in partials.values():
                    _remove(partial)
            for folder, size in zip(partials, sizes, strict=True):
                self._same[folder] = not isinstance(size, OSError)
        return settled

    def _read_round(self, reader: Reader) -> list[Fetched]:
        most = max(1, _PIECES_A_ROUND // len(self._transfers))
        asked = [(transfer, transfer.reads(most)) for transfer in self._transfers]
        answers = iter(reader.read([read for _, reads in asked for read in reads]))
        settled = []
        for transfer, reads in asked:
            pieces = [next(answers) for _ in reads]
            if (done := _take(transfer, reads, pieces)) is not None:
                settled.append(done)
                self._transfers.remove(transfer)
                if done.problem:
                    transfer.drop()
        return settled


def _take(
    transfer: _Transfer, reads: Sequence[FileRead], pieces: Sequence[bytes | OSError]
) -> Fetched | None:
    """Add some pieces to a file; how it ended, or None while more is missing."""
    path = transfer.path
    data = []
    is_cut = False
    for read, piece in zip(reads, pieces, strict=True):
        if isinstance(piece, OSError):
            return _unread(path, transfer.attempt, piece)
        data.append(piece)
        is_cut = len(piece) < read.length  # it became shorter: this is its end
        if is_cut:
            break
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


def _unread(path: Path, attempt: int, error: OSError) -> Fetched:
    if not isinstance(error, FileNotFoundError):
        return Fetched(path, f"{path} cannot be read on the node: {error.strerror or error}")
    try:
        _make_way(path, attempt)
        path.unlink(missing_ok=True)  # what an earlier run left is not this one's output
    except OSError as problem:
        return _unwritten(path, problem)
    return Fetched(path, f"{path} is not on the node any more", is_missing=True)


def _unwritten(path: Path, error: OSError) -> Fetched:
    why = error.strerror or error
    return Fetched(path, f"{path} cannot be written here, it lies on its node still: {why}")
