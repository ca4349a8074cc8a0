"""Allot: a task whose output grows as fast as it can."""

from __future__ import annotations

import time
from pathlib import Path

from allot import Progress
from bench.clients.job import TIMEOUT_S, make_cluster
from bench.figures import Figures
from bench.rig import Site

_BLOCKS = 64
_TOTAL = 99_999_999
_POUR = r"""
for ((i = 0; i < {blocks}; i++)); do
  head -c {size} /dev/zero
  now=${{EPOCHREALTIME/[.,]/}} step=$((now / 1000 - {base}))
  printf '\002%d/{total}\003' $step
done
printf %s $step > {last}.new
mv {last}.new {last}
until [[ -e {stop} ]]; do read -rt 0.1 <> <(:); done
true
"""
_LOOK_S = 0.02


def poured(site: Site, scratch: Path, *, megabytes: int) -> Figures:
    """One task prints so much, with 64 markers in it, and then waits until its bar was seen."""
    base = int(time.time() * 1000) - 1000
    last, stop = site.directory / "last", site.directory / "stop"
    for file in (last, stop):
        file.unlink(missing_ok=True)
    line = _POUR.format(
        blocks=_BLOCKS,
        size=megabytes * 1_000_000 // _BLOCKS,
        base=base,
        total=_TOTAL,
        last=last,
        stop=stop,
    )
    give_up = time.monotonic() + TIMEOUT_S
    with make_cluster(site, scratch, line, ntasks=1, shared_fs=False) as cluster:
        try:
            while not _is_seen(last, cluster.tasks[0].progress):
                if time.monotonic() > give_up:
                    raise TimeoutError("the last marker was never seen")
                time.sleep(_LOOK_S)
            behind = time.time() - (base + int(last.read_text())) / 1000
        finally:
            stop.touch()
        began = time.perf_counter()
        cluster.wait(TIMEOUT_S, progress=False).raise_for_failures()
        home = time.perf_counter() - began
    size = (scratch / "out/0.out").stat().st_size
    if size < megabytes * 990_000:
        raise RuntimeError(f"only {size} bytes of the output came home")
    return {"behind_s": behind, "home_s": home}


def _is_seen(last: Path, progress: Progress | None) -> bool:
    return progress is not None and last.exists() and progress.step == int(last.read_text())
