"""What a notebook does: plain functions as networks, numbers as times, values that print in a line."""

from dataclasses import dataclass

import pytest
import torch

import ddim
from ddim.diffusion.denoiser import Model, choose_part
from ddim.diffusion.editing import Inpaint, Inverted
from ddim.diffusion.grids import GRIDS, Listed, Uniform
from ddim.diffusion.guidance import Clipped, Guided
from ddim.diffusion.loss import LOSSES
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.parameterisation import PARAMETERISATIONS, NoiseVariance, Prediction, PredictsVelocity
from ddim.diffusion.samplers import SAMPLERS, State, initial_noise, last_state
from ddim.diffusion.schedules import SCHEDULES, BetaTable, Cosine, KarrasSigma, LinearBeta, LinearIn
from ddim.errors import UserError
from ddim.nn.ddpm_unet import DDPMUNetSpec
from oracles import Answers, made, normal


@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_takes_a_time_as_a_number(kind):
    schedule, t = kind(), torch.tensor(0.37, dtype=torch.float64)
    assert torch.equal(schedule(0.37).alpha, schedule(t).alpha)
    log_snr = schedule(t).log_snr
    assert torch.equal(schedule.inverse(log_snr.item()), schedule.inverse(log_snr))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: ddim.Spaced(1000, "leeding"),
            "grid.spacing must be one of .*meant leading",
        ),
        (lambda: ddim.DDPM("lrge"), "sampler.variance must be one of small, .*, got 'lrge'.*meant large"),
        (lambda: ddim.Linear(clip="power"), "Linear.clip must be one of .*meant powers"),
        (lambda: ddim.Linear(read="flor"), "Linear.read must be one of .*meant floor"),
        (lambda: BetaTable(betas="cosin"), "BetaTable.betas must be one of .*meant cosine"),
        (lambda: LinearIn("angel"), "LinearIn.quantity must be one of .*meant angle"),
        (lambda: ddim.AdamsBashforth(2, "equl"), "sampler.steps must be one of .*meant equal"),
        (lambda: ddim.UniPC(variant="bh3"), "sampler.variant must be one of bh1, bh2, got 'bh3'"),
        (lambda: DDPMUNetSpec(embedding="cossin"), "net.embedding must be one of .*meant cos_sin"),
        (lambda: Cosine("a"), "Cosine.min_signal must be a number, got 'a'"),
        (lambda: ddim.DDIM(eta=None), "sampler.eta must be a number, got None"),
        (lambda: Uniform("3"), "grid.shift must be a number, got '3'"),
        (lambda: Uniform(torch.ones(2)), r"grid.shift must be a number, got a tensor \(2,\)"),
        (lambda: Listed("1,0.5"), "grid.times must be a number, got '1'"),
        (lambda: Noise(3), "seeds must be a list of whole numbers, .*, got 3"),
    ],
)
def test_a_part_with_a_misspelt_choice_or_no_number_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_fields_that_a_subclass_adds_may_have_any_types():
    @dataclass(frozen=True)
    class Mine(ddim.DDIM):
        table: "Unknown | None" = None  # noqa: F821

    assert Mine(0.5).eta == 0.5
    with pytest.raises(UserError, match="sampler.eta must be a number, got 'a'"):
        Mine("a")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plain_function_is_sampled_at_times_that_are_numbers(name):
    """The function is the exact velocity of a Gaussian, given the noise variance of each image."""
    oracle, seen = Gaussian(LinearBeta()), []

    def net(x, noise_variance):
        seen.append(noise_variance)
        t = oracle.schedule.inverse(((1 - noise_variance) / noise_variance).double().log())
        return Answers(oracle, PredictsVelocity())(x, t)

    model = Model(net, oracle.schedule, predicts="velocity", conditioning=NoiseVariance(), shape=(3, 4, 4))
    sampler, times = SAMPLERS[name](), [1.0, 0.6, 0.2]
    runs = []
    for denoise, grid in ((model, times), (oracle, torch.tensor(times, dtype=torch.float64))):
        noise = Noise([3, 4])
        x = initial_noise(denoise.schedule, noise, model.blank(2), 1.0)
        runs.append(last_state(sampler(denoise, x, grid, noise)).x0)
    assert torch.allclose(*runs, atol=1e-4)
    assert {len(given) for given in seen} == {2}
    x = normal(2, 3, 4, 4)
    assert torch.allclose(model(x, 0.5).x0, oracle(x, 0.5).x0)
    assert torch.equal(oracle(x, 0.5).x0, oracle(x, torch.tensor(0.5, dtype=torch.float64)).x0)


