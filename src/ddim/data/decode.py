"""Decode images: from the bytes of a file, or an array, to the pixels that are stored in the cache.

An image is rotated by its EXIF orientation, cropped at its centre to the wanted aspect ratio, and resized by
Pillow's bicubic filter, which is antialiased. Only the first frame of an animation is decoded.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ddim.data.values import LARGEST, PICTURE_CHANNELS, ValueType

# Increase this number with every change that affects decoded pixels; it is part of every fingerprint.
VERSION = 2
# Only common formats are allowed, because most of Pillow's security fixes are in its rarer decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""The formats that Pillow reads. HEIF is read too if the package pillow-heif is installed."""

_READ = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .avif .heic .heif .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm"
)
# Files of these formats cannot be read, but are listed as unusable, because they are images.
_KNOWN = ".jxl .jp2 .svg .psd .ico .tga .dng .cr2 .nef .arw .eps .pcx .exr .hdr"
_SUFFIXES = tuple(f"{_READ} {_KNOWN}".split())
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", *_TIFF[:2], b"P5\n", b"P6\n")
# HEIC and AVIF files are recognised by their brand: the four bytes after "ftyp", which begin at byte 8.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}
_NO_TIFFFILE = (
    'a TIFF file of more than 8 bits and several channels: `pip install "ddim[tiff]"` lets ddim read it'
)


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
        if self.format == "TIFF" and self.mode == "F":
            return "float32"
        return "uint16" if self.format in ("TIFF", "PNG") and self.mode.startswith("I;16") else "uint8"


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
        low: the smallest value of the whole image before it is cropped if it has floats, else 0.
        high: the largest value of the whole image if it has floats, else 1.
    """

    header: Header
    pixels: np.ndarray
    low: float
    high: float


def is_image_name(name: str, head: bytes) -> bool:
    """Return whether the suffix or the first bytes (`head`) of a file show that it is an image."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    boxed = head[4:8] == b"ftyp" and head[8:12] in _HEIC + _AVIF
    return name.lower().endswith(_SUFFIXES) or head.startswith(_MAGIC) or webp or boxed


@contextmanager
def hide_warnings() -> Generator[None]:
    """Hide the warnings of decoders in a `with` block, and in the threads that work for it.

    Pillow warns about faults that it repairs itself (invalid EXIF, palettes with alpha), and tifffile logs
    those that it raises later.
    """
    logger = logging.getLogger("tifffile")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif|tifffile|ddim\.data)\b")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def read_header(data: bytes | np.ndarray) -> Header:
    """Return the header of an image.

    Raises:
        UnusableError: if the header is damaged or unsupported.
    """
    with _explain_damage():
        data = _read_array(data)
        if isinstance(data, np.ndarray):
            return Header(data.shape[0], data.shape[1], data.dtype.name, "array", data.shape[2])
        if tiff := _read_tiff(data, decode=False):
            return tiff[0]
        with _open(data) as image:
            return _read_header(image, data)


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
    with _explain_damage():
        header, image = _read_original(_read_array(data), size, kind)
        stored = header.values
        if (stored, kind) == ("float32", "uint16") or (kind == "float32" != stored and not to_floats):
            raise UnusableError(f"has {stored} values, not {kind}", header)
        low, high = 0.0, 1.0
        if isinstance(image, np.ndarray):
            if stored == "float32":
                low, high = _find_ends(image)
            if kind == "uint8":
                image = _round_to_eight_bits(image)
            if image.dtype == np.uint8 and image.shape[2] in PICTURE_CHANNELS:
                image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        if isinstance(image, Image.Image):
            if channels not in PICTURE_CHANNELS:
                raise UnusableError(f"has 8 bits and {header.channels} channels, not {channels}", header)
            box = find_crop((image.height, image.width), size)
            picture = _convert_channels(image, channels)
            picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
            pixels = np.asarray(picture).reshape(*size, channels)
        else:
            if image.shape[2] == 1 and (channels != 4 or image.dtype != np.float32):
                image = _repeat_gray(image, channels)
            if image.shape[2] != channels:
                raise UnusableError(f"has {image.shape[2]} channels, not {channels}", header)
            pixels = _resize_values(image, size)
    return Decoded(header, _widen(pixels, kind), low, high)


