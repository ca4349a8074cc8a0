"""Bringing a new job onto its nodes: who is used, with how many slots, and the first wave.

Rules: until every task of the first wave was made and the job is on disk, nothing was started
anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from allot import answers, questions
from allot.environment import Group, Rendezvous
from allot.errors import ConfigError
from allot.foreman import Foreman
from allot.launcher import Job, Launcher, Place, TaskFactory
from allot.lease import Lease
from allot.lifecycle import Entry, Ledger, Placement, new_entries
from allot.memory import Memory, entries
from allot.model import NodeState
from allot.monitor import Monitor
from allot.node import Node
from allot.outfit import Outfit
from allot.probe import SharingTest
from allot.records import JobRecord, TaskRecord
from allot.roster import Member, choose
from allot.scheduler import cap_warning, plan
from allot.seats import Seat

_RENDEZVOUS_PORTS = 16
_ASK_AGAIN_S = 2.0


class Muster:
    """Gathers the nodes of one job and launches its first wave on them.

    Attributes:
        warnings: What the user should know of the nodes used.
    """

    def __init__(self, outfit: Outfit, pool: Executor) -> None:
        """Prepare; nothing is asked yet."""
        self.warnings: list[str] = []
        self._outfit = outfit
        self._settings = outfit.charter.settings
        self._specs = outfit.charter.specs
        self._pool = pool

    def gather(self) -> list[Member]:
        """Connect to the nodes, probe them, and choose those to use.

        Raises:
            ConfigError: The output directory cannot be written to, or the ssh configuration
                makes no sense.
            NotEnoughNodesError: Too few passed.
        """
        outfit, nnodes = self._outfit, self._settings.nnodes
        if nnodes is not None and nnodes > len(self._specs):
            raise ConfigError(f"nnodes is {nnodes}, but only {len(self._specs)} nodes are named")
        with outfit.sharing_test() as test:
            asked = outfit.roster.ask(self._specs, outfit.names, test, nnodes)
            outfit.candidates = dict(enumerate(asked))
            self._wait_for_nodes(test)
        return choose(list(outfit.candidates.values()), nnodes)

    def launch(
        self,
        used: Sequence[Member],
        task_factory: TaskFactory,
        state_file: Path,
        claim: Callable[[], Lease],
        kept: Mapping[int, TaskRecord],
    ) -> Monitor:
        """Make the tasks of the first wave, put the job on disk, and launch them.

        Args:
            used: The nodes.
            task_factory: Makes the tasks.
            state_file: Where the job's state is kept.
            claim: Makes this client the one that drives the job, once all tasks are made.
            kept: Tasks that completed in an earlier job and are not to run again.

        Returns:
            The monitor, which sends them out once it is started.

        Raises:
            ConfigError: The tasks cannot all run at once, but must; or the state cannot be
                written.
            TaskConfigError: The factory returned what cannot be launched.
            Exception: Whatever the factory raised.
        """
        outfit, settings = self._outfit, self._settings
        places = [outfit.place(member, node_id) for node_id, member in enumerate(used)]
        ntasks = settings.ntasks or sum(place.slots for place in places)
        kept = {proc_id: task for proc_id, task in kept.items() if proc_id < ntasks}
        params = outfit.charter.params or (None,) * ntasks
        ledger = Ledger(_with_kept(new_entries(params), kept))
        nodes = [
            Seat.slots_of(place, member.facts, outfit.terms)
            for place, member in zip(places, used, strict=True)
        ]
        placements = plan(
            ledger, nodes, settings.distribution, gpus_per_task=settings.gpus_per_task
        )
        group = self._group(used[0].node, placements, ntasks) if self._is_torch else None
        job = Job(outfit.charter.job_id, len(places), ntasks, settings, settings.env)
        outfit.used_names += [member.name for member in used]
        launcher = Launcher(job, task_factory, outfit.used_names, group)
        for task in kept.values():
            launcher.remember(task.status.proc_id, (task.status.output_file, task.error_file))
        wave = [
            (placement, launcher.prepare(placement, place, params[placement.proc_id], 0))
            for placement in placements
            for place in [places[placement.node_id]]
        ]
        self._warn(used, places)
        lease = claim()
        try:
            seats = [
                outfit.seat(member, place, launcher, lease)
                for member, place in zip(used, places, strict=True)
            ]
            memory = Memory(self._record(len(places), group), kept.values())
            foreman = Foreman(ledger, launcher, seats, settings, memory)
            for placement, launch in wave:
                foreman.send(placement, launch)
            return outfit.monitor(foreman, launcher, lease, state_file)
        except BaseException:
            lease.release()
            raise

    def _record(self, nnodes: int, group: Group | None) -> JobRecord:
        charter = self._outfit.charter
        return JobRecord(
            job_id=charter.job_id,
            nnodes=nnodes,
            created=time.time(),
            settings=charter.settings,
            probe=charter.probe,
            specs=charter.specs,
            ssh_config=charter.ssh_config,
            params=charter.params,
            group=group,
        )

    def _wait_for_nodes(self, test: SharingTest | None) -> None:
        outfit = self._outfit
        give_up = time.monotonic() + self._settings.wait_for_nodes
        need = self._settings.nnodes or 1
        while True:
            states = [candidate.state for candidate in outfit.candidates.values()]
            left = give_up - time.monotonic()
            if states.count(NodeState.READY) >= need or left <= 0:
                return
            outfit.closing.wait(min(_ASK_AGAIN_S, left))
            others = [i for i, one in outfit.candidates.items() if one.state is not NodeState.READY]
            for member in (outfit.candidates[i].member for i in others):
                if member is not None:
                    member.node.close()
            answers = outfit.roster.ask(
                [self._specs[i] for i in others],
                [outfit.names[i] for i in others],
                test,
                need - states.count(NodeState.READY),
            )
            for number, candidate in zip(others, answers, strict=True):
                outfit.candidates[number] = candidate

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
                self._outfit.demand,
                wanted=self._outfit.wanted_slots(member.spec),
                oversubscribe=settings.oversubscribe,
            )
            if warning:
                self.warnings.append(warning)
        if not settings.gpus_per_task and any(member.facts.gpus for member in used):
            self.warnings.append(
                "the nodes have GPUs and gpus_per_task is 0: every task sees all of them"
            )
        killers = [member.name for member in used if member.facts.kills_at_logout]
        if killers:
            self.warnings.append(
                f"KillUserProcesses=yes in logind.conf on {', '.join(killers)}: tasks there end "
                "when this client's connection does; ask the administrator for an exception"
            )


def _with_kept(new: Sequence[Entry], kept: Mapping[int, TaskRecord]) -> list[Entry]:
    params = [entry.status.params for entry in new]
    old = dict(zip(kept, entries(list(kept.values()), params), strict=True))
    return [old.get(entry.status.proc_id, entry) for entry in new]
