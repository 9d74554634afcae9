"""Decode image files: from bytes to uint8 pixels of a given size, or the reason why this is impossible."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ddim.data.pillow_warnings import hide_pillow_warnings

# Increase this number with every change that affects decoded pixels; it is part of every fingerprint.
VERSION = 1
# Only common formats are allowed, because most of Pillow's security fixes are in its rarer decoders.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
MAX_BYTES = 128 * 2**20
# Pillow keeps a pointer for each row, so an image of one column takes far more memory than its pixels.
MAX_SIDE = 2**16
# A progressive JPEG has about ten scans; thousands of them in a small file keep a decoder busy for minutes.
MAX_SCANS = 100

_STRIP = 2**21  # pixels that are converted at once

_READ = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .avif .heic .heif .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm"
)
# Files of these formats cannot be read, but are listed as unusable, because they are images.
_KNOWN = ".jxl .jp2 .svg .psd .ico .tga .dng .cr2 .nef .arw .eps .pcx .exr .hdr"
_SUFFIXES = tuple(f"{_READ} {_KNOWN}".split())
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"P5\n",
    b"P6\n",
)
# HEIC and AVIF files are recognised by their brand: the four bytes after "ftyp", which begin at byte 8.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    BufferError,
    struct.error,
    zlib.error,
)
"""The exceptions that Pillow's decoders can raise for damaged files."""


class UnusableError(Exception):
    """An image file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """The header of an image file: size after EXIF rotation, Pillow's mode and format, channels."""

    height: int
    width: int
    mode: str
    format: str
    channels: int


