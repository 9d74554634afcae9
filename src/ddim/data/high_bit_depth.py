"""Decode images with more than 8 bits per channel: 16-bit and float TIFF, 16-bit PNG, and arrays.

Values change only if an image is resized. Then Pillow's bicubic filter resizes each channel in float32, and
the result is clipped to the smallest and largest value of the channel.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from ddim.data.decode import (
    BROKEN,
    MAX_BYTES,
    MAX_PIXELS,
    Header,
    UnusableError,
    decode_image,
    find_crop,
    find_range,
    open_image,
    read_header,
    read_orientation,
    too_many,
)
from ddim.data.npy import MAGIC, NotAnArrayError, read_npy
from ddim.data.pillow_warnings import hide_pillow_warnings
from ddim.data.values import EIGHT_BITS, PICTURE_CHANNELS, Values, ValueType

# Increase this number with every change that affects the decoded values; it is part of their fingerprints.
VERSION = "3"
ARRAY = "NPY"
"""The `Header.format` of an image from an array; the `Header.mode` is then the type of its values."""

# Other methods of compression are not needed for such images, and their decoders are less used.
_COMPRESSIONS = (1, 5, 8, 32773, 32946)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FLOATS = 3  # the tag SampleFormat of floats
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}


def stored_type(header: Header) -> ValueType:
    """Return the type in which the values of an image file are kept.

    This is "uint8" for 32-bit integers too: their values are scaled to 8 bits.
    """
    if header.format == ARRAY:
        return header.mode  # type: ignore[return-value]
    if header.format not in ("TIFF", "PNG"):
        return "uint8"
    if header.mode == "F":
        return "float32"
    return "uint16" if header.mode.startswith("I;16") else "uint8"


def read_any_header(data: bytes) -> Header:
    """Return the header of a file, without decoding its pixels; see `decode.read_header`.

    Files of 16-bit integers have the mode "I;16": TIFF with any number of channels, PNG with 1, 3 or 4. TIFF
    files of floats have the mode "F". For arrays, see `ARRAY`.

    Raises:
        UnusableError: if the header is damaged or unsupported.
    """
    if data.startswith(MAGIC):
        pixels = _open_array(data)
        height, width, channels = pixels.shape
        return Header(height, width, pixels.dtype.name, ARRAY, channels)
    if data.startswith(_TIFF) and (found := _read_tiff_header(data)):
        return found
    found = read_header(data)
    if found.format == "PNG" and data[24] == 16 and data[25] in _PNG_CHANNELS:
        channels = _PNG_CHANNELS[data[25]]
        if found.height * found.width * channels > MAX_PIXELS:
            raise UnusableError(too_many(f"{found.width} x {found.height} pixels of {channels} channels"))
        return Header(found.height, found.width, "I;16", "PNG", channels)
    return found


def decode_any(
    data: bytes, size: tuple[int, int], channels: int, values: Values = EIGHT_BITS
) -> tuple[Header, np.ndarray]:
    """Decode a file, crop it at the centre to the aspect ratio of `size`, and resize it.

    Args:
        data: the bytes of the file.
        size: (height, width).
        channels: number of channels.
        values: the type of the result, and the range, whose upper end is opaque in an alpha channel. Images
            with more bits become "uint8" as in `decode_image`; 8-bit images become "uint16" by multiplication
            with 257.

    Returns:
        The header, and the pixels (height, width, channels) of the type of `values`.

    Raises:
        UnusableError: if the image cannot be decoded, or cannot be converted to these channels and this type.
    """
    wanted = values.type
    if wanted == "uint8" and not data.startswith(MAGIC):
        if channels not in PICTURE_CHANNELS:
            raise UnusableError(f"an image of 8 bits, which cannot have {channels} channels")
        return decode_image(data, size, channels)
    found = read_any_header(data)
    kind = stored_type(found)
    if wanted not in (kind, "uint8") and (kind, wanted) != ("uint8", "uint16"):
        raise UnusableError(f"has {kind} values, not {wanted}")
    if kind == "uint8" and found.format != ARRAY and channels in PICTURE_CHANNELS:
        return found, decode_image(data, size, channels)[1].astype(np.uint16) * 257
    pixels = read_pixels(data)
    if kind != wanted:
        pixels = _round_to_8_bits(pixels) if wanted == "uint8" else pixels.astype(np.uint16) * 257
    if pixels.shape[2] != channels:
        if pixels.shape[2] != 1:
            raise UnusableError(f"has {pixels.shape[2]} channels, not {channels}")
        pixels = pixels.repeat(channels, axis=2)
        if channels == 4:
            pixels[..., 3] = values.high
    return found, resize_values(pixels, size)


def _round_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    floats = pixels.dtype.kind == "f"
    low, high = find_range(float(pixels.min()), float(pixels.max()), floats) if floats else (0.0, 65535.0)
    return np.rint((pixels.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def read_pixels(data: bytes) -> np.ndarray:
    """Return the pixels (H, W, C) of an image with more than 8 bits, or of an array, at its own size.

    Images are rotated by their EXIF orientation.

    Raises:
        UnusableError: if the image cannot be decoded, or has values that are not finite.
    """
    if data.startswith(MAGIC):
        pixels = _open_array(data)
    elif data.startswith(_TIFF):
        pixels = _read_tiff(data)
    else:
        pixels = _read_png(data)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UnusableError("contains values that are not finite")
    return pixels


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, C), rotated and mirrored by their EXIF orientation, 1 ... 8."""
    pixels = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if right else 1])


