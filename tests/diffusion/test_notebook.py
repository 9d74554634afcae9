"""What a notebook does: plain functions as networks, numbers as times, values that print in a line."""

import pytest
import torch

from ddim.diffusion.denoiser import Model, choose_part
from ddim.diffusion.grids import GRIDS, Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.parameterisation import NoiseVariance, PredictsVelocity
from ddim.diffusion.samplers import SAMPLERS, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from ddim.errors import UserError
from oracles import Answers, normal


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
            r"the network, called with x .*, must return",
        ),
        (lambda x, t: x[:1], r"must return \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"),
        (lambda x, t: x.repeat(1, 3, 1, 1), r"got \(2, 9, 4, 4\)"),
        (lambda x, t: (x,), "got tuple"),
        (Halved(), r"got \(2, 3, 2, 4\)"),
    ],
)
def test_a_network_with_another_output_is_refused_at_the_call(net, message):
    with pytest.raises(UserError, match=message):
        Model(net, Cosine())(normal(2, 3, 4, 4), 0.5)
