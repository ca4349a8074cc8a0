"""Files that go to nodes that share nothing, and results that come back: whole jobs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from clients import WITH_QUICK_LEASE, client
from conftest import NodesFactory
from sandbox import wait_until
from sshd import SshdNodes
from test_cluster import run

from allot import Cluster, ConfigError, NodeProbe, NodeTaskConfig, Summary, Task, TaskState
from allot.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the user is in: a project that the nodes do not see."""
    project = tmp_path / "project"
    (project / "data" / "sub dir").mkdir(parents=True)
    (project / "data" / "a.txt").write_text("first\n")
    (project / "data" / "sub dir" / "it's b").write_bytes(b"\0\xff second\n")
    (project / "data" / "link").symlink_to("sub dir")
    (project / "prog").write_text('#!/bin/bash\ncat data/a.txt "data/link/it\'s b"\n')
    (project / "prog").chmod(0o755)
    monkeypatch.chdir(project)
    return project


def apart(make: NodesFactory, here: Path, count: int = 1, **options: Any) -> SshdNodes:
    """Nodes with a home of their own each, that see neither the project nor the outputs."""
    (here.parent / "out").mkdir(exist_ok=True)
    return make(count, private=["~", here, here.parent / "out"], **options)


def finish(nodes: SshdNodes, here: Path, command: object, **options: Any) -> Summary:
    """Run a job of one command to its end."""
    factory = command if callable(command) else lambda _: command
    with run(nodes, here.parent / "out", factory, **options) as cluster:
        return cluster.wait(60, progress=False)


def contents(folder: Path) -> Mapping[str, bytes]:
    """Every file below a directory."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("sftp", [True, False], ids=["sftp", "no sftp"])
def test_a_tree_goes_there_and_results_come_back(
    sshd_nodes: NodesFactory, here: Path, sftp: bool
) -> None:
    """Names, modes, links and bytes are the same there; results lie here before the end."""
    nodes = apart(sshd_nodes, here, 2, sftp=sftp)
    command = (
        './prog && mkdir -p "res/deep er" && cp "data/sub dir/it\'s b" "res/deep er/$ALLOT_PROCID" '
        "&& echo hidden > res/.h && echo log > 'log [1]'"
    )
    summary = finish(
        nodes, here, command, stage_in=["data", here / "prog"], collect=["res", "log [[]1]"]
    )
    out = here.parent / "out"
    assert [task.reason for task in summary.tasks] == ["", ""]
    for task in summary.tasks:
        assert (out / f"{task.proc_id}.out").read_bytes() == b"first\n\0\xff second\n"
        assert contents(out / str(task.proc_id)) == {
            f"res/deep er/{task.proc_id}": b"\0\xff second\n",
            "res/.h": b"hidden\n",
            "log [1]": b"log\n",
        }
    assert [list(nodes.node(i).path(nodes.home).glob(".allot/*")) for i in (0, 1)] == [[], []]


def test_only_what_changed_is_sent_again(sshd_nodes: NodesFactory, here: Path) -> None:
    """With a cwd of the user's, the files stay there for the next job."""
    nodes = apart(sshd_nodes, here)
    command = "stat -c %n:%i data/a.txt prog"
    inodes = []
    for text in ("first\n", "second version\n"):
        (here / "data" / "a.txt").write_text(text)
        summary = finish(nodes, here, command, stage_in=["data", "prog"], cwd="~/my project")
        assert summary.ok
        lines = (here.parent / "out" / "0.out").read_text().split()
        inodes.append(dict(line.split(":") for line in lines))
    assert inodes[0]["prog"] == inodes[1]["prog"]
    assert inodes[0]["data/a.txt"] != inodes[1]["data/a.txt"]


