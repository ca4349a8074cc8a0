"""A node under real sshd: requests, notices, and what happens when it dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from conftest import NodesFactory
from nodes import connected, open_gateway, reach
from sandbox import IS_ROOT, wait_until
from sshd import SshdNodes

from allot.errors import ConnectionFailedError
from allot.node import FileRead, Node
from allot.watchdog import Watchdog

needs_root = pytest.mark.skipif(not IS_ROOT, reason="accounts of their own need root")

_NOISE = "echo junk; echo junk >&2; sleep 0.5\n"
_SHELLS = [
    ("/bin/bash", ".bashrc", _NOISE),
    ("/bin/dash", ".profile", _NOISE),
    ("/usr/bin/zsh", ".zshenv", _NOISE),
    ("/usr/bin/fish", ".config/fish/config.fish", _NOISE),
    ("/usr/bin/tcsh", ".tcshrc", "echo junk; sleep 0.5\n"),
]


@needs_root
@pytest.mark.parametrize(("shell", "file", "noise"), _SHELLS, ids=[row[0] for row in _SHELLS])
def test_every_login_shell_will_do(
    sshd_nodes: NodesFactory, shell: str, file: str, noise: str
) -> None:
    """Bash is reached through any login shell, with an rc file that prints and takes its time."""
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    nodes = sshd_nodes(1, login_shell=shell, rc={file: noise})
    with connected(nodes) as node:
        assert node.request('echo "${BASH_VERSION:+Bash} $((6 * 7))"; echo err >&2') == b"Bash 42\n"
        assert node.request("cat; pwd") == f"{nodes.home}\n".encode()


@needs_root
def test_an_rc_file_that_asks_gets_no_request_for_an_answer(sshd_nodes: NodesFactory) -> None:
    """An rc file that reads from the terminal neither hangs nor swallows a request."""
    with connected(sshd_nodes(1, rc={".bashrc": "read -r answer\n"})) as node:
        assert node.request("echo ok") == b"ok\n"


@needs_root
@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false"])
def test_an_account_that_may_not_log_in_says_so(sshd_nodes: NodesFactory, shell: str) -> None:
    """The reason has the status, and what the login shell said last."""
    nodes = sshd_nodes(1, login_shell=shell)
    reason = "status 1: This account" if "nologin" in shell else "status 1$"
    with reach(nodes.names[0], nodes.ssh_config) as node:
        with pytest.raises(ConnectionFailedError, match=reason):
            node.connect()
        assert not node.is_connected


@needs_root
def test_a_node_without_bash_says_so(sshd_nodes: NodesFactory) -> None:
    """No Bash on the search path is told as that."""
    nodes = sshd_nodes(1, login_shell="/bin/dash", options=["SetEnv PATH=/nowhere"])
    with (
        reach(nodes.names[0], nodes.ssh_config) as node,
        pytest.raises(ConnectionFailedError, match=r"no Bash on the node.*not found"),
    ):
        node.connect()


@needs_root
def test_a_login_shell_that_never_answers_is_given_up(sshd_nodes: NodesFactory) -> None:
    """An rc file that hangs costs the timeout and no more."""
    nodes = sshd_nodes(1, rc={".bashrc": "sleep 60\n"})
    started = time.monotonic()
    with (
        reach(nodes.names[0], nodes.ssh_config, timeout=3.0) as node,
        pytest.raises(ConnectionFailedError, match="did not answer within 3 s"),
    ):
        node.connect()
    assert time.monotonic() - started < 10


def test_what_a_request_sets_stays_for_the_next(five_nodes: SshdNodes) -> None:
    """Variables and directory are kept; errors, also of syntax, do not end the Bash."""
    with connected(five_nodes) as node:
        assert node.request("cd /; x='ö \"$\n'") == b""
        assert node.request('printf "%s" "$PWD$x"') == '/ö "$\n'.encode()
        assert node.request("if; then (") == b""
        assert node.request("false; exec 5</nonexistent; echo $?") == b"1\n"


def test_a_reply_comes_once_and_last(five_nodes: SshdNodes) -> None:
    """Of what a request left for its reply, bytes of all kinds, the next one knows nothing."""
    with connected(five_nodes) as node:
        reply = r"__allot_reply=$'%s\ö \xff\001\036'"
        assert node.request(f"{reply}; echo first") == "first\n%s\\ö ".encode() + b"\xff\1\x1e"
        assert node.request("echo next") == b"next\n"


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 1_000_000])
def test_a_request_of_any_size_arrives_whole(five_nodes: SshdNodes, size: int) -> None:
    """Text of any length and any characters is the same on the other side."""
    text = ("aö\\n€" * (size // 8 + 1))[:size]
    with connected(five_nodes) as node:
        got = node.request(f"cat <<'END'\n{text}\nEND\n")
    assert got.decode() == f"{text}\n"


def test_stderr_in_floods_does_not_block(five_nodes: SshdNodes) -> None:
    """More on stderr than the channel's window holds is taken away while the request runs."""
    with connected(five_nodes) as node:
        assert node.request("head -c 5000000 /dev/zero >&2; echo done") == b"done\n"


