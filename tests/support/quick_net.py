"""A small network that is compiled in seconds, with the layers that a compiler may get wrong."""

from torch import nn
from torch.nn import functional as F

from ddim.nn.batch_norm import BatchNorm2d
from ddim.nn.blocks import Dropout
from ddim.nn.recompute import Recomputable


class Block(Recomputable):
    """A convolution with batch norm and dropout, which can be recomputed."""

    def __init__(self, width):
        super().__init__()
        # Batch norm removes a bias, so its gradient would be rounding errors, which Adam makes whole steps.
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), BatchNorm2d(width)
        self.dropout = Dropout(0.3)

    def forward(self, x):
        """Return a tensor of the shape of x (B, C, H, W)."""
        return x + self.dropout(F.silu(self.norm(self.conv(x))))


class QuickNet(nn.Module):
    """Two convolutions around a block, conditioned on the noise level."""

    def __init__(self, width=8):
        super().__init__()
        self.level = nn.Linear(1, width)
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.blocks = nn.Sequential(Block(width))

    def forward(self, x, noise_level):
        """Return the output for noisy images x (B, 3, H, W)."""
        return self.last(self.blocks(self.first(x) + self.level(noise_level[:, None])[:, :, None, None]))
