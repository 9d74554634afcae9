"""Source of the images in a .npy or .npz file of NumPy; the images are read one at a time."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from ddim.data.archives import DAMAGED, Allowance, open_zip
from ddim.data.decode import MAX_PIXELS
from ddim.data.folder import stamp_paths
from ddim.data.images import SMALLEST
from ddim.data.labels import find_given_classes
from ddim.data.npy import NotAnArrayError, read_npy, read_npy_header, render_npy
from ddim.data.sources import Member, Source
from ddim.data.values import PICTURE_CHANNELS, Reading
from ddim.errors import UserError
from ddim.files import measure_file

SUFFIXES = (".npy", ".npz")
"""The endings of files that hold arrays."""

_IMAGES, _LABELS = ("images", "x", "arr_0"), ("labels", "y")
_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
_SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W)"
_MOST_LABELS, _LARGEST_IMAGE = 10**8, 2**28  # bytes


def find_channel_axis(shape: Sequence[int], axis: str = "auto") -> str | None:
    """Return which axis of this shape holds the channels, "first" or "last"; None if this is ambiguous.

    If `axis` is "auto", the first or the last axis holds them if it is shorter than both other axes.

    Args:
        shape: (C, H, W) or (H, W, C).
        axis: "first" or "last" if the user gives the axis, else "auto".
    """
    if axis != "auto":
        return axis
    a, b, c = shape
    if a < min(b, c):
        return "first"
    return "last" if c < min(a, b) else None


def encode_array(pixels: np.ndarray) -> bytes:
    """Return an image (H, W, C) as the bytes of a file without compression.

    8-bit images of 1, 3 or 4 channels become PPM or PNG files, all others .npy files, see `high_bit_depth`.
    """
    if pixels.dtype != np.uint8 or pixels.shape[2] not in PICTURE_CHANNELS:
        return render_npy(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    if image.mode in ("L", "RGB"):
        return b"P%d %d %d 255\n" % (5 if image.mode == "L" else 6, *image.size) + image.tobytes()
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


@dataclass(frozen=True)
class _Layout:
    """How a file stores its images: shape (N, ...), whether in Fortran order, type, and channel axis.

    The channel axis is "first" or "last", or None if images have the shape (H, W).
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    channels: str | None


