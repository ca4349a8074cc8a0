"""Runs seeds, one line each: what ``tests/faults/soak`` starts.

python -m faults [SECONDS] [--first-seed N] [--jobs N] [--seed N] [--keep DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sandbox import MARK, end_session, session

import allot
from faults.plan import make_plan
from faults.runner import run
from faults.sabotage import SABOTAGES

_TESTS = Path(__file__).resolve().parent.parent
_LONGEST_S = 600.0


def main() -> int:
    """Run what the command line asks for; 1 where a seed failed."""
    parser = argparse.ArgumentParser(prog="soak", description="Break everything, and check.")
    parser.add_argument("seconds", type=float, nargs="?", help="start seeds for so long")
    parser.add_argument("--seed", type=int, help="run this one seed")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="begin with this one (%(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once (%(default)s)")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES), default="", help="break Allot too")
    parser.add_argument("--no-kills", action="store_true", help="kill no clients")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir(), "allot-faults"),
        metavar="DIR",
        help="where the files of seeds that failed are left (%(default)s)",
    )
    options = parser.parse_args()
    if (options.seed is None) == (options.seconds is None):
        parser.error("give SECONDS, or --seed N")
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _one(options: argparse.Namespace) -> int:
    plan = make_plan(options.seed, kills=not options.no_kills)
    options.keep.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"seed-{plan.seed}-", dir=options.keep))
    directory.chmod(0o755)
    os.environ[MARK] = session().token
    os.environ.pop("SSH_AUTH_SOCK", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        report = run(plan, directory, sabotage=options.sabotage)
    finally:
        end_session()
    print(report)
    if not report.violations:
        shutil.rmtree(directory)
        return 0
    for violation in report.violations:
        print(f"    {violation}")
    again = f" --sabotage {options.sabotage}" if options.sabotage else ""
    again += " --no-kills" if options.no_kills else ""
    print(f"    planned: {plan.describe()}")
    print(f"    files: {directory}; again: tests/faults/soak --seed {plan.seed}{again}", flush=True)
    return 1


def _many(options: argparse.Namespace) -> int:
    """Each seed in a process of its own: one that hangs or dies takes no other with it."""
    counts: Counter[str] = Counter()
    running: dict[int, tuple[subprocess.Popen[str], float]] = {}
    seed, stop = options.first_seed, time.monotonic() + options.seconds
    try:
        while running or time.monotonic() < stop:
            while len(running) < options.jobs and time.monotonic() < stop:
                running[seed] = _start(options, seed), time.monotonic()
                seed += 1
            for number, (process, started) in list(running.items()):
                if process.poll() is None and time.monotonic() - started < _LONGEST_S:
                    continue
                del running[number]
                counts[_finish(number, process)] += 1
            time.sleep(0.05)
    except KeyboardInterrupt:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.communicate()
    failed = sum(number for word, number in counts.items() if word != "ok")
    words = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print(f"{sum(counts.values())} seeds from {options.first_seed}: {words or 'none'}")
    return int(failed > 0)


def _start(options: argparse.Namespace, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "faults", "--seed", str(seed), "--keep", str(options.keep)]
    if options.sabotage:
        command += ["--sabotage", options.sabotage]
    if options.no_kills:
        command.append("--no-kills")
    path = os.pathsep.join([str(_TESTS), str(Path(allot.__file__).resolve().parent.parent)])
    return subprocess.Popen(
        command,
        cwd=_TESTS,  # where python -m looks first
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(seed: int, process: subprocess.Popen[str]) -> str:
    """Print what a seed said, and tell in a word how it ended."""
    word = ""
    if process.poll() is None:
        process.terminate()
        word = "hung"
    said, _ = process.communicate()
    if not word:
        word = "ok" if process.returncode == 0 else "failed"
        if f"seed {seed}: " not in said:
            word = "broken"
    if word in ("hung", "broken"):
        print(f"seed {seed}: the run itself is {word}")
    print(said, end="", flush=True)
    return word


if __name__ == "__main__":
    sys.exit(main())
