"""Samplers: generators of states, on the caller's grid."""

from ddim.samplers.ddim import DDIM
from ddim.samplers.state import Sampler, State, last, picture, start

__all__ = ["DDIM", "Sampler", "State", "last", "picture", "start"]
