"""A job as its front sees it, whoever drives it: snapshots, waiting, orders.

Rules: what is read here is a snapshot; an order is carried out by whoever drives the job.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from allot.model import NodeStatus, TaskState, TaskStatus
from allot.orders import Order
from allot.output import Reader
from allot.records import JobState


class Watched(ABC):
    """A job that is driven from here, or watched while another client drives it.

    Attributes:
        changed: Notified whenever something may have changed.
        error: What ended the watching before its time, or None.
        is_over: Somebody else takes this one's place: it tells nothing new any more.
        drives: Whether the job goes on, and its queue, by this one.
    """

    drives = False

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.is_over = False

    @property
    @abstractmethod
    def tasks(self) -> tuple[TaskStatus, ...]:
        """Every task as it stands, by ``proc_id``."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[NodeStatus, ...]:
        """Every node used as it stands, by ``node_id``."""

    @property
    @abstractmethod
    def ended(self) -> Sequence[TaskStatus]:
        """The tasks that ended so far, in that order; it only grows."""

    @property
    @abstractmethod
    def is_final(self) -> bool:
        """True when no task waits or runs."""

    @property
    @abstractmethod
    def is_stuck(self) -> bool:
        """True when nothing will go on: tasks wait that nobody here can make."""

    @abstractmethod
    def count(self, state: TaskState) -> int:
        """Number of tasks in a state."""

    @abstractmethod
    def carry_out(self, order: Order) -> int:
        """Have an order recorded by whoever drives the job.

        Returns:
            How many tasks were queued, for a rerun.

        Raises:
            ConfigError: It names what is not there.
            AllotError: Nobody takes it.
        """

    @abstractmethod
    def save(self) -> JobState:
        """The whole job, after what is known of it was made sure to be on disk.

        Raises:
            AllotError: It is not watched any more, or cannot be written.
        """

    @abstractmethod
    def output_reader(self, node_id: int, file: Path) -> Reader:
        """Reads the output of a task that runs on a node.

        Raises:
            ConnectionFailedError: The node is out of reach.
        """

    @abstractmethod
    def stop(self, timeout: float) -> None:
        """End the watching; at most ``timeout`` seconds are waited for its thread."""

    @abstractmethod
    def hang_up(self) -> None:
        """Close all connections."""

    def hold(self, timeout: float) -> None:  # noqa: B027 - nothing is under way
        """Start nothing new, and block until what was begun is sent, or ``timeout`` seconds."""

    def wait_until_heard(self, timeout: float) -> None:  # noqa: B027 - all that is known is told
        """Block until each node has told what happened or is out of reach, or ``timeout`` s."""

    def clean_up(self, timeout: float) -> None:  # noqa: B027 - who drives does it
        """Remove what a job that is over has left on its nodes, for ``timeout`` seconds at most."""

    def release(self) -> None:  # noqa: B027 - nothing is under way
        """Let go of what was under way to the client, once no connection is left."""

    @property
    def unheard(self) -> int:
        """Tasks that may have started or not: their node has not answered since it was asked."""
        return 0

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Block until a condition holds or the watching has ended, ``timeout`` seconds at most."""
        with self.changed:
            return self.changed.wait_for(
                lambda: self.error is not None or self.is_over or condition(), timeout
            )

    def wait_for_end(self, seen: int, timeout: float) -> None:
        """Block until more than ``seen`` tasks have ended or all have, or ``timeout`` seconds."""
        self.wait_for(lambda: len(self.ended) > seen or self.is_final, timeout)
