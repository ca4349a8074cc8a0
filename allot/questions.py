"""Every piece of Bash that asks a node something: what it has, and who uses it.

Rules: pure; a question changes nothing on the node but the kept-open Bash's memory of its last
look at the processes, and the answer to the sharing test. A reply is lines, ``key=value`` where
there are several kinds; what they mean is decided on the client.

What is asked often or of all nodes is answered in ``__allot_reply`` (``shell``), in one message.
"""

from __future__ import annotations

from collections.abc import Iterable

from allot.script import quote


def sharing_script(
    output_dir: str, nonce_file: str, nonce: str, answer_file: str, *, file_system: bool = True
) -> str:
    """Find out whether a node shares the output directory.

    Args:
        output_dir: The job's output directory on the client.
        nonce_file: A file in it that the client wrote.
        nonce: What it wrote there.
        answer_file: What a node that reads the same writes.
        file_system: Whether to ask on what kind of file system it lies there.

    Returns:
        Bash that answers ``shared=yes`` where it could, before that ``file_system=`` where that was
        asked for.
    """
    words = (output_dir, nonce_file, nonce, answer_file, "yes" if file_system else "")
    return f"{_SHARING}__allot_sharing {' '.join(quote(word) for word in words)}\n"


def probe_script(
    job_id: str,
    *,
    running: bool = False,
    declared_gpus: int | None = None,
    terminals: bool = False,
    patience: float = 5.0,
) -> str:
    """Look at a node: what it has, and what is free.

    Args:
        job_id: The job whose processes are not others'.
        running: Whether to measure the CPUs that others use. It takes half a second the first
            time in a kept-open Bash; later it is what they used since the last look.
        declared_gpus: How many GPUs the user says it has.
        terminals: Whether to look when the other users typed.
        patience: Seconds that the GPU driver's tool may take.

    Returns:
        Bash that answers in ``key=value`` lines, the node's clock last.
    """
    words = (
        quote(job_id),
        "yes" if running else "''",
        "yes" if declared_gpus else "''",
        "yes" if terminals else "''",
        f"{patience:g}",
    )
    more = (_FOREIGN if running else "") + (_TERMINALS if terminals else "")
    return f"{_PROBE}{more}__allot_probe {' '.join(words)}\n"


_SHARING = r"""
__allot_sharing() {
  local nonce=
  [[ ! -r $2 ]] || read -r nonce < "$2"
  if [[ $nonce == "$3" ]]; then
    [[ -z $5 ]] || __allot_reply+="file_system=$(stat -f -c %T -- "$1")"$'\n'
    { : >| "$4"; } 2> /dev/null && __allot_reply+=$'shared=yes\n'
  fi
}
"""

