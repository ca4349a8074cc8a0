"""A look at nodes without a job."""

from __future__ import annotations

import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from allot.model import NodeStatus
from allot.outfit import Charter, Outfit
from allot.probe import NodeProbe
from allot.roster import config_path, make_room_for, read_specs
from allot.settings import Settings

_MOST_WORKERS = 128


def survey(
    node_file: str | Path, ssh_config: str | Path | None, probe: NodeProbe
) -> list[NodeStatus]:
    """Ask all nodes of a host file whether a job could use them now.

    Args:
        node_file: The host file.
        ssh_config: The OpenSSH client configuration to obey. None: the user's own.
        probe: When a node may be used.

    Returns:
        One status a node, in the file's order: READY, or BUSY or UNREACHABLE with the reason.

    Raises:
        NodeFileError: The host file does not follow the grammar.
        ConfigError: The ssh configuration makes no sense.
    """
    specs = read_specs(node_file, None)
    make_room_for(len(specs))
    with (
        tempfile.TemporaryDirectory(prefix="allot-probe-") as directory,
        ThreadPoolExecutor(min(len(specs), _MOST_WORKERS), "allot-probe") as pool,
    ):
        settings = Settings("probe", Path(directory))
        job_id = f"probe-{secrets.token_hex(4)}"
        outfit = Outfit(Charter(job_id, settings, probe, specs, config_path(ssh_config)), pool)
        try:
            with outfit.sharing_test() as test:
                asked = outfit.roster.ask(specs, outfit.names, test, None)
        finally:
            outfit.hang_up()
    healths = [None if one.member is None else one.member.facts.health for one in asked]
    return [
        NodeStatus(one.name, one.state, None, one.reason, health)
        for one, health in zip(asked, healths, strict=True)
    ]