def find_crop(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of the largest central crop with the aspect ratio of `size`.

    The size of the image, `whole`, and `size` are (height, width).
    """
    height, width = size
    scale = min(whole[0] / height, whole[1] / width)
    left, top = (whole[1] - scale * width) / 2, (whole[0] - scale * height) / 2
    return left, top, min(left + scale * width, whole[1]), min(top + scale * height, whole[0])


def turn_upright(image: Image.Image) -> Image.Image:
    """Return an image rotated by its EXIF orientation."""
    image.load()  # Pillow itself rotates TIFF files when it loads them.
    if _read_orientation(image) == 1:
        return image
    image = image.copy()
    # The pixels are rotated first; then invalid EXIF may not be written again.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


@contextmanager
def _explain_damage() -> Generator[None]:
    """Turn every error of a decoder, which may have any type, into an UnusableError with the reason."""
    try:
        yield
    except UnusableError:
        raise
    except Image.DecompressionBombError:
        raise UnusableError("too many pixels") from None
    except Exception as error:
        raise UnusableError(f"damaged: {error or type(error).__name__}") from None


# Reading files


def _read_original(
    data: bytes | np.ndarray, size: tuple[int, int], kind: ValueType
) -> tuple[Header, Image.Image | np.ndarray]:
    """Return the header and the upright image: an image of Pillow with 8 bits, or an array (H, W, C)."""
    if isinstance(data, np.ndarray):
        return read_header(data), data
    if tiff := _read_tiff(data):
        return tiff
    with _open(data) as image:
        header = _read_header(image, data)
        if image.format == "JPEG":
            # A large JPEG is read at a lower resolution, which is faster and still at least twice as large as
            # `size`. `draft` takes the smallest size that is allowed, of the whole image, not of the crop.
            scale = int(min(header.height / size[0], header.width / size[1]))
            if scale >= 4:
                image.draft(None, (-(-2 * image.width // scale), -(-2 * image.height // scale)))
        if header.values == "uint16" and kind != "uint8" and header.channels > 1:
            return header, _turn(_read_deep_png(data), _read_orientation(image, data))
        upright = turn_upright(image)
        if upright.mode != "F" and not upright.mode.startswith("I"):
            return header, upright
        values = np.asarray(upright)[..., None]
        eight_bits = header.values == "uint8"
        return header, _round_to_eight_bits(values) if eight_bits else values.astype(header.values)


def _read_array(data: bytes | np.ndarray) -> bytes | np.ndarray:
    """Return the array in the bytes of a .npy file; other data as they are."""
    if isinstance(data, np.ndarray) or not data.startswith(np.lib.format.MAGIC_PREFIX):
        return data
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim != 3 or not array.size or array.dtype.name not in ("uint8", "uint16", "float32"):
        raise UnusableError(f"holds no image, but an array {array.shape} of {array.dtype}")
    return array


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnusableError("an empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS + _register_heif())
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC and not _register_heif():
            raise UnusableError("a HEIC photo: `pip install pillow-heif` lets ddim read it") from None
        if data.startswith(_TIFF) and not find_spec("tifffile"):
            raise UnusableError(_NO_TIFFFILE) from None
        raise UnusableError(f"contains no image that can be read ({', '.join(FORMATS)})") from None
    if image.format == "TIFF" and not find_spec("tifffile"):
        bits = getattr(image, "tag_v2", {}).get(258, ())
        if len(bits) > 1 and max(bits) > 8:  # Pillow would round them
            raise UnusableError(_NO_TIFFFILE)
    if image.format == "PNG":
        # Pillow does not verify the checksums of pixels when it decodes them.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
            again.verify()
    return image


@cache
def _register_heif() -> tuple[str, ...]:
    """Let Pillow open HEIF files if pillow-heif is installed; return the added format."""
    try:
        from pillow_heif import register_heif_opener  # pyrefly: ignore[missing-import]  an optional package
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)


def _read_header(image: Image.Image, data: bytes) -> Header:
    height, width, mode = image.height, image.width, image.mode
    # Pillow itself applies the EXIF rotation to TIFF files, so their height and width are right.
    if image.format != "TIFF" and _read_orientation(image, data) >= 5:
        height, width = width, height
    channels = 4 if image.has_transparency_data else 3
    if mode in ("1", "L", "F") or mode.startswith("I"):
        channels = 1
    if image.format == "PNG" and data[24] == 16 and data[25] in _PNG_CHANNELS:
        mode, channels = "I;16", _PNG_CHANNELS[data[25]]
    return Header(height, width, mode, str(image.format), channels)


def _read_orientation(image: Image.Image, data: bytes = b"exif") -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it cannot be read."""
    # Pillow decodes a PNG file to look for EXIF at its end.
    if image.format == "PNG" and not any(word in data for word in (b"eXIf", b"exif", b"xmp")):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a program wrote invalid EXIF
        return 1
    return value if value in range(1, 9) else 1


def _read_deep_png(data: bytes) -> np.ndarray:
    """Return the pixels (H, W, C) uint16 of a PNG file, of which Pillow keeps 8 bits if it has colours."""
    import torch
    from torchvision.io import decode_image as decode

    return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def _read_tiff(data: bytes, *, decode: bool = True) -> tuple[Header, np.ndarray] | None:
    """Return the header and pixels (H, W, C) of a TIFF file of 16-bit integers or floats; None for others.

    The channels are the samples of each pixel. Pages are channels if tifffile calls the axis of the pages "C"
    (channels) or "Q" (unknown). If `decode` is False, the pixels are not decoded, and the array is empty.
    """
    if not data.startswith(_TIFF) or not find_spec("tifffile"):
        return None
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        if series.dtype is None or series.dtype.name not in ("uint16", "float16", "float32", "float64"):
            return None
        sizes = {a: n for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"}
        others = "".join(sizes).replace("YX", "")
        if others not in ("", "S", "C", "Q"):
            raise UnusableError(f"a TIFF file with the axes {series.axes}: give one file for each image")
        height, width, channels = sizes["Y"], sizes["X"], sizes.get(others, 1)
        limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
        if height * width * channels > limit:
            raise UnusableError("too many pixels")
        kind, tag = series.dtype.kind, file.pages.first.tags.get(274)
        pixels = series.asarray(maxworkers=1) if decode else np.zeros(0)
    orientation = tag.value if tag and tag.value in range(1, 9) else 1
    if orientation >= 5:
        height, width = width, height
    header = Header(height, width, "I;16" if kind == "u" else "F", "TIFF", channels)
    if decode:
        pixels = pixels.reshape(list(sizes.values()))
        pixels = np.moveaxis(pixels, list(sizes).index(others), -1) if others else pixels[..., None]
        pixels = _turn(pixels, orientation).astype(np.uint16 if kind == "u" else np.float32)
    return header, pixels


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, C), rotated and mirrored by their EXIF orientation, 1 to 8."""
    pixels = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
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


def _convert_channels(image: Image.Image, channels: int) -> Image.Image:
    if channels < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if channels == 1 and image.mode != "L":
        image = image.convert("RGB")
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _repeat_gray(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return gray pixels (H, W, 1) with more channels; the fourth of four is opaque."""
    pixels = pixels.repeat(channels, axis=2)
    if channels == 4:
        pixels[..., 3] = LARGEST[pixels.dtype.name]
    return pixels


def _resize_values(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return pixels (H, W, C) of any type, cropped at the centre and resized.

    Each channel is resized in float32, and clipped to its smallest and largest value.
    """
    if pixels.shape[:2] == size:
        return pixels
    box, resized = find_crop((pixels.shape[0], pixels.shape[1]), size), []
    for channel in np.moveaxis(pixels, 2, 0):
        image = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        small = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
        small = small.clip(channel.min(), channel.max())
        resized.append((small if pixels.dtype.kind == "f" else np.rint(small)).astype(pixels.dtype))
    return np.stack(resized, axis=2)


def _widen(pixels: np.ndarray, kind: ValueType) -> np.ndarray:
    if pixels.dtype == np.uint8 and kind == "uint16":
        return pixels.astype(np.uint16) * 257
    if pixels.dtype.name in LARGEST and kind == "float32":
        return (pixels / LARGEST[pixels.dtype.name]).astype(np.float32)
    return pixels
