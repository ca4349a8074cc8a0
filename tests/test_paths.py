"""The names of what Allot makes, on the client and on a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from allot import paths


@pytest.mark.parametrize(
    ("node_name", "directory"),
    [
        ("node-01.lab_2", ".allot/j1/node-01.lab_2"),
        ("host:2222", ".allot/j1/host_2222"),
        ("[fd00::7]:22", ".allot/j1/_fd00__7__22"),
    ],
)
def test_a_nodes_directory_is_one_plain_name_below_the_job(node_name: str, directory: str) -> None:
    """Ports and addresses give names that need no quoting, apart for each node of a job."""
    assert paths.node_directory("j1", node_name) == directory
    assert paths.event_file(directory) == f"{directory}/events"


def test_outputs_lie_in_the_output_directory_and_the_rest_beside() -> None:
    """A user finds ``<proc_id>.out``; what is Allot's own has a dot."""
    out = Path("/data/my out")
    assert paths.default_output(out, 12) == out / "12.out"
    assert paths.state_directory(out) == out / ".allot"
    nonce = paths.nonce_file(out, "j1")
    assert nonce.parent == out / ".allot"
    assert {paths.nonce_answer(nonce, node_id).name for node_id in (0, 11)} == {
        "nonce-j1.0",
        "nonce-j1.11",
    }


def test_a_file_grows_beside_its_final_place() -> None:
    """What is not whole yet is hidden, in the same directory, and belongs to one job."""
    final = Path("/out/a b.out")
    parts = {paths.partial_file(final, job_id) for job_id in ("j1", "j2")}
    assert parts == {Path("/out/.a b.out.j1.part"), Path("/out/.a b.out.j2.part")}
