"""Previews: images drawn in the terminal with coloured characters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO

import numpy as np
from PIL import Image

from ddim.plots.pictures import arrange_images, blend_alpha

PREVIEW = 24
"""The largest width in pixels of an image in a preview of several images."""


def arrange_preview(images: Sequence[np.ndarray], columns: int, rows: int = 1) -> np.ndarray:
    """Return rows of images as one image (H', W', 3) uint8 for `render_preview`.

    Images wider than `PREVIEW` are reduced to this width, at which they can still be recognised.

    Args:
        images: the images (H, W, C) uint8; images that do not fit are left out.
        columns: the width of the preview, in characters of the terminal.
        rows: the largest number of rows of images.
    """
    height, width = images[0].shape[:2]
    scale = min(1.0, PREVIEW / width, columns / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    across = max(1, (columns + 1) // (size[0] + 1))
    shown = [blend_alpha(image) for image in images[: across * rows]]
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in shown]
    return arrange_images(np.stack(small), across, gap=1)


def render_preview(pixels: np.ndarray) -> str:
    """Return an image (H, W, 3) uint8 as text with W characters per line.

    Each character shows two pixels: a half block in the colour of the upper pixel, on a background in the
    colour of the lower pixel. Colours are exact if COLORTERM or WT_SESSION says that the terminal supports
    this; otherwise the nearest of 216 colours is used.
    """
    exact = _has_exact_colours()
    lines = []
    for y in range(0, len(pixels), 2):
        upper, *lower = pixels[y : y + 2].tolist()
        text = [_colour_code(38, pixel, exact) for pixel in upper]
        # An odd last row has no lower pixels; the background of the terminal is kept there.
        for k, pixel in enumerate(lower[0] if lower else []):
            text[k] += _colour_code(48, pixel, exact)
        lines.append("".join(f"{code}▀" for code in text) + "\x1b[0m")
    return "\n".join(lines)


def can_preview(stream: IO[str]) -> bool:
    """Return whether the stream is a terminal that can show previews, and NO_COLOR is not set.

    Such a terminal has at least 256 colours, and an encoding with half blocks.
    """
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return False
    try:
        "▀".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    name = os.environ.get("TERM", "")
    return name != "dumb" and (_has_exact_colours() or "256color" in name)


def _has_exact_colours() -> bool:
    # Windows Terminal has exact colours, but it sets WT_SESSION in place of COLORTERM.
    return os.environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in os.environ


def _colour_code(ground: int, pixel: Sequence[int], exact: bool) -> str:
    if exact:
        return "\x1b[{};2;{};{};{}m".format(ground, *pixel)
    # xterm's colour cube has the levels 0, 95, 135, 175, 215 and 255; its colours are numbered from 16.
    red, green, blue = (max(1, round((value - 55) / 40)) if value >= 48 else 0 for value in pixel)
    return f"\x1b[{ground};5;{16 + 36 * red + 6 * green + blue}m"
