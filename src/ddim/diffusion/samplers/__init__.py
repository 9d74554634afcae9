"""Samplers: generators of states, on the caller's grid."""

from ddim.diffusion.samplers.adams import AdamsBashforth
from ddim.diffusion.samplers.ddim import DDIM
from ddim.diffusion.samplers.ddpm import DDPM
from ddim.diffusion.samplers.edm import EDM
from ddim.diffusion.samplers.exponential import DPMSolver, UniPC
from ddim.diffusion.samplers.state import Sampler, State, last, picture, start

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "AdamsBashforth",
    "DPMSolver",
    "Sampler",
    "State",
    "UniPC",
    "last",
    "picture",
    "start",
]