def test_labels_reach_a_function_only_if_it_states_classes():
    def net(x, condition, label=None):
        return x if label is None else 2 * x

    model, x = Model(net, Cosine(), shape=(1, 2, 2)), normal(2, 1, 2, 2)
    with pytest.raises(UserError, match="label must be None"):
        model.with_labels(0)
    net.classes = 3
    labelled = Model(net, Cosine(), shape=(1, 2, 2))
    assert torch.equal(labelled(x, 0.5).x0, model(x, 0.5).x0)
    assert not torch.equal(labelled.with_labels(2)(x, 0.5).x0, model(x, 0.5).x0)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_a_model_takes_the_name_of_its_parameterisation(name):
    assert Model(torch.nn.Identity(), Cosine(), name).predicts == PARAMETERISATIONS[name]()
    with pytest.raises(UserError, match=f"predicts must be one of velocity.*; perhaps you meant {name}"):
        Model(torch.nn.Identity(), Cosine(), name + "s")


def test_a_model_takes_names_of_its_parts_and_no_classes():
    named = Model(torch.nn.Identity(), "karras_sigma", conditioning="noise_variance")
    assert (named.schedule, named.conditioning) == (KarrasSigma(), NoiseVariance())
    with pytest.raises(UserError, match="schedule must be one of cosine.*; perhaps you meant cosine"):
        Model(torch.nn.Identity(), "cosin")
    for net in (torch.nn.Identity, None):
        with pytest.raises(UserError, match="net must be a module or a function"):
            Model(net, "cosine")
    with pytest.raises(UserError, match=r"such as Cosine\(\), got the class"):
        Model(torch.nn.Identity(), Cosine)
    with pytest.raises(UserError, match=r"ddim.Listed\(times="):
        choose_part("grid", "listed", GRIDS)


def test_a_grid_can_be_a_list_of_times():
    for times in ([1, 0.5, 0.1], (1, 0.5, 0.1), torch.tensor([1, 0.5, 0.1], dtype=torch.float64)):
        assert choose_part("grid", times, GRIDS) == Listed((1.0, 0.5, 0.1))


class Halved(torch.nn.Module):
    """A network that loses half of the height."""

    def forward(self, x, noise_level):
        return x[:, :, ::2]


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            lambda x, t: x[:, :1],
            r"net <lambda>, called with x .*, must return",
        ),
        (lambda x, t: x[:1], r"must return \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"),
        (lambda x, t: x.repeat(1, 3, 1, 1), r"got \(2, 9, 4, 4\)"),
        (lambda x, t: (x,), "got tuple"),
        (Halved(), r"net Halved, called .* got \(2, 3, 2, 4\)"),
    ],
)
def test_a_network_with_another_output_is_refused_at_the_call(net, message):
    with pytest.raises(UserError, match=message):
        Model(net, Cosine())(normal(2, 3, 4, 4), 0.5)


def test_every_value_prints_in_a_line():
    big = torch.zeros(16, 3, 64, 64)
    oracle = Mixture(Cosine(), big)
    layers = made(lambda: [torch.nn.Conv2d(3, 3, 1) for _ in range(40)])
    model = Model(torch.nn.Sequential(*layers), Cosine())
    values = [
        Noise(range(1000)),
        oracle,
        Clipped(oracle, torch.zeros(3), torch.ones(3)),
        Prediction(big, big),
        State(big, 0.5, big),
        Inverted(big, 0.0, True),
        Inpaint(big, big[:, :1]),
        model,
        Guided(model, model, 2.0),
        *(
            kind()
            for family in (GRIDS, LOSSES, SCHEDULES, SAMPLERS)
            for kind in family.values()
            if kind != Listed
        ),
    ]
    for value in values:
        assert len(repr(value)) < 400
        assert "\n" not in repr(value)
