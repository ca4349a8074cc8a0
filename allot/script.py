"""Every piece of Bash that Allot sends to a node, and all quoting.

Rules: pure; whatever comes from a user is quoted here and nowhere else. Each piece works under
Bash 4.2 and later, forks as little as it can, and leaves the task an environment of its own.

A task is two processes: a recorder, which writes down the start and the end, lies outside of
what is killed, and may have recorded other tasks before (``handover``); and the task's own Bash in
a process group of its own; with a time limit, a timer beside them. An attempt starts once: who
creates the claim file (O_EXCL, ``set -C``) decides. A recorder runs the attempt, a cancellation
sees to it that nobody ever does. The claim names its
maker; so does the start line, which is written before, for a claim that a full disk left empty.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from allot import handover, nodedir, reaper
from allot.errors import TaskConfigError
from allot.staging import Source

LIMIT_GRACE_S = 10.0
"""Seconds between TERM and KILL where a task's time limit is over."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
_NOT_ASCII = re.compile(r"[^\0-\x7f]+")
_TILDE = re.compile(r"~([A-Za-z_][A-Za-z0-9._-]*)?(?=/|\Z)")


def quote(text: str) -> str:
    """Quote ``text`` for Bash, so that it arrives as it is.

    Raises:
        TaskConfigError: It holds a NUL, which no program can be given, or half a surrogate
            pair, which is no text.
    """
    if "\0" in text:
        raise TaskConfigError(f"a NUL byte cannot be passed to a program: {text!r}")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TaskConfigError(f"half a surrogate pair is no text: {text!r}") from None
    return shlex.quote(text)


def quote_path(path: str) -> str:
    """Quote a path on a node, with a leading ``~`` or ``~user`` left for Bash to expand."""
    if path == "-":
        return "./-"
    tilde = _TILDE.match(path)
    if tilde is None:
        return quote(path)
    rest = path[tilde.end() + 1 :]  # its slash must not be quoted, or Bash takes ~ as it is
    return f"{tilde.group()}/{quote(rest)}" if rest else tilde.group()


def exports(env: Mapping[str, str]) -> str:
    """One ``export`` command for some variables, empty without any.

    Raises:
        TaskConfigError: A name is no variable name, or Bash keeps it read-only.
    """
    for name in env:
        if not _VARIABLE.fullmatch(name) or name in _READONLY:
            raise TaskConfigError(
                f"{name!r} cannot be an environment variable in Bash: "
                "use letters, digits and _, and none of Bash's read-only names"
            )
    if not env:
        return ""
    return "export " + " ".join(f"{name}={quote(value)}" for name, value in env.items())


def task_script(cmds: Iterable[str], *, setup: Iterable[str] = ()) -> str:
    """What a task's own Bash runs.

    Each string is run by an ``eval`` of its own, so that an open quote, a heredoc or a trailing
    backslash in one cannot swallow the check behind it or the next string.

    Args:
        cmds: The user's commands; one that fails ends the task with its exit code.
        setup: Run before them in the same way; a failure is written down as what it is.
    """
    cmds = tuple(cmds)
    before, commands = _evals(setup), _evals(cmds)
    if not before:
        return f"{_HEAD if len(cmds) > 1 else _CLOSE}\n{commands}"
    return f"{_SETUP_HEAD}\n{before}\n__allot_check $?\n{_SETUP_END}\n{commands}"


def _evals(lines: Iterable[str]) -> str:
    return "\n__allot_check $?\n".join(f"eval -- {quote(line)}" for line in lines)


@dataclass(frozen=True)
class Launch:
    """One attempt of a task, ready to be sent to its node.

    Attributes:
        proc_id: The task.
        attempt: Which try of it.
        local_id: Its slot.
        output_file: Absolute, the same on the client and the node.
        error_file: The same for stderr, None where it goes into ``output_file``.
        cwd: Where it starts on the node, None for the login directory.
        env: Its own variables, beside those of the node.
        script: What its Bash runs.
        stage_in: What must be below ``cwd`` before it starts.
        collect: Patterns of the results that are brought to the client from there.
        collect_to: Where they go on the client.
        may_replace: Whether what lies there is the task's own, and may be replaced.
    """

    proc_id: int
    attempt: int
    local_id: int
    output_file: Path
    error_file: Path | None
    cwd: str | None
    env: Mapping[str, str]
    script: str
    stage_in: tuple[Source, ...] = ()
    collect: tuple[str, ...] = ()
    collect_to: Path | None = None
    may_replace: bool = True

    @property
    def start(self) -> str:
        """Where it starts on the node."""
        return self.cwd or "~"


