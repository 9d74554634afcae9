"""Source of images that are given from Python: a tensor, an array, or a data set of torch.

A recipe contains the text of such a source, "given:NAME:HASH". The source can be opened only in the process
in which the images were given; another process must be given the images again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
from PIL import Image

from ddim.data.arrays import encode_array, find_channel_axis
from ddim.data.decode import turn_upright
from ddim.data.high_bit_depth import read_any_header
from ddim.data.labels import find_given_classes
from ddim.data.sources import Member, Source, Survey
from ddim.data.survey import Tally
from ddim.data.values import PICTURE_CHANNELS
from ddim.errors import UserError, check_pixels

PREFIX = "given:"
"""The start of the text of every source of images that are given from Python."""

GIVEN: dict[str, GivenImages] = {}
"""The sources that were given in this process, keyed by their texts."""

PAIRS = "give pairs (image, label), such as torch.utils.data.TensorDataset(images, labels)"
"""The advice in error messages on how to give images with labels."""

_SHAPES = "(N, C, H, W) or (N, H, W, C)"


def give_images(data: Any, values: str = "auto") -> GivenImages:  # noqa: ANN401 (see Args)
    """Return the source of images that are given from Python, and remember it in `GIVEN`.

    Args:
        data: a tensor or array (N, C, H, W) or (N, H, W, C), uint8, uint16 or floats in [0, 1]. A list or a
            `torch.utils.data.Dataset` is accepted too. Its items are images (C, H, W), (H, W, C) or (H, W),
            or images of Pillow. They may also be pairs (image, class label), with labels 0, 1, 2, ... An
            attribute `classes` of the data set names the classes. A split of a data set of Hugging Face has
            images in its column `image` and class labels in `label`. The channels are on the first axis if
            its length is 1, 3 or 4; else on the last axis if its length is 1, 3 or 4; else on the first or
            the last axis if it is shorter than both other axes.
        values: "auto" rounds floats in [0, 1] to 8 bits if the images have 1, 3 or 4 channels; "float32"
            keeps floats of any range. 16-bit images, images with other numbers of channels, and images of
            Pillow in mode "F" are never rounded.

    `data` may also be a source that this function returned before.

    Raises:
        UserError: if the data are not images; the message says what is wrong and how to convert them.
    """
    if isinstance(data, GivenImages):
        return data if values in ("auto", data.values) else give_images(data.data, values)
    # The shape of a Hugging Face data set is not that of images, but its numbers of rows and columns.
    shape = None if hasattr(data, "column_names") else getattr(data, "shape", None)
    if isinstance(data, Mapping):
        raise UserError(f"data must be one split of a data set, such as data[{next(iter(data), 'train')!r}]")
    if shape is not None and len(shape) != 4:
        single = len(shape) == 3 and (shape[0] in PICTURE_CHANNELS or shape[2] in PICTURE_CHANNELS)
        gray = ": add the channel, images[:, None]" if len(shape) == 3 else ""
        advice = ": one image is images[None], several gray images are images[:, None]" if single else gray
        raise UserError(f"images must have the shape {_SHAPES}, got {tuple(shape)}{advice}")
    if hasattr(data, "dataset") and hasattr(data, "batch_sampler"):
        raise UserError(
            "data cannot be a DataLoader, which yields batches: give its data set, loader.dataset"
        )
    if isinstance(data, tuple | list) and len(data) == 2 and len(getattr(data[0], "shape", ())) == 4:
        raise UserError(f"data cannot be a {type(data).__name__} (images, labels): {PAIRS}")
    if shape is None and not hasattr(data, "__getitem__") and not hasattr(data, "__iter__"):
        raise UserError(
            "data must be a path, a name, a tensor or array of images or a data set, "
            f"got {type(data).__name__}"
        )
    source = GivenImages(data, values)
    GIVEN[source.text] = source
    return source


class GivenImages(Source):
    """The source of images that are given from Python; see `give_images` and `Source`."""

    def __init__(self, data: Any, values: str = "auto") -> None:  # noqa: ANN401
        self.data, self.values = data, values
        classes = getattr(data, "classes", None) or _find_names(data)
        self.class_names = [str(name) for name in classes] if isinstance(classes, list | tuple) else []
        self.sizes: set[tuple[int, int]] = set()
        self.labelled = False

    @property
    def text(self) -> str:
        """The text that stands for this source in a recipe: type of the data and hash of the images."""
        kind = "images" if isinstance(self.data, list | tuple) else type(self.data).__name__
        return f"{PREFIX}{kind}:{self.survey().content[:12]}"

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of all images.

        Raises:
            UserError: if their sizes differ.
        """
        self.survey()
        if len(self.sizes) > 1:
            some = " and ".join(f"{height}x{width}" for height, width in sorted(self.sizes)[:2])
            raise UserError(f"the images have different sizes, such as {some}: give a size, such as size=64")
        return next(iter(self.sizes))

    def stamp(self) -> str:
        """Return "": a stamp is not needed, because `survey` always returns the survey; see `Source`."""
        return ""

    def survey(self) -> Survey:
        """Return the survey: the first call reads every image; see `Source`."""
        return self._survey

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every image as a file without compression, in a folder for its class; see `Source`."""
        for number, row in enumerate(self._items()):
            item = _find_pair(row, number) if isinstance(row, Mapping) else row
            pair = isinstance(item, tuple | list)
            image = item[0] if pair else item
            label = _read_label(item[1], number) if pair and len(item) > 1 else None
            folder = "" if label is None else f"{label:06d}/"
            yield Member(
                f"{folder}{number:09d}", _encode(image, f"image {number}", keep=self.values != "auto")
            )

    def find_classes(self, names: Sequence[str]) -> tuple[tuple[str, ...], list[int] | None]:
        """Return the class names, and the class index of each member; ((), None) if there are no labels.

        Raises:
            UserError: if only some images have a label.
        """
        return find_given_classes(names, self.class_names)

    def _items(self) -> Iterable[Any]:
        # A `for` loop over a data set of torch ends only if the data set raises IndexError, so the items are
        # counted.
        sized = hasattr(self.data, "__len__") and hasattr(self.data, "__getitem__")
        return (self.data[k] for k in range(len(self.data))) if sized else self.data

    @cached_property
    def _survey(self) -> Survey:
        lines, tally = [], Tally()
        for member in self.members((0, 0)):
            lines.append((member.name, hashlib.sha256(member.data).hexdigest()))
            header = read_any_header(member.data)
            self.sizes.add((header.height, header.width))
            tally.add(header, member.data)
        if not lines:
            raise UserError("data must hold at least one image, got none")
        classes, labels = self.find_classes([name for name, _ in lines])
        self.labelled = labels is not None
        content = hashlib.sha256(json.dumps([classes, sorted(lines)]).encode()).hexdigest()
        return tally.complete(content, len(lines))


def _find_pair(row: Mapping[str, Any], number: int) -> tuple[Any, ...]:
    """Return the image and the label, if there is one, in a row of a data set of Hugging Face."""
    image = next((row[name] for name in ("image", "img", "pixel_values") if row.get(name) is not None), None)
    if image is None:
        columns = ", ".join(map(str, row))
        raise UserError(f"row {number} must have an image in a column named image, got the columns {columns}")
    label = next((row[name] for name in _LABELS if row.get(name) is not None), None)
    return (image,) if label is None else (image, label)


_LABELS = ("label", "labels", "fine_label")


def _find_names(data: Any) -> list[str] | None:  # noqa: ANN401
    """Return the names of the classes of a data set of Hugging Face."""
    features = getattr(data, "features", None)
    found = next((features[name] for name in _LABELS if name in features), None) if features else None
    return getattr(found, "names", None)


def _read_label(label: Any, number: int) -> int:  # noqa: ANN401
    try:
        found = index(label)
    except (TypeError, ValueError):
        found = -1
    if not 0 <= found < 10**6:
        raise UserError(f"the label of image {number} must be a class index, 0, 1, 2, ..., got {label!r}")
    return found


def _encode(image: Any, name: str, *, keep: bool) -> bytes:  # noqa: ANN401
    """Return an image as the bytes of a file without compression: PPM, PNG, TIFF or .npy."""
    if isinstance(image, Image.Image):
        return encode_picture(image, name)
    return encode_array(_to_pixels(image, name, keep=keep))


def encode_picture(image: Image.Image, name: str) -> bytes:
    """Return an image of Pillow as the bytes of a file without compression: PPM, PNG or TIFF.

    The image is rotated by its EXIF orientation, as image files are.

    Raises:
        UserError: if its mode cannot be stored; the message calls the image `name`.
    """
    image = turn_upright(image)
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return encode_array(np.asarray(image).reshape(image.height, image.width, -1))
    file = io.BytesIO()
    try:
        # Only TIFF stores floats and 32-bit integers.
        image.save(file, "TIFF" if image.mode in ("F", "I") else "PNG", compress_level=0)
    except OSError:
        raise UserError(f"{name} has the mode {image.mode!r}: convert it, image.convert('RGB')") from None
    return file.getvalue()


def _to_pixels(image: Any, name: str, *, keep: bool) -> np.ndarray:  # noqa: ANN401
    """Return a tensor or array as pixels (H, W, C), uint8, uint16 or float32.

    Floats are kept if `keep` is set or the number of channels is not 1, 3 or 4; else they are rounded to
    uint8.

    Raises:
        UserError: if the shape is not that of an image, or the values are of another type or range.
    """
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    values = np.asarray(image)
    if values.ndim not in (2, 3) or not values.size:
        raise UserError(f"images must have the shape {_SHAPES}, got {values.shape} for {name}")
    values = values[..., None] if values.ndim == 2 else _put_channels_last(values, name)
    if values.dtype.kind == "f" and (keep or values.shape[2] not in PICTURE_CHANNELS):
        if not np.isfinite(values).all():
            raise UserError(f"images must be finite, got NaN or infinity in {name}")
        return values.astype(np.float32)
    return values if values.dtype in (np.uint8, np.uint16) else _scale(values, name)


def _put_channels_last(values: np.ndarray, name: str) -> np.ndarray:
    """Return an image (C, H, W) or (H, W, C) as (H, W, C); see `give_images`."""
    usual = [axis in PICTURE_CHANNELS for axis in values.shape]
    axis = "first" if usual[0] else "last" if usual[2] else find_channel_axis(values.shape)
    if axis is None:
        raise UserError(
            f"the channels of {name} may be on its first or last axis, got {values.shape}: {_MEND}"
        )
    return values.transpose(1, 2, 0) if axis == "first" else values


_MEND = "save the images with np.save, and train on the file with data.axis first or last"


def _scale(values: np.ndarray, name: str) -> np.ndarray:
    """Return floats in [0, 1] as uint8."""
    low, high = values.min(), values.max()
    check_pixels(str(values.dtype), low, high, where=f" in {name}")
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
