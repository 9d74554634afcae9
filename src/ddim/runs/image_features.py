"""Features of sets of images: computed once, then read from the cache folder.

The name of a cache file is a hash of everything on which its features depend. The features do not depend on
the path of the images. A file is used only if its SHA-256 equals the recorded SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim.data import Images
from ddim.data.batch import gather_batch
from ddim.data.values import PICTURE_CHANNELS
from ddim.errors import NoSpace, UserError, explain_os_error
from ddim.files import atomic_file, cache_folder, cache_folders, hash_file, make_folder, write_atomic
from ddim.metrics.features import Extractor, release_pages, write_npy_header
from ddim.plots.pictures import to_pictures, to_uint8

BATCH = 32
"""Number of images whose features are computed in one batch."""


@dataclass(frozen=True)
class ImageSet:
    """A set of images whose features are computed.

    Attributes:
        images: the images of a source.
        which: indices (N,) of the images in the set.
        source: the name of the source.
        part: the name of the part of the source, such as "valid".
        mirrored: whether left and right are exchanged.
    """

    images: Images
    which: np.ndarray
    source: str
    part: str
    mirrored: bool = False

    def identity(self, extractor: Extractor) -> str:
        """Return the SHA-256 (hex) of everything that the features of these images depend on."""
        which = hashlib.sha256(np.ascontiguousarray(self.which, np.int64).tobytes()).hexdigest()
        facts = [self.images.fingerprint, which, extractor.name, extractor.weights, extractor.resize]
        facts += ["mirrored"] if self.mirrored else []
        values = self.images.values
        # The fingerprint does not contain the range, which scales the pixels of 16-bit and float images.
        facts += [] if values.eight_bits else [values.low, values.high]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compute_features(
    of: ImageSet, extractor: Extractor, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Return features (N, dimensions), float32, as a read-only memory map; compute them if not cached.

    Args:
        of: the set of images.
        extractor: computes the features.
        progress: called with (done, total) while features are computed.

    Raises:
        UserError: if the cache folder cannot be written.
        NoSpace: if the disk is full.
    """
    identity = of.identity(extractor)
    found = find_features(identity)
    if found is not None and found.shape == (len(of.which), extractor.dimensions):
        return found
    path = _path(identity)
    try:
        make_folder(path.parent)
        with atomic_file(path) as file:
            write_npy_header(file, (len(of.which), extractor.dimensions))
            for first in range(0, len(of.which), BATCH):
                part = of.which[first : first + BATCH]
                pixels = to_pictures(gather_batch(of.images, part))
                file.write(extractor(pixels.flip(3) if of.mirrored else pixels).numpy().tobytes())
                release_pages(of.images.pixels)
                if progress:
                    progress(first + len(part), len(of.which))
        # The hash is written last, because features without a recorded hash are not used.
        write_atomic(_seal(path), hash_file(path).encode())
    except OSError as error:
        raise unwritable_cache(path.parent, error) from None
    return np.lib.format.open_memmap(path, mode="r")


def take_pictures(images: Images, which: np.ndarray) -> np.ndarray:
    """Return the images at indices `which` as uint8 pictures (N, H, W, C), C = 1, 3 or 4; see `to_uint8`."""
    if images.values.eight_bits and images.pixels.shape[3] in PICTURE_CHANNELS:
        return images.pixels[which]
    parts = [to_uint8(gather_batch(images, which[k : k + BATCH])) for k in range(0, len(which), BATCH)]
    return np.concatenate([*parts, to_uint8(gather_batch(images, which[:0]))])


def unwritable_cache(folder: Path, error: OSError) -> UserError | NoSpace:
    """Return the error for a folder of the cache in which features cannot be kept."""
    what = f"features cannot be kept in {folder}"
    return explain_os_error(error, what, "set DDIM_CACHE to a folder that can be written")


def find_features(identity: str) -> np.ndarray | None:
    """Return the cached features with this `ImageSet.identity`; None if they are missing or damaged."""
    for folder in cache_folders():
        path = folder / "features" / f"{identity}.npy"
        with suppress(OSError, ValueError):
            if _seal(path).read_text("ascii") == hash_file(path):
                return np.lib.format.open_memmap(path, mode="r")
    return None


def _path(identity: str) -> Path:
    return cache_folder() / "features" / f"{identity}.npy"


def _seal(path: Path) -> Path:
    return path.with_suffix(".sha256")
