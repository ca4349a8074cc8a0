"""A node under real sshd: requests, notices, files, and what happens when it dies."""

from __future__ import annotations

import inspect
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from conftest import NodesFactory
from nodes import connected, open_gateway, reach, write_config
from paramiko import ssh_exception
from sandbox import IS_ROOT, wait_until
from sshd import SshdNodes

from allot.errors import AuthenticationFailedError, ConnectionFailedError, HostKeyError, NodeError
from allot.gateway import translate
from allot.node import FileRead, FileStat, Node
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
            assert node._shell is not None
            channel = node._shell._channel

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


def test_a_killed_node_is_noticed_at_once(sshd_nodes: NodesFactory) -> None:
    """A request under way fails when its node dies, and a new connection works after."""
    nodes = sshd_nodes(1)
    with connected(nodes) as node:
        killer = threading.Timer(0.3, nodes.node(0).kill)
        killer.start()
        with pytest.raises(ConnectionFailedError, match=r"broke|closed|reset"):
            node.request("sleep 60", timeout=60)
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


def test_a_thousand_files_are_read_in_one_go(five_nodes: SshdNodes) -> None:
    """Pieces of many files come in the order asked for; what cannot be read is told in place."""
    with connected(five_nodes) as node:
        directory = node.request("mktemp -d").decode().strip()
        node.request(f"cd {directory}; for i in {{0..999}}; do echo $i-content > $i; done")
        paths = [f"{directory}/{i}" for i in range(1001)]
        for _ in range(2):
            pieces = node.read_files([FileRead(path, 1, 1000) for path in paths])
            assert pieces[:1000] == [f"{i}-content\n".encode()[1:] for i in range(1000)]
            missing = pieces[1000]
            assert isinstance(missing, FileNotFoundError)
            assert missing.filename == paths[1000]
        stats = node.stat_files(paths)
        assert [s.size for s in stats if isinstance(s, FileStat)] == [
            len(f"{i}-content\n") for i in range(1000)
        ]
        assert isinstance(stats[1000], FileNotFoundError)
        assert abs(stats[0].mtime - time.time()) < 600 if isinstance(stats[0], FileStat) else False
        node.request(f"rm -r {directory}")


def test_the_end_of_a_file_and_a_big_one(five_nodes: SshdNodes) -> None:
    """At the end there is nothing; a big file is put together from several reads at once."""
    with connected(five_nodes) as node:
        path = node.request("mktemp").decode().strip()
        node.request(f"seq 200000 > {path}")
        expected = "".join(f"{n}\n" for n in range(1, 200_001)).encode()
        step = 100_000
        reads = [FileRead(path, start, step) for start in range(0, len(expected) + step, step)]
        pieces = node.read_files(reads)
        assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == expected
        assert pieces[-1] == b""
        assert node.read_files([]) == []
        node.request(f"rm {path}")


@needs_root
def test_a_file_that_may_not_be_read_is_told_apart(sshd_nodes: NodesFactory) -> None:
    """Permission denied and a directory are errors of that file only."""
    nodes = sshd_nodes(1, own_uid=True)
    with connected(nodes) as node:
        node.request("touch ~/shut; chmod 0 ~/shut; echo open > ~/open")
        shut, folder, fine = node.read_files(
            [FileRead(name, 0, 10, keep_open=False) for name in ("shut", ".", "open")]
        )
    assert isinstance(shut, PermissionError)
    assert isinstance(folder, OSError)
    assert fine == b"open\n"


def test_a_file_begun_anew_is_seen_after_it_was_forgotten(five_nodes: SshdNodes) -> None:
    """An open file stays the one it was; ``forget_files`` or ``keep_open=False`` look again."""
    with connected(five_nodes) as node:
        path = node.request("mktemp").decode().strip()
        node.request(f"echo old > {path}")
        assert node.read_files([FileRead(path, 0, 10)]) == [b"old\n"]
        node.request(f"echo new > {path}.new; mv {path}.new {path}")
        assert node.read_files([FileRead(path, 0, 10)]) == [b"old\n"]
        assert node.read_files([FileRead(path, 0, 10, keep_open=False)]) == [b"new\n"]
        node.forget_files([path, "/never/opened"])
        assert node.read_files([FileRead(path, 0, 10)]) == [b"new\n"]
        node.request(f"rm {path}")


def test_many_files_leave_few_open(five_nodes: SshdNodes) -> None:
    """However many files are read, the node holds a bounded number of them open."""
    with connected(five_nodes) as node:
        directory = node.request("mktemp -d").decode().strip()
        node.request(f"cd {directory}; touch {{1..1500}}")
        node.read_files([FileRead(f"{directory}/{i}", 0, 10) for i in range(1, 1501)])
        node.stat_files([directory])
        count = f"find /proc/[0-9]*/fd -lname '{directory}/*' 2>/dev/null | wc -l"
        assert 0 < int(node.request(count)) <= 200
        node.request(f"rm -r {directory}")


@pytest.mark.parametrize("sftp", [True, "internal", False])
def test_whether_sftp_works_is_found_out(sshd_nodes: NodesFactory, sftp: bool | str) -> None:
    """A node without SFTP says so at once; what needs it fails with a reason."""
    with connected(sshd_nodes(1, sftp=sftp)) as node:
        found = [node.has_sftp, node.open_sftp(), node.has_sftp]
        assert found == [None, bool(sftp), bool(sftp)]
        if not sftp:
            with pytest.raises(ConnectionFailedError, match="no SFTP"):
                node.stat_files(["/"])
        assert node.request("echo ok") == b"ok\n"


