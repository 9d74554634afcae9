"""Write samples without loss: as PNG if they are 8-bit pictures or 16-bit gray, as .npy otherwise."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim.data.decode import MAX_BYTES
from ddim.data.folder import Folder
from ddim.data.npy import NotAnArrayError, npy_header, read_npy
from ddim.data.npy import render_npy as render_array
from ddim.data.sources import Member
from ddim.data.values import PICTURE_CHANNELS, Values
from ddim.errors import UserError
from ddim.files import atomic_file, read_file, write_atomic
from ddim.plots.pictures import render_deep_png, render_png, to_uint8

STACK = "samples.npy"
"""The file with the samples of the last call as one array; see `ddim.runs.sample_folder`."""

SAMPLE = re.compile(r"\d{5,}\.(png|npy)")
"""The names of the samples in a folder; a name begins with the seed."""


@dataclass(frozen=True)
class SampleArrays(Folder):
    """The samples in .npy files of a folder, sorted by name. A `Folder` leaves out such files."""

    def stamp(self) -> str:
        """Return the stamp of the folder, marked as that of its arrays; see `Source`."""
        found = super().stamp()
        return f"{found}\0arrays" if found else ""

    def list_names(self) -> list[str]:
        """Return the names of the samples, sorted."""
        names = super().list_names()
        return [name for name in names if SAMPLE.fullmatch(name) and name.endswith(".npy")]

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield the samples, sorted by name; see `Source`."""
        for name in self.list_names():
            yield Member(name, read_file(self.path / name, MAX_BYTES))


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
