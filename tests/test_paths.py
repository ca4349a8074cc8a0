"""The names of what Allot makes, on the client and on a node."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allot import paths


@pytest.mark.parametrize("node_name", ["node-01.lab_2", "host:2222", "[fd00::7]:22", "a b/$x"])
def test_a_nodes_directory_is_one_plain_name_below_the_job(node_name: str) -> None:
    """Ports and addresses give names that need no quoting."""
    directory = paths.node_directory("j1", node_name)
    assert re.fullmatch(r"\.allot/j1/[A-Za-z0-9._-]+", directory)
    assert paths.event_file(directory) == f"{directory}/events"


def test_each_node_has_a_directory_of_its_own() -> None:
    """Also where the names differ only in signs that a directory's name cannot have."""
    names = ["h:22", "h_22", "h/22", "[h]22"]
    assert len({paths.node_directory("j1", name) for name in names}) == len(names)
    assert paths.node_directory("j1", "node01") == ".allot/j1/node01"


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


def test_what_a_job_says_and_shows_bears_its_name() -> None:
    """What its client in the background says lies beside the state; the page is to be opened."""
    assert paths.log_file(Path("/out"), "sweep") == Path("/out/.allot/sweep.log")
    assert paths.report_file(Path("/out"), "sweep") == Path("/out/sweep.html")


def test_a_file_grows_beside_its_final_place() -> None:
    """What is not whole yet is hidden, in the same directory, and belongs to one job."""
    final = Path("/out") / ("ä" * 127)
    parts = [paths.partial_file(final, job_id) for job_id in ("j1", "j2")]
    assert parts[0] != parts[1] != paths.partial_file(final.with_name("b"), "j2")
    for part in parts:
        assert part.parent == final.parent
        assert part.name.startswith(".")
        assert len(part.name.encode()) < 255


def test_an_earlier_attempt_keeps_its_output_beside_the_later_ones() -> None:
    """Its number is the file's last suffix."""
    assert paths.earlier_attempt(Path("/out/3.out"), 0) == Path("/out/3.out.0")
