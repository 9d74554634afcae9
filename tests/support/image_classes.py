"""26 classes of bad or odd images, and fuzzed ones: all are read, and each is used or listed with its reason.

`python tests/support/image_classes.py FOLDER [--each 20] [--fuzzed 5000]` writes them into FOLDER, decodes
them, and prints a report as JSON. It exits with 1 if a file raises another error than `UnusableError`, is
neither used nor listed, or takes more than 5 s of the processor, or if the memory grows by 512 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from bad_images import chunk, encoded, interlaced, picture, png, with_orientation
from ddim.data import open_images
from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header
from deep_files import noise16, png16, tiff

MEMORY, SECONDS = 2**29, 5.0

Make = Callable[[random.Random], bytes]


def _photo(draw: random.Random) -> np.ndarray:
    return picture(draw.randint(1, 90), draw.randint(1, 90))


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 9)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _converted(mode: str, kind: str) -> Make:
    return lambda draw: encoded(Image.fromarray(_photo(draw)).convert(mode), kind)


def _palette(draw: random.Random) -> bytes:
    image = Image.fromarray(_photo(draw)).quantize(draw.randint(2, 200))
    return encoded(image, "PNG", transparency=draw.randrange(2))


def _bomb(draw: random.Random) -> bytes:
    side = draw.choice((9_000, 50_000, 2**20, 2**31 - 1))
    gif = b"GIF89a" + struct.pack("<HHBBB", 50_000, 50_000, 0, 0, 0) + b";"
    return draw.choice((gif, png(side, draw.choice((1, side)), 8, draw.choice((0, 2, 6)), bytes(1000))))


def _text(draw: random.Random) -> bytes:
    return (
        encoded(_photo(draw), "PNG")[:33] + chunk(b"tEXt", bytes(draw.randrange(10**6))) + chunk(b"IEND", b"")
    )


def _floats(draw: random.Random) -> bytes:
    values = np.full((9, 9), draw.choice((np.nan, np.inf, 1e38, -1e-38)), np.float32)
    return encoded(values, "TIFF")


def _pages(draw: random.Random) -> bytes:
    first = Image.fromarray(_photo(draw))
    more = [Image.new("RGB", first.size)] * draw.randint(1, 9)
    return encoded(first, draw.choice(("TIFF", "GIF", "WEBP", "PNG")), save_all=True, append_images=more)


CLASSES: dict[str, Make] = {
    "truncated jpeg": lambda d: _cut(encoded(_photo(d), "JPEG"), d),
    "truncated png": lambda d: _cut(encoded(_photo(d), "PNG"), d),
    "truncated webp": lambda d: _cut(encoded(_photo(d), "WEBP"), d),
    "truncated tiff": lambda d: _cut(encoded(_photo(d), "TIFF", compression="tiff_lzw"), d),
    "flipped jpeg": lambda d: _flip(encoded(_photo(d), "JPEG", progressive=d.random() < 0.5), d),
    "flipped png": lambda d: _flip(encoded(_photo(d), "PNG"), d),
    "flipped gif": lambda d: _flip(encoded(_photo(d), "GIF"), d),
    "flipped bmp": lambda d: _flip(encoded(_photo(d), "BMP"), d),
    "flipped avif": lambda d: _flip(encoded(picture(40, 60), "AVIF"), d),
    "zeros": lambda d: bytes(d.randrange(5000)),
    "noise": lambda d: b"\xff\xd8\xff" + d.randbytes(d.randrange(5000)),
    "words": lambda d: b"These are words.\n" * d.randint(1, 99),
    "wrong ending": lambda d: encoded(_photo(d), d.choice(("PNG", "GIF", "BMP", "PPM", "WEBP"))),
    "cmyk": _converted("CMYK", "JPEG"),
    "16 bits": lambda d: png16(noise16(9, 9, d.choice((1, 3, 4)))),
    "16 bits, flipped": lambda d: _flip(png16(noise16(9, 9, d.choice((1, 3, 4)))), d),
    "palette with alpha": _palette,
    "one bit": _converted("1", "PNG"),
    "exif": lambda d: with_orientation(_photo(d), d.randint(1, 8), d.choice(("JPEG", "PNG", "WEBP"))),
    "broken exif": lambda d: encoded(_photo(d), "JPEG", exif=b"Exif\0\0II*\0" + d.randbytes(d.randrange(99))),
    "interlaced": lambda d: _flip(interlaced(_photo(d)), d) if d.random() < 0.5 else interlaced(_photo(d)),
    "several frames": _pages,
    "bombs": _bomb,
    "float channels": lambda d: _flip(tiff(noise16(9, 9, 5).astype(np.float32)), d),
    "floats": _floats,
    "long texts": _text,
}


def write_classes(folder: Path, each: int) -> int:
    """Write `each` files of each class, and `each` special or odd entries; return the number of all."""
    draw, count = random.Random(0), 0
    for name, make in CLASSES.items():
        for k in range(each):
            (folder / f"{name} {k}.jpg").write_bytes(make(draw))
            count += 1
    for k in range(each):
        path = folder / f"special-{k}.png"
        odd = os.fsdecode(b"%d-\xff\xfe.png" % k)
        (
            lambda path=path: os.mkfifo(path),
            lambda path=path: path.symlink_to(path.name),
            lambda path=path: path.symlink_to("/dev/zero"),
            lambda path=path, k=k: path.with_name(f"line\n{k}.png").write_bytes(b"\x89PNG"),
            lambda path=path, odd=odd: path.with_name(odd).write_bytes(b"\x89PNG"),
        )[k % 5]()
        count += 1
    return count


def decode_everything(data: bytes) -> None:
    """Decode a file with each number of channels and type of values; an `UnusableError` is no fault."""
    with suppress(UnusableError), hide_warnings():
        header = read_header(data)
        for channels, kind in ((1, "uint8"), (3, "uint8"), (4, "uint8"), (header.channels, header.values)):
            with suppress(UnusableError):
                pixels = decode_image(data, (16, 24), channels, kind).pixels
                if pixels.shape != (16, 24, channels):
                    raise AssertionError(f"decoded to {pixels.shape}")


def fuzz(count: int) -> tuple[int, float]:
    """Decode so many damaged files; return their number and the seconds of the slowest."""
    draw = random.Random(1)
    bases = [make(draw) for name, make in CLASSES.items() if name != "long texts" for _ in range(4)]
    slowest = 0.0
    for _ in range(count):
        data = draw.choice(bases) or b"\0"
        way, place = draw.randrange(4), draw.randrange(len(data))
        if way == 1:
            data = _cut(data, draw)
        elif way == 2:
            new = draw.randbytes(draw.randint(1, 64))
            data = data[:place] + new + data[place + draw.randint(0, 64) :]
        elif way == 3:
            size = draw.randint(1, 400)
            data = data[: place + size] + data[place : place + size] * draw.randint(1, 5) + data[place:]
        data = _flip(data, draw) if data else data
        begin = time.process_time()
        decode_everything(data)
        slowest = max(slowest, time.process_time() - begin)
    return count, slowest


def run_classes(folder: Path, each: int, fuzzed: int) -> dict[str, object]:
    """Read all files of all classes, and fuzzed ones; return a report with the entry "faults"."""
    photos, faults, slowest = folder / "photos", [], 0.0
    photos.mkdir(parents=True)
    decode_everything(encoded(picture(), "PNG"))
    rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = write_classes(photos, each)
    for path in sorted(photos.iterdir()):
        if path.is_file() and not path.is_symlink():
            begin = time.process_time()
            decode_everything(path.read_bytes())
            seconds = time.process_time() - begin
            slowest = max(slowest, seconds)
            if seconds > SECONDS:
                faults.append(f"{path.name}: {seconds:.1f} s")
    images = open_images(photos, (16, 16), 3, cache=folder / "cache")
    rejected = images.rejects
    if len(images) + len(rejected) != count:
        faults.append(f"{len(images)} used and {len(rejected)} listed of {count}")
    done, slowest_fuzzed = fuzz(fuzzed) if fuzzed else (0, 0.0)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest) * 1024
    if growth > MEMORY:
        faults.append(f"{growth >> 20} MiB")
    if slowest_fuzzed > SECONDS:
        faults.append(f"a fuzzed file: {slowest_fuzzed:.1f} s")
    found = {"files": count, "used": len(images), "listed": len(rejected), "fuzzed": done, "faults": faults}
    return found | {"seconds": round(max(slowest, slowest_fuzzed), 2), "mib": growth >> 20}


def main() -> int:
    """Run the classes, print the report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--fuzzed", type=int, default=5000)
    args = parser.parse_args()
    report = run_classes(args.folder, args.each, args.fuzzed)
    print(json.dumps(report))
    return int(bool(report["faults"]))


if __name__ == "__main__":
    sys.exit(main())
