"""The harness itself: nodes that can be logged in to, die one by one, and leave nothing."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import NodesFactory
from sandbox import IS_ROOT, process_table, wait_until
from sshd import SshdNodes

needs_root = pytest.mark.skipif(not IS_ROOT, reason="accounts and mounts need root")


def login(
    nodes: SshdNodes, index: int, command: str, *, timeout: float = 20
) -> subprocess.CompletedProcess[str]:
    """Run a command on a node with OpenSSH's own client."""
    return subprocess.run(
        ["ssh", "-F", nodes.ssh_config, "-o", "BatchMode=yes", nodes.names[index], command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output(nodes: SshdNodes, index: int, command: str) -> str:
    """What the command wrote; it must succeed."""
    done = login(nodes, index, command)
    assert done.returncode == 0, f"{done.stderr}{nodes.node(index).log}"
    return done.stdout


def stay_running(nodes: SshdNodes, index: int) -> int:
    """Leave a detached process on a node; its number."""
    command = "setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $!"
    return int(output(nodes, index, f"bash -c '{command}'"))


def test_every_node_lets_its_user_in(five_nodes: SshdNodes) -> None:
    """Each node has an address of its own and answers to its name with the account's home."""
    assert len({node.address for node in five_nodes.nodes}) == 5
    assert five_nodes.node_file.read_text().split() == list(five_nodes.names)
    for index, node in enumerate(five_nodes.nodes):
        seen = output(five_nodes, index, "pwd; echo $SSH_CONNECTION").split()
        assert seen[0] == str(five_nodes.home)
        assert seen[3:] == [node.address, str(node.port)]


@needs_root
@pytest.mark.parametrize(
    ("shell", "rc_file"),
    [("bash", ".bashrc"), ("dash", None), ("zsh", ".zshenv"), ("fish", None), ("tcsh", ".cshrc")],
)
def test_login_shells_and_their_rc_files(
    sshd_nodes: NodesFactory, shell: str, rc_file: str | None
) -> None:
    """A node's account has the login shell and the rc file asked for, and the shell reads it."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    files = {rc_file or ".config/fish/config.fish": "echo from the rc file\n"}
    nodes = sshd_nodes(1, login_shell=path, rc=files)
    printed = output(nodes, 0, "echo $SHELL").splitlines()
    assert printed[-1] == path
    assert printed[:-1] == ([] if shell == "dash" else ["from the rc file"])


@needs_root
def test_a_slow_rc_file_holds_up_each_command(sshd_nodes: NodesFactory) -> None:
    """An rc file may take its time; the command comes after it."""
    nodes = sshd_nodes(1, rc={".bashrc": "began=${EPOCHREALTIME/./}; sleep 0.3\n"})
    waited_us = int(output(nodes, 0, "echo $(( ${EPOCHREALTIME/./} - began ))"))
    assert waited_us >= 300_000


@pytest.mark.parametrize("sftp", [True, "internal", False])
def test_sftp_is_as_asked_for(sshd_nodes: NodesFactory, sftp: bool | str) -> None:
    """The SFTP subsystem is a program, a part of sshd, or switched off."""
    nodes = sshd_nodes(1, sftp=sftp)
    done = subprocess.run(
        ["sftp", "-F", nodes.ssh_config, "-b", "-", nodes.names[0]],
        input="pwd\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (str(nodes.home) in done.stdout) is bool(sftp)


def test_options_come_before_the_harness_s_own(sshd_nodes: NodesFactory) -> None:
    """Further sshd options hold, those that set variables among them."""
    nodes = sshd_nodes(1, options=["SetEnv COLOUR=blue", "PubkeyAuthentication no"])
    refused = login(nodes, 0, "true")
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr
    nodes = sshd_nodes(1, options=["SetEnv COLOUR=blue"])
    assert output(nodes, 0, "echo $COLOUR") == "blue\n"


def test_without_aliases_the_node_file_holds_addresses(sshd_nodes: NodesFactory) -> None:
    """Nodes that no ssh config names are reached by user, address and port."""
    nodes = sshd_nodes(1, with_config=False)
    (line,) = nodes.node_file.read_text().split()
    done = subprocess.run(
        ["ssh", "-F", nodes.ssh_config, f"ssh://{line}", "echo in"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "in\n"


@needs_root
def test_private_paths_differ_from_node_to_node(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """A private path is each node's own, also after a restart, and the client's stays as it is."""
    nodes = sshd_nodes(2, private=["~", tmp_path])
    for index in range(2):
        output(nodes, index, f"echo {index} | tee ~/mine > '{tmp_path}/mine'")
    nodes.node(0).restart()
    for index in range(2):
        assert output(nodes, index, f"cat ~/mine '{tmp_path}/mine'") == f"{index}\n{index}\n"
        assert nodes.node(index).path(tmp_path / "mine").read_text() == f"{index}\n"
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_an_account_with_a_user_id_of_its_own(sshd_nodes: NodesFactory) -> None:
    """The account may be another user than the client's, in a home that is its own."""
    nodes = sshd_nodes(1, own_uid=True, private=["~"])
    uid = pwd.getpwnam(nodes.user).pw_uid
    assert uid != os.geteuid()
    assert output(nodes, 0, "id -u; stat -c %u . .ssh").split() == [str(uid)] * 3


def test_a_dropbear_node_runs_commands_and_sftp(sshd_nodes: NodesFactory) -> None:
    """The second server implementation lets in, too."""
    nodes = sshd_nodes(1, server="dropbear")
    assert output(nodes, 0, "echo $SSH_CONNECTION").split()[2] == nodes.node(0).address
    stay_running(nodes, 0)
    wait_until(  # the shell has yet to become the program it started
        lambda: any(process.program == "sleep" for process in nodes.node(0).processes()),
        10,
        "no sleep on the node",
    )


def test_a_killed_node_takes_everything_with_it(sshd_nodes: NodesFactory) -> None:
    """A node dies with all that runs there; the others live; it comes back as it was."""
    nodes = sshd_nodes(2)
    lost, kept = stay_running(nodes, 0), stay_running(nodes, 1)
    nodes.node(0).kill()
    assert lost not in process_table()
    assert kept in process_table()
    assert "Connection refused" in login(nodes, 0, "true").stderr
    nodes.node(0).restart()
    assert output(nodes, 0, "echo back") == "back\n"


def test_a_cut_node_loses_connections_and_keeps_tasks(sshd_nodes: NodesFactory) -> None:
    """When the server and its connections die, detached processes go on."""
    nodes = sshd_nodes(1)
    task = stay_running(nodes, 0)
    with subprocess.Popen(
        ["ssh", "-F", nodes.ssh_config, nodes.names[0], "echo up; exec sleep 300"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as connection:
        assert connection.stdout is not None
        assert connection.stdout.readline() == b"up\n"
        nodes.node(0).cut()
        assert connection.wait(timeout=20) == 255
    assert task in process_table()
    assert not nodes.node(0).is_up


def test_a_frozen_node_answers_once_it_thaws(sshd_nodes: NodesFactory) -> None:
    """A frozen node is silent, sessions and tasks included, and then goes on."""
    nodes = sshd_nodes(1)
    task = stay_running(nodes, 0)
    nodes.node(0).freeze()
    assert process_table()[task].state == "T"
    with pytest.raises(subprocess.TimeoutExpired):
        login(nodes, 0, "true", timeout=0.5)
    nodes.node(0).thaw()
    assert output(nodes, 0, "echo on") == "on\n"
    wait_until(lambda: process_table()[task].state == "S", 10, "the task stands still")


INNER = """
    import os, signal, subprocess, tempfile, threading, time
    import pytest

    def test_inner(sshd_nodes, tmp_path):
        nodes = sshd_nodes(2)
        command = "setsid sleep 300 </dev/null >/dev/null 2>&1 &"
        subprocess.run(["ssh", "-F", nodes.ssh_config, "nd01", command], check=True, timeout=20)
        print(f"user={nodes.user} home={nodes.home} ready", flush=True)
        LAST_LINE
"""


def inner_session(last_line: str, directory: Path) -> subprocess.Popen[str]:
    """A test session of its own, in a process of its own, that ends with ``last_line``."""
    test = directory / "test_inner.py"
    test.write_text(textwrap.dedent(INNER).replace("LAST_LINE", last_line))
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "conftest", "-c", os.devnull, test],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=directory,
    )


def remains(text: str) -> list[str]:
    """What is left of the inner session that printed ``text``: processes, accounts, files."""
    (home,) = re.findall(r"home=(/\S+) ready", text)
    directory = Path(home).parent
    token = directory.name.rpartition(".")[2]
    running = process_table().values()
    return [
        *(p.command for p in running if p.mark.partition(".")[0] == token),
        *(p.command for p in running if f"{directory}/" in p.command),
        *(user.pw_name for user in pwd.getpwall() if str(directory) in user.pw_dir),
        *([str(directory)] if directory.exists() else []),
    ]


@needs_root
@pytest.mark.parametrize(
    ("last_line", "code", "word"),
    [
        ("assert False", 1, "1 failed"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 2, "KeyboardInterrupt"),
    ],
)
def test_a_session_that_fails_or_is_interrupted_leaves_nothing(
    tmp_path: Path, last_line: str, code: int, word: str
) -> None:
    """No server, task, account or directory outlives a failed test or Ctrl-C."""
    with inner_session(last_line, tmp_path) as inner:
        text, _ = inner.communicate(timeout=60)
    assert (inner.returncode, word in text) == (code, True), text
    assert remains(text) == []


@needs_root
def test_the_next_session_cleans_up_after_a_killed_one(tmp_path: Path) -> None:
    """What a session killed outright leaves, the next one takes away when it begins."""
    with inner_session("time.sleep(60)", tmp_path) as killed:
        assert killed.stdout is not None
        line = next(line for line in killed.stdout if "ready" in line)
        killed.send_signal(signal.SIGKILL)
    assert len(remains(line)) > 3
    with inner_session("pass", tmp_path) as following:
        text, _ = following.communicate(timeout=60)
    assert following.returncode == 0, text
    assert remains(line) == []
    assert remains(text) == []


STRAYS = """
    subprocess.Popen(["sleep", "300"])
    threading.Thread(target=time.sleep, args=(60,), name="stray", daemon=True).start()
    tempfile.mkdtemp(prefix="stray")
"""


def test_a_test_that_leaves_something_behind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process, thread or file that outlives its test is an error that names each."""
    monkeypatch.setenv("PYTEST_ALLOT_PATIENCE_S", "0.2")
    with inner_session(STRAYS.strip(), tmp_path) as inner:
        text, _ = inner.communicate(timeout=60)
    assert inner.returncode == 1, text
    (named,) = re.findall(r"E +TimeoutError: left behind: (.*)", text)
    assert re.findall(r"sleep 300|thread stray|file stray", named) == [
        "sleep 300",
        "thread stray",
        "file stray",
    ]
