"""Where in a Bash line a quoted word may stand, and mean its text and nothing else.

Rules: pure; follows "QUOTING" and "EXPANSION" of bash(1). Where it cannot be told for certain,
the answer is no: a wrong no costs a user another way to write it, a wrong yes would run data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum


class Place(Enum):
    """What a character of a line is part of; the value says it to a user."""

    PLAIN = "plain"
    QUOTES = "quotes"
    BACKTICKS = "backticks"
    ARITHMETIC = "arithmetic"
    EXPANSION = "an expansion"
    COMMENT = "a comment"
    HEREDOC = "a here-document"
    UNSURE = "a part, or behind one, that cannot be read for certain"


# How each nested part ends, by how it begins. Backticks and arithmetic are passed as a whole.
_PARTS = {
    "'": ("'", Place.QUOTES),
    "$'": ("'", Place.QUOTES),
    '"': ('"', Place.QUOTES),
    '$"': ('"', Place.QUOTES),
    "${": ("}", Place.EXPANSION),
    "$(": (")", Place.PLAIN),
    "(": (")", Place.PLAIN),
}
# Which of them begin within which; single quotes end before anything else is looked for.
_BEGINNINGS = {
    Place.PLAIN: ("$'", '$"', "${", "$(", "'", '"', "("),
    Place.EXPANSION: ("${", "$(", '"'),
    Place.QUOTES: ("${", "$("),
}
_BEFORE_WORD = " \t\n;&|"
_BACKTICKS = re.compile(r"`(?:[^`\\]|\\.)*`?", re.S)
_COMMENT = re.compile(r"#[^\n]*")
_HERE_WORD = re.compile(r"<<-?[ \t]*[^ \t\n]*")
# Bash expands the word behind ">&" a second time, unless it is the number of a file; of a plain
# name that makes the same.
_COPIED_TO = re.compile(
    r"[<>]&(?!(?:[ \t]|\\\n)*(?:[\w./+-]+|\$\w+|\$\{\w+(?:\[\w+\])?\})(?:[ \t\n;&|()<>]|\Z))",
    re.ASCII,
)

# Arithmetic, piece by piece, as far as it could not be read as commands with other quotes.
_SUM = re.compile(r"\$?\(\(")
_OF_SUM = re.compile(r"\$\{[#!]?\w+(?:\[[\w@*]+\])?\}|\{\w+\}|[\w$]#|[^{}'\"`\\#\n]", re.ASCII)
_NO_SUM = re.compile(r"\bcase\b|\$\[|\$\(.*<<")

# What has rules of its own, by what it stands in.
_ODD_IN_QUOTES = r"\$\$[({\[$]|\$\[|\$\{[\s|]|\$\\\n"
_ODD = {
    Place.QUOTES: re.compile(_ODD_IN_QUOTES),
    Place.EXPANSION: re.compile(rf"{_ODD_IN_QUOTES}|\$?'|\$\"|\("),
    Place.PLAIN: re.compile(rf"{_ODD_IN_QUOTES}|\$\$['\"]"),
}
_CONTINUED = re.compile(r"\\\n(?![ \t\n])")
_CASE = re.compile(r"\bcase\b")

# Where Bash calculates with a text though it is quoted: "[[ x -eq y ]]", subscripts, and the
# words of some commands of its own. "\s" would be more than Bash's blanks.
_TEST = re.compile(r"\[\[(?=[\s(\\])")
_TEST_END = re.compile(r"(?<=[ \t\n])\]\](?=[ \t\n;&|)]|\Z)")
_CALCULATES = re.compile(r"-(?:eq|ne|lt|le|gt|ge|v|R)\b")
_SUBSCRIPT = re.compile(r"(?<=[\w\"'`)}])\[|(?<=\$[@*])\[", re.ASCII)
_DECLARING = r"(?:declare|typeset|local|export|readonly)"
_BUILTIN = re.compile(rf"(?<![\w./-])(?:let|\[|test|printf|{_DECLARING})\s")
_BUILTIN_CALCULATES = re.compile(
    rf"let|(?:\[|test|printf)\s(?:.*\s)?-v\s|{_DECLARING}.*\s-\w*[aAin]", re.S
)
_DECLARES = ("declare", "typeset", "local")  # names, which may have a subscript
_END_OF_COMMAND = re.compile(r"(?<![<>&])[;&|\n](?!>)")


def places(line: str) -> list[Place | None]:
    """What each character of a line is part of.

    Returns:
        As many as the line has characters; None for one that a backslash takes its meaning.
    """
    found: list[Place | None] = [Place.PLAIN] * len(line)
    depths = [0] * len(line)
    for start, end, place, depth in _pieces(line):
        found[start:end] = [place] * (end - start)
        depths[start:end] = [depth] * (end - start)
    copies = (one.start() for one in _COPIED_TO.finditer(line))
    copied_from = next((at for at in copies if found[at] is Place.PLAIN), len(line))
    found[copied_from:] = [Place.UNSURE] * (len(line) - copied_from)
    for at in [*_calculated(line, found, depths)]:
        if found[at] is Place.PLAIN:
            found[at] = Place.ARITHMETIC
    return found


def _pieces(line: str) -> Iterator[tuple[int, int, Place | None, int]]:
    """The pieces of a line: where each begins and ends, what it is, and how deep it is nested."""
    stack: list[str] = []
    at, word_until, heredoc_from = 0, 0, len(line)
    is_fresh = True  # here a word, or a comment, could begin
    while at < len(line):
        if at >= heredoc_from or _is_odd(stack, line, at, is_fresh):
            yield at, len(line), Place.HEREDOC if at >= heredoc_from else Place.UNSURE, 0
            return
        within = _place(stack)
        if line.startswith("<<", at) and _top(stack) is Place.PLAIN:
            # Its body begins on the next line, and is told apart from what follows by nobody.
            if not line.startswith("<<<", at):
                end = line.find("\n", at)
                heredoc_from = min(heredoc_from, len(line) if end < 0 else end)
                word_until = at + _length(_HERE_WORD, line, at)
            step = 2 + line.startswith("<<<", at)
            place: Place | None = within
        else:
            step, place = _step(stack, line, at, is_fresh)
        is_here_word = place is within and at < word_until
        yield at, at + step, Place.HEREDOC if is_here_word else place, len(stack)
        if not (line.startswith("\\\n", at) and place is None):
            is_fresh = line[at] in _BEFORE_WORD and place is not None
        at += step


def _step(stack: list[str], line: str, at: int, is_fresh: bool) -> tuple[int, Place | None]:
    """How far the next piece goes, and what it is; the stack follows."""
    within = _place(stack)
    if stack and line[at] == _PARTS[stack[-1]][0]:
        stack.pop()
        return 1, within if within is not Place.PLAIN else _place(stack)
    if line[at] == "\\" and stack[-1:] != ["'"]:
        return min(2, len(line) - at), None
    if not _is_literal(stack):
        return _begin(stack, line, at, is_fresh)
    return 1, within


def _begin(stack: list[str], line: str, at: int, is_fresh: bool) -> tuple[int, Place | None]:
    within = _place(stack)
    if line[at] == "#" and is_fresh and _top(stack) is Place.PLAIN:
        return _length(_COMMENT, line, at), Place.COMMENT
    if length := _length(_BACKTICKS, line, at) or _sum_length(stack, line, at):
        kind = Place.BACKTICKS if line[at] == "`" else Place.ARITHMETIC
        return length, kind if within is not Place.EXPANSION else within
    for beginning in _BEGINNINGS[_top(stack)]:
        if line.startswith(beginning, at):
            stack.append(beginning)
            return len(beginning), _place(stack) if within is Place.PLAIN else within
    return 1, within


def _top(stack: list[str]) -> Place:
    return _PARTS[stack[-1]][1] if stack else Place.PLAIN


def _place(stack: list[str]) -> Place:
    """Where one is; an expansion decides for all within it."""
    return Place.EXPANSION if "${" in stack else _top(stack)


def _is_odd(stack: list[str], line: str, at: int, is_fresh: bool) -> bool:
    """Whether from here on nothing is certain."""
    kind = _top(stack)
    if _is_literal(stack):
        return False
    if _ODD[kind].match(line, at):
        return True
    if _begins_sum(stack, line, at) and not _sum_length(stack, line, at):
        return True
    if kind is not Place.QUOTES and not is_fresh and _CONTINUED.match(line, at):
        return True
    return kind is Place.PLAIN and _is_odd_word(stack, line, at, is_fresh)


def _is_odd_word(stack: list[str], line: str, at: int, is_fresh: bool) -> bool:
    is_in_expansion = "${" in stack
    if line[at] == "#" and line[at - 1 : at] in ("(", ")", "<", ">"):
        return True
    if line[at] == "#" and is_fresh:
        return is_in_expansion or stack[-1:] == ["("]  # that of a pattern knows no comments
    if _CASE.match(line, at):  # its patterns end in ")"
        return any(_PARTS[part][1] is not Place.PLAIN for part in stack)
    return is_in_expansion and line.startswith("<<", at)


def _length(pattern: re.Pattern[str], line: str, at: int) -> int:
    match = pattern.match(line, at)
    return len(match[0]) if match else 0


def _is_literal(stack: list[str]) -> bool:
    return bool(stack) and _PARTS[stack[-1]][0] == "'"


def _begins_sum(stack: list[str], line: str, at: int) -> bool:
    return _length(_SUM, line, at) > 0 and (line[at] == "$" or _top(stack) is Place.PLAIN)


def _sum_length(stack: list[str], line: str, at: int) -> int:
    """The length of the arithmetic that begins here, or 0 where that is not certain."""
    if not _begins_sum(stack, line, at):
        return 0
    depth, start = 2, at + _length(_SUM, line, at)
    end = start
    while depth > 1 and (piece := _OF_SUM.match(line, end)):
        depth += {"(": 1, ")": -1}.get(piece[0], 0)
        end = piece.end()
    if depth > 1 or not line.startswith(")", end) or _NO_SUM.search(line, start, end):
        return 0
    return end + 1 - at


def _calculated(line: str, found: list[Place | None], depths: list[int]) -> Iterator[int]:
    for start in _TEST.finditer(line):
        end = _end_of_test(line, start.start(), found, depths)
        if _CALCULATES.search(line, start.end(), end):
            yield from range(start.start(), end)
    yield from _in_builtins(line, found, depths)
    yield from _in_subscripts(line, found)


def _end_of_test(line: str, start: int, found: list[Place | None], depths: list[int]) -> int:
    for one in _TEST_END.finditer(line, start):
        at = one.start()
        if _is_at_depth(at, start, found, depths):
            # The ")" of a pattern in it was taken for an end.
            return len(line) if _CASE.search(line, start, at) else one.end()
    return len(line)


def _in_builtins(line: str, found: list[Place | None], depths: list[int]) -> Iterator[int]:
    for word in _BUILTIN.finditer(line):
        start, end = word.start(), word.end()
        if found[start] is not Place.PLAIN:
            continue
        while end < len(line) and depths[end] >= depths[start]:
            if _END_OF_COMMAND.match(line, end) and _is_at_depth(end, start, found, depths):
                break
            end += 1
        if _BUILTIN_CALCULATES.match(line, start, end):
            yield from range(start, end)
        elif word[0].startswith(_DECLARES):
            yield from (at for at in range(start, end) if line[at - 1] in " \t\n")


def _is_at_depth(at: int, start: int, found: list[Place | None], depths: list[int]) -> bool:
    return found[at] is Place.PLAIN and depths[at] == depths[start]


def _in_subscripts(line: str, found: list[Place | None]) -> Iterator[int]:
    depth = 0
    for at, sign in enumerate(line):
        if depth:
            yield at
        if found[at] is not Place.PLAIN:
            continue
        if sign == "[" and (depth or _is_subscript(line, at)):
            depth += 1
        elif sign == "]" and depth:
            depth -= 1


def _is_subscript(line: str, at: int) -> bool:
    """Whether a bracket comes behind a name, or could be an element of an array's list."""
    return bool(_SUBSCRIPT.match(line, at)) or "=(" in line[:at]
