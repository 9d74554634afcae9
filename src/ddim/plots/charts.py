"""Charts: curves, heat maps and rows of images as matplotlib figures, all in one style.

They use matplotlib's `Figure` objects and not pyplot, because pyplot has global state.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddim.files import write_atomic
from ddim.plots.pictures import MARK, blend_alpha, enlarge, render_png, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y of a line, of equal length; the line has a gap where y is not finite."""

COLOURS = ("#1f6fb4", "#d1601f", "#2f8a57", "#8a4fa3", "#b8860b", "#c23b5a", "#4d6b7a", "#6b4f3a")
INK, FAINT = "#2b2b2b", "#8c8c8c"
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches; matplotlib fits panels and labels into the figure."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.04)
    return _chart_class()(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


@cache
def _chart_class() -> type[Figure]:
    """Return a class of figures that show themselves in a notebook; made late, as matplotlib is slow."""
    from matplotlib.figure import Figure

    class Chart(Figure):
        def _repr_png_(self) -> bytes:
            return render_png(rasterise(self))

    return Chart


def rasterise(figure: Figure) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of a figure, the same as in a PNG file from `save_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


ENDINGS = (".png", ".svg", ".pdf")
"""The endings of the files in which a figure can be saved."""


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, SVG or PDF, by the ending of the file name; equal figures give equal files."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        save_png(path, rasterise(figure))
        return
    import matplotlib

    content, vector = io.BytesIO(), path.suffix.lower().removeprefix(".")
    date = {"svg": "Date", "pdf": "CreationDate"}[vector]
    # Text is stored as text and not as outlines. Names inside the file are fixed, so equal figures give equal
    # files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": MARK, "pdf.fonttype": 42}):
        figure.savefig(content, format=vector, dpi=DPI, metadata={date: None})
    write_atomic(path, content.getvalue())


def draw_curves(axes: Axes, series: Mapping[str, Curve], xlabel: str, ylabel: str, title: str = "") -> None:
    """Draw named lines into a panel; a legend to the right of the panel has each name in its colour.

    A line without points is not drawn, but still uses up its colour, so that a name has the same colour in
    all panels. A line with one point is drawn as a dot.

    Args:
        axes: the panel, with the scales of its axes already set.
        series: the lines, keyed by their names.
        xlabel: the label of the x axis.
        ylabel: the label of the y axis.
        title: the title of the panel.
    """
    lines = []
    for k, (name, (x, y)) in enumerate(series.items()):
        if len(x):
            style = {"linewidth": 1.8, "marker": "o" if len(x) == 1 else "", "markersize": 4}
            label = textwrap.fill(name, 32)
            lines += axes.plot(x, y, color=COLOURS[k % len(COLOURS)], label=label, **style)
    style_panel(axes, xlabel, ylabel, title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.margins(x=0)
    legend = axes.legend(
        handles=lines, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, labelcolor="linecolor"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # A name such as "$1" is no formula.


def style_panel(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Set the labels, the title and the frame of a panel in the common style."""
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9, length=3)
    axes.set_axisbelow(True)


def plot_strip(
    rows: Mapping[str, Sequence[np.ndarray]],
    heads: Sequence[str],
    notes: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of images in named rows.

    Images are enlarged to about 128 pixels, by an integer factor, so that all their pixels have the same size
    in the figure.

    Args:
        rows: images (H, W, C) uint8, keyed by row name; all images have the same size.
        heads: the headings of the columns.
        notes: small texts below the images, keyed by row name.
        title: the title of the figure.
    """
    height, width = next(iter(rows.values()))[0].shape[:2]
    scale = max(1, round(128 / max(height, width)))
    height, width, gap = height * scale, width * scale, 8
    # Space for the text, in pixels of the figure.
    longest = max(len(line) for name in rows for line in name.split("\n"))
    lines = max((note.count("\n") + 1 for texts in (notes or {}).values() for note in texts), default=0)
    left, top, below = 28 + 12 * longest, 96 if title else 44, 6 + 24 * lines
    wide = left + len(heads) * (width + gap) + 16
    high = top + len(rows) * (height + gap + below) + 12
    figure = _chart_class()(figsize=(wide / DPI, high / DPI), dpi=DPI, facecolor="white")
    write = partial(figure.text, color=INK, fontsize=9, va="center")
    write(20 / wide, 1 - 34 / high, title, fontsize=11, fontweight="bold")
    for r, (name, images) in enumerate(rows.items()):
        y = top + r * (height + gap + below)
        write(20 / wide, 1 - (y + height / 2) / high, name, fontsize=9.5, linespacing=1.5)
        for c, image in enumerate(images):
            x = left + c * (width + gap)
            figure.figimage(enlarge(blend_alpha(image), scale), x, high - y - height, origin="upper")
            centre = (x + width / 2) / wide
            if r == 0:
                write(centre, 1 - (y - 17) / high, heads[c], ha="center")
            if notes and name in notes:
                spot = 1 - (y + height + 6) / high
                write(centre, spot, notes[name][c], color=FAINT, fontsize=8, ha="center", va="top")
    return figure
