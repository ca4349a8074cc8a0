"""What is seen of a job: bars, a wait for its end, a summary.

Rules: looks at whoever watches the job; changes nothing but what is on the screen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from allot import paths
from allot.control import Control
from allot.markers import without_markers
from allot.model import JobSnapshot, NodeState, NodeStatus, Summary, TaskState, TaskStatus
from allot.output import LocalReader, last_lines, read_text
from allot.progress import Board, make_board, say
from allot.report import render
from allot.settings import Settings
from allot.watched import Watched
from allot.webtable import job_html

_REDRAW_S = 0.2
_TAILS = 20
_REPORT_TAILS = 200
_TAIL_LINES = 10
_TAIL_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Front(Control):
    """The part of a job's front that shows how it stands.

    Attributes:
        job_id: Identifier of this run of the job.
        output_dir: Where outputs go, absolute.
    """

    job_id: str
    output_dir: Path

    def __init__(self, settings: Settings, created: float) -> None:
        """Begin without a job to watch.

        Args:
            settings: What the user asked for.
            created: When the job was begun, Unix seconds.
        """
        super().__init__(settings.job_name)
        self._created = created
        self._not_there = _missing(paths.state_directory(settings.output_dir))
        self._max_bars = settings.max_bars
        self._is_data = settings.command is not None
        self._was_told_what_is_left = False
        self._board: Board | None = None
        self._board_file: TextIO | None = None

    @property
    @abstractmethod
    def nodes(self) -> list[NodeStatus]:
        """Every node as it was last seen: those used by ``node_id``, then the others."""

    @abstractmethod
    def close(self, *, tell: bool = True) -> None:
        """Stop watching."""

    def wait(self, timeout: float | None = None, *, progress: bool = True) -> Summary:
        """Block until every task is final.

        Args:
            timeout: Seconds to wait at most; None: for ever.
            progress: Show bars meanwhile.

        Returns:
            How the job ended.

        Raises:
            TimeoutError: The tasks took longer; they go on.
            KeyboardInterrupt: Ctrl-C; the tasks that run go on, the cluster is closed.
            AllotError: The job is not watched any more.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        board: Board | None = None
        try:  # from here on: to make the bars takes long enough for a Ctrl-C
            self._watching()
            if self._board is not None and not self._board.stays:
                self._close_board()
            board = make_board(max_bars=self._max_bars) if progress else None
            while not (watched := self._watching()).is_final:
                self._refuse_if_stuck(self._driving())
                left = _REDRAW_S if give_up is None else min(_REDRAW_S, give_up - time.monotonic())
                if left <= 0:
                    raise TimeoutError(
                        f"job {self.job_name} is not final after {timeout:g} s; its tasks go on"
                        f"{self._lost_nodes()}"
                    )
                if board is not None:
                    self._draw(board)
                watched.wait_for(lambda one=watched: one.is_final, left)  # type: ignore[misc]
        except KeyboardInterrupt as interrupt:
            # In a notebook the lines of the detached job are lost above a screen of traceback.
            vars(interrupt)["_render_traceback_"] = lambda: ["KeyboardInterrupt: detached"]
            self._detach(board)
            raise
        finally:
            if board is not None:
                board.close(self._snapshot())
        return self._summary()

    def print_progress(self, file: TextIO | None = None) -> None:
        """Show once how the job stands.

        On a terminal: bars, in place. In a notebook: bars, which move by themselves until the job
        is final or closed. Elsewhere: what changed since the last call, a line a task, at most 50,
        and one line for the job.

        Args:
            file: Where to; None is stdout.
        """
        self._driving()
        if self._board is None or file is not self._board_file:
            self._close_board()
            self._board_file = file
            self._board = make_board(file, max_bars=self._max_bars, live=False, look=self._snapshot)
        self._board.draw(self._snapshot())

    def report(self, file: str | Path) -> None:
        """Write a page about the job: one HTML file that needs no other.

        It tells the counts, a time line of the tasks by node and slot, the slowest ones, those
        that failed with the ends of their outputs, and how each node was used.

        Args:
            file: Where.

        Raises:
            OSError: It cannot be written.
        """
        tasks = tuple(self.tasks)
        page = render(
            self.job_name,
            self.job_id,
            tasks,
            self.nodes,
            tails=_tails(tasks, _REPORT_TAILS),
            now=time.time(),
            created=self._created,
        )
        Path(file).expanduser().write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        counts = Summary(tuple(self.tasks), 0.0).counts
        parts = [f"{number} {state}" for state, number in counts.items() if number]
        return f"<Cluster {self.job_name!r} {self.job_id}: {', '.join(parts) or 'no tasks'}>"

    def _repr_html_(self) -> str:
        return job_html(self._snapshot(), time.time())

    def _draw(self, board: Board) -> None:
        try:
            board.draw(self._snapshot())
        except OSError as error:  # a job does not end for want of room for its progress
            if error.errno not in _FULL:
                raise

    def _snapshot(self) -> JobSnapshot:
        return JobSnapshot(self.job_name, tuple(self.tasks), tuple(self.nodes), self._elapsed())

    def _summary(self) -> Summary:
        tasks = self._watching().tasks
        return Summary(tasks, self._elapsed(), _tails(tasks, _TAILS))

    def _elapsed(self) -> float:
        watched = self._watching()
        ends = [task.ended_at or 0.0 for task in watched.ended] if watched.is_final else []
        return max(0.0, max(ends, default=time.time()) - self._created)

    def _lost_nodes(self) -> str:
        lost = [node for node in self.nodes if node.state is NodeState.UNREACHABLE]
        held = {task.node_name for task in self.tasks if task.state is TaskState.RUNNING}
        names = [f"{node.name} (UNREACHABLE {node.reason})" for node in lost if node.name in held]
        if not names:
            return ""
        return f"; some wait for {', '.join(names)}: down(node) gives a node up"

    def _leave(self, error: BaseException | None) -> None:
        """Close; a user who pressed Ctrl-C is told what goes on and how to come back.

        Of a job that never began not even its directories are left.
        """
        if isinstance(error, KeyboardInterrupt) and not self._closed and self._watched:
            self._detach(None)
        self.close()
        if self._post is None:
            self._remove_what_was_made()

    def _remove_what_was_made(self) -> None:
        nonce = paths.nonce_file(self.output_dir, self.job_id)
        with contextlib.suppress(OSError):  # somebody else's files, or never made
            for answer in nonce.parent.glob(f"{nonce.name}-*"):  # of a node not waited for
                answer.unlink(missing_ok=True)
            for directory in self._not_there:
                directory.rmdir()

    def _detach(self, board: Board | None) -> None:
        watched = self._watching()
        try:
            if board is not None:
                board.close(self._snapshot())
            self._was_told_what_is_left = True
            running, waiting = watched.count(TaskState.RUNNING), watched.count(TaskState.PENDING)
            say(
                f"detached; {running} tasks of job {self.job_name} go on, {waiting} wait; "
                f"their outputs lie in {self.output_dir}"
            )
            say(self._way_back())
            self.close()
        except KeyboardInterrupt:  # a second Ctrl-C: nothing is waited for
            try:
                watched.hang_up()
            finally:
                self.close()
            raise

    def _way_back(self) -> str:
        load = self._load_call()
        if not self._is_data:
            return f"to come back: {self._load_call('task_factory')}; to end them: {load}.cancel()"
        attach, cancel = self.shell_line("attach"), self.shell_line("cancel")
        return f"to come back: {attach}, or {load}; to end them: {cancel}, or {load}.cancel()"

    def shell_line(self, command: str) -> str:
        """What to type in a shell, such as ``allot attach out``, for a command on this job."""
        name = ["--job-name", self.job_name] if self._has_company() else []
        return shlex.join(["allot", command, str(self.output_dir), *name])

    def _load_call(self, *words: str) -> str:
        name = [f"job_name={self.job_name!r}"] if self._has_company() else []
        return f"Cluster.load({', '.join([repr(str(self.output_dir)), *words, *name])})"

    def _has_company(self) -> bool:
        """Whether there are several jobs in the output directory."""
        return len([*paths.state_directory(self.output_dir).glob("*.json")]) > 1

    def _tell_what_is_left(self, watched: Watched) -> None:
        if not watched.drives:
            return
        waiting = watched.count(TaskState.PENDING)
        if waiting and not self._was_told_what_is_left:
            way = self.shell_line("attach") if self._is_data else self._load_call("task_factory")
            say(
                f"{waiting} tasks of job {self.job_name} wait, and start when it is picked up: "
                f"{way}"
            )
        if unheard := watched.unheard:
            say(
                f"{unheard} tasks of job {self.job_name} were sent to nodes that have not "
                "answered since: they may have started or not"
            )

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def _missing(directory: Path) -> list[Path]:
    """What of a path is not there, the innermost directory first."""
    return [one for one in (directory, *directory.parents) if not os.path.lexists(one)]


def _tails(tasks: Sequence[TaskStatus], most: int) -> dict[int, str]:
    """The ends of the outputs of the first tasks that did not complete, by ``proc_id``."""
    tails: dict[int, str] = {}
    for task in Summary(tuple(tasks), 0.0).failed[:most]:
        if task.output_file is not None:
            with contextlib.suppress(OSError):  # what cannot be read has no end to show
                text = read_text(LocalReader(), str(task.output_file), None, _TAIL_BYTES)
                tails[task.proc_id] = last_lines(without_markers(text), _TAIL_LINES)
    return tails
