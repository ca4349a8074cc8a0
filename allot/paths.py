"""Every file name Allot makes, on the client and on a node.

Rules: pure; names are made here and nowhere else. Paths on a node are POSIX text, relative ones
count from the login directory.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def node_directory(job_id: str, node_name: str) -> str:
    """Where a job keeps its files on a node, relative to the login directory.

    The home may be shared between nodes, hence the node's name in it; one that had to be changed
    ends in a digest, so that no two nodes are given the same.
    """
    safe = _UNSAFE.sub("_", node_name)
    if safe != node_name:
        safe += "-" + hashlib.sha256(node_name.encode()).hexdigest()[:8]
    return f".allot/{job_id}/{safe}"


def event_file(directory: str) -> str:
    """The append-only record of starts and ends in a node's job directory."""
    return f"{directory}/events"


def state_directory(output_dir: Path) -> Path:
    """What Allot keeps for itself beside a job's outputs."""
    return output_dir / ".allot"


def state_file(output_dir: Path, job_name: str) -> Path:
    """What is remembered of a job."""
    return state_directory(output_dir) / f"{job_name}.json"


def journal_file(state_file: Path, generation: int, serial: int) -> Path:
    """What changed since a snapshot: that of a client, and its number among that client's."""
    return state_file.with_name(f"{state_file.stem}.{generation}-{serial}.journal")


def snapshot_file(state_file: Path, generation: int, serial: int) -> Path:
    """All of a job at a time: that of a client, and its number among that client's."""
    return state_file.with_name(f"{state_file.stem}.{generation}-{serial}.snapshot")


def numbers_of(state_file: Path, file_name: str, kind: str) -> tuple[int, int] | None:
    """Generation and serial of a ``journal`` or ``snapshot`` of that job; None for other names."""
    stem = re.escape(state_file.stem)
    found = re.fullmatch(rf"{stem}\.(\d{{1,9}})-(\d{{1,9}})\.{kind}", file_name)
    return None if found is None else (int(found[1]), int(found[2]))


def log_file(output_dir: Path, job_name: str) -> Path:
    """What a job's client in the background says."""
    return state_directory(output_dir) / f"{job_name}.log"


def report_file(output_dir: Path, job_name: str) -> Path:
    """The page about a job, where its user names none."""
    return output_dir / f"{job_name}.html"


def lease_file(state_file: Path, generation: int) -> Path:
    """What the client of a generation says of itself while it drives the job."""
    return state_file.with_name(f"{state_file.stem}.{generation}.lease")


def generation_of(state_file: Path, file_name: str) -> int | None:
    """The generation of a lease file of that job; None for any other name."""
    found = re.fullmatch(rf"{re.escape(state_file.stem)}\.(\d{{1,9}})\.lease", file_name)
    return None if found is None else int(found[1])


def order_file(state_file: Path, key: str) -> Path:
    """An order that another client gives to the one that drives the job."""
    return state_file.with_name(f"{state_file.stem}.{key}.order")


def order_key(state_file: Path, file_name: str) -> str | None:
    """The key of an order for that job; None for any other name."""
    found = re.fullmatch(rf"{re.escape(state_file.stem)}\.([^.]+)\.order", file_name)
    return None if found is None else found[1]


def answer_file(state_file: Path, key: str) -> Path:
    """What came of an order."""
    return state_file.with_name(f"{state_file.stem}.{key}.answer")


def claims_file(state_file: Path) -> Path:
    """Which task brought which result."""
    return state_file.with_name(f"{state_file.stem}.collected")


def temporary_file(file: Path, key: str) -> Path:
    """Where a file is written before it is renamed."""
    return file.with_name(f"{file.name}.{key}.tmp")


def archive(output_dir: Path, job_id: str) -> Path:
    """Where a job that is over goes when another one takes its name."""
    return state_directory(output_dir) / job_id


def nonce_file(output_dir: Path, job_id: str) -> Path:
    """A file of random content, by which a node that shares ``output_dir`` is known."""
    return state_directory(output_dir) / f"nonce-{job_id}"


def nonce_answer(nonce: Path, node_id: int) -> Path:
    """What a node that can read the nonce file writes beside it."""
    return nonce.with_name(f"{nonce.name}.{node_id}")


def default_output(output_dir: Path, proc_id: int) -> Path:
    """The output file of a task that names none."""
    return output_dir / f"{proc_id}.out"


def unfinished(path: str, key: str) -> str:
    """Where a file is put together on a node before it is renamed to ``path``."""
    folder, _, name = path.rpartition("/")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{folder}/.{digest}.{key}.part"


def work_directory(job_id: str, node_name: str) -> str:
    """Where tasks start whose files are staged in, unless they are told where."""
    return f"~/{node_directory(job_id, node_name)}/work"


def results_directory(output_dir: Path, proc_id: int) -> Path:
    """Where what a task's ``collect`` brings is put."""
    return output_dir / str(proc_id)


def partial_file(path: Path, job_id: str) -> Path:
    """Where a file is put together before it is renamed to ``path``."""
    digest = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return path.with_name(f".{digest}.{job_id}.part")


def earlier_attempt(path: Path, attempt: int) -> Path:
    """Where the output of an attempt is kept when a later one begins."""
    return path.with_name(f"{path.name}.{attempt}")
