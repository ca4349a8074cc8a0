"""The Bash that asks a node, run by a real one: what it has, who uses it, what a file holds."""

from __future__ import annotations

import base64
import os
import pty
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes import open_gateway, reach

from allot import LoopbackNodes, questions, readings
from allot.answers import Values, health_of, idle_of, parse_reply
from allot.node import Node

# One Bash serves all examples of a test: its fixture is begun once on purpose.
IN_BASH = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SPIN = "while :; do :; done"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def loopback() -> Iterator[LoopbackNodes]:
    with LoopbackNodes(1) as nodes:
        yield nodes


@pytest.fixture
def node(loopback: LoopbackNodes) -> Iterator[Node]:
    """A node whose kept-open Bash has never looked."""
    with open_gateway() as gateway, reach(loopback.names[0], loopback.ssh_config, gateway) as node:
        node.connect()
        yield node


def ask(node: Node, question: str) -> Values:
    return parse_reply(node.request(question))


def stand_in(directory: Path, script: str) -> str:
    """Bash that puts a program called nvidia-smi first on the PATH."""
    directory.mkdir(exist_ok=True)
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return f"PATH={shlex.quote(str(directory))}:$PATH\n"


def test_the_probe_reads_a_real_node(node: Node) -> None:
    """The reply has what the node is, and its clocks."""
    values = ask(node, questions.probe_script("job"))
    assert int(values["cpus"][0]) == len(os.sched_getaffinity(0))
    assert values["boot_id"] == [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    assert abs(float(values["clock"][0].replace(",", ".")) - time.time()) < 60
    assert time.strptime(values["local_time"][0], "%H:%M")
    assert values["home"] == ["writable"]
    assert not {"foreign", "typed", "user", "held"} & set(values)


@pytest.mark.parametrize("hidden", ["", "/proc/self/status", "/sys/devices/system/cpu/online"])
def test_the_cpus_are_those_that_may_be_used(node: Node, hidden: str) -> None:
    """Not what the machine has; where the kernel's lists cannot be read nproc is asked."""
    mine = sorted(os.sched_getaffinity(0))[-1]
    question = questions.probe_script("job")
    if hidden:
        question = question.replace(hidden, "/nowhere")
    node.request(f"export OMP_NUM_THREADS=99; taskset -cp {mine} $$ > /dev/null")
    assert ask(node, question)["cpus"] == ["1"]


def test_what_is_allowed_and_offline_does_not_count(node: Node, tmp_path: Path) -> None:
    """A virtual machine's processes may use CPUs that are not there yet."""
    status, online = tmp_path / "status", tmp_path / "online"
    status.write_text("Cpus_allowed:\tf,ffffffff\nCpus_allowed_list:\t1-3,8,10-40\nMems:\t0\n")
    online.write_text("0-1,3-8,12-13,100\n")
    question = questions.probe_script("job").replace("/proc/self/status", str(status))
    question = question.replace("/sys/devices/system/cpu/online", str(online))
    assert ask(node, question)["cpus"] == ["5"]


@pytest.mark.parametrize("hint", ["export XDG_SESSION_ID=1", "booted"])
def test_logind_is_asked_where_it_may_end_something(node: Node, tmp_path: Path, hint: str) -> None:
    """Where it made the session, or where systemd runs; else the program is not even started."""
    program = tmp_path / "loginctl"
    program.write_text("#!/bin/sh\necho KillUserProcesses=yes\n")
    program.chmod(0o755)
    node.request(f"unset XDG_SESSION_ID; PATH={tmp_path}:$PATH")
    question = questions.probe_script("job").replace("/run/systemd/system", "/nowhere")
    assert "logout" not in ask(node, question)
    if hint == "booted":
        question = questions.probe_script("job").replace("/run/systemd/system", str(tmp_path))
    else:
        node.request(hint)
    assert ask(node, question)["logout"] == ["kills"]


def test_a_directory_that_both_sides_see(node: Node, tmp_path: Path) -> None:
    """A node that reads the client's file there writes its answer beside it."""
    nonce, answer = tmp_path / "nonce 'x", tmp_path / "nonce 'x.0"
    nonce.write_text("secret\n")
    question = questions.sharing_script(str(tmp_path), str(nonce), "secret", str(answer))
    values = ask(node, question)
    assert values["shared"] == ["yes"]
    assert values["file_system"] != [""]
    assert answer.exists()
    question = questions.sharing_script(
        str(tmp_path), str(nonce), "secret", str(answer), file_system=False
    )
    assert ask(node, question) == {"shared": ["yes"]}


@pytest.mark.parametrize("content", ["other\n", "", None])
def test_a_node_with_a_disk_of_its_own(node: Node, tmp_path: Path, content: str | None) -> None:
    """A node that does not see the client's own file there shares nothing, and writes nothing."""
    nonce, answer = tmp_path / "nonce", tmp_path / "nonce.0"
    if content is not None:
        nonce.write_text(content)
    question = questions.sharing_script(str(tmp_path), str(nonce), "secret", str(answer))
    assert ask(node, question) == {}
    assert not answer.exists()


@IN_BASH
@given(data=st.binary(max_size=2000), offset=st.integers(0, 2100), length=st.integers(0, 2100))
def test_files_are_read_through_bash_byte_for_byte(
    node: Node, tmp_path: Path, data: bytes, offset: int, length: int
) -> None:
    """Where there is no SFTP, any piece of a file is read as it is, and a missing one is told."""
    file = tmp_path / "-a 'b.out"
    file.write_bytes(data)
    missing = str(tmp_path / "missing")
    pieces = [(str(file), offset, length), (missing, 0, 10), (str(file), 0, 5000)]
    lines = node.request(readings.read_script(pieces)).splitlines()
    assert lines[1] == readings.MISSING
    assert [line[:1] for line in (lines[0], lines[2])] == [readings.PRESENT] * 2
    assert base64.b64decode(lines[0][1:]) == data[offset : offset + length]
    assert base64.b64decode(lines[2][1:]) == data
    sizes = node.request(readings.sizes_script([str(file), missing]))
    assert sizes == b"%d\n-\n" % len(data)


# Who uses the CPUs. In a process namespace of its own a test sees no process but its own.


def foreign_cpus(before: str, *, within: str = ":", login: str = "") -> float:
    """What others use by the first probe of job ``j``.

    Args:
        before: Bash that starts processes beside the connection.
        within: Bash that the kept-open Bash runs first.
        login: What the kept-open Bash is started by.
    """
    probe = questions.probe_script("j", running=True)
    kept_open = f'{within}\n{probe}printf %s "$__allot_reply"'
    # Not as the last command, which Bash would exec: the connection needs an ancestor.
    script = f"{before}\n{in_a_session(f'{login} bash --noprofile --norc', kept_open)}\n:"
    run = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    return health_of(parse_reply(run.stdout)).foreign_cpus


def in_a_session(shell: str, script: str) -> str:
    """Bash that runs a script in a session of its own and waits for it."""
    return f"setsid --wait {shell} -c {shlex.quote(script)}"


def spinning(prefix: str, command: str = SPIN) -> str:
    """Bash that starts a busy process and goes on once it runs."""
    return f"{prefix} bash -c {shlex.quote(command)} > /dev/null & sleep 0.05"


OWN = "env -i PATH=$PATH ALLOT_JOB_ID=j setsid"
OTHERS = "env -i PATH=$PATH ALLOT_JOB_ID=jj setsid"
UNMARKED = "env -i PATH=$PATH setsid"
# A program that writes its own title overwrites its environment.
HIDDEN_CHILD = f"env -i bash -c {shlex.quote(SPIN)}; :"


@needs_root
@pytest.mark.parametrize("start", [spinning(UNMARKED), spinning(OTHERS)])
def test_a_busy_process_of_others_counts(start: str) -> None:
    """Where the environment does not name the job, a process is not the job's."""
    assert 0.05 < foreign_cpus(start) <= 1.2


@needs_root
def test_what_is_born_and_gone_between_two_looks_counts() -> None:
    """A crowd of short processes, as of a build, is seen by those that live at the second look."""
    short = f"while :; do timeout 0.2 bash -c {shlex.quote(SPIN)}; done"
    crowd = "\n".join(spinning(UNMARKED, short) for _ in range(4))
    assert foreign_cpus(crowd) > 0.1


@needs_root
@pytest.mark.parametrize(
    ("start", "within"),
    [
        (":", ":"),
        (spinning(OWN), ":"),
        (spinning(OWN, HIDDEN_CHILD), ":"),
        (":", f"( {SPIN} ) > /dev/null &"),
    ],
    ids=["nothing", "marked", "in a marked session", "in the session of the kept-open Bash"],
)
def test_what_is_the_jobs_does_not_count(start: str, within: str) -> None:
    """Tasks, what they start, and Allot's own recorders are not others' load."""
    assert foreign_cpus(start, within=within) < 0.05


@needs_root
def test_the_connection_is_not_others_load(tmp_path: Path) -> None:
    """The SFTP server of the connection sends the job's outputs: it is the job's."""
    bash = shutil.which("bash")
    assert bash is not None
    shutil.copy(bash, tmp_path / "sftp-server")
    server = shlex.quote(str(tmp_path / "sftp-server"))
    assert foreign_cpus(f"{server} -c '{SPIN}' > /dev/null & sleep 0.05") < 0.05


@needs_root
def test_a_session_around_the_connection_proves_nothing() -> None:
    """A task in the session of the SSH server itself does not make all its processes the job's."""
    beside = f"ALLOT_JOB_ID=j sleep 100 > /dev/null &\n{spinning('env -i')}"
    assert foreign_cpus(beside) > 0.05


@needs_root
def test_others_are_seen_although_they_are_hidden() -> None:
    """With hidepid= on /proc it is what the whole machine used, less what the job did."""
    hide = "mount -o remount,hidepid=2 /proc"
    nobody = f"setpriv --reuid {NOBODY} --clear-groups env HOME=/"
    own = f"( {SPIN} ) > /dev/null &"
    assert foreign_cpus(f"{hide}\n{spinning(UNMARKED)}", login=nobody) > 0.05
    others = foreign_cpus(hide, within=own, login=nobody)
    assert others < (os.cpu_count() or 1) - 0.05


def test_the_last_look_is_remembered(node: Node) -> None:
    """Only without a last look, or with one just now or long ago, two looks are taken."""
    node.request("sleep() { echo slept=yes; command sleep $1; }")
    question = questions.probe_script("j", running=True)
    assert "slept" in ask(node, question)
    node.request("__allot_then=$((__allot_then - 60))")
    assert "slept" not in ask(node, question)
    node.request("__allot_then=$((__allot_then + 6000))")
    assert "slept" in ask(node, question)
    node.request("__allot_then=$((__allot_then - 30000))")
    assert "slept" in ask(node, question)


# GPUs.

NVIDIA_SMI = r"""
case $1 in
  --query-gpu=index,uuid,utilization.gpu,memory.used)
    echo "0, GPU-aa, 0, 3"; echo "1, GPU-bb, 97, 20321" ;;
  --query-compute-apps=gpu_uuid,pid) echo "GPU-bb, $APP" ;;
esac
[[ ${*: -1} == --format=csv,noheader* ]] || echo "not asked for as it must be"
"""


def test_the_driver_is_asked_for_gpus_and_who_computes(node: Node, tmp_path: Path) -> None:
    """A process without the job's mark that computes on a GPU is told as another's."""
    node.request(stand_in(tmp_path / "bin", NVIDIA_SMI))
    values = ask(node, f"export APP={os.getppid()}\n{questions.probe_script('j')}")
    assert values["gpu"] == ["0, GPU-aa, 0, 3", "1, GPU-bb, 97, 20321"]
    assert values["app"] == [f"GPU-bb, {os.getppid()}"]
    assert "own_app" not in values


@pytest.mark.parametrize("running", [False, True])
def test_the_jobs_own_computing_is_known(node: Node, tmp_path: Path, running: bool) -> None:
    """A process with the job's mark is told as the job's."""
    node.request(stand_in(tmp_path / "bin", NVIDIA_SMI))
    task = subprocess.Popen(
        ["sleep", "100"], env={**os.environ, "ALLOT_JOB_ID": "j"}, start_new_session=True
    )
    try:
        question = questions.probe_script("j", running=running)
        values = ask(node, f"export APP={task.pid}\n{question}")
    finally:
        task.kill()
        task.wait()
    assert values["own_app"] == [f"GPU-bb, {task.pid}"]
    assert "app" not in values


@pytest.mark.usefixtures("gpus_of_the_machine")
def test_what_other_jobs_hold_is_told_once(node: Node) -> None:
    """The user's other jobs say in their tasks' environment which GPUs they hold."""
    marks = [("j", "0"), ("other", "1,3"), ("other", "1,3"), ("other", ""), ("third", "2")]
    tasks = [
        subprocess.Popen(
            ["sleep", "100"],
            env={**os.environ, "ALLOT_JOB_ID": job, "ALLOT_GPU_IDS": gpus},
            start_new_session=True,
        )
        for job, gpus in marks
    ]
    try:
        values = ask(node, questions.probe_script("j", declared_gpus=4))
    finally:
        for task in tasks:
            task.kill()
            task.wait()
    assert sorted(values["held"]) == ["1,3 other", "2 third"]


def test_a_driver_that_hangs_holds_nobody_up(node: Node, tmp_path: Path) -> None:
    """What it has said by then counts; the rest of the answer comes, and nothing is left behind."""
    node.request(stand_in(tmp_path / "bin", "echo '0, GPU-aa, 0, 3'\nsleep 100"))
    began = time.monotonic()
    values = ask(node, questions.probe_script("j", patience=0.3))
    assert time.monotonic() - began < 30
    assert values["gpu"] == ["0, GPU-aa, 0, 3"]
    assert "clock" in values


def test_amds_gpus_are_counted_by_the_kernels_list(node: Node, tmp_path: Path) -> None:
    """A compute node of the kernel's list that is no CPU has a number other than 0."""
    for number, gpu_id in enumerate(["0", "4098", "51"]):
        entry = tmp_path / "topology/nodes" / str(number)
        entry.mkdir(parents=True)
        (entry / "gpu_id").write_text(f"{gpu_id}\n")
    question = questions.probe_script("j").replace("/sys/class/kfd/kfd", str(tmp_path))
    assert ask(node, question)["amd"] == ["4098", "51"]


# Who typed.


@needs_root
def test_another_users_typing_is_seen(node: Node) -> None:
    """The last input at a terminal that another user owns counts, our own terminals do not."""
    question = questions.probe_script("j", terminals=True)
    before = ask(node, question).get("typed", [])
    master, slave = pty.openpty()
    try:
        own = ask(node, question)
        assert own.get("typed", []) == before
        os.chown(slave, NOBODY, -1)
        os.utime(slave, (time.time() - 1000, time.time()))
        long_ago = idle_of(ask(node, question))
        os.write(master, b"ls\n")
        os.read(slave, 10)
        now = idle_of(ask(node, question))
    finally:
        os.close(master)
        os.close(slave)
    assert long_ago is not None
    assert now is not None
    # The kernel rounds the time of input to 8 s, so that nobody can time another's typing.
    assert now < 60
    if not before:
        assert 990 < long_ago < 1100
