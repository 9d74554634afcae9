"""Samplers: generators of states, on the caller's grid."""

from ddim.samplers.adams import AdamsBashforth
from ddim.samplers.ddim import DDIM
from ddim.samplers.ddpm import DDPM
from ddim.samplers.edm import EDM
from ddim.samplers.exponential import DPMSolver, UniPC
from ddim.samplers.state import Sampler, State, last, picture, start

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
