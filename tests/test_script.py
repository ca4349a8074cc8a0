"""What Allot sends to a node, run by a real Bash: quoting, and all that a task may rely on."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from localnode import JOB_DIRECTORY, JOB_ID, PATIENCE_S, LocalNode
from sandbox import process_table, wait_until

from allot import questions, script
from allot.environment import job_variables, param_variables
from allot.errors import TaskConfigError
from allot.events import Cause, Ended, Refused, Started, parse_events
from allot.model import NodeTaskConfig
from allot.script import CancelOrder

# One Bash serves all examples of a test: its fixture is begun once on purpose.
IN_BASH = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
RAW_WORDS = st.binary(max_size=30).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
SHELL_WORDS = st.text(alphabet="'\"\\$`!~*?[]{}()<>|&;#=-^% \t\n\r\x01\x1e\x7fab", max_size=30)
ANY_WORD = st.one_of(WORDS, RAW_WORDS, SHELL_WORDS)


# Quoting.


@IN_BASH
@given(words=st.lists(ANY_WORD, max_size=20))
def test_words_arrive_as_they_are(node: LocalNode, words: list[str]) -> None:
    """Whatever the text, a program gets it as one argument, byte for byte."""
    reply = node.request("printf '%s\\0' x " + " ".join(script.quote(word) for word in words))
    assert reply == b"".join(os.fsencode(word) + b"\0" for word in ["x", *words])


@IN_BASH
@given(rest=ANY_WORD)
def test_a_path_arrives_with_its_home_filled_in(node: LocalNode, rest: str) -> None:
    """A leading ``~`` or ``~user`` is the home, whatever follows; anywhere else it is itself."""
    rest = rest.removeprefix("-")
    me = pwd.getpwuid(os.getuid())
    paths = {
        f"~/{rest}": f"{node.home}/{rest}".removesuffix("" if rest else "/"),
        f"~{me.pw_name}/{rest}": f"{me.pw_dir}/{rest}".removesuffix("" if rest else "/"),
        f"/~/{rest}": f"/~/{rest}",
        f"x~{rest}": f"x~{rest}",
        f"~ {rest}": f"~ {rest}",
        f"~nobody-is-called-that/{rest}": f"~nobody-is-called-that/{rest}".removesuffix(
            "" if rest else "/"
        ),
    }
    reply = node.request("printf '%s\\0' " + " ".join(map(script.quote_path, paths)))
    assert reply == b"".join(os.fsencode(path) + b"\0" for path in paths.values())


@pytest.mark.parametrize(
    ("path", "arrives"),
    [("-", "./-"), ("~+", "~+"), ("~-", "~-"), ("~1", "~1"), ("~\n", "~\n"), ("--", "--")],
)
def test_odd_paths_have_no_other_meaning(node: LocalNode, path: str, arrives: str) -> None:
    """What ``cd`` or Bash would take for an old directory or an option is a name."""
    node.request("cd /; cd ~")
    assert node.request(f"printf %s {script.quote_path(path)}") == arrives.encode()


@IN_BASH
@given(words=st.lists(ANY_WORD, min_size=1, max_size=8))
def test_commands_and_variables_reach_the_task(node: LocalNode, words: list[str]) -> None:
    """Any text in a command, in a variable and in a file name reaches the task as it is."""
    attempt = len(list(node.directory.iterdir()))
    launches = [
        node.launch(
            f"printf '%s\\0' {script.quote(word)} \"$WORD\"",
            "printf '%s\\0' \"$ALLOT_PARAM_A_B\"",
            proc_id=number,
            attempt=attempt,
            output_file=node.outputs / f"{number} {script.quote(word).replace('/', '_')}.out",
            env={"WORD": word, **param_variables({"a b": word})},
        )
        for number, word in enumerate(words)
    ]
    node.run(*launches)
    for launch, word in zip(launches, words, strict=True):
        assert launch.output_file.read_bytes() == (os.fsencode(word) + b"\0") * 3


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_every_byte_reaches_the_task(
    make_node: Callable[..., LocalNode], tmp_path: Path, locale: str
) -> None:
    """A command and a variable may hold every byte from 1 to 255, valid UTF-8 or not."""
    node = make_node(LC_ALL=locale)
    node.prepare()
    every = bytes(range(1, 256))
    text = every.decode("utf-8", "surrogateescape")
    launch = node.launch(f'printf %s {script.quote(text)}; printf %s "$ALL"', env={"ALL": text})
    node.run(launch)
    assert launch.output_file.read_bytes() == every * 2


def test_a_command_may_be_long(node: LocalNode) -> None:
    """A command of 200 KB runs, though no argument list or pipe would hold it."""
    text = "x" * 200_000
    assert node.run_one(f"text='{text}'", 'echo "${#text}"') == (0, "200000\n")


@pytest.mark.parametrize("text", ["a\0b", "\ud83d"])
def test_text_no_program_can_be_given_is_refused(text: str) -> None:
    """A NUL, or half an emoji out of a JSON file, is refused before anything is sent."""
    with pytest.raises(TaskConfigError):
        script.quote(text)
    with pytest.raises(TaskConfigError):
        script.task_script([f"echo {text}"])


@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "A B", "A=B", "Ä", "A\n", "$(x)", "UID", "SHELLOPTS", "PPID"]
)
def test_names_that_are_no_variables_are_refused(name: str) -> None:
    """A variable that Bash cannot export is refused, and named."""
    with pytest.raises(TaskConfigError) as caught:
        script.exports({"GOOD": "1", name: "2"})
    assert repr(name) in str(caught.value)


# The task contract.

_CONTRACT: list[tuple[str, Sequence[str], int, str]] = [
    ("in order", ["echo one", "echo two", "echo three"], 0, "one\ntwo\nthree\n"),
    ("in one Bash", ["cd /; x=1", 'echo "$PWD $x"'], 0, "/ 1\n"),
    ("arrays", ["declare -A m=([a]=1)", 'echo "${m[a]}"'], 0, "1\n"),
    ("functions", ["f() { echo f; return 4; }", "f", "echo never"], 4, "f\n"),
    ("options", ["shopt -s extglob", "[[ aa == +(a) ]] && echo @(x)"], 0, "@(x)\n"),
    ("failure", ["false", "echo never"], 1, ""),
    ("last fails", ["echo a", "(exit 9)"], 9, "a\n"),
    ("failure inside", ["false\necho on", "echo two"], 0, "on\ntwo\n"),
    ("status seen", ["false || true", "echo $?"], 0, "0\n"),
    ("exit", ["exit 3", "echo never"], 3, ""),
    ("exit 0", ["echo a; exit", "echo never"], 0, "a\n"),
    ("exit 300", ["exit 300"], 44, ""),
    ("exec", ["exec sh -c 'echo in; exit 7'", "echo never"], 7, "in\n"),
    ("exec and signal", ["exec sh -c 'kill -INT $$'", "echo never"], 130, ""),
    ("signal to itself", ["kill -TERM $$", "echo never"], 143, ""),
    ("killed", ["kill -KILL $$", "echo never"], 137, ""),
    ("signal to its child", ["sh -c 'kill -TERM $$'", "echo never"], 143, "Terminated\n"),
    ("whole group killed", ["kill -KILL 0", "echo never"], 137, ""),
    ("not found", ["/nowhere/to/be/found 2>/dev/null", "echo never"], 127, ""),
    ("pipefail", ["set -o pipefail", "false | true", "echo never"], 1, ""),
    ("trap EXIT", ["trap 'echo bye' EXIT", "echo hi"], 0, "hi\nbye\n"),
    ("trap EXIT after failure", ["trap 'echo bye' EXIT", "(exit 5)", "echo never"], 5, "bye\n"),
    ("trap TERM", ["trap 'echo got; exit 6' TERM", "kill $$", "echo never"], 6, "got\n"),
    ("heredoc", ["cat <<EOF\na 'b\nEOF", "echo after"], 0, "a 'b\nafter\n"),
    ("heredoc not ended", ["exec 2>/dev/null", "cat <<E\na b", "echo after"], 0, "a b\nafter\n"),
    ("comments", ["echo a # 'b", "# only", "echo c"], 0, "a\nc\n"),
    ("trailing backslash", ["echo a \\", "echo b"], 0, "a \\\nb\n"),
    ("empty", ["", "  ", "\n", "echo a"], 0, "a\n"),
    ("leading dash", ["-x 2>/dev/null", "echo never"], 127, ""),
    ("set -e", ["set -e; false; echo never", "echo never"], 1, ""),
    ("set -e later", ["set -e", "false || echo on", "f() { false; echo never; }; f"], 1, "on\n"),
    ("set -eu", ["set -eu", 'echo "${x:-none}"'], 0, "none\n"),
    ("noclobber", ["set -C; cd; echo a >| c", "{ echo b > c; } 2>&-"], 1, ""),
    ("no input", ["cat", "read -r x; echo $?", "sh -c 'cat; echo end'"], 0, "1\nend\n"),
    ("no arguments", ['echo "$# $*"'], 0, "0 \n"),
    ("not interactive", ["[[ $- != *[im]* ]]"], 0, ""),
    ("both streams", ["echo a; echo b >&2; echo c"], 0, "a\nb\nc\n"),
    ("its own child", ["sleep 0.01 & wait $!; echo $?"], 0, "0\n"),
]


def test_commands_run_as_bash_runs_them(node: LocalNode) -> None:
    """Strings run in order in one Bash; a status other than 0 ends the task with that code."""
    launches = [
        node.launch(*cmds, proc_id=number) for number, (_, cmds, _, _) in enumerate(_CONTRACT)
    ]
    ends = node.run(*launches)
    for launch, (name, _, code, output) in zip(launches, _CONTRACT, strict=True):
        end = ends[launch.proc_id]
        text = launch.output_file.read_text()
        assert isinstance(end, Ended)
        assert (name, end.exit_code) == (name, code)
        assert (name, text) == (name, output)
        assert (name, end.has_output) == (name, text != "")


@pytest.mark.parametrize(
    "cmd",
    ["echo 'a", 'echo "a', "echo $(a", "if true; then", "}", "f() {", "case x in", "set -u; $nope"],
)
def test_a_string_bash_cannot_run_ends_the_task(node: LocalNode, cmd: str) -> None:
    """A syntax error fails the task, is told in its output, and swallows nothing behind it."""
    code, output = node.run_one(cmd, "echo never'\n", "echo never")
    assert code not in (0, None)
    assert "/dev/fd/9: " in output
    assert "\nnever" not in f"\n{output}"


def test_a_task_is_a_bash_of_its_own(node: LocalNode) -> None:
    """It has its own ``$$`` and process group; its parent is the recorder, outside the group."""
    cmd = "echo $$ $BASHPID $PPID $(cut -d' ' -f5 /proc/$$/stat) $(cut -d' ' -f5 /proc/$PPID/stat)"
    launches = [node.launch(cmd, proc_id=number) for number in range(3)]
    node.run(*launches)
    recorders = {e.proc_id: e.pid for e in node.events() if isinstance(e, Started)}
    seen = []
    for launch in launches:
        pid, bashpid, parent, group, parents_group = map(
            int, launch.output_file.read_text().split()
        )
        assert pid == bashpid == group
        assert parent == parents_group == recorders[launch.proc_id]
        seen += [pid, parent]
    assert len(set(seen)) == 6


def test_a_task_begins_clean(node: LocalNode) -> None:
    """No signal is ignored or blocked in it, and nothing is open but stdin and its outputs."""
    _, output = node.run_one(
        "ls /proc/self/fd | tr '\\n' ' '; echo; readlink /proc/self/fd/{0,1,2}",
        "yes | head -1 >/dev/null; echo ${PIPESTATUS[0]}; sh -c 'kill -INT $$'; echo $?",
        "grep -E 'Sig(Blk|Ign)' /proc/self/status",
    )
    lines = output.splitlines()
    out = str(node.outputs / "0.out")
    assert lines[:4] == ["0 1 2 3 ", "/dev/null", out, out]
    assert lines[4:6] == ["141", "130"]
    masks = dict(line.split(":\t") for line in lines[6:])
    wanted = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE))
    assert not int(masks["SigIgn"], 16) & wanted
    assert not int(masks["SigBlk"], 16)


def test_a_task_holds_no_channel_open(node: LocalNode) -> None:
    """Its processes hold none of the connection's pipes, and its recorder only that to tell by."""
    os.mkfifo(node.home / "gate")
    node.start(node.launch("read -r x < ~/gate"))
    recorder = node.started().pid
    assert node.channel.process.stdout is not None
    assert node.channel.process.stdin is not None
    out, into = (
        os.readlink(f"/proc/self/fd/{end.fileno()}")
        for end in (node.channel.process.stdout, node.channel.process.stdin)
    )
    wait_until(lambda: bool(node.below(recorder)), PATIENCE_S, "no task")

    def held(pid: int) -> set[str]:
        found = set()
        with contextlib.suppress(FileNotFoundError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return found & {out, into}

    def by_task() -> set[str]:
        return {pipe for process in node.below(recorder) for pipe in held(process.pid)}

    wait_until(lambda: not by_task(), PATIENCE_S, lambda: f"held open: {by_task()}")
    assert held(recorder) == {out}
    (node.home / "gate").write_text("go\n")
    node.wait()


def test_a_task_sees_the_environment_of_its_place(node: LocalNode) -> None:
    """Its place and its job are in ``ALLOT_*``; nothing else is added to the login's own."""
    config = NodeTaskConfig(
        job_name="a 'job'",
        job_id="j-1",
        output_dir=Path("/out put"),
        node_name="nd01",
        node_id=2,
        proc_id=5,
        local_id=1,
        nnodes=3,
        ntasks=12,
        ntasks_per_node=4,
        cpus_per_task=6,
    )
    node.prepare(job_variables(config))
    before = {entry.partition(b"=")[0] for entry in node.request("env -0").split(b"\0")}
    own = {"MINE": "a\nb", **param_variables("p")}
    node.run_one("env -0", proc_id=5, local_id=1, attempt=7, env=own)
    entries = (node.outputs / "5.out").read_text().rstrip("\0").split("\0")
    env = dict(entry.split("=", 1) for entry in entries)
    expected = {
        "ALLOT_JOB_NAME": "a 'job'",
        "ALLOT_JOB_ID": "j-1",
        "ALLOT_OUTPUT_DIR": "/out put",
        "ALLOT_NODENAME": "nd01",
        "ALLOT_NODEID": "2",
        "ALLOT_PROCID": "5",
        "ALLOT_LOCALID": "1",
        "ALLOT_NNODES": "3",
        "ALLOT_NTASKS": "12",
        "ALLOT_NTASKS_PER_NODE": "4",
        "ALLOT_CPUS_PER_TASK": "6",
        "ALLOT_ATTEMPT": "7",
        "ALLOT_TASK": f"{JOB_ID}/5/7",
        "ALLOT_PARAM_LINE": "p",
        "MINE": "a\nb",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert set(env) - set(expected) <= {name.decode() for name in before} | {"OLDPWD"}


def test_a_users_variable_may_have_any_name(node: LocalNode) -> None:
    """A name that Allot's own Bash uses for itself changes neither the task nor its place."""
    words = script._FUNCTIONS.replace("=", " ").split()
    names = {word for word in words if word.isidentifier() and not word.startswith("ALLOT_")}
    own = {name: f"my {name}" for name in sorted(names)} | {"BASH": "/bin/false", "IFS": "o0"}
    code, output = node.run_one("env -0", 'echo "$ALLOT_PROCID"', env=own, proc_id=3)
    env = dict(entry.partition("=")[::2] for entry in output.split("\0"))
    assert {"script", "own", "out", "err", "cwd", "p", "code"} <= names
    assert {name: env.get(name) for name in names} == {name: own[name] for name in names}
    assert (code, output.rpartition("\0")[2]) == (0, "3\n")


def test_options_that_the_login_exports_do_no_harm(make_node: Callable[..., LocalNode]) -> None:
    """``set -C`` in SHELLOPTS stops neither launch nor rerun; job control is not handed on."""
    node = make_node(SHELLOPTS="noclobber")
    node.prepare()
    cmd = "[[ $- != *m* ]] && echo again"
    assert node.run_one(cmd) == (0, "again\n")
    assert node.run_one(cmd, attempt=1) == (0, "again\n")
    assert node.request("[[ $- == *C* ]] && echo on") == b"on\n"


def test_outputs_are_begun_anew_in_directories_that_are_made(node: LocalNode) -> None:
    """Missing directories are made, for stderr too; what lay in the files is gone."""
    output, error = node.home / "a b/c/$d.out", node.home / "e'f/g.err"
    launch = node.launch("echo out; echo err >&2", output_file=output, error_file=error)
    node.run(launch)
    assert (output.read_text(), error.read_text()) == ("out\n", "err\n")
    quiet = node.launch("echo err >&2", output_file=output, error_file=error, attempt=1)
    node.run(quiet)
    assert (output.read_text(), error.read_text()) == ("", "err\n")
    ends = [event for event in node.events() if isinstance(event, Ended)]
    assert [(end.attempt, end.has_output) for end in ends] == [(0, True), (1, True)]


def test_a_silent_task_is_known_to_have_printed_nothing(node: LocalNode) -> None:
    """The record tells whether there is an output to look at."""
    launch = node.launch("true", error_file=node.home / "e")
    end = node.run(launch, node.launch("true", proc_id=1))
    assert [cast(Ended, end[number]).has_output for number in (0, 1)] == [False, False]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"output_file": Path("{home}/file/x.out")}, "output"),
        ({"output_file": Path("{home}")}, "output"),
        ({"error_file": Path("{home}/file/x.err")}, "error"),
        ({"cwd": "~/nowhere"}, "cwd"),
        ({"cwd": "~/file"}, "cwd"),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_name(
    node: LocalNode, change: dict[str, Any], word: str
) -> None:
    """An output that cannot be written, a directory that is not there: no start, and why."""
    (node.home / "file").write_text("in the way")
    change = {
        name: Path(str(value).format(home=node.home)) if isinstance(value, Path) else value
        for name, value in change.items()
    }
    end = node.run(node.launch("touch ~/ran", **change))[0]
    assert isinstance(end, Refused)
    assert end.word == word
    assert not (node.home / "ran").exists()


