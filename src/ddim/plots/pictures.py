"""Write images as PNG files and animations, arrange several on a sheet, and preview them in a terminal.

Images are (H, W, C) uint8 arrays with 1 (gray), 3 (RGB) or 4 (RGBA) channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from ddim.errors import UserError, check_pixels, to_int
from ddim.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

SHEET = 800
"""A sheet is enlarged so that its longer side gets about this number of pixels."""

LARGEST_ZOOM = 64
"""The largest factor by which pixels are enlarged."""

MARK = "ddim"
"""The "Software" entry of PNG files that this library writes."""

GAP = 2
"""White pixels between the images of a sheet."""

LARGEST_FILM = 16_383
"""The largest height and width of an animated WebP."""

PREVIEW = 24
"""The largest width in pixels of an image in a preview of several images."""


def to_uint8(images: Tensor) -> np.ndarray:
    """Return images (B, C, H, W), in [0, 1] or uint8, as pictures (B, H, W, 1, 3 or 4) uint8.

    Values are clamped to [0, 1] and rounded to 256 levels; NaN becomes 0. If images have more than four
    channels, the first three are shown as red, green and blue. Two channels are shown as red and green.
    """
    from torch.nn.functional import pad

    images, channels = images.detach().permute(0, 2, 3, 1), images.shape[1]
    if channels not in (1, 3, 4):
        images = pad(images[..., :3], (0, max(0, 3 - channels)))
    if images.is_floating_point():
        # A diverged model returns NaN, and casting NaN to an integer depends on the hardware.
        images = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    return images.cpu().contiguous().numpy()


def check_images(images: Tensor, what: str = "images") -> None:
    """Check the layout and the values of images that a user gives.

    Args:
        images: (N, C, H, W), uint8 or floats in [0, 1].
        what: the name of the images in the message.

    Raises:
        UserError: if the shape or the values are others; the message says what to do.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or (shape[3] in (1, 3, 4) and shape[1] > 4):
        advice = "move the channels of (N, H, W, C) by images.transpose(0, 3, 1, 2), or permute for tensors"
        raise UserError(f"{what} must have the shape (N, C, H, W), got {shape}: {advice}")
    kind = str(images.dtype).removeprefix("torch.")
    if kind != "uint8" and images.numel():
        # torch does not compare values of uint16.
        values = images if images.is_floating_point() else images.double()
        low, high = (end.item() for end in values.aminmax())
        check_pixels(kind, low, high, what)


def make_sheet(images: Tensor, columns: int | None = None) -> np.ndarray:
    """Arrange images on one sheet, row by row from the top left.

    Args:
        images: (B, C, H, W), in [0, 1] or uint8; gray and transparent images are converted by `blend_alpha`.
        columns: images per row, by default the square root of B, rounded up.

    Returns:
        The sheet, (H', W', 3) uint8.
    """
    cells = blend_alpha(to_uint8(images))
    return arrange_images(cells, columns or count_columns(len(cells)))


