"""Files and directories that go to the nodes: what they are made of, on a real file system."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from allot import tree
from allot.errors import ConfigError
from allot.staging import Entry, Source
from allot.tree import Trees, scan


def grow(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def found(root: Path, name: str = ".", leave_out: tuple[Path, ...] = ()) -> dict[str, str | None]:
    """What a source is made of: a link's target, "" for a directory, None for a file, by name."""
    path = root if name == "." else root / name
    return {entry.name: entry.target for entry in scan(Source(path, name), leave_out)}


def refusal(root: Path, name: str = ".") -> str:
    with pytest.raises(ConfigError) as error:
        found(root, name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_file_of_a_directory(tmp_path: Path) -> None:
    """By its place below the directory in which the task starts, whatever its name."""
    names = ["a b", "-n", "x\ny", "\udcff", ".hidden", "sub/deep/z", "sub/a"]
    grow(tmp_path / "data", *names)
    assert found(tmp_path, "data") == {f"data/{name}": None for name in names}
    assert found(tmp_path / "data") == dict.fromkeys(names)
    assert found(tmp_path, "data/sub") == {"data/sub/deep/z": None, "data/sub/a": None}


def test_what_is_told_of_a_file(tmp_path: Path) -> None:
    """Its size, its time in whole seconds that are not rounded up, and its mode."""
    file = grow(tmp_path, "run.sh") / "run.sh"
    file.chmod(0o4755)
    os.utime(file, ns=(0, 1_700_000_000_999_999_999))
    expected = Entry(file, "run.sh", 6, 1_700_000_000, 0o4755)
    assert scan(Source(file, "run.sh")) == scan(Source(tmp_path, ".")) == (expected,)
    os.utime(file, (-5, -5))
    assert scan(Source(file, "run.sh"))[0].mtime == 0


def test_directories_that_are_empty_go_along(tmp_path: Path) -> None:
    """A task may count on the place for its results; a source that is empty is one, too."""
    (tmp_path / "data/out/deep").mkdir(parents=True)
    assert found(tmp_path, "data") == {"data/out/deep": ""}
    assert found(tmp_path / "data") == {"out/deep": ""}
    assert found(tmp_path / "data/out", "deep") == {"deep": ""}
    assert found(tmp_path / "data/out/deep") == {}


def test_links_stay_links_where_they_lead_into_the_tree(tmp_path: Path) -> None:
    """As they are; what would lead elsewhere on a node is said in another way."""
    root = grow(tmp_path / "data", "v1/x", "y")
    links = {
        "latest": "v1",
        "v1/up": "../y",
        "v1/..up": "..up2",
        "v1/..up2": "x",
        "chain": "latest/x",
        "self": ".",
        "v1/all": "..",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "absolute").symlink_to(root / "v1/x")
    (root / "v1/outside").symlink_to("../../data/y")
    (tmp_path / "twin").symlink_to("data")
    (root / "by-twin").symlink_to("../twin/v1")
    expected = {"v1/x": None, "y": None, **links}
    expected |= {"absolute": "v1/x", "v1/outside": "../y", "by-twin": "v1"}
    assert found(root) == expected
    assert found(tmp_path, "twin").keys() == {f"twin/{name}" for name in expected}


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    """Or nowhere, or round and round: named, with what to do."""
    root = grow(tmp_path / "data", "x")
    grow(tmp_path, "secret", "database/x")
    for target in ("../secret", "/etc/passwd", "..", "missing", "../database/x", "link"):
        (root / "link").symlink_to(target)
        words = refusal(tmp_path, "data")
        assert words.startswith(f"stage_in: {root}/link is a link that leads out of {root}")
        assert "put a copy in its place" in words
        (root / "link").unlink()
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert "a is a link that leads out" in refusal(tmp_path, "data")


def test_a_source_may_be_a_link(tmp_path: Path) -> None:
    """The user named it; its files are named as the user names them, so that none is two."""
    grow(tmp_path / "scratch", "x", "sub/y")
    (tmp_path / "data").symlink_to("scratch")
    (tmp_path / "file").symlink_to("scratch/x")
    entries = scan(Source(tmp_path / "data", "data"))
    assert {entry.path for entry in entries} == {tmp_path / "data/x", tmp_path / "data/sub/y"}
    assert found(tmp_path, "file") == {"file": None}
    assert scan(Source(tmp_path / "data/x", "data/x"))[0] in entries


def test_what_is_no_file_is_left_out_or_refused(tmp_path: Path) -> None:
    """In a tree it goes without; as a source it would be waited for without end."""
    grow(tmp_path / "data", "x")
    os.mkfifo(tmp_path / "data/pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "data/socket"))
    assert found(tmp_path, "data") == {"data/x": None}
    for path in (tmp_path / "data/pipe", tmp_path / "data/socket", Path("/dev/zero")):
        words = refusal(path.parent, path.name)
        assert (
            words == f"stage_in: {path} is neither a file nor a directory: write it to a file first"
        )


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    """With its place."""
    words = f"stage_in: {tmp_path}/none: No such file or directory"
    assert refusal(tmp_path, "none") == words
    grow(tmp_path, "x")
    assert refusal(tmp_path, "x/y") == f"stage_in: {tmp_path}/x/y: Not a directory"
    assert "File name too long" in refusal(tmp_path, "n" * 300)


def test_what_cannot_be_read_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, or a directory; for root everything can be, so the answer is made up here."""
    root = grow(tmp_path / "data", "shut", "x")
    access, scandir = os.access, os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: "shut" not in str(path) and access(path, mode)
        )
        assert refusal(tmp_path, "data") == f"stage_in: {root}/shut: it cannot be read"

    def refuse(path: Path) -> object:
        if path.name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (root / "shut").unlink()
    (root / "shut").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(tmp_path, "data") == f"stage_in: {root}/shut: Permission denied"


def test_the_jobs_own_outputs_stay_here(tmp_path: Path) -> None:
    """They lie below the source often, and would go round in circles."""
    root = grow(tmp_path / "proj", "x", "out/0.out", "sub/out/y")
    (tmp_path / "twin").symlink_to("proj")
    for place in (root, tmp_path / "twin"):
        for out in (root / "out", tmp_path / "twin/out", root / "sub/../out"):
            assert set(found(place, leave_out=(out,))) == {"x", "sub/out/y"}
    assert found(root, "out") == {"out/0.out": None}


def test_what_allot_keeps_stays_here(tmp_path: Path) -> None:
    """Also where the outputs lie in the source itself: it holds the variables of the tasks."""
    grow(tmp_path, "x", ".allot/job.json", "sub/.allot/y")
    entries = Trees([tmp_path]).entries(Source(tmp_path, "."), 0)
    assert {entry.name for entry in entries} == {"x", "sub/.allot/y"}


def test_a_tree_is_looked_at_once_for_all_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whichever thread comes first; a later attempt of a task looks anew."""
    grow(tmp_path, "data/x")
    looked: list[Source] = []

    def count(source: Source, leave_out: object) -> tuple[Entry, ...]:
        looked.append(source)
        return scan(source, (tmp_path / "data/out",)) if leave_out else ()

    monkeypatch.setattr(tree, "scan", count)
    trees, source = Trees([tmp_path / "data/out"]), Source(tmp_path / "data", "data")
    with ThreadPoolExecutor(8) as pool:
        every = [*pool.map(lambda _: trees.entries(source, 0), range(32))]
    assert looked == [source]
    assert {entry.name for entry in every[0]} == {"data/x"}
    assert all(entries is every[0] for entries in every)
    grow(tmp_path, "data/y")
    assert {entry.name for entry in trees.entries(source, 1)} == {"data/x", "data/y"}
    assert len(looked) == 2


def test_what_tasks_need_is_checked_beforehand(tmp_path: Path) -> None:
    """As far as it is known: not what only a task's place will say."""
    grow(tmp_path, "common", "in/0", "in/1", "0.a", "1.b")
    trees = Trees([])
    params = [{"name": "a"}, {"name": "b"}]
    texts = ["common", "in/{proc_id}", "{proc_id}.{name}", "{node_name}/x"]
    trees.check(texts, tmp_path, params)
    trees.check([], tmp_path, [None])
    with pytest.raises(ConfigError, match=f"{tmp_path}/in/2: No such file"):
        trees.check(["in/{proc_id}"], tmp_path, [None] * 3)
    with pytest.raises(ConfigError, match="would both arrive as x"):
        trees.check([f"{tmp_path}/{{proc_id}}/x"], tmp_path, [None] * 2)
