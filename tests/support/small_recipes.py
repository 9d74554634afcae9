"""Every named recipe with a small network, small images and a small batch."""

from dataclasses import replace

from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.dit import DiTSpec
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.named import RECIPES

SMALL = {
    ResidualUNetSpec: {"widths": (8, 16), "middle": (16,), "depth": 1, "embedding": 8},
    UNetSpec: {"widths": (8, 16), "down": (0, 1), "up": (1, 1), "attention": (False, True), "embedding": 16},
    DDPMUNetSpec: {"width": 8, "multipliers": (1, 2), "attention": (False, True), "blocks": 1, "groups": 4},
    ClearUNetSpec: {"widths": (8, 16), "attention": (False, True), "groups": 4, "stem": 8, "embedding": 8},
    DiTSpec: {"width": 16, "depth": 1, "heads": 2},
}
FIELDS = {
    "data.source": "blossoms:40",
    "data.size": 32,
    "data.validation": 0.2,
    "optim.batch": 8,
    "optim.warmup": 32,
    "report.events": 1,
    "report.validation_images": 8,
    "report.grid": 2,
    "steps": 2,
    "report.log": 1,
    "images": 320,
}


def make_small(name):
    """The recipe of a name for 40 updates of 8 images."""
    found = RECIPES[name]()
    found = replace(found, net=replace(found.net, **SMALL[type(found.net)]))
    return override(found, FIELDS)
