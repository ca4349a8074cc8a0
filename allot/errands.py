"""The Bash that puts files into place on a node, and finds results there.

Rules: pure; replies are cut at NUL characters, so that any name passes. Every piece runs in a
subshell and leaves the Bash that is kept open as it was. What a reply says is checked: names
that lead out of the directory asked for are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from allot.script import quote, quote_path
from allot.staging import Entry, Found, as_bash_pattern, is_within

_SEEN = re.compile(r"(\d{1,19}) (-?\d{1,11}) (.+)", re.ASCII | re.DOTALL)
_RESULT = re.compile(r"F(\d{1,19}) (-?\d{1,11}) ([0-7]{1,5}) (.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Look:
    """What lies below a directory on a node.

    Attributes:
        root: The directory, absolute; empty where it cannot be used.
        present: Size and time of the files asked for that are there.
        problem: What is in the way, or empty.
    """

    root: str
    present: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Collected:
    """The results of one task, as they lie on its node.

    Attributes:
        root: The directory that names count from, absolute; empty where there is none.
        files: The results.
        missing: Patterns that nothing matches, by their places.
        problems: What was found and cannot be brought.
    """

    root: str = ""
    files: tuple[Found, ...] = ()
    missing: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


def look_script(root: str, names: Sequence[str], key: str, own: str) -> str:
    """Make the directories that files go to, and find out which of the files are there.

    Args:
        root: The directory; a leading ``~`` is expanded there.
        names: The files, below it.
        key: Marks unfinished files of this job; those of an earlier client are removed.
        own: Marks those of this client, which stay.

    Returns:
        Bash for :func:`parse_look`.
    """
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    leftovers = " ".join(f"{quote(folder)}/.*.{key}-*.part" for folder in folders)
    words = " ".join(quote(f"./{name}") for name in names)  # stat takes "-" for its stdin
    stat = f"stat -L --printf '%s %Y %n\\0' -- {words} 2> /dev/null" if names else ":"
    return f"""(
if said=$(mkdir -p -- {quote_path(root)} 2>&1) && CDPATH= cd -P -- {quote_path(root)} &&
  said=$(mkdir -p -- {" ".join(map(quote, folders)) or "."} 2>&1)
then
  printf '%s\\0' "$PWD"
  shopt -s nullglob
  for said in {leftovers}; do [[ $said == *.{own}.part ]] || rm -f -- "$said"; done
  {stat}
else printf '!%s\\0' "$said"
fi
)"""


def parse_look(reply: bytes) -> Look:
    """Understand the reply to :func:`look_script`."""
    first, *others = _cut(reply) or [""]
    if not first.startswith("/"):
        return Look("", problem=" ".join(first.removeprefix("!").split()) or "no answer")
    seen = filter(None, map(_SEEN.fullmatch, others))
    return Look(first, {_name(one[3]): (int(one[1]), int(one[2])) for one in seen})


def link_script(root: str, links: Iterable[Entry]) -> str:
    """Make symbolic links, and directories that are empty; a link that does already stays.

    Returns:
        Bash that prints what is in the way, ended by NUL, once for each.
    """
    lines = "\n".join(
        f"said=$({_make(PurePosixPath(root, link.name), link.target or '')} 2>&1); {_TELL}"
        for link in links
    )
    return f"(\n{lines}\n)"


def _make(path: PurePosixPath, target: str) -> str:
    name = quote(str(path))
    if not target:
        return f"mkdir -p -- {name}"
    meant = quote(str(path.parent / target))
    return f"[[ -L {name} && {name} -ef {meant} ]] || ln -sfT -- {quote(target)} {name}"


def parse_problems(reply: bytes) -> list[str]:
    """What was in the way of each thing, empty where nothing was."""
    return [" ".join(one.split()) for one in _cut(reply)]


def settle_script(files: Iterable[tuple[str, str, int, int]]) -> str:
    """Put files into place that are whole: unfinished name, name, time and mode of each.

    Returns:
        Bash that prints what is in the way, ended by NUL, once for each.
    """
    lines = "\n".join(
        f"said=$( {{ chmod {mode & 0o777:o} -- {quote(part)} && touch -m -d @{mtime} -- "
        f"{quote(part)} && mv -fT -- {quote(part)} {quote(path)}; }} 2>&1 ); {_TELL}"
        for part, path, mtime, mode in files
    )
    return f"(\n{lines}\n)"


def write_script(pieces: Iterable[tuple[str, int, str]]) -> str:
    """Write pieces of files where there is no SFTP: name, offset in bytes, and base64 of each.

    Returns:
        Bash that prints what is in the way, ended by NUL, once for each.
    """
    lines: list[str] = []
    last = ""
    for path, offset, text in pieces:
        check = f"__allot_has {quote(path)} {offset} && " if offset and path != last else ""
        put = f"printf %s {text} | base64 -d {'>>' if offset else '>|'} {quote(path)}"
        lines += [
            f'said=$( {{ {check}{put}; }} 2>&1 ) || : "${{said:=it cannot be written}}"',
            _TELL,
        ]
        last = path
    return "\n".join((f"(\numask 077{_HAS}", *lines, ")"))


_TELL = "printf '%s\\0' \"$said\""

# What is added goes to the end of what was there, and nowhere else.
_HAS = r"""
__allot_has() {
  [[ -f $1 && $(stat -L -c %s -- "$1") == "$2" ]] ||
    { echo 'somebody removed or changed it while it was sent'; return 1; }
}
"""


def note_script(lines: Iterable[str]) -> str:
    """Have the node remember what was staged and collected; needs ``prelude`` before it."""
    words = " ".join(map(quote, lines))
    return f"printf '%s\\n' {words} >> \"$__allot_dir/files\""


RECALL = '[[ ! -f $__allot_dir/files ]] || cat -- "$__allot_dir/files"'
"""Bash that prints what :func:`note_script` had the node remember."""


def remove_script(root: str, names: Iterable[str], links: Iterable[str]) -> str:
    """Remove files and links below a directory, and directories that are empty then, itself too."""
    words = " ".join(map(quote, names))
    return f"""(
CDPATH= cd -P -- {quote(root)} || exit
rm -f -- {words}
for name in {" ".join(map(quote, links))}; do [[ ! -L $name ]] || rm -f -- "$name"; done
find . -mindepth 1 -depth -type d -empty -delete
rmdir -- {quote(root)}
) 2> /dev/null"""


def collect_script(tasks: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Find the results of some tasks: where each ran, and its patterns.

    Returns:
        Bash for :func:`parse_collected`.
    """
    calls = "\n".join(
        f"( __allot_collect {quote_path(root)} "
        f"{' '.join(quote(as_bash_pattern(pattern)) for pattern in patterns)} )"
        for root, patterns in tasks
    )
    return f"{_COLLECT}{calls}"


