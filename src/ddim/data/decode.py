"""Decode images: from the bytes of a file, or an array, to the pixels that are stored in the cache.

An image is rotated by its EXIF orientation, cropped at its centre to the wanted aspect ratio, and resized by
Pillow's bicubic filter, which is antialiased. Only the first frame of an animation is decoded.
"""

import io
import logging
import math
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ddim.data.values import LARGEST, PICTURE_CHANNELS, ValueType

# Increase this number with every change that affects decoded pixels; it is part of every fingerprint.
VERSION = 2
# Only common formats are allowed, because most of Pillow's security fixes are in its rarer decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""The formats that Pillow reads. HEIF is read too if the package pillow-heif is installed."""
if find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener  # pyrefly: ignore[missing-import]  an optional package

    register_heif_opener()
    FORMATS += ("HEIF",)

_READ = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .avif .heic .heif .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm"
)
# Files of these formats cannot be read, but are listed as unusable, because they are images.
_KNOWN = ".jxl .jp2 .svg .psd .ico .tga .dng .cr2 .nef .arw .eps .pcx .exr .hdr"
_SUFFIXES = tuple(f"{_READ} {_KNOWN}".split())
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", *_TIFF[:2], b"P5\n", b"P6\n")
# HEIC and AVIF files are recognised by their brand: the four bytes after "ftyp", which begin at byte 8.
_BRANDS = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1 avif avis".split()
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION, _SIDEWAYS = ExifTags.Base.Orientation, (5, 6, 7, 8)
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}
_PARSER = threading.Lock()

_Load: TypeAlias = Callable[[tuple[int, int], ValueType], Image.Image | np.ndarray]
"""Returns the upright image for a size and a type: an image of Pillow with 8 bits, or an array (H, W, C)."""


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        height: the height after the EXIF rotation.
        width: the width after the EXIF rotation.
        mode: Pillow's mode. It is "I;16" or "F" for 16-bit integers or floats of any number of channels, and
            the type of the values for an array.
        format: Pillow's name of the format, or "array".
        channels: number of channels.
    """

    height: int
    width: int
    mode: str
    format: str
    channels: int

    @property
    def values(self) -> ValueType:
        """The type in which the values are kept: "uint8" for 32-bit integers too, which are scaled."""
        if self.format == "array":
            return cast(ValueType, self.mode)
        deep = self.mode if self.format in ("TIFF", "PNG") else ""
        return "float32" if deep == "F" else "uint16" if deep.startswith("I;16") else "uint8"


class UnusableError(Exception):
    """An image cannot be used; the message is the reason. `header` is its header if this can be read."""

    def __init__(self, reason: str, header: Header | None = None) -> None:
        super().__init__(reason)
        self.header = header


@dataclass(frozen=True)
class Decoded:
    """An image after decoding.

    Attributes:
        header: the header of the file.
        pixels: (height, width, channels) of the wanted type.
        ends: the smallest and the largest value of the whole image, before it is cropped, if it has floats.
    """

    header: Header
    pixels: np.ndarray
    ends: tuple[float, float] = (0.0, 1.0)


def is_image_name(name: str, head: bytes) -> bool:
    """Return whether the suffix or the first bytes (`head`) of a file show that it is an image."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    boxed = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return name.lower().endswith(_SUFFIXES) or head.startswith(_MAGIC) or webp or boxed


