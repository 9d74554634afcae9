"""Output of images: PNG files, sheets of several images, animations, and previews in the terminal.

Images are (H, W, C) uint8 arrays with 1 (gray), 3 (RGB) or 4 (RGBA) channels.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from PIL import Image, PngImagePlugin

from ddim.errors import UserError
from ddim.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

SHEET = 800
"""A sheet is enlarged up to this width and height in pixels."""

MARK = "ddim"
"""The "Software" entry of PNG files that this library writes; only such files are replaced."""


GAP = 2
"""White pixels between the images of a sheet."""


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images (B, C, H, W), in [0, 1] or uint8, to (B, H, W, C) uint8.

    Values are clamped to [0, 1] and rounded to 256 levels; NaN becomes 0.

    Raises:
        UserError: if the shape is not (B, C, H, W) with 1, 3 or 4 channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise UserError(f"images must be (B, C, H, W) with 1, 3 or 4 channels, got {tuple(images.shape)}")
    images = images.detach().permute(0, 2, 3, 1)
    if images.is_floating_point():
        # A diverged model returns NaN, and casting NaN to an integer depends on the hardware.
        images = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    return images.cpu().contiguous().numpy()


def make_sheet(images: Tensor, columns: int | None = None, gap: int = GAP) -> np.ndarray:
    """Arrange images on one sheet, row by row from the top left.

    Args:
        images: (B, C, H, W), in [0, 1] or uint8; gray and transparent images are converted by `blend_alpha`.
        columns: images per row, by default the square root of B, rounded up.
        gap: number of white pixels between images.

    Returns:
        The sheet, (H', W', 3) uint8.

    Raises:
        UserError: if there is no image, or `columns` or `gap` is too small.
    """
    cells = blend_alpha(to_uint8(images))
    count, height, width, _ = cells.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if count < 1 or columns < 1 or gap < 0:
        raise UserError(
            "a sheet needs at least 1 image and 1 column, and a gap of at least 0, "
            f"got {count}, {columns} and {gap}"
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def sheet(
    images: Tensor | Sequence[Tensor], columns: int | None = None, *, zoom: int | None = None
) -> Image.Image:
    """Arrange images on one sheet, row by row from the top left. A notebook shows the sheet as a picture.

    Args:
        images: (B, C, H, W), (C, H, W) or a sequence of (C, H, W), in [0, 1] or uint8.
        columns: images per row, by default the square root of their number, rounded up.
        zoom: the whole factor by which pixels are enlarged, by default up to a sheet of 800 pixels.

    Example:
        >>> ddim.sheet(ddim.sample("runs/photos-fast-1", n=16)).save("samples.png")
    """
    import torch

    whole = images if isinstance(images, torch.Tensor) else torch.stack(list(images))
    pixels = make_sheet(whole[None] if whole.ndim == 3 else whole, columns)
    if zoom is None:
        zoom = max(1, SHEET // max(pixels.shape[:2]))
    if zoom < 1:
        raise UserError(f"zoom must be at least 1, got {zoom}")
    return Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1))


def split_sheet(sheet: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Split a sheet from `make_sheet` into its images (height, width, C), row by row."""
    tops = range(0, sheet.shape[0] - height + 1, height + GAP)
    lefts = range(0, sheet.shape[1] - width + 1, width + GAP)
    return [sheet[top : top + height, left : left + width] for top in tops for left in lefts]


def blend_alpha(pixels: np.ndarray) -> np.ndarray:
    """Convert images (..., H, W, 1, 3 or 4) uint8 to RGB (..., H, W, 3).

    Gray is repeated. RGBA is composited on a light checkerboard, so that white on transparent is visible.
    """
    channels = pixels.shape[-1]
    if channels != 4:
        return np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels
    height, width = pixels.shape[-3:-1]
    side = max(2, height // 8)
    dark = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    board = np.where(dark, 222.0, 250.0)[..., None]
    opacity = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * opacity + board * (1 - opacity)).astype(np.uint8)


# Files


