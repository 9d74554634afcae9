"""Editing of real images: inversion to latents, interpolation, inpainting, variations."""

from ddim.diffusion.editing.inpaint import Inpaint, renoise
from ddim.diffusion.editing.interpolate import attribute_direction, interpolate_latents, move_along, slerp
from ddim.diffusion.editing.invert import Inverted, invert, restore
from ddim.diffusion.editing.vary import check_strength, vary

__all__ = [
    "Inpaint",
    "Inverted",
    "attribute_direction",
    "check_strength",
    "interpolate_latents",
    "invert",
    "move_along",
    "renoise",
    "restore",
    "slerp",
    "vary",
]
