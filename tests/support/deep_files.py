"""Files of images with more than 8 bits, written without the code under test."""

import numpy as np
import tifffile

from archives import file_bytes
from bad_images import png


def noise16(*shape, seed=0):
    """Random 16-bit values; nearly all of them need more than 8 bits."""
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def png16(pixels):
    """The bytes of a 16-bit PNG file of (H, W, 1, 2, 3 or 4)."""
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, colour, lines)


def tiff(pixels, **options):
    """The bytes of a TIFF file of (H, W) or (H, W, C)."""
    if pixels.ndim == 3 and "photometric" not in options and "metadata" not in options:
        options |= {"photometric": "minisblack", "planarconfig": "contig"}
    return file_bytes(lambda file: tifffile.imwrite(file, pixels, **options))
