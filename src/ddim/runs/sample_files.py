"""Write samples without loss: as PNG if they are 8-bit pictures or 16-bit gray, as .npy otherwise."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim.data.npy import NotAnArrayError, npy_header, read_npy
from ddim.data.npy import render_npy as render_array
from ddim.data.values import PICTURE_CHANNELS, Values
from ddim.errors import UserError
from ddim.files import atomic_file, write_atomic
from ddim.plots.pictures import render_deep_png, render_png, to_uint8

STACK = "samples.npy"
"""The file with the samples of the last call as one array; see `ddim.runs.sample_folder`."""


def is_picture(values: Values, channels: int) -> bool:
    """Return whether images with these values and channels are pictures: 8 bits and 1, 3 or 4 channels."""
    return values.eight_bits and channels in PICTURE_CHANNELS


def sample_suffix(values: Values, channels: int) -> str:
    """Return the file ending, ".png" or ".npy", for an image with these values and channels."""
    return ".png" if is_picture(values, channels) or (values.type, channels) == ("uint16", 1) else ".npy"


def to_pixels(images: Tensor, values: Values) -> np.ndarray:
    """Return images (B, C, H, W) in [0, 1] as the values (B, H, W, C) that are written to files."""
    return to_uint8(images) if is_picture(values, images.shape[1]) else values.from_unit(images)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image (H, W, C) of uint8, uint16 or float32 to a .png or .npy file; see `sample_suffix`."""
    if path.suffix == ".npy":
        write_atomic(path, render_array(pixels))
    else:
        write_atomic(path, render_png(pixels) if pixels.dtype == np.uint8 else render_deep_png(pixels))


def read_saved_image(path: Path, shape: tuple[int, int, int], values: Values) -> np.ndarray | None:
    """Return an image (H, W, C) that `write_image` wrote.

    The result is None if the file is missing or damaged, or the image has another shape or type.
    """
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                pixels = read_npy(file, path.stat().st_size)
        else:
            with Image.open(path, formats=("PNG",)) as image:
                pixels = np.asarray(image).reshape(image.height, image.width, -1)
    # Pillow raises any of these for damaged files.
    except (OSError, SyntaxError, ValueError, struct.error, NotAnArrayError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == values.type else None


def show_image(pixels: np.ndarray, values: Values) -> np.ndarray:
    """Return an image (H, W, C) as a uint8 picture (H, W, C'), C' = 1, 3 or 4; see `to_uint8`."""
    if is_picture(values, pixels.shape[2]):
        return pixels
    unit = torch.from_numpy(values.to_unit(pixels))
    return to_uint8(unit.permute(2, 0, 1)[None])[0]


def write_stack(folder: Path, paths: Sequence[Path], shape: tuple[int, int, int], values: Values) -> None:
    """Write `STACK`: the images of these files, (N, H, W, C), or (N, H, W) if they have one channel.

    Raises:
        UserError: if a file is missing or damaged.
    """
    kept = shape if shape[2] > 1 else shape[:2]
    with atomic_file(folder / STACK) as file:
        file.write(npy_header((len(paths), *kept), values.type))
        for path in paths:
            pixels = read_saved_image(path, shape, values)
            if pixels is None:
                raise UserError(
                    f"samples in {folder} were removed during this command; give the command again"
                )
            file.write(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes())
