"""What a piece of work costs and shows meanwhile, without a clock: the same on any machine."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are entered and left in ``work``, those written in C counted."""
    calls = 0

    def tally(frame: FrameType, what: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    gc.disable()  # Hypothesis is told of collections, and would be counted
    sys.setprofile(tally)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def memory_of(work: Callable[[], object]) -> int:
    """The most bytes that ``work`` held at once beyond what was there before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def at_each_line(work: Callable[[], object], look: Callable[[], object]) -> None:
    """Do ``work``, and ``look`` before each of its lines, as another thread might."""

    def trace(frame: FrameType, what: str, argument: object) -> Any:
        look()
        return trace

    before = sys.gettrace()  # coverage's, perhaps
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
