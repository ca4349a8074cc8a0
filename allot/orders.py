"""What users order of a job, and how it reaches the client that drives it.

Rules: an order is a file, written under another name and renamed, so that it is there whole or
not at all; the driver writes its answer the same way, and then removes the order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from allot import paths
from allot.codec import decode, encode
from allot.errors import AllotError, ConfigError

_log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["cancel", "rerun", "drain", "resume", "down", "give way"]

_LONGEST_GRACE_S = 86400


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        kind: What is to be done; ``give way`` has a client that cannot make tasks let another
            one drive the job.
        proc_ids: To which tasks, for cancel and rerun; None: to all it makes sense for.
        grace: Seconds between TERM and KILL, for cancel.
        node: To which node, for the others.
        command: For rerun: what tasks run from now on; None: what they ran.
    """

    kind: Kind
    proc_ids: tuple[int, ...] | None = None
    grace: float = 0.0
    node: str = ""
    command: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no node could be sent.

        Raises:
            ConfigError: ``grace`` is no such number of seconds.
        """
        grace = self.grace
        if not isinstance(grace, (int, float)) or not 0 <= grace <= _LONGEST_GRACE_S:
            raise ConfigError(f"grace must be seconds from 0 to {_LONGEST_GRACE_S}, not {grace!r}")


@dataclass(frozen=True)
class _Letter:
    job_id: str
    order: Order


@dataclass(frozen=True)
class _Answer:
    count: int = 0
    error: str | None = None
    is_config_error: bool = False


class OrderBook:
    """The orders of one job."""

    def __init__(self, state_file: Path, job_id: str) -> None:
        """Look beside a job's state."""
        self._state_file = state_file
        self._job_id = job_id

    def give(self, order: Order) -> str:
        """Give an order to whoever drives the job.

        Returns:
            The key under which its answer will be found.

        Raises:
            OSError: It cannot be written.
        """
        key = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
        self._write(paths.order_file(self._state_file, key), _Letter(self._job_id, order))
        return key

    def waits(self, key: str) -> bool:
        """Whether nobody has taken an order yet."""
        return paths.order_file(self._state_file, key).exists()

    def withdraw(self, key: str) -> None:
        """Take an order back, and what came of it."""
        with contextlib.suppress(OSError):
            paths.order_file(self._state_file, key).unlink(missing_ok=True)
            paths.answer_file(self._state_file, key).unlink(missing_ok=True)

    def take_answer(self, key: str) -> int | AllotError | None:
        """What came of an order: a number of tasks, what was wrong, or None: no answer yet."""
        file = paths.answer_file(self._state_file, key)
        try:
            answer = decode(_Answer, json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            return AllotError(f"{file}: the answer to an order makes no sense: {error}")
        if answer.error is not None:
            return (ConfigError if answer.is_config_error else AllotError)(answer.error)
        return answer.count

    def take(self) -> list[tuple[str, Order]]:
        """The orders that wait, oldest first, each with its key; what is none is answered so.

        Raises:
            OSError: The directory cannot be read.
        """
        names = sorted(os.listdir(self._state_file.parent))
        keys = [paths.order_key(self._state_file, name) for name in names]
        taken = []
        for key in (key for key in keys if key is not None):
            file = paths.order_file(self._state_file, key)
            try:
                letter = decode(_Letter, json.loads(file.read_text(encoding="utf-8")))
                if letter.job_id != self._job_id:
                    self.answer(key, AllotError(f"{file} was meant for job {letter.job_id}"))
                    continue
                taken.append((key, letter.order))
            except OSError as error:
                _log.debug("%s: %s", file, error)  # taken back, or no file at all
            except (ValueError, RecursionError) as error:
                self.answer(key, ConfigError(f"{file} is no order: {error}"))
        return taken

    def answer(self, key: str, result: int | AllotError) -> None:
        """Tell what came of an order.

        Raises:
            OSError: It cannot be written.
        """
        if isinstance(result, AllotError):
            answer = _Answer(0, str(result), isinstance(result, ConfigError))
        else:
            answer = _Answer(result)
        self._write(paths.answer_file(self._state_file, key), answer)
        paths.order_file(self._state_file, key).unlink(missing_ok=True)

    def _write(self, file: Path, value: _Letter | _Answer) -> None:
        temporary = paths.temporary_file(self._state_file, secrets.token_hex(4))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as text:
                text.write(json.dumps(encode(value)))
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
