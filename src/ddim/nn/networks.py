"""The networks by name. A new network is a file with its spec and its class, and a line in `NETWORKS`."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec


class NetworkSpec(Protocol):
    """The options of a network, a frozen dataclass; it builds the network.

    The network is called as net(x, conditioning, label), or net(x, conditioning, label, augment) if `augment`
    is above 0: x (B, C, H, W), conditioning (B,), label (B,) class indices or None, augment (B, augment) or
    None -> (B, outputs * C, H, W). It states `classes`, `augment` and `outputs` as attributes, like its spec.
    """

    @property
    def classes(self) -> int:
        """Number of class labels that the network distinguishes; 0 for none."""

    @property
    def takes_classes(self) -> bool:
        """Whether `classes` is a field that may be set, because the network can be conditioned on a class."""

    @property
    def augment(self) -> int:
        """Number of augmentation labels that the network is conditioned on; 0 for none."""

    @property
    def outputs(self) -> int:
        """Channels of the output per channel of the image: 1, or 2 if a variance is predicted as well."""

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
}
