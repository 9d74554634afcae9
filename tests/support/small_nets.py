"""Small networks of every kind, for tests that hold for all of them."""

import torch

from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.dit import DiTSpec
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec
from oracles import made, normal

F, T = False, True
UNETS = {
    "unet": UNetSpec((16, 24), (1, 2), (2, 1), (F, T), embedding=16),
    "unet of one stage": UNetSpec((8,), (0,), (2,), (T,), embedding=16),
    "unet without attention": UNetSpec((8, 16, 8), (0, 1, 1), (1, 0, 1), (F, F, F), embedding=16),
}
RESIDUALS = {
    "luz": ResidualUNetSpec((16, 24), (32, 24), embedding=8),
    "keras": ResidualUNetSpec((16, 24), (32, 24), embedding=8, keras=True),
    "keras of one block": ResidualUNetSpec((16, 24), (24, 16), depth=1, embedding=8, keras=True),
}
_CLEAR = {"groups": 4, "stem": 8, "embedding": 8}
CLEARS = {
    "clear": ClearUNetSpec((8, 16), (F, F), **_CLEAR),
    "clear with attention": ClearUNetSpec((8, 16, 24), (F, T, T), heads=2, **_CLEAR),
    "clear of patches": ClearUNetSpec((8, 16), (T, F), depth=1, patch=2, **_CLEAR),
}
IDDPM = {"embedding": "cos_sin", "scale_shift": True, "resample": "strided", "eps": 1e-5}
_SDE = {"multipliers": (2, 2, 2), "attention": (F, T, F), "blocks": 4, "sde": True, "augment": 9}
_FOUR = {**IDDPM, "multipliers": (1, 2, 3, 4), "blocks": 3, "classes": 1000}
PAPERS = {
    "ddpm": {},
    "iddpm": {**IDDPM, "blocks": 3, "attention": (F, T, T, F), "heads": 4, "outputs": 2},
    "iddpm of ImageNet-64": {**_FOUR, "attention": (F, F, T, T), "heads": 4, "outputs": 2},
    "ddpm++": {**_SDE, "resample": "box"},
    "ncsn++": {**_SDE, "resample": "blur", "pyramid": True, "embedding": "fourier"},
    "adm of ImageNet-64": {**_FOUR, "width": 192, "attention": (F, T, T, T), "head": 64, "resample": "box"},
}
"""The options of `DDPMUNet` in the papers."""

_LITTLE = {"width": 8, "groups": 4, "blocks": 1, "dropout": 0.0}
DDPMS = {
    name: DDPMUNetSpec(**{**options, **_LITTLE, **({"head": 8} if "head" in options else {})})
    for name, options in PAPERS.items()
}
DITS = {
    "dit": DiTSpec(patch=2, width=16, depth=2, heads=2),
    "dit of labels": DiTSpec(4, 16, 2, 4, mlp_ratio=2.5, classes=3, augment=9, outputs=2),
}
SPECS = UNETS | RESIDUALS | CLEARS | DDPMS | DITS


def build(spec, channels=3):
    """Build the network of a spec; its initial weights are always the same."""
    return made(lambda: spec.network(channels))


def images(*shape, seed=0):
    """Return normal float32 numbers."""
    return normal(*shape, seed=seed, dtype=torch.float32)


def ask(net, x, label=None, conditioning=None):
    """Call a network at different noise levels, with augmentation labels if it takes them."""
    augment = {"augment": normal(len(x), 9, seed=3)} if net.augment else {}
    return net(
        x, torch.linspace(0.1, 0.9, len(x)) if conditioning is None else conditioning, label, **augment
    )