# The CPUs are those of the affinity mask that are online, as nproc counts them; nproc is asked only
# where /proc or /sys do not tell, for it takes as long as the rest of the probe. It heeds
# OMP_NUM_THREADS too, which is no property of the node.
# cgroup limits: v2 keeps them in each level's cpu.max and memory.max, v1 in trees of their own
# (https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/).
#
# Whether logind ends what is left at logout is asked where systemd runs (sd_booted(3)), or where
# its PAM module, or elogind's, made the session: else there is nobody to end anything.
_PROBE = r"""
__allot_say() {
  local line
  [[ ! -r $2 ]] || { read -r line < "$2"; __allot_reply+="$1=$line"$'\n'; }
}
__allot_cpus() {
  local text= online= mine there low high count=0
  IFS= read -r -d '' text < /proc/self/status
  read -r online < /sys/devices/system/cpu/online
  if [[ $text =~ Cpus_allowed_list:[[:space:]]*([0-9,-]+) && $online != *[!0-9,-]* ]]; then
    for mine in ${BASH_REMATCH[1]//,/ }; do
      for there in ${online//,/ }; do
        low=$((${mine%-*} > ${there%-*} ? ${mine%-*} : ${there%-*}))
        high=$((${mine#*-} < ${there#*-} ? ${mine#*-} : ${there#*-}))
        ((high < low)) || count=$((count + high - low + 1))
      done
    done
  fi
  ((count)) || count=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  __allot_reply+="cpus=$count"$'\n'
} 2> /dev/null
__allot_memory() {
  local text key pattern
  IFS= read -r -d '' text < /proc/meminfo
  for key in MemTotal MemAvailable MemFree; do
    pattern="$key: *([0-9]+)"
    [[ ! $text =~ $pattern ]] || __allot_reply+="$key=${BASH_REMATCH[1]}"$'\n'
  done
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
      __allot_reply+="cpu_max=$quota $period"$'\n'
    fi
    [[ $level == */* ]] || break
    level=${level%/*}
  done
}
__allot_limits() {
  local controllers level
  while IFS=: read -r _ controllers level; do
    case ,$controllers, in
      ,,) __allot_levels /sys/fs/cgroup "${level%/}" ;;
      *,cpu,*) __allot_levels /sys/fs/cgroup/cpu "${level%/}" ;;
      *,memory,*) __allot_levels /sys/fs/cgroup/memory "${level%/}" ;;
    esac
  done < /proc/self/cgroup
}
__allot_marks() {
  local line pid
  while read -r line; do
    pid=${line%%/*}
    case $line in
      */environ:ALLOT_JOB_ID=*) job_of[$pid]=${line#*=} ;;
      */environ:ALLOT_GPU_IDS=*) gpus_of[$pid]=${line#*=} ;;
    esac
  done <<< "$(cd /proc && LC_ALL=C grep -aHozsxE 'ALLOT_(JOB_ID=[^[:cntrl:]]+|GPU_IDS=[0-9,]+)' \
    [0-9]*/environ | tr '\0' '\n')"
  for pid in "${!job_of[@]}"; do
    [[ ${job_of[$pid]} != "$job" ]] || own[$pid]=yes
  done
}
__allot_nvidia() {
  local line kind=gpu
  while IFS= read -r -t "$1" line; do
    if [[ $line == - ]]; then kind=app; else gpus+=("$kind=$line"); fi
  done < <(
    exec 2> /dev/null 3>&- 10<&-
    timeout -k 1 "$1" sh -c '
      nvidia-smi --query-gpu=index,uuid,utilization.gpu,memory.used --format=csv,noheader,nounits
      echo -
      nvidia-smi --query-compute-apps=gpu_uuid,pid --format=csv,noheader'
  )
}
__allot_gpus() {
  local line pid
  for line in "${gpus[@]}"; do
    pid=${line##*, }
    if [[ $line == app=* && $pid == +([0-9]) && -n ${own[$pid]-} ]]; then
      line=own_$line
    fi
    __allot_reply+=$line$'\n'
  done
  local -A told=()
  for pid in "${!gpus_of[@]}"; do
    line="${gpus_of[$pid]} ${job_of[$pid]-}"
    [[ ${job_of[$pid]-$job} == "$job" || -n ${told[$line]-} ]] || __allot_reply+="held=$line"$'\n'
    told[$line]=yes
  done
}
__allot_amd() {
  local file id
  for file in /sys/class/kfd/kfd/topology/nodes/*/gpu_id; do
    if read -r id < "$file" && [[ $id != 0 ]]; then gpus+=("amd=$id"); fi
  done 2> /dev/null
}
__allot_logout() {
  local line user
  [[ -d /run/systemd/system || -n ${XDG_SESSION_ID-} ]] || return 0
  command -v loginctl > /dev/null || return 0
  while read -r line; do
    case $line in
      KillUserProcesses=yes) __allot_reply+=$'logout=kills\n' ;;
      KillExcludeUsers=*)
        for user in ${line#*=}; do
          [[ $user != "$(id -un)" ]] || __allot_reply+=$'logout=spares\n'
        done
        ;;
    esac
  done < <(
    exec 2> /dev/null 3>&- 10<&-
    exec timeout -k 1 2 loginctl show-session -p KillUserProcesses -p KillExcludeUsers
  )
}
__allot_probe() {
  local job=$1 running=$2 declared=$3 terminals=$4 key nvidia= gpus=()
  local -A own=() job_of=() gpus_of=()
  __allot_reply+="bash=$BASH_VERSION"$'\n'
  [[ -n $running ]] || __allot_logout
  __allot_say boot_id /proc/sys/kernel/random/boot_id
  __allot_say load /proc/loadavg
  __allot_cpus
  __allot_memory
  __allot_limits
  __allot_amd
  ! command -v nvidia-smi > /dev/null || nvidia=yes
  # Whose the processes are comes first: one of ours that ended since is then on neither list.
  [[ -z $running$declared$nvidia && ${#gpus[@]} == 0 ]] || __allot_marks
  [[ -z $running ]] || __allot_foreign
  [[ -z $nvidia ]] || __allot_nvidia "$5"
  __allot_gpus
  [[ -z $terminals ]] || __allot_terminals
  key=$HOME/.allot
  [[ -e $key ]] || key=$HOME
  [[ ! -w $key ]] || __allot_reply+=$'home=writable\n'
  printf -v key '%(%H:%M)T' -1
  __allot_reply+="local_time=$key"$'\n'"clock=${EPOCHREALTIME:-$(printf '%(%s)T' -1)}"$'\n'
}
"""

