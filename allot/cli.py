"""The command line: words in, words out; what is done is done by :class:`allot.Cluster`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from allot import clijob, clirun
from allot.clirun import EXIT_INTERRUPTED, EXIT_TOO_FEW_NODES
from allot.errors import AllotError, NotEnoughNodesError

EXIT_USAGE = 2
EXIT_BROKEN_PIPE = 141  # as a shell says of a program that SIGPIPE ended


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
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parse(words)
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except NotEnoughNodesError as error:
        return _refuse(error, EXIT_TOO_FEW_NODES)
    except BrokenPipeError:  # such as: allot status D | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (AllotError, OSError) as error:
        return _refuse(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


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


def _refuse(error: Exception, code: int) -> int:
    print(f"allot: {error}", file=sys.stderr)
    return code
