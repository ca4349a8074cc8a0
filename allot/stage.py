"""Brings the files that tasks need to one node, before they start.

Rules: used by one thread at a time. A task is held here until all that it needs is there; what is
there already, by size and time, is not sent. The node remembers what was staged for the job, so
that a later client, or a later task, leaves alone what a task has changed since.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from allot import errands
from allot.errors import ConfigError, ConnectionFailedError
from allot.harvest import Results
from allot.model import Progress
from allot.node import Node
from allot.script import Launch, quote
from allot.sending import Sender, SftpWriter, ShellWriter, Writer
from allot.staging import Entry, Identity, Source, as_line, read_lines
from allot.tree import Trees

_BATCH = 500
_LOOK_S = 60.0
_SEND_S = 0.25
"""Seconds of sending in one turn; the node's other work comes between."""


@dataclass
class _Unit:
    """One source on its way to one directory of the node."""

    root: str
    source: Source
    attempt: int
    entries: Sequence[Entry] = ()
    left: set[str] = field(default_factory=set)  # absolute names that are not there yet
    problem: str = ""

    @property
    def is_settled(self) -> bool:
        return bool(self.problem) or not self.left


class Stager:
    """The files that the tasks of one job need on one node.

    Attributes:
        held: The tasks that wait for files, by task and attempt.
    """

    def __init__(self, node: Node, trees: Trees, *, key: str, work: str) -> None:
        """Prepare; nothing is asked yet.

        Args:
            node: The node.
            trees: What the sources are made of.
            key: Names this job's unfinished files on this node.
            work: The job's own working directory there, which goes with it.
        """
        self._work = work
        self.held: dict[tuple[int, int], Launch] = {}
        self._node = node
        self._trees = trees
        self._key = key
        self._sender = Sender(f"{key}-{secrets.token_hex(4)}")
        self._units: dict[tuple[str, Source, int], _Unit] = {}
        self._waits: dict[str, list[_Unit]] = {}
        self._origins: dict[tuple[str, str], Path] = {}
        self._known: dict[tuple[str, str, str], Identity] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to be done for a task, or to be cleared away."""
        return bool(self.held) or self._sender.busy

    @property
    def progress(self) -> Progress | None:
        """How many bytes have arrived of those that are on their way, None where none are."""
        sender = self._sender
        return Progress(sender.done, sender.total) if sender.busy and sender.total else None

    def hold(self, launch: Launch) -> None:
        """Keep a task until what it needs is there."""
        self.held[launch.proc_id, launch.attempt] = launch

    def drop(self, key: tuple[int, int]) -> None:
        """Forget a task that is over."""
        self.held.pop(key, None)

    def begin_anew(self, *, is_new: bool = False) -> None:
        """Forget all that is known of the node; what it keeps is asked for again.

        Args:
            is_new: The job's directory was just made there: it keeps nothing yet.
        """
        self.held.clear()
        self._sender.abandon()
        self._units.clear()
        self._waits.clear()
        self._known = {} if is_new else None

    def advance(self) -> tuple[list[Launch], list[tuple[Launch, str]]]:
        """Go on sending.

        Returns:
            The tasks that have all they need, and those that cannot get it, with the reason.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        if not self.held:
            self._stop_sending()
            return [], []
        new = [unit for launch in self.held.values() for unit in self._new_units(launch)]
        for unit in new:
            self._begin(unit)
        until = time.monotonic() + _SEND_S
        while self._sender.busy and time.monotonic() < until:
            for sent in self._sender.advance(self._writer):
                for unit in self._waits.pop(sent.path, ()):
                    unit.left.discard(sent.path)
                    unit.problem = unit.problem or sent.problem
                    new.append(unit)
        self._note(unit for unit in new if unit.is_settled and not unit.problem)
        return self._let_go()

    def _let_go(self) -> tuple[list[Launch], list[tuple[Launch, str]]]:
        ready: list[Launch] = []
        failed: list[tuple[Launch, str]] = []
        for key, launch in list(self.held.items()):
            units = [self._units[one] for one in _keys(launch)]
            problems = [unit.problem for unit in units if unit.problem]
            if problems:
                failed.append((launch, problems[0]))
            elif all(unit.is_settled for unit in units):
                ready.append(launch)
            else:
                continue
            del self.held[key]
        if failed:  # it is tried again for the next task that needs it
            self._units = {key: unit for key, unit in self._units.items() if not unit.problem}
        return ready, failed

    def _stop_sending(self) -> None:
        """Nobody needs what is under way any more: what is unfinished there goes away."""
        if self._sender.busy:
            unfinished = self._sender.abandon()
            self._units = {key: unit for key, unit in self._units.items() if unit.is_settled}
            self._waits.clear()
            if unfinished:
                self._node.request(f"rm -f -- {' '.join(map(quote, unfinished))} 2> /dev/null")

    @property
    def _writer(self) -> Writer:
        return SftpWriter(self._node) if self._node.open_sftp() else ShellWriter(self._node)

    def _new_units(self, launch: Launch) -> Iterator[_Unit]:
        for key in _keys(launch):
            if key not in self._units:
                self._units[key] = unit = _Unit(*key)
                yield unit

    def _begin(self, unit: _Unit) -> None:
        """Find out what of a source is missing on the node, and have it sent."""
        try:
            unit.entries = self._trees.entries(unit.source, unit.attempt)
        except ConfigError as error:
            unit.problem = str(error)
            return
        for entry in unit.entries:
            origin = self._origins.setdefault((unit.root, entry.name), entry.path)
            if origin != entry.path:
                unit.problem = (
                    f"stage_in: {entry.path} and {origin} would both be {entry.name} there: name "
                    "them by relative paths, which keep their directories"
                )
                return
        for first in range(0, len(unit.entries), _BATCH):
            self._ask_for(unit, unit.entries[first : first + _BATCH])
        if not unit.entries:
            self._look(unit.root, [])  # at least the directory is there

    def _ask_for(self, unit: _Unit, wanted: Sequence[Entry]) -> None:
        look = self._look(unit.root, [entry.name for entry in wanted])
        if look.problem:
            unit.problem = f"stage_in: {unit.root} cannot be made there: {look.problem}"
            return
        # What was staged for the job is not sent again, unless it is gone: a task may use it up.
        new = {entry.name for entry in wanted if self._is_new(unit, entry)}
        links = [entry for entry in wanted if entry.target is not None and entry.name in new]
        missing = [
            entry
            for entry in wanted
            if entry.target is None
            and look.present.get(entry.name) != entry.identity
            and (entry.name in new or entry.name not in look.present)
        ]
        for entry in missing:
            path = str(PurePosixPath(look.root, entry.name))
            unit.left.add(path)
            if path not in self._waits:
                self._sender.add(look.root, [entry])
            self._waits.setdefault(path, []).append(unit)
        if links:
            reply = self._node.request(errands.link_script(look.root, links), timeout=_LOOK_S)
            answers = errands.parse_problems(reply)
            if len(answers) != len(links):
                raise ConnectionFailedError(self._node.name, "garbled answer of its shell")
            problems = zip(links, answers, strict=True)
            wrong = [f"stage_in: {link.name}: {said}" for link, said in problems if said]
            unit.problem = unit.problem or (wrong[0] if wrong else "")

    def _look(self, root: str, names: Sequence[str], timeout: float = _LOOK_S) -> errands.Look:
        script = errands.look_script(root, names, self._key, self._sender.key)
        return errands.parse_look(self._node.request(script, timeout=timeout))

    def _recall(self, timeout: float = _LOOK_S) -> dict[tuple[str, str, str], Identity]:
        if self._known is None:
            self._known = read_lines(self._node.request(errands.RECALL, timeout=timeout))
        return self._known

    def _note(self, units: Iterable[_Unit]) -> None:
        new = {
            ("S", unit.root, entry.name): entry.identity
            for unit in units
            for entry in unit.entries
            if self._is_new(unit, entry)
        }
        self._remember(new)

    def _is_new(self, unit: _Unit, entry: Entry) -> bool:
        """Whether that very file was not staged for the job yet."""
        return self._recall().get(("S", unit.root, entry.name)) != entry.identity

    def note_collected(self, results: Results) -> None:
        """Note results that are on the client now: they may go with the job's directory.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        if results.found:
            root = results.launch.start
            self._remember({("C", root, one.name): (one.size, one.mtime) for one in results.found})

    def _remember(self, new: dict[tuple[str, str, str], Identity]) -> None:
        lines = [as_line(*key, identity) for key, identity in new.items()]
        for first in range(0, len(lines), _BATCH):
            self._node.request(errands.note_script(lines[first : first + _BATCH]))
        self._recall().update(new)

    def clear_out(self, timeout: float) -> None:
        """Remove what was staged in the job's own directory, and collected, if it is unchanged.

        Args:
            timeout: Seconds that each step may take.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """
        root = self._work
        ours = {key[2]: said for key, said in self._recall(timeout).items() if key[1] == root}
        names = list(ours)
        for first in range(0, len(names), _BATCH):
            batch = names[first : first + _BATCH]
            look = self._look(root, batch, timeout)
            gone = [name for name in batch if look.present.get(name) == ours[name]]
            links = [name for name in batch if isinstance(ours[name], str)]
            if look.root:
                script = errands.remove_script(look.root, gone, links)
                self._node.request(script, timeout=timeout)


def _keys(launch: Launch) -> list[tuple[str, Source, int]]:
    return [(launch.start, source, launch.attempt) for source in launch.stage_in]
