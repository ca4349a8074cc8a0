"""Bars in a notebook: real Jupyter kernels run jobs and show widgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sandbox import wait_until

from allot import LoopbackNodes

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "example/notebook.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"

S = 120
"""Seconds that one step may take on a busy machine."""

# Both in processes of their own, since the clients of kernels leave threads of their own behind.
RUN_NOTEBOOK = f"""
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.reads(sys.stdin.read(), 4)
NotebookClient(notebook, timeout={S}, kernel_name="python3").execute()
print(nbformat.writes(notebook))
"""

# After so many "updates" of widgets while a cell runs: "touch" a file, or interrupt the kernel.
# The kernel is killed at the end.
RUN_CELLS = f"""
import json, sys
from pathlib import Path
from jupyter_client.manager import start_new_kernel
told = []
manager, client = start_new_kernel(startup_timeout={S}, kernel_name="python3")
try:
    for cell in json.load(sys.stdin):
        number, ends, messages, updates = client.execute(cell["code"]), False, [], []
        while not ends:
            message = client.get_iopub_msg(timeout={S})
            kind, content = message["msg_type"], message["content"]
            ends = (
                kind == "status" and content["execution_state"] == "idle"
                and message["parent_header"].get("msg_id") == number
            )
            if kind == "comm_msg" and "value" in content["data"].get("state", {{}}):
                updates.append((content["comm_id"], message["header"]["date"].timestamp()))
                if len(updates) == cell["updates"]:
                    Path(cell["touch"]).touch() if cell["touch"] else manager.interrupt_kernel()
            messages.append((kind, content))
        told.append(dict(messages=messages, updates=updates))
    print(json.dumps(told, default=str))
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""

# Counts until there is a file "go-on", and says when it has ended.
COMMAND = r"""step=0
while [ ! -e {tmp}/go-on ]; do
    step=$((step + 1))
    printf '\002%d/9999\003' "$step"
    sleep 0.1
done
touch {tmp}/ended-$ALLOT_PROCID"""

BEGIN = """
from allot import Cluster, NodeProbe
cluster = Cluster(
    "job", {out!r}, lambda _: {command!r}, ntasks=3, ntasks_per_node=1, node_file={node_file!r},
    ssh_config={ssh_config!r}, probe=NodeProbe(max_load_per_cpu=None), poll_interval=0.2,
)
"""


@dataclass(frozen=True)
class Cell:
    """A cell to run; after so many updates of widgets a file appears, or it is interrupted."""

    code: str
    updates: int = -1
    touch: str = ""


class Told:
    """What a kernel sent while a cell ran.

    Attributes:
        updates: The widgets whose values changed, each with the time, Unix seconds.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self._messages: list[tuple[str, dict[str, Any]]] = told["messages"]
        self.updates: list[tuple[str, float]] = told["updates"]

    def text(self, stream: str) -> str:
        """What the cell wrote to stdout or stderr."""
        texts = [content for kind, content in self._messages if kind == "stream"]
        return "".join(text["text"] for text in texts if text["name"] == stream)

    @property
    def shows_widgets(self) -> bool:
        """Whether widgets appeared below the cell."""
        shown = [content for kind, content in self._messages if kind == "display_data"]
        return any(WIDGET in content["data"] for content in shown)

    @property
    def error(self) -> str:
        """The name of the exception that ended the cell."""
        return "".join(content["ename"] for kind, content in self._messages if kind == "error")

    @property
    def traceback(self) -> list[str]:
        """What is shown of that exception."""
        shown = [content["traceback"] for kind, content in self._messages if kind == "error"]
        return [line for lines in shown for line in lines]


class Notebook:
    """Runs cells of a job on two nodes outside of the kernel.

    Attributes:
        begin: A cell that makes ``cluster``: three tasks, of which two run at once.
        out: The output directory.
        go_on: The file that the tasks wait for.
    """

    def __init__(self, nodes: LoopbackNodes, tmp: Path) -> None:
        self._tmp = tmp
        self.out = tmp / "out"
        self.go_on = tmp / "go-on"
        self.begin = Cell(
            BEGIN.format(
                out=str(self.out),
                command=COMMAND.replace("{tmp}", str(tmp)),
                node_file=str(nodes.node_file),
                ssh_config=str(nodes.ssh_config),
            )
        )

    def run(self, *cells: Cell) -> list[Told]:
        """Run cells in a fresh kernel, which is killed at the end."""
        told = run_program(RUN_CELLS, json.dumps([vars(cell) for cell in cells]), self._tmp)
        return [Told(one) for one in json.loads(told)]

    @property
    def ended(self) -> set[str]:
        """The tasks that came to their end."""
        return {path.name for path in self._tmp.glob("ended-*")}


def run_program(program: str, words: str, tmp: Path) -> str:
    """Run a client of a kernel in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=words,
        env={
            **os.environ,
            **{"JUPYTER_PLATFORM_DIRS": "1", "PYTHONPATH": str(ROOT)},
            **{"IPYTHONDIR": str(tmp / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp / "jupyter")},
        },
        capture_output=True,
        text=True,
        timeout=4 * S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A job to run in kernels; its tasks end with the test."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with LoopbackNodes(2) as nodes:
        one = Notebook(nodes, tmp_path)
        try:
            yield one
        finally:
            one.go_on.touch()


