"""The outputs of one node's tasks: looked at while they grow, brought home when they end.

Rules: used by one thread at a time. Where a node's outputs lie is settled once for the job's
output directory; files elsewhere are proven different before they are fetched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allot.fetch import Fetched, Fetcher
from allot.model import Progress
from allot.node import Node
from allot.output import LocalReader, Reader, SftpReader, ShellReader, Watch, look, look_last
from allot.probe import Sharing


@dataclass
class Output:
    """What one attempt of a task writes.

    Attributes:
        files: Its output file, and its error file where it has one.
        watch: How far the output file was read.
        problems: What went wrong on the way home.
        is_lost: Something that lies on the node could not be brought home.
        to_fetch: What is still missing here, None before that was asked.
    """

    files: tuple[Path, ...]
    watch: Watch = field(init=False)
    problems: list[str] = field(default_factory=list)
    is_lost: bool = False
    to_fetch: set[Path] | None = None

    def __post_init__(self) -> None:
        """Begin to watch the output file."""
        self.watch = Watch(str(self.files[0]))


class Harvest:
    """Looks at and brings home the outputs of one node."""

    def __init__(self, node: Node, job_id: str, sharing: Sharing, poll_interval: float) -> None:
        self._node = node
        self._sharing = sharing
        self._poll_interval = poll_interval
        self._fetcher = Fetcher(job_id)
        self._owners: dict[Path, list[Output]] = {}  # several where it is /dev/null

    @property
    def busy(self) -> bool:
        """Whether a file is on its way home."""
        return self._fetcher.busy

    @property
    def node_reader(self) -> Reader:
        """Reads files that lie on the node.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return SftpReader(self._node) if self._node.open_sftp() else ShellReader(self._node)

    @property
    def reader(self) -> Reader:
        """Reads the outputs of running tasks.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        return LocalReader() if self._sharing.fresh else self.node_reader

    def look(self, outputs: Sequence[Output]) -> list[tuple[Output, Progress]]:
        """Look at those outputs whose time has come, and tell what progress is new."""
        now = time.monotonic()
        due = {id(one.watch): one for one in outputs if one.watch.next_look <= now}
        if not due:
            return []
        for output in due.values():
            output.watch.next_look = now + self._poll_interval
        news = look(self.reader, [output.watch for output in due.values()])
        return [(due[id(watch)], progress) for watch, progress in news]

    def look_last(self, outputs: Sequence[Output]) -> list[tuple[Output, Progress]]:
        """Find the last progress of outputs that are home."""
        if not outputs:
            return []
        reader = self.reader if self._sharing.shared else LocalReader()
        owners = {id(output.watch): output for output in outputs}
        news = look_last(reader, [output.watch for output in outputs])
        return [(owners[id(watch)], progress) for watch, progress in news]

    def bring_home(self, outputs: Sequence[Output]) -> list[Output]:
        """Go on bringing home the outputs of tasks that have ended.

        Returns:
            Those that are home now.
        """
        if self._sharing.shared:
            return list(outputs)
        for output in outputs:
            if output.to_fetch is None:
                output.to_fetch = set(output.files)
                new = [file for file in output.to_fetch if file not in self._owners]
                self._fetcher.add(new)
                for file in output.to_fetch:
                    self._owners.setdefault(file, []).append(output)
        if self._fetcher.busy:
            for fetched in self._fetcher.advance(self.node_reader):
                self._settle(fetched)
        return [output for output in outputs if not output.to_fetch]

    def begin_anew(self, outputs: Sequence[Output]) -> None:
        """Forget what is under way, after a break or at the end; temporary files are removed."""
        self._fetcher.abandon()
        self._owners.clear()
        for output in outputs:
            output.to_fetch = None
            output.problems.clear()
            output.is_lost = False

    def _settle(self, fetched: Fetched) -> None:
        for output in self._owners.pop(fetched.path):
            if output.to_fetch is not None:
                output.to_fetch.discard(fetched.path)
            if fetched.problem:
                output.problems.append(fetched.problem)
                output.is_lost |= not fetched.is_missing
