"""What a user orders of a job that is watched, and asks about its tasks.

Rules: orders are carried out by the monitor's thread; here they are checked and handed on.
"""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterable, Iterator
from operator import index

from allot.errors import AllotError, ConfigError
from allot.model import TaskState, TaskStatus
from allot.orders import Order
from allot.output import LocalReader, Reader, read_end, read_on, read_text
from allot.post import Post
from allot.watched import Watched

_MOMENT_S = 1.0


class Control:
    """The part of a job's front that gives orders.

    Attributes:
        job_name: Name of the job.
    """

    def __init__(self, job_name: str) -> None:
        """Begin without a job to watch."""
        self.job_name = job_name
        self._post: Post | None = None
        self._closed = False
        self._pid = os.getpid()

    @property
    def tasks(self) -> list[TaskStatus]:
        """Every task as it was last seen, by ``proc_id``."""
        watched = self._watched
        return [] if watched is None else list(watched.tasks)

    def as_completed(self, timeout: float | None = None) -> Iterator[TaskStatus]:
        """The tasks, each as it ends; those that have ended already come first.

        Args:
            timeout: Seconds to wait at most, in all; None: for ever.

        Raises:
            TimeoutError: The tasks took longer; they go on.
            AllotError: The job is not watched any more.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        told: set[tuple[int, int]] = set()
        watched, seen = self._watching(), 0
        while True:
            ended = watched.ended[seen:]
            seen += len(ended)
            for task in ended:
                if (task.proc_id, task.attempt) not in told:
                    told.add((task.proc_id, task.attempt))
                    yield task
            if watched.is_final and seen == len(watched.ended):
                return
            if watched.is_over:
                watched, seen = self._watching(), 0
                continue
            self._refuse_if_stuck(self._driving())
            left = 1.0 if give_up is None else min(1.0, give_up - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"job {self.job_name} is not final after {timeout:g} s")
            watched.wait_for_end(seen, left)

    def cancel(self, proc_ids: Iterable[int] | None = None, *, grace: float = 10.0) -> None:
        """Order tasks to be cancelled: TERM, then KILL, to all that is a task's.

        It returns when the order is recorded, and ``wait`` sees the end. The nodes keep the
        grace, also with the client gone. Tasks that wait never start; what has ended stays.

        Args:
            proc_ids: The tasks; None: all.
            grace: Seconds between TERM and KILL.

        Raises:
            ConfigError: There is no such task, or ``grace`` is negative.
            AllotError: The job is not watched any more.
        """
        self._driving().carry_out(Order("cancel", _numbers(proc_ids), grace=grace))

    def rerun(self, proc_ids: Iterable[int] | None = None, *, command: str | None = None) -> int:
        """Queue tasks once more, as their next attempt.

        Args:
            proc_ids: The tasks, which must have ended; None: all that ended other than COMPLETED.
            command: What tasks run from now on, see :class:`Cluster`; None: what they ran.

        Returns:
            How many.

        Raises:
            ConfigError: There is no such task, or it has not ended; or the command cannot be
                filled.
            AllotError: The job is not watched any more.
        """
        order = Order("rerun", _numbers(proc_ids), command=command)
        return self._driving().carry_out(order)

    def drain(self, node: str) -> None:
        """Start nothing new on a node; what runs there goes on.

        Raises:
            ConfigError: The job does not use such a node.
            AllotError: The job is not watched any more.
        """
        self._driving().carry_out(Order("drain", node=_name(node)))

    def resume(self, node: str) -> None:
        """Use a drained node again.

        Raises:
            ConfigError: The job does not use such a node.
            AllotError: The job is not watched any more.
        """
        self._driving().carry_out(Order("resume", node=_name(node)))

    def down(self, node: str) -> None:
        """Give a node up: its tasks are NODE_FAIL, and are killed when it can be reached.

        Raises:
            ConfigError: The job does not use such a node.
            AllotError: The job is not watched any more.
        """
        self._driving().carry_out(Order("down", node=_name(node)))

    def output(self, proc_id: int, *, tail: int | None = None) -> str:
        """A task's output so far, wherever it lies.

        Args:
            proc_id: The task.
            tail: Only so many last lines; None: all of it.

        Returns:
            Text; bytes that are no UTF-8 are replaced. Empty for a task that waits.

        Raises:
            ConfigError: There is no such task.
            NodeError: It lies on a node that is out of reach.
            OSError: It cannot be read.
        """
        self._check_output(proc_id, tail)
        reader, file = self._reader_of(proc_id)
        return "" if reader is None else read_text(reader, file, tail)

    def follow(self, proc_id: int, *, tail: int | None = None) -> Iterator[str]:
        """A task's output as it grows, until the task has ended.

        Args:
            proc_id: The task.
            tail: Begin with so many last lines; None: with all of it.

        Yields:
            Text, as :meth:`output` gives it.

        Raises:
            ConfigError: There is no such task.
            NodeError: It lies on a node that is out of reach.
            OSError: It cannot be read.
        """
        self._check_output(proc_id, tail)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset, attempt, is_first, is_over = 0, -1, True, False
        while not is_over:
            task = self.tasks[proc_id]
            is_over = task.state.is_final
            reader, file = self._reader_of(proc_id)
            if reader is not None:
                if task.attempt != attempt:  # its output is begun anew
                    offset, attempt = 0, task.attempt
                if is_first and tail is not None:
                    offset, data = read_end(reader, file, tail)
                else:
                    data = read_on(reader, file, offset)
                    offset += len(data)
                is_first = False
                yield decoder.decode(data, is_over)
            if not is_over:
                self.wait_a_moment()

    def _check_output(self, proc_id: int, tail: int | None) -> None:
        last = len(self.tasks) - 1
        if proc_id not in range(last + 1):
            raise ConfigError(f"there is no task {proc_id}: the last one is {last}")
        if tail is not None and (not isinstance(tail, int) or tail < 0):
            raise ConfigError(f"tail must be a number of lines from 0, not {tail!r}")

    def _reader_of(self, proc_id: int) -> tuple[Reader | None, str]:
        """Who reads a task's output where it lies now, and its path; None where there is none."""
        task = self.tasks[proc_id]
        file = task.output_file
        if file is None:
            return None, ""
        if task.state.is_final and (file.exists() or task.node_id is None):
            return LocalReader(), str(file)
        if task.node_id is None:
            return None, ""
        return self._watching().output_reader(task.node_id, file), str(file)

    def wait_a_moment(self) -> None:
        """Block until something may have changed, or a second.

        Raises:
            AllotError: The job is not watched any more.
        """
        self._driving().wait_for(lambda: False, _MOMENT_S)

    @property
    def _watched(self) -> Watched | None:
        return None if self._post is None else self._post.watched

    def _watching(self) -> Watched:
        """Whoever watches the job, in whatever state that is."""
        watched = self._watched
        if watched is None:
            raise AllotError(f"job {self.job_name} was never launched")
        return watched

    def _driving(self) -> Watched:
        """Whoever watches the job, while orders can be given."""
        self._refuse_if_closed()
        watched = self._watching()
        if watched.error is not None:
            raise AllotError(
                f"job {self.job_name} is not watched any more, its tasks go on: {watched.error!r}"
            ) from watched.error
        return watched

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise AllotError(f"job {self.job_name} was closed: it is not watched any more")
        if os.getpid() != self._pid:
            raise AllotError(
                f"job {self.job_name} is watched by the process that this one was forked from "
                "(Cluster.load here watches it too)"
            )

    def _refuse_if_stuck(self, watched: Watched) -> None:
        if watched.is_stuck:
            raise AllotError(
                f"job {self.job_name}: {watched.count(TaskState.PENDING)} tasks wait and nobody "
                "here can make them: give a task_factory to Cluster.load"
            )


def _numbers(proc_ids: object) -> tuple[int, ...] | None:
    """The tasks that are meant; an iterator is used up here, in its owner's thread."""
    if proc_ids is None:
        return None
    if isinstance(proc_ids, str) or not isinstance(proc_ids, Iterable):
        raise ConfigError(f"proc_ids must be task numbers, such as [3, 4], not {proc_ids!r}")
    numbers = tuple(proc_ids)
    try:
        return tuple(index(number) for number in numbers)
    except TypeError:
        raise ConfigError(
            f"proc_ids must be task numbers, such as [3, 4], not {numbers!r}"
        ) from None


def _name(node: object) -> str:
    if not isinstance(node, str):
        raise ConfigError(f"a node is named by its name, not by {node!r}")
    return node