def launch_script(launches: Iterable[Launch], *, generation: int, until: int) -> str:
    """Start tasks; needs :func:`prelude` before it in the same Bash.

    Args:
        launches: The tasks.
        generation: The client's number in the row of those that drove the job.
        until: When it is too late to start them, in hundredths of a second of the node's uptime.

    Returns:
        Bash that prints nothing, or ``refused superseded <generation>``, or ``refused late``;
        nothing was started then.
    """
    words = " ".join(_as_word(launch) for launch in launches)
    return f"! __allot_may {generation} {until} || __allot_launch {words}"


def _as_word(launch: Launch) -> str:
    words = (
        str(launch.proc_id),
        str(launch.attempt),
        str(launch.local_id),
        quote(str(launch.output_file)),
        quote("" if launch.error_file is None else str(launch.error_file)),
        quote_path(launch.start),
        quote(exports(launch.env)),
        quote(launch.script),
    )
    text = _NOT_ASCII.sub(_in_octal, " ".join(words))
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{escaped}'"


def _in_octal(found: re.Match[str]) -> str:
    """What stands in single quotes, in ASCII and within them: how long it is, is no question."""
    data = found.group().encode("utf-8", "surrogateescape")
    return "'$'" + "".join(f"\\{byte:03o}" for byte in data) + "''"


@dataclass(frozen=True)
class CancelOrder:
    """An attempt that is to end, whether it has started or not.

    Attributes:
        proc_id: The task.
        attempt: Which try of it.
        grace: Seconds between TERM and KILL.
        is_lost: Nobody wants it to end: it is given up, and its end is written down as a loss.
    """

    proc_id: int
    attempt: int
    grace: float
    is_lost: bool = False


def cancel_script(orders: Iterable[CancelOrder], *, generation: int) -> str:
    """Give orders to end tasks, without waiting for it; needs :func:`prelude` before it.

    An attempt that nobody has started never will be. One that runs is sent TERM, all that is
    left after the grace KILL. For one that is over nothing happens. An order may be given again,
    and only a shorter grace changes anything then.

    Args:
        orders: The orders.
        generation: The client's number in the row of those that drove the job.

    Returns:
        Bash that prints ``failed <proc_id> <attempt>`` where an order could not be written down,
        or only ``refused superseded <generation>``.
    """
    lines = "\n".join(
        f"__allot_cancel {order.proc_id} {order.attempt} {_hundredths(order.grace)} "
        f"{'lost' if order.is_lost else 'cancel'}"
        for order in orders
    )
    return f"if __allot_may {generation}; then\n{lines}\nfi"


def clean_up_script(generation: int) -> str:
    """Remove a node's job directory, unless a later client has it; needs :func:`prelude`.

    Returns:
        Bash that prints ``gone`` if it is, or ``kept <directory>`` where files are left in it that
        nobody collected.
    """
    return f"! __allot_may {generation} > /dev/null || __allot_clean_up"


