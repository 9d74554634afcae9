"""Write a folder with every kind of odd or bad image, and say which are usable and why others are refused."""

from __future__ import annotations

import os
import random
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from archives import file_bytes


def picture(height: int = 40, width: int = 48) -> np.ndarray:
    """(height, width, 3) uint8: smooth, and different in every corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], axis=-1).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return file_bytes(lambda file: image.save(file, format, **options))


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a camera stores with EXIF orientation 1 to 8, computed without Pillow."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]


def with_orientation(pixels: np.ndarray, orientation: int, format: str, **options: object) -> bytes:
    """An image file that must be turned to be upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(oriented(pixels, orientation)), format, exif=exif, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, interlaced: int = 0) -> bytes:
    """A PNG file with these raw scan lines."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = {b"IHDR": head, b"IDAT": zlib.compress(raw, 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks, chunks.values()))


PASSES = ["00000808", "04000808", "00040408", "02000404", "00020204", "01000202", "00010102"]
"""The first column and row of each pass of Adam7, and the steps to the next ones."""


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG file in the seven passes of Adam7, which Pillow can read but not write."""
    raw = b""
    for left, top, across, down in map(bytes.fromhex, PASSES):
        for line in pixels[top::down, left::across]:
            raw += b"\0" + line.tobytes()
    return png(pixels.shape[1], pixels.shape[0], 8, 2, raw, interlaced=1)


def animation(format: str) -> bytes:
    """Two frames: the picture, and black."""
    first = Image.fromarray(picture())
    return encoded(first, format, save_all=True, append_images=[Image.new("RGB", first.size)])


def _damaged_png() -> bytes:
    data = bytearray(encoded(picture(), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 20] = random.Random(0).randbytes(20)
    return bytes(data)


def usable() -> dict[str, bytes]:
    """Files that are odd, and must be converted."""
    gray = np.linspace(0, 65535, 40 * 48).reshape(40, 48)
    clear = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE)
    files = {
        "really-a-png.jpg": encoded(picture(), "PNG"),
        "no-suffix": encoded(picture(), "PNG"),
        "cmyk.jpg": encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG"),
        "gray-16-bit.png": encoded(gray.astype(np.uint16), "PNG"),
        "gray-32-bit.tif": encoded(gray.astype(np.int32), "TIFF"),
        "float.tif": encoded((gray / 65535).astype(np.float32), "TIFF"),
        "palette.gif": encoded(Image.fromarray(picture()), "GIF"),
        "palette-alpha.png": encoded(clear, "PNG", transparency=bytes(range(256))),
        "gray-alpha.png": encoded(Image.fromarray(picture()).convert("LA"), "PNG"),
        "one-bit.png": encoded(Image.fromarray(picture()).convert("1"), "PNG"),
        "interlaced.png": interlaced(picture()),
        "animated.gif": animation("GIF"),
        "animated.webp": animation("WEBP"),
        "animated.png": animation("PNG"),
        "pages.tiff": animation("TIFF"),
        "one-pixel.png": encoded(picture(1, 1), "PNG"),
        "broken-exif.jpg": encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk"),
        "thin.bmp": encoded(picture(4, 900), "BMP"),
        "portable.ppm": encoded(picture(), "PPM"),
        "line\nbreak.png": encoded(picture(), "PNG"),
        os.fsdecode(b"latin-\xe9.png"): encoded(picture(), "PNG"),
    }
    return files | {f"held-{n}.jpg": with_orientation(picture(), n, "JPEG") for n in range(1, 9)}


def refused() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be used: (bytes, a part of the reason)."""
    jpeg, plain = (encoded(picture(), kind) for kind in ("JPEG", "PNG"))
    nan = np.full((8, 8), np.nan, np.float32)
    return {
        "empty.png": (b"", "no image"),
        "text.png": (b"These are words.\n" * 20, "no image that can be read"),
        "zeros.jpg": (bytes(4096), "no image that can be read"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged"),
        "truncated.png": (plain[: len(plain) // 2], "damaged"),
        "header-only.png": (plain[:33], "no image that can be read"),
        "damaged.png": (_damaged_png(), "damaged"),
        "noise.jpg": (jpeg[:3] + random.Random(1).randbytes(2000), "no image|damaged"),
        "bomb.png": (png(50_000, 50_000, 1, 0, bytes(1000)), "exceeds limit"),
        "not-a-number.tif": (encoded(nan, "TIFF"), "not finite"),
        "phone.heic": (
            b"\0\0\0\x18ftypheic" + bytes(200),
            "no image that can be read" if find_spec("pillow_heif") else "a HEIC photo",
        ),
    }


def special(folder: Path) -> dict[str, str]:
    """Create entries in a folder that are not plain files; return {name: a part of the reason}."""
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("missing.png")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    return {
        "pipe.png": "not a regular file",
        "loop.png": "cannot be read",
        "nowhere.png": "cannot be read",
        "again": "a link to a folder",
    }


def fill(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Write files of every kind into a folder; return the usable names, and {refused name: its reason}."""
    files = usable() | {name: data for name, (data, _) in refused().items()}
    for name, data in {**files, "notes.txt": b"", ".hidden.png": b"", "Thumbs.db": b""}.items():
        (folder / name).write_bytes(data)
    reasons = {name: reason for name, (_, reason) in refused().items()} | special(folder)
    return set(usable()), reasons
