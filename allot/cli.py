"""The command line: words in, words out; what is done is done by :class:`allot.Cluster`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal, NoReturn, TextIO

from allot import clijob, clirun
from allot.clirun import EXIT_INTERRUPTED, EXIT_TOO_FEW_NODES
from allot.errors import AllotError, ConfigError, NotEnoughNodesError

EXIT_USAGE = 2
EXIT_BROKEN_PIPE = 141  # as a shell says of a program that SIGPIPE ended

_PATHS = ("directory", "output_dir", "node_file", "ssh_config", "args_file", "output", "time_line")
# What errors say of arguments of Cluster, and how the shell says it.
_SHELL_WORDS = tuple(
    (re.compile(python), shell)
    for python, shell in (
        (r"\bgive job_name\b", "give --job-name"),
        (r"\bgive node_file or nodes\b", "give --node-file or --nodelist"),
        (r"Cluster\.load\((.*)\) goes on", r"allot attach \1 goes on"),
        (r"\boverwrite=True cancels", "--overwrite cancels"),
        (r"\bwait_for_nodes=SECONDS\b", "--wait-for-nodes SECONDS"),
        (r"\bprobe=NodeProbe\(max_load_per_cpu=None\)", "--max-load none"),
        (r'^export="(\w+)"', r"--export \1"),
        (r"^(?:NodeProbe: )?max_load_per_cpu\b", "--max-load"),
        (r"^params\[(\d+)\]", r"the parameters of task \1"),
    )
)
_ARGUMENT = re.compile(r"^(?:NodeProbe: )?([a-z]+(?:_[a-z]+)+|[a-z]+(?= (?:must|is|has) ))(?= )")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None takes those it was called with.

    Returns:
        The exit code: 0 if all is done, 1 if some task did not complete, 2 for wrong usage or
        configuration, 3 for too few nodes, 130 after Ctrl-C, 141 when nobody reads on (a
        closed pipe).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _have_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = argparse.Namespace()
    try:
        arguments = _parse(words)
        _check_paths(arguments)
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except NotEnoughNodesError as error:
        return _refuse(_in_words_of_the_shell(str(error), arguments), EXIT_TOO_FEW_NODES)
    except BrokenPipeError:  # such as: allot status D | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except AllotError as error:
        return _refuse(_in_words_of_the_shell(str(error), arguments), EXIT_USAGE)
    except OSError as error:
        return _refuse(_what_failed(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _have_standard_streams() -> None:
    """Where the caller closed one (``>&-``), no file or connection may get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdin = sys.stdin or _nothing("r")
    sys.stdout = sys.stdout or _nothing("w")
    sys.stderr = sys.stderr or _nothing("w")


def _nothing(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")


def _parse(words: list[str]) -> argparse.Namespace:
    """What comes behind the first ``--`` is a command, whatever it looks like."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        _complete(parser)
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    behind = words[split + 1 :]
    if behind and not hasattr(arguments, "words"):
        parser.error(f"there is nothing to be said behind --: {' '.join(behind)}")
    if hasattr(arguments, "words"):
        arguments.words = [*arguments.words, *behind]
    return arguments


def _complete(parser: argparse.ArgumentParser) -> None:
    with contextlib.suppress(ImportError):
        from argcomplete import autocomplete  # noqa: PLC0415 - an extra

        autocomplete(parser)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End with a line on stderr."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message} ({self.prog} --help says more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="allot",
        description="Run Bash commands on many nodes over SSH, with nothing installed on them.",
        epilog="Try it: allot demo",
    )
    parser.add_argument("--version", action="version", version=f"allot {version('allot')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    clirun.add_commands(commands)
    clijob.add_commands(commands)
    return parser


def _check_paths(arguments: argparse.Namespace) -> None:
    for name in _PATHS:
        path = getattr(arguments, name, None) or ""
        if os.path.expanduser(path).startswith("~"):
            user = path.partition("/")[0]
            raise ConfigError(f"{path}: there is no home {user}; write ./{path} for a file")
    config = getattr(arguments, "ssh_config", None)
    if config is not None and os.path.isdir(os.path.expanduser(config)):
        raise ConfigError(f"--ssh-config {config} is a directory: name a file")


def _in_words_of_the_shell(text: str, arguments: argparse.Namespace) -> str:
    """What an error says of an argument of Cluster, said of the option."""
    for python, shell in _SHELL_WORDS:
        text = python.sub(shell, text)
    found = _ARGUMENT.match(text)
    if found is None or found[1] not in vars(arguments):
        return text
    return f"--{found[1].replace('_', '-')}{text[found.end() :]}"


def _what_failed(error: OSError) -> str:
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # files have names, streams have none
    return f"the output cannot be written: {error.strerror}" if is_full else str(error)


def _refuse(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be on a disk that is full
        print(f"allot: {text}", file=sys.stderr)
    return code
