from dataclasses import replace

import pytest
import torch

from ddim.diffusion.denoiser import Counted, Labelled, Model
from ddim.diffusion.grids import UniformLogSNR
from ddim.diffusion.guidance import Clipped, Guided, Rescheduled, check_reach
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearIn, LinearPath
from ddim.errors import UserError
from oracles import Gaussian, normal

SCHEDULE = Cosine(0.014, 0.999)
STRONG, WEAK = Gaussian(SCHEDULE, 0.4, 0.3), Gaussian(SCHEDULE, 0.0, 0.6)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


def adds_up(p, x, t):
    level = SCHEDULE(at(t))
    return torch.allclose(level.alpha * p.x0 + level.sigma * p.eps, x, atol=1e-10)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guidance_raises_the_strong_density_over_the_weak_one(scale, t):
    """The guided score is that of p_weak^(1 - scale) p_strong^scale (Ho & Salimans 2022, section 3)."""
    x, level = normal(2, 1, 3, 3), SCHEDULE(at(t))
    x = x.requires_grad_()
    log_density = sum(
        part * -((x - level.alpha * law.mean) / law.spread(level)).square().sum() / 2
        for part, law in ((1 - scale, WEAK), (scale, STRONG))
    )
    (score,) = torch.autograd.grad(log_density, x)
    p = Guided(STRONG, WEAK, scale)(x.detach(), at(t))
    assert torch.allclose(p.eps, -level.sigma * score, atol=1e-9)
    assert adds_up(p, x.detach(), t)


def test_guidance_of_scale_one_evaluates_only_the_strong_denoiser():
    strong, weak, x = Counted(STRONG), Counted(WEAK), normal(2, 1, 3, 3)
    assert torch.equal(Guided(strong, weak, 1.0)(x, at(0.4)).x0, STRONG(x, at(0.4)).x0)
    assert (strong.evaluations, weak.evaluations) == (1, 0)
    Guided(strong, weak, 2.0)(x, at(0.4))
    assert (strong.evaluations, weak.evaluations) == (2, 1)


@pytest.mark.parametrize(
    "labels", [2, torch.tensor([0, 1, 2, -1])], ids=["one class", "a class for each image"]
)
def test_one_model_predicts_with_and_without_its_label_in_one_batch(labels):
    sizes = []

    def net(x, noise_level, label):
        sizes.append(len(x))
        return x * (1 + label[:, None, None, None]) + noise_level[:, None, None, None]

    net.classes = 3
    model, x = Model(net, SCHEDULE, shape=(1, 3, 3)), normal(4, 1, 3, 3)
    strong, weak = Counted(model.with_labels(labels)), Counted(model)
    none = Labelled(model, torch.full((4,), -1))
    apart = Guided(model.with_labels(labels), none, 3.0)(x, at(0.4))
    sizes.clear()
    p = Guided(strong, weak, 3.0)(x, at(0.4))
    assert sizes == [8]
    assert (strong.evaluations, weak.evaluations) == (1, 1)
    assert torch.equal(p.x0, apart.x0)
    assert torch.equal(p.eps, apart.eps)


def test_guidance_in_an_interval_is_guidance_inside_and_none_outside():
    x, inner = normal(2, 1, 3, 3), Guided(STRONG, WEAK, 3.0)
    guided = Guided(STRONG, WEAK, 3.0, low=-2.0, high=2.0)
    for t in (0.05, 0.3, 0.5, 0.6, 0.95):
        inside = -2 <= SCHEDULE(at(t)).log_snr <= 2
        wanted = inner if inside else STRONG
        assert torch.equal(guided(x, at(t)).x0, wanted(x, at(t)).x0)
    assert -2 <= SCHEDULE(at(0.5)).log_snr <= 2 < SCHEDULE(at(0.05)).log_snr


def test_a_step_at_the_end_of_an_interval_is_guided():
    """Rounding gives the last time of this grid a log-SNR slightly above 3."""
    schedule = Cosine(0.014, 0.99995)
    weak = Counted(Gaussian(schedule, 0.0, 0.6))
    guided = Guided(Gaussian(schedule, 0.4, 0.3), weak, 2.0, -2.0, 3.0)
    last = UniformLogSNR(3.0)(13, schedule)[-1]
    assert schedule(last).log_snr > 3
    guided(normal(2, 1, 3, 3), last)
    assert weak.evaluations == 1
    for log_snr in (3.001, -2.001):
        guided(normal(2, 1, 3, 3), schedule.inverse(at(log_snr)))
    assert weak.evaluations == 1


