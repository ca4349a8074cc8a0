"""Commands with placeholders, and the parameters that fill them.

Rules: pure. What is filled in is quoted for Bash, so that it arrives as the text it is; where
that cannot be, the placeholder is refused when the job is made. Braces that are no placeholder
stay as they are.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from allot.errors import ConfigError
from allot.model import NodeTaskConfig, Params, Scalar
from allot.shellscan import Place, places

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)

# What needs no quotes where blanks stand around it; but Bash has words of its own, and within
# "[[" quotes make a difference.
_BARE = re.compile(r"-?\d[\w.]*|[\w./@%+:,][\w./@%+:,-]*", re.ASCII)
_WORDS_OF_BASH = (
    *("if", "then", "elif", "else", "fi", "time", "for", "in", "until", "while", "do", "done"),
    *("case", "esac", "coproc", "select", "function"),
)
_FIRST_WORD = re.compile(rf"(?:{'|'.join(_WORDS_OF_BASH)})|[A-Za-z_]\w*\+?=.*", re.S | re.A)

_LEFT_ALONE = (Place.EXPANSION, Place.COMMENT)
_OF_TASK = ("proc_id", "node_id", "local_id", "node_name")
_OF_LINE = ("line", "basename", "stem", "parent")


def grid(**lists: Iterable[Scalar]) -> list[dict[str, Scalar]]:
    """The parameters of all combinations; the last name changes quickest.

    Args:
        lists: The values of each name; a string counts as one value.

    Returns:
        A dict for each task, to be given as ``params``.

    Raises:
        ConfigError: A name has no values.

    Example:
        >>> grid(lr=[0.1, 0.01], seed=range(2))
        [{'lr': 0.1, 'seed': 0}, {'lr': 0.1, 'seed': 1}, {'lr': 0.01, 'seed': 0}, \
{'lr': 0.01, 'seed': 1}]
    """
    values: dict[str, list[Scalar]] = {
        name: [one] if isinstance(one, (str, Path)) or not isinstance(one, Iterable) else [*one]
        for name, one in lists.items()
    }
    for name, some in values.items():
        if not some:
            raise ConfigError(f"grid: {name} has no values")
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


def as_params(value: object) -> tuple[Params, ...]:
    """The ``params`` argument: a dict or a scalar for each task.

    Raises:
        ConfigError: It is something else, empty, or its dicts have not all the same keys.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(f"params must be a sequence of dicts or scalars, not {value!r}")
    params = tuple(_as_param(number, one) for number, one in enumerate(value))
    if not params:
        raise ConfigError("params is empty: there must be one for each task")
    for number, one in enumerate(params):
        if _keys(one) != _keys(params[0]):
            raise ConfigError(
                f"params[{number}] has other keys than params[0]: {one!r}, not like {params[0]!r}"
            )
    return params


def _as_param(number: int, value: object) -> Params:
    if not isinstance(value, Mapping):
        return _as_scalar(f"params[{number}]", value)
    for key in value:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ConfigError(f"params[{number}]: {key!r} cannot be a name: use letters, digits, _")
        if key in _OF_TASK:
            raise ConfigError(f"params[{number}]: {{{key}}} is Allot's own: use another name")
    return {key: _as_scalar(f"params[{number}][{key!r}]", one) for key, one in value.items()}


def _as_scalar(where: str, value: object) -> Scalar:
    if hasattr(value, "item") and not isinstance(value, (str, int, float, Path)):
        try:
            value = value.item()  # what NumPy counts with
        except (TypeError, ValueError, RuntimeError):  # it holds several
            raise ConfigError(f"{where} must be one value, not {value!r}") from None
    if not isinstance(value, (str, int, float, Path)):
        raise ConfigError(f"{where} must be text, a number or a bool, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite, not {value!r}; give it as text")
    if "\0" in str(value):
        raise ConfigError(f"{where}: no argument can hold a NUL byte: {value!r}")
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _keys(params: Params) -> frozenset[str] | None:
    return frozenset(params) if isinstance(params, Mapping) else None


