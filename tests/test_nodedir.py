"""A job's directory on a node, in real Bash: made, removed, swept, and whose orders count."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest
from localnode import JOB_DIRECTORY, LocalNode, launch_script

from allot import script
from allot.events import Started
from allot.nodedir import KEPT_DAYS
from allot.script import CancelOrder

LATER = 1 << 50


def prepared(node: LocalNode, generation: int) -> bytes:
    return node.request(script.prelude(JOB_DIRECTORY, {}, generation=generation)).split()[0]


def uptime() -> int:
    with open("/proc/uptime") as file:
        return round(float(file.read().split()[0]) * 100)


def test_a_node_says_whether_it_knew_the_job(node: LocalNode) -> None:
    """Where the directory was removed meanwhile, the client hears of it."""
    reply = node.request(script.prelude(JOB_DIRECTORY, {}, generation=1)).split()
    assert reply[:2] == [b"ready", b"old"]
    assert abs(int(reply[2]) - uptime()) < 6000
    assert reply[3] == os.fsencode(node.directory)
    shutil.rmtree(node.directory)
    reply = node.request(script.prelude(JOB_DIRECTORY, {}, generation=1)).split()
    assert reply[:2] == [b"ready", b"new"]


def test_an_older_client_is_refused(make_node: Callable[..., LocalNode]) -> None:
    """Once a later one was there: nothing it sends starts or ends a task, and it is told why."""
    old, new = make_node(), make_node()
    old.prepare()
    new.prepare(generation=12)
    assert old.request(launch_script(old.launch("touch ~/ran"))) == b"refused superseded 12\n"
    order = [CancelOrder(0, 0, 0.0)]
    assert old.request(script.cancel_script(order, generation=1)) == b"refused superseded 12\n"
    assert prepared(old, 1) == b"superseded"
    assert prepared(old, 11) == b"superseded"
    assert new.events() == []
    assert old.request(script.clean_up_script(1)) == b""
    assert new.directory.exists()
    launch = new.launch("touch ~/ran")
    assert new.request(script.launch_script([launch], generation=12, until=LATER)) == b""
    new.wait()
    assert (new.home / "ran").exists()


def test_what_arrives_too_late_starts_nothing(node: LocalNode) -> None:
    """A request that was on its way for longer than its client's lease held."""
    late = script.launch_script([node.launch("touch ~/ran")], generation=1, until=uptime() - 100)
    assert node.request(late) == b"refused late\n"
    soon = script.launch_script([node.launch("touch ~/ran")], generation=1, until=uptime() + 9000)
    assert node.request(soon) == b""
    node.wait()
    assert sum(isinstance(event, Started) for event in node.events()) == 1


def test_what_the_login_makes_later_is_as_open_as_before(node: LocalNode) -> None:
    """Only the job's own directory is closed to others, whatever the mask of the login."""
    node.request("umask 027")
    shutil.rmtree(node.directory)
    node.prepare()
    assert node.directory.stat().st_mode & 0o777 == 0o700
    assert (node.directory / "events").stat().st_mode & 0o777 == 0o600
    assert node.request("umask") == b"0027\n"


def test_what_nobody_knows_in_the_directory_goes_with_the_job(node: LocalNode) -> None:
    """Files of a later version, or hidden ones."""
    (node.directory / "more").mkdir()
    (node.directory / "more/.file").touch()
    (node.directory / ".hidden").touch()
    assert node.request(script.clean_up_script(1)) == b"gone\n"
    assert list((node.home / ".allot").iterdir()) == []


def test_a_job_that_is_over_leaves_nothing(node: LocalNode) -> None:
    """Its directory goes; what other nodes of a shared home have there, and other jobs, stays."""
    other = node.directory.with_name("nd02")
    other.mkdir()
    assert node.request(script.clean_up_script(1)) == b"gone\n"
    assert not node.directory.exists()
    assert other.exists()
    other.rmdir()
    node.prepare()
    assert node.request(script.clean_up_script(1)) == b"gone\n"
    assert list((node.home / ".allot").iterdir()) == []


@pytest.mark.parametrize(
    ("events", "days", "is_swept"),
    [
        ("S 0 0 1 1 1 .\nE 0 0 0 1 end 2 .\nS 1 0 1 1 1 .\nX 1 0 cwd 2 .\n", KEPT_DAYS + 2, True),
        ("S 0 0 1 1 1 .\nE 0 0 0 1 end 2 .\nS 1 0 1 1 1 .\nX 1 0 cwd 2 .\n", KEPT_DAYS - 2, False),
        ("S 0 0 1 1 1 .\nE 0 0 0 1 end 2 .\nS 0 1 1 1 1 .\n", KEPT_DAYS + 2, False),
        ("C 0 0 2 .\n", KEPT_DAYS + 2, True),
        ("", KEPT_DAYS + 2, True),
    ],
    ids=["all ended long ago", "not so long ago", "one may still run", "cancelled", "nothing ran"],
)
def test_jobs_that_ended_long_ago_are_swept(
    make_node: Callable[..., LocalNode], events: str, days: int, is_swept: bool
) -> None:
    """A new job removes what they left, but nothing whose task may run, and nothing of others."""
    node = make_node()
    old = node.home / ".allot/20260101-000000-0123abcd/nd01"
    old.mkdir(parents=True)
    (old / "0.0").touch()
    (old / "events").write_text(events)
    mine = node.home / ".allot/notes.txt"
    mine.write_text("the user's own")
    when = time.time() - days * 86400
    for path in (old / "events", mine):
        os.utime(path, (when, when))
    node.prepare()
    node.wait()
    assert old.parent.exists() is not is_swept
    assert mine.exists()
    assert node.directory.exists()


def test_a_recorder_that_waits_for_another_client_keeps_no_directory(
    make_node: Callable[..., LocalNode],
) -> None:
    """The Bash of a client that is gone without a word may stay for long, with its recorders."""
    old, new = make_node(), make_node()
    old.prepare()
    old.run(old.launch("true"))
    new.prepare(generation=2)
    assert new.request(script.clean_up_script(2)) == b"gone\n"