@pytest.mark.parametrize(
    "cwd", ["~/my  dir'$x", "{home}/my  dir'$x", "my  dir'$x", "~root", "-", "-P x"]
)
def test_a_task_starts_where_it_was_told(
    make_node: Callable[..., LocalNode], tmp_path: Path, cwd: str
) -> None:
    """``~`` is the home, spaces and dashes are names, relative counts from the login directory."""
    node = make_node(CDPATH=str(tmp_path))
    node.prepare()
    for name in ("my  dir'$x", "-", "-P x"):
        (node.home / name).mkdir()
        (tmp_path / name).mkdir()
    places = {"~root": pwd.getpwnam("root").pw_dir, "-": "{home}/-", "-P x": "{home}/-P x"}
    place = places.get(cwd, "{home}/my  dir'$x").format(home=node.home)
    if not os.access(place, os.X_OK):
        pytest.skip("root's home is closed")
    code, output = node.run_one("pwd", cwd=cwd.format(home=node.home))
    assert (code, output) == (0, f"{place}\n")


# Recorder and claim.


def test_the_same_launch_asked_twice_starts_once(node: LocalNode) -> None:
    """A client that asks again, not knowing whether it was heard, starts nothing twice."""
    launch = node.launch("echo ran >> ~/ran")
    node.run(launch)
    node.run(launch, launch)
    assert (node.home / "ran").read_text() == "ran\n"
    started = [event for event in node.events() if isinstance(event, Started)]
    assert len({(event.pid, event.start_ticks) for event in started}) == 1
    assert [type(event) for event in node.events()] == [Started, Ended, Started, Started]
    node.run(replace(launch, attempt=1))
    assert (node.home / "ran").read_text() == "ran\nran\n"


