"""What the figures were measured on, and with: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_PACKAGES = (
    *("allot", "paramiko", "cryptography", "tqdm", "asyncssh"),
    *("parallel-ssh", "fabric", "hyperqueue"),
)
_PROGRAMS = {
    "OpenSSH": ["ssh", "-V"],
    "Bash": ["bash", "--version"],
    "GNU parallel": ["parallel", "--version"],
    "ClusterShell": ["clush", "--version"],
    "pdsh": ["pdsh", "-V"],
}


def describe() -> dict[str, str | int]:
    """The machine, in words."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(memory / 1e9),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """What takes part, by name; what is not installed is left out."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name, argv in _PROGRAMS.items():
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        except FileNotFoundError:
            continue
        number = re.search(r"\d[\w.]+", done.stdout + done.stderr)
        if number:
            found[name] = number[0]
    return found


def commit() -> str:
    """The last commit that changed ``allot/``, with ``+`` where it was changed since."""
    name = _git("log", "-1", "--format=%h", "--", "allot")
    return f"{name}+" if _git("status", "--porcelain", "--", "allot") else name


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.strip()
