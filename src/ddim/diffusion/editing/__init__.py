"""What deterministic diffusion is good for: real images turned to latents, mixed, mended and varied."""

from ddim.diffusion.editing.inpaint import Inpaint, renoised
from ddim.diffusion.editing.interpolate import attribute, between, moved_along, slerp
from ddim.diffusion.editing.invert import Inverted, invert, restore
from ddim.diffusion.editing.vary import vary

__all__ = [
    "Inpaint",
    "Inverted",
    "attribute",
    "between",
    "invert",
    "moved_along",
    "renoised",
    "restore",
    "slerp",
    "vary",
]
