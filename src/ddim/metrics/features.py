"""Features of images, computed by a pretrained network or by fixed wavelets, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ddim.errors import check_choice
from ddim.machine.runtime import Runtime
from ddim.metrics.catalogue import DEFAULT, EXTRACTORS
from ddim.metrics.networks import load_network
from ddim.metrics.scattering import load_scattering


@dataclass(eq=False)
class Extractor:
    """A network that computes features of images, with all facts that define these features.

    Attributes:
        name: its name in `EXTRACTORS`.
        weights: the SHA-256 (hex) of its weights file, or of its constants if it has no weights.
        resize: a description of the resizing of images.
        dimensions: the number of features.
        network: (B, 3, H, W) float32 in [0, 255] -> (B, dimensions).
        device: where the network runs; see `to`.
    """

    name: str
    weights: str
    resize: str
    dimensions: int
    network: Callable[[Tensor], Tensor] = field(repr=False)
    device: str | torch.device = "cpu"

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device, in place, and return the extractor."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute features (B, dimensions), float32 on the CPU, of images (B, C, H, W) uint8 on any device.

        C is 1 (gray), 3 (RGB) or 4 (RGBA, composited on white).
        """
        # In a runtime, Nvidia's GPUs do not convolve in TF32, whose features differ from a CPU's by 1e-3.
        with Runtime(threads=torch.get_num_threads()):
            return self.network(_rgb(images.to(self.device).float())).cpu()


def load_extractor(name: str = DEFAULT, weights: str | Path | None = None) -> Extractor:
    """Load an extractor by name, on the CPU.

    Args:
        name: one of `EXTRACTORS`.
        weights: the file of weights. For efficientnet-lite0, None takes the file in its Python package. For
            the Inception networks, None takes the file in the cache, and downloads it if it is missing.
            Scattering has no weights.

    Raises:
        UserError: if there is no such extractor, or its weights cannot be found or are not the published
            weights. Also if efficientnet-lite0 lacks its Python packages, or scattering is given weights.
    """
    check_choice("features", name, EXTRACTORS)
    path = None if weights is None else Path(weights)
    sha, network = load_scattering(path) if name == "scattering" else load_network(name, path)
    return Extractor(name, sha, *EXTRACTORS[name], network)


def open_extractor(features: str | Extractor = DEFAULT, weights: str | Path | None = None) -> Extractor:
    """Return an extractor that is given as itself, or by its name; see `load_extractor`."""
    return features if isinstance(features, Extractor) else load_extractor(features, weights)


def extract_features(
    extractor: Extractor,
    images: np.ndarray,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Compute the features of a set of images.

    Args:
        extractor: the network.
        images: (N, H, W, C) uint8, an array or a memory map.
        batch: images per batch; it affects only memory use.
        progress: called with (done, total) after each batch.

    Returns:
        (N, dimensions) float32.
    """
    features = np.empty((len(images), extractor.dimensions), np.float32)
    for start in range(0, len(images), batch):
        pixels = np.ascontiguousarray(images[start : start + batch])
        features[start : start + len(pixels)] = extractor(torch.tensor(pixels).permute(0, 3, 1, 2)).numpy()
        if progress:
            progress(start + len(pixels), len(images))
    return features


def _rgb(images: Tensor) -> Tensor:
    """Convert images (B, C, H, W) in [0, 255], with C = 1, 3 or 4, to RGB (B, 3, H, W)."""
    if images.shape[1] == 4:
        colours, opacity = images[:, :3], images[:, 3:] / 255
        return colours * opacity + 255 * (1 - opacity)
    return images.expand(-1, 3, -1, -1)
