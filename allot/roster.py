"""Asking all nodes at once whether they can be used, and choosing."""

from __future__ import annotations

import logging
import os
import pwd
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from allot.errors import ConfigError, NodeError, NodeFileError, NotEnoughNodesError
from allot.hostfile import parse_hostlist, parse_nodes, read_nodes
from allot.logins import resolve
from allot.model import NodeHealth, NodeSpec, NodeState, NodeStatus
from allot.node import Gateway, Node
from allot.probe import NodeFacts, NodeProbe, SharingTest, probe_node

_log = logging.getLogger(__name__)

# A socket a node, two pipes where a ProxyCommand leads to it; and what else a program opens.
_FILES_A_NODE = 3
_OTHER_FILES = 32


@dataclass(frozen=True)
class Member:
    """A node that answered: its line of the host file, its name, connection and facts."""

    spec: NodeSpec
    name: str
    node: Node
    facts: NodeFacts


@dataclass(frozen=True)
class Candidate:
    """A node that was asked.

    Attributes:
        name: Its name.
        state: READY where it may be used, SPARE where it was not waited for, else BUSY or
            UNREACHABLE.
        reason: Why not, or empty.
        member: What it answered, or None where it did not.
    """

    name: str
    state: NodeState
    reason: str = ""
    member: Member | None = None

    @property
    def status(self) -> NodeStatus:
        """The node as one that is not used."""
        state = NodeState.SPARE if self.state is NodeState.READY else self.state
        health = None if self.member is None else self.member.facts.health
        return NodeStatus(self.name, state, None, self.reason, health)


