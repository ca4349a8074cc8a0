"""Every piece of Bash that reads a file on a node.

Rules: pure; nothing is changed on the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allot.script import quote

MISSING = b"-"
"""What stands for a file that is not there in the reply to :func:`read_script`."""

UNREADABLE = b"!"
"""What stands for a file that may not be read."""

PRESENT = b"+"
"""What stands before the content of one that is."""


def read_script(pieces: Iterable[tuple[str, int, int]]) -> str:
    """Read pieces of files, each a path, an offset and a length in bytes.

    Returns:
        Bash that prints one line a piece: ``-``, ``!``, or ``+`` and the bytes in base64.
    """
    calls = "\n".join(
        f"__allot_read {quote(path)} {offset + 1} {length}" for path, offset, length in pieces
    )
    return f"{_READ}{calls}"


def sizes_script(files: Iterable[str]) -> str:
    """Bash that prints the size of each file in bytes on a line of its own, ``-`` for none."""
    return "\n".join(f"stat -L -c %s -- {quote(file)} 2>/dev/null || echo -" for file in files)


def begun_script(files: Sequence[str]) -> str:
    """Bash that answers with the number, from 0 on, of each file that is there and not empty."""
    names = " ".join(map(quote, files))
    return f"{_BEGUN}__allot_begun {names}"


_BEGUN = r"""
__allot_begun() {
  local file number=0
  for file; do
    [[ ! -s $file ]] || __allot_reply+=$number$'\n'
    ((++number))
  done
}
"""
_READ = r"""
__allot_read() {
  [[ -e $1 ]] || { echo -; return; }
  [[ -r $1 ]] || { echo '!'; return; }
  printf '+%s\n' "$(tail -c "+$2" -- "$1" 2>/dev/null | head -c "$3" | base64 -w 0)"
}
"""


MOST_PEEKED = 16 * 1024
"""Bytes of a file that :func:`peek_script` shows at most."""

PEEK_END = b"\x1e"
"""What stands behind each piece in the reply to :func:`peek_script`, and in none."""

UNTOLD = b"?"
"""What stands for a piece that :func:`peek_script` does not show."""


def peek_script(pieces: Iterable[tuple[str, int, int]]) -> str:
    """Read pieces of small text files without starting a program.

    Args:
        pieces: A path, an offset and a length in bytes each.

    Returns:
        Bash that answers with ``-``, ``?``, or ``+`` and the bytes for each, and ``PEEK_END``
        behind it, in one message (``shell``).
    """
    calls = "\n".join(
        f"__allot_peek {quote(path)} {offset} {min(length, MOST_PEEKED)}"
        for path, offset, length in pieces
    )
    return f"{_PEEK}{calls}"


# `read` succeeds where it finds a NUL, or as much as it was asked for: there may be more then. It
# sets nothing where the file breaks off with an error. A mark of ours in the text would be taken
# for a notice.
_PEEK = r"""
__allot_peek() {
  local text
  unset -v text
  if [[ ! -e $1 ]]; then
    __allot_reply+=-$'\036'
  elif [[ -f $1 && -r $1 ]] && {
    { (($2 == 0)) || LC_ALL=C IFS= read -r -N "$2" text; } &&
      unset -v text && ! LC_ALL=C IFS= read -r -d '' -n "$3" text
  } < "$1" && [[ -n ${text+set} && $text != *$'\036'* ]]
  then __allot_reply+="+$text"$'\036'
  else __allot_reply+='?'$'\036'
  fi
} 2> /dev/null
"""
