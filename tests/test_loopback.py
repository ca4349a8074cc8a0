"""LoopbackNodes, looked at from outside: with OpenSSH's ssh, sftp and scp, and with paramiko."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from sandbox import wait_until

from allot.errors import ConfigError
from allot.loopback import LoopbackNodes

BOUND_S = 60.0
LARGE = 50_000_000

Connect = Callable[..., paramiko.SSHClient]


@pytest.fixture
def nodes() -> Iterator[LoopbackNodes]:
    with LoopbackNodes(2) as made:
        yield made


@pytest.fixture
def connect(nodes: LoopbackNodes) -> Iterator[Connect]:
    """Makes paramiko clients that are logged in to a node."""
    clients: list[paramiko.SSHClient] = []

    def make(name: str = "loop01", **options: object) -> paramiko.SSHClient:
        clients.append(log_in(nodes, name, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def sftp(connect: Connect) -> paramiko.SFTPClient:
    client = connect().open_sftp()
    client.get_channel().settimeout(BOUND_S)  # type: ignore[union-attr]
    return client


def log_in(nodes: LoopbackNodes, name: str, **options: object) -> paramiko.SSHClient:
    host = paramiko.SSHConfig.from_path(str(nodes.ssh_config)).lookup(name)
    client = paramiko.SSHClient()
    client.load_host_keys(host["userknownhostsfile"])
    login: dict[str, object] = {
        "key_filename": host["identityfile"],
        "allow_agent": False,
        "look_for_keys": False,
        "timeout": BOUND_S,
        "auth_timeout": BOUND_S,
        "banner_timeout": BOUND_S,
    }
    try:
        client.connect(
            host["hostname"],
            int(host["port"]),
            host["user"],
            **(login | options),  # type: ignore[arg-type]
        )
    except BaseException:
        client.close()
        raise
    return client


def run(client: paramiko.SSHClient, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    sending, out, err = client.exec_command(command, timeout=BOUND_S)
    sending.write(stdin)
    sending.channel.shutdown_write()
    return out.channel.recv_exit_status(), out.read(), err.read()


def openssh(
    nodes: LoopbackNodes, tool: str, *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(tool) is None:
        pytest.skip(f"OpenSSH's {tool} is not installed")
    return subprocess.run(
        [tool, "-F", str(nodes.ssh_config), *words],
        input=stdin,
        capture_output=True,
        timeout=BOUND_S,
        check=False,
    )


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


# ---- commands


def test_ssh_runs_a_command_with_all_its_streams(nodes: LoopbackNodes) -> None:
    """OpenSSH's ssh sends stdin and gets stdout, stderr and the exit code, each as it was."""
    done = openssh(nodes, "ssh", "loop02", "cat; echo oops >&2; exit 7", stdin=b"\0bytes\xff")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0bytes\xff", b"oops\n")


def test_paramiko_runs_a_command_with_all_its_streams(connect: Connect) -> None:
    """paramiko gets the same, several commands one after another on one connection."""
    client = connect()
    assert run(client, "cat; echo oops >&2; exit 7", b"\0\xff") == (7, b"\0\xff", b"oops\n")
    assert run(client, "echo 'ä $HOME'") == (0, "ä $HOME\n".encode(), b"")


def test_death_by_a_signal_is_an_exit_status(connect: Connect) -> None:
    """A command that a signal ends has the exit status 128 plus the signal's number."""
    assert run(connect(), "kill -TERM $$")[0] == 128 + signal.SIGTERM


def test_no_quick_command_is_taken_for_a_failure(connect: Connect) -> None:
    """Commands that end at once are answered before their channel closes, every time."""
    client = connect()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(client, "exit 3")[0], range(150)))
    assert results == [3] * 150


def test_many_channels_at_once(connect: Connect) -> None:
    """Forty commands run on one connection at the same time, each with streams of its own."""
    client = connect()
    running = [client.exec_command("read x; echo $x; exit $x", timeout=BOUND_S) for _ in range(40)]
    for number, (sending, _, _) in enumerate(running):
        sending.write(f"{number}\n")
    results = [(out.read(), out.channel.recv_exit_status()) for _, out, _ in running]
    assert results == [(f"{number}\n".encode(), number) for number in range(40)]