class Template:
    """A Bash line with placeholders.

    Attributes:
        spots: Where they stand: the first character, the one behind, and the name.

    Example:
        >>> Template("train --lr {lr} | awk '{print $1}'", {"lr": 0.1}).fill({"lr": "a b"})
        "train --lr 'a b' | awk '{print $1}'"
    """

    def __init__(self, command: str, example: Params) -> None:
        """Find the placeholders.

        Args:
            command: The line, or several.
            example: The parameters of one of the tasks; all have the same keys.

        Raises:
            ConfigError: A placeholder stands where its text could not arrive as it is.
        """
        self._command = command
        known = {*_OF_TASK, *_names(example)}
        where = places(command)
        self.spots: list[tuple[int, int, str]] = []
        for found in _PLACEHOLDER.finditer(command):
            place = where[found.start()]
            if found[1] not in known or place is None or place in _LEFT_ALONE:
                continue
            if place is not Place.PLAIN:
                if command[: found.start()].endswith("$"):
                    continue  # "${...}" for whoever reads the text within the quotes
                raise ConfigError(
                    f"command: {found[0]} stands in {place.value}, where its text could not arrive "
                    f"as it is; put it outside, it is quoted by itself: {_around(command, found)}"
                )
            self.spots.append((found.start(), found.end(), found[1]))

    def fill(self, values: Mapping[str, Scalar]) -> str:
        """The line with the values of one task, each quoted; what has none stays."""
        pieces, at = [], 0
        for start, end, name in self.spots:
            if name in values:
                pieces += [self._command[at:start], self._quoted(start, end, str(values[name]))]
                at = end
        return "".join([*pieces, self._command[at:]])

    def _quoted(self, start: int, end: int, text: str) -> str:
        around = self._command[start - 1 : start] + self._command[end : end + 1]
        is_word = not around.strip() and "[[" not in self._command
        if is_word and _BARE.fullmatch(text) and text not in _WORDS_OF_BASH:
            return text
        return "'" + text.replace("'", "'\"'\"'") + "'"

    def preview(self, proc_id: int, params: Params) -> str:
        """The line as far as it is known before a task has its place."""
        return self.fill({"proc_id": proc_id} | values_of(params))

    def line(self, config: NodeTaskConfig) -> str:
        """The line for a task in its place."""
        return self.fill(place_of(config) | values_of(config.params))


def place_of(config: NodeTaskConfig) -> dict[str, Scalar]:
    """What placeholders stand for, as far as a task's place says it."""
    return {name: getattr(config, name) for name in _OF_TASK}


def names_in(text: str) -> list[str]:
    """The placeholders in a text that a task's place fills."""
    return [name for name in _PLACEHOLDER.findall(text) if name in _OF_TASK]


def fill_text(text: str, values: Mapping[str, object]) -> str:
    """A path or the like with its placeholders filled, as they are; what has no value stays."""
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)


def as_factory(command: object, params: Sequence[Params] | None) -> Callable[[NodeTaskConfig], str]:
    """What makes the tasks of a job that has a ``command``.

    Raises:
        ConfigError: It is no text, or a placeholder stands where it cannot be filled.
    """
    if not isinstance(command, str) or not command.strip():
        raise ConfigError(f"command must be a Bash line, not {command!r}")
    return Template(command, params[0] if params else None).line


def as_ntasks(ntasks: int | None, params: Sequence[Params] | None) -> int | None:
    """The number of tasks that a user asked for.

    Raises:
        ConfigError: There are more or fewer ``params``.
    """
    if params is None or ntasks == len(params):
        return ntasks
    if ntasks is not None:
        raise ConfigError(f"ntasks is {ntasks}, but there are {len(params)} params: leave it out")
    return len(params)


def names_of(command: str) -> list[str]:
    """Placeholders that only parameters which are no dict could fill."""
    template = Template(command, "")
    return [name for _, _, name in template.spots if name in _OF_LINE]


def as_command(argv: Sequence[str]) -> str:
    """Words as a Bash line that passes them on as they are, but for the placeholders in them."""
    line = " ".join(_as_word(word) for word in argv)
    # A command of a name that Bash has for itself, or that looks like an assignment.
    return f"\\{line}" if argv and _FIRST_WORD.fullmatch(argv[0]) else line


def _as_word(word: str) -> str:
    # What is no placeholder of the job's is left in braces, which mean nothing to Bash there.
    pieces = [
        piece if _PLACEHOLDER.fullmatch(piece) else shlex.quote(piece) if piece else ""
        for piece in re.split(rf"(?<!\$)({_PLACEHOLDER.pattern.replace('(', '(?:', 1)})", word)
    ]
    return "".join(pieces) or "''"


def _around(command: str, found: re.Match[str]) -> str:
    return repr(command[max(0, found.start() - 15) : found.end() + 15])


def _names(params: Params) -> tuple[str, ...]:
    if params is None:
        return ()
    return tuple(params) if isinstance(params, Mapping) else _OF_LINE


def values_of(params: Params) -> dict[str, Scalar]:
    """What placeholders stand for, as far as a task's parameters say it."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(params)
    path = Path(str(params))
    return {
        "line": params,
        "basename": os.path.basename(str(params)),
        "stem": path.stem,
        "parent": str(path.parent),
    }
