"""Bringing a job onto its nodes: who is used, with how many slots, and the first wave.

Rules: until :meth:`Muster.launch` has made every task of the first wave, nothing was started
anywhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from allot import paths
from allot.driver import NodeDriver
from allot.errors import ConfigError
from allot.hostfile import node_names
from allot.launcher import Job, Launcher, Place, TaskFactory
from allot.lifecycle import Ledger
from allot.model import NodeHealth, NodeSpec, NodeState, NodeStatus
from allot.monitor import Monitor, Seat
from allot.node import Gateway
from allot.output import is_on_local_file_system
from allot.probe import NodeProbe, Sharing, SharingTest
from allot.roster import Candidate, Member, Roster, choose
from allot.scheduler import NodeSlots, plan, slots_of_node
from allot.settings import Settings


class Muster:
    """Gathers the nodes of one job and launches its first wave on them.

    Attributes:
        candidates: Every node that was asked.
    """

    def __init__(
        self, settings: Settings, job_id: str, probe: NodeProbe, pool: Executor, gateway: Gateway
    ) -> None:
        """Prepare; nothing is asked yet."""
        self.candidates: list[Candidate] = []
        self._settings = settings
        self._job_id = job_id
        self._probe = probe
        self._pool = pool
        self._gateway = gateway

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
        roster = Roster(self._pool, self._gateway, self._probe, ssh_config, self._room_objection)
        test = self._begin_sharing_test()
        try:
            self.candidates = roster.ask(specs, node_names(specs), test, settings.nnodes)
        finally:
            test.nonce_file.unlink(missing_ok=True)
        return choose(self.candidates, settings.nnodes)

    def launch(self, used: Sequence[Member], task_factory: TaskFactory) -> Monitor:
        """Make the tasks of the first wave, and launch them.

        Returns:
            The monitor, which sends them out.

        Raises:
            TaskConfigError: The factory returned what cannot be launched.
            Exception: Whatever the factory raised.
        """
        settings = self._settings
        places = [
            Place(member.name, node_id, self._slots(member.spec, member.facts.health))
            for node_id, member in enumerate(used)
        ]
        job = Job(
            job_name=settings.job_name,
            job_id=self._job_id,
            output_dir=settings.output_dir,
            nnodes=len(places),
            ntasks=settings.ntasks or sum(place.slots for place in places),
            cpus_per_task=settings.cpus_per_task,
        )
        launcher = Launcher(job, task_factory)
        ledger = Ledger([None] * job.ntasks)
        slots = [NodeSlots(place.node_id, NodeState.READY, place.slots) for place in places]
        wave = [
            (placement, launcher.prepare(placement, places[placement.node_id], None, attempt=0))
            for placement in plan(ledger, slots, settings.distribution)
        ]
        seats = [
            self._seat(member, place, launcher.variables(place))
            for member, place in zip(used, places, strict=True)
        ]
        monitor = Monitor(ledger, launcher, self._pool, seats, settings.distribution)
        monitor.start(wave)
        return monitor

    def hang_up(self) -> None:
        """Close every connection."""
        for candidate in self.candidates:
            if candidate.member is not None:
                candidate.member.node.close()

    def _begin_sharing_test(self) -> SharingTest:
        output_dir = self._settings.output_dir
        nonce_file = paths.nonce_file(output_dir, self._job_id)
        nonce = secrets.token_hex(16)
        try:
            nonce_file.parent.mkdir(parents=True, exist_ok=True)
            nonce_file.write_text(f"{nonce}\n")
        except OSError as error:
            raise ConfigError(
                f"output_dir {output_dir} cannot be written to: {error.strerror}; "
                "name a directory of your own"
            ) from error
        return SharingTest(output_dir, nonce_file, nonce, is_on_local_file_system(output_dir))

    def _room_objection(self, spec: NodeSpec, health: NodeHealth) -> str:
        if self._slots(spec, health):
            return ""
        return f"has {health.cpus} CPUs, a task takes {self._settings.cpus_per_task}"

    def _slots(self, spec: NodeSpec, health: NodeHealth) -> int:
        settings = self._settings
        return slots_of_node(
            health.cpus,
            settings.cpus_per_task,
            wanted=settings.ntasks_per_node or spec.slots,
            sized_by_cpus=settings.ntasks is not None,
            oversubscribe=settings.oversubscribe,
        )

    def _seat(self, member: Member, place: Place, variables: Mapping[str, str]) -> Seat:
        told = self._settings.shared_fs
        facts = member.facts
        driver = NodeDriver(
            member.node,
            self._job_id,
            variables,
            facts.sharing if told is None else Sharing(shared=told, fresh=told),
            clock_offset=facts.clock_offset,
            poll_interval=self._settings.poll_interval,
        )
        status = NodeStatus(member.name, NodeState.READY, place.node_id, health=facts.health)
        return Seat(driver, place, status)
