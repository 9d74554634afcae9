"""What all networks share: the options that every network has, and its call.

A network is called as net(x, conditioning, label, augment). Its spec is a frozen dataclass of its options,
which a recipe holds, with a method that builds the network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError, check_part_values
from ddim.nn.conditioning import ClassEmbedding, VectorEmbedding

PER_STAGE = ("widths", "multipliers", "down", "up", "attention")
"""Options with one entry for each stage of a network."""


class NetworkSpec:
    """The options of a network: a subclass is a frozen dataclass with a method that builds the network.

    A property below becomes an option if the subclass has a field of this name.
    """

    def __post_init__(self) -> None:
        # A number of heads, channels or so may be 0 only if this is the default.
        defaults = {name: getattr(type(self), name, None) for name in vars(self)}
        positive = [name for name, default in defaults.items() if type(default) is int and default > 0]
        check_part_values("net", self, positive)
        for name, value in vars(self).items():
            values = value if isinstance(value, tuple) else (value,)
            # A truth value is no number here.
            if any(type(number) in (int, float) and not number >= 0 for number in values):
                raise UserError(f"net.{name} must be at least 0, got {value}")
        if self.vector and self.classes:
            raise UserError(f"net.vector must be 0 if there are classes, got {self.vector}")
        stages = {name: vars(self)[name] for name in PER_STAGE if name in vars(self)}
        lengths = set(map(len, stages.values()))
        if len(lengths) > 1 or 0 in lengths:
            names, given = (" and ".join(map(str, words)) for words in (stages, stages.values()))
            raise UserError(f"the net's {names} must have one entry per stage, got {given}")

    @property
    def classes(self) -> int:
        """Number of classes on which the network is conditioned; 0 for none."""
        return 0

    @property
    def vector(self) -> int:
        """Length of the vector on which the network is conditioned in place of a class; 0 for none."""
        return 0

    @property
    def augment(self) -> int:
        """Number of augmentation labels on which the network is conditioned; 0 for none."""
        return 0

    @property
    def outputs(self) -> int:
        """Output channels for each image channel: 1, or 2 if the network also predicts a variance."""
        return 1

    def takes(self, option: str) -> bool:
        """Return whether the network can be conditioned on "classes" or a "vector", fields of such a spec."""
        return option in vars(self)

    @property
    def multiple(self) -> int:
        """Heights and widths are padded to a multiple of this number of pixels.

        By default, all stages but the last halve height and width, counted in patches.
        """
        stages = [len(vars(self)[name]) for name in PER_STAGE if name in vars(self)]
        return vars(self).get("patch", 1) * 2 ** (max(stages, default=1) - 1)

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels; initial weights are random."""
        raise NotImplementedError


class Network(nn.Module):
    """A network (x, conditioning, label, augment) -> F, for images of any height and width.

    Images are padded with zeros at the bottom and right, as in the padding of a convolution, and the output
    is cropped. A subclass defines `embed` and `denoise`, and makes those of the layers below that its spec
    asks for.
    """

    augment_proj: nn.Linear
    class_embedding: ClassEmbedding
    vector_embedding: VectorEmbedding

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.classes, self.vector, self.augment = spec.classes, spec.vector, spec.augment
        self.outputs, self.multiple = spec.outputs, spec.multiple

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return one float32 vector for each image, (B, embedding), from all that the network is told."""
        raise NotImplementedError

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F for padded images x, given the embedding from `embed`."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, conditioning: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Apply the network.

        Args:
            x: noisy images (B, C, H, W), scaled.
            conditioning: the noise level as a number (B,).
            label: class indices (B,), -1 for no class; or vectors (B, d), NaN for no vector; or None.
            augment: augmentation labels (B, augment); zeros or None mean no augmentation.

        Returns:
            F, (B, outputs * C, H, W).
        """
        # The embedding stays float32, because bf16 cannot tell neighbouring noise levels apart.
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embed(conditioning, label, augment)
        height, width = x.shape[-2:]
        extra = (0, -width % self.multiple, 0, -height % self.multiple)
        return self.denoise(F.pad(x, extra) if any(extra) else x, embedded)[..., :height, :width]

    def add_label(self, embedded: Tensor, label: Tensor | None) -> Tensor:
        """Add the embedding of class indices (B,) or of vectors (B, d), if the network has one."""
        if label is None or not (self.classes or self.vector):
            return embedded
        return embedded + (self.class_embedding if self.classes else self.vector_embedding)(label)

    def add_augmentation(self, embedded: Tensor, augment: Tensor | None) -> Tensor:
        """Add a projection of augmentation labels (B, augment), if the network has one.

        It has no bias, so that labels of zero change nothing (Karras et al. 2022, appendix F.2).
        """
        if augment is None or not self.augment:
            return embedded
        return embedded + self.augment_proj(augment.float())
