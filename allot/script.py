"""Every piece of Bash that Allot sends to a node, and all quoting.

Rules: pure; whatever comes from a user is quoted here and nowhere else. Each piece works under
Bash 4.2 and later, forks as little as it can, and leaves the task an environment of its own.

A task is two processes: a recorder, which writes down the start and the end and lies outside of
what is killed, and the task's own Bash in a process group of its own. An attempt starts once:
the recorder that creates the claim file (O_EXCL, ``set -C``) runs it, and its start line is
written before, so that a claim always has a line that names its process.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from allot.errors import TaskConfigError
from allot.model import NodeTaskConfig, Params, Scalar

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
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


def task_script(cmds: Iterable[str]) -> str:
    """What a task's own Bash runs.

    Each string is run by an ``eval`` of its own, so that an open quote, a heredoc or a trailing
    backslash in one cannot swallow the check behind it or the next string.
    """
    head = f'exec {_SCRIPT_FD}<&-\n__allot_check() {{ [ "$1" = 0 ] || exit "$1"; }}\n'
    return head + "\n__allot_check $?\n".join(f"eval -- {quote(cmd)}" for cmd in cmds)


def job_variables(config: NodeTaskConfig) -> dict[str, str]:
    """The variables that all tasks of a node have in common."""
    return {
        "ALLOT_JOB_NAME": config.job_name,
        "ALLOT_JOB_ID": config.job_id,
        "ALLOT_OUTPUT_DIR": str(config.output_dir),
        "ALLOT_NODENAME": config.node_name,
        "ALLOT_NODEID": str(config.node_id),
        "ALLOT_NNODES": str(config.nnodes),
        "ALLOT_NTASKS": str(config.ntasks),
        "ALLOT_NTASKS_PER_NODE": str(config.ntasks_per_node),
        "ALLOT_CPUS_PER_TASK": str(config.cpus_per_task),
    }


def param_variables(params: Params) -> dict[str, str]:
    """``ALLOT_PARAM_<NAME>`` for each entry of a task's parameters."""
    if params is None:
        return {}
    named: Mapping[str, Scalar] = params if isinstance(params, Mapping) else {"line": params}
    return {
        f"ALLOT_PARAM_{re.sub('[^A-Za-z0-9_]', '_', name).upper()}": str(value)
        for name, value in named.items()
    }


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
    """

    proc_id: int
    attempt: int
    local_id: int
    output_file: Path
    error_file: Path | None
    cwd: str | None
    env: Mapping[str, str]
    script: str


def launch_script(launches: Iterable[Launch]) -> str:
    """Start tasks; needs :func:`prelude` before it in the same Bash."""
    return "\n".join(_launch_line(launch) for launch in launches)


def _launch_line(launch: Launch) -> str:
    words = (
        str(launch.proc_id),
        str(launch.attempt),
        str(launch.local_id),
        quote(str(launch.output_file)),
        quote("" if launch.error_file is None else str(launch.error_file)),
        quote_path(launch.cwd or "~"),
        quote(exports(launch.env)),
        quote(launch.script),
    )
    return f"__allot_launch {' '.join(words)}"


def prelude(directory: str, variables: Mapping[str, str]) -> str:
    """Make a node ready for tasks: its job directory, the variables, the functions.

    Args:
        directory: The node's job directory, relative to the login directory.
        variables: What every task of the node has in its environment.

    Returns:
        Bash that prints ``ready <absolute directory>``, or ``failed`` and the same.
    """
    variables_function = f"__allot_variables() {{\n{exports(variables) or ':'}\n}}"
    return f"{variables_function}{_FUNCTIONS}__allot_prepare {quote(directory)}"


_SCRIPT_FD = 9

# Started through `set -m`, so that the recorder and, once more, the task's Bash lead process
# groups of their own without an exec of setsid, and SIGINT and SIGQUIT are not ignored in them.
# A Bash that waits with `set -m` returns also when its child is stopped: hence the loop.
# Bash keeps the channel's stdin at 10 while a request has /dev/null; with a server that has one
# socket for both directions, a recorder that held it would hold the channel open. `set +m` ends
# what an exported SHELLOPTS would hand on; what comes from the user is evaluated last, when none
# of our variables is needed any more.
_FUNCTIONS = r"""
__allot_prepare() {
  __allot_dir=$HOME/$1
  if (umask 077 && mkdir -p -- "$__allot_dir" && : >> "$__allot_dir/events") 2>/dev/null
  then printf 'ready %s\n' "$__allot_dir"
  else printf 'failed %s\n' "$__allot_dir"
  fi
}
__allot_launch() {
  set -m
  ( trap - PIPE; exec </dev/null >/dev/null 2>&1 10<&-; __allot_record "$@" ) &
  set +m
}
__allot_note() {
  local t=$EPOCHREALTIME
  [[ -n $t ]] || printf -v t '%(%s)T' -1
  printf '%s %s .\n' "$*" "$t" >> "$__allot_dir/events"
}
__allot_refuse() {
  __allot_note X "$p" "$a" "$1" || printf '\036allot X %s %s %s\n' "$p" "$a" events >&3
}
__allot_claim() {
  [[ ! -e $__allot_dir/$p.$a ]] || return
  local stat
  read -r stat < "/proc/$BASHPID/stat"
  stat=(${stat##*) })
  __allot_note S "$p" "$a" "$BASHPID" "${stat[19]}" || { __allot_refuse events; return 1; }
  set -C
  { : > "$__allot_dir/$p.$a"; } || {
    [[ -e $__allot_dir/$p.$a ]] || __allot_refuse events
    return 1
  }
  set +C
}
__allot_open() {
  local file=$1 folder=${1%/*}
  [[ -d $folder/ ]] || mkdir -p -- "$folder/"
  : >| "$file"
}
__allot_record() {
  local p=$1 a=$2 l=$3 out=$4 err=$5 cwd=$6 own=$7 script=$8 code full=0
  __allot_claim || return
  __allot_open "$out" || { __allot_refuse output; return; }
  [[ -z $err ]] || __allot_open "$err" || { __allot_refuse error; return; }
  CDPATH= cd -- "$cwd" || { __allot_refuse cwd; return; }
  set -m
  ( exec >> "$out" 3>&-
    if [[ -n $err ]]; then exec 2>> "$err"; else exec 2>&1; fi
    __allot_variables
    export ALLOT_PROCID="$p" ALLOT_LOCALID="$l" ALLOT_ATTEMPT="$a"
    exec 9<<< "$script"
    set +m
    set -- "$BASH" "$own"
    eval "$2"
    exec "$1" /dev/fd/9 ) &
  exec 3>&-
  while wait "$!"; code=$?; kill -0 "$!"; do sleep 1; done
  set +m
  [[ ! -s $out && ! ( -n $err && -s $err ) ]] || full=1
  until __allot_note E "$p" "$a" "$code" "$full"; do
    [[ -d $__allot_dir ]] || return
    sleep 5
    echo >> "$__allot_dir/events"
  done
}
"""


def probe_script(output_dir: str, nonce_file: str, nonce: str, answer_file: str) -> str:
    """Look at a node: what it has, what is free, whether it shares the output directory.

    Args:
        output_dir: The job's output directory on the client.
        nonce_file: A file in it that the client wrote.
        nonce: What it wrote there.
        answer_file: What a node that reads the same writes.

    Returns:
        Bash that prints ``key=value`` lines, the node's clock last.
    """
    arguments = " ".join(quote(word) for word in (output_dir, nonce_file, nonce, answer_file))
    return f"{_PROBE}__allot_probe {arguments}"


# nproc heeds the affinity mask, and OMP_NUM_THREADS too, which is no property of the node.
# cgroup limits: v2 keeps them in each level's cpu.max and memory.max, v1 in trees of their own
# (https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/).
_PROBE = r"""
__allot_say() {
  local line
  [[ ! -r $2 ]] || { read -r line < "$2"; printf '%s=%s\n' "$1" "$line"; }
}
__allot_levels() {
  local root=$1 level=$2
  while :; do
    __allot_say cpu_max "$root$level/cpu.max"
    __allot_say memory_max "$root$level/memory.max"
    __allot_say memory_max "$root$level/memory.limit_in_bytes"
    if [[ -r $root$level/cpu.cfs_quota_us ]]; then
      local quota period
      read -r quota < "$root$level/cpu.cfs_quota_us"
      read -r period < "$root$level/cpu.cfs_period_us"
      printf 'cpu_max=%s %s\n' "$quota" "$period"
    fi
    [[ $level == */* ]] || break
    level=${level%/*}
  done
}
__allot_probe() {
  local key value unit controllers level line nonce=
  printf 'bash=%s\n' "$BASH_VERSION"
  __allot_say boot_id /proc/sys/kernel/random/boot_id
  __allot_say load /proc/loadavg
  printf 'cpus=%s\n' "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)"
  while read -r key value unit; do
    case $key in MemTotal:|MemAvailable:|MemFree:) printf '%s=%s\n' "${key%:}" "$value" ;; esac
  done < /proc/meminfo
  while IFS=: read -r _ controllers level; do
    case ,$controllers, in
      ,,) __allot_levels /sys/fs/cgroup "${level%/}" ;;
      *,cpu,*) __allot_levels /sys/fs/cgroup/cpu "${level%/}" ;;
      *,memory,*) __allot_levels /sys/fs/cgroup/memory "${level%/}" ;;
    esac
  done < /proc/self/cgroup
  if command -v nvidia-smi > /dev/null; then
    timeout -k 1 5 nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null |
      while read -r line; do printf 'gpu=%s\n' "$line"; done
  fi
  key=$HOME/.allot
  [[ -e $key ]] || key=$HOME
  [[ ! -w $key ]] || echo home=writable
  [[ ! -r $2 ]] || read -r nonce < "$2"
  if [[ $nonce == "$3" ]]; then
    printf 'file_system=%s\n' "$(stat -f -c %T -- "$1")"
    { : >| "$4"; } 2> /dev/null && echo shared=yes
  fi
  printf 'clock=%s\n' "${EPOCHREALTIME:-$(printf '%(%s)T' -1)}"
}
"""


MISSING = b"-"
"""What stands for a file that is not there in the reply to :func:`read_script`."""

PRESENT = b"+"
"""What stands before the content of one that is."""


def read_script(pieces: Iterable[tuple[str, int, int]]) -> str:
    """Read pieces of files, each a path, an offset and a length in bytes.

    Returns:
        Bash that prints one line a piece: ``-`` or ``+`` and the bytes in base64.
    """
    calls = "\n".join(
        f"__allot_read {quote(path)} {offset + 1} {length}" for path, offset, length in pieces
    )
    return f"{_READ}{calls}"


def sizes_script(files: Iterable[str]) -> str:
    """Bash that prints the size of each file in bytes on a line of its own, ``-`` for none."""
    return "\n".join(f"stat -L -c %s -- {quote(file)} 2>/dev/null || echo -" for file in files)


_READ = r"""
__allot_read() {
  [[ -r $1 ]] || { echo -; return; }
  printf '+%s\n' "$(tail -c "+$2" -- "$1" 2>/dev/null | head -c "$3" | base64 -w 0)"
}
"""
