"""What one test session owns on this machine: a directory, accounts, marked processes.

Rules: everything is found again from the session's directory alone, so that the next session
can clean up after one that was killed; a session that lives is known by the lock it holds.
Processes are the session's when their environment carries its mark, when they were recorded
(start time included: numbers come round again), or when they descend from such a one.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

MARK = "PYTEST_ALLOT_SESSION"
IS_ROOT = os.geteuid() == 0
_PREFIX = "allot-t."
_TOKEN_BYTES = 3
_NOGROUP = 65534


@dataclass(frozen=True)
class Process:
    """One line of the process table; ``start`` is in clock ticks since boot.

    Number and start make it the same process, whatever it does meanwhile.
    """

    pid: int
    start: int
    parent: int = field(compare=False)
    program: str = field(compare=False)
    state: str = field(compare=False)

    @property
    def command(self) -> str:
        """Its command line, empty once it is gone."""
        words = _read(f"/proc/{self.pid}/cmdline").split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()

    @property
    def mark(self) -> str:
        """The mark in its environment, empty without one."""
        for entry in _read(f"/proc/{self.pid}/environ").split(b"\0"):
            if entry.startswith(f"{MARK}=".encode()):
                return entry.partition(b"=")[2].decode(errors="replace")
        return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass(frozen=True)
class Account:
    """A login on this machine."""

    name: str
    uid: int
    gid: int
    home: Path
    shell: str


def process_table() -> dict[int, Process]:
    """Every process by number; zombies count as gone."""
    table = {}
    for name in os.listdir("/proc"):
        process = _process(name) if name.isdigit() else None
        if process is not None and process.state not in "ZX":
            table[process.pid] = process
    return table


def descendants(table: dict[int, Process], roots: Iterable[int]) -> set[Process]:
    """The processes below ``roots`` in the table, the roots themselves included."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    todo = list(roots)
    found = set()
    while todo:
        pid = todo.pop()
        if pid in table and table[pid] not in found:
            found.add(table[pid])
            todo.extend(children.get(pid, ()))
    return found


def kill_all(find: Callable[[], set[Process]], timeout: float = 10.0) -> None:
    """Kill what ``find`` finds until it finds nothing, for at most ``timeout`` seconds."""

    def gone() -> bool:
        left = find()
        for process in left:
            process.send(signal.SIGKILL)
        return not left

    wait_until(gone, timeout, lambda: f"would not die: {[p.command for p in find()]}")


def wait_until(
    condition: Callable[[], bool], timeout: float, complaint: str | Callable[[], str]
) -> None:
    """Look until ``condition`` holds; TimeoutError with ``complaint`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint if isinstance(complaint, str) else complaint())
        time.sleep(0.01)


class Session:
    """One run of the tests: its directory, its accounts, its processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token = directory.name.removeprefix(_PREFIX)
        self._free: list[Account] = []
        self._made = 0
        self._marks = itertools.count(1)

    def new_mark(self) -> str:
        """A mark that tells some of the session's processes from the others."""
        return f"{self.token}.{next(self._marks)}"

    def account(self, shell: str, *, own_uid: bool) -> Account:
        """A login with an empty home: a new one, or one that was given back.

        Args:
            shell: Login shell.
            own_uid: A user id of its own; else the client's own id under another name, which
                is what a user has on machines that share a file system.
        """
        for account in self._free:
            if account.shell == shell and (account.uid != os.geteuid()) == own_uid:
                self._free.remove(account)
                break
        else:
            account = self._make_account(shell, own_uid)
        account.home.mkdir(mode=0o755)
        os.chown(account.home, account.uid, account.gid)
        return account

    def give_back(self, account: Account) -> None:
        """Empty the home; the login may be used again."""
        shutil.rmtree(account.home)
        self._free.append(account)

    def _make_account(self, shell: str, own_uid: bool) -> Account:
        self._made += 1
        name = f"at{self.token}-{self._made}"
        home = self.directory / f"h{self._made}"
        # '*' and not '!': sshd without PAM takes '!' for a locked account.
        command = ["useradd", "--no-create-home", "--home-dir", str(home), "--shell", shell]
        command += ["--password", "*", "--no-log-init", "--no-user-group"]
        if own_uid:
            command += ["--system", "--gid", str(_NOGROUP)]
        else:
            command += ["--non-unique", "--uid", str(os.geteuid()), "--gid", str(os.getegid())]
        _change_accounts([*command, name])
        entry = pwd.getpwnam(name)
        return Account(name, entry.pw_uid, entry.pw_gid, home, shell)

    def record(self, pid: int) -> None:
        """Remember a process whose environment will not show the mark."""
        process = _process(str(pid))
        if process is not None:
            with (self.directory / "pids").open("a") as file:
                file.write(f"{pid} {process.start}\n")

    def processes(self) -> set[Process]:
        """Every process of the session but this one."""
        table = process_table()
        roots = {p.pid for p in table.values() if p.mark.partition(".")[0] == self.token}
        for line in _read(str(self.directory / "pids")).decode().splitlines():
            pid, start = map(int, line.split())
            if pid in table and table[pid].start == start:
                roots.add(pid)
        return {p for p in descendants(table, roots) if p.pid != os.getpid()}

    def close(self) -> None:
        """Take everything away: processes, accounts, directory."""
        kill_all(self.processes)
        for entry in pwd.getpwall():
            if Path(entry.pw_dir).parent == self.directory:
                # Forced: with the client's own user id it always looks as if it were in use.
                _change_accounts(["userdel", "--force", entry.pw_name], accepted=(0, 6))
        shutil.rmtree(self.directory)


_lock = threading.Lock()
_current: list[Session] = []


def session() -> Session:
    """The session of this process: begun on the first call, ended with the process."""
    with _lock:
        if not _current:
            base = Path(tempfile.gettempdir())
            _clean_up_after_killed(base)
            _current.append(_begin(base))
            atexit.register(end_session)
        return _current[0]


def end_session() -> None:
    """End the session of this process, if one was begun."""
    with _lock:
        while _current:
            _current.pop().close()


def _begin(base: Path) -> Session:
    fresh = Path(tempfile.mkdtemp(prefix="allot-new-", dir=base))
    fresh.chmod(0o755)
    # Locked under another name first, so that no session is ever seen without its lock.
    fcntl.flock(os.open(fresh / "lock", os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)
    return Session(fresh.rename(base / f"{_PREFIX}{secrets.token_hex(_TOKEN_BYTES)}"))


def _clean_up_after_killed(base: Path) -> None:
    for directory in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError):
            lock = os.open(directory / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Session(directory).close()
            finally:
                os.close(lock)


def _change_accounts(command: list[str], accepted: tuple[int, ...] = (0,)) -> None:
    """Run useradd or userdel; both give up at once while another one has the files locked."""
    deadline = time.monotonic() + 30
    while True:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if run.returncode in accepted:
            return
        if "lock" not in run.stderr or time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(command)}: {run.stderr.strip()}")
        time.sleep(0.05)


def _process(pid: str) -> Process | None:
    stat = _read(f"/proc/{pid}/stat").decode(errors="replace")
    if not stat:
        return None
    # The program's name stands in brackets and may hold any character.
    before, _, after = stat.rpartition(")")
    fields = after.split()
    program = before.partition("(")[2]
    return Process(int(pid), int(fields[19]), int(fields[1]), program, fields[0])


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""
