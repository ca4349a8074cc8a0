"""Tests of the sockets that nodes are reached by, against a real listener."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from allot.sockets import Line, open_tcp
from allot.sshconfig import Login

LONG_S = 30.0


@pytest.fixture
def line() -> Line:
    """The line of :func:`ends`."""
    return Line()


@pytest.fixture
def ends(line: Line) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection's client end, made by ``open_tcp``, and its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        login = Login("node", "127.0.0.1", listener.getsockname()[1], "alice")
        with open_tcp(login, time.monotonic() + LONG_S, line) as ours, listener.accept()[0] as peer:
            yield ours, peer


def test_what_came_at_once_is_given_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = ends
    sent = bytes(range(256)) * 64
    peer.sendall(sent[:6])
    assert (ours.recv(2), ours.recv(1)) == (sent[:2], sent[2:3])
    peer.sendall(sent[6:])
    peer.shutdown(socket.SHUT_WR)
    came = sent[:3]
    while data := ours.recv(1000):
        assert len(data) <= 1000
        came += data
    assert came == sent


def test_the_first_packets_are_acknowledged_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Also those of a peer that, as sshd, waits for it; what comes later has time."""
    ours, peer = ends

    def is_prompt() -> bool:
        peer.sendall(b"answer")
        assert ours.recv(6) == b"answer"
        was_prompt = bool(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
        ours.sendall(b"question")
        return was_prompt

    ours.sendall(b"question")
    turns = [is_prompt() for _ in range(40)]
    assert all(turns[:10])
    assert not any(turns[30:])


def test_a_silence_is_a_timeout_and_loses_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = ends
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(4)
    ours.settimeout(None)
    threading.Timer(0.05, peer.sendall, [b"late"]).start()
    assert ours.recv(4) == b"late"


def test_what_nobody_takes_is_a_timeout(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    ours.settimeout(0.01)

    def fill() -> None:
        while ours.send(bytes(65536)):
            pass

    with pytest.raises(BlockingIOError):  # paramiko takes it for one
        fill()


def test_cutting_the_line_ends_who_waits_for_data(
    ends: tuple[socket.socket, socket.socket], line: Line
) -> None:
    ours, _ = ends
    ours.settimeout(LONG_S)
    line.carry(lambda: ours.shutdown(socket.SHUT_RDWR))
    came: list[bytes] = []
    waiting = threading.Thread(target=lambda: came.append(ours.recv(4)))
    waiting.start()
    line.cut()
    waiting.join(LONG_S / 2)
    assert came == [b""]
