import numpy as np
import pytest
import torch

from ddim.nn.embedding import Sinusoidal
from oracles import uniform


def keras_embedding(x, width, max_frequency):
    """The tutorial's, from its text: frequencies exp(linspace(log 1, log max)), cat(sin, cos) of 2 pi f x."""
    frequencies = np.exp(np.linspace(np.log(1.0), np.log(max_frequency), width // 2))
    angles = 2 * np.pi * frequencies[None, :] * x[:, None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize("width, max_frequency", [(32, 1000.0), (64, 200.0), (2, 1000.0)])
def test_it_is_the_tutorials_embedding(width, max_frequency):
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


def test_the_table_of_speeds_is_no_weight():
    assert not Sinusoidal(32).state_dict()
    assert not list(Sinusoidal(32).parameters())
