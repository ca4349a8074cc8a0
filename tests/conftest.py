"""What all tests share: nodes, and the check that a test leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from clients import QUICK_LEASE
from localnode import LocalNode, local_nodes
from sandbox import MARK, Process, end_session, kill_all, session, wait_until
from sshd import NeedsRootError, SshdNodes

NodesFactory: TypeAlias = Callable[..., SshdNodes]

# How long, in seconds, a test's processes and threads may take to be gone.
_PATIENCE_S = float(os.environ.get("PYTEST_ALLOT_PATIENCE_S", "10"))
# tqdm keeps one thread for all bars of a process, as long as the process lives.
_LASTING_THREADS = ("TMonitor",)


def pytest_configure(config: pytest.Config) -> None:
    """Begin the session: a home, a TMPDIR and a base for tmp_path, all taken away at its end."""
    own = session()
    for name in ("home", "tmp"):
        (own.directory / name).mkdir()
    os.environ.update(HOME=f"{own.directory}/home", TMPDIR=f"{own.directory}/tmp")
    os.environ[MARK] = own.token
    os.environ.pop("SSH_AUTH_SOCK", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script started the tests with &
        signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None  # decided anew from TMPDIR
    if config.option.basetemp is None:
        config.option.basetemp = own.directory / "t"


def pytest_unconfigure() -> None:
    """End the session, also after Ctrl-C."""
    end_session()


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """A test ends with the processes, threads and temporary files it began with."""
    processes, threads, files = session().processes(), set(threading.enumerate()), _temporary()
    yield

    def new_processes() -> set[Process]:
        return session().processes() - processes

    def left() -> list[str]:
        return [
            *(f"process {p.pid} ({p.state}) {p.command or p.program}" for p in new_processes()),
            *(f"thread {t.name}" for t in set(threading.enumerate()) - threads if _counts(t)),
            *(f"file {name}" for name in _temporary() - files),
        ]

    try:
        wait_until(lambda: not left(), _PATIENCE_S, lambda: f"left behind: {left()}")
    finally:
        kill_all(new_processes)


@pytest.fixture
def sshd_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodesFactory]:
    """Makes nodes for one test: ``sshd_nodes(count, **options of SshdNodes)``."""
    with ExitStack() as stack:

        def make(count: int, **options: Any) -> SshdNodes:
            return _enter(stack, SshdNodes(count, tmp_path_factory.mktemp("sshd"), **options))

        yield make


@pytest.fixture
def gpus_of_the_machine() -> Iterator[None]:
    """For tests that hold GPUs, or look who does: one at a time on this machine.

    A job's GPU is known by its number to every process, whichever node of the tests it is on.
    """
    descriptor = os.open("/tmp", os.O_RDONLY)

    def is_ours() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        wait_until(is_ours, 100, "another test holds the GPUs")
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def quick_hearts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats of clients as quick as tests want them; the rules are the same."""
    for name, value in QUICK_LEASE.items():
        monkeypatch.setattr(f"allot.lease.{name}", value)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where tasks write down that they began."""
    directory = tmp_path / "log"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def five_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdNodes]:
    """Five plain nodes for all tests; do not kill or freeze these."""
    with ExitStack() as stack:
        yield _enter(stack, SshdNodes(5, tmp_path_factory.mktemp("five")))


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., LocalNode]]:
    """Makes nodes with one home; none of their Bashes may have complained."""
    with local_nodes(tmp_path) as make:
        yield make


@pytest.fixture
def node(make_node: Callable[..., LocalNode]) -> LocalNode:
    """A node that is ready for tasks."""
    node = make_node()
    node.prepare()
    return node


def _enter(stack: ExitStack, nodes: SshdNodes) -> SshdNodes:
    """Bring the nodes up, or skip the test with the reason why this machine cannot."""
    try:
        return stack.enter_context(nodes)
    except (NeedsRootError, FileNotFoundError) as error:
        pytest.skip(str(error))


def _counts(thread: threading.Thread) -> bool:
    return type(thread).__name__ not in _LASTING_THREADS


def _temporary() -> set[str]:
    return set(os.listdir(tempfile.gettempdir()))