# Whose a process is: the job's where its environment says so (that of other users cannot be read)
# or where it is in a session with one whose does, since a program that writes its own title
# overwrites its environment; and what carries the connection: the kept-open Bash with what is in
# its session (recorders), its ancestors, and the SFTP server beside it. A session that is also
# an ancestor's says nothing, for it may hold the whole SSH server; nor does 0, which stands for
# any that lies outside of a container.
# Where others' processes are hidden (hidepid=), it is what the machine used less what ours did,
# their ended children included.
# What is not the job's counts with the CPU time between two looks; a process that began since,
# with its mean over its life (0.2 s at least), so that a crowd of short ones is seen too.
_FOREIGN = r"""
__allot_family() {
  local pid=$$ line word
  strange[0]=yes
  while ((pid > 0)) && read -r line < "/proc/$pid/stat"; do
    own[$pid]=yes
    word=(${line##*) })
    ((pid == $$)) || strange[${word[3]}]=yes
    pid=${word[1]}
  done 2> /dev/null
  session[$$]=yes
}
__allot_look() {
  local file line pid word
  rows=()
  read -r now _ < /proc/uptime
  now=$((10#${now/./}))
  for file in /proc/[0-9]*/stat; do
    read -r line < "$file" || continue
    pid=${line%% *}
    word=(${line##*) })
    [[ -z ${job_of[$pid]-} || -z ${own[$pid]-} ]] || session[${word[3]}]=yes
    [[ ${word[1]} != "$PPID" || $line != *\ \(s@(ftp-server|shd*)\)\ * ]] || own[$pid]=yes
    rows+=("$pid ${word[3]} ${word[19]} $((word[11] + word[12])) $((word[13] + word[14]))")
  done 2> /dev/null
  for word in "${!strange[@]}"; do unset "session[$word]"; done
  read -r -a word < /proc/stat
  busy=$((word[1] + word[2] + word[3] + word[6] + word[7]))
}
__allot_remember() {
  local row word
  __allot_then=$now __allot_busy=$busy __allot_ours=0 __allot_seen=()
  for row in "${rows[@]}"; do
    word=($row)
    __allot_seen[${word[0]}:${word[2]}]=${word[3]}
    [[ -z ${own[${word[0]}]-}${session[${word[1]}]-} ]] ||
      __allot_ours=$((__allot_ours + word[3] + word[4]))
  done
}
__allot_foreign() {
  local row word old age hertz busy both=0 since=0 ours=0 elapsed rows now
  local -A session=() strange=()
  hertz=$(getconf CLK_TCK 2> /dev/null) || hertz=100
  __allot_family
  __allot_look
  elapsed=$((now - ${__allot_then:--30000}))
  if ((elapsed < 50 || elapsed >= 30000)); then
    declare -gA __allot_seen
    __allot_remember
    sleep 0.5
    __allot_look
    elapsed=$((now - __allot_then))
  fi
  for row in "${rows[@]}"; do
    word=($row)
    if [[ -n ${own[${word[0]}]-} || -n ${session[${word[1]}]-} ]]; then
      own[${word[0]}]=yes
      ours=$((ours + word[3] + word[4]))
      continue
    fi
    old=${__allot_seen[${word[0]}:${word[2]}]-}
    if [[ -n $old ]]; then
      both=$((both + word[3] - old))
    else
      age=$((now - word[2] * 100 / hertz))
      ((age > 20)) || age=20
      ((age < elapsed)) || age=$elapsed
      since=$((since + word[3] * 100000 / hertz / age))
    fi
  done
  if [[ ! -r /proc/1/stat ]]; then
    both=$((busy - __allot_busy - ours + __allot_ours)) since=0
  fi
  __allot_reply+="foreign=$((both * 100000 / hertz / elapsed + since))"$'\n'
  __allot_remember
}
"""

