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

from ddim.data.sources import Folder, Member, Reject
from ddim.data.values import PICTURE_CHANNELS, Values
from ddim.diffusion.denoiser import Shape
from ddim.errors import UserError
from ddim.files import atomic_file, write_atomic
from ddim.plots.pictures import make_sheet, render_png, to_uint8

STACK = "samples.npy"
"""The file with the samples of the last call as one array; see `ddim.sampling.sample_folder`."""

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

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the samples, sorted by name; see `Source`."""
        for name in self.list_names():
            try:
                yield Member(name, np.load(self.path / name, allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                yield Reject(name, f"cannot be read: {error}")


@dataclass(frozen=True)
class SampleFiles:
    """The files of the samples of a model in a folder: one for each seed.

    Attributes:
        folder: the folder.
        shape: the shape of each sample.
        values: the values of the images of the model.
    """

    folder: Path
    shape: Shape
    values: Values

    @property
    def pictures(self) -> bool:
        """Whether the samples are pictures; see `is_picture`."""
        return is_picture(self.values, self.shape.channels)

    def name(self, seed: int) -> Path:
        """Return the path of the sample of a seed."""
        return self.folder / f"{seed:05d}{sample_suffix(self.values, self.shape.channels)}"

    def read(self, seed: int) -> np.ndarray | None:
        """Return the sample (H, W, C) of a seed, or None if its file is missing or damaged."""
        shape = self.shape.height, self.shape.width, self.shape.channels
        return read_saved_image(self.name(seed), shape, self.values)

    def write(self, seeds: Sequence[int], images: Tensor) -> None:
        """Write the samples (B, C, H, W) of the seeds, with values in [0, 1]."""
        for seed, pixels in zip(seeds, to_pixels(images, self.values), strict=True):
            write_image(self.name(seed), pixels)

    def draw_sheet(self, seeds: Sequence[int]) -> np.ndarray:
        """Return one image (H', W', 3) uint8 that shows the samples of the seeds.

        Raises:
            UserError: if a file is missing or damaged.
        """
        samples = [show_image(self._read_again(seed), self.values) for seed in seeds]
        return make_sheet(torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2))

    def stack(self, seeds: Sequence[int]) -> None:
        """Write `STACK`: the samples of the seeds, (N, H, W, C), or (N, H, W) if they have one channel.

        Raises:
            UserError: if a file is missing or damaged.
        """
        deep = (self.shape.channels,) if self.shape.channels > 1 else ()
        with atomic_file(self.folder / STACK) as file:
            shape = (len(seeds), self.shape.height, self.shape.width, *deep)
            described = {"descr": np.dtype(self.values.type).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, described)
            for seed in seeds:
                pixels = self._read_again(seed)
                file.write(pixels.tobytes())

    def _read_again(self, seed: int) -> np.ndarray:
        """Return a sample that was there when the command began, or was made by it."""
        pixels = self.read(seed)
        if pixels is None:
            raise UserError(
                f"samples in {self.folder} were removed during this command; give the command again"
            )
        return pixels


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
        with atomic_file(path) as file:
            np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    else:
        write_atomic(path, render_png(pixels))


def read_saved_image(path: Path, shape: tuple[int, int, int], values: Values) -> np.ndarray | None:
    """Return an image (H, W, C) that `write_image` wrote.

    The result is None if the file is missing or damaged, or the image has another shape or type.
    """
    try:
        if path.suffix == ".npy":
            pixels = np.load(path, allow_pickle=False)
        else:
            with Image.open(path, formats=("PNG",)) as image:
                pixels = np.asarray(image).reshape(image.height, image.width, -1)
    # Pillow raises any of these for damaged files.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == values.type else None


def show_image(pixels: np.ndarray, values: Values) -> np.ndarray:
    """Return an image (H, W, C) as a uint8 picture (H, W, C'), C' = 1, 3 or 4; see `to_uint8`."""
    if is_picture(values, pixels.shape[2]):
        return pixels
    unit = torch.from_numpy(values.to_unit(pixels))
    return to_uint8(unit.permute(2, 0, 1)[None])[0]
