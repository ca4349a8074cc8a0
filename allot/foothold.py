"""The Bash on a node in which a job's tasks are launched and cancelled: made ready, and asked.

Rules: used by one thread at a time. A node takes no orders from a client of an older generation
than the last one that it heard of, and starts nothing after the time for which the client that
asked was certainly the only one: a request that was under way for long does nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from allot import paths, script
from allot.errors import ConnectionFailedError, NodeError
from allot.node import Node
from allot.script import CancelOrder, Launch

_log = logging.getLogger(__name__)

_PREPARE_S = 10.0
_LAUNCH_S = 20.0


class Mandate(Protocol):
    """By what right a client starts tasks."""

    @property
    def generation(self) -> int:
        """Its number in the row of those that drove the job."""

    def seconds_left(self) -> float:
        """For how many seconds it is certainly the only one."""


class RefusedError(ConnectionFailedError):
    """The node started nothing of what it was asked for."""


class Foothold:
    """One node, made ready for the tasks of one job."""

    def __init__(self, node: Node, prelude: Callable[[int], str], mandate: Mandate) -> None:
        """Prepare; nothing is asked yet.

        Args:
            node: The node.
            prelude: The Bash that prepares it for tasks under a generation.
            mandate: By what right tasks are started.
        """
        self._node = node
        self._prelude = prelude
        self._mandate = mandate
        self._generation = 0  # for which it is ready
        self._uptime = (0, 0.0)  # the node's, in hundredths, and when that was (monotonic)

    @property
    def is_ready(self) -> bool:
        """Whether tasks can be launched there as it is."""
        return self._node.is_connected and self._generation == self._mandate.generation

    def forget(self) -> None:
        """Have it made ready once more before the next task is launched."""
        self._generation = 0

    def prepare(self) -> tuple[str, bool]:
        """Connect where there is no connection, and make the node ready.

        Returns:
            Its event file, and whether the job's directory was not there before.

        Raises:
            NodeError: It cannot be reached, has no room, or another client drives the job there.
        """
        self._generation = 0
        if not self._node.is_connected:
            self._node.connect()
        generation = self._mandate.generation
        answer = self._node.request(self._prelude(generation), timeout=_PREPARE_S)
        reply = answer.decode("utf-8", "surrogateescape")
        word, _, rest = reply.strip().partition(" ")
        if word == "superseded":
            raise self._superseded(rest)
        age, _, uptime_and_directory = rest.partition(" ")
        uptime, _, directory = uptime_and_directory.partition(" ")
        if word != "ready" or not uptime.isdecimal():
            raise ConnectionFailedError(
                self._node.name, f"{rest} cannot be made there: is the disk full or read-only?"
            )
        self._uptime = (int(uptime), time.monotonic())
        self._generation = generation
        return paths.event_file(directory), age == "new"

    def launch(self, launches: Sequence[Launch]) -> None:
        """Start tasks.

        Raises:
            RefusedError: Nothing of it was started.
            ConnectionFailedError: The connection broke; it may have been.
        """
        left = self._mandate.seconds_left()
        if left <= 0:
            self._generation = 0
            raise RefusedError(self._node.name, "this client may not start tasks at the moment")
        told, at = self._uptime
        until = told + round((time.monotonic() - at + left) * 100)
        request = script.launch_script(launches, generation=self._generation, until=until)
        reply = self._node.request(request, timeout=_LAUNCH_S).decode("ascii", "replace")
        if reply.startswith("refused late"):
            self._generation = 0
            raise RefusedError(self._node.name, "what it was asked for reached it too late")
        if reply.startswith("refused"):
            raise RefusedError(self._node.name, self._superseded(reply.split()[-1]).reason)

    def cancel(
        self, orders: Mapping[tuple[int, int], CancelOrder]
    ) -> dict[tuple[int, int], CancelOrder]:
        """Have tasks ended.

        Returns:
            The orders that the node could not write down (its disk is full), to be given again.

        Raises:
            ConnectionFailedError: The connection broke, or another client drives the job there.
        """
        request = script.cancel_script(orders.values(), generation=self._generation)
        reply = self._node.request(request).decode("ascii", "replace")
        if reply.startswith("refused"):
            raise self._superseded(reply.split()[-1])
        failed = {tuple(line.split()[1:]) for line in reply.splitlines()}
        return {key: order for key, order in orders.items() if tuple(map(str, key)) in failed}

    def clean_up(self, timeout: float) -> tuple[bool, str]:
        """Remove the job's directory, if the node can be reached just now.

        Returns:
            Whether it is gone; and where files are kept that nobody collected, or empty.
        """
        if not (self._generation and self._node.is_connected):
            return False, ""
        request = script.clean_up_script(self._generation)
        try:
            reply = self._node.request(request, timeout=timeout).decode("utf-8", "surrogateescape")
        except NodeError as error:
            _log.info("%s: the job's directory is left there: %s", self._node.name, error.reason)
            return False, ""
        word, _, where = reply.removesuffix("\n").partition(" ")
        return word == "gone", where if word == "kept" else ""

    def _superseded(self, generation: str) -> ConnectionFailedError:
        self._generation = 0
        return ConnectionFailedError(
            self._node.name, f"a later client (number {generation}) drives the job there"
        )
