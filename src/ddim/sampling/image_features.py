"""Features of sets of images: computed once, then read from the cache folder.

The name of a cache folder is a hash of everything on which the features depend; the path of the images is not
a part of it. Features are kept in parts, so that a stopped computation continues where it stopped. Each part
begins with the SHA-256 of its content, and is used only if this is right.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ddim.data import Images
from ddim.data.images import gather_batch
from ddim.files import cache_folder, hash_json, make_folder, write_atomic
from ddim.metrics.features import Extractor, extract_features
from ddim.plots.pictures import to_uint8

BATCH = 32
"""Number of images whose features are computed in one batch."""

PART = 32 * BATCH
"""Number of images whose features are kept in one file."""


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

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.which)

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Return the images at these places of the set as pictures (N, H, W, C) uint8; see `to_uint8`."""
        which = self.which[places]
        return to_uint8(gather_batch(self.images, which, np.full(len(which), self.mirrored)))

    def name(self, place: int) -> str:
        """Return the name of the image at this place of the set."""
        return self.images.names[self.which[place]]

    def identity(self, extractor: Extractor) -> str:
        """Return the SHA-256 (hex) of everything that the features of these images depend on."""
        which = hashlib.sha256(np.ascontiguousarray(self.which, np.int64).tobytes()).hexdigest()
        facts = [self.images.fingerprint, which, extractor.name, extractor.weights, extractor.resize]
        facts += ["mirrored"] if self.mirrored else []
        # The fingerprint does not contain the range, which scales the pixels of 16-bit and float images.
        facts += [] if self.images.values.eight_bits else [self.images.values.low, self.images.values.high]
        return hash_json(facts)


def compute_features(
    of: ImageSet, extractor: Extractor, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Return features (N, dimensions), float32; those that are not in the cache are computed.

    Args:
        of: the set of images.
        extractor: computes the features.
        progress: called with (done, total) while features are computed.

    Raises:
        OSError: if the cache folder cannot be written.
    """
    parts, count = [np.empty((0, extractor.dimensions), np.float32)], len(of)
    for path, places in _list_parts(of.identity(extractor), count):
        kept = read_part(path, "features")
        if kept is None:
            part = replace(of, which=of.which[places.start : places.stop])
            watch = progress and (lambda done, _, first=places.start: progress(first + done, count))
            kept = {"features": torch.from_numpy(extract_features(extractor, part, BATCH, watch))}
            keep_part(path, kept)
        parts.append(kept["features"].numpy())
    return np.concatenate(parts)


def find_features(identity: str, count: int) -> np.ndarray | None:
    """Return the cached features of `count` images with this `ImageSet.identity`.

    The result is None if a part is missing or damaged.
    """
    parts = [read_part(path, "features") for path, _ in _list_parts(identity, count)]
    known = [part["features"].numpy() for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _list_parts(identity: str, count: int) -> list[tuple[Path, range]]:
    """Return the file of each part, and the places of its images in the set."""
    folder = cache_folder() / "features" / f"{identity}.parts"
    parts = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
    return [(folder / name_part(places), places) for places in parts]


def name_part(numbers: Sequence[int]) -> str:
    """Return the name of the file of a part: its first number and its length."""
    return f"{numbers[0]}-{len(numbers)}"


def read_part(path: Path, *names: str) -> dict[str, Tensor] | None:
    """Return the tensors with these names in a file, or None if the file is missing or damaged."""
    with suppress(OSError, SafetensorError, KeyError):
        digest, content = (whole := path.read_bytes())[:32], whole[32:]
        if hashlib.sha256(content).digest() == digest:
            found = safetensors.torch.load(content)
            return {name: found[name] for name in names}
    return None


def keep_part(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors of a part into a file with their SHA-256; create its folder if it is missing."""
    content = safetensors.torch.save(tensors)
    make_folder(path.parent)
    write_atomic(path, hashlib.sha256(content).digest() + content)