def prelude(
    directory: str,
    variables: Mapping[str, str],
    *,
    generation: int,
    defaults: Mapping[str, str] = MappingProxyType({}),
    nice: int = 0,
    login_shell: bool = False,
    time_limit: float | None = None,
) -> str:
    """Make a node ready for tasks: its job directory, the variables, the functions.

    Args:
        directory: The node's job directory, relative to the login directory; that above it is
            named after the job.
        variables: What every task of the node has in its environment.
        generation: The client's number in the row of those that drove the job; the node refuses
            whatever comes from an earlier one from now on.
        defaults: The same, where the node's own environment does not have it.
        nice: What is added to the niceness of every task.
        login_shell: Whether a task's Bash reads the user's profile first.
        time_limit: Seconds that a task may take, None for any.

    Returns:
        Bash that answers ``ready <old|new> <uptime in hundredths> <absolute directory>``, ``new``
        where the directory was not there before; or ``failed <absolute directory>``; or
        ``superseded <generation>``.
    """
    preset = "".join(
        f"[[ -v {name} ]] || {exports({name: value})}\n" for name, value in defaults.items()
    )
    limit = "" if time_limit is None else f"{max(_hundredths(time_limit), 1) / 100:.2f}"
    niced = f'"$(type -P nice)" -n {nice} ' if nice else ""
    return (
        f"__allot_variables() {{\n{exports(variables) or ':'}\n{preset}}}\n"
        f"__allot_job={quote(PurePosixPath(directory).parent.name)} __allot_limit={limit} "
        f"__allot_limit_grace={_hundredths(LIMIT_GRACE_S)} "
        f'__allot_bash=({niced}"$BASH"{" -l" if login_shell else ""})'
        f"{nodedir.FUNCTIONS}{handover.FUNCTIONS}{_FUNCTIONS}{reaper.FUNCTIONS}"
        f"__allot_prepare {quote(directory)} {generation}"
    )


def _hundredths(seconds: float) -> int:
    return round(seconds * 100)


_SCRIPT_FD = 9
_CHECK = '__allot_check() { [ "$1" = 0 ] || exit "$1"; }'
_CLOSE = f"exec {_SCRIPT_FD}<&-"
_HEAD = f"{_CLOSE}\n{_CHECK}"

# The recorder puts __allot_setup=(<proc_id> <attempt> <event file>) before a script that begins
# with this. The trap sees a setup that exits or has `set -e`, the check one with its own trap.
_SETUP_MARK = "# setup"
_SETUP_HEAD = rf"""{_SETUP_MARK}
exec {_SCRIPT_FD}<&-
__allot_setup_failed() {{
  [[ $1 != 0 && -n $__allot_setup ]] || return 0
  local t=$EPOCHREALTIME
  [[ -n $t ]] || printf -v t '%(%s)T' -1
  printf 'W %s %s setup %s .\n' "${{__allot_setup[@]::2}}" "$t" >> "${{__allot_setup[2]}}"
  __allot_setup=
}}
__allot_check() {{ [ "$1" = 0 ] || {{ __allot_setup_failed "$1"; exit "$1"; }}; }}
trap '__allot_setup_failed "$?"' EXIT"""
_SETUP_END = f"""\
[[ $(trap -p EXIT) != *__allot_setup_failed* ]] || trap - EXIT
unset -v __allot_setup
unset -f __allot_setup_failed
{_CHECK}"""

