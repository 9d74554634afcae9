"""Summarise the images of a source: counts, sizes, classes, rejected files, duplicates, and a sheet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from ddim.data import Images
from ddim.data.cache import read_headers
from ddim.data.images import group_equal_images
from ddim.data.order import shuffle_epoch
from ddim.plots.pictures import make_sheet
from ddim.runs.image_features import take_pictures

SHOWN = 64
"""The largest number of images in the sheet."""


def draw_images(images: Images) -> np.ndarray:
    """Return one image (H, W, 3) uint8 that shows up to `SHOWN` images in random order."""
    shown = shuffle_epoch(len(images), 0, 0)[:SHOWN]
    return make_sheet(torch.from_numpy(take_pictures(images, shown)).permute(0, 3, 1, 2))


def summarise_images(source: str, images: Images) -> dict[str, Any]:
    """Return the counts, sizes, classes, rejected files and duplicates of a source as plain values."""
    headers, labels = read_headers(images), images.labels
    counts = None if labels is None else Counter(labels.tolist())
    return {
        "source": source,
        "images": len(images),
        "size": images.pixels.shape[1:3],
        "channels": images.pixels.shape[3],
        "values": images.values.to_json(),
        "fingerprint": images.fingerprint,
        "original_sizes": dict(Counter(f"{header.height}x{header.width}" for header in headers)),
        "formats": dict(Counter(header.format for header in headers)),
        "modes": dict(Counter(header.mode for header in headers)),
        "split": images.official and list(map(len, images.official)),
        "classes": counts and {images.classes[label]: count for label, count in counts.items()},
        "rejected": [{"name": reject.name, "reason": reject.reason} for reject in images.rejects],
        "duplicates": [[images.names[k] for k in group] for group in group_equal_images(images)],
    }
