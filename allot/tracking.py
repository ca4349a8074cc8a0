r"""``track``: progress markers for a Python loop that runs as a task.

Rules: what it prints is the marker of ``allot.markers``, on stdout, one a line, flushed;
nothing is printed that a reader of markers would call broken.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Generator, Iterable, Sized
from typing import TypeVar

from allot.errors import ConfigError

T = TypeVar("T")

# At most 20 markers a second: a bar is redrawn more seldom than that, and a fast loop would
# fill the output file with markers. What is shown is never older than this much of the loop.
_INTERVAL_S = 0.05


def track(iterable: Iterable[T], total: int | None = None) -> Generator[T, None, None]:
    r"""Yield the items of ``iterable`` and print how far the loop is.

    ``\x020/total\x03`` is printed before the first item, and ``\x02i/total\x03`` after the body
    of the loop is done with item ``i``: at most 20 a second, the last always. An item whose body
    raises or leaves the loop does not count. Nothing is printed when ``total`` is 0.

    Args:
        iterable: What to loop over.
        total: Number of items; ``len(iterable)`` where it is left out. Items beyond it are
            yielded and not counted.

    Returns:
        A generator of the items.

    Raises:
        ConfigError: ``total`` is left out and ``iterable`` has no length, or ``total`` is not a
            whole number of at least 0.

    Example:
        ::

            for epoch in track(range(120)):
                train(epoch)
    """
    return _tracked(iterable, _length(iterable) if total is None else _whole(total))


def _length(iterable: Iterable[object]) -> int:
    kind = type(iterable).__name__
    message = f"track: the length of this {kind} is unknown; give it as track(…, total=N)"
    if not isinstance(iterable, Sized):
        raise ConfigError(message)
    try:
        return len(iterable)
    except TypeError as error:  # some data loaders have a length only in certain modes
        raise ConfigError(message) from error


def _whole(total: int) -> int:
    try:
        number = operator.index(total)
    except TypeError as error:
        raise ConfigError(f"track: total must be a whole number, not {total!r}") from error
    if number < 0:
        raise ConfigError(f"track: total must be 0 or more, not {number}")
    return number


def _tracked(iterable: Iterable[T], total: int) -> Generator[T, None, None]:
    _print_marker(0, total)
    step = printed = 0
    printed_at = time.monotonic()
    for item in iterable:
        yield item
        step = min(step + 1, total)
        now = time.monotonic()
        if step > printed and now - printed_at >= _INTERVAL_S:
            _print_marker(step, total)
            printed, printed_at = step, now
    if step > printed:
        _print_marker(step, total)


def _print_marker(step: int, total: int) -> None:
    if total > 0:
        # A line of its own, in one write, so that other threads' output does not tear it.
        print(f"\x02{step}/{total}\x03\n", end="", flush=True)  # noqa: T201 - its whole purpose
