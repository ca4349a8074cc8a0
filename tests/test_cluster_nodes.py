"""The main job on nodes of every kind: shells, shared or not, without SFTP, dying, frozen."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run

from allot import NodeProbe, NodeState, NodeTaskConfig, Task, TaskState

NOISY = {
    "/bin/bash": {".bashrc": "echo hello from bashrc; echo trouble >&2; set -o noclobber\n"},
    "/bin/dash": {},
    "/bin/zsh": {".zshenv": "echo hello from zshenv; setopt noclobber\n"},
    "/usr/bin/fish": {".config/fish/config.fish": "echo hello from fish\n"},
    "/bin/tcsh": {".tcshrc": "echo hello from tcshrc; set noclobber\n"},
}


def steps(ntc: NodeTaskConfig) -> Task:
    """A task that prints to both streams, and fails where its number is odd."""
    return Task(
        [
            "echo out $ALLOT_PROCID; echo err >&2",
            r"printf '\0024/4\003'",
            f"exit {ntc.proc_id % 2}",
        ],
        ntc.output_dir / "deep er" / f"{ntc.proc_id}.txt",
        ntc,
    )


@pytest.mark.parametrize("shell", NOISY)
def test_any_login_shell_will_do(sshd_nodes: NodesFactory, tmp_path: Path, shell: str) -> None:
    """Whatever the account's shell is and its rc file prints, tasks run in Bash."""
    nodes = sshd_nodes(2, login_shell=shell, rc=NOISY[shell])
    with run(nodes, tmp_path, steps, ntasks_per_node=2) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 1, 0, 1]
    for task in summary.tasks:
        assert task.output_file is not None
        text = task.output_file.read_text()
        assert text == f"out {task.proc_id}\nerr\n\x024/4\x03"


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "no sftp"])
def test_nodes_that_share_nothing_send_their_outputs_home(
    sshd_nodes: NodesFactory, tmp_path: Path, sftp: bool
) -> None:
    """Output files, empty and large ones, stand on the client when a task is final."""
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    nodes = sshd_nodes(2, private=["~", output_dir], sftp=sftp)

    def factory(ntc: NodeTaskConfig) -> Task:
        commands = {
            0: "true",
            1: "head -c 5000000 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null",
            2: r"echo a; echo b >&2; printf '\0021/2\003'",
            3: "rm -f $ALLOT_OUTPUT_DIR/3.out; exit 3",
        }
        error_file = ntc.output_dir / "errors" / "2.err" if ntc.proc_id == 2 else None
        return Task(commands[ntc.proc_id], config=ntc, error_file=error_file)

    with run(nodes, output_dir, factory, ntasks_per_node=2) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.state.value for task in summary.tasks] == ["COMPLETED"] * 3 + ["FAILED"]
    assert (output_dir / "0.out").read_bytes() == b""
    assert (output_dir / "2.out").read_bytes() == b"a\n\x021/2\x03"
    assert (output_dir / "errors/2.err").read_text() == "b\n"
    assert summary.tasks[2].progress is not None
    assert summary.tasks[2].progress.fraction == 0.5
    big = (output_dir / "1.out").read_bytes()
    on_node = nodes.node(0).path(output_dir / "1.out").read_bytes()
    assert len(big) == 5_000_000
    assert hashlib.sha256(big).digest() == hashlib.sha256(on_node).digest()
    assert not list(output_dir.rglob("*.part"))
    assert not (output_dir / "3.out").exists() or (output_dir / "3.out").read_bytes() == b""


def test_progress_and_output_are_seen_live_from_nodes_that_share_nothing(
    sshd_nodes: NodesFactory, tmp_path: Path
) -> None:
    """While a task runs its output is read from the node that writes it."""
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    nodes = sshd_nodes(1, private=["~", output_dir])
    go_on = tmp_path / "go-on"
    command = rf"printf 'so far \0021/2\003'; while [ ! -e {go_on} ]; do sleep 0.05; done"
    with run(nodes, output_dir, lambda _: command, poll_interval=0.1) as cluster:
        wait_until(lambda: cluster.tasks[0].progress is not None, 20, lambda: str(cluster.tasks))
        assert cluster.output(0) == "so far \x021/2\x03"
        assert not (output_dir / "0.out").exists()
        go_on.touch()
        assert cluster.wait(30, progress=False).ok
    assert (output_dir / "0.out").read_text() == "so far \x021/2\x03"


