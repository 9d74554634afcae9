import numpy as np
import pytest
import torch

from ddim.nn.conditioning import Fourier, Positional, Sinusoidal
from oracles import made, uniform


def keras_embedding(x, width, max_frequency):
    """The tutorial's, from its text: frequencies exp(linspace(log 1, log max)), cat(sin, cos) of 2 pi f x."""
    frequencies = np.exp(np.linspace(np.log(1.0), np.log(max_frequency), width // 2))
    angles = 2 * np.pi * frequencies[None, :] * x[:, None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize("width, max_frequency", [(32, 1000.0), (64, 200.0), (2, 1000.0)])
def test_it_equals_the_tutorials_embedding(width, max_frequency):
    x = uniform(50)
    found = Sinusoidal(width, max_frequency)(x)
    assert found.shape == (50, width)
    # float32 angles of up to 2 pi 1000 turns are known to 5e-4.
    assert np.allclose(found, keras_embedding(x.numpy(), width, max_frequency), atol=2e-3)


def test_the_phase_survives_bf16_autocast():
    x, embed = uniform(50).float(), Sinusoidal(32)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, embed(x))


def test_the_frequencies_are_not_weights():
    assert not Sinusoidal(32).state_dict()
    assert not list(Sinusoidal(32).parameters())


@pytest.mark.parametrize("cos_first", [False, True])
def test_positional_speeds_run_from_one_to_a_ten_thousandth(cos_first):
    index = torch.tensor([0.0, 1.0, 37.0, 999.0])
    found = Positional(16, cos_first=cos_first)(index).double()
    # Vaswani et al. 2017, section 3.5; Ho et al. reach the last speed, Nichol & Dhariwal stop one short.
    speeds = 10000.0 ** -(np.arange(8) / (8 if cos_first else 7))
    angles = index.numpy()[:, None] * speeds[None, :]
    halves = (np.cos(angles), np.sin(angles)) if cos_first else (np.sin(angles), np.cos(angles))
    assert np.allclose(found, np.concatenate(halves, 1), atol=2e-4)


def test_random_frequencies_are_saved_and_have_the_right_deviation():
    embed = made(lambda: Fourier(2000))
    assert list(embed.state_dict()) == ["frequencies"]
    assert not list(embed.parameters())
    assert embed.frequencies.std().item() == pytest.approx(16, rel=0.1)
    found = embed(torch.tensor([0.0, 0.25]))
    assert found.shape == (2, 2000)
    assert torch.equal(found[0], torch.cat([torch.zeros(1000), torch.ones(1000)]))
    assert torch.allclose(found[1, :1000], (2 * torch.pi * embed.frequencies * 0.25).sin(), atol=1e-5)