def test_requests_from_many_threads_do_not_mix(five_nodes: SshdNodes) -> None:
    """Each thread gets the answer to its own request."""
    with connected(five_nodes) as node:
        answers: dict[int, bytes] = {}

        def ask(number: int) -> None:
            answers[number] = node.request(f"echo {number}")

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert answers == {number: f"{number}\n".encode() for number in range(20)}


def test_a_request_cut_short_runs_not_at_all(five_nodes: SshdNodes, tmp_path: Path) -> None:
    """Whatever part of a request arrives before the client dies, none of it runs."""
    tmp_path.chmod(0o777)
    script = f"touch {tmp_path}/a\ntouch {tmp_path}/b"
    for cut in (None, -1, -20, -len(script) + 8, -len(script), -len(script) - 10, 20):
        with connected(five_nodes) as node:
            assert node._session is not None
            channel = node._session.shell._channel

            def send(data: bytes, to: paramiko.Channel = channel, cut: int | None = cut) -> None:
                to.send(data[:cut])
                to.shutdown_write()

            channel.sendall = send  # type: ignore[method-assign,assignment]
            if cut is None:
                node.request(script)
            else:
                with pytest.raises(ConnectionFailedError, match="connection broke"):
                    node.request(script)
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == (["a", "b"] if cut is None else []), cut
        for path in tmp_path.iterdir():
            path.unlink()


def test_notices_arrive_whole_wherever_they_come(five_nodes: SshdNodes) -> None:
    """What background jobs tell is kept apart from the output of requests, in its order."""
    with connected(five_nodes) as node:
        told = r"printf '\036allot %s\n'"
        assert node.request(f"printf a; {told} 'one 1' >&3; printf b") == b"ab"
        assert node.take_notices() == ["one 1"]
        node.request(f"( sleep 0.2; {told} two >&3; echo loose; {told} thr\udcffee >&3 ) &")
        got: list[str] = []

        def both_came() -> bool:
            got.extend(node.take_notices())
            return len(got) == 2

        wait_until(both_came, 10, "no notices came")
        assert got == ["two", "thr\udcffee"]
        assert node.request("echo ok") == b"ok\n"
        assert node.take_notices() == []


def test_who_waits_is_called_once_when_something_is_heard(five_nodes: SshdNodes) -> None:
    """At once where there is something already, later by a notice, and when all is over."""
    calls: list[str] = []
    with connected(five_nodes) as node:
        node.request(r"( until [[ -e go ]]; do sleep 0.02; done; printf '\036allot n\n' >&3 ) &")
        node.when_heard(lambda: calls.append("notice"))
        assert calls == []
        node.request("touch go")  # its answer would do
        wait_until(lambda: node.take_notices() == ["n"], 10, "no notice came")
        assert calls == ["notice"]
        node.when_heard(lambda: calls.append("never"))
        node.when_heard(None)
        node.request("rm go; printf '\\036allot more\\n' >&3")
        assert calls == ["notice"]
        node.when_heard(lambda: calls.append("more"))
        assert calls == ["notice", "more"]
        assert node.take_notices() == ["more"]
        node.when_heard(lambda: calls.append("end"))
    wait_until(lambda: calls == ["notice", "more", "end"], 10, lambda: f"{calls}")


@pytest.mark.parametrize("end", ["exit 3", "kill -9 $$", "trap - TERM; kill $$"])
def test_a_bash_that_ended_is_noticed_though_others_hold_its_channel(
    five_nodes: SshdNodes, end: str
) -> None:
    """What it has left running keeps stdout open, and the request fails all the same."""
    with connected(five_nodes) as node:
        with pytest.raises(ConnectionFailedError, match="the connection broke"):
            node.request(f"sleep 60 & echo $! > left; {end}", timeout=60)
        assert not node.is_connected
        node.connect()
        assert node.request("kill $(< left) && rm left && echo ok") == b"ok\n"


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[str]:
    """Bash that runs until the test is over."""
    yield f"until [[ -e {tmp_path}/over ]]; do sleep 0.05; done"
    (tmp_path / "over").touch()


def test_a_request_that_takes_too_long_breaks_the_connection(
    five_nodes: SshdNodes, endless: str
) -> None:
    """The bound holds, the connection counts as broken, and can be made anew."""
    with connected(five_nodes) as node:
        with pytest.raises(ConnectionFailedError, match=r"timed out: no answer within 0\.3 s"):
            node.request(endless, timeout=0.3)
        assert not node.is_connected
        with pytest.raises(ConnectionFailedError, match="not connected"):
            node.request("echo ok")
        assert node.take_notices() == []
        node.connect()
        assert node.request("echo ok") == b"ok\n"


