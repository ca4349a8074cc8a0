"""Bash by which a recorder that has ended its task is handed the next one, without a fork.

Rules: a recorder runs one attempt at a time, and waits for the next only when the end of the last
is written down. It waits at a pipe that only the kept-open Bash holds open: with that all go that
wait. What is handed to one that dies before it reads is never heard of, as where a process dies
that was just forked.
"""

from __future__ import annotations

_MOST_BYTES = 4000
_MOST_RECORDERS = 64

# A recorder tells its number by one pipe for all of them when it waits; only then is anything
# written to its own, and no more than fits into an empty pipe: nobody ever waits for a recorder
# that was stopped. Numbers never come round again. The length comes first, for Bash reads byte by
# byte what it does not know the length of; a launch is in ASCII, so that bytes are characters in
# every locale.
#
# A here-string is a pipe since Bash 5.1, which is opened once more for writing; where it is a
# file, or nothing more can be opened, each task has a recorder of its own.
#
# A recorder keeps the channel (3) to tell of its task. Where that is closed, the write fails: to
# die of it would leave the next task unrecorded, and to ignore the signal would have tasks ignore
# it too.
FUNCTIONS = r"""
__allot_launch() {
  local text
  local -a rest=()
  __allot_hand_over "$@"
  for text in "${rest[@]}"; do __allot_begin "$text"; done
}
__allot_hand_over() {
  rest=("$@")
  [[ $__allot_free == [0-9]* ]] || return
  rest=()
  for text; do __allot_give "$text" || rest+=("$text"); done
} 2> /dev/null
__allot_give() {
  local number pipe
  ((${#1} <= _BYTES_)) || return
  ((${#__allot_waiting[@]})) || __allot_listen
  for number in "${!__allot_waiting[@]}"; do
    unset "__allot_waiting[number]"
    pipe=${__allot_pipes[number]}
    ! printf '%04d%s' "${#1}" "$1" >&"$pipe" || return 0
    exec {pipe}>&-
    unset "__allot_pipes[number]"
  done
  return 1
}
__allot_begin() {
  local source= number=$((++__allot_numbers))
  __allot_lay_pipe
  set -m
  ( trap : PIPE; exec </dev/null >/dev/null 2>&1 10<&-; eval "__allot_serve $1" ) &
  __allot_recorders[number]=$!
  set +m
  [[ -z $source ]] || exec {source}<&-
}
__allot_listen() {
  while read -r -t 0 -u "$__allot_free" && read -r -u "$__allot_free" number; do
    [[ -z ${__allot_pipes[number]-} ]] || __allot_waiting[number]=${__allot_recorders[number]}
  done
}
__allot_is_waiting() {
  local number
  [[ $__allot_free == [0-9]* ]] && __allot_listen
  [[ " ${__allot_waiting[*]} " == *" $1 "* ]]
}
__allot_lay_pipe() {
  local pipe
  if [[ -z $__allot_free ]]; then
    __allot_free=no
    exec {source}<<< '' || { source=; return; }
    [[ ! -p /dev/fd/$source ]] || ! read -r -u "$source" || exec {__allot_free}<>"/dev/fd/$source"
    exec {source}<&-
    source=
  fi
  [[ $__allot_free != no && ${#__allot_pipes[@]} -lt _RECORDERS_ ]] || return
  exec {source}<<< '' || { source=; return; }
  if read -r -u "$source" && exec {pipe}>"/dev/fd/$source"; then
    __allot_pipes[number]=$pipe
  else
    exec {source}<&-
    source=
  fi
} 2> /dev/null
__allot_let_go() {
  local pipe
  for pipe in "${__allot_pipes[@]}"; do exec {pipe}>&-; done
  __allot_pipes=() __allot_recorders=() __allot_waiting=()
}
__allot_serve() {
  local me=$BASHPID home=$PWD ticks stat length text
  __allot_let_go
  trap : HUP
  trap 'told=yes; __allot_ordered' TERM
  trap 'told=yes; __allot_stop timeout "$__allot_limit_grace"' ALRM
  __allot_stat "$me"
  ticks=${stat[19]}
  __allot_record "$@"
  while [[ $? == 0 && -n $source ]]; do
    [[ $PWD == "$home" ]] || CDPATH= cd -- "$home" || return
    printf '%s\n' "$number" >&"$__allot_free" || return
    until read -r -N 4 -u "$source" length; do (($? > 128)) || return; done
    read -r -N "$((10#$length))" -u "$source" text || return
    eval "__allot_record $text"
  done
}
[[ -v __allot_free ]] || __allot_free= __allot_numbers=0
__allot_let_go
""".replace("_BYTES_", str(_MOST_BYTES)).replace("_RECORDERS_", str(_MOST_RECORDERS))
