"""Bringing a job onto its nodes: who is used, with how many slots, and the first wave.

Rules: until :meth:`Muster.launch` has made every task of the first wave, nothing was started
anywhere.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from allot import answers, paths, questions
from allot.driver import NodeDriver
from allot.environment import Rendezvous
from allot.errors import ConfigError
from allot.foreman import Foreman
from allot.harvest import Harvest
from allot.hostfile import node_names
from allot.launcher import Group, Job, Launcher, Place, TaskFactory
from allot.lifecycle import Ledger, Placement
from allot.model import NodeHealth, NodeSpec, NodeState, NodeStatus
from allot.monitor import Monitor
from allot.node import Gateway, Node
from allot.output import is_on_local_file_system
from allot.probe import NodeFacts, NodeProbe, Sharing, SharingTest, look_again
from allot.roster import Candidate, Member, Roster, choose
from allot.scheduler import Demand, cap_warning, nominal_slots, plan, room_objection
from allot.seats import Seat, Terms
from allot.settings import Settings

_RENDEZVOUS_PORTS = 16
_ASK_AGAIN_S = 2.0


class Muster:
    """Gathers the nodes of one job and launches its first wave on them.

    Attributes:
        candidates: Every node that was asked, in the host file's order.
        warnings: What the user should know of the nodes used.
    """

    def __init__(
        self, settings: Settings, job_id: str, probe: NodeProbe, pool: Executor, gateway: Gateway
    ) -> None:
        """Prepare; nothing is asked yet."""
        self.candidates: list[Candidate] = []
        self.warnings: list[str] = []
        self._settings = settings
        self._job_id = job_id
        self._probe = probe
        self._pool = pool
        self._gateway = gateway
        self._demand = Demand(
            settings.cpus_per_task or 1, settings.mem_per_task, settings.gpus_per_task
        )
        self._terms = Terms(probe, self._demand, settings.oversubscribe)
        self._specs: Sequence[NodeSpec] = ()
        self._names: Sequence[str] = ()
        self._roster: Roster | None = None
        self._launcher: Launcher | None = None
        self._used_names: list[str] = []
        self._closing = threading.Event()

    def gather(self, specs: Sequence[NodeSpec], ssh_config: Path | None) -> list[Member]:
        """Connect to the nodes, probe them, and choose those to use.

        Raises:
            ConfigError: The output directory cannot be written to, or the ssh configuration
                makes no sense.
            NotEnoughNodesError: Too few passed.
        """
        settings = self._settings
        if settings.nnodes is not None and settings.nnodes > len(specs):
            raise ConfigError(f"nnodes is {settings.nnodes}, but only {len(specs)} nodes are named")
        self._specs, self._names = specs, node_names(specs)
        self._roster = Roster(
            self._pool, self._gateway, self._probe, ssh_config, self._room_objection
        )
        with self._sharing_test() as test:
            self.candidates = self._roster.ask(specs, self._names, test, settings.nnodes)
            self._wait_for_nodes(self._roster, test)
        return choose(self.candidates, settings.nnodes)

    def launch(self, used: Sequence[Member], task_factory: TaskFactory) -> Monitor:
        """Make the tasks of the first wave, and launch them.

        Returns:
            The monitor, which sends them out.

        Raises:
            ConfigError: The tasks cannot all run at once, but must.
            TaskConfigError: The factory returned what cannot be launched.
            Exception: Whatever the factory raised.
        """
        settings = self._settings
        places = [self._place(member, node_id) for node_id, member in enumerate(used)]
        ntasks = settings.ntasks or sum(place.slots for place in places)
        ledger = Ledger([None] * ntasks)
        nodes = [
            Seat.slots_of(place, member.facts, self._terms)
            for place, member in zip(places, used, strict=True)
        ]
        placements = plan(
            ledger, nodes, settings.distribution, gpus_per_task=settings.gpus_per_task
        )
        group = self._group(used[0].node, placements, ntasks) if self._is_torch else None
        job = Job(self._job_id, len(places), ntasks, settings, settings.env)
        self._used_names = [member.name for member in used]
        self._launcher = Launcher(job, task_factory, self._used_names, group)
        wave = [
            (placement, self._launcher.prepare(placement, places[placement.node_id], None, 0))
            for placement in placements
        ]
        seats = [self._seat(member, place) for member, place in zip(used, places, strict=True)]
        self._warn(used, places)
        foreman = Foreman(ledger, self._launcher, seats, settings)
        monitor = Monitor(foreman, self._pool, recruit=self.recruit, hang_up=self.hang_up)
        monitor.start(wave)
        return monitor

    def recruit(self, node_id: int) -> Seat | None:
        """Ask the nodes that are not used, in order; the first that passes gets that number."""
        if self._roster is None:
            return None
        for number, (spec, name) in enumerate(zip(self._specs, self._names, strict=True)):
            if name in self._used_names:
                continue
            with self._sharing_test() as test:
                candidate = self._roster.ask_one(spec, name, number, test)
            self.candidates[number] = candidate
            if candidate.member is None:
                continue
            if candidate.state is NodeState.READY:
                self._used_names.append(name)
                return self._seat(candidate.member, self._place(candidate.member, node_id))
            candidate.member.node.close()
        return None

    def hang_up(self) -> None:
        """Close every connection, those in the making too."""
        self._closing.set()
        self._gateway.close()

    def _wait_for_nodes(self, roster: Roster, test: SharingTest) -> None:
        give_up = time.monotonic() + self._settings.wait_for_nodes
        need = self._settings.nnodes or 1
        while True:
            states = [candidate.state for candidate in self.candidates]
            left = give_up - time.monotonic()
            if states.count(NodeState.READY) >= need or left <= 0:
                return
            self._closing.wait(min(_ASK_AGAIN_S, left))
            others = [
                i for i, one in enumerate(self.candidates) if one.state is not NodeState.READY
            ]
            for member in (self.candidates[i].member for i in others):
                if member is not None:
                    member.node.close()
            answers = roster.ask(
                [self._specs[i] for i in others],
                [self._names[i] for i in others],
                test,
                need - states.count(NodeState.READY),
            )
            for number, candidate in zip(others, answers, strict=True):
                self.candidates[number] = candidate

    @contextmanager
    def _sharing_test(self) -> Iterator[SharingTest]:
        output_dir = self._settings.output_dir
        nonce_file = paths.nonce_file(output_dir, f"{self._job_id}-{secrets.token_hex(4)}")
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
            is_local = is_on_local_file_system(output_dir)
            yield SharingTest(output_dir, nonce_file, nonce, is_local)
        finally:
            nonce_file.unlink(missing_ok=True)

    def _room_objection(self, _: NodeSpec, health: NodeHealth) -> str:
        return room_objection(health, self._demand, oversubscribe=self._settings.oversubscribe)

    def _wanted(self, spec: NodeSpec) -> int | None:
        return self._settings.ntasks_per_node or spec.slots

    def _place(self, member: Member, node_id: int) -> Place:
        settings = self._settings
        slots = nominal_slots(
            member.facts.health,
            self._demand,
            wanted=self._wanted(member.spec),
            sized_by_cpus=settings.ntasks is not None,
            oversubscribe=settings.oversubscribe,
        )
        return Place(member.name, node_id, slots, member.facts.gpu_vendor)

    def _seat(self, member: Member, place: Place) -> Seat:
        settings, facts, node = self._settings, member.facts, member.node
        if self._launcher is None:
            raise ConfigError("no tasks are made yet")
        told = settings.shared_fs
        sharing = facts.sharing if told is None else Sharing(shared=told, fresh=told)

        def look_at_node() -> NodeFacts:
            return look_again(
                node,
                facts,
                self._probe,
                job_id=self._job_id,
                declared_gpus=member.spec.gpus,
            )

        driver = NodeDriver(
            node,
            Harvest(
                node,
                self._job_id,
                sharing,
                Path("/") if told else settings.output_dir,
                settings.poll_interval,
            ),
            facts,
            prelude=self._launcher.prelude(place),
            look_at_node=look_at_node,
            poll_interval=settings.poll_interval,
        )
        status = NodeStatus(member.name, NodeState.READY, place.node_id, health=facts.health)
        return Seat(driver, place, self._terms, facts, status)

    @property
    def _is_torch(self) -> bool:
        return "torch" in self._settings.export

    def _group(self, first: Node, placements: Sequence[Placement], ntasks: int) -> Group:
        """Where the tasks of one torch process group meet, and how many are on each node."""
        if len(placements) < ntasks:
            raise ConfigError(
                f'export="torch" needs all {ntasks} tasks to run at once, but there are only '
                f"{len(placements)} free slots: lower ntasks, or give more nodes or slots"
            )
        values = answers.parse_reply(first.request(questions.rendezvous_script(_RENDEZVOUS_PORTS)))
        ports = [int(port) for port in values.get("port", ())]
        sizes: dict[int, int] = {}
        gpus: dict[int, list[int]] = {}
        for placement in placements:
            sizes[placement.node_id] = sizes.get(placement.node_id, 0) + 1
            gpus.setdefault(placement.node_id, []).extend(placement.gpu_ids)
        return Group(Rendezvous(values["address"][0], ports), sizes, gpus)

    def _warn(self, used: Sequence[Member], places: Sequence[Place]) -> None:
        settings = self._settings
        for member, place in zip(used, places, strict=True):
            warning = cap_warning(
                place.node_name,
                member.facts.health,
                self._demand,
                wanted=self._wanted(member.spec),
                oversubscribe=settings.oversubscribe,
            )
            if warning:
                self.warnings.append(warning)
        if not settings.gpus_per_task and any(member.facts.gpus for member in used):
            self.warnings.append(
                "the nodes have GPUs and gpus_per_task is 0: every task sees all of them"
            )