def test_a_shell_that_ends_tells_its_last_words(five_nodes: SshdNodes) -> None:
    """When Bash goes away, what it said on stderr is in the error."""
    with (
        connected(five_nodes) as node,
        pytest.raises(ConnectionFailedError, match="connection broke: last words"),
    ):
        node.request("echo last words >&2; exit 3")


def test_a_session_that_is_killed_shows_nothing_of_the_protocol(five_nodes: SshdNodes) -> None:
    """The reason is in a user's words: no marks of ours, no half of an output."""
    with connected(five_nodes) as node:
        with pytest.raises(ConnectionFailedError) as caught:
            node.request("echo partial output; kill -9 $PPID; sleep 0.5")
        assert caught.value.reason == "the connection broke"


def test_a_request_with_a_nul_is_refused(five_nodes: SshdNodes) -> None:
    """Bash cannot read a NUL: the error says where it is, and the connection goes on."""
    with connected(five_nodes) as node:
        with pytest.raises(ValueError, match=r"no NUL .*after 'echo a'"):
            node.request("echo a\0b")
        assert node.request("echo ok") == b"ok\n"


def test_a_killed_node_is_noticed_at_once(sshd_nodes: NodesFactory) -> None:
    """A request under way fails when its node dies, and a new connection works after."""
    nodes = sshd_nodes(1)
    with connected(nodes) as node:
        killer = threading.Timer(0.3, nodes.node(0).kill)
        killer.start()
        with pytest.raises(ConnectionFailedError, match=r"broke|closed|reset"):
            node.request("exec sleep 60", timeout=60)  # no Bash that sees it die first
        assert not node.is_connected
        killer.join(30)
        with pytest.raises(ConnectionFailedError, match=r"connection refused at 127\.0\."):
            node.connect()
        nodes.node(0).restart()
        node.connect()
        assert node.request("echo ok") == b"ok\n"


def test_a_frozen_node_holds_nobody_up(sshd_nodes: NodesFactory) -> None:
    """With sshd stopped, every call ends within its bound, and so does hanging up."""
    nodes = sshd_nodes(1)
    with connected(nodes, timeout=3.0) as node:
        assert node.open_sftp()
        nodes.node(0).freeze()
        try:
            started = time.monotonic()
            with pytest.raises(ConnectionFailedError, match="timed out"):
                node.read_files([FileRead("/etc/passwd", 0, 10)])
            with pytest.raises(ConnectionFailedError, match=r"timed out|before sshd answered"):
                node.connect()
            assert time.monotonic() - started < 20
        finally:
            nodes.node(0).thaw()


def test_closing_frees_a_request_under_way(five_nodes: SshdNodes, endless: str) -> None:
    """``close`` from another thread ends a call at once; closing twice is nothing."""
    with connected(five_nodes) as node:
        timer = threading.Timer(0.3, node.close)
        timer.start()
        started = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            node.request(endless, timeout=60)
        assert time.monotonic() - started < 20
        timer.join()
        node.close()


def test_dropbear_will_do_as_well(sshd_nodes: NodesFactory) -> None:
    """Another server implementation: requests, notices and files work the same."""
    with connected(sshd_nodes(1, server="dropbear")) as node:
        assert node.request(r"printf '\036allot n\n' >&3; echo ok") == b"ok\n"
        wait_until(lambda: node.take_notices() == ["n"], 10, "no notice came")
        path = node.request("f=$(mktemp); echo hello > $f; echo $f").decode().strip()
        assert node.read_files([FileRead(path, 1, 3)]) == [b"ell"]
        node.request(f"rm {path}")


def test_the_watchdog_cuts_off_only_what_is_late() -> None:
    """A block in time is left alone, one that is late is cut off; closing ends the thread."""
    dog = Watchdog()
    cut = threading.Event()
    with dog.bound(60, cut.set) as patient, dog.bound(0.05, cut.set) as late:
        assert cut.wait(10)
        assert late.expired
        assert not patient.expired
    dog.close()
    dog.close()
    assert not [t for t in threading.enumerate() if t.name == "allot-watchdog"]


def test_the_watchdog_outlives_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A cut that raises is logged, and what is late after it is cut off all the same."""
    dog = Watchdog()
    failed, cut = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise EOFError("the connection broke before")

    try:
        with dog.bound(0.05, fail):
            assert failed.wait(10)
        with dog.bound(0.05, cut.set):
            assert cut.wait(10)
    finally:
        dog.close()
    assert "could not cut off" in caplog.text


def test_five_nodes_connect_at_once(five_nodes: SshdNodes) -> None:
    """All nodes of a cluster can be connected side by side through one gateway."""
    with open_gateway() as gateway:
        entered = [reach(name, five_nodes.ssh_config, gateway) for name in five_nodes.names]
        nodes: list[Node] = [manager.__enter__() for manager in entered]
        threads = [threading.Thread(target=node.connect) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [node.request("echo ok") for node in nodes] == [b"ok\n"] * 5
        for manager in entered:
            manager.__exit__(None, None, None)