def test_large_data_through_ssh(nodes: LoopbackNodes) -> None:
    """50 MB go to a command and come back whole while both directions are busy."""
    data = os.urandom(1_000_000) * (LARGE // 1_000_000)
    done = openssh(nodes, "ssh", "loop01", "cat", stdin=data)
    assert done.returncode == 0
    assert hashlib.md5(done.stdout).digest() == hashlib.md5(data).digest()


def test_large_data_through_paramiko(connect: Connect) -> None:
    """The same with paramiko at both ends."""
    data = os.urandom(1_000_000) * (LARGE // 1_000_000)
    channel = connect().get_transport().open_session()  # type: ignore[union-attr]
    channel.settimeout(BOUND_S)
    channel.exec_command("cat")

    def send() -> None:
        for start in range(0, LARGE, 1 << 20):  # sendall copies all that is left at each packet
            channel.sendall(data[start : start + (1 << 20)])
        channel.shutdown_write()

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        received = hashlib.md5()
        while piece := channel.recv(1 << 20):
            received.update(piece)
        sent.result(BOUND_S)
    assert received.digest() == hashlib.md5(data).digest()
    assert channel.recv_exit_status() == 0


def test_a_client_may_send_much_before_it_reads(connect: Connect) -> None:
    """Output that nobody reads yet does not hold up the command's input."""
    channel = connect().get_transport().open_session()  # type: ignore[union-attr]
    channel.settimeout(BOUND_S)
    channel.exec_command("head -c 9000000 /dev/zero & wc -c >&2; wait")
    channel.sendall(bytes(9_000_000))
    channel.shutdown_write()
    with ThreadPoolExecutor(1) as pool:
        errors = pool.submit(lambda: channel.makefile_stderr("rb").read())
        assert len(channel.makefile("rb").read()) == 9_000_000
        assert errors.result(BOUND_S) == b"9000000\n"


def test_input_that_a_command_does_not_read_blocks_nobody(connect: Connect) -> None:
    """A client can send 5 MB to a command that has closed its stdin, and hears its end."""
    status, out, _ = run(connect(), "exec <&-; echo closed; sleep 0.3", bytes(5_000_000))
    assert (status, out) == (0, b"closed\n")


def test_output_ends_where_the_command_closes_it(connect: Connect) -> None:
    """A command that closes its streams and goes on is seen to; its exit status still comes."""
    sending, out, _ = connect().exec_command("echo x; exec >&- 2>&-; read; exit 4")
    assert out.read() == b"x\n"
    assert not out.channel.exit_status_ready()
    sending.write("\n")
    assert out.channel.recv_exit_status() == 4


def test_a_background_process_keeps_its_output(connect: Connect) -> None:
    """As with sshd, the exit status comes at once, and what a background job prints after it."""
    _, out, _ = connect().exec_command(
        "{ read -t 50 x < <(sleep 0.5); echo late; } & exit 5", timeout=BOUND_S
    )
    assert out.channel.recv_exit_status() == 5
    assert out.read() == b"late\n"


def test_where_and_with_what_a_command_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands start at home, with our variables less Allot's and ssh's, and read no rc file."""
    (tmp_path / ".bashrc").write_text("echo junk\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALLOT_JOB_ID", "another")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/secret")
    monkeypatch.setenv("KEPT", "a b\nc")
    monkeypatch.delenv("SHLVL", raising=False)
    with LoopbackNodes(1) as nodes:
        client = log_in(nodes, "loop01")
        try:
            out = run(client, 'echo "$PWD|$ALLOT_JOB_ID|$SSH_AUTH_SOCK|$KEPT|$SSH_CONNECTION"')[1]
            ours = client.get_transport().sock.getsockname()  # type: ignore[union-attr]
            port = client.get_transport().getpeername()[1]  # type: ignore[union-attr]
        finally:
            client.close()
    assert out.decode() == f"{tmp_path}|||a b\nc|127.0.0.1 {ours[1]} 127.0.0.1 {port}\n"


def test_without_a_home_commands_start_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory that does not exist is no obstacle."""
    monkeypatch.setenv("HOME", "/nonexistent")
    with LoopbackNodes(1) as nodes:
        assert openssh(nodes, "ssh", "loop01", "pwd").stdout == b"/\n"


def test_what_cannot_be_started_is_refused(connect: Connect) -> None:
    """A command too long for the system is refused, and the connection goes on."""
    client = connect()
    with pytest.raises(paramiko.SSHException):
        client.exec_command("true " + "x" * 200_000)
    assert run(client, "echo on")[1] == b"on\n"


def test_other_requests_are_refused(nodes: LoopbackNodes, connect: Connect) -> None:
    """No shell, no other subsystem and no forwarding to elsewhere."""
    assert openssh(nodes, "ssh", "-T", "loop01").returncode == 255
    transport = connect().get_transport()
    assert transport is not None
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1))
    with pytest.raises(paramiko.SSHException):
        transport.open_session().invoke_subsystem("netconf")