def test_files_that_are_the_same_after_all_are_left_alone(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """``shared_fs=False`` on a shared directory: nothing is copied over itself or lost."""
    with run(five_nodes, tmp_path, lambda _: "echo precious", nnodes=3, shared_fs=False) as cluster:
        inode = {task.proc_id: None for task in cluster.tasks}
        assert cluster.wait(60, progress=False).ok
    assert len(inode) == 3
    for proc_id in range(3):
        assert (tmp_path / f"{proc_id}.out").read_text() == "precious\n"
    assert not list(tmp_path.rglob("*.part"))


def test_a_slow_rc_file_costs_its_time_once(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Not once a task: twenty tasks behind an rc file of one second end long before twenty."""
    nodes = sshd_nodes(1, rc={".bashrc": "sleep 1\n"})
    with run(nodes, tmp_path, lambda _: "true", ntasks_per_node=4, ntasks=20) as cluster:
        summary = cluster.wait(15, progress=False)
    assert summary.ok


def test_dropbear_is_a_server_too(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """Nothing depends on OpenSSH's server."""
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    nodes = sshd_nodes(2, server="dropbear", private=["~", output_dir])
    with run(nodes, output_dir, steps, ntasks_per_node=2) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.exit_code for task in summary.tasks] == [0, 1, 0, 1]
    assert (tmp_path / "out/deep er/0.txt").read_text() == "out 0\nerr\n\x024/4\x03"


def test_a_frozen_node_holds_up_no_other(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """The tasks of the other nodes start, move and end meanwhile; thawed, it is used again."""
    nodes = sshd_nodes(3)
    go_on = tmp_path / "go-on"
    command = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=9, ntasks_per_node=1) as cluster:
        frozen = nodes.node(1)
        frozen.freeze()
        go_on.touch()

        def others_are_done() -> bool:
            done = [task for task in cluster.tasks if task.state is TaskState.COMPLETED]
            return len(done) == 8

        wait_until(others_are_done, 30, lambda: str(cluster.tasks))
        frozen.thaw()
        assert cluster.wait(60, progress=False).ok


def test_a_link_that_breaks_loses_no_task(
    sshd_nodes: NodesFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node shows UNREACHABLE with since-when, its task stays RUNNING, and ends in the end."""
    caplog.set_level(logging.CRITICAL, "allot")
    nodes = sshd_nodes(2)
    go_on = tmp_path / "go-on"
    command = f"while [ ! -e {go_on} ]; do sleep 0.05; done; echo $ALLOT_PROCID >> {tmp_path}/ran"
    with run(nodes, tmp_path / "out", lambda _: command, ntasks=6, ntasks_per_node=1) as cluster:
        lost = nodes.node(1)
        lost.cut()

        def is_unreachable() -> bool:
            return cluster.nodes[1].state is NodeState.UNREACHABLE

        wait_until(is_unreachable, 30, lambda: str(cluster.nodes))
        assert "since" in cluster.nodes[1].reason
        assert [task.state for task in cluster.tasks if task.node_id == 1] == [TaskState.RUNNING]
        go_on.touch()
        wait_until(
            lambda: sum(task.state.is_final for task in cluster.tasks) == 5,
            30,
            lambda: str(cluster.tasks),
        )
        lost.restart()
        assert cluster.wait(60, progress=False).ok
        assert cluster.nodes[1].state is NodeState.READY
    assert sorted((tmp_path / "ran").read_text().split()) == list("012345")


def test_an_output_file_that_cannot_be_written_fails_its_task(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """FAILED with the file's name, never a hang; the other tasks run."""

    def factory(ntc: NodeTaskConfig) -> Task:
        in_the_way = ntc.output_dir if ntc.proc_id == 1 else None
        return Task("true", in_the_way, ntc)

    with run(five_nodes, tmp_path, factory, nnodes=3) as cluster:
        summary = cluster.wait(30, progress=False)
    assert [task.state.value for task in summary.tasks] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert f"cannot be written on the node: {tmp_path}" in summary.tasks[1].reason


def test_a_working_directory_that_is_not_there_fails_its_task(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """FAILED, and the reason names the directory."""
    with run(
        five_nodes, tmp_path, lambda ntc: Task("true", config=ntc, cwd="/no/such place"), nnodes=1
    ) as cluster:
        summary = cluster.wait(30, progress=False)
    assert summary.tasks[0].state is TaskState.FAILED
    assert summary.tasks[0].exit_code is None
    assert "/no/such place" in summary.tasks[0].reason


def test_a_line_of_a_gigabyte_does_not_fill_the_client(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """The marker behind it is found, and the client reads only a small part of it."""
    command = r"truncate -s 1G /dev/stdout; printf '\0025/9\003'"
    with run(five_nodes, tmp_path, lambda _: command, nnodes=1) as cluster:
        summary = cluster.wait(60, progress=False)
    progress = summary.tasks[0].progress
    assert progress is not None
    assert (progress.step, progress.total) == (5, 9)


def test_a_home_that_cannot_be_written_is_no_node(sshd_nodes: NodesFactory, tmp_path: Path) -> None:
    """The probe says so before anything starts."""
    nodes = sshd_nodes(1, own_uid=True)
    (nodes.home / ".allot").write_text("a file in the way")
    with pytest.raises(Exception, match="home directory"):
        run(nodes, tmp_path, steps, probe=NodeProbe(max_load_per_cpu=None))


def test_making_a_cluster_does_not_wait_for_nodes_without_a_task(
    five_nodes: SshdNodes, tmp_path: Path
) -> None:
    """With fewer tasks than nodes it returns as soon as what was placed runs."""
    with run(five_nodes, tmp_path, lambda _: "sleep 10", ntasks=1) as cluster:
        assert cluster.tasks[0].state is TaskState.RUNNING
        cluster.cancel(grace=0)
        assert cluster.wait(60, progress=False).counts[TaskState.CANCELLED] == 1
