"""The Bash that is kept open on a node: how requests are framed, and notices picked out.

Rules: one request at a time; a request that did not arrive whole runs not at all; every wait has
a deadline; what comes from a request on to its mark is its output, less the notices. The mark
itself is nobody's business but this module's.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import paramiko

_CHUNK = 64 * 1024
_STDERR_KEPT = 4096
_LOOSE_KEPT = 64 * 1024
_STDERR_LOOK_S = 0.5
_NOT_FOUND = 127
_STATUS_WAIT_S = 0.5
_EMPTY_ANSWERS = b"\n" * 8
# In single quotes, without what Bourne shells, fish and csh understand differently there: quotes,
# newlines, backslashes before either, exclamation marks.
#
# A line with the length (in bytes: LC_ALL=C) and the mark comes before each request, which is read
# as a whole, then run; where the connection breaks before, read fails and nothing runs. A Bash that
# died of SIGPIPE half-way through a request would have run part of it.
#
# Bash writes each line as soon as it has it, sshd sends it on by itself, and for each the client is
# woken: what a request leaves in __allot_reply goes out with the mark.
_LOOP = (
    'trap "" PIPE; exec 3>&1; echo "$1"; shift; '
    'while IFS=" " read -r __allot_length __allot_mark; do '
    "if [[ -n $__allot_length ]]; then "
    'LC_ALL=C IFS= read -r -N "$__allot_length" __allot_request || exit; __allot_reply=; '
    'eval "$__allot_request" </dev/null; '
    'printf "%s\\036%s end\\n" "$__allot_reply" "$__allot_mark"; '
    "fi; done"
)
_NOTICE = re.compile(rb"\x1eallot ([^\n]*)\n")


class _Bell(threading.Event):
    """Calls back, once, when paramiko sets it: data came, or the channel was closed."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call: Callable[[], None] | None = call

    def set(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class KeptShell:
    """The kept-open Bash: its requests, their framing, and the notices in between."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._token = secrets.token_hex(8)
        self._number = 0
        self._started = False
        self._buffer = bytearray()
        self._stderr = bytearray()
        self._notices: list[str] = []

    @property
    def is_open(self) -> bool:
        """False once its end is known."""
        channel = self._channel
        # What it started may hold the channel open when it has ended.
        has_ended = channel.closed or channel.eof_received or channel.exit_status_ready()
        return not has_ended and channel.get_transport().is_active()

    def start(self, deadline: float) -> None:
        """Start Bash in whatever the login shell is.

        Only when Bash has greeted is a request written to stdin: an rc file that reads stdin
        cannot swallow it. One that asks a question gets an empty line for an answer, which is no
        request either.

        Raises:
            EOFError, TimeoutError, OSError, paramiko.SSHException: There is no Bash.
        """
        greeting = secrets.token_hex(8)
        self._channel.exec_command(f"exec bash --noprofile --norc -c '{_LOOP}' bash {greeting}")
        self._send(_EMPTY_ANSWERS)
        self._read_until(greeting.encode() + b"\n", deadline)
        self._started = True

    def request(self, script: str, deadline: float) -> bytes:
        """Run a script without NUL characters; what it wrote to stdout, notices taken out.

        Last comes what it left in ``__allot_reply``, which takes one message for all of it.

        Raises:
            TimeoutError: There was no answer by the deadline (monotonic seconds).
            EOFError, OSError, paramiko.SSHException: The connection broke.
        """
        data = script.encode("utf-8", "surrogateescape")
        self.listen()
        if not self._buffer.startswith(b"\x1e"):
            self._buffer.clear()  # no part of a notice, and none of what is asked for now
        self._stderr.clear()  # what came before hardly explains how this one ends
        self._number += 1
        mark = f"{self._token} {self._number}"
        self._channel.settimeout(max(deadline - time.monotonic(), 0.01))
        self._send(f"{len(data)} {mark}\n".encode() + data)
        return self._read_until(f"\x1e{mark} end\n".encode(), deadline)

    def _send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise
        except OSError as exc:
            raise ConnectionResetError(None, self._describe_end()) from exc

    def _read_until(self, mark: bytes, deadline: float) -> bytes:
        """Everything before a mark, less the notices."""
        looked = 0
        while (found := self._buffer.find(mark, looked)) < 0:
            looked = max(len(self._buffer) - len(mark), 0)
            self._read_some(deadline)
        output = bytes(self._buffer[:found])
        del self._buffer[: found + len(mark)]
        return self._without_notices(output)

    def _read_some(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        # stdout and stderr share one window: who only waits for the one may wait for ever.
        self._channel.settimeout(min(left, _STDERR_LOOK_S))
        try:
            data = self._channel.recv(_CHUNK)
        except TimeoutError:
            self._read_stderr()
            if not self._channel.exit_status_ready() or self._channel.recv_ready():
                return
            data = b""
        self._read_stderr()
        if not data:
            raise ConnectionResetError(None, self._describe_end())
        self._buffer += data

    def _read_stderr(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr += self._channel.recv_stderr(_CHUNK)
            del self._stderr[:-_STDERR_KEPT]

    def _describe_end(self) -> str:
        self._channel.status_event.wait(_STATUS_WAIT_S)  # it comes after the end of stdout
        self._read_stderr()
        while self._channel.recv_ready():
            self._buffer += self._channel.recv(_CHUNK)
        status = self._channel.exit_status if self._channel.exit_status >= 0 else None
        # A login shell may say on stdout why it ends; later that is the output of a request.
        words = self._stderr or (b"" if self._started else self._buffer[-_STDERR_KEPT:])
        said = words.decode(errors="replace").strip().splitlines()
        last = f": {said[-1].strip()}" if said else ""
        if not self._started and status == _NOT_FOUND:
            return f"there is no Bash on the node{last}"
        if not self._started and status is not None:
            return f"its login shell ended with status {status}{last}"
        return f"the connection broke{last}"

    def listen(self) -> None:
        """Take in what has come, without waiting; what is no notice belongs to nobody."""
        self._read_stderr()
        while self._channel.recv_ready():
            self._buffer += self._channel.recv(_CHUNK)
        whole = self._buffer.rfind(b"\n") + 1
        self._without_notices(bytes(self._buffer[:whole]))
        del self._buffer[:whole]
        del self._buffer[:-_LOOSE_KEPT]

    def when_heard(self, call: Callable[[], None] | None) -> None:
        """Have something called once there is anything to listen to, by whatever thread.

        It is called at once where there is already; None takes an earlier call back.
        """
        bell = _Bell(call) if call else threading.Event()
        self._channel.in_buffer.set_event(bell)
        if self._notices:  # heard by a request that nobody expected them of
            bell.set()

    def _without_notices(self, data: bytes) -> bytes:
        def take(found: re.Match[bytes]) -> bytes:
            self._notices.append(found[1].decode("utf-8", "surrogateescape"))
            return b""

        return _NOTICE.sub(take, data)

    def take_notices(self) -> list[str]:
        """Take the notices that have been picked out since the last call."""
        taken, self._notices = self._notices, []
        return taken