# ---- what outlives what


def test_a_detached_process_outlives_channel_and_nodes() -> None:
    """A process in a session of its own goes on when its channel, and then its node, are gone."""
    with LoopbackNodes(1) as nodes:
        client = log_in(nodes, "loop01")
        out = run(client, "setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!")[1]
        pid = int(out)
        client.close()
    try:
        assert lives(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_client_that_leaves_kills_nothing(connect: Connect, nodes: LoopbackNodes) -> None:
    """A command goes on without its client, and ends when the nodes close."""
    client = connect()
    _, out, _ = client.exec_command("echo $$; sleep 300; echo unheard", timeout=BOUND_S)
    pid = int(out.readline())
    client.close()
    assert run(connect(), f"kill -0 {pid}")[0] == 0
    nodes.close()
    assert not lives(pid)


def test_what_was_sent_before_leaving_arrives(connect: Connect, tmp_path: Path) -> None:
    """Input that a client sent before it closed its channel still reaches the command."""
    kept = tmp_path / "kept"
    sending, _, _ = connect().exec_command(f"sleep 0.3; cat >{kept}.new; mv {kept}.new {kept}")
    sending.write(bytes(100_000))
    sending.channel.close()
    wait_until(kept.exists, BOUND_S, lambda: "the command never ended")
    assert kept.stat().st_size == 100_000


def test_closing_ends_running_commands() -> None:
    """close() ends commands that run, also one that ignores hangup, and is quick about it."""
    with LoopbackNodes(2) as nodes:
        clients = [log_in(nodes, name) for name in nodes.names]
        pids = []
        for client in clients:
            for command in (
                "echo $$; sleep 300; :",
                "trap '' HUP TERM; echo $$; sleep 300; :",
                "echo $$; yes",
                "exec >&2; echo $$; sleep 300",
            ):
                _, out, err = client.exec_command(command, timeout=BOUND_S)
                pids.append(int((err if ">&2" in command else out).readline()))
        began = time.monotonic()
    took = time.monotonic() - began
    for client in clients:
        client.close()
    assert not [pid for pid in pids if lives(pid)]
    assert took < 5


def test_closing_removes_everything(nodes: LoopbackNodes) -> None:
    """After close(), which may be called again, no key, port or thread of the nodes is left."""
    directory = nodes.ssh_config.parent
    port = int(paramiko.SSHConfig.from_path(str(nodes.ssh_config)).lookup("loop01")["port"])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    nodes.close()
    nodes.close()
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=BOUND_S)
    assert not [each for each in threading.enumerate() if each.name.startswith("allot-loopback")]


