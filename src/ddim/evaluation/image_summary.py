"""Summarise the images of a source: counts, sizes, classes, rejected files, duplicates, and a sheet."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ddim.data import Images
from ddim.data.cache import read_headers
from ddim.data.decode import Header
from ddim.data.images import gather_batch
from ddim.data.order import shuffle_epoch
from ddim.data.values import PICTURE_CHANNELS, Values
from ddim.plots.pictures import make_sheet, to_uint8
from ddim.sampling.image_features import BATCH

SHOWN = 64
"""The largest number of images in the sheet."""


def draw_images(images: Images) -> np.ndarray:
    """Return one image (H, W, 3) uint8 that shows up to `SHOWN` images in random order."""
    shown = shuffle_epoch(len(images), 0, 0)[:SHOWN]
    return make_sheet(torch.from_numpy(take_pictures(images, shown)).permute(0, 3, 1, 2))


def take_pictures(images: Images, which: np.ndarray) -> np.ndarray:
    """Return the images at indices `which` as uint8 pictures (N, H, W, C), C = 1, 3 or 4; see `to_uint8`."""
    if images.values.eight_bits and images.pixels.shape[3] in PICTURE_CHANNELS:
        return images.pixels[which]
    starts = range(0, max(len(which), 1), BATCH)
    return np.concatenate([to_uint8(gather_batch(images, which[k : k + BATCH])) for k in starts])


def summarise_images(source: str, images: Images) -> dict[str, Any]:
    """Return the counts, sizes, classes, rejected files and duplicates of a source as plain values."""
    headers, labels = read_headers(images), images.labels
    counts = None if labels is None else Counter(labels.tolist())
    return {
        "source": source,
        "images": len(images),
        "size": images.pixels.shape[1:3],
        "channels": images.pixels.shape[3],
        "values": asdict(images.values),
        "fingerprint": images.fingerprint,
        "original_sizes": dict(Counter(f"{header.height}x{header.width}" for header in headers)),
        "formats": dict(Counter(header.format for header in headers)),
        "modes": dict(Counter(header.mode for header in headers)),
        "split": images.official and list(map(len, images.official)),
        "classes": counts and {images.classes[label]: count for label, count in counts.items()},
        "rejected": [{"name": reject.name, "reason": reject.reason} for reject in images.rejects],
        "duplicates": [[images.names[k] for k in group] for group in group_equal_images(images)],
    }


def describe_pixels(images: Images) -> str:
    """Return channels and values in words: "RGB", "gray of 16 bits", "8 channels of floats from 0 to 1"."""
    channels, values = images.pixels.shape[3], images.values
    colours = {1: "gray", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")
    if values.eight_bits:
        return colours
    bits = "16 bits" if values.type == "uint16" else "floats"
    whole = values == Values("uint16", 0.0, 65535.0)
    return f"{colours} of {bits}" + ("" if whole else f" from {values.low:g} to {values.high:g}")


def find_enlarged(images: Images) -> list[Header]:
    """Return the headers of the original images that are smaller than the images in height or width."""
    _, height, width, _ = images.pixels.shape
    return [header for header in read_headers(images) if header.height < height or header.width < width]


def group_equal_images(images: Images) -> list[list[int]]:
    """Group the images whose pixels are equal after crop and resize.

    Returns:
        The indices of the images in each group of two or more; groups with several classes come first.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, pixels in enumerate(images.pixels):
        groups[hashlib.sha256(pixels.tobytes()).digest()].append(index)
    copies = [indices for indices in groups.values() if len(indices) > 1]
    return sorted(copies, key=lambda indices: crosses_classes(images, indices), reverse=True)


def crosses_classes(images: Images, indices: list[int]) -> bool:
    """Return whether the images at these indices have different classes."""
    return images.labels is not None and len(set(images.labels[indices].tolist())) > 1
