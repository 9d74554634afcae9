from dataclasses import replace

import pytest
import torch

from ddim.diffusion.denoiser import Counted, Labelled, Model
from ddim.diffusion.grids import UniformLogSNR
from ddim.diffusion.guidance import Clipped, Guided, Rescheduled
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearIn, LinearPath
from oracles import Gaussian, normal

SCHEDULE = Cosine(0.014, 0.999)
STRONG, WEAK = Gaussian(SCHEDULE, 0.4, 0.3), Gaussian(SCHEDULE, 0.0, 0.6)
X = normal(2, 1, 3, 3)


def adds_up(p, x, t, schedule=SCHEDULE):
    return torch.allclose(schedule(t).noisy(p.x0, p.eps), x, atol=1e-10)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("scale", [0.0, 0.5, 7.5])
def test_guidance_raises_the_strong_density_over_the_weak_one(scale, t):
    """The guided score is that of p_weak^(1 - scale) p_strong^scale (Ho & Salimans 2022, section 3)."""
    level, x = SCHEDULE(t), X.clone().requires_grad_()
    log_density = sum(
        part * -((x - level.alpha * law.mean) / law.spread(level)).square().sum() / 2
        for part, law in ((1 - scale, WEAK), (scale, STRONG))
    )
    (score,) = torch.autograd.grad(log_density, x)
    p = Guided(STRONG, WEAK, scale)(X, t)
    assert torch.allclose(p.eps, -level.sigma * score, atol=1e-9)
    assert adds_up(p, X, t)


@pytest.mark.parametrize("interval", [None, (0.0, None)])
def test_each_image_may_have_a_time_of_its_own(interval):
    times = torch.tensor([0.1, 0.99], dtype=torch.float64)
    guided = Guided(STRONG, WEAK, 2.0, interval)
    together = guided(X, times)
    for k, t in enumerate(times):
        assert torch.allclose(together.x0[k], guided(X[k : k + 1], t).x0[0])


@pytest.mark.parametrize("labels", [2, torch.tensor([0, 1, 2, -1])], ids=["one", "each"])
def test_one_model_predicts_with_and_without_its_label_in_one_batch(labels):
    sizes = []

    def net(x, noise_level, label):
        sizes.append(len(x))
        return x * (1 + label[:, None, None, None]) + noise_level[:, None, None, None]

    net.classes = 3
    model, x = Model(net, SCHEDULE, shape=(1, 3, 3)), normal(4, 1, 3, 3)
    strong, weak = Counted(model.with_labels(labels)), Counted(model)
    none = Labelled(model, torch.full((4,), -1))
    apart = Guided(model.with_labels(labels), none, 3.0)(x, 0.4)
    sizes.clear()
    p = Guided(strong, weak, 3.0)(x, 0.4)
    assert sizes == [8]
    assert (strong.evaluations, weak.evaluations) == (1, 1)
    assert torch.equal(p.x0, apart.x0)
    assert torch.equal(p.eps, apart.eps)


def test_outside_its_interval_and_at_scale_one_guidance_evaluates_only_the_strong_denoiser():
    """Rounding gives the last time of this grid a log-SNR slightly above 3; it is guided."""
    last = UniformLogSNR(3.0)(13, SCHEDULE)[-1]
    others = SCHEDULE.inverse(torch.tensor([3.001, 2.999, 0.0, -1.999, -2.001]))
    for scale in (1.0, 2.0):
        for t, inside in zip((last, *others), (True, False, True, True, True, False), strict=True):
            weak = Counted(WEAK)
            p = Guided(STRONG, weak, scale, (-2.0, 3.0))(X, t)
            guided = inside and scale == 2.0
            assert weak.evaluations == guided
            assert torch.equal(p.x0, (Guided(STRONG, WEAK, 2.0) if guided else STRONG)(X, t).x0)


T = SCHEDULE.inverse(torch.tensor([-4.0, -2.0, 0.0, 1.0, 3.0, 6.0], dtype=torch.float64))