T = SCHEDULE.inverse(torch.tensor([-4.0, -2.0, 0.0, 1.0, 3.0, 6.0], dtype=torch.float64))


def test_moved_images_have_the_noisy_image_of_before_and_the_guided_prediction_as_their_mean():
    """The residuals of the guided prediction have mean 0, and are not correlated with the noisy image."""
    guided = Guided(STRONG, WEAK, 3.0)
    for t in T:
        x0, eps = 0.4 + 0.3 * normal(1, 1, 500, 500), normal(1, 1, 500, 500, seed=1)
        moved, noise = guided.move(x0, t[None], eps)
        x_t = SCHEDULE(t).noisy(x0, eps)
        assert torch.allclose(SCHEDULE(t).noisy(moved, noise), x_t, atol=1e-12)
        assert not torch.allclose(moved, x0, atol=1e-3)
        residual = (moved - guided(x_t, t).x0).flatten()
        # Means of 250,000 values with a deviation of at most 0.3.
        assert residual.mean().abs() < 4 * 0.3 / 500
        assert (residual * (x_t.flatten() - SCHEDULE(t).alpha * 0.4)).mean().abs() < 4 * 0.3 * 1.1 / 500


def test_only_images_at_levels_inside_the_interval_are_moved():
    guided, every = Guided(STRONG, WEAK, 3.0, low=-2.5, high=2.0), Guided(STRONG, WEAK, 3.0)
    x0, eps = normal(6, 1, 3, 3), normal(6, 1, 3, 3, seed=1)
    for found, plain, moved in zip(guided.move(x0, T, eps), (x0, eps), every.move(x0, T, eps), strict=True):
        assert torch.equal(found[[0, 4, 5]], plain[[0, 4, 5]])
        assert torch.equal(found[1:4], moved[1:4])


PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
FAR = Mixture(SCHEDULE, torch.tensor([2.6, -2.6, 0.1]).double().reshape(1, 3, 1, 1).expand(1, 3, 4, 4), 0.4)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_clipping_holds_each_channel_within_its_bounds_and_leaves_the_rest(t):
    x = normal(2, 3, 4, 4)
    plain, clipped = FAR(x, at(t)), Clipped(FAR, *PIXELS.bounds)(x, at(t))
    images = PIXELS.enter(PIXELS.leave(plain.x0))
    assert torch.allclose(clipped.x0, images)
    assert not torch.allclose(clipped.x0, plain.x0)
    assert adds_up(clipped, x, t)


# --- another schedule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(),
        LinearBeta(),
        LinearIn("log_noise", 3.0, -8.0),
        KarrasSigma(0.1, 40.0),
        LinearPath(0.01, 0.99),
    ],
    ids=str,
)
@pytest.mark.parametrize("trained_on", [Cosine(0.014, 0.99995), KarrasSigma(), LinearPath()], ids=str)
def test_an_oracle_stays_exact_on_another_schedule(trained_on, schedule):
    law = lambda on: Gaussian(on, mean=0.4, std=0.7)
    x = normal(3, 1, 4, 4)
    for t in (0.2, 0.5, 0.9):
        p, wanted = Rescheduled(law(trained_on), schedule)(x, at(t)), law(schedule)(x, at(t))
        assert torch.allclose(p.x0, wanted.x0, atol=1e-6)
        assert torch.allclose(p.eps, wanted.eps, atol=1e-5)


def test_image_and_noise_add_up_at_the_requested_level_of_a_table():
    """Between two entries a table answers with the noisier one."""
    x, schedule = normal(3, 1, 4, 4), Cosine(0.1, 0.9)
    p = Rescheduled(Gaussian(Linear(entries=9, last=0.9, clip="none")), schedule)(x, at(0.4))
    level = schedule(at(0.4))
    assert torch.allclose(level.alpha * p.x0 + level.sigma * p.eps, x, atol=1e-10)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_levels_that_a_model_was_not_trained_on_are_refused(t):
    with pytest.raises(UserError, match="is trained"):
        check_reach(Cosine(0.1, 0.9), Cosine(0.02, 0.95)(at(t)))


def test_guidance_and_other_schedules_keep_the_predicted_variance():
    class Hybrid:
        schedule = SCHEDULE

        def __call__(self, x_t, t):
            return replace(STRONG(x_t, t), variance_mix=x_t + 1)

    x = normal(2, 1, 3, 3)
    for denoise in (Guided(Hybrid(), WEAK, 2.0), Rescheduled(Hybrid(), SCHEDULE)):
        assert torch.allclose(denoise(x, at(0.4)).variance_mix, x + 1)
