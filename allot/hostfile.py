"""Host files and hostlists: text in, nodes out.

Rules: no I/O; whoever reads the file gives its text. The grammar of a host file, one node a line::

    [user@]host[:port]  [slots=N]  [gpus=N]  [# comment]

``[01-12,20]`` in a host expands as in Slurm's hostlists: the first bound's width is kept, and
several groups in one name expand in order, the last the fastest. An IPv6 address stands in
brackets. A node is its host and port, and stands there once. What could be taken for an option,
a path or shell syntax further down is not a host name. Everything is checked for its size before
it is expanded.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from allot.errors import NodeFileError
from allot.model import NodeSpec

_MAX_NODES = 100_000
_MAX_NAME = 253  # RFC 1035's limit on a name in text
_MAX_PORT = 65_535

_COMMENT = re.compile(r"(?:^|\s)#.*")
_NUMBER = re.compile(r"[0-9]{1,18}")  # 18 digits fit a machine word
_BOUNDS = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_HOSTLIST_ENTRY = re.compile(r"(?:\[[^\]]*(?:\]|$)|[^\s,\[])+")
_HOST = re.compile(r"\w[\w.+-]*")
_USER = re.compile(r"\w(?:[\w.@+\\-]*[\w.@+-])?")  # the backslash of DOMAIN\user
_IPV6_ADDRESS = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](?::(.*))?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?")


def parse_nodes(text: str, *, path: str | None = None) -> tuple[NodeSpec, ...]:
    """Read the text of a host file.

    Args:
        text: The whole text; a byte order mark and CRLF line ends are accepted.
        path: The file's name, for the errors.

    Returns:
        The nodes in file order, bracket groups expanded.

    Raises:
        NodeFileError: The text does not follow the grammar, names a node twice, none, or more
            than 100,000.
    """
    roll = _Roll()
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        try:
            roll.add(_parse_line(line), f"line {number}")
        except NodeFileError as error:
            raise NodeFileError(str(error), path=path, line=number) from None
    if not roll.specs:
        raise NodeFileError("no node in this host file; write one a line, as node01", path=path)
    return roll.specs


def parse_hostlist(text: str) -> tuple[NodeSpec, ...]:
    """Read a hostlist such as ``"ws[01-12],g2"``, as Slurm writes them.

    Args:
        text: Hosts (``[user@]host[:port]``), separated by commas or white space.

    Returns:
        The nodes in order, bracket groups expanded.

    Raises:
        NodeFileError: As in ``parse_nodes``; its ``path`` and ``line`` are None.
    """
    roll = _Roll()
    for number, entry in enumerate(_HOSTLIST_ENTRY.findall(text), 1):
        roll.add(_parse_address(entry), f"entry {number}")
    if not roll.specs:
        raise NodeFileError("no node in this hostlist; write it as ws[01-12],g2")
    return roll.specs


def read_nodes(nodes: str | Iterable[str | NodeSpec]) -> tuple[NodeSpec, ...]:
    """Read the ``nodes=`` argument of ``Cluster``.

    Args:
        nodes: A hostlist, or an iterable of host-file lines and ``NodeSpec``s.

    Returns:
        The nodes in order, bracket groups of text expanded.

    Raises:
        NodeFileError: As in ``parse_nodes``, naming the entry (``nodes[3]``), or ``nodes`` is
            of another type.
    """
    if isinstance(nodes, str):
        return parse_hostlist(nodes)
    if not isinstance(nodes, Iterable):
        raise NodeFileError(
            f"nodes must be a hostlist such as 'ws[01-12],g2' or a list of host-file lines, "
            f"not {_show(nodes)}; a host file is given as node_file"
        )
    roll = _Roll()
    for index, entry in enumerate(nodes):
        place = f"nodes[{index}]"
        try:
            roll.add([entry] if isinstance(entry, NodeSpec) else _parse_line(entry), place)
        except NodeFileError as error:
            raise NodeFileError(f"{place}: {error}") from None
    if not roll.specs:
        raise NodeFileError("nodes names no node; give a hostlist such as 'ws[01-12],g2'")
    return roll.specs


def node_names(specs: Sequence[NodeSpec]) -> tuple[str, ...]:
    """Name nodes for people and for file names.

    Args:
        specs: Nodes, no two with the same host and port.

    Returns:
        For each, in order, its host, or ``host:port`` (``[address]:port`` for IPv6) where the
        host stands there with several ports.
    """
    times = Counter(spec.host for spec in specs)
    return tuple(
        NodeSpec(spec.host, port=spec.port).address if times[spec.host] > 1 else spec.host
        for spec in specs
    )


class _Roll:
    """The nodes read so far: in order, each once, each fit to be used, and not too many."""

    def __init__(self) -> None:
        self._specs: list[NodeSpec] = []
        self._places: dict[tuple[str, int | None], str] = {}

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        return tuple(self._specs)

    def add(self, specs: Iterable[NodeSpec], place: str) -> None:
        for spec in specs:
            _check(spec)
            if len(self._specs) == _MAX_NODES:
                raise NodeFileError(f"more than {_MAX_NODES} nodes; that many are not supported")
            key = (spec.host, spec.port)
            if key in self._places:
                raise NodeFileError(
                    f"{NodeSpec(spec.host, port=spec.port).address} stands here twice "
                    f"(first in {self._places[key]}); each host and port may stand once"
                )
            self._places[key] = place
            self._specs.append(spec)


def _parse_line(line: str) -> Iterator[NodeSpec]:
    if not isinstance(line, str):
        raise NodeFileError(f"a node is a host-file line or a NodeSpec, not {_show(line)}")
    fields = _COMMENT.sub("", line).split()
    if not fields:
        return iter(())
    return _parse_address(fields[0], **_parse_keys(fields[1:]))


def _parse_keys(fields: Sequence[str]) -> dict[str, int]:
    keys: dict[str, int] = {}
    for field in fields:
        key, _, value = field.partition("=")
        if key not in ("slots", "gpus"):
            raise NodeFileError(
                f"{_show(field)} is not known here; a line is one node, then slots=N and gpus=N"
            )
        if key in keys:
            raise NodeFileError(f"{key} is given twice; leave one")
        keys[key] = _number(key, value)
    return keys


def _parse_address(
    text: str, *, slots: int | None = None, gpus: int | None = None
) -> Iterator[NodeSpec]:
    before, at, address = text.rpartition("@")
    user = before if at else None
    ipv6 = _IPV6_ADDRESS.fullmatch(address)
    if ipv6:
        hosts: Iterable[str] = (ipv6[1],)
        port_text = ipv6[2]
    else:
        pattern, colon, after = address.partition(":")
        if ":" in after:
            raise NodeFileError(
                f"{_show(address)} holds several colons; "
                "an IPv6 address stands in brackets: [fd00::7] or [fd00::7]:22"
            )
        hosts = _expand(pattern)
        port_text = after if colon else None
    port = None if port_text is None else _number("the port", port_text)
    return (NodeSpec(host, user, port, slots, gpus) for host in hosts)


def _expand(pattern: str) -> Iterator[str]:
    """The names that a host with bracket groups stands for; counted before they are made."""
    parts = _GROUP.split(pattern)
    literals = "".join(parts[::2])
    if "[" in literals or "]" in literals:
        raise NodeFileError(f"{_show(pattern)} holds a bracket without its partner")
    groups = [_parse_group(group, pattern) for group in parts[1::2]]
    longest = len(literals) + sum(
        max(max(width, len(str(span[-1]))) for span, width in group) for group in groups
    )
    if longest > _MAX_NAME:
        raise NodeFileError(f"{_show(pattern)}: a host name has at most {_MAX_NAME} characters")
    count = math.prod(sum(len(span) for span, _ in group) for group in groups)
    if count > _MAX_NODES:
        raise NodeFileError(
            f"{_show(pattern)} stands for {count} nodes; more than {_MAX_NODES} are not supported"
        )
    choices: list[Iterable[str]] = [parts[:1]]
    for group, literal in zip(groups, parts[2::2], strict=True):
        choices.append([f"{n:0{width}d}" for span, width in group for n in span])
        choices.append([literal])
    return map("".join, itertools.product(*choices))


def _parse_group(group: str, pattern: str) -> list[tuple[range, int]]:
    """The ranges of one bracket group, each with the width its numbers are padded to."""
    spans = []
    for piece in group.split(","):
        bounds = _BOUNDS.fullmatch(piece)
        if not bounds:
            raise NodeFileError(
                f"{_show(pattern)}: {_show(piece)} is not a number or a range such as 01-12"
            )
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if first > last:
            raise NodeFileError(f"{_show(pattern)}: the range {piece} runs backwards")
        spans.append((range(first, last + 1), len(bounds[1])))
    return spans


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise NodeFileError(f"{name} must be a decimal number, not {_show(text)}")
    return int(text)


def _check(spec: NodeSpec) -> None:
    if not _HOST.fullmatch(spec.host) and not _is_ipv6(spec.host):
        raise NodeFileError(f"{_show(spec.host)} is not a host name, an alias or an address")
    if len(spec.host) > _MAX_NAME:
        raise NodeFileError(f"{_show(spec.host)}: a host name has at most {_MAX_NAME} characters")
    if spec.user is not None and not _USER.fullmatch(spec.user):
        raise NodeFileError(f"{_show(spec.user)} is not a user name")
    if spec.port is not None and not 1 <= spec.port <= _MAX_PORT:
        raise NodeFileError(f"the port must be from 1 to {_MAX_PORT}, not {spec.port}")
    if spec.slots is not None and spec.slots < 1:
        raise NodeFileError(f"slots must be 1 or more, not {spec.slots}")
    if spec.gpus is not None and spec.gpus < 0:
        raise NodeFileError(f"gpus must be 0 or more, not {spec.gpus}")


def _is_ipv6(host: str) -> bool:
    if not _IPV6.fullmatch(host):
        return False
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _show(value: object) -> str:
    """Quote what was given, cut short: a bad line can be of any length."""
    quote = reprlib.Repr()
    quote.maxstring = quote.maxother = 80
    return quote.repr(value)
