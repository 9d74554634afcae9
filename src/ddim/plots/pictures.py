"""Images and numbers -> pictures: grids, strips, curves, heat maps, films, and a preview in the terminal.

Pictures are (H, W, C) uint8 arrays. Figures are matplotlib's Figure objects, never pyplot's: nothing global.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from PIL import Image, PngImagePlugin

from ddim.errors import UserError
from ddim.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y of one line, equally long; where y is not finite the line has a gap."""

MARK = "ddim"
"""What the PNG files of this library say of their maker."""

COLOURS = ("#1f6fb4", "#d1601f", "#2f8a57", "#8a4fa3", "#b8860b", "#c23b5a", "#4d6b7a", "#6b4f3a")
INK, FAINT = "#2b2b2b", "#8c8c8c"
DPI = 160


# --- images as pixels ---------------------------------------------------------------------------------------


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, C, H, W) in [0, 1], or uint8 -> (B, H, W, C) uint8, rounded; what lies outside is clamped.

    UserError where the shape is not that of images with 1, 3 or 4 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise UserError(f"images must be (B, C, H, W) with 1, 3 or 4 channels, got {tuple(images.shape)}")
    images = images.detach().permute(0, 2, 3, 1)
    if images.is_floating_point():
        # A model that diverged gives NaN, whose cast depends on the processor: black everywhere instead.
        images = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    return images.cpu().contiguous().numpy()


