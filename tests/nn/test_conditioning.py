import numpy as np
import pytest
import torch

from ddim.nn.conditioning import ClassEmbedding, Fourier, Positional, Sinusoidal, VectorEmbedding
from oracles import made, uniform


def keras_embedding(x, width, max_frequency):
    """The tutorial's, from its text: frequencies exp(linspace(log 1, log max)), cat(sin, cos) of 2 pi f x."""
    frequencies = np.exp(np.linspace(np.log(1.0), np.log(max_frequency), width // 2))
    angles = 2 * np.pi * frequencies[None, :] * x[:, None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize("width, max_frequency", [(32, 1000.0), (64, 200.0), (2, 1000.0)])
def test_it_equals_the_tutorials_embedding(width, max_frequency):
    x, embed = uniform(50), Sinusoidal(width, max_frequency)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(x)
    assert found.dtype == torch.float32
    # float32 angles of up to 2 pi 1000 turns are known to 5e-4.
    assert np.allclose(found, keras_embedding(x.numpy(), width, max_frequency), atol=2e-3)
    assert not embed.state_dict()


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
    assert embed.frequencies.std().item() == pytest.approx(16, rel=0.1)
    found = embed(torch.tensor([0.0, 0.25]))
    assert torch.equal(found[0], torch.cat([torch.zeros(1000), torch.ones(1000)]))
    assert torch.allclose(found[1, :1000], (2 * torch.pi * embed.frequencies * 0.25).sin(), atol=1e-5)


def test_no_class_and_no_vector_are_zeros_unless_no_class_is_learned():
    label, vector = torch.tensor([1, -1]), torch.tensor([[0.5, 2.0], [torch.nan, torch.nan]])
    plain, learned = made(lambda: ClassEmbedding(3, 8)), made(lambda: ClassEmbedding(3, 8, learns_none=True))
    assert torch.equal(plain(label), torch.stack([plain.weight[1], torch.zeros(8)]))
    assert torch.equal(learned(label), learned.weight[[1, 3]])
    embed = made(lambda: VectorEmbedding(2, 8))
    found = embed(vector)
    assert found[0].all()
    assert not found[1].any()
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in embed.parameters())