def test_a_recorder_that_is_stopped_outlives_its_bash(node: LocalNode) -> None:
    """A frozen node whose connection ends: thawed, its task goes on and its end is told."""
    node.start(node.launch("touch ~/up; while [ ! -e ~/on ]; do sleep 0.05; done; exit 3"))
    wait_until((node.home / "up").exists, PATIENCE_S, "it does not run")
    (started,) = node.events()
    assert isinstance(started, Started)
    os.kill(started.pid, signal.SIGSTOP)
    wait_until(lambda: process_table()[started.pid].state == "T", PATIENCE_S, "it does not stop")
    node.channel.hang_up()
    os.kill(started.pid, signal.SIGCONT)
    (node.home / "on").touch()
    wait_until(lambda: len(node.events()) > 1, PATIENCE_S, lambda: str(node.events()))
    end = node.events()[1]
    assert isinstance(end, Ended)
    assert end.exit_code == 3


# A recorder that is handed its next task.


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_task_does_not_see_what_its_recorder_did_before(
    make_node: Callable[..., LocalNode], locale: str
) -> None:
    """Environment, place, open files and every byte are those of a recorder's first task."""
    node = make_node(LC_ALL=locale)
    node.prepare()
    every = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
    (node.home / "place").mkdir()
    shown = node.launch(
        "env -0 | sort -z; ls /proc/self/fd; pwd; shopt; set -o; umask; trap",
        f"printf %s {script.quote(every)}; echo err >&2",
        # Read by Bash itself: while it starts a program, it holds signals back for a moment.
        "while read -r line; do case $line in Sig[BIC]*) echo $line ;; esac; done </proc/$$/status",
        env={"EVERY": every, "text": "mine", "number": "7", "home": "h", "source": "s"},
        cwd="place",
        error_file=node.outputs / "err",
    )
    node.run(shown)
    first = shown.output_file.read_bytes()
    node.second_task(shown)
    again = shown.output_file.read_bytes()
    attempts = rb"(ALLOT_(ATTEMPT|TASK)=)[^\0]*"
    assert re.sub(attempts, rb"\1", again) == re.sub(attempts, rb"\1", first)
    assert (node.outputs / "err").read_text() == "err\n"


