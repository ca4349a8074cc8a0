"""Where the client that drives a job takes the orders of the others.

Rules: used by the monitor's thread only. An order is followed once, also where its answer cannot
be written, or the driver dies before: that it was followed is on disk with what it changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from allot.errors import AllotError
from allot.lease import SupersededError
from allot.memory import Memory
from allot.orders import Order, OrderBook


class OrderDesk:
    """The orders for one job, and their answers."""

    def __init__(self, state_file: Path, memory: Memory, obey: Callable[[Order], int]) -> None:
        """Open it.

        Args:
            state_file: The job's state.
            memory: Remembers which orders were followed.
            obey: Follows an order and puts what it changed on disk.
        """
        self._book = OrderBook(state_file, memory.job_id)
        self._memory = memory
        self._obey = obey
        self._answers: dict[str, int | AllotError] = {}

    def follow(self) -> bool:
        """Follow the orders that wait, and answer them; whether one was to give way.

        Raises:
            SupersededError: Another client drives the job now.
            OSError: Orders cannot be looked for, or answers written; that is tried again.
        """
        orders = self._book.take()
        for key, order in orders:
            if key not in self._answers:
                self._answers[key] = self._answer_to(key, order)
            self._book.answer(key, self._answers[key])
        for key in self._answers.keys() - {key for key, _ in orders}:
            del self._answers[key]
        return any(order.kind == "give way" for _, order in orders)

    def _answer_to(self, key: str, order: Order) -> int | AllotError:
        if order.kind == "give way" or self._memory.was_followed(key):
            return 0
        self._memory.note_followed(key)
        try:
            return self._obey(order)
        except SupersededError:
            raise
        except AllotError as error:
            return error
