"""The outputs of one node's tasks: looked at while they grow, brought home when they end.

Rules: used by one thread at a time. Whether the client sees a node's files was found out for the
job's output directory; files elsewhere are proven different before they are fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from allot.fetch import Fetched, Fetcher
from allot.model import Progress
from allot.node import Node
from allot.output import LocalReader, Reader, SftpReader, ShellReader, Watch, look, look_last
from allot.patterns import make_parser
from allot.probe import Sharing


@dataclass
class Output:
    """What one attempt of a task writes.

    Attributes:
        files: Its output file, and its error file where it has one.
        attempt: Which try of the task.
        progress_pattern: How it tells its progress; see ``Cluster``.
        watch: How far the file that tells the progress was read.
        problems: What went wrong on the way home.
        is_lost: Something that lies on the node could not be brought home.
        to_fetch: What is still missing here, None before that was asked.
    """

    files: tuple[Path, ...]
    attempt: int
    progress_pattern: InitVar[str] = "allot"
    watch: Watch = field(init=False)
    problems: list[str] = field(default_factory=list)
    is_lost: bool = False
    to_fetch: set[Path] | None = None

    def __post_init__(self, progress_pattern: str) -> None:
        """Begin to watch the output file, or for bars the error file where there is one."""
        # Unless it is told otherwise, tqdm draws on stderr.
        watched = self.files[-1] if progress_pattern == "tqdm" else self.files[0]
        self.watch = Watch(str(watched), parser=make_parser(progress_pattern))


class Harvest:
    """Looks at and brings home the outputs of one node.

    Attributes:
        sharing: What the client sees of the node's files.
    """

    def __init__(
        self,
        node: Node,
        job_id: str,
        sharing: Sharing,
        shared_root: Path,
        poll_interval: float,
        *,
        progress_pattern: str = "allot",
    ) -> None:
        """Take over the outputs of a node.

        Args:
            node: Its connection.
            job_id: The job.
            sharing: What the client sees of the node's files.
            shared_root: Below which directory it sees them.
            poll_interval: Seconds between two looks at an output.
            progress_pattern: How tasks tell their progress; see ``Cluster``.
        """
        self._node = node
        self.sharing = sharing
        self._shared_root = shared_root
        self._poll_interval = poll_interval
        self._progress_pattern = progress_pattern
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

    def reader(self, file: Path) -> Reader:
        """Reads an output while it is written.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        is_here = self.sharing.fresh and file.is_relative_to(self._shared_root)
        return LocalReader() if is_here else self.node_reader

    def output(self, files: Sequence[Path], attempt: int) -> Output:
        """What one attempt of a task will write: its output file, and its error file if any."""
        return Output(tuple(files), attempt, self._progress_pattern)

    def look(self, outputs: Sequence[Output]) -> Iterator[tuple[Output, Progress]]:
        """Look at those outputs whose time has come.

        Yields:
            What progress is new.

        Raises:
            ConnectionFailedError: The node is out of reach; what was found before it was told.
        """
        now = time.monotonic()
        due = [one for one in outputs if one.watch.next_look <= now]
        for output in due:
            output.watch.next_look = now + self._poll_interval
        here, there = self._parted(due, shared=self.sharing.fresh)
        yield from _look(look, LocalReader(), here)
        if there:
            yield from _look(look, self.node_reader, there)

    def look_last(self, outputs: Sequence[Output]) -> Iterator[tuple[Output, Progress]]:
        """Find the last progress of outputs that are home; see :meth:`look`."""
        late = self.sharing.shared and not self.sharing.fresh
        there, here = self._parted(outputs, shared=late)
        yield from _look(look_last, LocalReader(), here)
        if there:
            yield from _look(look_last, self.node_reader, there)

    def bring_home(self, outputs: Sequence[Output]) -> list[Output]:
        """Go on bringing home the outputs of tasks that have ended.

        Returns:
            Those that are home now.
        """
        here, there = self._parted(outputs, shared=self.sharing.shared)
        for output in there:
            if output.to_fetch is None:
                output.to_fetch = set(output.files)
                new = [file for file in output.to_fetch if file not in self._owners]
                self._fetcher.add(new, output.attempt)
                for file in output.to_fetch:
                    self._owners.setdefault(file, []).append(output)
        if self._fetcher.busy:
            for fetched in self._fetcher.advance(self.node_reader):
                self._settle(fetched)
        return here + [output for output in there if not output.to_fetch]

    def _parted(
        self, outputs: Sequence[Output], *, shared: bool
    ) -> tuple[list[Output], list[Output]]:
        """Those whose files all lie in what is shared, if it is, and the others."""
        inside: list[Output] = []
        outside: list[Output] = []
        for output in outputs:
            within = all(file.is_relative_to(self._shared_root) for file in output.files)
            (inside if shared and within else outside).append(output)
        return inside, outside

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


def _look(
    how: Callable[[Reader, Sequence[Watch]], list[tuple[Watch, Progress]]],
    reader: Reader,
    outputs: Sequence[Output],
) -> list[tuple[Output, Progress]]:
    owners = {id(output.watch): output for output in outputs}
    news = how(reader, [output.watch for output in outputs]) if outputs else []
    return [(owners[id(watch)], progress) for watch, progress in news]