# Each reply begins with T and the directory; then P and how many files a pattern brought, L and
# a link that leads out, F, size, time, mode and name of a file, U and one that cannot be looked
# at; E ends it.
_COLLECT = r"""
__allot_leads_out() {
  local path=${1%/*} target
  [[ $path != "$checked" ]] || return 1
  checked=$path
  while [[ $path == */* && ! -L $path ]]; do path=${path%/*}; done
  [[ -L $path ]] || return 1
  target=$(realpath -e -- "$path" 2> /dev/null; echo .)
  target=${target%??}
  [[ $target/ != "${root%/}"/* ]] || return 1
  checked=
}
__allot_gather() {
  local file=$1 target
  [[ ! ${seen[$file]-} ]] || return
  # What is unfinished is nobody's result.
  [[ $file != */.*.part || ! ${file##*/} =~ ^\.[0-9a-f]{16}\..*\.part$ ]] || return
  if [[ -L $file ]]; then
    target=$(realpath -e -- "$file" 2> /dev/null; echo .)
    target=${target%??}
    if [[ $target/ != "${root%/}"/* ]]; then
      seen[$file]=yes
      printf 'L%s\0' "$file"
      return
    fi
    # A directory that the link itself lies in would go round in circles.
    [[ ! -d $file || (-n $2 && ${root%/}/${file#./} != "$target"/*) ]] || return
  fi
  seen[$file]=yes
  if [[ -f $file ]]; then files+=("$file")
  elif [[ -d $file ]]; then
    for file in "$file"/**; do
      if [[ -d $file && ! -L $file ]]; then seen[$file]=yes
      else __allot_gather "$file" ''
      fi
    done
  fi
}
__allot_tell() {
  stat -L --printf 'F%s %Y %a %n\0' -- "$@" 2> /dev/null && return
  local file
  for file; do
    [[ ! -e $file ]] || stat -L --printf 'F%s %Y %a %n\0' -- "$file" 2> /dev/null ||
      printf 'U%s\0' "$file"
  done
}
__allot_collect() {
  local root=$1 pattern match matches files=() count first checked=
  local -A seen=()
  shift
  CDPATH= cd -P -- "$root" 2> /dev/null || { printf 'T\0E\0'; return; }
  root=$PWD
  printf 'T%s\0' "$root"
  shopt -s nullglob globstar
  for pattern; do
    shopt -u dotglob
    eval "matches=($pattern)"
    count=0
    shopt -s dotglob
    for match in "${matches[@]}"; do
      match=${match%/}
      case $match/ in ./ | */../* | ./*/./* | ././*) continue ;; esac
      [[ -e $match || -L $match ]] || continue
      count=$((count + 1))
      if __allot_leads_out "$match"; then printf 'L%s\0' "$match"
      else __allot_gather "$match" top
      fi
    done
    printf 'P%s\0' "$count"
  done
  # So few that their names fit into one command line, however long they are.
  for ((first = 0; first < ${#files[@]}; first += 200)); do
    __allot_tell "${files[@]:first:200}"
  done
  printf 'E\0'
}
"""


def parse_collected(reply: bytes) -> list[Collected]:
    """Understand the reply to :func:`collect_script`: one answer a task."""
    told: list[list[str]] = []
    for one in _cut(reply):
        if one.startswith("T"):
            told.append([])
        if told:
            told[-1].append(one)
    return [_collected(words) for words in told if words[-1] == "E"]


def _collected(words: Sequence[str]) -> Collected:
    counts = [word for word in words if word.startswith("P")]
    return Collected(
        root=words[0][1:],
        files=_found(words),
        missing=tuple(at for at, word in enumerate(counts) if word == "P0"),
        problems=tuple(
            f"{' '.join(_name(word[1:]).split())} {_PROBLEMS[word[0]]}"
            for word in words
            if word[:1] in _PROBLEMS
        ),
    )


_PROBLEMS = {
    "L": "is a link that leads out of the task's directory, or nowhere: have the task copy what it "
    "names",
    "U": "cannot be looked at there: see who may read it",
}


def _found(words: Iterable[str]) -> tuple[Found, ...]:
    files: dict[str, Found] = {}
    for found in filter(None, map(_RESULT.fullmatch, words)):
        if is_within(found[4]):
            name = str(PurePosixPath(found[4]))
            files[name] = Found(name, int(found[1]), int(found[2]), int(found[3], 8))
    return tuple(files.values())


def _name(text: str) -> str:
    return text.removeprefix("./")


def _cut(reply: bytes) -> list[str]:
    return [os.fsdecode(one) for one in reply.split(b"\0")[:-1]]
