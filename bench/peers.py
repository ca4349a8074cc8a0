"""The peers that are commands: their command lines for the same work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from bench.figures import Figures
from bench.rig import Site, command

# Also `setsid` alone would be attached; the output of `true` is its exit code here.
_LOOP = """
for ((i = 0; i < {tasks}; i++)); do
  setsid bash -c "true; echo \\$? > $i" &
  ((i % {slots} != {slots} - 1)) || wait
done
wait
"""


def bash_loop(site: Site, *, tasks: int, slots: int) -> Callable[[], Figures]:
    """A local Bash that starts every task detached, and nothing else: no SSH, no queue."""
    script = _LOOP.format(tasks=tasks, slots=slots * len(site.names))
    return command(site, ["bash", "-c", script], tasks)


def gnu_parallel(site: Site, *, tasks: int, slots: int) -> Mapping[str, Callable[[], Figures]]:
    """GNU parallel over ssh with connections that are shared; none where it is not installed."""
    if not shutil.which("parallel"):
        return {}
    ssh = f"ssh -F {site.ssh_config} -o ControlMaster=auto -o ControlPath={site.directory}/%n"
    logins = ",".join(f"{slots}/{name}" for name in site.names)
    argv = ["parallel", "--will-cite", "--ssh", f"{ssh} -o ControlPersist=60"]
    argv += ["--sshlogin", logins, "-n0", "true", ":::", *map(str, range(tasks))]
    after = [[*ssh.split(), "-O", "exit", name] for name in site.names]
    return {"GNU parallel": command(site, argv, tasks, after=after)}


def clush(site: Site) -> Mapping[str, Callable[[], Figures]]:
    """ClusterShell, one command on every node; none where it is not installed."""
    if not shutil.which("clush"):
        return {}
    argv = ["clush", "-S", "-w", ",".join(site.names), "-o", f"-F {site.ssh_config}", "true"]
    return {"clush": command(site, argv, len(site.names))}


def pdsh(site: Site) -> Mapping[str, Callable[[], Figures]]:
    """Pdsh, one command on every node; none where it is not installed."""
    if not shutil.which("pdsh"):
        return {}
    argv = ["env", f"PDSH_SSH_ARGS_APPEND=-F {site.ssh_config}", "pdsh", "-S", "-R", "ssh"]
    argv += ["-l", site.user, "-w", ",".join(site.names), "true"]
    return {"pdsh": command(site, argv, len(site.names))}