def grid(images: Tensor, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(B, C, H, W) in [0, 1] or uint8 -> one RGB picture (H', W', 3) uint8, row by row from the top left.

    `columns` defaults to the square root of B, rounded up; `gap` white pixels lie between images. Gray
    becomes RGB; RGBA is laid over a light checker-board, so that white on transparent can be seen. UserError
    where there is no image or no column.
    """
    cells = on_checker(to_uint8(images))
    count, height, width, _ = cells.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if count < 1 or columns < 1 or gap < 0:
        raise UserError(
            f"a grid needs an image, a column and a gap of at least 0, got {count}, {columns} and {gap}"
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def on_checker(pixels: np.ndarray) -> np.ndarray:
    """(..., H, W, 1, 3 or 4) uint8 -> (..., H, W, 3): gray repeated, RGBA over a light checker-board."""
    channels = pixels.shape[-1]
    if channels != 4:
        return np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels
    height, width = pixels.shape[-3:-1]
    side = max(2, height // 8)
    dark = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    board = np.where(dark, 222.0, 250.0)[..., None]
    opacity = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * opacity + board * (1 - opacity)).astype(np.uint8)


# --- files --------------------------------------------------------------------------------------------------


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write a picture (H, W), or (H, W, 1, 3 or 4), uint8: whole or not at all; equal pixels, equal bytes.

    UserError where its folder does not exist.
    """
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", pnginfo=mark)
    _write(path, content.getvalue())


def save_film(path: Path, frames: Sequence[np.ndarray], seconds: float = 4.0) -> None:
    """Write pictures (H, W, 1, 3 or 4) uint8 of one size as an animated WebP that repeats, lossless.

    All but the last share `seconds`; the last stays for half as long again. Equal neighbours become one
    longer frame. UserError where there is no frame, or the folder does not exist.
    """
    if not frames or not seconds > 0:
        raise UserError(f"a film needs a frame and more than 0 seconds, got {len(frames)} and {seconds}")
    pictures = [Image.fromarray(on_checker(frame)) for frame in frames]
    each = max(1, round(1000 * seconds / max(1, len(frames) - 1)))
    durations = [each] * (len(frames) - 1) + [max(each, round(500 * seconds))]
    content = io.BytesIO()
    pictures[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        lossless=True,
        # The least effort: noise hardly compresses; the usual one takes thirty times as long to save a tenth.
        method=0,
        quality=0,
    )
    _write(path, content.getvalue())


def save_figure(path: Path, figure: Figure) -> None:
    """Draw a figure and write it as PNG: whole or not at all. UserError where its folder does not exist."""
    save_png(path, drawn(figure))


def drawn(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8: the figure as it is saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_out(path: Path) -> None:
    """UserError unless a PNG can go to `path`: its folder is there, and no file of others."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"--out {str(path)!r} lies in a folder that does not exist")
    if path.exists() and not _ours(path):
        raise UserError(f"--out {str(path)!r} exists and was not made by ddim: give another name")


def _ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("Software") == MARK
    except (OSError, SyntaxError, ValueError):
        return False


def _write(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{str(path)!r} lies in a folder that does not exist")
    write_atomic(path, content)


# --- figures ------------------------------------------------------------------------------------------------


def curves(
    series: Mapping[str, Curve], xlabel: str, ylabel: str, *, log_x: bool = False, title: str = ""
) -> Figure:
    """A figure of named lines, each with its name at its right end, in its colour."""
    figure = blank_figure(7.2, 4.2)
    curve_panel(figure.add_subplot(), series, xlabel, ylabel, log_x=log_x, title=title)
    return figure


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that fits its panels and their labels into itself."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.04)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def curve_panel(
    axes: Axes, series: Mapping[str, Curve], xlabel: str, ylabel: str, *, log_x: bool = False, title: str = ""
) -> None:
    """Draw named lines into one panel of a figure, each with its name at its right end, in its colour.

    A line without points is not drawn, but counts for the colours of the others.
    """
    if log_x:
        axes.set_xscale("log")
    for k, (name, (x, y)) in enumerate(series.items()):
        if not len(x):
            continue  # but it keeps its colour, which is the same in every panel
        # A line of one point is a point.
        marker = "o" if len(x) == 1 else ""
        axes.plot(
            x, y, color=COLOURS[k % len(COLOURS)], linewidth=1.8, label=name, marker=marker, markersize=4
        )
    dress(axes, xlabel, ylabel, title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.margins(x=0)
    _name_ends(axes)


def heat_panel(
    figure: Figure, axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float], most: float
) -> None:
    """Draw (rows, columns) values, first row at the bottom, over (left, right, bottom, top), with a scale.

    Colours go from -`most` to `most`, and 0 is white.
    """
    span = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
    drawing = axes.imshow(
        values, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **span
    )
    bar = figure.colorbar(drawing, ax=axes, pad=0.02, fraction=0.05, ticks=[-most, 0, most], format="%g")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=INK)


def dress(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels, title and frame of a panel in the house's style."""
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.set_ylabel(ylabel, color=INK, fontsize=10)
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9, length=3)
    axes.set_axisbelow(True)


def _name_ends(axes: Axes) -> None:
    """The name of each line to the right of the panel, where it ends, moved apart where needed."""
    ends = []
    for line in axes.get_lines():
        y = np.asarray(line.get_ydata(), dtype=float)
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):
            ends.append((y[finite[-1]], line))
    apart = 13 / 72 * DPI / axes.bbox.height  # 13 points a line
    low, high = axes.get_ylim()
    heights = spread([(y - low) / (high - low) for y, _ in ends], apart)
    for height, (_, line) in zip(heights, ends, strict=True):
        # In the units of y, so that a name stays with its line where the caller widens the panel.
        y, spot = low + height * (high - low), axes.get_yaxis_transform()
        style = {"color": line.get_color(), "fontsize": 9.5, "va": "center"}
        # A run may be called "$1": names are no formulas.
        axes.text(1.015, y, shortened(str(line.get_label())), transform=spot, parse_math=False, **style)


def shortened(name: str, most: int = 28) -> str:
    """A name of at most so many letters, of its beginning and its end: a longer one would leave no panel."""
    end = most // 2
    return name if len(name) <= most else f"{name[: most - end - 1]}…{name[-end:]}"


