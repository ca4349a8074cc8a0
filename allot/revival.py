"""Bringing a job back to its nodes by what an earlier client left on disk.

Rules: nothing is asked here; each node's first turn connects, reads what happened since the
recorded place in its event file, and asks once more for what was never heard of.
"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

from allot.foreman import Foreman
from allot.launcher import Job, Launcher, TaskFactory
from allot.lease import Lease
from allot.lifecycle import Ledger
from allot.memory import Memory, entries
from allot.monitor import Monitor
from allot.outfit import Charter, Outfit
from allot.records import JobState


def charter_of(state: JobState, ssh_config: Path | None) -> Charter:
    """What made a job the one it is.

    Args:
        state: What is remembered of it.
        ssh_config: To be obeyed instead of the remembered one, or None.
    """
    job = state.job
    return Charter(
        job.job_id,
        job.settings,
        job.probe,
        job.specs,
        ssh_config or job.ssh_config,
        job.params,
    )


def revive(
    state: JobState,
    task_factory: TaskFactory | None,
    outfit: Outfit,
    lease: Lease,
    *,
    pool: Executor,
    state_file: Path,
) -> Monitor:
    """Take a job over from an earlier client.

    Args:
        state: What is remembered of it, read after the lease was won.
        task_factory: Makes the tasks that wait; None: they go on waiting.
        outfit: The means to work on its nodes.
        lease: The right to drive it.
        pool: Where turns are taken.
        state_file: Where its state is kept.

    Returns:
        The monitor, to be started.

    Raises:
        ConfigError: The ssh configuration makes no sense, or the state cannot be written.
        SupersededError: Another client was quicker.
    """
    record, ntasks = state.job, len(state.tasks)
    job = Job(record.job_id, record.nnodes, ntasks, record.settings, record.settings.env)
    launcher = Launcher(job, task_factory, outfit.used_names, record.group)
    ledger = Ledger(entries(state.tasks, record.params))
    for task in state.tasks:
        launcher.remember(task.status.proc_id, (task.status.output_file, task.error_file))
    outfit.used_names += [node.name for node in state.nodes]
    # One that is over is connected to where something of it is left, to be removed.
    connect = not ledger.is_final or any(node.is_prepared for node in state.nodes)
    seats = list(
        pool.map(lambda node: outfit.seat_of(node, launcher, lease, connect=connect), state.nodes)
    )
    memory = Memory(record, state.tasks)
    foreman = Foreman(ledger, launcher, seats, record.settings, memory)
    for seat in seats:
        seat.driver.adopt(memory.launches_on(ledger, seat.place.node_id))
    foreman.pick_up()
    return outfit.monitor(foreman, launcher, lease, state_file)
