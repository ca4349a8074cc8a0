"""What the interpreter tells nobody: that it is on its way out.

Rules: public ways only. When a program ends, the interpreter first has the idle threads of all
pools end and waits for the others, whatever they wait for; the main thread counts as alive, and
nothing of ``atexit`` is called until they have ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def notice_of_exit() -> Iterator[Callable[[], bool]]:
    """Find out, in a daemon thread, when the interpreter begins to wait for all pools.

    Yields:
        Says whether it does: a pool's idle thread, kept for that, has ended.

    Raises:
        RuntimeError: It is on its way out already, or no thread can be started.
    """
    with ThreadPoolExecutor(1, "allot-exit") as pool:
        idle = pool.submit(threading.current_thread).result()
        yield lambda: not idle.is_alive()