def test_an_interpreter_may_exit_without_closing() -> None:
    """A script that forgets close() ends by itself and leaves no file and no command behind."""
    script = """
import paramiko
from allot.loopback import LoopbackNodes
nodes = LoopbackNodes(2)
host = paramiko.SSHConfig.from_path(str(nodes.ssh_config)).lookup("loop02")
client = paramiko.SSHClient()
client.load_host_keys(host["userknownhostsfile"])
client.connect(host["hostname"], int(host["port"]), host["user"],
               key_filename=host["identityfile"], allow_agent=False, look_for_keys=False)
client.open_sftp().listdir("/")
print(client.exec_command("echo $$; sleep 300; :")[1].readline().strip())
print(nodes.ssh_config.parent)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-W", "error::ResourceWarning", "-c", script],
        capture_output=True,
        timeout=BOUND_S,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    pid, directory = done.stdout.split()
    assert not lives(int(pid))
    assert not Path(directory).exists()


# ---- who gets in


def test_another_key_is_refused(nodes: LoopbackNodes, connect: Connect, tmp_path: Path) -> None:
    """Neither another key nor a password gets in."""
    other = tmp_path / "other"
    with LoopbackNodes(1) as others:
        shutil.copy(others.ssh_config.parent / "id_ed25519", other)
    with pytest.raises(paramiko.AuthenticationException):
        connect(key_filename=str(other))
    with pytest.raises(paramiko.AuthenticationException):
        connect(key_filename=None, password="allot")
    config = tmp_path / "config"
    text = nodes.ssh_config.read_text()
    config.write_text(text.replace(f'"{nodes.ssh_config.parent}/id_ed25519"', str(other)))
    assert str(other) in config.read_text()
    done = openssh(nodes, "ssh", "-F", str(config), "-o", "BatchMode=yes", "loop01", "true")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr


def test_each_node_has_a_host_key_of_its_own(nodes: LoopbackNodes) -> None:
    """One node cannot be taken for the other."""
    lines = (nodes.ssh_config.parent / "known_hosts").read_text().splitlines()
    assert len({line.split()[2] for line in lines}) == len(nodes.names) == 2


def test_nothing_listens_off_loopback(nodes: LoopbackNodes) -> None:
    """Every port that this process listens on is on 127.0.0.1."""
    ours = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    inodes = {name.rpartition("[")[2][:-1] for name in ours if "socket:[" in name}
    listening = []
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/self/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append((table, fields[1].split(":")[0]))
    assert len(listening) == 2
    assert set(listening) == {("tcp", socket.inet_aton("127.0.0.1")[::-1].hex().upper())}


def test_noise_on_the_port_harms_nobody(
    nodes: LoopbackNodes, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    """A port scanner is not let in, prints nothing on the user's screen and stops nobody else."""
    port = int(paramiko.SSHConfig.from_path(str(nodes.ssh_config)).lookup("loop01")["port"])
    for noise in (b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(5000)):
        with socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as scanner:
            scanner.sendall(noise)
            scanner.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while scanner.recv(1000):
                    pass
    assert run(connect(), "echo on")[1] == b"on\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("count", "first", "last"), [(1, "loop01", "loop01"), (100, "loop001", "loop100")]
)
def test_names(count: int, first: str, last: str) -> None:
    """Names are numbered with enough digits, and the host file names every node."""
    with LoopbackNodes(count) as nodes:
        assert (nodes.names[0], nodes.names[-1], len(nodes.names)) == (first, last, count)
        assert nodes.node_file.read_text().split() == list(nodes.names)


def test_a_machine_at_its_limits_leaves_nothing_open() -> None:
    """Where file descriptors run out, the system's error comes out and nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = {int(fd) for fd in os.listdir("/proc/self/fd")}
    free = [fd for fd in range(soft) if fd not in before]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[10], hard))
    try:
        with pytest.raises(OSError, match="open files"):
            LoopbackNodes(50)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_nodes_make_no_sense() -> None:
    """Fewer than one node is an error that says so."""
    with pytest.raises(ConfigError, match="at least 1 node"):
        LoopbackNodes(0)


# ---- files


def test_sftp_client_of_openssh(nodes: LoopbackNodes, tmp_path: Path) -> None:
    """OpenSSH's sftp puts, gets, lists, renames, links, changes and removes files."""
    (tmp_path / "from").write_bytes(os.urandom(300_000))
    batch = f"""
        cd {tmp_path}
        mkdir made
        put {tmp_path}/from made/a
        rename made/a made/b
        symlink b made/link
        chmod 640 made/b
        get made/link {tmp_path}/back
        ls -l made
        put {tmp_path}/from gone
        rm gone
        mkdir empty
        rmdir empty
    """
    done = openssh(nodes, "sftp", "-b", "-", "loop01", stdin=batch.encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == (tmp_path / "from").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "from", "made"]
    assert stat.S_IMODE((tmp_path / "made/b").stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "made/link") == "b"
    assert b"-rw-r-----" in done.stdout