def test_a_task_too_long_to_be_handed_over_runs_all_the_same(node: LocalNode) -> None:
    """Where a recorder waits, a command of 200 KB gets one of its own."""
    recorder = node.second_task(node.launch("true"))
    text = "x" * 200_000
    launch = node.launch(f"text='{text}'; echo \"${{#text}}\"", proc_id=1)
    assert node.finish(launch) != {1: recorder}
    assert launch.output_file.read_text() == "200000\n"


def test_a_recorder_killed_while_it_waits_is_not_missed(node: LocalNode) -> None:
    """The next task starts at once, in a recorder of its own."""
    recorder = node.second_task(node.launch("true"))
    os.kill(recorder, signal.SIGKILL)
    wait_until(lambda: recorder not in process_table(), PATIENCE_S, "it did not die")
    numbers = range(1, 5)
    ran = node.finish(*(node.launch("true", proc_id=number) for number in numbers))
    assert set(ran) == set(numbers)
    assert recorder not in ran.values()


def test_recorders_that_wait_end_with_their_bash(node: LocalNode) -> None:
    """With the connection gone those go that wait, and the others when their task has ended."""
    os.mkfifo(node.home / "gate")
    gated = node.launch("read -r x < ~/gate", proc_id=1)
    node.start(gated)
    busy = node.started().pid
    waiting = node.second_task(node.launch("true"))
    node.channel.hang_up()
    wait_until(lambda: waiting not in process_table(), PATIENCE_S, "it waits for ever")
    assert busy in process_table()
    (node.home / "gate").write_text("go\n")
    wait_until(lambda: busy not in process_table(), PATIENCE_S, "it waits for ever")
    assert isinstance(node.events()[-1], Ended)


