"""Files of a node under real sshd, over SFTP with many requests at once."""

from __future__ import annotations

import time

import pytest
from conftest import NodesFactory
from nodes import connected
from sandbox import IS_ROOT
from sshd import SshdNodes

from allot.errors import ConnectionFailedError
from allot.node import FileRead, FileStat

needs_root = pytest.mark.skipif(not IS_ROOT, reason="accounts of their own need root")


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


def test_a_node_without_sftp_is_asked_for_it_once(sshd_nodes: NodesFactory) -> None:
    """One failed start is enough for a connection; a new connection asks again."""
    nodes = sshd_nodes(1, sftp=False)

    def refusals() -> int:
        return nodes.node(0).log.count("subsystem request for sftp")

    with connected(nodes) as node:
        assert [node.open_sftp() for _ in range(5)] == [False] * 5
        assert refusals() == 1
        node.connect()
        assert node.has_sftp is None
        assert not node.open_sftp()
        assert refusals() == 2


@needs_root
@pytest.mark.parametrize("junk", ["echo Welcome to the cluster", "printf x", "sleep 30"])
def test_sftp_garbled_by_an_rc_file_is_found_out(sshd_nodes: NodesFactory, junk: str) -> None:
    """An rc file that prints into the SFTP session, or stalls it, costs SFTP and nothing else."""
    quiet = f"[[ $BASH_EXECUTION_STRING == *sftp-server* ]] && {{ {junk}; }}\n"
    with connected(sshd_nodes(1, rc={".bashrc": quiet}), timeout=3.0) as node:
        assert node.open_sftp() is False
        assert node.request("echo ok") == b"ok\n"
