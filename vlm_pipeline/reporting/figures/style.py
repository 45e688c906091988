"""Colours, type and the canvas of every figure.

Each colour of the palette is used for one purpose only and each has a distinct hex value: the page replaces them by
classes (`inline.py`), so that the same drawing is legible on a light and on a dark ground.
Predictor colours are those of Okabe and Ito (2008), readable under the common colour-vision deficiencies; each
predictor also has its own marker and dash, so no figure depends on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_pipeline.reporting.view import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK = "#1a2330"
MUTED = "#5b6775"
GRID = "#dde2e8"
FRAME = "#b4bcc6"
PAPER = "#fdfdfe"
GOOD = "#007a53"
BAD = "#b8440a"
PREDICTORS = ("#767f8a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07800", "#56b4e9", "#8a4f9e")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "h")
DASHES = ("-", "-", "--", "-.", ":", "-", "--", "-.")

# One place that says what each colour means, for the page's style sheet.
COLOUR_CLASSES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    FRAME: "frame",
    PAPER: "paper",
    GOOD: "good",
    BAD: "bad",
    **{colour: f"p{slot}" for slot, colour in enumerate(PREDICTORS)},
}

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

    `alt` describes it in one sentence to those who cannot see it; `wide` figures take the page's whole width.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    table: Table
    note: str = ""
    wide: bool = True


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
    canvas: Canvas, name: str, title: str, alt: str, table: Table, *, note: str = "", wide: bool = True
) -> Figure:
    """Both files of a drawing; the bytes depend on what is drawn only (no date, no random ids)."""
    canvas.draw_without_rendering()  # lay out once, for both files
    canvas.set_layout_engine("none")
    vector, raster = io.StringIO(), io.BytesIO()
    canvas.savefig(vector, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    canvas.savefig(raster, format="png", dpi=144, metadata={"Software": None, "Title": title})
    return Figure(name, title, alt, vector.getvalue(), raster.getvalue(), table, note, wide)


def colour(slot: int) -> str:
    return PREDICTORS[slot % len(PREDICTORS)]


def marker(slot: int) -> str:
    return MARKERS[slot % len(MARKERS)]


def dash(slot: int) -> str:
    return DASHES[slot % len(DASHES)]


def shorten(text: str, limit: int = 26) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def panels(canvas: Canvas, count: int, across: int, **options: Any) -> list[Axes]:
    """`count` axes in rows of `across`; left-over cells stay empty."""
    down = -(-count // across)
    grid = canvas.subplots(down, across, squeeze=False, **options)
    flat = [axes for row in grid for axes in row]
    for axes in flat[count:]:
        axes.set_axis_off()
    return flat[:count]
