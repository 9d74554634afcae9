"""All networks, keyed by their names in a recipe.

To add a network, write a module with its spec and its class, and add a line to `NETWORKS`.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.dit import DiTSpec
from ddim.nn.linear_attention_unet import LinearAttentionUNetSpec
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec


class NetworkSpec(Protocol):
    """The options of a network, as a frozen dataclass with a method that builds the network.

    The network is called as net(x, conditioning, label), or net(x, conditioning, label, augment) if `augment`
    is above 0. The arguments are x (B, C, H, W), conditioning (B,), label (class indices (B,), vectors
    (B, vector), or None), and augment (B, augment) or None. The output is (B, outputs * C, H, W). Like its
    spec, the network has the attributes `classes`, `augment`, `outputs` and `vector`.
    """

    @property
    def classes(self) -> int:
        """Number of classes on which the network is conditioned; 0 for none."""

    @property
    def takes_classes(self) -> bool:
        """Whether the network can be conditioned on a class; `classes` is then a field of the spec."""

    @property
    def vector(self) -> int:
        """Length of the vector on which the network is conditioned in place of a class; 0 for none."""

    @property
    def takes_vector(self) -> bool:
        """Whether the network can be conditioned on a vector; `vector` is then a field of the spec."""

    @property
    def augment(self) -> int:
        """Number of augmentation labels that the network is conditioned on; 0 for none."""

    @property
    def outputs(self) -> int:
        """Output channels for each image channel: 1, or 2 if the network also predicts a variance."""

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to a multiple of this number of pixels."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, from full resolution down."""

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels; initial weights are random."""


NETWORKS: dict[str, type[NetworkSpec]] = {
    "unet": UNetSpec,
    "residual_unet": ResidualUNetSpec,
    "ddpm_unet": DDPMUNetSpec,
    "clear_unet": ClearUNetSpec,
    "dit": DiTSpec,
    "linear_attention_unet": LinearAttentionUNetSpec,
}
