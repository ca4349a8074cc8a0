"""The errors Allot raises.

::

    AllotError
    ├── ConfigError (also a ValueError)      what was asked for makes no sense
    │   ├── NodeFileError                    a host file or hostlist
    │   ├── TaskConfigError                  a task, or what a task_factory returned
    │   └── JobExistsError                   a job of this name is not final yet
    ├── NodeError                            a node does not do what it should
    │   ├── ConnectionFailedError            no connection, or it broke
    │   ├── AuthenticationFailedError        the login was refused
    │   ├── HostKeyError                     the host key is unknown or another one
    │   └── NotEnoughNodesError              too few nodes passed the probe
    ├── TasksFailedError                     tasks ended otherwise than COMPLETED
    ├── LifecycleError                       an event that a task's state does not allow
    └── StateFileError                       a job's saved state cannot be read

Each message names the thing, the place and the remedy, in one line where it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allot.model import NodeStatus, Summary


class AllotError(Exception):
    """The root of every error that Allot raises on purpose."""


class ConfigError(AllotError, ValueError):
    """What was asked for makes no sense: an argument, a file, a combination."""


class NodeFileError(ConfigError):
    """A host file, or a hostlist, that does not follow the grammar.

    Attributes:
        path: The file, or None for a hostlist given as text.
        line: 1-based line number, or None where no single line is to blame.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        place = [path] if path is not None else []
        if line is not None:
            place.append(f"line {line}")
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.path = path
        self.line = line


class TaskConfigError(ConfigError):
    """A task that cannot be launched as it was described."""


class JobExistsError(ConfigError):
    """A job of this name in this output directory has not ended yet."""


class NodeError(AllotError):
    """A node does not do what it should.

    Attributes:
        node: The node's name.
    """

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"{node}: {message}" if node else message)
        self.node = node
        self.reason = message


class ConnectionFailedError(NodeError):
    """No SSH connection to the node, or it broke."""


class AuthenticationFailedError(NodeError):
    """The node refused every way to log in."""


class HostKeyError(NodeError):
    """The node's host key is unknown, revoked, or not the one on record."""


class NotEnoughNodesError(NodeError):
    """Fewer nodes passed the probe than the job needs.

    Attributes:
        nodes: The status of every node that was asked, with the reason for each refusal.
    """

    def __init__(self, message: str, nodes: Sequence[NodeStatus]) -> None:
        super().__init__("", message)
        self.nodes = tuple(nodes)


class TasksFailedError(AllotError):
    """Some tasks ended otherwise than COMPLETED.

    Attributes:
        summary: How the whole job ended.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


class LifecycleError(AllotError):
    """An event that a task's state does not allow; nothing was changed."""


class StateFileError(AllotError):
    """A job's saved state is missing, torn, foreign, or of a newer version."""