def arrange_images(cells: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """Return images (B, H, W, 3) uint8 row by row, with white pixels between them."""
    count, height, width, _ = cells.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for k, cell in enumerate(cells):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def count_columns(count: int) -> int:
    """Return the default number of images in a row of a sheet of `count` images."""
    return math.ceil(math.sqrt(count))


def sheet(
    images: Tensor | np.ndarray | Sequence[Tensor | np.ndarray],
    columns: int | None = None,
    *,
    zoom: int | None = None,
) -> Image.Image:
    """Return one sheet of images, row by row from the top left. A notebook shows the sheet as a picture.

    Args:
        images: a tensor or array (B, C, H, W) or (C, H, W), or a sequence of (C, H, W), in [0, 1] or uint8.
        columns: images per row, by default the square root of their number, rounded up.
        zoom: the integer factor by which pixels are enlarged, 1 to 64; by default the longer side of the
            sheet gets about 800 pixels.

    Raises:
        UserError: if a value is outside [0, 1] or NaN, or `zoom` is too small or too large.

    Example:
        >>> ddim.sheet(ddim.sample("runs/photos-fast-1", n=16)).save("samples.png")
    """
    import torch

    # torch takes no array with a negative stride, such as a reversed one.
    parts = [torch.as_tensor(p.copy() if isinstance(p, np.ndarray) else p) for p in images]
    whole = torch.stack(parts) if parts else torch.empty(0)
    whole = whole[None] if whole.ndim == 3 else whole
    check_images(whole)
    return Image.fromarray(enlarge(make_sheet(whole, columns), zoom))


def enlarge(pixels: np.ndarray, zoom: int | None = None) -> np.ndarray:
    """Return an image (H, W, C) that is enlarged by an integer factor, so that each pixel becomes a square.

    Args:
        pixels: the image.
        zoom: the factor; by default the longer side gets about 800 pixels.

    Raises:
        UserError: if the factor is not a whole number in 1 ... 64.
    """
    zoom = min(LARGEST_ZOOM, max(1, round(SHEET / max(pixels.shape[:2])))) if zoom is None else zoom
    if not 1 <= to_int("zoom", zoom) <= LARGEST_ZOOM:
        raise UserError(f"zoom must be at least 1 and at most {LARGEST_ZOOM}, got {zoom}")
    return pixels.repeat(zoom, 0).repeat(zoom, 1)


def split_sheet(sheet: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Return the images (height, width, C) of a sheet, row by row.

    Args:
        sheet: a sheet from `make_sheet`, which may be enlarged.
        height: the height of an image before it was enlarged.
        width: the width of an image before it was enlarged.
    """
    across, down = sheet.shape[1], sheet.shape[0]
    # Several factors may divide the sides, so the largest one that gives the sheet back is taken.
    for zoom in range(LARGEST_ZOOM, 0, -1):
        fits = not (across + zoom * GAP) % (zoom * (width + GAP))
        fits = fits and not (down + zoom * GAP) % (zoom * (height + GAP))
        if fits and np.array_equal(enlarge(sheet[::zoom, ::zoom], zoom), sheet):
            sheet = sheet[::zoom, ::zoom]
            break
    tops = range(0, sheet.shape[0] - height + 1, height + GAP)
    lefts = range(0, sheet.shape[1] - width + 1, width + GAP)
    return [sheet[top : top + height, left : left + width] for top in tops for left in lefts]


def blend_alpha(pixels: np.ndarray) -> np.ndarray:
    """Return images (..., H, W, 1, 3 or 4) uint8 as RGB (..., H, W, 3).

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


def save_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write an image as a PNG file; see `render_png`."""
    write_atomic(Path(path), render_png(pixels))


def render_png(pixels: np.ndarray) -> bytes:
    """Return the content of the PNG file of an image; equal pixels give equal files.

    Images are (H, W) or (H, W, 1, 3 or 4) uint8; gray ones may be uint16.
    """
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MARK)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG", pnginfo=mark)
    return content.getvalue()


def save_film(path: str | Path, frames: Sequence[np.ndarray]) -> None:
    """Write frames, enlarged, as a lossless animated WebP that repeats.

    The last frame is shown for two seconds, after four seconds of the others. Consecutive equal frames become
    one longer frame.

    Args:
        path: the path of the file.
        frames: images (H, W, 1, 3 or 4) uint8, all of one size.
    """
    images = [Image.fromarray(enlarge(blend_alpha(frame))) for frame in frames]
    each = max(1, round(4000 / max(1, len(frames) - 1)))  # in milliseconds
    durations = [each] * (len(frames) - 1) + [max(each, 2000)]
    content = io.BytesIO()
    film = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    # The default effort takes 30 times as long, and makes noisy frames only a tenth smaller.
    images[0].save(content, "WEBP", lossless=True, method=0, quality=0, **film)
    write_atomic(Path(path), content.getvalue())


def check_picture_path(path: str | Path, endings: Sequence[str] = (".png",), replace: bool = False) -> None:
    """Check that a picture can be written to a path.

    Args:
        path: the path.
        endings: the allowed endings of its name.
        replace: whether an existing file may be replaced.

    Raises:
        UserError: if `path` has another ending, its folder does not exist, or it is a file that may not be
            replaced.
    """
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise UserError(f"a picture must end in {' or '.join(endings)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UserError(f"{str(path)!r} lies in a folder that does not exist: create the folder first")
    if path.exists() and not replace:
        raise UserError(f"{str(path)!r} exists: give another name")


def find_unused_path(path: str | Path) -> Path:
    """Return `path` if nothing exists there, else the first unused path among NAME-2, NAME-3, ..."""
    path = Path(path)
    others = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return path if not path.exists() else next(other for other in others if not other.exists())


# Previews: images drawn in the terminal with coloured characters


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