def save_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write an image (H, W) or (H, W, 1, 3 or 4) uint8 as a PNG file; equal pixels give equal files.

    Raises:
        UserError: if the folder of `path` does not exist.
    """
    _write(Path(path), render_png(pixels))


def render_png(pixels: np.ndarray) -> bytes:
    """Return the content of the PNG file of an image; see `save_png`."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", pnginfo=mark)
    return content.getvalue()


def save_film(path: str | Path, frames: Sequence[np.ndarray], seconds: float = 4.0) -> None:
    """Write frames as a lossless animated WebP that repeats.

    Consecutive equal frames become one longer frame.

    Args:
        path: the path of the file.
        frames: images (H, W, 1, 3 or 4) uint8, all of one size.
        seconds: duration of all frames except the last, which is shown for another `seconds` / 2.

    Raises:
        UserError: if there is no frame, `seconds` is not above 0, or the folder of `path` does not exist.
    """
    if not frames or not seconds > 0:
        raise UserError(
            f"an animation needs at least 1 frame and more than 0 seconds, got {len(frames)} and {seconds}"
        )
    images = [Image.fromarray(blend_alpha(frame)) for frame in frames]
    each = max(1, round(1000 * seconds / max(1, len(frames) - 1)))
    durations = [each] * (len(frames) - 1) + [max(each, round(500 * seconds))]
    content = io.BytesIO()
    images[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        lossless=True,
        # The lowest effort: the default takes 30 times as long, and noisy frames become only a tenth smaller.
        method=0,
        quality=0,
    )
    _write(Path(path), content.getvalue())


def check_png_path(path: str | Path) -> None:
    """Check that a PNG file can be written to `path` and would replace no file of another program.

    Raises:
        UserError: if `path` does not end in .png, its folder does not exist, or another program wrote it.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"--out {str(path)!r} lies in a folder that does not exist: create the folder first")
    if path.exists() and not _is_ours(path):
        raise UserError(f"--out {str(path)!r} exists and was not made by ddim: give another name")


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("Software") == MARK
    except (OSError, SyntaxError, ValueError):
        return False


def _write(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{str(path)!r} lies in a folder that does not exist: create the folder first")
    write_atomic(path, content)


# The terminal


def render_preview(pixels: np.ndarray, columns: int) -> str:
    """Render an image (H, W, 1, 3 or 4) uint8 as text with at most `columns` characters per line.

    Each character shows two pixels: a half block in the colour of the upper pixel, on a background in the
    colour of the lower pixel. Wider images are downsampled. Colours are exact if COLORTERM says that the
    terminal supports it; otherwise the nearest of 216 colours is used.
    """
    pixels = blend_alpha(pixels)
    height, width = pixels.shape[:2]
    if width > columns:
        size = columns, max(1, round(height * columns / width))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    exact = _has_exact_colours()
    lines = []
    for y in range(0, len(pixels), 2):
        upper = [_colour_code(38, pixel, exact) for pixel in pixels[y].tolist()]
        # An odd last row has no lower pixels; the background of the terminal is kept there.
        lower = (
            [_colour_code(48, pixel, exact) for pixel in pixels[y + 1].tolist()]
            if y + 1 < len(pixels)
            else [""] * len(upper)
        )
        lines.append("".join(a + b + "▀" for a, b in zip(upper, lower, strict=True)) + "\x1b[0m")
    return "\n".join(lines)


def can_preview(stream: TextIO) -> bool:
    """Return whether the stream is a terminal with at least 256 colours, and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return False
    try:
        "▀".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    name = os.environ.get("TERM", "")
    return name != "dumb" and (_has_exact_colours() or "256color" in name)


def _has_exact_colours() -> bool:
    # Windows Terminal sets no COLORTERM.
    return os.environ.get("COLORTERM") in ("truecolor", "24bit") or "WT_SESSION" in os.environ


def _colour_code(ground: int, pixel: Sequence[int], exact: bool) -> str:
    if exact:
        return "\x1b[{};2;{};{};{}m".format(ground, *pixel)
    # xterm's colour cube has the levels 0, 95, 135, 175, 215 and 255; its colours are numbered from 16.
    red, green, blue = (max(1, round((value - 55) / 40)) if value >= 48 else 0 for value in pixel)
    return f"\x1b[{ground};5;{16 + 36 * red + 6 * green + blue}m"
