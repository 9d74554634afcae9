import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddim.nn.dit import DiTSpec
from oracles import shaken, uniform
from plain_layers import attended, projected, swish
from small_nets import DITS, build, images

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads of the paper's models (Peebles & Xie 2023, table 1)."""


# Peebles & Xie 2023, table 4, for latents of 4 channels with 1000 classes and a learned variance.
@pytest.mark.parametrize(
    "name, millions", [("S/2", 33), ("B/8", 131), ("B/2", 130), ("L/8", 459), ("XL/2", 675)]
)
def test_the_parameters_are_as_many_as_in_the_paper(name, millions):
    size, patch = name.split("/")
    with torch.device("meta"):
        net = DiTSpec(int(patch), *SIZES[size], classes=1000, outputs=2).network(4)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


def sin_cos(place, count):
    """Vaswani et al. 2017, section 3.5: `count` sines, then as many cosines, of one place."""
    angles = [place * 10_000 ** (-k / (count - 1)) for k in range(count)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def normed(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def test_the_network_equals_its_description_layer_by_layer():
    """In float64, from weights alone, patch by patch: Peebles & Xie 2023, section 3.2 and figure 3."""
    spec = replace(DITS["dit of labels"], patch=2)
    net, x, value = shaken(build(spec)), images(2, 3, 4, 6), uniform(2).float()
    label, augment = torch.tensor([2, -1]), images(2, 9, seed=5)
    with torch.no_grad():
        c = net.time_mlp(net.embedding(value)) + augment @ net.augment_proj.weight.T
        c = swish(c + net.class_embedding.weight[[2, 3]]).double()  # the last vector is that of no class
        tokens = []
        for row in range(2):
            for column in range(3):
                patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].double().flatten(1)
                token = projected(patch, net.in_proj)
                tokens.append(token + torch.tensor(sin_cos(row, 4) + sin_cos(column, 4)))
        x_ = torch.stack(tokens, 1)
        for block in net.blocks:
            each = projected(c, block.modulation)[:, None].chunk(6, -1)
            h = normed(x_) * (1 + each[1]) + each[0]
            x_ = x_ + each[2] * attended(h, block.qkv, block.proj, spec.heads)
            h = projected(normed(x_) * (1 + each[4]) + each[3], block.mlp[0])
            x_ = x_ + each[5] * projected(F.gelu(h, approximate="tanh"), block.mlp[2])
        shift, scale = projected(c, net.out_modulation)[:, None].chunk(2, -1)
        last = projected(normed(x_) * (1 + scale) + shift, net.out_proj)
        found = net(x, value, label, augment).double()
        assert found.std() > 0.1
        for k in range(6):
            row, column = divmod(k, 3)
            patch = found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            assert torch.allclose(patch, last[:, k], rtol=0, atol=1e-4 * found.std().item())
