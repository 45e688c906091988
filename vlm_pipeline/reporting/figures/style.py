"""Type, markers and the canvas of every figure; its colours are those of `palette.py`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_pipeline.reporting.figures.palette import FRAME, GRID, INK, MUTED, PAPER, PREDICTORS
from vlm_pipeline.reporting.view import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MARKERS = ("o", "D", "s", "^", "v", "P", "X", "h")
DASHES = ("-", "-", "--", "-.", ":", "-", "--", "-.")

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FRAME,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawing in both forms, with the numbers that it shows.

    `alt` describes it in one sentence to those who cannot see it; `wide` figures take the page's whole width, `narrow`
    is the same drawing as SVG for a narrow screen, where the wide one would be too small to read. `more` tables hold
    the figure's numbers that `table` has no room for.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    table: Table
    note: str = ""
    wide: bool = True
    more: tuple[Table, ...] = ()
    narrow: str = ""


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Canvas]:
    """An empty matplotlib figure of `width` x `height` inches, styled, without pyplot and its global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_SETTINGS, "svg.hashsalt": name}):
        figure = MatplotlibFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def finish(
    canvas: Canvas, name: str, title: str, alt: str, table: Table, *, note: str = "", wide: bool = True,
    more: tuple[Table, ...] = (), narrow: str = "",
) -> Figure:  # fmt: skip
    """Both files of a drawing; the bytes depend on what is drawn only (no date, no random ids)."""
    canvas.draw_without_rendering()  # lay out once, for both files
    canvas.set_layout_engine("none")
    raster = io.BytesIO()
    canvas.savefig(raster, format="png", dpi=144, metadata={"Software": None, "Title": title})
    return Figure(name, title, alt, svg_of(canvas, title), raster.getvalue(), table, note, wide, more, narrow)


def svg_of(canvas: Canvas, title: str) -> str:
    vector = io.StringIO()
    canvas.savefig(vector, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return vector.getvalue()


def colour(slot: int) -> str:
    return PREDICTORS[slot % len(PREDICTORS)]


def marker(slot: int) -> str:
    return MARKERS[slot % len(MARKERS)]


def dash(slot: int) -> str:
    return DASHES[slot % len(DASHES)]


def shorten(text: str, limit: int = 26) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def wrapped(text: str, width: int, lines: int) -> str:
    """A name broken into lines of about `width` signs, after spaces and `-_/:`; what does not fit ends in dots."""
    found = [""]
    for word in re.findall(r"[^\s\-_/:]+[\s\-_/:]*|[\s\-_/:]+", text):
        if found[-1] and len(found[-1]) + len(word.rstrip()) > width:
            found.append("")
        found[-1] += word
    found = [line.strip() for line in found]
    if len(found) > lines:
        found[lines - 1 :] = [found[lines - 1][: width - 1] + "…"]
    return "\n".join(shorten(line, width + 2) for line in found)


def logarithmic(axis: Any) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


def panels(canvas: Canvas, count: int, across: int, **options: Any) -> list[Axes]:
    """`count` axes in rows of `across`; left-over cells stay empty."""
    down = -(-count // across)
    grid = canvas.subplots(down, across, squeeze=False, **options)
    flat = [axes for row in grid for axes in row]
    for axes in flat[count:]:
        axes.set_axis_off()
    return flat[:count]
