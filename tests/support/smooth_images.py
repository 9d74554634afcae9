"""Images of few degrees of freedom."""

import numpy as np
import torch

DRAW = np.random.default_rng


def smooth(n, seed, size=16):
    """Return images (n, size, size, 3) uint8 of few degrees of freedom, drawn from one distribution."""
    coarse = torch.from_numpy(DRAW(seed).random((n, 3, 3, 3)))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return (fine.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def blurred(images, radius):
    width = 2 * radius + 1
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (radius,) * 4, "replicate"), width, 1)
    return x.round().byte().permute(0, 2, 3, 1).numpy()
