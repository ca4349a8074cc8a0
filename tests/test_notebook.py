"""Bars in a notebook: a real Jupyter kernel runs a job and shows widgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CELL = """
import sys
sys.path.insert(0, {root!r})
from allot import Cluster, LoopbackNodes, NodeProbe
with LoopbackNodes(2) as nodes, Cluster(
    "job", {out!r}, lambda _: r"printf '\\0023/4\\003'", node_file=nodes.node_file,
    ssh_config=nodes.ssh_config, probe=NodeProbe(max_load_per_cpu=None), oversubscribe=True,
) as cluster:
    summary = cluster.wait()
print("ok" if summary.ok else summary)
"""


# In a process of its own, since the client leaves threads of its own behind.
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sys.stdin.read())])
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
print(nbformat.writes(notebook))
"""


def test_bars_are_widgets_in_a_notebook(tmp_path: Path) -> None:
    """``wait()`` in a cell draws widgets, a row a task and one for the job."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=CELL.format(root=str(ROOT), out=str(tmp_path / "out")),
        env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["cells"][0]["outputs"]
    texts = ["".join(output.get("text", "")) for output in outputs]
    assert texts[-1].endswith("ok\n"), outputs
    widget = "application/vnd.jupyter.widget-view+json"
    assert any(widget in output.get("data", {}) for output in outputs), outputs