def test_scp(nodes: LoopbackNodes, tmp_path: Path) -> None:
    """scp copies both ways, with times and modes, and reports success."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    source.chmod(0o750)
    os.utime(source, (1_000_000_000, 1_100_000_000))
    assert openssh(nodes, "scp", "-p", str(source), f"loop01:{tmp_path}/there").returncode == 0
    done = openssh(nodes, "scp", "-p", f"loop02:{tmp_path}/there", str(tmp_path / "back"))
    assert done.returncode == 0
    back = (tmp_path / "back").stat()
    assert (back.st_size, stat.S_IMODE(back.st_mode), back.st_mtime) == (
        100_000,
        0o750,
        1_100_000_000,
    )


def test_large_files_both_ways(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """50 MB arrive whole over SFTP, there and back."""
    here, there, back = (tmp_path / name for name in ("here", "there", "back"))
    here.write_bytes(os.urandom(1_000_000) * (LARGE // 1_000_000))
    sftp.put(str(here), str(there))
    sftp.get(str(there), str(back))
    digests = {hashlib.md5(path.read_bytes()).digest() for path in (here, there, back)}
    assert len(digests) == 1


def test_relative_paths_count_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path means the home directory, wherever this process stands."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("at home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    with LoopbackNodes(1) as nodes:
        client = log_in(nodes, "loop01")
        try:
            files = client.open_sftp()
            assert files.normalize(".") == str(home)
            assert files.normalize("../home/file") == str(home / "file")
            assert files.open("file").read() == b"at home"
            assert files.listdir() == ["file"]
            files.mkdir("made", 0o700)
        finally:
            client.close()
    assert stat.S_IMODE((home / "made").stat().st_mode) == 0o700


def test_appending_goes_to_the_end(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """What is appended stands behind what others wrote meanwhile."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    with sftp.open(str(path), "a") as file:
        with path.open("ab") as local:
            local.write(b"two\n")
        file.write(b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_growing_file_is_read_as_it_is(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """A handle kept open at the end of a file sees what is written later."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    with sftp.open(str(path), "r", bufsize=0) as file:
        assert file.read(100) == b"one\n"
        assert file.read(100) == b""
        with path.open("ab") as local:
            local.write(b"two\n")
        assert file.read(100) == b"two\n"
        assert file.stat().st_size == 8


def test_writing_in_the_middle(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """A file open for reading and writing is changed where it was asked for."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with sftp.open(str(path), "r+") as file:
        file.seek(4)
        file.write(b"xx")
        file.seek(0)
        assert file.read() == b"0123xx6789"
    assert path.read_bytes() == b"0123xx6789"


def test_attributes(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """Size, mode, times and kind are those of the file; changing them keeps the rest."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    name = str(path)
    sftp.chmod(name, 0o604)
    sftp.utime(name, (1_000_000_000, 1_100_000_000))
    told = sftp.stat(name)
    assert (told.st_size, told.st_mode, told.st_atime, told.st_mtime) == (
        10,
        stat.S_IFREG | 0o604,
        1_000_000_000,
        1_100_000_000,
    )
    sftp.chown(name, os.getuid(), os.getgid())
    sftp.truncate(name, 4)
    assert path.read_bytes() == b"0123"
    with sftp.open(name, "r+") as file:
        file.truncate(2)
        file.chmod(0o600)
    assert path.read_bytes() == b"01"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sftp.symlink("file", str(tmp_path / "link"))
    assert sftp.readlink(str(tmp_path / "link")) == "file"
    assert stat.S_ISLNK(sftp.lstat(str(tmp_path / "link")).st_mode or 0)
    assert stat.S_ISREG(sftp.stat(str(tmp_path / "link")).st_mode or 0)


def test_renaming(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """rename does not overwrite, as the protocol has it; posix_rename does."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(OSError, match="Failure"):
        sftp.rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "b"
    sftp.posix_rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "a"
    assert not (tmp_path / "a").exists()


def test_errors_name_their_kind(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """What is missing is missing, what exists is not made twice, and the session goes on."""
    missing = str(tmp_path / "missing")
    for ask in (sftp.stat, sftp.lstat, sftp.remove, sftp.rmdir, sftp.listdir, sftp.open):
        with pytest.raises(FileNotFoundError):
            ask(missing)
    (tmp_path / "there").touch()
    with pytest.raises(OSError, match="Failure"):
        sftp.open(str(tmp_path / "there"), "x")
    with pytest.raises(OSError, match="Failure"):
        sftp.mkdir(str(tmp_path))
    assert sftp.listdir(str(tmp_path)) == ["there"]


def test_odd_files_do_not_break_a_listing(sftp: paramiko.SFTPClient, tmp_path: Path) -> None:
    """Names that are not UTF-8 and times before 1970 are listed beside the others."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).touch()
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (-1000, -1000))
    (tmp_path / "äß 1").touch()
    told = {each.filename: each.st_mtime for each in sftp.listdir_attr(str(tmp_path))}
    assert sorted(told) == ["caf\ufffd", "old", "äß 1"]
    assert told["old"] == 0
