"""DiT: a transformer on the patches of an image (Peebles & Xie 2023).

The main path from input to output is float32: the projection of the patches, the residual sums, and the last
norm and projection. Under autocast, only the residual branches are bf16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim.errors import UserError
from ddim.nn.base import Network, NetworkSpec
from ddim.nn.blocks import ExactConv2d, glorot_init, self_attention, zero_init
from ddim.nn.conditioning import ClassEmbedding, Positional, Sinusoidal, VectorEmbedding
from ddim.nn.recompute import Recomputable

LABEL_STD = 0.4
"""Standard deviation of the initial vectors of classes and augmentation labels.

With this value, these vectors have about the norm of the embedded conditioning. Smaller vectors would be
learned late.
"""


@dataclass(frozen=True)
class DiTSpec(NetworkSpec):
    """Options of `DiT`; the defaults are the options of recipe `dit`.

    In the paper (table 1), `width`, `depth` and `heads` are 384, 12 and 6 for DiT-S; 768, 12 and 12 for
    DiT-B; 1024, 24 and 16 for DiT-L; and 1152, 28 and 16 for DiT-XL. `patch` is 2, 4 or 8.

    Attributes:
        patch: height and width of a patch in pixels; each patch is one token.
        width: channels of a token.
        depth: number of transformer blocks.
        heads: heads of the self-attention.
        mlp_ratio: channels of the hidden layer in each block, as a multiple of `width`.
        augment: number of augmentation labels that the network is conditioned on.
        classes: number of class labels.
        vector: length of the vector that the network is conditioned on in place of a class.
        outputs: output channels for each image channel: 1, or 2 to predict a variance too.
    """

    patch: int = 4
    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_ratio: float = 4.0
    augment: int = 0
    classes: int = 0
    outputs: int = 1
    vector: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Half of the channels encode the row of a patch, half its column, with as many sines as cosines.
        if self.width % 4 or self.width % self.heads:
            given = f"got {self.width} and {self.heads}"
            raise UserError(f"net.width must be a multiple of 4 and of net.heads, {given}")

    def network(self, channels: int) -> nn.Module:
        """Build the network for images with this number of channels."""
        return DiT(channels, self)


class DiTBlock(Recomputable):
    """A transformer block with adaLN-Zero: self-attention and a perceptron, both in residual branches.

    The conditioning shifts and scales the input of each branch and scales its output. The scale of the output
    is initially 0, so that the initial block is the identity (Peebles & Xie 2023, section 3.2).
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.apply(glorot_init)
        zero_init(self.modulation)

    def forward(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        """Apply the block to tokens (B, N, width), given embedded (B, width); the shape stays the same."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedded)[:, None].chunk(6, dim=2)
        h = self.norm1(tokens) * (1 + scale1) + shift1
        tokens = tokens + gate1 * self.proj(self_attention(self.qkv(h), self.heads))
        h = self.norm2(tokens) * (1 + scale2) + shift2
        return tokens + gate2 * self.mlp(h)


class DiT(Network):
    """The transformer of Peebles & Xie 2023 with adaLN-Zero, on images instead of latents.

    Each patch is projected to a token, and the sines and cosines of its row and column are added. The blocks
    are conditioned on the sum of the embeddings of the noise level, of the class and of the augmentation.
    Images without a class share one learned vector.
    """

    def __init__(self, channels: int, spec: DiTSpec) -> None:
        super().__init__(spec)
        self.patch, width, numbers = spec.patch, spec.width, channels * spec.patch**2
        # The output varies smoothly with the conditioning, so a maximum frequency of 100 is enough.
        self.embedding = Sinusoidal(256, max_frequency=100.0)
        self.time_mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.position = Positional(width // 2)
        self.in_proj = ExactConv2d(numbers, width, 1)
        self.apply(glorot_init)
        hidden = round(spec.mlp_ratio * width)
        self.blocks = nn.ModuleList(DiTBlock(width, spec.heads, hidden) for _ in range(spec.depth))
        self.out_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out_modulation = zero_init(nn.Linear(width, 2 * width))
        self.out_proj = zero_init(ExactConv2d(width, spec.outputs * numbers, 1))
        if spec.augment:
            self.augment_proj = nn.Linear(spec.augment, width, bias=False)
            nn.init.normal_(self.augment_proj.weight, std=LABEL_STD)
        if spec.classes:
            self.class_embedding = ClassEmbedding(spec.classes, width, learns_none=True)
            nn.init.normal_(self.class_embedding.weight, std=LABEL_STD)
        if spec.vector:
            self.vector_embedding = VectorEmbedding(spec.vector, width)

    def embed(self, conditioning: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """Return the embedding (B, width); see `Network`."""
        if self.classes and label is None:
            label = torch.full_like(conditioning, -1, dtype=torch.long)
        embedded = self.add_augmentation(self.time_mlp(self.embedding(conditioning)), augment)
        return F.silu(self.add_label(embedded, label))

    def denoise(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return F (B, outputs * C, H, W) for padded images (B, C, H, W)."""
        patches = self.in_proj(F.pixel_unshuffle(x, self.patch))
        height, width = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(height, width)
        for block in self.blocks:
            tokens = block(tokens, embedded)
        shift, scale = self.out_modulation(embedded)[:, None].chunk(2, dim=2)
        tokens = self.out_norm(tokens) * (1 + scale) + shift
        patches = self.out_proj(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return F.pixel_shuffle(patches, self.patch)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the encodings (height * width, channels) of the places of the patches, row by row."""
        device = self.position.speeds.device
        rows, columns = (self.position(torch.arange(n, device=device)) for n in (height, width))
        both = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
        return torch.cat(both, dim=2).flatten(0, 1)
