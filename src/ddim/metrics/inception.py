"""Inception v3 (Szegedy et al. 2016): TensorFlow's version of 2015, for FID, and torchvision's version."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.metrics.weights import fill_network, locate_weights, read_weights

DIMENSIONS = 2048
RESIZE_2015 = "299 px bilinear of TensorFlow 1, not antialiased"
RESIZE_TORCHVISION = "299 px bilinear, not antialiased"
_SIDE = 299

# TensorFlow excludes the padding from mean pooling; torchvision includes it as zeros.
_mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_max = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


def load_inception_2015(weights: Path | None = None) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Load the Inception network of FID (Heusel et al. 2017), TensorFlow's graph of 2015-12-05.

    It has 1008 classes, and its pooling layers differ from torchvision's.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 2048), pooled.

    Raises:
        UserError: if the weights cannot be found or read, or are not the published weights.
    """
    sha, network = _inception("inception-2015", weights, _list_blocks_2015(), classes=1008)
    return sha, lambda images: network((resize_tf1(images, _SIDE) - 128) / 128)


def load_inception_torchvision(weights: Path | None = None) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Load torchvision's Inception v3, which the luz DDIM repository (in R) used.

    The returned network takes pixels in [0, 255] and maps them to [-1, 1], which Inception expects.
    torchvision normalises images by ImageNet's statistics, and its network then undoes this normalisation.
    Both steps are left out here.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 2048), pooled.

    Raises:
        UserError: if the weights cannot be found or read, or are not the published weights.
    """
    sha, network = _inception("inception-torchvision", weights, None, classes=1000)

    def features(images: Tensor) -> Tensor:
        big = F.interpolate(images / 255, size=(_SIDE, _SIDE), mode="bilinear")
        return network(2 * big - 1)

    return sha, features


def resize_tf1(images: Tensor, side: int) -> Tensor:
    """Resize images (B, C, H, W) to (B, C, side, side) like `tf.image.resize_bilinear` of TensorFlow 1.

    Row i of the result is interpolated at row i * H / side of the image; columns are treated likewise. This
    aligns the upper left corners of pixels, not their centres. Images that become smaller are not
    antialiased.
    """
    for axis in (3, 2):
        size = images.shape[axis]
        at = torch.arange(side, dtype=torch.float32) * (size / side)
        low = at.long()
        high = (low + 1).clamp(max=size - 1)
        part = (at - low).reshape(-1, *[1] * (3 - axis))
        images = torch.lerp(images.index_select(axis, low), images.index_select(axis, high), part)
    return images


def _inception(
    name: str, weights: Path | None, blocks: list[Callable[..., nn.Module]] | None, classes: int
) -> tuple[str, nn.Module]:
    from torchvision.models.inception import Inception3

    sha, tensors = read_weights(name, weights or locate_weights(name))
    with torch.device("meta"):
        network = Inception3(classes, aux_logits=False, inception_blocks=blocks, init_weights=False)
    fill_network(network, tensors)
    network.register_module("fc", nn.Identity())
    return sha, network


def _pooled_by(pool: Callable[[Tensor], Tensor], block: Any) -> Any:  # noqa: ANN401
    """Return a block of torchvision whose last branch uses `pool` instead of zero-padded mean pooling."""

    class Pooled(block):
        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(pool(x))]

    return Pooled


def _list_blocks_2015() -> list[Callable[..., nn.Module]]:
    """Return the blocks of TensorFlow's network, in the order of torchvision's `Inception3`."""
    # This import takes two seconds, because it imports torch's compiler.
    from torchvision.models import inception as tv

    def last(channels: int) -> nn.Module:
        """Return one of the last two blocks: the first has mean pooling, the second maximum pooling."""
        return _pooled_by(_max if channels == DIMENSIONS else _mean, tv.InceptionE)(channels)

    a, c = _pooled_by(_mean, tv.InceptionA), _pooled_by(_mean, tv.InceptionC)
    return [tv.BasicConv2d, a, tv.InceptionB, c, tv.InceptionD, last, tv.InceptionAux]
