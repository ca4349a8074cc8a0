"""The outputs of one node's tasks: looked at while they grow, brought home when they end.

Rules: used by one thread at a time. Whether the client sees a node's files was found out for the
job's output directory; files elsewhere are proven different before they are fetched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

from allot import errands, readings
from allot.along import ReadAlong
from allot.claims import Claims
from allot.errors import ConnectionFailedError
from allot.fetch import Fetched, Fetcher, Wanted, make_empty
from allot.looks import Watch, first_reads, look, look_last
from allot.model import Progress
from allot.node import Node
from allot.output import LocalReader, Reader
from allot.patterns import make_parser
from allot.peek import NodeReader
from allot.probe import Sharing
from allot.script import Launch
from allot.staging import Found, as_mtime, is_asked_for

_LIST_S = 300.0

MOST_INTERVALS = 5
"""Poll intervals after which a node is looked at whose tasks are silent, at the latest."""

_EARLY, _QUIET_EARLY = 0.75, 0.5
# An output that falls silent is looked at less often: what it says then is seen late by this share
# of the silence, at most; the very first that it says, by that one.
_LAG, _FIRST_LAG = 0.1, 0.2


def soonest(pause: float, poll_interval: float) -> float:
    """After how much of its pause a look may be taken in a turn that is taken anyway.

    Just after that turn it would wait for the next one, or need one of its own. Where a node is
    quiet its looks come to be taken together so, whenever they began.

    Args:
        pause: Seconds between two looks.
        poll_interval: Seconds between two where something moves.
    """
    return min(pause, max(_EARLY * poll_interval, _QUIET_EARLY * pause))


@dataclass
class Results:
    """What one attempt of a task is to bring, beside its output.

    Attributes:
        launch: The attempt.
        must_match: Whether each pattern must match something: it said that all went well.
        found: What it left, once that was asked for.
    """

    launch: Launch
    must_match: bool = False
    found: tuple[Found, ...] = ()


@dataclass
class Output:
    """What one attempt of a task writes.

    Attributes:
        files: Its output file, and its error file where it has one.
        lies_within: They lie below the directory that the client may see.
        is_empty: They are all there on the node, and nothing is in them.
        attempt: Which try of the task.
        progress_pattern: How it tells its progress; see ``Cluster``.
        watch: How far the file that tells the progress was read.
        problems: What went wrong on the way home.
        is_lost: Something that lies on the node could not be brought home.
        to_fetch: What is still missing here, None before that was asked.
        results: What else it is to bring, None where that is nothing.
    """

    files: tuple[Path, ...]
    lies_within: bool
    attempt: int
    progress_pattern: InitVar[str] = "allot"
    watch: Watch = field(init=False)
    is_empty: bool = False
    problems: list[str] = field(default_factory=list)
    is_lost: bool = False
    to_fetch: set[Path] | None = None
    results: Results | None = None

    def __post_init__(self, progress_pattern: str) -> None:
        """Begin to watch the output file, or for bars the error file where there is one."""
        # Unless it is told otherwise, tqdm draws on stderr.
        watched = self.files[-1] if progress_pattern == "tqdm" else self.files[0]
        self.watch = Watch(str(watched), parser=make_parser(progress_pattern))


class Harvest:
    """Looks at and brings home the outputs of one node.

    Attributes:
        sharing: What the client sees of the node's files.
        node_reader: Reads files that lie on the node.
    """

    def __init__(
        self,
        node: Node,
        job_id: str,
        claims: Claims,
        sharing: Sharing,
        shared_root: Path,
        *,
        poll_interval: float,
        progress_pattern: str = "allot",
    ) -> None:
        """Take over the outputs of a node.

        Args:
            node: Its connection.
            job_id: The job.
            claims: Which task brought which result.
            sharing: What the client sees of the node's files.
            shared_root: Below which directory it sees them.
            poll_interval: Seconds between two looks at an output.
            progress_pattern: How tasks tell their progress; see ``Cluster``.
        """
        self._node = node
        self.node_reader = NodeReader(node)
        self.sharing = sharing
        self._shared_root = shared_root
        self._poll_interval = poll_interval
        self._progress_pattern = progress_pattern
        self._claims = claims
        self._fetcher = Fetcher(job_id)
        self._owners: dict[Path, list[Output]] = {}  # several where it is /dev/null
        self._along: Reader | None = None
        self._asked_along: list[Output] = []

    @property
    def busy(self) -> bool:
        """Whether a file is on its way home."""
        return self._fetcher.busy

    @property
    def progress(self) -> Progress | None:
        """How many bytes have come of the files that are on their way, None where none are."""
        return self._fetcher.progress

    def reader(self, file: Path) -> Reader:
        """Reads an output while it is written; for another thread than the one that looks.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        is_here = self.sharing.fresh and file.is_relative_to(self._shared_root)
        return LocalReader() if is_here else self.node_reader.without_peeks()

    def output(self, launch: Launch) -> Output:
        """What one attempt of a task will write: its output file, and its error file if any."""
        files = tuple(one for one in (launch.output_file, launch.error_file) if one is not None)
        within = all(file.is_relative_to(self._shared_root) for file in files)
        results = Results(launch) if launch.collect else None
        return Output(files, within, launch.attempt, self._progress_pattern, results=results)

    def reader_along(self, outputs: Sequence[Output]) -> Reader:
        """Reads files that lie on the node, and at once what the next :meth:`look` will read.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        there = self._parted(self._due(outputs), shared=self.sharing.fresh)[1]
        self._asked_along = [output for output in there if output.watch.is_known_empty]
        if self._asked_along:
            self.node_reader.ask_along(_begun_script(self._asked_along))
        watches = [output.watch for output in there if not output.watch.is_known_empty]
        self._along = ReadAlong(self.node_reader, first_reads(watches))
        return self._along

    def look(self, outputs: Sequence[Output]) -> Iterator[tuple[Output, Progress]]:
        """Look at those outputs whose time has come.

        Yields:
            What progress is new.

        Raises:
            ConnectionFailedError: The node is out of reach; what was found before it was told.
        """
        along, self._along = self._along, None
        due, now = self._due(outputs), time.monotonic()
        for output in due:
            output.watch.looked_at = now
        here, there = self._parted(due, shared=self.sharing.fresh)
        yield from _look(look, LocalReader(), here)
        there = self._without_empty(there)
        if there:
            yield from _look(look, along or self.node_reader, there)

    def _without_empty(self, outputs: Sequence[Output]) -> list[Output]:
        """Those of which there is something to be read: of the empty ones Bash tells at once."""
        asked, self._asked_along = self._asked_along, []
        answer = self.node_reader.take_answer()
        known = {} if answer is None else _have_begun(asked, answer)
        rest = [one for one in outputs if one.watch.is_known_empty and id(one) not in known]
        if rest:
            known |= _have_begun(rest, self._node.request(_begun_script(rest)))
        return [output for output in outputs if known.get(id(output), True)]

    def next_look(self, outputs: Sequence[Output]) -> float:
        """When the first of them is to be looked at, seconds on the monotonic clock."""
        pauses = ((one.watch, self._pause(one.watch)) for one in outputs)
        return min((_due_at(watch, pause) for watch, pause in pauses), default=float("inf"))

    def _due(self, outputs: Sequence[Output]) -> list[Output]:
        now, usual = time.monotonic(), self._poll_interval
        pauses = ((one, soonest(self._pause(one.watch), usual)) for one in outputs)
        return [one for one, pause in pauses if _due_at(one.watch, pause) <= now]

    def _pause(self, watch: Watch) -> float:
        # What is grown to by then: a share of the silence until that time, not until the last look.
        share = _FIRST_LAG if watch.is_known_empty else _LAG
        lag = share / (1 - share) * (watch.looked_at - watch.grew_at)
        usual = self._poll_interval
        return usual if lag < usual else min(lag, MOST_INTERVALS * usual)

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
        new = [output for output in outputs if output.to_fetch is None]
        _, there = self._parted(new, shared=self.sharing.shared)
        wanted = {id(output): _own_files(output) for output in there}
        results = self._find_results([output for output in new if output.results is not None])
        for output in new:
            files = wanted.get(id(output), []) + results.get(id(output), [])
            output.to_fetch = {file.path for file in files}
            self._fetcher.add(file for file in files if file.path not in self._owners)
            for file in files:
                self._owners.setdefault(file.path, []).append(output)
        if self._fetcher.busy:
            for fetched in self._fetcher.advance(self.node_reader):
                self._settle(fetched)
        return [output for output in outputs if not output.to_fetch]

    def _find_results(self, outputs: Sequence[Output]) -> dict[int, list[Wanted]]:
        """What tasks that have ended are to bring, as it lies on the node now."""
        asked = [(output, output.results) for output in outputs if output.results is not None]
        if not asked:
            return {}
        places = [(one.launch.start, one.launch.collect) for _, one in asked]
        script = errands.collect_script(places)
        answers = errands.parse_collected(self._node.request(script, timeout=_LIST_S))
        if len(answers) != len(asked):
            raise ConnectionFailedError(self._node.name, "garbled answer of its shell")
        wanted: dict[int, list[Wanted]] = {}
        for (output, results), answer in zip(asked, answers, strict=True):
            patterns = results.launch.collect
            problems = [f"collect: {problem}" for problem in answer.problems]
            if results.must_match:
                missing = patterns if not answer.root else [patterns[at] for at in answer.missing]
                where = answer.root or results.launch.cwd
                problems += [f"collect: nothing matches {one} in {where} there" for one in missing]
            files, refusals = self._claim(results.launch, answer)
            results.found = tuple(file for file, _ in files)
            output.problems += problems + refusals
            output.is_lost |= bool(problems or refusals)
            wanted[id(output)] = [one for _, one in files]
        return wanted

    def _claim(
        self, launch: Launch, answer: errands.Collected
    ) -> tuple[list[tuple[Found, Wanted]], list[str]]:
        """The results that may come to the client, and why others may not."""
        files: list[tuple[Found, Wanted]] = []
        refusals: list[str] = []
        for file in answer.files:
            if not is_asked_for(file.name, launch.collect):
                refusals.append(f"collect: the node named {file.name!r}, which nobody asked for")
                continue
            path = (launch.collect_to or launch.output_file.parent) / file.name
            source = f"{answer.root.rstrip('/')}/{file.name}"
            try:
                if not launch.may_replace and self._is_here(path, file):
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                refusal = self._claims.take(path, launch.proc_id, may_replace=launch.may_replace)
            except OSError as error:
                refusal = f"{path} cannot be written here: {error.strerror or error}"
            if refusal:
                refusals.append(f"collect: {refusal}")
            else:
                files.append((file, Wanted(path, source, None, file.size, file.mtime, file.mode)))
        return files, refusals

    def _is_here(self, path: Path, file: Found) -> bool:
        """Whether the very same file is here: one that was staged in, or the same directory."""
        if self._claims.owner(path) is not None or not path.is_file():
            return False
        said = path.stat()
        return (said.st_size, as_mtime(said.st_mtime_ns)) == (file.size, file.mtime)

    def _parted(
        self, outputs: Sequence[Output], *, shared: bool
    ) -> tuple[list[Output], list[Output]]:
        """Those whose files all lie in what is shared, if it is, and the others."""
        if not shared:
            return [], list(outputs)
        inside = [output for output in outputs if output.lies_within]
        return inside, [output for output in outputs if not output.lies_within]

    def begin_anew(self, outputs: Sequence[Output]) -> None:
        """Forget what is under way, after a break or at the end; temporary files are removed."""
        self._along, self._asked_along = None, []
        self.node_reader.take_answer()
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


def _due_at(watch: Watch, pause: float) -> float:
    return max(watch.not_before, watch.looked_at + pause)


def _begun_script(outputs: Sequence[Output]) -> str:
    return readings.begun_script([output.watch.path for output in outputs])


def _have_begun(outputs: Sequence[Output], answer: bytes) -> dict[int, bool]:
    begun = {int(number) for number in answer.split()}
    return {id(output): at in begun for at, output in enumerate(outputs)}


def _own_files(output: Output) -> list[Wanted]:
    """What must be fetched of what it wrote; what is empty is made here."""
    files = dict.fromkeys(output.files)  # both may be /dev/null
    wanted = [Wanted(file, str(file), output.attempt) for file in files]
    return [one for one in wanted if not (output.is_empty and make_empty(one))]


def _look(
    how: Callable[[Reader, Sequence[Watch]], list[tuple[Watch, Progress]]],
    reader: Reader,
    outputs: Sequence[Output],
) -> list[tuple[Output, Progress]]:
    owners = {id(output.watch): output for output in outputs}
    news = how(reader, [output.watch for output in outputs]) if outputs else []
    return [(owners[id(watch)], progress) for watch, progress in news]