def test_moved_images_have_the_noisy_image_of_before_and_the_guided_prediction_as_their_mean():
    """The residuals of the guided prediction have mean 0, and are not correlated with the noisy image."""
    guided = Guided(STRONG, WEAK, 3.0)
    for t in T[::2]:
        x0, eps = 0.4 + 0.3 * normal(1, 1, 500, 500), normal(1, 1, 500, 500, seed=1)
        moved, noise = guided.move(x0, t[None], eps)
        x_t = SCHEDULE(t).noisy(x0, eps)
        exact = guided.move(x0, t[None], eps, exact=True)
        assert torch.allclose(exact[0], guided(x_t, t).x0)
        for image, its_noise in ((moved, noise), exact):
            assert torch.allclose(SCHEDULE(t).noisy(image, its_noise), x_t, atol=1e-12)
        residual = (moved - guided(x_t, t).x0).flatten()
        # Means of 250,000 values with a deviation of at most 0.3.
        assert residual.mean().abs() < 4 * 0.3 / 500
        assert (residual * (x_t.flatten() - SCHEDULE(t).alpha * 0.4)).mean().abs() < 4 * 0.3 * 1.1 / 500


def test_only_images_at_levels_inside_the_interval_are_moved():
    guided, every = Guided(STRONG, WEAK, 3.0, (-2.5, 2.0)), Guided(STRONG, WEAK, 3.0)
    x0, eps = normal(6, 1, 3, 3), normal(6, 1, 3, 3, seed=1)
    for some, plain, moved in zip(guided.move(x0, T, eps), (x0, eps), every.move(x0, T, eps), strict=True):
        assert torch.equal(some[[0, 4, 5]], plain[[0, 4, 5]])
        assert torch.equal(some[1:4], moved[1:4])


PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
FAR = Mixture(SCHEDULE, torch.tensor([2.6, -2.6, 0.1]).double().reshape(1, 3, 1, 1).expand(1, 3, 4, 4), 0.4)


@pytest.mark.parametrize("t", [0.1, 0.95])
def test_clipping_holds_each_channel_within_its_bounds_and_leaves_the_rest(t):
    x = normal(2, 3, 4, 4)
    plain, clipped = FAR(x, t), Clipped(FAR, PIXELS)(x, t)
    assert torch.allclose(clipped.x0, PIXELS.enter(PIXELS.leave(plain.x0)))
    assert not torch.allclose(clipped.x0, plain.x0)
    assert adds_up(clipped, x, t)


@pytest.mark.parametrize(
    "schedule", [LinearBeta(), LinearIn("log_noise", 3.0, -8.0), KarrasSigma(0.1, 40.0)], ids=str
)
@pytest.mark.parametrize("trained_on", [Cosine(0.014, 0.99995), KarrasSigma(), LinearPath()], ids=str)
def test_an_oracle_stays_exact_on_another_schedule(trained_on, schedule):
    law = lambda on: Gaussian(on, mean=0.4, std=0.7)
    for t in (0.2, 0.5, 0.9):
        p, wanted = Rescheduled(law(trained_on), schedule)(X, t), law(schedule)(X, t)
        assert torch.allclose(p.x0, wanted.x0, atol=1e-6)
        assert torch.allclose(p.eps, wanted.eps, atol=1e-5)


def test_image_and_noise_add_up_at_the_requested_level_of_a_table():
    """Between two entries a table answers with the noisier one."""
    schedule = Cosine(0.1, 0.9)
    p = Rescheduled(Gaussian(Linear(entries=9, last=0.9)), schedule)(X, 0.4)
    assert adds_up(p, X, 0.4, schedule)


def test_guidance_and_other_schedules_keep_the_predicted_variance():
    class Hybrid:
        schedule = SCHEDULE

        def __call__(self, x_t, t):
            return replace(STRONG(x_t, t), variance_mix=x_t + 1)

    for denoise in (Guided(Hybrid(), WEAK, 2.0), Rescheduled(Hybrid(), SCHEDULE)):
        assert torch.allclose(denoise(X, 0.4).variance_mix, X + 1)