@dataclass(frozen=True)
class Arrays(Source):
    """The images of a .npy or .npz file, in the order of the file.

    In a .npz file, an array "labels" or "y" holds the class labels.

    Attributes:
        path: the file.
        reading: the channel axis and the name of the array, if the user gives them.
    """

    path: Path
    reading: Reading = field(default_factory=Reading)

    def stamp(self) -> str:
        """Return the path, size and timestamps of the file, and how it is read; see `Source`."""
        found = stamp_paths(self.path)
        return f"{found}\0{self.reading.axis}\0{self.reading.array}" if found else ""

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of all images.

        Raises:
            UserError: if the file cannot be read, or holds no array that can be used as images.
        """
        with self._open() as (_, layout):
            height, width = layout.shape[2:] if layout.channels == "first" else layout.shape[1:3]
            return height, width

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every image as a file without compression, in a folder for its class; see `Source`.

        Raises:
            UserError: if the file cannot be read or holds no array that can be used as images, a value is not
                finite, or the labels are not class indices, one for each image.
        """
        labels = self._read_labels()
        with self._open() as (file, layout):
            if labels is not None and len(labels) != layout.shape[0]:
                raise UserError(
                    f"{self.path} holds {layout.shape[0]:,} images and {len(labels):,} labels: give a label "
                    "for each image"
                )
            for number, image in enumerate(self._read_images(file, layout)):
                folder = "" if labels is None else f"{labels[number]:06d}/"
                yield Member(f"{folder}{number:09d}", encode_array(self._arrange(image, layout, number)))

    def find_classes(self, names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
        """Return the class names, and the class index of each member; see `find_given_classes`."""
        return find_given_classes(names)

    @contextmanager
    def _open(self) -> Generator[tuple[IO[bytes], _Layout]]:
        """Open the array of images, and check that its shape and type are those of images."""
        with self._open_array() as file:
            try:
                shape, fortran, dtype = read_npy_header(file)
            except NotAnArrayError as error:
                raise UserError(f"{self.path} holds no images: {error}") from None
            if len(shape) not in (3, 4) or min(shape) < 1:
                raise UserError(f"images must have the shape {_SHAPES}, got {shape} in {self.path}")
            if dtype.name not in _TYPES:
                raise UserError(
                    f"images must be uint8, uint16, float16, float32 or float64, got {dtype} in {self.path}: "
                    "convert them"
                )
            channels = None if len(shape) == 3 else find_channel_axis(shape[1:], self.reading.axis)
            if len(shape) == 4 and channels is None:
                raise UserError(
                    f"the channels of images {shape} in {self.path} may be on axis 1 or the last axis: give "
                    "data.axis first or last (--data.axis)"
                )
            values = math.prod(shape[1:])
            if values > MAX_PIXELS or values * dtype.itemsize > _LARGEST_IMAGE:
                raise UserError(
                    f"images must have at most {MAX_PIXELS // 10**6} million values and "
                    f"{_LARGEST_IMAGE >> 20} MiB, got {shape[1:]} of {dtype} in {self.path}"
                )
            if values < SMALLEST**2:
                # Else a small file could hold millions of images.
                raise UserError(
                    f"images must have at least {SMALLEST**2} values, got {shape[1:]} in {self.path}"
                )
            yield file, _Layout(shape, fortran, dtype, channels)

    @contextmanager
    def _open_array(self, wanted: str | None = None) -> Generator[IO[bytes]]:
        """Open the .npy file, or the array `wanted` of a .npz file, by default the array of images."""
        try:
            if not self._is_zip:
                if not measure_file(self.path):
                    raise UserError(f"{self.path} holds no images: it is empty")
                with self.path.open("rb") as file:
                    yield file
                return
            with open_zip(self.path) as archive:
                name = wanted or self._find_images(archive)
                with archive.open(f"{name}.npy") as file:
                    yield file
        except UserError:
            raise
        except DAMAGED as error:
            raise UserError(f"{str(self.path)!r} cannot be read: {error}") from None

    @property
    def _is_zip(self) -> bool:
        # An empty file may be a file of /proc, and reading it may never end.
        return measure_file(self.path) > 0 and zipfile.is_zipfile(self.path)

    def _find_images(self, archive: zipfile.ZipFile) -> str:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        asked = self.reading.array
        if asked is not None and asked not in names:
            raise UserError(
                f"data.array must be an array in {self.path}, {', '.join(names[:20]) or 'none'}, got "
                f"{asked!r}"
            )
        others = [name for name in names if name not in _LABELS]
        found = asked or next((name for name in _IMAGES if name in names), None)
        if found is None and len(others) != 1:
            raise UserError(
                f"{self.path} holds the arrays {', '.join(names[:20]) or 'none'}: name the one with the "
                "images in data.array (--data.array NAME)"
            )
        return found or others[0]

    def _read_labels(self) -> np.ndarray | None:
        """Return the class indices (N,) in the array "labels" or "y"; None if there is no such array."""
        if not self._is_zip:
            return None
        with open_zip(self.path) as archive:
            name = next((name for name in _LABELS if f"{name}.npy" in archive.namelist()), None)
            if name is None or name == self.reading.array:
                return None
        with self._open_array(name) as file:
            try:
                labels = read_npy(file, min(_MOST_LABELS, Allowance(self.path).total))
            except NotAnArrayError as error:
                raise UserError(f"the labels in {self.path} cannot be read: {error}") from None
        labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
            raise UserError(
                f"labels must be class indices (N,), 0, 1, 2, ..., got {labels.dtype} {labels.shape} in "
                f"{self.path}"
            )
        if labels.max() >= 10**6:
            raise UserError(f"labels must be less than a million, got {labels.max()} in {self.path}")
        return labels

    def _read_images(self, file: IO[bytes], layout: _Layout) -> Iterator[np.ndarray]:
        """Yield the images as the file stores them; only one at a time is in memory."""
        count, each = layout.shape[0], math.prod(layout.shape[1:]) * layout.dtype.itemsize
        if layout.fortran:
            if self._is_zip:
                raise UserError(
                    f"{self.path} holds images in Fortran order: save np.ascontiguousarray(images)"
                )
            if self.path.stat().st_size < file.tell() + count * each:
                raise UserError(f"{self.path} is cut off: {layout.shape} needs {count * each:,} bytes")
            yield from np.memmap(self.path, layout.dtype, "r", file.tell(), layout.shape, "F")
            return
        allowance = Allowance(self.path) if self._is_zip else None
        for number in range(count):
            if allowance:
                allowance.take(each)
            content = file.read(each)
            if len(content) < each:
                raise UserError(f"{self.path} is cut off in image {number} of {count}")
            yield np.frombuffer(content, layout.dtype).reshape(layout.shape[1:])

    def _arrange(self, image: np.ndarray, layout: _Layout, number: int) -> np.ndarray:
        """Return an image as (H, W, C), with values of type uint8, uint16 or float32."""
        pixels = image[..., None] if layout.channels is None else image
        pixels = np.moveaxis(pixels, 0, -1) if layout.channels == "first" else pixels
        if layout.dtype.kind != "f":
            return pixels.astype(layout.dtype.newbyteorder("="), copy=False)
        with np.errstate(over="ignore"):
            pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise UserError(
                f"images must be finite, got NaN or infinity in image {number} of {self.path}: remove such "
                "images"
            )
        return pixels