@contextmanager
def hide_warnings() -> Generator[None]:
    """Hide the warnings of Pillow in a `with` block, and in the threads that work for it.

    Pillow warns about faults that it repairs itself (invalid EXIF, palettes with alpha).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|tifffile|ddim\.data)\b")
        yield


@contextmanager
def _explain_damage() -> Generator[None]:
    """Turn every error of a decoder, which may have any type, into an UnusableError with the reason."""
    try:
        yield
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(f"damaged: {error or type(error).__name__}") from None


@_explain_damage()
def read_header(data: bytes | np.ndarray) -> Header:
    """Return the header of an image.

    Raises:
        UnusableError: if the header is damaged or unsupported.
    """
    return _open(data)[0]


@_explain_damage()
def decode_image(
    data: bytes | np.ndarray,
    size: tuple[int, int],
    channels: int,
    kind: ValueType = "uint8",
    *,
    to_floats: bool = True,
) -> Decoded:
    """Decode an image to pixels of one size, number of channels and type.

    Args:
        data: the bytes of a file, or an array (H, W, C) of uint8, uint16 or float32.
        size: (height, width).
        channels: number of channels. Transparent pixels are composited on white if it is 1 or 3.
        kind: the type of the values. More bits are rounded to 8 bits. 8 bits become 16 bits by multiplication
            with 257, and integers become floats from 0 to 1.
        to_floats: whether integers may become floats.

    Raises:
        UnusableError: if the image cannot be decoded, or cannot be converted to these channels and this type.
    """
    header, load = _open(data)
    stored = header.values
    if (stored, kind) == ("float32", "uint16") or (kind == "float32" != stored and not to_floats):
        raise UnusableError(f"has {stored} values, not {kind}", header)
    eight_bits = "uint8" in (stored, kind)
    # Pillow converts and resizes pictures; the channels of other arrays are resized one by one.
    is_picture = eight_bits and header.channels in PICTURE_CHANNELS
    is_gray = header.channels == 1 and (stored, channels) != ("float32", 4)
    if channels not in PICTURE_CHANNELS if is_picture else not is_gray and channels != header.channels:
        raise UnusableError(f"has {header.channels} channels, not {channels}", header)
    image = load(size, kind)
    ends = _find_ends(np.asarray(image)) if stored == "float32" else (0.0, 1.0)
    if eight_bits and isinstance(image, np.ndarray):
        image = _round_to_eight_bits(image)
    pixels = (_fit_picture if is_picture else _fit_values)(image, size, channels)
    return Decoded(header, _widen(pixels, kind), ends)


def turn_upright(image: Image.Image) -> Image.Image:
    """Return an image rotated by its EXIF orientation."""
    image.load()  # Pillow itself rotates TIFF files when it loads them.
    upright = image.copy()
    # The pixels are rotated first; then invalid EXIF may not be written again.
    with suppress(Exception):
        ImageOps.exif_transpose(upright, in_place=True)
    return upright


# Reading files


def _open(data: bytes | np.ndarray) -> tuple[Header, _Load]:
    """Return the header of an image, and a function that returns the upright image."""
    if isinstance(data, bytes) and data.startswith(np.lib.format.MAGIC_PREFIX):
        data = _read_array(data)
    if isinstance(data, np.ndarray):
        height, width, channels = data.shape
        return Header(height, width, data.dtype.name, "array", channels), lambda *_: data
    return _open_deep_tiff(data) or _open_picture(data)


def _read_array(data: bytes) -> np.ndarray:
    """Return the array (H, W, C) in the bytes of a .npy file."""
    # NumPy uses Python's parser. Before Python 3.11.8, two threads cannot parse at the same time (gh-106905).
    with _PARSER:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim != 3 or not array.size or array.dtype.name not in ("uint8", "uint16", "float32"):
        raise UnusableError(f"holds no image, but an array {array.shape} of {array.dtype}")
    return array


def _open_picture(data: bytes) -> tuple[Header, _Load]:
    image = _identify(data)
    height, width, mode, orientation = image.height, image.width, image.mode, 1
    with suppress(Exception):  # a program wrote invalid EXIF
        # Pillow itself rotates TIFF files.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    if orientation in _SIDEWAYS:
        height, width = width, height
    is_gray = mode in ("1", "L", "F") or mode.startswith("I")
    channels = 1 if is_gray else 4 if image.has_transparency_data else 3
    if image.format == "PNG" and data[24] == 16 and data[25] in _PNG_CHANNELS:
        mode, channels = "I;16", _PNG_CHANNELS[data[25]]
    header = Header(height, width, mode, str(image.format), channels)

    def load(size: tuple[int, int], kind: ValueType) -> Image.Image | np.ndarray:
        if header.values == "uint16" and kind != "uint8" and channels > 1:
            return _turn(_read_deep_png(data), orientation)
        # A large JPEG is read at a lower resolution, which is faster and still at least twice as large as
        # `size`. `draft` takes the smallest size that is allowed, of the whole image, not of the crop.
        scale = int(min(height / size[0], width / size[1]))
        if image.format == "JPEG" and scale >= 4:
            image.draft(None, (-(-2 * image.width // scale), -(-2 * image.height // scale)))
        upright = turn_upright(image)
        if upright.mode != "F" and not upright.mode.startswith("I"):
            return upright
        values = np.asarray(upright)[..., None]
        return values if header.values == "uint8" else values.astype(header.values)

    return header, load


def _identify(data: bytes) -> Image.Image:
    """Return the image before it is decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and "HEIF" not in FORMATS:
            raise UnusableError("a HEIC photo: `pip install pillow-heif` lets ddim read it") from None
        raise UnusableError(f"contains no image that can be read ({', '.join(FORMATS)})") from None
    if image.format == "PNG":
        # Pillow does not verify the checksums of pixels when it decodes them.
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    return image