def read_specs(
    node_file: str | Path | None, nodes: str | Iterable[str | NodeSpec] | None
) -> tuple[NodeSpec, ...]:
    """The nodes a user named: by a host file, by ``nodes``, or by a Slurm allocation.

    Raises:
        ConfigError: It is no path, both were given, or neither and this is no Slurm allocation.
        NodeFileError: The host file cannot be read, or does not follow the grammar.
    """
    if node_file is not None and not isinstance(node_file, (str, Path)):
        raise ConfigError(f"node_file must be a path, not {node_file!r}")
    if node_file is not None and nodes is not None:
        raise ConfigError("give node_file or nodes, not both")
    if nodes is not None:
        return read_nodes(nodes)
    if node_file is None:
        hostlist = os.environ.get("SLURM_JOB_NODELIST")
        if not hostlist:
            raise ConfigError(
                "no nodes: give node_file or nodes (or call it within a Slurm allocation)"
            )
        return parse_hostlist(hostlist)
    path = Path(node_file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise NodeFileError(f"cannot be read: {why}", path=str(path)) from error
    return parse_nodes(text, path=str(path))


def config_path(path: str | Path | None) -> Path | None:
    """The OpenSSH client configuration to obey.

    Returns:
        None for the one that OpenSSH reads by itself, together with the system's.
    """
    own = Path("~/.ssh/config").expanduser()
    asked = own if path is None else Path(path).expanduser().absolute()
    try:  # OpenSSH takes the home from the user database, whatever $HOME says.
        its_own = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh/config"
    except KeyError:  # a user of whom that knows nothing, as in a container
        its_own = own
    if asked == its_own or (path is None and not own.exists()):
        return None
    return asked


def make_room_for(connections: int) -> None:
    """Have this process's limit of open files suffice for so many connections.

    Raises:
        ConfigError: It cannot be raised so far.
    """
    need = len(os.listdir("/proc/self/fd")) + _FILES_A_NODE * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    if hard != resource.RLIM_INFINITY and hard < need:
        raise ConfigError(
            f"{connections} nodes need up to {need} open files, the limit of this process is "
            f"{hard}: raise it (ulimit -n {need}), or name fewer nodes"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


class Roster:
    """Connects to the nodes of a job and probes them, all at once."""

    def __init__(
        self,
        pool: Executor,
        gateway: Gateway,
        probe: NodeProbe,
        ssh_config: Path | None,
        room_objection: Callable[[NodeSpec, NodeHealth], str],
    ) -> None:
        """Prepare to ask.

        Args:
            pool: Where the work is done.
            gateway: What the connections share.
            probe: When a node may be used.
            ssh_config: The OpenSSH configuration to obey, None for the user's own.
            room_objection: Why a node has no room for one task, or empty.
        """
        self._pool = pool
        self._gateway = gateway
        self._probe = probe
        self._room_objection = room_objection
        self._ssh_config = ssh_config

    def ask(
        self,
        specs: Sequence[NodeSpec],
        names: Sequence[str],
        test: SharingTest | None,
        enough: int | None = None,
    ) -> list[Candidate]:
        """Connect to nodes and probe them.

        Args:
            specs: The nodes, in the order of preference.
            names: Their names.
            test: How to find out what they share with the client; None: that is not asked.
            enough: With so many that can be used, and all before them known, the others are not
                waited for: their state is SPARE. None: wait for every node.

        Returns:
            One candidate a node, in the same order.

        Raises:
            ConfigError: The ssh configuration makes no sense.
        """
        futures = [
            self._pool.submit(self.ask_one, spec, name, number, test)
            for number, (spec, name) in enumerate(zip(specs, names, strict=True))
        ]
        try:
            return self._collect(names, futures, enough)
        except BaseException:  # nobody will hear of the connections, also of those to come
            for future in futures:
                if not future.cancel():
                    future.add_done_callback(_hang_up)
            raise

    def _collect(
        self, names: Sequence[str], futures: Sequence[Future[Candidate]], enough: int | None
    ) -> list[Candidate]:
        candidates: list[Candidate] = []
        ready = 0
        for name, future in zip(names, futures, strict=True):
            if enough is not None and ready >= enough and not future.done():
                future.add_done_callback(_hang_up)
                candidates.append(Candidate(name, NodeState.SPARE, "not needed, not asked"))
                continue
            candidate = future.result()
            ready += candidate.state is NodeState.READY
            candidates.append(candidate)
        return candidates

    def ask_one(
        self, spec: NodeSpec, name: str, number: int, test: SharingTest | None
    ) -> Candidate:
        """Connect to one node and probe it; for a worker of the pool too.

        Args:
            spec: The node.
            name: Its name.
            number: Its place among the nodes.
            test: How to find out what it shares with the client; None: that is not asked.

        Returns:
            The candidate; where it has a member, that is connected, and the caller closes it.

        Raises:
            ConfigError: The ssh configuration makes no sense.
        """
        login = resolve(spec, self._ssh_config)
        node = Node(name, login, gateway=self._gateway, timeout=self._probe.timeout)
        began = time.monotonic()
        try:
            node.connect()
            facts = probe_node(node, number, test, self._probe, declared_gpus=spec.gpus)
        except NodeError as error:
            node.close()
            return Candidate(name, NodeState.UNREACHABLE, error.reason)
        except BaseException:
            node.close()
            raise
        _log.debug("%s: connected and probed in %.3f s", name, time.monotonic() - began)
        reason = self._probe.objection(facts) or self._room_objection(spec, facts.health)
        if not facts.home_writable:
            reason = "its home directory cannot be written to: Allot keeps its files there"
        state = NodeState.BUSY if reason else NodeState.READY
        return Candidate(name, state, reason, Member(spec, name, node, facts))


def choose(candidates: Sequence[Candidate], nnodes: int | None) -> list[Member]:
    """The nodes to use: the first ``nnodes`` that are READY, or all of them.

    The connections of the others are closed.

    Raises:
        NotEnoughNodesError: There are fewer, or none; it names every node that is not, and why.
    """
    ready = [one.member for one in candidates if one.member and one.state is NodeState.READY]
    need = nnodes or 1
    if len(ready) < need:
        lines = [f"{len(ready)} of {len(candidates)} nodes can be used, {need} must be:"]
        refused = [one for one in candidates if one.state is not NodeState.READY]
        lines += [f"  {one.name}: {one.reason}" for one in refused]
        if any(one.state is NodeState.BUSY for one in refused):
            lines.append(
                "wait_for_nodes=SECONDS waits for busy nodes, "
                "probe=NodeProbe(max_load_per_cpu=None) does not look at their load"
            )
        raise NotEnoughNodesError("\n".join(lines), [one.status for one in candidates])
    used = ready[:nnodes]
    names = {member.name for member in used}
    for one in candidates:
        if one.member is not None and one.name not in names:
            one.member.node.close()
    return used


def _hang_up(asked: Future[Candidate]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        member = asked.result().member
        if member is not None:
            member.node.close()