def test_a_recorder_that_waits_records_nothing(node: LocalNode) -> None:
    """Asked who still records a task, a node names those that have one, not those that wait."""
    os.mkfifo(node.home / "gate")
    node.start(node.launch("read -r x < ~/gate", proc_id=1))
    busy = node.started()
    waiting = node.second_task(node.launch("true"))
    starts = [event for event in node.events() if isinstance(event, Started)]
    request = questions.alive_script({(event.pid, event.start_ticks) for event in starts})

    def alive() -> list[int]:
        return [int(word) for word in node.request(request).split()[3:]]

    wait_until(lambda: alive() == [busy.pid], PATIENCE_S, lambda: str(alive()))
    assert waiting in process_table()
    (node.home / "gate").write_text("go\n")


def test_an_order_for_a_task_that_ended_does_not_reach_the_next(node: LocalNode) -> None:
    """Its recorder lives, and waits or has another task; that one goes on, whoever sends TERM."""
    recorder = node.second_task(node.launch("true"))
    keys = [(one.proc_id, one.attempt) for one in node.events() if isinstance(one, Ended)]
    node.request(script.cancel_script([CancelOrder(*key, 0.0) for key in keys], generation=1))
    launch = node.launch("kill $PPID; sleep 0.1; kill $PPID; echo on; exit 3", proc_id=1)
    node.second_task(launch)
    assert recorder in process_table()
    assert launch.output_file.read_text() == "on\n"
    ends = [one for one in node.events() if isinstance(one, Ended) and one.proc_id == 1]
    assert {(one.exit_code, one.cause) for one in ends} == {(3, Cause.END)}