# Started through `set -m`, so that the recorder and, once more, the task's Bash lead process
# groups of their own without an exec of setsid, and SIGINT and SIGQUIT are not ignored in them.
# Bash keeps the channel's stdin at 10 while a request has /dev/null; with a server that has one
# socket for both directions, a recorder that held it would hold the channel open. `set +m` ends
# what an exported SHELLOPTS would hand on; what comes from the user is evaluated last, when none
# of our variables is needed any more.
#
# The kernel hangs up on a process group that is stopped when its Bash ends (setpgid(2)): to a
# recorder that means nothing.
#
# A recorder's traps stand before its start line does: who finds it may tell it at once. They are
# run within `wait`, which returns then (above 128), and is asked again for the exit code; some
# Bashes return also when the child is stopped.
_FUNCTIONS = r"""
__allot_note() {
  local t=$EPOCHREALTIME
  [[ -n $t ]] || printf -v t '%(%s)T' -1
  __allot_noted="$* $t ."
  printf '%s\n' "$__allot_noted" >> "$__allot_dir/events"
}
__allot_tell() { printf '\036allot %s\n' "$1" >&3; }
__allot_last() {
  until __allot_note "$@"; do
    [[ -d $__allot_dir ]] || return
    sleep 5
  done
}
__allot_refuse() {
  __allot_note X "$p" "$a" "$1"
  __allot_tell "$__allot_noted"
}
__allot_take() {
  local options=$- status
  set -C
  { printf '%s\n' "$2" || :; } > "$1"
  status=$?
  [[ $options == *C* ]] || set +C
  return $status
}
__allot_tell_again() {
  local pid= ticks= boot
  read -r pid ticks boot < "$claim" || return
  if [[ $pid == cancelled ]]
  then __allot_unstarted __allot_note "$ticks"
  else __allot_note S "$p" "$a" "$pid" "$ticks"
  fi
}
__allot_claim() {
  [[ ! -e $claim ]] || { __allot_tell_again; return 1; }
  __allot_note S "$p" "$a" "$me" "$ticks" || { __allot_refuse events; return 1; }
  __allot_take "$claim" "$me $ticks $__allot_boot" || {
    [[ -e $claim ]] || __allot_refuse events
    return 1
  }
  set +C
}
__allot_open() {
  local file=$1 folder=${1%/*}
  [[ -d $folder/ ]] || mkdir -p -- "$folder/"
  [[ $a == 0 || ! -f $file ]] || mv -fT -- "$file" "$file.$((a - 1))" || return
  : >| "$file"
}
__allot_look_for_room() {
  local test=${out%/*}/.allot-$__allot_job-$p.$a
  : > "$test" || return
  printf '%65536s' '' > "$test" || __allot_note W "$p" "$a" full
  rm -f -- "$test"
}
__allot_record() {
  local p=$1 a=$2 l=$3 out=$4 err=$5 cwd=$6 own=$7 script=$8 code full=0
  local claim=$__allot_dir/$1.$2 mark=$__allot_job/$1/$2
  local task= timer= told= begun cause=end deadline=$__allot_never
  __allot_claim || return
  begun=$__allot_noted
  if [[ $cause != end || -e $claim.cancel ]]; then
    __allot_ordered
    __allot_unstarted __allot_last "$cause" && __allot_tell "$__allot_noted"
    return
  fi
  __allot_open "$out" || { __allot_refuse output; return; }
  [[ -z $err ]] || __allot_open "$err" || { __allot_refuse error; return; }
  CDPATH= cd -- "$cwd" || { __allot_refuse cwd; return; }
  set -m
  ( exec >> "$out" 3>&-
    if [[ -n $err ]]; then exec 2>> "$err"; else exec 2>&1; fi
    __allot_variables
    export ALLOT_PROCID="$p" ALLOT_LOCALID="$l" ALLOT_ATTEMPT="$a" ALLOT_TASK="$mark"
    [[ $script != "# setup"* ]] ||
      printf -v script '__allot_setup=(%q %q %q)\n%s' "$p" "$a" "$__allot_dir/events" "$script"
    exec 9<<< "$script"
    [[ -z $source ]] || exec {source}<&- {__allot_free}<&-
    set +m
    set -- "$own" "${__allot_bash[@]}"
    eval "$1"
    shift
    exec "$@" /dev/fd/9 ) &
  task=$!
  if [[ -n $__allot_limit ]]; then
    ( exec 3>&-; __allot_time "$me" "$ticks" ) &
    timer=$!
  fi
  set +m
  if [[ $cause != end ]]; then __allot_kill; elif [[ -e $claim.cancel ]]; then __allot_ordered; fi
  while wait "$task"; code=$?; ((code > 128)) && __allot_is_child "$task"; do sleep 1; done
  [[ -z $told ]] || { wait "$task"; told=$?; }
  [[ $told != [0-9]* || $told == 127 ]] || code=$told
  if [[ -n $timer ]]; then
    ! __allot_is_child "$timer" || kill -KILL -- "-$timer"
    wait "$timer"
  fi
  [[ -e $out && ! -s $out && ( -z $err || -e $err && ! -s $err ) ]] || full=1
  [[ $code == 0 || $cause != end ]] || __allot_look_for_room
  __allot_last E "$p" "$a" "$code" "$full" "$cause" || return
  [[ $code == 0 && $cause == end && $script != "# setup"* ]] || begun=look __allot_noted=
  __allot_tell "$begun;$__allot_noted"
}
"""
