"""The watchdog: cuts off what takes too long.

Rules: one thread for all nodes, started when first needed; it only shuts things, so that the
thread that waits on them gets an error and goes on. What it calls must not wait, since all nodes
wait with it; what it calls may fail, and is logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_log = logging.getLogger(__name__)

_THREAD_END_S = 2.0


class Watchdog:
    """One thread that cuts off what takes too long.

    paramiko waits without bound in places (the answer to an exec request, a write to a peer
    whose window is full); shutting what it waits on is the one way to make it stop.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._guards: set[Guard] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._wakes_at = float("inf")

    @contextmanager
    def bound(self, seconds: float, cut_off: Callable[[], None]) -> Iterator[Guard]:
        """Run a block under watch.

        Args:
            seconds: How long it may take.
            cut_off: Called from the watchdog's thread if it takes longer. It shuts what the
                block waits on, and waits for nothing itself: no join, no write to a peer.
        """
        guard = Guard(time.monotonic() + seconds, cut_off)
        with self._changed:
            self._guards.add(guard)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(
                    target=self._watch, name="allot-watchdog", daemon=True
                )
                self._thread.start()
            elif guard.deadline < self._wakes_at:
                self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guards.discard(guard)

    def _watch(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                if self._thread is not me:
                    return
                now = time.monotonic()
                late = [guard for guard in self._guards if guard.deadline <= now]
                self._guards.difference_update(late)
                if not late:
                    self._wakes_at = min(
                        (guard.deadline for guard in self._guards), default=float("inf")
                    )
                    self._changed.wait(
                        None if self._wakes_at == float("inf") else self._wakes_at - now
                    )
            for guard in late:
                guard.expired = True
                try:
                    guard.cut_off()
                except Exception:
                    _log.exception("the watchdog could not cut off a call that took too long")

    def close(self) -> None:
        """End the thread, for good. Idempotent.

        What runs under watch from now on has no bound: its owner has shut it before.
        """
        with self._changed:
            self._is_closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_THREAD_END_S)


@dataclass(eq=False)
class Guard:
    """One block under watch: when it is cut off (monotonic seconds), how, and whether it was."""

    deadline: float
    cut_off: Callable[[], None]
    expired: bool = False
