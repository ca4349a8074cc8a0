"""Which task brought which result: written down before it lies there."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allot.claims import Claims, as_claim, read_claims

NAMES = st.binary(min_size=1, max_size=30).map(
    lambda data: Path(os.fsdecode(data.replace(b"\0", b"n")))
)
CLAIMS = st.dictionaries(NAMES, st.integers(0, 10**9), max_size=6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.collected"


def test_a_result_is_one_tasks(tmp_path: Path, file: Path) -> None:
    """Another task may not have the same place; the same one may bring it again."""
    claims, place = Claims(file), tmp_path / "a b\n.pt"
    assert claims.take(place, 3, may_replace=True) == ""
    assert claims.take(place, 3, may_replace=True) == ""
    refusal = claims.take(place, 4, may_replace=True)
    assert refusal == f"task 3 has brought {place} already: put {{proc_id}} into the name"
    assert read_claims(file) == {place: 3}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_later_client_knows_it_too(tmp_path: Path, file: Path) -> None:
    """What the task brought before any end of the client is its own, and may be brought again."""
    place = tmp_path / "x"
    Claims(file).take(place, 3, may_replace=False)
    place.touch()
    later = Claims(file)
    assert later.take(place, 3, may_replace=False) == ""
    assert "task 3" in later.take(place, 4, may_replace=False)


@pytest.mark.parametrize("target", [None, "nowhere"])
def test_what_lies_there_already_is_not_replaced(
    tmp_path: Path, file: Path, target: str | None
) -> None:
    """A file of the user's, or a link; unless the place is the job's own."""
    place = tmp_path / "x"
    place.touch() if target is None else place.symlink_to(target)
    words = f"{place} is here already, and not from this task: move it out of the way"
    assert Claims(file).take(place, 3, may_replace=False) == words
    assert read_claims(file) == {}
    assert Claims(file).take(place, 3, may_replace=True) == ""


@given(CLAIMS)
def test_what_is_written_is_read(claims: dict[Path, int]) -> None:
    """Whatever the names."""
    assert read_text(b"".join(as_claim(path, one) for path, one in claims.items())) == claims


@given(CLAIMS, st.data())
def test_a_torn_line_counts_for_nothing(claims: dict[Path, int], data: st.DataObject) -> None:
    """And spoils no other, wherever a full disk or the end of a client cut it."""
    lines = [as_claim(path, one) for path, one in claims.items()]
    torn = as_claim(Path("torn"), 7)
    torn = torn[: data.draw(st.integers(0, len(torn) - 3))]
    lines.insert(data.draw(st.integers(0, len(lines))), torn)
    assert read_text(b"".join(lines)) == claims


@given(st.binary(max_size=200))
def test_rubbish_is_read_as_nothing(data: bytes) -> None:
    """Nothing is raised, and no line beside is lost."""
    known = read_text(data + as_claim(Path("x"), 3) + b"\n" + b"1" * 5000 + b" y .")
    assert known[Path("x")] == 3


def test_what_cannot_be_written_down_is_not_claimed(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told, and nothing is taken for written; with room again all is well."""
    claims, write = Claims(file), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(OSError, match="No space left") as error:
            claims.take(tmp_path / "x", 3, may_replace=True)
    assert error.value.errno == errno.ENOSPC
    assert claims.take(tmp_path / "x", 12, may_replace=True) == ""
    assert read_claims(file) == {tmp_path / "x": 12}


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """It is not taken for an empty one."""
    with pytest.raises(IsADirectoryError):
        Claims(tmp_path).take(tmp_path / "x", 3, may_replace=True)


def test_many_nodes_at_once(tmp_path: Path, file: Path) -> None:
    """Of tasks that end together on several nodes one has each name."""
    claims = Claims(file)
    wanted = [(tmp_path / str(at), task) for at in range(50) for task in range(4)]
    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(lambda one: claims.take(*one, may_replace=True), wanted)]
    owners = {path: task for (path, task), refusal in zip(wanted, said, strict=True) if not refusal}
    assert said.count("") == len(owners) == 50
    assert read_claims(file) == owners


def read_text(data: bytes) -> dict[Path, int]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return read_claims(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
