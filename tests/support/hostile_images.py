"""Hostile images, and folders with pipes, links and devices in place of images."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from bad_images import chunk, png
from hostile_cases import Case, add, case, data, good, partly

# Images


def photo(content: bytes, name: str = "a.png") -> Case:
    """Return the case of a folder with one image."""

    def make(folder: Path) -> list[str]:
        (folder / "photos").mkdir()
        (folder / "photos" / name).write_bytes(content)
        return data(folder / "photos")

    return make


def tall_png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG file with so many black pixels."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    line = bytes(1 + -(-width * bits // 8))
    packer = zlib.compressobj(9)
    lines, rest = max(1, 2**24 // len(line)), height
    packed = b""
    while rest > 0:
        packed += packer.compress(line * min(lines, rest))
        rest -= lines
    packed += packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


add("png_of_1_x_64_000_000_without_pixels", photo(png(1, 64_000_000, 8, 0, b"")))
add("png_of_1_x_64_000_000_without_pixels_in_colour", photo(png(1, 64_000_000, 8, 6, b"")))
add("png_of_50_000_x_50_000", photo(png(50_000, 50_000, 1, 0, bytes(1000))))
add("png_of_0_x_0", photo(png(0, 0, 8, 0, b"")))
add("png_of_2_31_x_1", photo(png(2**31 - 1, 1, 8, 0, b"")))


@case
def png_with_a_text_of_a_gibibyte(folder: Path) -> list[str]:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9))
    content = good()
    return photo(content[:33] + text + content[33:])(folder)


for _depth, _colour in ((8, 0), (8, 6), (16, 0), (16, 6)):

    def _tall(folder: Path, depth: int = _depth, colour: int = _colour) -> list[str]:
        return photo(tall_png(1, 64_000_000, depth, colour))(folder)

    add(f"png_of_1_x_64_000_000_with_pixels_{_depth}_{_colour}", _tall)


@partly
def folder_of_what_is_no_file(folder: Path) -> list[str]:
    photos = folder / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(good())
    os.mkfifo(photos / "pipe.png")
    for name in ("zero", "random", "tty", "full"):
        (photos / f"{name}.png").symlink_to(f"/dev/{name}")
    # Reading these files blocks, or never ends.
    for number, name in enumerate(("kmsg", "kcore", "self/mem", "self/pagemap", "self/fd/0")):
        (photos / f"{number}.png").symlink_to(f"/proc/{name}")
    (photos / "loop.png").symlink_to("loop.png")
    return ["data", "photos", "--size", "8"]


for _name, _target in (
    ("pipe", None),
    ("kmsg", "/proc/kmsg"),
    ("zero", "/dev/zero"),
    ("memory", "/proc/self/mem"),
    ("kcore", "/proc/kcore"),
):
    for _ending, _words in {
        "zip": ["data"],
        "npy": ["data"],
        "parquet": ["data"],
        "csv": ["train", "blossoms:20", "--recipe", "smoke", "--data.vectors"],
        "yaml": ["train", "blossoms:20", "--recipe"],
    }.items():

        def _special(
            folder: Path, target: str | None = _target, ending: str = _ending, words: list[str] = _words
        ) -> list[str]:
            path = folder / f"a.{ending}"
            os.mkfifo(path) if target is None else path.symlink_to(target)
            return [*words, path.name]

        add(f"{_name}_as_{_ending}", _special)


def _large(folder: Path, kind: str, mode: str) -> list[str]:
    """Write an image of an allowed size: 64 megapixels, or 30 as TIFF or BMP.

    Reading it must not take more memory than is allowed.
    """
    (folder / "photos").mkdir()
    from PIL import Image

    side = 5500 if kind in ("TIFF", "BMP") else 8000
    image = Image.new(mode, (side, side))
    image.save(
        folder / "photos" / f"a.{kind.lower()}", kind, **({"compress_level": 1} if kind == "PNG" else {})
    )
    return ["data", "photos", "--size", "8"]


for _kind, _mode in (
    ("PNG", "RGBA"),
    ("PNG", "LA"),
    ("PNG", "I;16"),
    ("JPEG", "CMYK"),
    ("TIFF", "F"),
    ("BMP", "RGB"),
):

    def _whole(folder: Path, kind: str = _kind, mode: str = _mode) -> list[str]:
        return _large(folder, kind, mode)

    add(f"{_kind.lower()}_of_64_megapixels_{_mode}".replace(";", "_"), _whole, part=True)
