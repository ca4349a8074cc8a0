"""Bringing a task's output from its node to the client.

Rules: a file is put together under a temporary name and renamed when it is whole, so nothing
half-written is ever taken for an output. The two names may be one file after all, when the client
and the node share the directory unnoticed: a directory is fetched into only after the temporary
file, made by the client, was found missing on the node.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from allot import paths
from allot.node import FileRead
from allot.output import Reader

_log = logging.getLogger(__name__)

# Every SFTP server answers reads of this size whole
# (draft-ietf-secsh-filexfer-02, section 3: 32768 bytes of data).
_PIECE_BYTES = 32 * 1024
_PIECES_A_ROUND = 64


@dataclass(frozen=True)
class Fetched:
    """How a fetch ended.

    Attributes:
        path: The file.
        problem: Empty if it is here, else what was in the way.
    """

    path: Path
    problem: str = ""


class _Transfer:
    """One file on its way; its bytes are written as they come."""

    def __init__(self, path: Path, job_id: str) -> None:
        self.path = path
        self.partial = paths.partial_file(path, job_id)
        self.offset = 0
        self._file: BinaryIO = self.partial.open("wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.offset += len(data)

    def keep(self) -> None:
        self._file.close()
        self.partial.replace(self.path)

    def drop(self) -> None:
        self._file.close()
        self.partial.unlink(missing_ok=True)


class Fetcher:
    """The files of one node that are on their way to the client."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._transfers: list[_Transfer] = []
        self._same: dict[Path, bool] = {}

    @property
    def busy(self) -> bool:
        """Whether a file is on its way."""
        return bool(self._transfers)

    def begin(self, reader: Reader, files: Sequence[Path]) -> list[Fetched]:
        """Take on some files.

        Returns:
            Those that are settled at once.
        """
        settled = []
        for path in files:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._transfers.append(_Transfer(path, self._job_id))
            except OSError as error:
                settled.append(Fetched(path, _not_written(path, error)))
        return settled + self._drop_what_is_shared(reader)

    def advance(self, reader: Reader) -> list[Fetched]:
        """Read one more round of what is missing.

        Returns:
            The files that are settled now.
        """
        if not self._transfers:
            return []
        pieces = max(1, _PIECES_A_ROUND // len(self._transfers))
        asked = [
            (
                transfer,
                FileRead(str(transfer.path), transfer.offset + i * _PIECE_BYTES, _PIECE_BYTES),
            )
            for transfer in self._transfers
            for i in range(pieces)
        ]
        settled: dict[_Transfer, str] = {}
        answers = reader.read([read for _, read in asked])
        for (transfer, _), data in zip(asked, answers, strict=True):
            if transfer in settled:
                continue
            if isinstance(data, OSError):
                settled[transfer] = f"{transfer.path} cannot be read on the node: {data}"
                continue
            try:
                transfer.write(data)
                if len(data) < _PIECE_BYTES:
                    transfer.keep()
                    settled[transfer] = ""
            except OSError as error:
                settled[transfer] = _not_written(transfer.path, error)
        return self._settle(settled)

    def abandon(self) -> None:
        """Drop what is under way; temporary files go with it."""
        for transfer in self._transfers:
            _drop(transfer)
        self._transfers.clear()

    def _settle(self, settled: dict[_Transfer, str]) -> list[Fetched]:
        for transfer, problem in settled.items():
            self._transfers.remove(transfer)
            if problem:
                _drop(transfer)
        return [Fetched(transfer.path, problem) for transfer, problem in settled.items()]

    def _drop_what_is_shared(self, reader: Reader) -> list[Fetched]:
        unknown = {
            transfer.path.parent: transfer.partial
            for transfer in self._transfers
            if transfer.path.parent not in self._same
        }
        sizes = reader.sizes([str(partial) for partial in unknown.values()]) if unknown else []
        for folder, size in zip(unknown, sizes, strict=True):
            self._same[folder] = not isinstance(size, OSError)
        shared = [one for one in self._transfers if self._same[one.path.parent]]
        for transfer in shared:
            self._transfers.remove(transfer)
            _drop(transfer)
        return [Fetched(transfer.path) for transfer in shared]


def _drop(transfer: _Transfer) -> None:
    try:
        transfer.drop()
    except OSError as error:
        _log.warning("%s is left behind: %s", transfer.partial, error)


def _not_written(path: Path, error: OSError) -> str:
    return f"{path} cannot be written here: {error.strerror or error}"
