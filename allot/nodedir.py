"""Bash that keeps a job's directory on a node: made, removed, swept, and who gives orders there.

Rules: nothing outside of ``~/.allot`` is ever removed, and of other jobs there only what nobody
can miss: all that was started has ended, and nobody asked for it in ``KEPT_DAYS``. Each client
that drove the job has left its generation; the highest one gives the orders.
"""

from __future__ import annotations

KEPT_DAYS = 60
"""Days that a node keeps the record of a job that ended and that nobody came back to."""

# __allot_may takes a generation and, where it matters, until when (hundredths of uptime) what it
# allows may begin; it prints why not. The sweep runs beside, once for each new job.
FUNCTIONS = r"""
__allot_prepare() {
  __allot_dir=$HOME/$1
  { read -r __allot_boot < /proc/sys/kernel/random/boot_id; } 2>/dev/null
  local age=old now
  [[ -e $__allot_dir/events ]] || age=new
  if __allot_make "$2"; then
    [[ $age == old ]] || __allot_sweep
    __allot_now
    if __allot_may "$2" > /dev/null
    then __allot_reply+="ready $age $now $__allot_dir"$'\n'
    else __allot_reply+="superseded $__allot_newest"$'\n'
    fi
  else __allot_reply+="failed $__allot_dir"$'\n'
  fi
}
__allot_make() {
  local text= mask status
  IFS= read -r -d '' text < /proc/self/status
  if [[ $text =~ Umask:[[:space:]]*([0-7]+) ]]; then mask=${BASH_REMATCH[1]}; else mask=$(umask); fi
  umask 077
  { [[ -d $__allot_dir/generation ]] || mkdir -p -- "$__allot_dir/generation"; } &&
    : >> "$__allot_dir/events" && : >| "$__allot_dir/generation/$1"
  status=$?
  umask "$mask"
  return $status
} 2> /dev/null
__allot_may() {
  local file now
  __allot_newest=0
  for file in "$__allot_dir"/generation/*; do
    file=${file##*/}
    [[ $file != +([0-9]) ]] || ((10#$file <= __allot_newest)) || __allot_newest=$((10#$file))
  done
  if ((__allot_newest > $1)); then
    printf 'refused superseded %s\n' "$__allot_newest"
    return 1
  fi
  [[ -n ${2-} ]] || return 0
  __allot_now
  ((now <= $2)) || { echo refused late; return 1; }
}
__allot_sweep() {
  ! __allot_is_alone || return
  ( exec </dev/null >/dev/null 2>&1 3>&- 10<&-
    find "$HOME/.allot" -mindepth 3 -maxdepth 3 -type f -name events -mtime +_DAYS_ |
      while IFS= read -r file; do
        __allot_all_ended "$file" || continue
        rm -rf -- "${file%/*}"
        rmdir -- "${file%/*/*}"
      done ) &
}
__allot_is_alone() {
  local job
  for job in "$HOME"/.allot/*/; do
    [[ $job == "${__allot_dir%/*}/" ]] || return
  done
}
__allot_find_open() {
  local kind p a rest
  while read -r kind p a rest; do
    case $kind in
      *S) open[$p.$a]=yes ;;
      *[ECX]) unset "open[$p.$a]" ;;
    esac
  done < "$1"
}
__allot_all_ended() {
  local -A open=()
  __allot_find_open "$1"
  [[ ${#open[@]} == 0 ]]
}
__allot_is_guarded() {
  local attempt pid ticks boot
  local -A known=() open=()
  __allot_find_open "$__allot_dir/events"
  for attempt in "${!open[@]}"; do
    read -r pid ticks boot < "$__allot_dir/$attempt" || continue
    [[ -z ${known[$pid.$ticks]} ]] || continue
    known[$pid.$ticks]=yes
    [[ $boot != "$__allot_boot" ]] || ! __allot_is "$pid" "$ticks" || return 0
  done
  return 1
}
__allot_clean_up() {
  local tries=0
  __allot_let_go
  # A guard may be about to end its task: what it needs for that must stay. Most just leave.
  while __allot_is_guarded; do
    ((tries++ < 20)) || return
    __allot_nap
  done
  if [[ -e $__allot_dir/work ]]; then
    printf 'kept %s\n' "$__allot_dir/work"
    return
  fi
  # One program is enough where nothing else lies there; -d never removes what is not empty.
  rm -fd -- "$__allot_dir"/generation/* "$__allot_dir"/* "$__allot_dir" "${__allot_dir%/*}"
  if [[ -e $__allot_dir ]]; then
    rm -rf -- "$__allot_dir"
    rmdir -- "${__allot_dir%/*}"
  fi
  [[ -e $__allot_dir ]] || echo gone
} 2> /dev/null
__allot_nap() {
  if [[ $__allot_free == [0-9]* ]]
  then while read -r -t 0.05 -u "$__allot_free" _; do :; done
  else sleep 0.05
  fi
}
""".replace("_DAYS_", str(KEPT_DAYS))
