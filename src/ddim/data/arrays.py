"""Sources of images in arrays: a .npy or .npz file, or a tensor, an array or a data set given from Python.

A recipe contains the text of images from Python, "given:NAME:HASH". They can be opened only in the process in
which they were given, as long as something there refers to their source; else they must be given again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from PIL import Image

from ddim.data.decode import read_header, turn_upright
from ddim.data.sources import Member, Source, stamp_paths
from ddim.data.values import AS_FILES_SAY, PICTURE_CHANNELS, Reading
from ddim.errors import UserError, check_pixels

SUFFIXES = (".npy", ".npz")
"""The endings of files that hold arrays."""

PREFIX = "given:"
"""The start of the text of every source of images that are given from Python."""

GIVEN: WeakValueDictionary[str, GivenImages] = WeakValueDictionary()
"""The sources that were given in this process and are still in use, keyed by their texts."""

_IMAGES, _LABELS = ("images", "x", "arr_0"), ("labels", "y")
_ROW_IMAGES, _ROW_LABELS = ("image", "img", "pixel_values"), ("label", "labels", "fine_label")


def arrange_pixels(image: Any, name: str, axis: str = "auto", *, keep_floats: bool = True) -> np.ndarray:  # noqa: ANN401
    """Return a tensor or array as an image (H, W, C) of type uint8, uint16 or float32.

    Args:
        image: (H, W), (H, W, C) or (C, H, W), of type uint8, uint16 or floats.
        name: the name of the image, for messages.
        axis: the axis of the channels, "first" or "last". By default it is the first axis if its length is 1,
            3 or 4, else the last axis if its length is 1, 3 or 4, else the one that is shorter than both
            other axes.
        keep_floats: whether floats are kept; else images of 1, 3 or 4 channels must have floats in [0, 1],
            which are rounded to uint8.

    Raises:
        UserError: if the shape is not that of an image, or the values are of another type or range.
    """
    if hasattr(image, "detach"):
        image = image.detach().cpu().float() if image.is_floating_point() else image.detach().cpu()
    values = np.asarray(image)
    if values.ndim not in (2, 3) or not values.size:
        raise UserError(f"{name} must have the shape (C, H, W), (H, W, C) or (H, W), got {values.shape}")
    values = values[..., None] if values.ndim == 2 else _put_channels_last(values, name, axis)
    if values.dtype.kind == "u" and values.itemsize <= 2:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and (keep_floats or values.shape[2] not in PICTURE_CHANNELS):
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"images must be finite, got NaN or infinity in {name}: remove such images")
        return values
    check_pixels(str(values.dtype), values.min(), values.max(), where=f" in {name}")
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _put_channels_last(values: np.ndarray, name: str, axis: str) -> np.ndarray:
    first, middle, last = values.shape
    if axis == "auto":
        a, b = (0 if length in PICTURE_CHANNELS else length for length in (first, last))
        if a == b != 0 or min(a, b) >= middle:
            places = f"the channels of {name} may be on its first or last axis, got {values.shape}"
            raise UserError(f"{places}: save the images with np.save, and give --data.axis first or last")
        axis = "first" if a <= b else "last"
    return values.transpose(1, 2, 0) if axis == "first" else values


@dataclass(frozen=True)
class Arrays(Source):
    """The images (N, H, W), (N, H, W, C) or (N, C, H, W) of a .npy or .npz file, in the order of the file.

    In a .npz file, an array "labels" or "y" holds the class labels.

    Attributes:
        path: the file.
        reading: the axis of the channels and the name of the array, if the user gives them.
    """

    path: Path
    reading: Reading = AS_FILES_SAY

    def stamp(self) -> str:
        """Return the path, size and timestamps of the file, and how it is read; see `Source`."""
        stamp = stamp_paths(self.path)
        return stamp and f"{stamp}\0{self.reading.axis}\0{self.reading.array}"

    @property
    def size(self) -> tuple[int, int] | None:
        """The (height, width) of all images; None if there is no image.

        Raises:
            UserError: if the file cannot be read, or holds no array that can be used as images.
        """
        return self._take(0).shape[:2] if self.count_files() else None

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every image; see `Source`.

        Raises:
            UserError: if the file cannot be read, its array cannot be used as images, or the labels are not
                class indices, one for each image.
        """
        images, labels = self._content
        for number in range(len(images)):
            yield Member(f"{number:09d}", self._take(number), None if labels is None else int(labels[number]))

    def count_files(self) -> int:
        """Return the number of images."""
        return len(self._content[0])

    def _take(self, number: int) -> np.ndarray:
        return arrange_pixels(self._content[0][number], f"image {number} of {self.path}", self.reading.axis)

    @cached_property
    def _content(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The images, and the labels (N,) or None."""
        try:
            loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return (loaded, None) if isinstance(loaded, np.ndarray) else self._choose(loaded)
        except Exception as error:  # NumPy raises errors of many types for damaged files
            raise UserError(f"{str(self.path)!r} cannot be read: {error}") from None

    def _choose(self, arrays: np.lib.npyio.NpzFile) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the arrays of images and of labels in a .npz file."""
        others = [name for name in arrays if name not in _LABELS]
        usual = [name for name in _IMAGES if name in arrays][:1] or others
        possible = [self.reading.array] if self.reading.array else usual
        if len(possible) != 1 or possible[0] not in arrays:
            raise UserError(f"it holds the arrays {', '.join(arrays)}: name the images, --data.array NAME")
        images = arrays[possible[0]]
        labels = [arrays[name].reshape(-1) for name in _LABELS if name in arrays and name not in possible]
        if labels and (labels[0].dtype.kind not in "iu" or len(labels[0]) != len(images)):
            raise UserError("the labels must be a class index 0, 1, 2, ... for each image")
        return images, labels[0] if labels else None


def hold_images(data: Any, values: str = "auto") -> str | Path | GivenImages | None:  # noqa: ANN401
    """Return the source of images: a path, a name or None as it is, and the source of other images.

    See `give_images` for the arguments. Such images can be opened while something refers to the result.
    """
    return data if isinstance(data, str | Path | None) else give_images(data, values)


def give_images(data: Any, values: str = "auto") -> GivenImages:  # noqa: ANN401
    """Return the source of images that are given from Python.

    While something refers to this source, its text can be opened like the path of a folder.

    Args:
        data: a tensor or array (N, C, H, W) or (N, H, W, C), uint8, uint16 or floats in [0, 1]. A list or a
            `torch.utils.data.Dataset` is accepted too. Its items are images, see `arrange_pixels`, or images
            of Pillow. They may also be pairs (image, class label), with labels 0, 1, 2, ... or names. An
            attribute `classes` of the data set names the classes 0, 1, 2, ... A split of a data set of
            Hugging Face has images in its column `image` and class labels in `label`. A source that this
            function returned is accepted too.
        values: "auto" rounds floats in [0, 1] to 8 bits if the images have 1, 3 or 4 channels; "float32"
            keeps floats of any range. 16-bit images, images with other numbers of channels, and images of
            Pillow in mode "F" are never rounded.

    Raises:
        UserError: if the data are not images; the message says what is wrong.
    """
    if isinstance(data, GivenImages):
        same = values in ("auto", data.values)
        return data if same else data.others.setdefault(values, GivenImages(data.data, values))
    if isinstance(data, Mapping):
        raise UserError(f"give one split of the data set, such as data[{next(iter(data), 'train')!r}]")
    shape = None if hasattr(data, "column_names") else getattr(data, "shape", None)
    if shape is not None and len(shape) != 4:
        wanted = f"images must have the shape (N, C, H, W) or (N, H, W, C), got {tuple(shape)}"
        raise UserError(f"{wanted}: one image is images[None], gray images are images[:, None]")
    return GivenImages(data, values)


class GivenImages(Source):
    """The source of images that are given from Python; see `give_images` and `Source`.

    All images are read once when their text or size or labels are first needed.

    Attributes:
        others: the same images with other values, which live as long as this source; keyed by values.
    """

    def __init__(self, data: Any, values: str = "auto") -> None:  # noqa: ANN401
        self.data, self.values = data, values
        self.others: dict[str, GivenImages] = {}
        features = getattr(data, "features", None)
        label = _pick(features, _ROW_LABELS) if isinstance(features, Mapping) else None
        classes = getattr(data, "classes", None) or getattr(label, "names", None)
        self.class_names = [str(name) for name in classes] if isinstance(classes, list | tuple) else []

    @cached_property
    def _survey(self) -> tuple[str, set[tuple[int, int]], bool]:
        """The hash of the images, their sizes, and whether they have labels."""
        content = hashlib.sha256(json.dumps(self.class_names).encode())
        sizes, labelled = set(), False
        for member in self.members((0, 0)):
            header = read_header(member.data)
            sizes.add((header.height, header.width))
            labelled = member.label is not None
            content.update(f"{header} {member.label}".encode())
            content.update(member.data if isinstance(member.data, bytes) else member.data.tobytes())
        return content.hexdigest(), sizes, labelled

    @cached_property
    def text(self) -> str:
        """The text that stands for this source in a recipe: type of the data and hash of the images."""
        kind = "images" if isinstance(self.data, list | tuple) else type(self.data).__name__
        text = f"{PREFIX}{kind}:{self._survey[0][:12]}"
        GIVEN[text] = self
        return text

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self._survey[2]

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of all images.

        Raises:
            UserError: if their sizes differ, or there is no image.
        """
        sizes = self._survey[1]
        if len(sizes) != 1:
            raise UserError(f"the images have {len(sizes)} sizes: give a size, such as size=64")
        return next(iter(sizes))

    def stamp(self) -> str:
        """Return the hash of the images; see `Source`."""
        return PREFIX + self._survey[0]

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every image; see `Source`."""
        # A `for` loop over a data set of torch ends only if the data set raises IndexError, so the items are
        # counted.
        sized = hasattr(self.data, "__len__") and hasattr(self.data, "__getitem__")
        rows = (self.data[number] for number in range(len(self.data))) if sized else self.data
        for number, item in enumerate(rows):
            image, label = (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)
            if isinstance(item, Mapping):  # a row of a data set of Hugging Face
                image, label = _pick(item, _ROW_IMAGES), _pick(item, _ROW_LABELS)
            if isinstance(image, Image.Image):
                pixels = encode_picture(image)
            else:
                pixels = arrange_pixels(image, f"image {number}", keep_floats=self.values != "auto")
            yield Member(f"{number:09d}", pixels, label if isinstance(label, str | None) else index(label))


def _pick(row: Mapping[str, Any], columns: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the first of these columns that is filled; None if all are empty."""
    return next((row[name] for name in columns if row.get(name) is not None), None)


def encode_picture(image: Image.Image) -> bytes | np.ndarray:
    """Return an image of Pillow as an array (H, W, C), or as the bytes of a file without compression.

    The image is rotated by its EXIF orientation, as image files are.
    """
    image = turn_upright(image)
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return np.asarray(image).reshape(image.height, image.width, -1)
    file = io.BytesIO()
    # Only TIFF stores floats and 32-bit integers.
    image.save(file, "TIFF" if image.mode in ("F", "I") else "PNG", compress_level=0)
    return file.getvalue()