def resize_values(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return pixels (H, W, C), cropped at the centre and resized to `size`, in their own type."""
    if pixels.shape[:2] == size:
        return pixels
    box, channels = find_crop((pixels.shape[0], pixels.shape[1]), size), []
    for channel in np.moveaxis(pixels, 2, 0):
        image = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        small = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
        small = small.clip(channel.min(), channel.max())
        channels.append((small if pixels.dtype.kind == "f" else np.rint(small)).astype(pixels.dtype))
    return np.stack(channels, axis=2)


def _open_array(data: bytes) -> np.ndarray:
    """Return the image (H, W, C) in the bytes of a .npy file; see `arrays.encode_array`."""
    try:
        pixels = read_npy(io.BytesIO(data), len(data))
    except NotAnArrayError as error:
        raise UnusableError(str(error)) from None
    if pixels.ndim != 3 or not pixels.size or pixels.dtype.name not in ("uint8", "uint16", "float32"):
        raise UnusableError(f"holds no image, but an array {pixels.shape} of {pixels.dtype}")
    return pixels


def _read_png(data: bytes) -> np.ndarray:
    """Return the pixels (H, W, C) uint16 of a 16-bit PNG file.

    Pillow decodes colours to 8 bits, from either the high or the low byte of each value. So colour images are
    decoded twice.
    """
    halves, orientation = [], 1
    for order in ("16B", "16L"):
        with open_image(data) as image:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
                again.verify()
            if image.mode.startswith("I"):
                return _turn(np.asarray(image).astype(np.uint16)[..., None], read_orientation(image))
            # A PNG file is one tile, and its raw mode says which bytes are decoded.
            tiles: list[Any] = image.tile  # pyrefly: ignore[missing-attribute]  (of an image of a file)
            mode = str(tiles[0].args)
            if image.mode not in ("RGB", "RGBA") or mode != f"{image.mode};16B":
                raise UnusableError("an unsupported kind of 16-bit PNG")
            tiles[:] = [tiles[0]._replace(args=mode.replace("16B", order))]
            halves.append(np.asarray(image).astype(np.uint16))
            orientation = read_orientation(image)
    return _turn(halves[0] * 256 + halves[1], orientation)


def _read_tags(data: bytes) -> tuple[dict[int, Any], bool]:
    """Return the tags of the first page of a TIFF file, and whether there are more pages."""
    large = 43 in (data[2], data[3])
    try:
        with hide_pillow_warnings():
            tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if large else 8])
            file = io.BytesIO(data)
            file.seek(tags.next)
            tags.load(file)
            return {int(tag): tags.get(tag) for tag in (256, 257, 258, 259, 274, 277, 339)}, bool(tags.next)
    except BROKEN as error:
        raise UnusableError(f"damaged: {error or type(error).__name__}") from None


def _read_tiff_header(data: bytes) -> Header | None:
    """Return the header of a TIFF file of 16-bit integers or of floats; None for other TIFF files."""
    if len(data) > MAX_BYTES:
        raise UnusableError(f"larger than {MAX_BYTES >> 20} MiB")
    tags, more = _read_tags(data)
    bits, kinds = set(_as_tuple(tags[258])), set(_as_tuple(tags[339])) or {1}
    integers = bits == {16} and kinds == {1}
    if not integers and not (kinds == {_FLOATS} and bits <= {16, 32, 64}):
        return None
    width, height, samples = (tags[tag] for tag in (256, 257, 277))
    samples = samples or 1
    if not all(isinstance(count, int) and count > 0 for count in (width, height, samples)):
        raise UnusableError("damaged: its header has no size")
    if width * height * samples > MAX_PIXELS:
        raise UnusableError(too_many(f"{width} x {height} pixels of {samples} channels"))
    if tags[259] is not None and tags[259] not in _COMPRESSIONS:
        raise UnusableError(f"a TIFF file with the unsupported compression {tags[259]}")
    if samples == 1 and more:
        height, width, samples = _open_series(data)[0]
    if _tiff_orientation(tags) >= 5:
        height, width = width, height
    return Header(height, width, "I;16" if integers else "F", "TIFF", samples)


def _tiff_orientation(tags: dict[int, Any]) -> int:
    return tags[274] if tags[274] in range(1, 9) else 1


def _as_tuple(value: Any) -> tuple[Any, ...]:  # noqa: ANN401  (a tag of TIFF)
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _read_tiff(data: bytes) -> np.ndarray:
    """Return the pixels (H, W, C) uint16 or float32 of a TIFF file of 16-bit integers or of floats."""
    found = _read_tiff_header(data)
    if found is None:
        raise UnusableError("an unsupported kind of TIFF file")
    (tags, more), page = _read_tags(data), None
    if found.channels == 1 and not more:
        with open_image(data) as image:
            # Pillow itself rotates TIFF files when it loads them.
            if image.mode == "F" or image.mode.startswith("I;16"):
                page = np.asarray(image)[..., None]
    if page is None:
        page = _turn(_open_series(data, decode=True)[1], _tiff_orientation(tags))
        if page.shape != (found.height, found.width, found.channels):
            raise UnusableError("damaged: its pages differ")
    return page.astype(np.uint16 if found.mode == "I;16" else np.float32)


def _open_series(data: bytes, *, decode: bool = False) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the shape (H, W, C) of the first image of a TIFF file, and its pixels.

    If `decode` is False, the pixels are not decoded, and the array is empty.

    The channels are the samples of each pixel. Pages are channels if tifffile calls the axis of the pages "C"
    (channels) or "Q" (unknown).
    """
    try:
        import imagecodecs  # noqa: F401  (its decoders stop at the size of a strip)
        import tifffile
    except ImportError:
        raise UnusableError(
            'a TIFF file of more than 8 bits and several channels or pages: `pip install "ddim[tiff]"` lets '
            "ddim read it"
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            axes = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True)]
            kept = [(axis, length) for axis, length in axes if length > 1 or axis in "YX"]
            inner = [axis for axis, _ in kept if axis not in "YX"]
            if [axis for axis, _ in kept if axis in "YX"] != ["Y", "X"] or len(inner) > 1:
                raise UnusableError(f"a TIFF file with the axes {series.axes}: give one file for each image")
            if inner and inner[0] not in "SCQ":
                raise UnusableError(
                    f"a TIFF file of {len(file.pages)} pages, each its own image: give one file for each "
                    "image"
                )
            sizes = dict(kept)
            shape = (sizes["Y"], sizes["X"], sizes[inner[0]] if inner else 1)
            if math.prod(shape) > MAX_PIXELS:
                raise UnusableError(too_many(f"{shape[1]} x {shape[0]} pixels of {shape[2]} channels"))
            if not decode:
                return shape, np.zeros(0)
            if any(int(page.compression) not in _COMPRESSIONS for page in series.pages if page):
                raise UnusableError("a TIFF file with an unsupported compression")
            pixels = series.asarray(maxworkers=1).reshape([length for _, length in kept])
            order = [axis for axis, _ in kept]
            last = np.moveaxis(pixels, order.index(inner[0]), -1) if inner else pixels[..., None]
            return shape, last
    except UnusableError:
        raise
    except BROKEN as error:
        raise UnusableError(f"damaged: {error or type(error).__name__}") from None