def test_two_clients_at_once_start_a_task_once(make_node: Callable[..., LocalNode]) -> None:
    """Whoever comes second, by however little, does nothing."""
    nodes = [make_node(), make_node()]
    for one in nodes:
        one.prepare()
    launches = [nodes[0].launch(f"echo {number} >> ~/ran", proc_id=number) for number in range(40)]
    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    def launch(one: LocalNode) -> None:
        for first in range(0, len(launches), 5):
            barrier.wait()
            one.start(*launches[first : first + 5])
        one.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch, nodes))
    ran = (nodes[0].home / "ran").read_text().split()
    assert sorted(map(int, ran)) == list(range(40))
    ends = [event.proc_id for event in nodes[0].events() if isinstance(event, Ended)]
    assert sorted(ends) == list(range(40))


@pytest.mark.parametrize("told", [False, True])
def test_a_stopped_task_has_not_ended(node: LocalNode, told: bool) -> None:
    """A task under SIGSTOP stays unfinished, and its code is the one it ends with at last."""
    node.request("sleep() { : > ~/asleep; command sleep 0.01; }")
    if told:  # as by a Bash whose wait returns when its child stops
        node.request('wait() { [[ ! -e ~/asleep ]] && return 147; builtin wait "$@"; }')
    node.start(node.launch("echo $$; kill -STOP $$; echo on; exit 6"))
    recorder = node.started().pid
    output = node.outputs / "0.out"

    def is_stopped() -> bool:
        text = output.read_text() if output.exists() else ""
        table = process_table()
        return text != "" and table[int(text)].state == "T" and table[recorder].state == "S"

    wait_until(is_stopped, PATIENCE_S, "it did not stop")
    if told:
        wait_until((node.home / "asleep").exists, PATIENCE_S, "the recorder did not look again")
    assert [type(event) for event in node.events()] == [Started]
    os.kill(int(output.read_text()), signal.SIGCONT)
    assert node.request("__allot_let_go; builtin wait") == b""
    end = node.events()[-1]
    assert isinstance(end, Ended)
    assert end.exit_code == 6