def is_image_name(name: str, head: bytes) -> bool:
    """Return whether the suffix or the first bytes (`head`) of a file show that it is an image."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    boxed = head[4:8] == b"ftyp" and head[8:12] in _HEIC + _AVIF
    return name.lower().endswith(_SUFFIXES) or head.startswith(_MAGIC) or webp or boxed


def list_readable() -> tuple[str, ...]:
    """Return the formats that can be read; HEIF is among them only if pillow-heif is installed."""
    return (*FORMATS, "HEIF") if find_spec("pillow_heif") else FORMATS


def _open_file(data: bytes) -> Image.Image:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC and not any(brand in data[12:40] for brand in _AVIF):
        try:
            from pillow_heif import HeifImageFile  # pyrefly: ignore[missing-import] an optional package
        except ImportError:
            raise UnusableError("a HEIC photo: `pip install pillow-heif` lets ddim read it") from None
        # Pillow's own `open` is not used, because the format would have to be registered in the whole
        # process.
        return HeifImageFile(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def open_image(data: bytes) -> Generator[Image.Image]:
    """Open an image until the end of a `with` block, and check its header.

    Raises:
        UnusableError: if the file is refused, or if it cannot be decoded in the block.
    """
    if not data:
        raise UnusableError("an empty file")
    if len(data) > MAX_BYTES:
        raise UnusableError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        # Pillow warns about faults that it repairs itself (invalid EXIF, palettes with alpha).
        with hide_pillow_warnings(), _open_file(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableError(too_many(f"{image.width} x {image.height} pixels"))
            if max(image.size) > MAX_SIDE:
                raise UnusableError(
                    f"{image.width} x {image.height} pixels: a side of more than {MAX_SIDE:,}"
                )
            if image.width * image.height == 0:
                raise UnusableError("has no pixels")
            if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
                raise UnusableError(f"a JPEG of more than {MAX_SCANS} scans")
            yield image
    except Image.DecompressionBombError:
        raise UnusableError(too_many("its header")) from None
    except UnidentifiedImageError:
        raise UnusableError("contains no image that can be read (" + ", ".join(FORMATS) + ")") from None
    except BROKEN as error:
        raise UnusableError(f"damaged: {error or type(error).__name__}") from None


def too_many(what: str) -> str:
    return f"{what}: more than {MAX_PIXELS // 10**6} megapixels"


def read_header(data: bytes) -> Header:
    """Return the header of a file, without decoding its pixels.

    Raises:
        UnusableError: if the header is damaged or unsupported.
    """
    with open_image(data) as image:
        return _header(image)


def decode_image(data: bytes, size: tuple[int, int], channels: int) -> tuple[Header, np.ndarray]:
    """Decode a file, rotate the image by EXIF, crop its centre to the aspect ratio of `size`, and resize it.

    Resizing is Pillow's bicubic, which is antialiased. Only the first frame of an animation is decoded.

    Args:
        data: the bytes of the file.
        size: (height, width).
        channels: 1, 3 or 4; with 1 or 3, transparent pixels are composited on white.

    Returns:
        The header, and the pixels (height, width, channels) uint8.

    Raises:
        UnusableError: if the image cannot be decoded; the message is the reason.
    """
    with open_image(data) as image:
        found = _header(image)
        if image.format == "JPEG":
            _draft(image, size)
        if image.format == "PNG":
            # Pillow does not verify the checksums of PNG files when it decodes them, so do it here.
            with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
                again.verify()
        image.load()
        upright = _upright(_eight_bits(image), read_orientation(image))
        pixels = np.asarray(_fit(_with_channels(upright, channels), size))
        return found, pixels.reshape(*size, channels)


def _header(image: Image.Image) -> Header:
    height, width = image.height, image.width
    # Pillow itself applies the EXIF rotation to TIFF files, so their height and width are already right.
    if image.format != "TIFF" and read_orientation(image) >= 5:
        height, width = width, height
    return Header(height, width, image.mode, str(image.format), _channels(image))


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 ... 8; 1 if it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1
    return value if value in _TURNS else 1


_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image) -> Image.Image:
    """Return an image rotated by its EXIF orientation."""
    # Pillow itself rotates TIFF files when it loads them.
    image.load()
    return _upright(image, read_orientation(image))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS[orientation]
    return image if turn is None else image.transpose(turn)


def _channels(image: Image.Image) -> int:
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return 1
    return 4 if image.has_transparency_data else 3


def _draft(image: Image.Image, size: tuple[int, int]) -> None:
    """Make libjpeg decode a large image at a lower resolution, which is faster.

    The lower resolution is still at least twice as large as `size`.
    """
    height, width = size if read_orientation(image) < 5 else (size[1], size[0])
    scale = min(image.height / height, image.width / width)
    if scale >= 4:
        # `draft` takes the smallest size that is allowed, which is that of the whole image, not of the crop.
        image.draft(None, (-(-2 * image.width // int(scale)), -(-2 * image.height // int(scale))))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per channel; larger values are scaled, not clipped.

    16-bit gray values 0 ... 65535 become 0 ... 255. Floats and 32-bit integers have no defined range. For
    them, the first of [0, 1] (only for floats), [0, 255] and [0, 65535] that contains all values becomes
    0 ... 255. If no range contains them, the smallest value becomes 0 and the largest 255.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    low, high = 0.0, 65535.0
    if image.mode in ("I", "F"):
        ends = [(values.min(), values.max()) for values in map(_finite_values, _cut_strips(image))]
        low, high = min(float(low) for low, _ in ends), max(float(high) for _, high in ends)
        low, high = find_range(low, high, image.mode == "F")

    def scale(part: Image.Image) -> Image.Image:
        return Image.fromarray(np.rint((_finite_values(part) - low) * (255 / (high - low))).astype(np.uint8))

    return _convert_strips(image, "L", scale)


def _finite_values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise UnusableError("contains values that are not finite")
    return values


def find_range(low: float, high: float, floats: bool) -> tuple[float, float]:
    """Return the values that become 0 and 255 in an image whose values lie in [low, high]."""
    for top in (1.0, 255.0, 65535.0) if floats else (255.0, 65535.0):
        if low >= 0 and high <= top:
            return 0.0, top
    return low, max(high, low + 1)


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == _MODES[channels] and not (image.has_transparency_data and channels < 4):
        return image
    return _convert_strips(image, _MODES[channels], lambda part: _convert_part(part, channels))


def _convert_part(image: Image.Image, channels: int) -> Image.Image:
    if channels < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if channels == 1 and image.mode != "L":
        image = image.convert("RGB")
    return image.convert(_MODES[channels])


def _cut_strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Return `convert(image)`, computed strip by strip to save memory.

    `convert` must treat each pixel alone.
    """
    if image.width * image.height <= _STRIP:
        return convert(image)
    whole, top = Image.new(mode, image.size), 0
    for part in _cut_strips(image):
        whole.paste(convert(part), (0, top))
        top += part.height
    return whole


_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image, cropped and resized in one step by Pillow's bicubic filter, which is antialiased."""
    box = find_crop((image.height, image.width), size)
    return image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)


def find_crop(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of the largest central crop with the aspect ratio of `size`.

    The size of the image, `whole`, and `size` are (height, width).
    """
    height, width = size
    scale = min(whole[0] / height, whole[1] / width)
    left, top = (whole[1] - scale * width) / 2, (whole[0] - scale * height) / 2
    return left, top, min(left + scale * width, whole[1]), min(top + scale * height, whole[0])