def test_each_task_gets_its_own_input(sshd_nodes: NodesFactory, here: Path) -> None:
    """A path with a placeholder goes to the node of its task only; so does Task(stage_in=)."""
    nodes = apart(sshd_nodes, here, 2)
    for number in range(4):
        (here / f"in *{number}.dat").write_text(f"{number}\n")
    params = [f"in *{number}.dat" for number in range(4)]
    with Cluster(
        "test job",
        here.parent / "out",
        command="cat {line} > got.{proc_id}; ls",
        params=params,
        node_file=nodes.node_file,
        ssh_config=nodes.ssh_config,
        ntasks_per_node=2,
        oversubscribe=True,
        probe=NodeProbe(max_load_per_cpu=None),
        stage_in="{line}",
        collect="got.{proc_id}",
    ) as cluster:
        summary = cluster.wait(60, progress=False)
    assert summary.ok
    out = here.parent / "out"
    for task in summary.tasks:
        assert (out / f"{task.proc_id}" / f"got.{task.proc_id}").read_text() == f"{task.proc_id}\n"
        elsewhere = [one.params for one in summary.tasks if one.node_name != task.node_name]
        assert not set(map(str, elsewhere)) & set(
            (out / f"{task.proc_id}.out").read_text().split("\n")
        )

    def factory(ntc: NodeTaskConfig) -> Task:
        name = f"in *{ntc.proc_id}.dat"
        return Task(
            f"cat {name!r} > 'o *'", stage_in=[name], collect=["o [*]"], cwd=f"~/{ntc.proc_id}"
        )

    assert finish(nodes, here, factory, ntasks=4).ok
    assert [(out / str(i) / "o *").read_text() for i in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_what_a_task_changed_is_left_to_the_next_one(sshd_nodes: NodesFactory, here: Path) -> None:
    """Once per node means once; a rerun takes along what was changed here since."""
    nodes = apart(sshd_nodes, here)
    command = "echo $ALLOT_PROCID >> data/a.txt; cat data/a.txt"
    out = here.parent / "out"
    with run(
        nodes, out, lambda _: command, ntasks=2, ntasks_per_node=1, stage_in="data"
    ) as cluster:
        assert cluster.wait(60, progress=False).ok
        assert (out / "1.out").read_text() == "first\n0\n1\n"
        (here / "data" / "a.txt").write_text("new\n")
        cluster.rerun([1])
        assert cluster.wait(60, progress=False).ok
    assert (out / "1.out").read_text() == "new\n1\n"


@pytest.mark.parametrize(
    "case",
    [
        ("echo x > a.txt", "*.npz", TaskState.FAILED, "nothing matches *.npz in "),
        ("echo x > a.txt; exit 3", ("*.npz", "a.txt"), TaskState.FAILED, ""),
        ("ln -s /etc/hostname a.txt", "a.txt", TaskState.FAILED, "a.txt is a link that leads out"),
        ("mkdir b; echo x > b/a.txt; ln -s b c; mv b/a.txt .", "*", TaskState.COMPLETED, ""),
    ],
)
def test_what_cannot_be_collected_fails_the_task(
    sshd_nodes: NodesFactory, here: Path, case: tuple[str, object, TaskState, str]
) -> None:
    """COMPLETED means that all is here; what a failed task left is brought all the same."""
    command, collect, state, reason = case
    nodes = apart(sshd_nodes, here)
    summary = finish(nodes, here, command, stage_in="prog", collect=collect)
    assert summary.tasks[0].state is state
    assert reason in summary.tasks[0].reason
    brought = contents(here.parent / "out" / "0")
    assert brought.get("a.txt") == (None if "npz" in reason or "link" in reason else b"x\n")


def test_a_task_that_comes_while_others_files_are_sent(
    sshd_nodes: NodesFactory, here: Path
) -> None:
    """What is on its way to the same directory is let be; an input that is used up comes again."""
    nodes, out = apart(sshd_nodes, here), here.parent / "out"
    (here / "data" / "0").write_text("small\n")
    with (here / "data" / "1").open("wb") as file:
        file.truncate(200_000_000)
    command = "wc -c < data/$ALLOT_PROCID; rm data/$ALLOT_PROCID; exit $((1 - ALLOT_ATTEMPT))"
    slots = {"ntasks": 2, "ntasks_per_node": 2}
    given = {"stage_in": "data/{proc_id}", "retries": 1}
    with run(nodes, out, lambda _: command, **slots, **given) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.state for task in summary.tasks] == ["COMPLETED", "COMPLETED"]
    assert [(out / f"{i}.out").read_text() for i in range(2)] == ["6\n", "200000000\n"]
    assert [(out / f"{i}.out.0").read_text() for i in range(2)] == ["6\n", "200000000\n"]


def test_what_could_not_be_brought_stays_on_its_node(sshd_nodes: NodesFactory, here: Path) -> None:
    """The job's own directory there is kept with it."""
    nodes, out = apart(sshd_nodes, here), here.parent / "out"
    (out / "0" / "r" / "in the way").mkdir(parents=True)
    summary = finish(nodes, here, "echo precious > r", stage_in="prog", collect="r", ntasks=1)
    assert f"{out}/0/r cannot be written here, it lies on its node still" in summary.tasks[0].reason
    there = nodes.node(0).path(nodes.home)
    assert [path.read_text() for path in there.glob(".allot/*/*/work/r")] == ["precious\n"]