@needs_root
@pytest.mark.parametrize("junk", ["echo Welcome to the cluster", "printf x", "sleep 30"])
def test_sftp_garbled_by_an_rc_file_is_found_out(sshd_nodes: NodesFactory, junk: str) -> None:
    """An rc file that prints into the SFTP session, or stalls it, costs SFTP and nothing else."""
    quiet = f"[[ $BASH_EXECUTION_STRING == *sftp-server* ]] && {{ {junk}; }}\n"
    with connected(sshd_nodes(1, rc={".bashrc": quiet}), timeout=3.0) as node:
        assert node.open_sftp() is False
        assert node.request("echo ok") == b"ok\n"


def test_dropbear_will_do_as_well(sshd_nodes: NodesFactory) -> None:
    """Another server implementation: requests, notices and files work the same."""
    with connected(sshd_nodes(1, server="dropbear")) as node:
        assert node.request(r"printf '\036allot n\n' >&3; echo ok") == b"ok\n"
        wait_until(lambda: node.take_notices() == ["n"], 10, "no notice came")
        path = node.request("f=$(mktemp); echo hello > $f; echo $f").decode().strip()
        assert node.read_files([FileRead(path, 1, 3)]) == [b"ell"]
        node.request(f"rm {path}")


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a..b", "a" * 70])
def test_names_that_do_not_resolve(tmp_path: Path, host: str) -> None:
    """A host without an address is named as that."""
    config = write_config(tmp_path / "config", f"Host x\n  HostName {host}\n")
    with (
        reach("x", config) as node,
        pytest.raises(ConnectionFailedError, match="x: its name does not resolve"),
    ):
        node.connect()


def test_a_port_where_nobody_speaks_ssh(tmp_path: Path) -> None:
    """Something that accepts and stays silent costs the timeout and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = write_config(tmp_path / "config", f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        started = time.monotonic()
        with (
            reach("x", config, timeout=0.5) as node,
            pytest.raises(ConnectionFailedError, match=r"timed out after 0\.5 s"),
        ):
            node.connect()
        assert time.monotonic() - started < 10


def _kexinit(names: bytes) -> bytes:
    """A first SSH packet (RFC 4253, 6 and 7.1) with the same text for each list of algorithms."""
    lists = b"".join(struct.pack(">I", len(names)) + names for _ in range(10))
    payload = b"\x14" + b"c" * 16 + lists + b"\0" * 5
    padding = 16 - (len(payload) + 5) % 16 + 16
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + b"\0" * padding


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-x\r\n" + b"\xff" * 100,
        b"SSH-2.0-x\r\n" + _kexinit(b"nothing-in-common"),
        b"SSH-2.0-x\r\n" + _kexinit(b"\xff\xfe"),
        b"SSH-2.0-x\r\n" + struct.pack(">IB", 12, 10) + b"\x14" + b"\0" * 10,
    ],
    ids=["http", "old", "rubbish", "stranger", "no-text", "torn"],
)
def test_a_server_that_speaks_nonsense(tmp_path: Path, answer: bytes) -> None:
    """Whatever comes from the other side, the user reads one of our errors with the name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(5)
                    try:
                        while connection.recv(1024):
                            pass
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        config = write_config(tmp_path / "config", f"Host x\n  HostName 127.0.0.1\n  Port {port}\n")
        try:
            with (
                reach("x", config, timeout=1.0) as node,
                pytest.raises(ConnectionFailedError, match=r"^x: "),
            ):
                node.connect()
        finally:
            over.set()
            thread.join(20)


def _every_paramiko_exception() -> list[BaseException]:
    made: list[BaseException] = []
    for _, kind in inspect.getmembers(ssh_exception, inspect.isclass):
        if not issubclass(kind, Exception) or kind.__module__ != ssh_exception.__name__:
            continue
        key = paramiko.Ed25519Key.generate() if hasattr(paramiko.Ed25519Key, "generate") else None
        for arguments in (
            ("text",),
            (3, "text"),
            ({("10.0.0.1", 22): ConnectionRefusedError(111, "refused")},),
            ("host", key, key),
            ("text", ["password"]),
        ):
            try:
                error = kind(*arguments)
                str(error)
            except (TypeError, AttributeError, ValueError, KeyError, IndexError):
                continue
            made.append(error)
            break
        else:
            made.append(_without_init(kind))
    return made


def _without_init(kind: type[BaseException]) -> BaseException:
    error = kind.__new__(kind)
    vars(error).update(hostname="host", key=None, expected_key=None)
    return error


@pytest.mark.parametrize(
    "error",
    [
        *_every_paramiko_exception(),
        paramiko.SFTPError("garbage"),
        EOFError(),
        TimeoutError(),
        OSError("odd"),
        ConnectionResetError(104, "Connection reset by peer"),
        socket.gaierror(-2, "Name or service not known"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_leaves_as_one_of_ours(error: BaseException) -> None:
    """Whatever paramiko or the system raises, the user reads a NodeError with the node's name."""
    ours = translate("ws01", error)
    assert isinstance(ours, NodeError)
    assert ours.node == "ws01"
    assert str(ours).startswith("ws01: ")
    if isinstance(error, paramiko.BadHostKeyException):
        assert isinstance(ours, HostKeyError)
    elif isinstance(error, paramiko.AuthenticationException):
        assert isinstance(ours, AuthenticationFailedError)
    else:
        assert isinstance(ours, ConnectionFailedError)
    assert translate("other", ours) is ours


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
