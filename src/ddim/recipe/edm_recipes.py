"""The recipes of Karras et al. 2022: `edm`, and the three systems that the paper compares it with."""

from __future__ import annotations

import math
from dataclasses import replace

from ddim.data.augment import Augment
from ddim.diffusion.grids import Karras
from ddim.diffusion.loss import EDMWeight, Objective
from ddim.diffusion.parameterisation import CNoise, PredictsEDM, PredictsNoise, PredictsScore, Time
from ddim.diffusion.samplers import EDM
from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from ddim.diffusion.times import NormalLogSNR, UniformTimes
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.ema import HalfLife
from ddim.recipe.recipe import Measured, Optim, Recipe
from ddim.recipe.recipe_data import Data

DDPMPP = DDPMUNetSpec(
    multipliers=(2, 2, 2),
    attention=(False, True, False),
    blocks=4,
    group_channels=4,
    dropout=0.13,
    resample="box",
    sde=True,
    augment=9,
)
"""Song et al. 2021b's DDPM++ as Karras et al. 2022 train it on CIFAR-10: 55,733,891 parameters."""


def edm() -> Recipe:
    """Karras et al. 2022, CIFAR-10: preconditioned, weighted, augmented training; samples in 35 NFE.

    The original takes pixels from -1 to 1 (`--pixels fixed`) and assumes that their standard deviation is
    0.5. Here the deviation is measured, and pixels are scaled so that it is 0.5. The hyper-parameters are
    taken from the paper, for 200 million images. On a laptop, use `--net.width 32 --net.blocks 2
    --optim.batch 32 --optim.warmup 6400`, with 2.2 million parameters.
    """
    return Recipe(
        name="edm",
        # `flip` is off, because augmentation mirrors images too, and tells the network which are mirrored.
        data=Data(size=(32, 32), flip=False),
        pixels=Measured(0.5),
        net=DDPMPP,
        schedule=KarrasSigma(0.001, 80.0, 7.0),
        predicts=PredictsEDM(0.5),
        conditioning=CNoise(1 / 4),
        # log sigma is normal with mean -1.2 and standard deviation 1.2; log-SNR is -2 log sigma.
        objective=Objective("image", "mse", NormalLogSNR(2.4, 2.4), EDMWeight(0.5)),
        optim=Optim(lr=1e-3, weight_decay=0.0, batch=512, clip=0.0, warmup=10_000_000),
        ema=HalfLife(500_000, 0.05),
        augment=Augment(0.12),
        grid=Karras(0.002, 80.0, 7.0),
        sampler=EDM(),
        steps=18,
    )


def edm_vp() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Song et al.'s DDPM++ (table 1, VP)."""
    return replace(
        edm(),
        name="edm-vp",
        schedule=LinearBeta(0.1, 20.0),
        predicts=PredictsNoise(),
        conditioning=Time(999.0),
        objective=Objective("noise", "mse", UniformTimes(1e-5)),
    )


def edm_ve() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Song et al.'s NCSN++ (table 1, VE)."""
    least, most = 0.02, 100.0
    low = 0.999 * least  # a little below `least`, because a grid cannot contain the end t = 0
    return replace(
        edm(),
        name="edm-ve",
        net=replace(DDPMPP, resample="blur", pyramid=True, embedding="fourier"),
        schedule=KarrasSigma(low, most, None),
        predicts=PredictsScore(),
        conditioning=CNoise(1.0, 2.0),
        # log sigma is uniform from `least` to `most`.
        objective=Objective("noise", "mse", UniformTimes(math.log(least / low) / math.log(most / low))),
        # As in the original, the sampler starts at sigma 80.
        grid=Karras(least, 80.0, 7.0),
    )


def edm_iddpm() -> Recipe:
    """`edm` with the preconditioning, noise levels and weighting of Nichol & Dhariwal (table 1, iDDPM).

    The cosine schedule is continuous. It leaves out the offset of 0.008, which is called C2 in table 1. It
    ends at the signal rate of the last of the 1000 noise levels of Nichol & Dhariwal (2021).
    """
    return replace(
        edm(),
        name="edm-iddpm",
        schedule=Cosine(4.93e-5, 1.0),
        predicts=PredictsNoise(),
        conditioning=Time(999.0),
        objective=Objective("noise", "mse", UniformTimes(1e-3)),
        grid=Karras(0.0064, 80.0, 7.0),
    )
