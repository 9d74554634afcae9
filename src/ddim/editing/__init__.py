"""What deterministic diffusion is good for: real images turned to latents, mixed, mended and varied."""

from ddim.editing.inpaint import Inpaint, renoised
from ddim.editing.interpolate import attribute, between, moved_along, slerp
from ddim.editing.invert import Inverted, invert, restore
from ddim.editing.vary import vary

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
