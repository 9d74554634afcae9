"""Features of sets of images: computed once, then read from the cache folder.

The name of a cache file is a hash of everything on which its features depend. The features do not depend on
the path of the images. A file is used only if its SHA-256 equals the recorded SHA-256. Until all features of
a set are computed, they are kept in parts, so that a stopped computation continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ddim.data import Images
from ddim.data.images import gather_batch
from ddim.data.values import PICTURE_CHANNELS
from ddim.errors import NoSpace, UserError, explain_error
from ddim.files import atomic_file, cache_folder, hash_file, make_folder, write_atomic
from ddim.metrics.features import Extractor, write_npy_header
from ddim.plots.pictures import to_pictures, to_uint8

BATCH = 32
"""Number of images whose features are computed in one batch."""

PART = 32 * BATCH
"""Number of images whose features are kept in one file until those of all images are computed."""


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
    path, count = _path(identity), len(of.which)
    parts = path.with_suffix(".parts")
    found = find_features(identity)
    if found is not None and found.shape == (count, extractor.dimensions):
        shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed at its end
        return found
    try:
        make_folder(path.parent)
        with atomic_file(path) as file:
            write_npy_header(file, (count, extractor.dimensions))
            for first in range(0, count, PART):
                places = range(first, min(first + PART, count))
                file.write(_compute_part(of, places, extractor, parts, progress).tobytes())
        # The hash is written last, because features without a recorded hash are not used.
        write_atomic(_seal(path), hash_file(path).encode())
    except OSError as error:
        raise unwritable_cache(path.parent, error) from None
    shutil.rmtree(parts, ignore_errors=True)
    return np.lib.format.open_memmap(path, mode="r")


def _compute_part(
    of: ImageSet,
    places: range,
    extractor: Extractor,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Return the features of the images at `places` in the set; compute them if they are not in `folder`."""
    path = folder / name_part(places)
    found = read_part(path, "features")
    if found is None or found["features"].shape != (len(places), extractor.dimensions):
        features = []
        for first in places[::BATCH]:
            pixels = to_pictures(gather_batch(of.images, of.which[first : first + BATCH]))
            features.append(extractor(pixels.flip(3) if of.mirrored else pixels).numpy())
            if progress:
                progress(first + len(pixels), len(of.which))
        found = {"features": torch.from_numpy(np.concatenate(features))}
        # Parts only save time. Another process with the same features may finish, and remove their folder.
        with suppress(UserError, NoSpace):
            keep_part(path, found)
    return found["features"].numpy()


def name_part(numbers: Sequence[int]) -> str:
    """Return the name of the file of a part: its first number and its length."""
    return f"{numbers[0]}-{len(numbers)}"


def read_part(path: Path, *names: str) -> dict[str, Tensor] | None:
    """Return the tensors with these names in a file, or None if the file is missing or damaged."""
    with suppress(OSError, UserError, SafetensorError, KeyError):
        digest, content = (whole := path.read_bytes())[:32], whole[32:]
        if hashlib.sha256(content).digest() == digest:
            found = safetensors.torch.load(content)
            return {name: found[name] for name in names}
    return None


def keep_part(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors of a part into a file with their SHA-256; create its folder if it is missing.

    Raises:
        UserError: if the cache folder cannot be written.
        NoSpace: if the disk is full.
    """
    content = safetensors.torch.save(tensors)
    try:
        make_folder(path.parent)
        write_atomic(path, hashlib.sha256(content).digest() + content)
    except OSError as error:
        raise unwritable_cache(path.parent, error) from None


def take_pictures(images: Images, which: np.ndarray) -> np.ndarray:
    """Return the images at indices `which` as uint8 pictures (N, H, W, C), C = 1, 3 or 4; see `to_uint8`."""
    if images.values.eight_bits and images.pixels.shape[3] in PICTURE_CHANNELS:
        return images.pixels[which]
    parts = [to_uint8(gather_batch(images, which[k : k + BATCH])) for k in range(0, len(which), BATCH)]
    return np.concatenate([*parts, to_uint8(gather_batch(images, which[:0]))])


def unwritable_cache(folder: Path, error: OSError) -> BaseException:
    """Return the error for a folder of the cache in which features cannot be kept."""
    what = f"features cannot be kept in {folder}"
    return explain_error(error, what, "set DDIM_CACHE to a folder that can be written")


def find_features(identity: str) -> np.ndarray | None:
    """Return the cached features with this `ImageSet.identity`; None if they are missing or damaged."""
    path = _path(identity)
    with suppress(OSError, ValueError):
        if _seal(path).read_text("ascii") == hash_file(path):
            return np.lib.format.open_memmap(path, mode="r")
    return None


def _path(identity: str) -> Path:
    return cache_folder() / "features" / f"{identity}.npy"


def _seal(path: Path) -> Path:
    return path.with_suffix(".sha256")