def _read_deep_png(data: bytes) -> np.ndarray:
    """Return the pixels (H, W, C) uint16 of a PNG file, of which Pillow keeps 8 bits if it has colours."""
    import torch
    from torchvision.io import decode_image as decode

    return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def _open_deep_tiff(data: bytes) -> tuple[Header, _Load] | None:
    """Return the header and the pixels of a TIFF file of 16-bit integers or floats; None for other files.

    The channels are the samples of each pixel. Pages are channels if tifffile calls the axis of the pages "C"
    (channels) or "Q" (unknown).
    """
    if not data.startswith(_TIFF):
        return None
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs the faults that it raises later
    file = tifffile.TiffFile(io.BytesIO(data))
    series = file.series[0]
    if series.dtype is None or series.dtype.name not in ("uint16", "float16", "float32", "float64"):
        return None
    sizes = {a: n for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"}
    others = "".join(sizes).replace("YX", "")
    if others not in ("", "S", "C", "Q"):
        raise UnusableError(f"a TIFF file with the axes {series.axes}: give one file for each image")
    height, width, channels = sizes["Y"], sizes["X"], sizes.get(others, 1)
    if height * width * channels > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UnusableError("too many pixels")
    orientation = getattr(file.pages.first.tags.get(_ORIENTATION), "value", 1)
    if orientation in _SIDEWAYS:
        height, width = width, height
    mode, kind = ("I;16", np.uint16) if series.dtype.kind == "u" else ("F", np.float32)

    def load(*_: object) -> np.ndarray:
        pixels = series.asarray(maxworkers=1).reshape(list(sizes.values()))
        pixels = np.moveaxis(pixels, list(sizes).index(others), -1) if others else pixels[..., None]
        return _turn(pixels, orientation).astype(kind)

    return Header(height, width, mode, "TIFF", channels), load


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, C), rotated and mirrored by their EXIF orientation, 1 to 8."""
    pixels = pixels.swapaxes(0, 1) if orientation in _SIDEWAYS else pixels
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if right else 1])


# Converting pixels


def _find_ends(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UnusableError("contains values that are not finite")
    return low, high


def _round_to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Return values of any type as uint8; larger values are scaled, not clipped.

    16-bit values 0 ... 65535 become 0 ... 255. Floats and 32-bit integers have no defined range. For them,
    the first of [0, 1] (only for floats), [0, 255] and [0, 65535] that contains all values becomes 0 ... 255.
    If no range contains them, the smallest value becomes 0 and the largest 255.
    """
    if values.dtype == np.uint8:
        return values
    low, high = _find_ends(values)
    tops = {"f": (1.0, 255.0, 65535.0), "i": (255.0, 65535.0), "u": (65535.0,)}[values.dtype.kind]
    top = next((top for top in tops if low >= 0 and high <= top), None)
    low, high = (low, max(high, low + 1)) if top is None else (0.0, top)
    return np.rint((values.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)


def _fit_picture(image: Image.Image | np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Return pixels (H, W, C) uint8 of a picture of 8 bits, cropped at the centre and resized."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if channels < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    resized = ImageOps.fit(image.convert(_MODES[channels]), (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(*size, channels)


def _fit_values(image: Image.Image | np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Return pixels (H, W, C) of any type, cropped at the centre and resized.

    Gray pixels get more channels; the fourth of four is opaque. Each channel is resized in float32, and
    clipped to its smallest and largest value.
    """
    pixels = np.asarray(image)
    if pixels.shape[2] != channels:
        pixels = pixels.repeat(channels, axis=2)
        if channels == 4:
            pixels[..., 3] = LARGEST[pixels.dtype.name]
    resized = []
    for channel in np.moveaxis(pixels, 2, 0):
        layer = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        small = np.asarray(ImageOps.fit(layer, (size[1], size[0]), Image.Resampling.BICUBIC))
        small = small.clip(channel.min(), channel.max())
        resized.append((small if pixels.dtype.kind == "f" else np.rint(small)).astype(pixels.dtype))
    return np.stack(resized, axis=2)


def _widen(pixels: np.ndarray, kind: ValueType) -> np.ndarray:
    if pixels.dtype == np.uint8 and kind == "uint16":
        return pixels.astype(np.uint16) * 257
    if pixels.dtype.name in LARGEST and kind == "float32":
        return (pixels / LARGEST[pixels.dtype.name]).astype(np.float32)
    return pixels
