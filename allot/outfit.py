"""What the nodes of one job have in common, and the seats that are made of them.

Rules: nothing is decided here; whoever brings a job onto its nodes, or back to them, is given
what that needs: the roster to ask them, the seat of one that is used, spares.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from allot import paths
from allot.claims import Claims
from allot.driver import NodeDriver
from allot.errors import ConfigError
from allot.events import BEGINNING, Cursor
from allot.foothold import Mandate
from allot.foreman import Foreman
from allot.harvest import Harvest
from allot.hostfile import node_names
from allot.launcher import Launcher, Place
from allot.lease import Lease
from allot.logins import resolve
from allot.model import NodeHealth, NodeSpec, NodeState, NodeStatus, Params
from allot.monitor import Monitor
from allot.node import Gateway, Node
from allot.output import is_on_local_file_system
from allot.probe import NodeFacts, NodeProbe, Sharing, SharingTest, look_again, probe_node
from allot.records import NodeRecord
from allot.roster import Candidate, Member, Roster
from allot.scheduler import Demand, nominal_slots, room_objection
from allot.seats import Seat, Terms
from allot.settings import Settings
from allot.stage import Stager
from allot.store import Store
from allot.tree import Trees


@dataclass(frozen=True)
class Charter:
    """What makes a job this one.

    Attributes:
        job_id: Identifier of this run of the job.
        settings: What the user asked for.
        probe: When a node may be used.
        specs: Every node named.
        ssh_config: The OpenSSH configuration to obey; None: the user's own.
        params: The tasks' parameters, by ``proc_id``; None where the job has none.
    """

    job_id: str
    settings: Settings
    probe: NodeProbe
    specs: tuple[NodeSpec, ...]
    ssh_config: Path | None
    params: tuple[Params, ...] | None = None


class Outfit:
    """The means of one client to work on the nodes of one job.

    Attributes:
        charter: The job.
        candidates: Every node that was asked, by its place in the host file.
        used_names: The names of the nodes used, by ``node_id``.
        names: Every node named, by its place in the host file.
        roster: Asks nodes.
        demand: What one task takes of a node.
        terms: On what terms nodes are used.
        trees: What is staged in is made of.
        closing: Set once the connections are closed.
    """

    def __init__(self, charter: Charter, pool: Executor) -> None:
        """Prepare; nothing is asked yet."""
        settings = charter.settings
        self.charter = charter
        self.candidates: dict[int, Candidate] = {}
        self.used_names: list[str] = []
        self.demand = Demand(
            settings.cpus_per_task or 1, settings.mem_per_task, settings.gpus_per_task
        )
        self.terms = Terms(charter.probe, self.demand, settings.oversubscribe)
        self.trees = Trees([settings.output_dir])
        self.closing = threading.Event()
        self._claims = Claims(
            paths.claims_file(paths.state_file(settings.output_dir, settings.job_name))
        )
        self._pool = pool
        self._gateway = Gateway()
        self.roster = Roster(
            pool, self._gateway, charter.probe, charter.ssh_config, self._room_objection
        )
        self.names = node_names(charter.specs)

    def others(self, used: Collection[str]) -> list[NodeStatus]:
        """Every node that was asked, but for those of these names."""
        asked = [self.candidates[number] for number in sorted(self.candidates)]
        return [one.status for one in asked if one.name not in used]

    @property
    def sharing(self) -> dict[str, bool]:
        """Whether the nodes used that were asked share the output directory, by name."""
        members = [one.member for one in self.candidates.values() if one.member is not None]
        told = {member.name: self._as_told(member.facts).sharing.shared for member in members}
        return {name: told[name] for name in self.used_names if name in told}

    def check_files(self) -> None:
        """See to it that all is here that is to be staged in, as far as it is known yet.

        Raises:
            ConfigError: Something is not, or cannot be read.
        """
        settings, params = self.charter.settings, self.charter.params
        start = settings.stage_from
        if start is not None:
            self.trees.check(settings.stage_in, start, params or (None,) * (settings.ntasks or 1))

    def hang_up(self) -> None:
        """Close every connection, those in the making too."""
        self.closing.set()
        self._gateway.close()

    def wanted_slots(self, spec: NodeSpec) -> int | None:
        """The slots that a user asked for on a node."""
        return self.charter.settings.ntasks_per_node or spec.slots

    def place(self, member: Member, node_id: int) -> Place:
        """What the tasks of a node that was just asked see of it."""
        settings = self.charter.settings
        slots = nominal_slots(
            member.facts.health,
            self.demand,
            wanted=self.wanted_slots(member.spec),
            sized_by_cpus=settings.ntasks is not None,
            oversubscribe=settings.oversubscribe,
        )
        facts = self._as_told(member.facts)
        return Place(member.name, node_id, slots, facts.gpu_vendor, facts.sharing.shared)

    def seat(self, member: Member, place: Place, launcher: Launcher, mandate: Mandate) -> Seat:
        """The seat of a node that was just asked."""
        facts = self._as_told(member.facts)
        status = NodeStatus(member.name, NodeState.READY, place.node_id, health=facts.health)
        driver = self._driver(
            member.node,
            place,
            launcher,
            mandate,
            facts=facts,
            look_at_node=self._look_again(member.node, member.spec, facts),
        )
        return Seat(driver, member.spec, place, self.terms, facts, status)

    def seat_of(
        self, record: NodeRecord, launcher: Launcher, mandate: Mandate, *, connect: bool
    ) -> Seat:
        """The seat of a node that an earlier client used; it is not connected yet.

        Args:
            record: What that client told of it.
            launcher: Prepares it for tasks.
            mandate: By what right tasks are started there.
            connect: Connect at once, not only when it is needed.

        Raises:
            ConfigError: The ssh configuration makes no sense.
        """
        facts = self._as_told(record.facts)
        shared = facts.sharing.shared
        place = Place(record.name, record.node_id, record.slots, facts.gpu_vendor, shared)
        node = self.node(record)
        driver = self._driver(
            node,
            place,
            launcher,
            mandate,
            facts=facts,
            look_at_node=self._look_once_more(node, record, facts),
            cursor=record.cursor,
            was_prepared=record.is_prepared,
        )
        seat = Seat(driver, record.spec, place, self.terms, facts, record.status)
        seat.cursor = record.cursor
        seat.revive(record, connect=connect)
        return seat

    def monitor(
        self, foreman: Foreman, launcher: Launcher, lease: Lease, state_file: Path
    ) -> Monitor:
        """What drives the job, to be started; its state is on disk then.

        Raises:
            ConfigError: The state cannot be written.
            SupersededError: Another client was quicker.
        """
        try:
            store = Store(state_file, lease, foreman.state)
        except OSError as error:
            raise ConfigError(
                f"the state of the job cannot be kept in {state_file.parent}: "
                f"{error.strerror or error}; nothing was started"
            ) from error
        return Monitor(
            foreman,
            self._pool,
            store,
            recruit=lambda node_id: self.recruit(node_id, launcher, lease),
            hang_up=self.hang_up,
        )

    def node(self, record: NodeRecord) -> Node:
        """A node that an earlier client used, to be connected.

        Raises:
            ConfigError: The ssh configuration makes no sense.
        """
        login = resolve(record.spec, self.charter.ssh_config)
        timeout = self.charter.probe.timeout
        return Node(record.name, login, gateway=self._gateway, timeout=timeout)

    def recruit(self, node_id: int, launcher: Launcher, mandate: Mandate) -> Seat | None:
        """Ask the nodes that are not used, in order; the first that passes gets that number."""
        for number, (spec, name) in enumerate(zip(self.charter.specs, self.names, strict=True)):
            if name in self.used_names:
                continue
            with self.sharing_test() as test:
                candidate = self.roster.ask_one(spec, name, number, test)
            self.candidates[number] = candidate
            if candidate.member is None:
                continue
            if candidate.state is NodeState.READY:
                place = self.place(candidate.member, node_id)
                self.used_names.append(name)
                return self.seat(candidate.member, place, launcher, mandate)
            candidate.member.node.close()
        return None

    @contextmanager
    def sharing_test(self) -> Iterator[SharingTest | None]:
        """A file by which nodes that share the output directory are known; removed at the end.

        Yields:
            How nodes are asked; None where the user has told what they share.

        Raises:
            ConfigError: The output directory cannot be written to.
        """
        output_dir = self.charter.settings.output_dir
        name = f"{self.charter.job_id}-{secrets.token_hex(4)}"
        nonce_file = paths.nonce_file(output_dir, name)
        nonce = secrets.token_hex(16)
        try:
            nonce_file.parent.mkdir(parents=True, exist_ok=True)
            nonce_file.write_text(f"{nonce}\n")
        except OSError as error:
            raise ConfigError(
                f"output_dir {output_dir} cannot be written to: {error.strerror}; "
                "name a directory of your own"
            ) from error
        try:
            if self.charter.settings.shared_fs is None:
                is_local = is_on_local_file_system(output_dir)
                yield SharingTest(output_dir, nonce_file, nonce, is_local)
            else:
                yield None
        finally:
            nonce_file.unlink(missing_ok=True)

    def _driver(
        self,
        node: Node,
        place: Place,
        launcher: Launcher,
        mandate: Mandate,
        *,
        facts: NodeFacts,
        look_at_node: Callable[[], NodeFacts],
        cursor: Cursor = BEGINNING,
        was_prepared: bool = False,
    ) -> NodeDriver:
        settings = self.charter.settings
        root = Path("/") if settings.shared_fs else settings.output_dir
        harvest = Harvest(
            node,
            self.charter.job_id,
            self._claims,
            facts.sharing,
            root,
            poll_interval=settings.poll_interval,
            progress_pattern=settings.progress_pattern,
        )
        return NodeDriver(
            node,
            harvest,
            self._stager(node, place),
            facts,
            prelude=lambda generation: launcher.prelude(place, generation),
            mandate=mandate,
            look_at_node=look_at_node,
            poll_interval=settings.poll_interval,
            cursor=cursor,
            was_prepared=was_prepared,
        )

    def _stager(self, node: Node, place: Place) -> Stager:
        job_id = self.charter.job_id
        work = paths.work_directory(job_id, place.node_name)
        return Stager(node, self.trees, key=f"{job_id}-{place.node_id}", work=work)

    def _as_told(self, facts: NodeFacts) -> NodeFacts:
        told = self.charter.settings.shared_fs
        return facts if told is None else replace(facts, sharing=Sharing(shared=told, fresh=told))

    def _look_again(self, node: Node, spec: NodeSpec, facts: NodeFacts) -> Callable[[], NodeFacts]:
        charter = self.charter
        return lambda: look_again(
            node, facts, charter.probe, job_id=charter.job_id, declared_gpus=spec.gpus
        )

    def _look_once_more(
        self, node: Node, record: NodeRecord, facts: NodeFacts
    ) -> Callable[[], NodeFacts]:
        """The first time also at what it shares with this client, who may be on another machine."""
        charter, later = self.charter, self._look_again(node, record.spec, facts)
        if charter.settings.shared_fs is not None:
            return later
        is_first = True

        def look() -> NodeFacts:
            nonlocal later, is_first
            if not is_first:
                return later()
            with self.sharing_test() as test:
                found = probe_node(
                    node,
                    record.node_id,
                    test,
                    charter.probe,
                    job_id=charter.job_id,
                    running=True,
                    declared_gpus=record.spec.gpus,
                )
            later, is_first = self._look_again(node, record.spec, found), False
            return found

        return look

    def _room_objection(self, _: NodeSpec, health: NodeHealth) -> str:
        settings = self.charter.settings
        return room_objection(health, self.demand, oversubscribe=settings.oversubscribe)
