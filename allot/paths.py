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


def nonce_file(output_dir: Path, job_id: str) -> Path:
    """A file of random content, by which a node that shares ``output_dir`` is known."""
    return state_directory(output_dir) / f"nonce-{job_id}"


def nonce_answer(nonce: Path, node_id: int) -> Path:
    """What a node that can read the nonce file writes beside it."""
    return nonce.with_name(f"{nonce.name}.{node_id}")


def default_output(output_dir: Path, proc_id: int) -> Path:
    """The output file of a task that names none."""
    return output_dir / f"{proc_id}.out"


def partial_file(path: Path, job_id: str) -> Path:
    """Where a file is put together before it is renamed to ``path``."""
    digest = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return path.with_name(f".{digest}.{job_id}.part")


def earlier_attempt(path: Path, attempt: int) -> Path:
    """Where the output of an attempt is kept when a later one begins."""
    return path.with_name(f"{path.name}.{attempt}")
