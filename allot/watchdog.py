"""The watchdog: cuts off what takes too long.

Rules: one thread for all nodes, started when first needed; it only closes things, so that the
thread that waits on them gets an error and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_THREAD_END_S = 2.0


class Watchdog:
    """One thread that cuts off what takes too long.

    paramiko waits without bound in places (the answer to an exec request, a write to a peer
    whose window is full); closing what it waits on is the one way to make it stop.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._guards: set[Guard] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")

    @contextmanager
    def bound(self, seconds: float, cut_off: Callable[[], None]) -> Iterator[Guard]:
        """Run a block; call ``cut_off`` from another thread if it takes longer than ``seconds``."""
        guard = Guard(time.monotonic() + seconds, cut_off)
        with self._changed:
            self._guards.add(guard)
            if self._thread is None:
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
                guard.cut_off()

    def close(self) -> None:
        """End the thread. Idempotent; a later ``bound`` starts another one."""
        with self._changed:
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
