"""Samplers: methods that turn noise into samples, step by step along the times of a grid."""

from ddim.diffusion.samplers.adams import AdamsBashforth
from ddim.diffusion.samplers.consistency import Multistep
from ddim.diffusion.samplers.ddim import DDIM
from ddim.diffusion.samplers.ddpm import DDPM
from ddim.diffusion.samplers.edm import EDM
from ddim.diffusion.samplers.exponential import DPMSolver, UniPC
from ddim.diffusion.samplers.state import (
    Sampler,
    State,
    Times,
    final_sample,
    initial_noise,
    last_state,
)

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "SAMPLERS",
    "AdamsBashforth",
    "DPMSolver",
    "Multistep",
    "Sampler",
    "State",
    "Times",
    "UniPC",
    "final_sample",
    "initial_noise",
    "last_state",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "edm": EDM,
    "adams_bashforth": AdamsBashforth,
    "dpm_solver": DPMSolver,
    "unipc": UniPC,
    "multistep": Multistep,
}
"""All samplers, keyed by their names in a recipe."""