def test_the_start_names_the_recorder(node: LocalNode) -> None:
    """Number and start time of the recording process stand in the start line."""
    os.mkfifo(node.home / "gate")
    node.start(node.launch("read -r x < ~/gate", proc_id=12, attempt=3))
    event = node.started()
    process = process_table()[event.pid]
    (node.home / "gate").write_text("go\n")
    node.wait()
    assert (event.proc_id, event.attempt) == (12, 3)
    assert (event.pid, event.start_ticks) == (process.pid, process.start)
    assert abs(event.time - time.time()) < 60


def test_a_start_that_cannot_be_written_down_is_told(node: LocalNode) -> None:
    """With the job directory gone, the task does not start, and the client is told at once."""
    shutil.rmtree(node.directory)
    node.start(node.launch("touch ~/ran", proc_id=4, attempt=2))
    node.wait()
    assert [notice.split()[:4] for notice in node.shell.take_notices()] == [
        ["X", "4", "2", "events"]
    ]
    assert not (node.home / "ran").exists()


def test_a_claim_that_cannot_be_made_is_told(node: LocalNode) -> None:
    """Where the claim file cannot be made (no inode left), the task is refused, not forgotten."""
    (node.directory / "0.0").symlink_to("nowhere")
    end = node.run(node.launch("touch ~/ran"))[0]
    assert isinstance(end, Refused)
    assert end.word == "events"
    assert not (node.home / "ran").exists()


