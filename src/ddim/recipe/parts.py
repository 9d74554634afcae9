"""The parts of a recipe: the classes that its fields can hold.

The names of parts in a recipe, such as "cosine", are keys of `ddim.recipe.recipe.FAMILIES`.
"""

# ruff: noqa: F401 (imported for users)
from ddim.data.augment import Augment
from ddim.data.clusters import Clusters
from ddim.diffusion.grids import Karras, Listed, Quadratic, Sections, Spaced, Uniform, UniformLogSNR
from ddim.diffusion.loss import Consistency, EDMWeight, Hybrid, MinSNR, Objective, Unweighted
from ddim.diffusion.parameterisation import (
    CNoise,
    LogSNR,
    NoiseVariance,
    PredictsEDM,
    PredictsFlow,
    PredictsImage,
    PredictsNoise,
    PredictsScore,
    PredictsVelocity,
    Sigma,
    SignalVariance,
    Time,
    Timestep,
)
from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, Multistep, UniPC
from ddim.diffusion.schedules import BetaTable, Cosine, KarrasSigma, Linear, LinearBeta, LinearIn, LinearPath
from ddim.diffusion.times import LossAware, NormalLogSNR, TableTimes, UniformTimes
from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.dit import DiTSpec
from ddim.nn.ema import Exponential, HalfLife, Power
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec
from ddim.recipe.recipe import Data, Fixed, Measured, Optim, Recipe, Report
