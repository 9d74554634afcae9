import pytest
import torch

from ddim.diffusion.parameterisation import Prediction, from_image, from_noise, from_velocity, velocity
from ddim.diffusion.schedules import Cosine, Level
from oracles import normal, uniform

VP = Cosine(0.02, 0.999)(uniform(8)).over(normal(8, 3, 2, 2))
# Karras et al.'s alpha is 1: nothing here may need alpha^2 + sigma^2 = 1.
VE = Level(torch.ones_like(VP.alpha), VP.sigma / VP.alpha)
X, OUTPUT = normal(8, 3, 2, 2), normal(8, 3, 2, 2, seed=1)
any_level = pytest.mark.parametrize("at", [VP, VE], ids=["vp", "ve"])


@any_level
@pytest.mark.parametrize("read", [from_noise, from_image, from_velocity])
def test_image_and_noise_add_up_to_the_noisy_image(read, at):
    p = read(X, OUTPUT, at)
    assert torch.allclose(at.alpha * p.x0 + at.sigma * p.eps, X)


@any_level
def test_a_prediction_keeps_the_output_of_the_network(at):
    assert torch.equal(from_noise(X, OUTPUT, at).eps, OUTPUT)
    assert torch.equal(from_image(X, OUTPUT, at).x0, OUTPUT)
    assert torch.allclose(velocity(from_velocity(X, OUTPUT, at), at), OUTPUT)


@any_level
def test_exact_outputs_give_the_exact_prediction(at):
    truth = Prediction(normal(8, 3, 2, 2, seed=2), normal(8, 3, 2, 2, seed=3))
    x_t = at.alpha * truth.x0 + at.sigma * truth.eps
    for p in (
        from_noise(x_t, truth.eps, at),
        from_image(x_t, truth.x0, at),
        from_velocity(x_t, velocity(truth, at), at),
    ):
        assert torch.allclose(p.x0, truth.x0)
        assert torch.allclose(p.eps, truth.eps)


def test_velocity_is_the_derivative_by_the_angle():
    """Salimans & Ho 2022, appendix D: x_phi = cos(phi) x0 + sin(phi) eps, v = d x_phi / d phi."""
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x0, eps = normal(1).squeeze(), normal(1, seed=1).squeeze()
    (angle.cos() * x0 + angle.sin() * eps).backward()
    at = Level(angle.detach().cos(), angle.detach().sin())
    assert velocity(Prediction(x0, eps), at) == pytest.approx(angle.grad.item())
