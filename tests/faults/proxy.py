"""A TCP proxy on a loopback address, that can break the line in the ways a network does.

Rules: one thread serves all its connections and alone touches them; an order is carried out by
it before the call returns. Lost bytes stay lost: a connection that was swallowed never recovers,
and its server hears nothing of the client's end. Sources: socket(7), tcp(7).
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from faults.plan import Way

_PIECE = 64 * 1024
_MOST_HELD = 1024 * 1024
_ORDER_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without patience: close sends RST


class _Pipe:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        self.source = source
        self.sink = sink
        self.way = way
        self.held: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.is_lost = False
        self.is_last = False  # what is held are the last bytes before the end
        self.has_ended = False  # nothing more comes
        self.was_told = False  # and the other side knows

    def hold(self, data: bytes, due: float) -> None:
        self.held.append((due, data))
        self.size += len(data)

    def pass_on(self) -> None:
        """Send what is due, as much as goes."""
        while self.held and self.held[0][0] <= time.monotonic():
            due, data = self.held.popleft()
            sent = 0
            with suppress(BlockingIOError):
                sent = self.sink.send(data)
            self.size -= sent
            if sent < len(data):
                self.held.appendleft((due, data[sent:]))
                return


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.pipes = (_Pipe(client, server, Way.UP), _Pipe(server, client, Way.DOWN))

    @property
    def is_lost(self) -> bool:
        return any(pipe.is_lost for pipe in self.pipes)

    def lose(self, way: Way) -> None:
        for pipe in self.pipes:
            if way in (Way.BOTH, pipe.way):
                pipe.is_lost = True
                pipe.held.clear()
                pipe.size = 0


class Proxy:
    """Stands before one server; a context manager.

    Attributes:
        address: Where it listens.
        port: Its port.
        connections: How many connections it ever took.
    """

    def __init__(self, address: str, target: Callable[[], tuple[str, int]]) -> None:
        """Listen at a free port.

        Args:
            address: A loopback address.
            target: Tells address and port of the server for each new connection.
        """
        self.address = address
        self.connections = 0
        self._target = target
        self._listener = socket.create_server((address, 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[_Connection] = []
        self._forgotten: list[socket.socket] = []
        self._swallows: Way | None = None
        self._stalls: Way | None = None
        self._refuses = False
        self._delay = 0.0
        self._budget: dict[Way, int] = {}
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._bell, self._ear = socket.socketpair()
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._thread.start()

    def swallow(self, way: Way = Way.BOTH) -> None:
        """Keep connections open, old and new ones, and let nothing through."""

        def order() -> None:
            self._swallows = way
            for connection in self._open:
                connection.lose(way)

        self._carry_out(order)

    def stall(self, way: Way = Way.BOTH) -> None:
        """Let nothing through until `mend`, which lets all of it through."""

        def order() -> None:
            self._stalls = way

        self._carry_out(order)

    def reset(self) -> None:
        """Reset all connections, and new ones until `mend`."""

        def order() -> None:
            self._refuses = True
            self._reset_all()

        self._carry_out(order)

    def clip(self, way: Way, after: int) -> None:
        """Once ``after`` more bytes have come in a direction, break all connections.

        The server gets these bytes and an orderly end, the client a reset.
        """

        def order() -> None:
            ways = (Way.UP, Way.DOWN) if way is Way.BOTH else (way,)
            self._budget = dict.fromkeys(ways, after)

        self._carry_out(order)

    def slow(self, seconds: float) -> None:
        """Let bytes through so much later."""

        def order() -> None:
            self._delay = seconds

        self._carry_out(order)

    def mend(self) -> None:
        """New connections work again, and what was only late arrives."""

        def order() -> None:
            self._swallows = self._stalls = None
            self._refuses = False
            self._delay = 0.0
            self._budget = {}

        self._carry_out(order)

    def close(self) -> None:
        """Reset all connections and stop. Idempotent."""
        if self._thread.is_alive():

            def order() -> None:
                self._is_closing = True

            self._carry_out(order)
            self._thread.join(_ORDER_S)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _carry_out(self, order: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.append((order, done))
        self._bell.send(b".")
        if not done.wait(_ORDER_S):
            raise RuntimeError("the proxy's thread does not answer")

    def _serve(self) -> None:
        try:
            while not self._is_closing:
                self._turn()
        finally:
            self._reset_all()
            for sock in [*self._forgotten, self._listener, self._bell, self._ear]:
                sock.close()

    def _turn(self) -> None:
        now = time.monotonic()
        heads = [p for c in self._open for p in c.pipes if p.held and not self._is_stalled(p)]
        late = [pipe.held[0][0] - now for pipe in heads]
        sources = {p.source for c in self._open for p in c.pipes if self._reads(p)}
        ready, _, _ = select.select(
            [self._ear, self._listener, *sources, *self._forgotten],
            [pipe.sink for pipe, seconds in zip(heads, late, strict=True) if seconds <= 0],
            [],
            min((seconds for seconds in late if seconds > 0), default=None),
        )
        if self._listener in ready:
            self._accept()
        for connection in list(self._open):
            self._move(connection, ready)
        for sock in [sock for sock in self._forgotten if sock in ready]:
            self._drain(sock)
        if self._ear in ready:
            self._obey()

    def _obey(self) -> None:
        self._ear.recv(1)
        order, done = self._orders.popleft()
        order()
        done.set()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.connections += 1
        if self._refuses:
            _reset(client)
            return
        try:
            server = socket.create_connection(self._target(), timeout=5)
        except OSError:
            _reset(client)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, server)
        if self._swallows is not None:
            connection.lose(self._swallows)
        self._open.append(connection)

    def _is_stalled(self, pipe: _Pipe) -> bool:
        return self._stalls in (Way.BOTH, pipe.way)

    def _reads(self, pipe: _Pipe) -> bool:
        return not pipe.has_ended and pipe.size < _MOST_HELD

    def _move(self, connection: _Connection, ready: list[socket.socket]) -> None:
        for pipe in connection.pipes:
            if connection not in self._open:
                return
            try:
                if pipe.source in ready and not pipe.has_ended:
                    self._take(connection, pipe)
            except BlockingIOError:
                pass
            except OSError:
                self._lose_side(connection, pipe.source)
                return
            try:
                if not self._is_stalled(pipe):
                    pipe.pass_on()
                    self._tell_the_end(connection, pipe)
            except OSError:
                self._lose_side(connection, pipe.sink)
                return

    def _take(self, connection: _Connection, pipe: _Pipe) -> None:
        data = pipe.source.recv(_PIECE)
        if not data:
            pipe.has_ended = True
            if connection.is_lost:
                self._lose_side(connection, pipe.source)
            return
        if pipe.is_lost or pipe.is_last:
            return
        if pipe.way in self._budget:
            data = data[: self._budget[pipe.way]]
            self._budget[pipe.way] -= len(data)
            pipe.is_last = not self._budget[pipe.way]
        pipe.hold(data, time.monotonic() + self._delay)

    def _tell_the_end(self, connection: _Connection, pipe: _Pipe) -> None:
        if pipe.held:
            return
        if pipe.is_last:
            self._budget = {}
            connection.server.close()
            _reset(connection.client)
            self._open.remove(connection)
            self._reset_all()
        elif pipe.has_ended and not pipe.was_told and not connection.is_lost:
            pipe.sink.shutdown(socket.SHUT_WR)
            pipe.was_told = True
            if all(other.was_told for other in connection.pipes):
                connection.client.close()
                connection.server.close()
                self._open.remove(connection)

    def _lose_side(self, connection: _Connection, side: socket.socket) -> None:
        """One side is gone; the other hears of it, unless what was said was lost already."""
        if connection.is_lost and side is connection.server:
            connection.lose(Way.BOTH)
            connection.pipes[1].has_ended = True
            return
        self._open.remove(connection)
        _reset(connection.client)
        if connection.is_lost:
            self._forgotten.append(connection.server)
        else:
            _reset(connection.server)

    def _drain(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            if sock.recv(_PIECE):
                return
        self._forgotten.remove(sock)
        sock.close()

    def _reset_all(self) -> None:
        for connection in self._open:
            _reset(connection.client)
            _reset(connection.server)
        self._open.clear()


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
