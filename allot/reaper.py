"""Bash that ends a task on its node: all of it, nothing else, and with the client away.

A task's are: its process group, what descends from its processes, and what carries the task's
mark in its environment (``ALLOT_TASK``). TERM first, KILL once the grace is over, until nothing
is left; a zombie counts as dead. Who does it is the task's *guard*, named in the claim: its
recorder, or where that was killed, a process that takes its place.

Rules: numbers of processes come round again, so none is trusted alone. The task's leader is a
child of its recorder; a group is the task's as long as its leader, or another member that was
seen with its start time, lives; everything else is known by its parent or its environment at
that moment. What the user may not signal is not waited for.

Times are hundredths of a second of uptime: a clock that nobody sets.
"""

from __future__ import annotations

# The functions share, by Bash's dynamic scope, what the guard declares: p and a (task and
# attempt), claim (its file), mark, task (the leader's number; empty for one who is no recorder),
# cause, deadline. All but __allot_cancel run in a guard, whose stderr is /dev/null.
#
# The look comes before the first TERM: once a parent is dead, its children descend from init.
# Of a process's stat line (proc(5)), 0 is here what follows the name, which may hold anything:
# its state; 1 is its parent, 2 its group, 17 its number of threads, 19 its start.
# A process is read from /proc before its environment is: found the other way round, its number
# might belong to another one meanwhile. Between two looks at all of /proc only what was found is
# watched. What is stopped gets CONT, or it would not see its TERM.
#
# An order is the time of the KILL, the earliest of those asked for, and what for: it was wished, or
# the client gave the attempt up, and may die before it says so anywhere else. It is written down
# before the claim is tried, and the guard told last: it finds the order whenever the signal comes.
# A TERM without an order (a shutdown's) ends no task.
FUNCTIONS = r"""
__allot_never=$((1 << 60))
__allot_stat() {
  local text= name
  IFS= read -r -d '' text < "/proc/$1/stat"
  name=${text%)*}
  stat=(${text:${#name}+2})
  [[ ${#stat[@]} -gt 19 && ! ( $stat == [ZXx] && ${stat[17]} -le 1 ) ]]
}
__allot_is() {
  local stat
  [[ $1 == [1-9]* ]] && (($1 > 1)) && __allot_stat "$1" && [[ ${stat[19]} == "$2" ]]
}
__allot_is_child() {
  local stat
  __allot_stat "$1" && [[ ${stat[1]} == "$BASHPID" ]]
}
__allot_now() {
  read -r now _ < /proc/uptime
  now=$((10#${now/./}))
}
__allot_enlist() {
  start[$1]=${stat[19]}
  group[$1]=${stat[2]}
  children[${stat[1]}]+=" $1"
  [[ ${stat[2]} != "$task" ]] || members+=" $1"
}
__allot_find() {
  local -A start=() group=() children=() found=()
  local -a stat todo=()
  local path pid members= i
  for path in /proc/[1-9]*; do
    pid=${path#/proc/}
    ! __allot_stat "$pid" || __allot_enlist "$pid"
  done
  for pid in "${!seen[@]}"; do
    [[ ${start[$pid]} != "${seen[$pid]}" ]] || todo+=("$pid")
  done
  [[ -z $task ]] || ! __allot_is_child "$task" || todo+=("$task")
  for path in $(grep -lszxF -e "ALLOT_TASK=$mark" /proc/[1-9]*/environ); do
    path=${path%/environ}
    pid=${path#/proc/}
    if [[ -z ${start[$pid]} ]]; then
      __allot_stat "$pid" || continue
      __allot_enlist "$pid"
    fi
    todo+=("$pid")
  done
  left=()
  for ((i = 0; i < ${#todo[@]}; i++)); do
    pid=${todo[i]}
    [[ -z ${found[$pid]} && $pid != 1 && $pid != "$BASHPID" && $pid != "$$" ]] || continue
    found[$pid]=yes
    todo+=(${children[$pid]})
    if [[ ${group[$pid]} == "$task" ]]; then
      todo+=($members)
      members=
    fi
    kill -0 "$pid" || continue
    seen[$pid]=${start[$pid]}
    left+=("$pid")
  done
}
__allot_terminate() {
  local pid stat whole=
  local -a alone=()
  if [[ ${#told[@]} == 0 && -n $task ]] && __allot_is_child "$task"; then
    whole=$task
    kill -TERM -- "-$task"
    kill -CONT -- "-$task"
  fi
  for pid in "${left[@]}"; do
    [[ -z ${told[$pid]} ]] || continue
    told[$pid]=yes
    __allot_is "$pid" "${seen[$pid]}" || continue
    __allot_stat "$pid"
    [[ ${stat[2]} == "$whole" ]] || alone+=("$pid")
  done
  [[ ${#alone[@]} == 0 ]] || kill -TERM "${alone[@]}"
  [[ ${#alone[@]} == 0 ]] || kill -CONT "${alone[@]}"
}
__allot_lives() {
  local pid
  for pid in "${left[@]}"; do
    ! __allot_is "$pid" "${seen[$pid]}" || return 0
  done
  return 1
}
__allot_pause() {
  local text
  printf -v text '%d.%02d' $(($1 / 100)) $(($1 % 100))
  sleep "$text"
}
__allot_kill() {
  local -A seen=() told=()
  local -a left
  local now pause hard=2
  while __allot_find; [[ ${#left[@]} != 0 ]]; do
    __allot_now
    if ((now < deadline)); then
      __allot_terminate
      pause=2
      while __allot_lives && __allot_now && ((now < deadline)); do
        __allot_pause $((pause < deadline - now ? pause : deadline - now))
        ((pause = pause < 25 ? pause * 2 : 50))
      done
    else
      kill -KILL "${left[@]}"
      __allot_pause "$hard"
      ((hard = hard < 50 ? hard * 2 : 100))
    fi
  done
}
__allot_stop() {
  local now
  __allot_now
  ((deadline <= now + $2)) || deadline=$((now + $2))
  [[ $cause == end ]] || return
  [[ -z $task ]] || __allot_is_child "$task" || return
  cause=$1
  [[ -z $task ]] || __allot_kill
}
__allot_ordered() {
  local until= why= now
  [[ -n $claim && -e $claim.cancel ]] || return
  read -r until why < "$claim.cancel"
  __allot_now
  [[ $until =~ ^[0-9]+$ ]] || until=$((now + 1000))
  [[ $why == lost ]] || why=cancel
  __allot_stop "$why" $((until - now))
}
__allot_time() {
  ALLOT_TASK=$mark sleep "$__allot_limit" || return
  if __allot_is "$1" "$2"; then
    kill -ALRM "$1"
  else
    __allot_replace "$BASHPID"
    __allot_bury timeout "$__allot_limit_grace"
  fi
}
__allot_has_ended() {
  grep -aqs "[ECX] $p $a [^SWECX]* \.$" "$__allot_dir/events"
}
__allot_bury() {
  local task= deadline=$__allot_never cause=end
  trap __allot_ordered TERM
  __allot_stop "$1" "$2"
  __allot_ordered
  __allot_kill
  __allot_has_ended || __allot_last E "$p" "$a" 143 1 "$cause"
}
__allot_guarded() {
  if [[ -n $boot ]]; then
    [[ $boot == "$__allot_boot" ]] && __allot_is "$pid" "$ticks"
    return
  fi
  while read -r _ _ _ pid ticks _; do
    ! __allot_is "$pid" "$ticks" || return 0
  done < <(grep -aohs "S $p $a [0-9., ]* \.$" "$__allot_dir/events")
  return 1
}
__allot_replace() {
  local stat
  __allot_stat "$1" || return
  __allot_note S "$p" "$a" "$1" "${stat[19]}"
  printf '%s\n' "$1 ${stat[19]} $__allot_boot" >| "$claim"
}
__allot_unstarted() {
  if [[ $2 == lost ]]; then "$1" X "$p" "$a" unheard; else "$1" C "$p" "$a"; fi
}
__allot_cancel() {
  local p=$1 a=$2 claim=$__allot_dir/$1.$2 mark=$__allot_job/$1/$2 pid= ticks= boot=
  local now until old=
  __allot_now
  until=$((now + $3))
  [[ ! -e $claim.cancel ]] || read -r old _ < "$claim.cancel"
  [[ $old =~ ^[0-9]+$ ]] && ((old <= until)) || printf '%s\n' "$until $4" >| "$claim.cancel"
  if __allot_take "$claim" "cancelled $4"; then
    __allot_unstarted __allot_note "$4" || printf 'failed %s %s\n' "$p" "$a"
    return
  fi
  read -r pid ticks boot < "$claim" || [[ -e $claim ]] || {
    printf 'failed %s %s\n' "$p" "$a"
    return
  }
  if [[ $pid != cancelled ]] && __allot_guarded; then
    kill -TERM "$pid"
  elif __allot_has_ended; then
    :
  elif [[ $pid == cancelled ]]; then
    __allot_unstarted __allot_note "$ticks" || printf 'failed %s %s\n' "$p" "$a"
  else
    trap '' TERM
    set -m
    ( trap - PIPE
      exec </dev/null >/dev/null 3>&- 10<&-
      __allot_let_go
      __allot_bury "$4" "$3" ) &
    set +m
    trap - TERM
    __allot_replace "$!"
  fi
} 2> /dev/null
"""