def spread(places: Sequence[float], apart: float) -> list[float]:
    """The places moved as little as this simple rule can so that neighbours are `apart`, in the same order.

    Groups of places that are too close are spaced evenly about their mean.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [index], places[index]
        while groups and centre - groups[-1][1] < apart * (len(members) + len(groups[-1][0])) / 2:
            before, _ = groups.pop()
            members = before + members
            centre = sum(places[k] for k in members) / len(members)
        groups.append((members, centre))
    moved = list(places)
    for members, centre in groups:
        for k, index in enumerate(members):
            moved[index] = centre + apart * (k - (len(members) - 1) / 2)
    return moved


def strip(
    rows: Mapping[str, Sequence[np.ndarray]],
    heads: Sequence[str],
    notes: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
) -> Figure:
    """A figure of pictures (H, W, C) uint8 of one size in named rows, a head over each column.

    `notes` are small words under the pictures of a row. Pictures are enlarged by a whole number, so that each
    of their pixels is one even square of the figure.
    """
    from matplotlib.figure import Figure

    height, width = next(iter(rows.values()))[0].shape[:2]
    scale = max(1, round(128 / max(height, width)))
    height, width, gap = height * scale, width * scale, 8
    # Room for the words, in pixels of the figure.
    longest = max(len(line) for name in rows for line in name.split("\n"))
    left, top, below = 28 + 12 * longest, 96 if title else 44, 30 if notes else 6
    wide = left + len(heads) * (width + gap) + 16
    high = top + len(rows) * (height + gap + below) + 12
    figure = Figure(figsize=(wide / DPI, high / DPI), dpi=DPI, facecolor="white")
    figure.text(20 / wide, 1 - 34 / high, title, color=INK, fontsize=11, fontweight="bold", va="center")
    for r, (name, pictures) in enumerate(rows.items()):
        y = top + r * (height + gap + below)
        middle = 1 - (y + height / 2) / high
        figure.text(20 / wide, middle, name, color=INK, fontsize=9.5, va="center", linespacing=1.5)
        for c, picture in enumerate(pictures):
            x = left + c * (width + gap)
            large = on_checker(picture).repeat(scale, 0).repeat(scale, 1)
            figure.figimage(large, x, high - y - height, origin="upper")
            centre = (x + width / 2) / wide
            if r == 0:
                figure.text(
                    centre, 1 - (y - 17) / high, heads[c], color=INK, fontsize=9, ha="center", va="center"
                )
            if notes and name in notes:
                spot = 1 - (y + height + 15) / high
                figure.text(centre, spot, notes[name][c], color=FAINT, fontsize=8, ha="center", va="center")
    return figure


# --- the terminal -------------------------------------------------------------------------------------------


def terminal(pixels: np.ndarray, columns: int) -> str:
    """A picture (H, W, 1, 3 or 4) uint8 as text of at most `columns` characters a line, two pixels in each.

    The upper half block in the colour of the upper pixel on the colour of the lower one. A picture that is
    wider than `columns` is made smaller. Colours are exact where COLORTERM promises that, else the nearest
    of 216.
    """
    pixels = on_checker(pixels)
    height, width = pixels.shape[:2]
    if width > columns:
        size = columns, max(1, round(height * columns / width))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    exact = _exact_colours()
    lines = []
    for y in range(0, len(pixels), 2):
        upper = [_colour(38, pixel, exact) for pixel in pixels[y].tolist()]
        # An odd last line has nothing below it: the terminal's own background.
        lower = (
            [_colour(48, p, exact) for p in pixels[y + 1].tolist()]
            if y + 1 < len(pixels)
            else [""] * len(upper)
        )
        lines.append("".join(a + b + "▀" for a, b in zip(upper, lower, strict=True)) + "\x1b[0m")
    return "\n".join(lines)


def can_preview(stream: TextIO) -> bool:
    """Whether `terminal` can be shown there: a terminal with 256 colours or more, and no NO_COLOR."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return False
    try:
        "▀".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    name = os.environ.get("TERM", "")
    return name != "dumb" and (_exact_colours() or "256color" in name)


def _exact_colours() -> bool:
    # Windows Terminal sets no COLORTERM.
    return os.environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in os.environ


def _colour(ground: int, pixel: Sequence[int], exact: bool) -> str:
    if exact:
        return "\x1b[{};2;{};{};{}m".format(ground, *pixel)
    # The cube of xterm has the levels 0, 95, 135, 175, 215, 255, numbered red, green, blue from 16.
    red, green, blue = (max(1, round((value - 55) / 40)) if value >= 48 else 0 for value in pixel)
    return f"\x1b[{ground};5;{16 + 36 * red + 6 * green + blue}m"