def test_the_example_runs_and_shows_bars_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example notebook, stored without outputs, runs through and leaves no file behind."""
    source = NOTEBOOK.read_text()
    cells = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    done = json.loads(run_program(RUN_NOTEBOOK, source, tmp_path))
    outputs = {cell["id"]: cell["outputs"] for cell in done["cells"] if "outputs" in cell}
    shown = [data for some in outputs.values() for one in some if (data := one.get("data"))]
    assert any(WIDGET in data for data in shown), outputs
    assert any("<table>" in "".join(data.get("text/html", "")) for data in shown), outputs
    assert "True\n" in [one.get("text", [""])[-1] for one in list(outputs.values())[-1]], outputs
    assert list((tmp_path / "tmp").glob("allot-*")) == []


def test_bars_move_while_other_cells_run(notebook: Notebook) -> None:
    """``print_progress()`` returns; its widgets move on, five times a second at most."""
    other = f"import os, time\nwhile not os.path.exists({str(notebook.go_on)!r}): time.sleep(0.05)"
    wait = "summary = cluster.wait(60, progress=False)\nprint(summary.ok)"
    _, shown, moved, again, waited = notebook.run(
        notebook.begin,
        Cell("cluster.print_progress()"),
        Cell(other, updates=40, touch=str(notebook.go_on)),
        Cell("cluster.print_progress()"),
        Cell(wait),
    )
    assert shown.shows_widgets
    assert again.shows_widgets
    assert (moved.error, moved.shows_widgets) == ("", False)
    assert len(moved.updates) >= 40
    for widget in {widget for widget, _ in moved.updates}:
        times = [time for name, time in moved.updates if name == widget]
        assert all(b - a >= 0.9 for a, b in zip(times, times[5:], strict=False)), times
    assert waited.text("stdout") == "True\n"


def test_bars_stop_when_the_cluster_is_closed(notebook: Notebook) -> None:
    """The thread that moves the widgets ends with ``close()``, while tasks run."""
    threads = "import threading\nprint([one.name for one in threading.enumerate()])"
    *_, before, _, after = notebook.run(
        notebook.begin,
        Cell("cluster.print_progress()"),
        Cell(threads),
        Cell("cluster.close()"),
        Cell(threads),
    )
    assert "'allot-widgets'" in before.text("stdout")
    assert "allot" not in after.text("stdout")
    assert after.updates == []


def test_an_interrupted_kernel_detaches(notebook: Notebook) -> None:
    """The cell ends, and says no more than how to come back; what runs goes on."""
    _, waited, closed = notebook.run(
        notebook.begin,
        Cell("cluster.wait()", updates=40),
        Cell("cluster.print_progress()"),
    )
    assert waited.shows_widgets
    assert waited.error == "KeyboardInterrupt"
    assert waited.traceback == ["KeyboardInterrupt: detached"]
    said = waited.text("stderr")
    assert "allot: detached; 2 tasks of job job go on, 1 wait; their outputs lie in " in said
    assert f"allot: to come back: Cluster.load({str(notebook.out)!r}, task_factory)" in said
    assert closed.error == "AllotError"
    assert notebook.ended == set()
    notebook.go_on.touch()
    wait_until(lambda: len(notebook.ended) == 2, S, lambda: str(notebook.ended))
    assert notebook.ended == {"ended-0", "ended-1"}


def test_bars_come_back_in_a_fresh_kernel(notebook: Notebook) -> None:
    """A kernel is killed; ``Cluster.load`` and ``wait()`` in another draw the bars to the end."""
    first = notebook.run(notebook.begin, Cell("cluster.print_progress()"))
    assert first[-1].shows_widgets
    load = (
        f"from allot import Cluster\ncluster = Cluster.load({str(notebook.out)!r}, "
        f"lambda _: 'touch {notebook.out.parent}/ended-2')\n"
        "print(any(task.progress for task in cluster.tasks))"
    )
    loaded, waited, summary = notebook.run(
        Cell(load),
        Cell("summary = cluster.wait()", updates=40, touch=str(notebook.go_on)),
        Cell("print(summary.ok, len(summary.tasks)); cluster.close()"),
    )
    assert loaded.error == ""
    assert (waited.shows_widgets, waited.error) == (True, "")
    assert summary.text("stdout") == "True 3\n"
    assert notebook.ended == {"ended-0", "ended-1", "ended-2"}
