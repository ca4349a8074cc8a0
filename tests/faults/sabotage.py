"""Parts of Allot switched off in a client, to show that the suite sees it.

Rules: what is to be switched off must be there: a name or a text that is gone is an error, so that
nobody takes a sabotage that does nothing for a suite that finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakSet


class NothingToSabotageError(RuntimeError):
    """What was to be switched off is not there (any more)."""


def apply(name: str) -> None:
    """Switch a part of Allot off in this process.

    Args:
        name: One of `SABOTAGES`, or empty for none.

    Raises:
        NothingToSabotageError: It does not look as it did.
    """
    if name:
        SABOTAGES[name]()


def _no_claim() -> None:
    """Whoever asks for an attempt gets the claim for it."""
    from allot import script  # noqa: PLC0415

    text = script._FUNCTIONS
    for line, instead in (
        (r"(?<=__allot_claim\(\) \{\n)  \[\[ ! -e \$claim \]\] \|\| .*\n", ""),
        (
            r"(?<=  __allot_take \"\$claim\" \"\$me \$ticks \$__allot_boot\") \|\| \{",
            " || true || {",
        ),
    ):
        text, found = re.subn(line, instead, text)
        if found != 1:
            raise NothingToSabotageError(f"{line!r} is not once in the Bash of allot.script")
    script._FUNCTIONS = text


def _no_offset() -> None:
    """Who comes back to a job takes what the event file holds then as read."""
    try:
        from allot.cluster import Cluster  # noqa: PLC0415
        from allot.eventfile import EventFile  # noqa: PLC0415
    except ImportError as error:
        raise NothingToSabotageError(str(error)) from error
    job, file = vars(Cluster), vars(EventFile)
    if "load" not in job or "read" not in file:
        raise NothingToSabotageError("Cluster.load or EventFile.read is gone")
    load, read = Cluster.load, file["read"]
    came_back: list[bool] = []
    begun: WeakSet[Any] = WeakSet()

    def come_back(*args: Any, **options: Any) -> Any:
        came_back.append(True)
        return load(*args, **options)

    def skip(self: Any, reader: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
        is_first = bool(came_back) and self not in begun
        begun.add(self)
        for cursor, events in read(self, reader):
            yield cursor, [] if is_first else events

    setattr(Cluster, "load", come_back)  # noqa: B010
    setattr(EventFile, "read", skip)  # noqa: B010


SABOTAGES: Mapping[str, Callable[[], None]] = {"claim": _no_claim, "offset": _no_offset}
"""What can be switched off, by name."""
