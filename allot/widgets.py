"""Shows a job in a notebook while it runs: one of tqdm's widgets a task.

Rules: used by ``progress`` only. What is said is decided in ``rows``; here it is only shown.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from allot.forecast import Forecast
from allot.model import JobSnapshot
from allot.rows import Columns, Page, Row, seat_tasks
from allot.statusline import Tone, lost_nodes, status_line

_log = logging.getLogger(__name__)

_LEAST_REDRAW_S = 0.2
_ROWS = 30
_WIDTH = 100
_CLOSE_S = 2.0
# Texts of one width put the bars, and what stands behind them, below each other.
_FONT = """<style>.allot-bars .widget-html-content {
    font-family: var(--jp-code-font-family, monospace) }</style>"""
_STYLES: dict[Tone, str] = {"good": "success", "bad": "danger", "warn": "warning"}


class NotebookBoard:
    """tqdm's widgets in a notebook, one a task, one for the job, and a line of counts.

    A draw in another cell shows the same widgets there too.
    """

    stays = True

    def __init__(
        self, *, max_bars: int | None = None, look: Callable[[], JobSnapshot] | None = None
    ) -> None:
        """Show at most ``max_bars`` tasks, 30 by default; ``look`` as for ``make_board``."""
        self._max_bars = _ROWS if max_bars is None else max_bars
        self._look = look
        self._forecast = Forecast()
        self._columns = Columns()
        self._seats: tuple[int | None, ...] = ()
        self._box: Any = None
        self._cell: int | None = None
        self._bars: list[Any] = []
        self._shown: dict[int, Row] = {}
        self._drawn_at = float("-inf")
        self._lock = threading.Lock()
        self._mover: threading.Thread | None = None
        self._closing = threading.Event()

    def draw(self, snapshot: JobSnapshot) -> None:
        """Show the job, at most five times a second."""
        with self._lock:
            if self._closing.is_set():
                return
            if time.monotonic() - self._drawn_at >= _LEAST_REDRAW_S:
                self._show(snapshot)
            self._be_in_this_cell()
            if self._look is not None and self._mover is None:
                self._mover = threading.Thread(
                    target=self._move, args=(self._look,), name="allot-widgets", daemon=True
                )
                self._mover.start()

    def close(self, snapshot: JobSnapshot | None = None) -> None:
        """Show the job a last time; the widgets stay in the notebook."""
        self._closing.set()
        mover = self._mover
        if mover is not None:
            mover.join(_CLOSE_S)
        with self._lock:
            if snapshot is not None and self._box is not None:
                self._show(snapshot)
            for bar in self._bars:
                # Not bar.close(): it paints every bar short of its total red.
                bar.disable = True
            self._bars.clear()
            self._box = None

    def _move(self, look: Callable[[], JobSnapshot]) -> None:
        try:
            while threading.main_thread().is_alive():
                is_last = self._closing.wait(_LEAST_REDRAW_S)
                with self._lock:
                    snapshot = look()
                    if self._box is not None:
                        self._show(snapshot)
                    if is_last or all(task.state.is_final for task in snapshot.tasks):
                        self._mover = None  # a later draw begins anew
                        return
        except Exception:
            _log.exception("the bars do not move any more")

    def _be_in_this_cell(self) -> None:
        cell = getattr(_ipython_shell(), "execution_count", 0)
        # A user's thread that draws on and on is in whatever cell runs: it keeps its first one.
        is_asked_here = threading.current_thread() is threading.main_thread()
        if self._cell is None or (is_asked_here and cell != self._cell):
            self._cell = cell
            import_module("IPython.display").display(self._box)

    def _show(self, snapshot: JobSnapshot) -> None:
        now = time.time()
        self._drawn_at = time.monotonic()
        if self._box is None:
            self._box = _widget_box()
        self._seats = seat_tasks(self._seats, snapshot.tasks, self._max_bars, lost_nodes(snapshot))
        self._forecast.observe(snapshot.tasks, now)
        page = Page(snapshot, self._forecast, self._columns, width=_WIDTH, now=now)
        status = "".join(text for text, _ in status_line(snapshot, self._seats, _WIDTH))
        *rows, job_row = page.rows(self._seats)
        # The job and its counts stand on top: there they stay when rows come.
        for at, row in enumerate([job_row, Row("", None, status, "plain"), *rows]):
            if self._shown.get(at) != row:
                self._shown[at] = row
                self._refresh(at, row)

    def _refresh(self, at: int, row: Row) -> None:
        from tqdm.notebook import tqdm as widget_bar  # noqa: PLC0415 - needs ipywidgets

        if at == len(self._bars):
            self._bars.append(widget_bar(total=1, leave=True, disable=False, display=False))
            self._box.children = [*self._box.children, self._bars[-1].container]
        bar = self._bars[at]
        bar.n = row.fraction or 0.0
        # tqdm makes figure spaces of plain ones, which not every font of one width has.
        head, tail = (
            _no_braces(text).replace(" ", "\N{NO-BREAK SPACE}") for text in (row.head, row.tail)
        )
        bar.bar_format = f"{head}{{bar}}{tail}"
        widget = bar.container.children[1]
        widget.bar_style = _STYLES.get(row.tone, "")
        widget.layout.display = None if row.fraction is not None else "none"
        bar.refresh()


def _widget_box() -> Any:
    widgets = import_module("ipywidgets")
    font = widgets.HTML(_FONT, layout={"display": "none"})
    box = widgets.VBox([font])
    box.add_class("allot-bars")
    return box


def _no_braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def in_notebook() -> bool:
    """Whether this is a notebook's kernel that can show widgets."""
    return hasattr(_ipython_shell(), "kernel") and find_spec("ipywidgets") is not None


def _ipython_shell() -> object:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
