"""Bad and odd images, as they are and changed at random: each is used, or listed with its reason.

`python tests/support/image_classes.py FOLDER [--each 20] [--fuzzed 5000]` writes `each` variants of every
class into FOLDER and opens them, and decodes more of them from memory. A fault is another error than
`UnusableError`, a file that is neither used nor listed, 5 s of the processor, and a growth by 512 MiB.
"""

import os
import random
import resource
import struct
import time
from contextlib import suppress

import numpy as np

from bad_images import chunk, encoded, picture, png, refused, special, usable
from damage import blank, cut, flip, repeat, truncate
from ddim.data import open_images
from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header
from deep_files import noise16, png16, tiff
from programmes import run_as_command

MEMORY, SECONDS = 2**29, 5.0
PNG = encoded(picture(), "PNG")
CLASSES = usable() | {name: data for name, (data, _) in refused().items()}
CLASSES |= {
    "photo.avif": encoded(picture(40, 60), "AVIF"),
    "deep.png": png16(noise16(9, 9, 3)),
    "deep-alpha.png": png16(noise16(9, 9, 4)),
    "channels.tif": tiff(noise16(9, 9, 5).astype(np.float32)),
    "bomb.gif": b"GIF89a" + struct.pack("<HHBBB", 50_000, 50_000, 0, 0, 0) + b";",
    "wide.png": png(2**31 - 1, 1, 8, 6, bytes(1000)),
    "long-text.png": PNG[:33] + chunk(b"tEXt", bytes(10**6)) + PNG[33:],
}


def change(data, draw):
    """Return a file with up to three damages."""
    for damage in draw.choices((flip, truncate, blank, cut, repeat), k=draw.randint(0, 3)):
        data = damage(data or b"\0", draw)
    return data


def decode_everything(data):
    """Decode a file with each number of channels and type of values; an `UnusableError` is no fault."""
    with suppress(UnusableError), hide_warnings():
        header = read_header(data)
        for channels, kind in ((1, "uint8"), (3, "uint8"), (4, "uint8"), (header.channels, header.values)):
            with suppress(UnusableError):
                assert decode_image(data, (16, 24), channels, kind).pixels.shape == (16, 24, channels)


def run_classes(folder, each=20, fuzzed=5000):
    """Read `each` files of all classes and `fuzzed` changed ones; return a report with the list "faults"."""
    photos, faults, slowest, draw = folder / "photos", [], 0.0, random.Random(0)
    photos.mkdir(parents=True)
    decode_everything(PNG)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    special(photos)
    for k in range(each):
        for name, data in CLASSES.items():
            (photos / f"{k} {name}").write_bytes(change(data, draw) if k else data)
    images = open_images(photos, (16, 16), 3, cache=folder / "cache")
    counts = {"files": len(os.listdir(photos)), "used": len(images), "listed": len(images.rejects)}
    if counts["files"] != counts["used"] + counts["listed"]:
        faults.append("a file is neither used nor listed")
    for _ in range(fuzzed):
        data, begin = change(draw.choice([*CLASSES.values()]), draw), time.process_time()
        decode_everything(data)
        slowest = max(slowest, time.process_time() - begin)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    if slowest > SECONDS or mib > MEMORY >> 20:
        faults.append("too slow, or too much memory")
    return {**counts, "fuzzed": fuzzed, "seconds": slowest, "mib": mib, "faults": faults}


if __name__ == "__main__":
    run_as_command(run_classes)
