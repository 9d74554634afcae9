"""Choices whose result would be silent garbage, or a puzzling traceback, are errors that name the field."""

import math

import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.grids import Karras, Listed, Sections, Spaced, Uniform, UniformLogSNR
from ddim.diffusion.guidance import Guided
from ddim.diffusion.likelihood import bound_bits, check_reaches_images, flow_bits
from ddim.diffusion.loss import Consistency, EDMWeight, Hybrid, MinSNR, Objective
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.parameterisation import CNoise, PredictsEDM, Timestep
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, UniPC
from ddim.diffusion.schedules import (
    SCHEDULES,
    BetaTable,
    Cosine,
    KarrasSigma,
    Linear,
    LinearBeta,
    LinearIn,
    LinearPath,
)
from ddim.diffusion.times import LossAware, NormalLogSNR, TableTimes, UniformTimes
from ddim.errors import UserError
from oracles import normal

PIXELS, TABLE, X0 = Pixels.fixed(0.5, 0.5), Linear(20), normal(2, 3, 2, 2)
LAW = Gaussian(TABLE)

REFUSED = {
    "min_signal": [lambda: Cosine(0.95, 0.02), lambda: LinearPath(0.0, 0.9), lambda: Linear(max_signal=1.1)],
    "needs 0 <": [
        lambda: LinearBeta(20, 0.1),
        lambda: KarrasSigma(2.0, 1.0),
        lambda: KarrasSigma(rho=math.nan),
    ],
    "36 >= start": [lambda: LinearIn("angle", 3.0, 3.0), lambda: LinearIn("angle", 37.0, -10.0)],
    "entries": [lambda: Linear(entries=1), lambda: BetaTable(entries=10**30), lambda: Linear(last=1.0)],
    "clip": [lambda: BetaTable(betas="jsd")],
    "meant cosine": [lambda: BetaTable(betas="cosin"), lambda: Model(torch.nn.Identity(), "cosin")],
    "must be a number": [
        lambda: Cosine("a"),
        lambda: DDIM(None),
        lambda: Uniform("3"),
        lambda: Listed("1,0.5"),
    ],
    "must be above 0": [
        lambda: PredictsEDM(0.0),
        lambda: CNoise(unit=-1.0),
        lambda: Timestep(0),
        lambda: Uniform(0),
        lambda: MinSNR(0),
        lambda: EDMWeight(math.nan),
        lambda: NormalLogSNR(std=0),
        lambda: TableTimes(0),
        lambda: Consistency(halvings=0.0),
    ],
    "times.low": [lambda: UniformTimes(1.0)],
    "times.uniform": [lambda: LossAware(uniform=0.0)],
    "finish": [lambda: Objective(finish=1.1), lambda: Objective(finish=math.nan)],
    "objective.vlb": [lambda: Hybrid(vlb=-1.0)],
    "hybrid": [lambda: Hybrid(times=UniformTimes())],
    "guidance": [
        lambda: Consistency(guidance=-1.0),
        lambda: Guided(Gaussian(TABLE), Gaussian(Cosine()), 2.0),
    ],
    "interval": [lambda: Consistency(interval=(1.0,)), lambda: Consistency(interval=(5.0, -2.0))],
    "sampler.": [
        lambda: EDM(order=3),
        lambda: EDM(s_churn=-1.0),
        lambda: AdamsBashforth(6),
        lambda: DPMSolver(4),
        lambda: DPMSolver(eta=-0.1),
        lambda: UniPC(0),
        lambda: DDPM("lrge"),
        lambda: DDIM(math.nan),
    ],
    "decrease": [
        lambda: Listed(()),
        lambda: Listed((0.5, 0.7)),
        lambda: Listed((1.1, 0.5)),
        lambda: Listed((1, 0)),
    ],
    "fit this schedule": [
        lambda: UniformLogSNR(-9.0)(5, Cosine(0.02, 0.95)),
        lambda: UniformLogSNR(1.9)(5000, Linear(read="floor")),
        lambda: Karras(60.0, 70.0)(10, Cosine(0.02, 0.95)),
    ],
    "sigma_min": [lambda: Karras(2.0, 1.0), lambda: Karras(rho=0.0)],
    "steps": [
        lambda: Uniform()(0, TABLE),
        lambda: UniformLogSNR()(10**6 + 1, TABLE),
        lambda: Spaced(1000, "leading")(1, TABLE),
        lambda: Spaced(100)(101, TABLE),
        lambda: Sections(1000, (10, 10))(31, TABLE),
        lambda: bound_bits(LAW, X0, PIXELS, Uniform()(21, TABLE), Noise([0, 1])),
    ],
    "shares": [lambda: Sections(1000, (0, 1)), lambda: Sections(10, (9, 1))(10, TABLE)],
    "continuous schedule": [lambda: flow_bits(Gaussian(Linear(read="floor")), X0, PIXELS, Noise([0, 1]))],
    "least noise": [
        lambda: check_reaches_images(Cosine(0.02, 0.95)),
        lambda: check_reaches_images(LinearBeta(), 0.07),
    ],
    "seed": [lambda: Noise([-1]), lambda: Noise([2**32]), lambda: Noise([0.5]), lambda: Noise(3)],
    "streams": [lambda: Noise([0]).like(X0)],
    "empty set": [lambda: Pixels.measured([])],
    "Pixels": [lambda: Pixels((0.5,), (0.5, 0.5)), lambda: Pixels((0.5,), (0.0,))],
    "channels": [lambda: PIXELS.enter(torch.zeros(2, 1, 4, 4))],
    "instance": [lambda: Model(torch.nn.Identity, "cosine"), lambda: Model(torch.nn.Identity(), Cosine)],
}
CASES = [(word, make) for word, makes in REFUSED.items() for make in makes]


@pytest.mark.parametrize("word, make", CASES, ids=[f"{word}-{k}" for k, (word, _) in enumerate(CASES)])
def test_impossible_choices_are_refused(word, make):
    with pytest.raises(UserError, match=word):
        make()


@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan, [0.5, 2.0]])
def test_a_time_outside_the_unit_interval_is_refused(kind, t):
    with pytest.raises(UserError, match="times must lie in"):
        kind()(torch.tensor(t))


def test_schedules_that_come_close_enough_to_an_image_have_a_likelihood():
    for schedule in (Cosine(), LinearBeta(), Linear()):
        check_reaches_images(schedule)