def test_results_of_two_tasks_never_replace_each_other(
    sshd_nodes: NodesFactory, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With collect_to, a clash fails the task; the same task's own result is replaced."""
    nodes = apart(sshd_nodes, here)
    (here / "mine").write_text("mine\n")
    command = 'echo "$ALLOT_PROCID $ALLOT_ATTEMPT" | tee r.$ALLOT_PROCID both mine > /dev/null'
    with run(
        nodes,
        here.parent / "out",
        lambda _: command,
        ntasks=2,
        ntasks_per_node=1,
        stage_in="data",
        collect=["r.{proc_id}", "both", "data"],
        collect_to=".",
    ) as cluster:
        summary = cluster.wait(60, progress=False)
        assert [task.state for task in summary.tasks] == ["COMPLETED", "FAILED"]
        assert f"task 0 has brought {here / 'both'} already" in summary.tasks[1].reason
        assert (here / "both").read_text() == "0 0\n"
        cluster.rerun([0])
        assert cluster.wait(60, progress=False).tasks[0].state is TaskState.COMPLETED
        assert (here / "both").read_text() == "0 1\n"
    assert (here / "r.1").read_text() == "1 0\n"
    assert "files that were not collected are kept for 60 days on nd01" in capfd.readouterr().err
    summary = finish(nodes, here, "echo x > mine", stage_in="prog", collect="mine", collect_to=".")
    assert f"{here / 'mine'} is here already, and not from this task" in summary.tasks[0].reason
    assert (here / "mine").read_text() == "mine\n"


def test_where_the_node_sees_the_project_nothing_is_replaced(
    five_nodes: SshdNodes, here: Path
) -> None:
    """The files are there already: the very same ones stay, and their directory is left clean."""
    prog, old = here / "prog", os.stat(here / "data" / "a.txt")
    here.chmod(0o777)
    (here / "data").chmod(0o777)
    before = prog.stat()
    os.utime(here / "data" / "a.txt", (1, old.st_mtime + 5))
    names = sorted(map(str, here.rglob("*")))
    summary = finish(
        five_nodes, here, "./prog", ntasks=1, stage_in=["data", "prog"], cwd=here, collect="prog"
    )
    assert summary.tasks[0].reason == ""
    assert prog.stat().st_ino == before.st_ino
    assert (here / "data" / "a.txt").stat().st_ino == old.st_ino
    assert sorted(map(str, here.rglob("*"))) == names
    assert contents(here.parent / "out" / "0") == {"prog": prog.read_bytes()}


def test_a_link_that_breaks_while_files_are_sent(sshd_nodes: NodesFactory, here: Path) -> None:
    """What arrives in the end is whole; half a file is never seen under its name."""
    nodes = apart(sshd_nodes, here)
    big = os.urandom(1024) * 64 * 1024
    (here / "big").write_bytes(big)
    with run(nodes, here.parent / "out", lambda _: "sha256sum < big", stage_in="big") as cluster:
        wait_until(lambda: any(node.transfer for node in cluster.nodes), 20, "nothing is sent")
        assert cluster.tasks[0].started_at is None
        nodes.node(0).cut()
        home = nodes.node(0).path(nodes.home)
        assert [path.name for path in home.rglob("big")] == []
        nodes.node(0).restart()
        assert cluster.wait(60, progress=False).ok
        left = list(home.rglob(".*.part"))
    assert (here.parent / "out" / "0.out").read_text().split()[0] == hashlib.sha256(big).hexdigest()
    assert left == []


def test_what_waits_for_files_waits_when_its_client_leaves(
    sshd_nodes: NodesFactory, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is not said to run; cancelled while it waits it never starts, and nothing is left."""
    nodes, out = apart(sshd_nodes, here), here.parent / "out"
    with (here / "big").open("wb") as file:
        file.truncate(200_000_000)
    command = "echo $ALLOT_PROCID ran"
    slots = {"ntasks": 2, "ntasks_per_node": 2}
    with run(nodes, out, lambda _: command, stage_in="big", **slots) as cluster:
        wait_until(lambda: any(node.transfer for node in cluster.nodes), 20, "nothing is sent")
        cluster.cancel([1])
        wait_until(lambda: cluster.tasks[1].state.is_final, 20, "it is not cancelled")
    assert "1 tasks of job test job wait" in capfd.readouterr().err
    (here / "big").write_text("small now")
    with Cluster.load(out) as cluster:
        assert [task.state for task in cluster.tasks] == ["PENDING", "CANCELLED"]
    with Cluster.load(out, lambda _: command) as cluster:
        summary = cluster.wait(60, progress=False)
    assert [task.state for task in summary.tasks] == ["COMPLETED", "CANCELLED"]
    with run(nodes, out, lambda _: command, stage_in="data", cwd="~/p") as cluster:
        cluster.wait(60, progress=False)
    with (here / "big").open("wb") as file:
        file.truncate(200_000_000)
    with run(nodes, out, lambda _: command, stage_in="big", cwd="~/p", ntasks=1) as cluster:
        wait_until(lambda: any(node.transfer for node in cluster.nodes), 20, "nothing is sent")
        cluster.cancel()
        cluster.wait(60, progress=False)
        there = nodes.node(0).path(nodes.home) / "p"
        wait_until(
            lambda: sorted(os.listdir(there)) == ["data"], 20, lambda: str(os.listdir(there))
        )


def test_a_client_that_dies_while_files_are_sent(sshd_nodes: NodesFactory, here: Path) -> None:
    """The next one sends what is missing, and the task runs once."""
    nodes = apart(sshd_nodes, here)
    big = os.urandom(1024) * 64 * 1024
    (here / "big").write_bytes(big)
    out = here.parent / "out"
    script = "c = begin(stage_in='big', collect='r')\nsay('made')\nc.wait(60)"
    command = "sha256sum < big > r; echo ran"
    with client(nodes, out, command, script, before=[WITH_QUICK_LEASE]) as first:
        first.hear("made")
        first.kill()
    with Cluster.load(out, lambda _: command) as cluster:
        assert cluster.wait(60, progress=False).ok
    assert (out / "0.out").read_text() == "ran\n"
    assert (out / "0" / "r").read_text().split()[0] == hashlib.sha256(big).hexdigest()


def test_a_job_that_makes_way_takes_its_results_along(sshd_nodes: NodesFactory, here: Path) -> None:
    """They lie in its archive with the outputs; the next job begins with a clean directory."""
    nodes, out = apart(sshd_nodes, here), here.parent / "out"
    with run(
        nodes, out, lambda _: "mkdir d; echo 1 > d/r", stage_in="prog", collect="d"
    ) as cluster:
        cluster.wait(60, progress=False)
    assert finish(nodes, here, "echo 2 > s", stage_in="prog", collect="s").ok
    assert contents(out / "0") == {"s": b"2\n"}
    assert (out / ".allot" / cluster.job_id / "0" / "d" / "r").read_text() == "1\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage_in": "nowhere"}, "nowhere: No such file or directory"),
        ({"stage_in": "../project"}, "../project leads upwards"),
        ({"stage_in": "{line}"}, "in.dat: No such file or directory"),
        (
            {"stage_in": ["data/a.txt", Path("/etc/hostname"), Path("/proc/sys/kernel/hostname")]},
            "would both arrive as hostname",
        ),
        ({"stage_in": "out"}, "is a link that leads out of"),
        ({"collect": "../r"}, "../r is not below the directory in which the task runs"),
        ({"collect": "/etc/passwd"}, "/etc/passwd is not below"),
        ({"collect_to": "."}, "collect_to says where results go: name them in collect"),
        ({"stage_in": 3}, "stage_in must be a string or several strings, not 3"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    five_nodes: SshdNodes, here: Path, arguments: dict[str, Any], message: str
) -> None:
    """One error that names the path; no output directory is made."""
    (here / "out").mkdir()
    (here / "out" / "away").symlink_to("/etc")
    with pytest.raises(ConfigError) as caught:
        Cluster(
            "job",
            here / "results",
            command="cat {line}",
            params=["in.dat"],
            node_file=five_nodes.node_file,
            ssh_config=five_nodes.ssh_config,
            **arguments,
        )
    assert message in str(caught.value)
    assert not (here / "results").exists()


def test_files_by_command(
    sshd_nodes: NodesFactory, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``allot run`` with --stage-in, --collect and --collect-to; it says where tasks start."""
    nodes = apart(sshd_nodes, here)
    given = ["run", "--node-file", str(nodes.node_file), "--ssh-config", str(nodes.ssh_config)]
    given += ["--output-dir", str(here.parent / "out"), "--max-load", "none", "--oversubscribe"]
    files = ["--stage-in", "prog", "--stage-in", "data", "--collect", "r{proc_id}"]
    code = main([*given, *files, "--collect-to", ".", "-n", "1", "--", "./prog > r{proc_id}"])
    said = capfd.readouterr().err
    assert (code, (here / "r0").read_bytes()) == (0, b"first\n\0\xff second\n"), said
    assert "tasks start in the job's own directory there, with what is staged in" in said
    assert main([*given, "--stage-in", "nix", "--", "true"]) == 2
    assert "nix: No such file or directory" in capfd.readouterr().err
