"""Previews: images drawn in the terminal with coloured characters."""

from __future__ import annotations

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
    colour of the lower pixel. Colours are exact if COLORTERM says that the terminal supports this; otherwise
    rich takes the nearest of 256 colours.
    """
    from rich.color import Color
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    console, text = Console(force_terminal=True, width=pixels.shape[1]), Text()
    for y in range(0, len(pixels), 2):
        # An odd last row has no lower pixels; the background of the terminal is kept there.
        for column in pixels[y : y + 2].transpose(1, 0, 2).tolist():
            text.append("▀", Style.from_color(*(Color.from_rgb(*pixel) for pixel in column)))
        text.append("\n")
    with console.capture() as capture:
        console.print(text, end="")
    return capture.get().rstrip("\n")


def can_preview(stream: IO[str]) -> bool:
    """Return whether the stream is a terminal that can show previews, and NO_COLOR is not set.

    Such a terminal has at least 256 colours, and an encoding with half blocks.
    """
    from rich.console import Console

    console = Console(file=stream)
    colourful = console.color_system in ("256", "truecolor") and not console.no_color
    return colourful and not console.options.ascii_only