_TERMINALS = r"""
__allot_terminals() {
  local user time name
  __allot_reply+="user=$EUID"$'\n'
  while read -r user time name; do
    [[ $user == "$EUID" || $user == 0 && $name == /dev/tty* ]] || __allot_reply+="typed=$time"$'\n'
  done <<< "$(stat -c '%u %X %n' -- /dev/pts/[0-9]* /dev/tty[0-9]* 2> /dev/null)"
}
"""


def alive_script(processes: Iterable[tuple[int, int]]) -> str:
    """Find out which processes are still those they were.

    Args:
        processes: Pairs of a pid and its start ticks (field 22 of ``/proc/<pid>/stat``).

    Returns:
        Bash that answers with the boot id, the node's clock, and ``full`` or ``room`` for the file
        system of the job's directory; then each pid that lives, and is no recorder that has ended
        its task and waits for another one; all in one line.
    """
    pairs = " ".join(f"{pid} {ticks}" for pid, ticks in processes)
    return f"{_ALIVE}__allot_alive {pairs}\n"


# Pids come round again, also after a reboot: a process is known by its start too. A zombie is dead.
_ALIVE = r"""
__allot_alive() {
  local stat boot room=room alive=
  read -r boot < /proc/sys/kernel/random/boot_id
  [[ $(stat -f -c %a -- "${__allot_dir:-$HOME}" 2> /dev/null) != 0 ]] || room=full
  while (($#)); do
    { read -r stat < "/proc/$1/stat"; } 2> /dev/null && {
      stat=(${stat##*) })
      [[ ${stat[19]} != "$2" || ${stat[0]} == [ZX] ]] || __allot_is_waiting "$1" || alive+=" $1"
    }
    shift 2
  done
  __allot_reply+="$boot ${EPOCHREALTIME:-$(printf '%(%s)T' -1)} $room$alive"$'\n'
}
"""


def rendezvous_script(count: int) -> str:
    """Find where programs on other nodes can reach this one.

    Returns:
        Bash that prints ``address=``, as the client's end reaches it, and ``count`` times
        ``port=``: TCP ports that nobody listens at, below those that are given out by themselves.
    """
    return f"{_RENDEZVOUS}__allot_rendezvous {count}\n"


_RENDEZVOUS = r"""
__allot_rendezvous() {
  local -A taken=()
  local connection=($SSH_CONNECTION) place state port count=0
  printf 'address=%s\n' "${connection[2]:-$(uname -n)}"
  while read -r _ place _ state _; do
    [[ $state != 0A ]] || taken[$((16#${place##*:}))]=yes
  done < <(cat /proc/net/tcp /proc/net/tcp6 2> /dev/null)
  while ((count < $1)); do
    port=$((20000 + RANDOM % 10000))
    [[ -z ${taken[$port]} ]] || continue
    taken[$port]=yes
    printf 'port=%s\n' "$port"
    count=$((count + 1))
  done
}
"""