def test_an_end_is_written_down_once_it_can_be(node: LocalNode) -> None:
    """A disk that is full at a task's end delays the record; a torn line spoils none."""
    node.request("sleep() { : > ~/tried; command sleep 0.01; }")
    events, aside = node.directory / "events", node.directory / "aside"
    node.start(
        node.launch(
            f"cd {script.quote(str(node.directory))}; mv events aside; ln -s no/where events"
        )
    )
    wait_until((node.home / "tried").exists, PATIENCE_S, "the recorder did not wait")
    with aside.open("ab") as file:
        file.write(b"E 0 0 0 0 17")
    aside.replace(events)
    node.wait()
    data = events.read_bytes()
    assert [type(event) for event in parse_events(data)[0]] == [Started, Ended]


def test_a_recorder_gives_up_when_the_job_is_taken_away(node: LocalNode) -> None:
    """Who removes a job's directory on the node leaves no process behind."""
    node.start(node.launch(f"rm -r {script.quote(str(node.directory))}"))
    node.wait()
    assert not node.directory.exists()


def test_a_directory_that_cannot_be_made_is_told(make_node: Callable[..., LocalNode]) -> None:
    """The prelude names the directory that it could not make."""
    node = make_node()
    (node.home / ".allot").write_text("in the way")
    reply = node.request(script.prelude(JOB_DIRECTORY, {}, generation=1))
    assert reply == f"failed {node.directory}\n".encode()


def test_what_lies_on_the_node_is_for_its_owner_only(node: LocalNode) -> None:
    """Nobody else can read what is kept on the node."""
    for path in (node.home / ".allot", node.directory):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (node.directory / "events").stat().st_mode & 0o777 == 0o600


def test_a_batch_that_was_cut_short_runs_not_at_all(make_node: Callable[..., LocalNode]) -> None:
    """Wherever a dying connection cuts a batch, none of its tasks starts."""
    node = make_node()
    begun = bytes(node.channel.sent)
    node.prepare()
    prepared = len(node.channel.sent)
    launches = [node.launch(f"echo {number} >> ~/ran", proc_id=number) for number in range(2)]
    # A short prelude in the place of the node's own: what would run is seen all the same.
    stub = '__allot_may() { :; }; __allot_launch() { printf "%s\\n" "${@%% *}" >> ran; }'
    node.request(stub)
    stubbed = len(node.channel.sent)
    head = begun + bytes(node.channel.sent[prepared:])
    node.start(*launches)
    assert (node.home / "ran").read_text() == "0\n1\n"
    (node.home / "ran").unlink()
    batch = bytes(node.channel.sent[stubbed:])

    def feed(data: bytes) -> bytes:
        run = subprocess.run(
            node.channel.process.args,
            input=head + data,
            cwd=node.home,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return run.stdout

    assert {feed(batch[:cut]) for cut in range(len(batch))} == {feed(b"")}
    assert not (node.home / "ran").exists()
    assert feed(batch) != feed(b"")
    assert (node.home / "ran").read_text() == "0\n1\n"
