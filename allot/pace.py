"""When a node's event file is read next.

A recorder tells the connection under which its task was launched of the end; the file is read for
the start, for what else is known of a task, and for those who tell nobody: the end of theirs is
seen late by a share of the time in which nothing moved, at most, and by the poll interval. Where
all tell, it is read every few poll intervals, should a word be lost.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from allot.harvest import MOST_INTERVALS, soonest
from allot.running import FIRST_LOOK_S, Running

QUICK_S = 0.02
"""Seconds between two looks at the event file while tasks turn over and nobody tells."""

IDLE_LOOK_S = 15.0
"""Seconds after which a node is looked at, at the latest: a link that is gone must be noticed."""

_LAG = 0.05


class Pace:
    """Of one node."""

    def __init__(self, poll_interval: float) -> None:
        """Begin to watch a node.

        Args:
            poll_interval: Seconds between two looks at a running task's output.
        """
        self._poll_interval = poll_interval
        self._rarely = MOST_INTERVALS * poll_interval
        self._moved_at = time.monotonic()
        self._read_at = float("-inf")

    def note_moved(self) -> None:
        """Something happened on the node just now."""
        self._moved_at = time.monotonic()

    def note_read(self) -> None:
        """The event file was read just now."""
        self._read_at = time.monotonic()

    def is_due(self, tasks: Collection[Running]) -> bool:
        """Whether to read it in a turn that is taken anyway.

        That is also too early where all tell: else it would need a turn of its own soon.
        """
        pause = soonest(self._rarely, self._poll_interval)
        return self._due_at(tasks, pause) <= time.monotonic()

    def next_read(self, tasks: Collection[Running]) -> float:
        """When the event file is to be read.

        Args:
            tasks: What may run there.

        Returns:
            Seconds on the monotonic clock.
        """
        return self._due_at(tasks, self._rarely)

    def _due_at(self, tasks: Collection[Running], rarely: float) -> float:
        late, usual = _LAG * (time.monotonic() - self._moved_at), self._poll_interval
        if not all(task.tells for task in tasks):
            return self._read_at + min(max(QUICK_S, late), usual)
        unheard = [task.asked_at for task in tasks if not task.recorders]
        if unheard:
            soon = min(max(FIRST_LOOK_S, late), usual)
            return max(min(unheard) + FIRST_LOOK_S, self._read_at + soon)
        return self._read_at + rarely
