"""Files that many ask for: read once, and again when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from allot.unchanged import Unchanged


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    """Also where it is replaced by another of the same size."""
    file, other = tmp_path / "file", tmp_path / "other"
    read: list[str] = []

    def parse(path: Path, data: bytes) -> str:
        assert path == file
        read.append(data.decode())
        return read[-1]

    files = Unchanged(parse)
    file.write_text("one")
    assert [files.read(file), files.read(file)] == ["one", "one"]
    other.write_text("two")
    other.replace(file)
    assert [files.read(file), files.read(file)] == ["two", "two"]
    with file.open("a") as out:
        out.write(", three")
    assert files.read(file) == "two, three"
    assert read == ["one", "two", "two, three"]


def test_a_file_that_is_gone_is_told_each_time(tmp_path: Path) -> None:
    """What was read before is no answer."""
    file = tmp_path / "file"
    files = Unchanged(lambda _, data: data)
    file.write_text("one")
    files.read(file)
    file.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.read(file)
