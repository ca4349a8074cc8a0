"""The Bash that puts files into place on a node, and finds results there.

Rules: pure; replies are cut at NUL characters, so that any name passes. Every piece runs in a
subshell and leaves the Bash that is kept open as it was. What a reply says is checked: names
that lead out of the directory asked for are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from allot.script import quote, quote_path
from allot.staging import Entry, Found, as_bash_pattern, is_within


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


def look_script(root: str, names: Sequence[str], key: str) -> str:
    """Make the directories that files go to, and find out which of the files are there.

    Args:
        root: The directory; a leading ``~`` is expanded there.
        names: The files, below it.
        key: Marks unfinished files of this job; those of an earlier client are removed.

    Returns:
        Bash for :func:`parse_look`.
    """
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    leftovers = " ".join(f"{quote(folder)}/.*.{key}-*.part" for folder in folders)
    words = " ".join(map(quote, names))
    stat = f"stat -L --printf '%s %Y %n\\0' -- {words} 2> /dev/null" if names else ":"
    return f"""(
if said=$(mkdir -p -- {quote_path(root)} 2>&1) && CDPATH= cd -P -- {quote_path(root)} &&
  said=$(mkdir -p -- {" ".join(map(quote, folders)) or "."} 2>&1)
then
  printf '%s\\0' "$PWD"
  shopt -s nullglob
  rm -f -- {leftovers}
  {stat}
else printf '!%s\\0' "$said"
fi
)"""


def parse_look(reply: bytes) -> Look:
    """Understand the reply to :func:`look_script`."""
    first, *others = _cut(reply) or [""]
    if not first.startswith("/"):
        return Look("", problem=" ".join(first.removeprefix("!").split()) or "no answer")
    present = {}
    for one in others:
        size, _, rest = one.partition(" ")
        mtime, _, name = rest.partition(" ")
        present[name] = (int(size), int(mtime))
    return Look(first, present)


def link_script(root: str, links: Iterable[Entry]) -> str:
    """Make symbolic links; Bash that prints what is in the way, ended by NUL, once for each."""
    lines = "\n".join(
        f"said=$(ln -sfT -- {quote(link.target or '')} {quote(f'{root}/{link.name}')} 2>&1); "
        "printf '%s\\0' \"$said\""
        for link in links
    )
    return f"(\n{lines}\n)"


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
        f"{quote(part)} && mv -fT -- {quote(part)} {quote(path)}; }} 2>&1 ); "
        "printf '%s\\0' \"$said\""
        for part, path, mtime, mode in files
    )
    return f"(\n{lines}\n)"


def write_script(pieces: Iterable[tuple[str, int, str]]) -> str:
    """Write pieces of files where there is no SFTP: name, offset in bytes, and base64 of each.

    Returns:
        Bash that prints what is in the way, ended by NUL, once for each.
    """
    lines = "\n".join(
        f"said=$( {{ printf %s {text} | base64 -d {'>>' if offset else '>|'} {quote(path)}; }} 2>&1"
        ' ) || : "${said:=it cannot be written}"; printf \'%s\\0\' "$said"'
        for path, offset, text in pieces
    )
    return f"(\numask 077\n{lines}\n)"


def note_script(lines: Iterable[str]) -> str:
    """Have the node remember what was staged and collected; needs ``prelude`` before it."""
    words = " ".join(map(quote, lines))
    return f"printf '%s\\n' {words} >> \"$__allot_dir/files\""


RECALL = '[[ ! -f $__allot_dir/files ]] || cat -- "$__allot_dir/files"'
"""Bash that prints what :func:`note_script` had the node remember."""


def remove_script(root: str, names: Iterable[str]) -> str:
    """Remove files below a directory, and the directories that are empty then, itself too."""
    words = " ".join(map(quote, names))
    return f"""(
CDPATH= cd -P -- {quote(root)} || exit
rm -f -- {words}
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
# a link that leads out, F, size, time, mode and name of a file.
_COLLECT = r"""
__allot_gather() {
  local file=$1 target
  if [[ -L $file ]]; then
    target=$(realpath -e -- "$file" 2> /dev/null)
    if [[ $target != "${root%/}"/* ]]; then printf 'L%s\0' "$file"; return; fi
    [[ ! -d $file || -n $2 ]] || return
  fi
  if [[ -f $file ]]; then files+=("$file")
  elif [[ -d $file ]]; then
    for file in "$file"/**; do
      [[ -d $file && ! -L $file ]] || __allot_gather "$file" ''
    done
  fi
}
__allot_collect() {
  local root=$1 pattern match matches files=() count first
  shift
  CDPATH= cd -P -- "$root" 2> /dev/null || { printf 'T\0'; return; }
  root=$PWD
  printf 'T%s\0' "$root"
  shopt -s nullglob globstar
  for pattern; do
    shopt -u dotglob
    eval "matches=($pattern)"
    count=0
    shopt -s dotglob
    for match in "${matches[@]}"; do
      [[ -e $match || -L $match ]] || continue
      count=$((count + 1))
      __allot_gather "$match" top
    done
    printf 'P%s\0' "$count"
  done
  for ((first = 0; first < ${#files[@]}; first += 500)); do
    stat -L --printf 'F%s %Y %a %n\0' -- "${files[@]:first:500}" 2> /dev/null
  done
}
"""


def parse_collected(reply: bytes) -> list[Collected]:
    """Understand the reply to :func:`collect_script`: one answer a task."""
    answers: list[Collected] = []
    told: list[list[str]] = []
    for one in _cut(reply):
        if one.startswith("T"):
            told.append([])
        if told:
            told[-1].append(one)
    for words in told:
        counts = [word for word in words if word.startswith("P")]
        answers.append(
            Collected(
                root=words[0][1:],
                files=_found(words),
                missing=tuple(at for at, word in enumerate(counts) if word == "P0"),
                problems=tuple(
                    f"{_name(word[1:])} is a link that leads out of the task's directory, or "
                    "nowhere: have the task copy what it names"
                    for word in words
                    if word.startswith("L")
                ),
            )
        )
    return answers


def _found(words: Iterable[str]) -> tuple[Found, ...]:
    files: dict[str, Found] = {}
    for word in words:
        if word.startswith("F"):
            size, mtime, mode, name = word[1:].split(" ", 3)
            if is_within(name := _name(name)):
                files[name] = Found(name, int(size), int(mtime), int(mode, 8))
    return tuple(files.values())


def _name(text: str) -> str:
    return text.removeprefix("./")


def _cut(reply: bytes) -> list[str]:
    return [os.fsdecode(one) for one in reply.split(b"\0")[:-1]]
