from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ddim.diffusion.grids import equal_log_snr_times
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.parameterisation import from_image
from ddim.diffusion.schedules import Cosine
from ddim.diffusion.times import log_snr_range
from ddim.evaluation.denoising import Gap, measure_errors, measure_gap
from ddim.metrics.statistics import Estimate
from oracles import normal

SCHEDULE = Cosine(0.02, 0.999)
ORACLE = Gaussian(SCHEDULE, 0.3, 0.5)
TIMES = equal_log_snr_times(SCHEDULE, *log_snr_range(SCHEDULE), 7)
IMAGES = 0.3 + 0.5 * normal(400, 1, 8, 8)


def measure(denoise, batches, times, **options):
    """Return the errors of one denoiser on all batches."""
    return measure_errors([(denoise, batch) for batch in batches], times, **options)


@dataclass(frozen=True)
class Scaled:
    """A denoiser that multiplies the predicted noise of an oracle by a number."""

    inner: object
    by: float

    @property
    def schedule(self):
        return self.inner.schedule

    def __call__(self, x_t, t):
        at = self.schedule(t).over(x_t)
        return from_image(x_t, (x_t - at.sigma * self.by * self.inner(x_t, t).eps) / at.alpha, at)


def test_the_errors_of_the_optimal_denoiser_are_its_closed_forms():
    """For normal pixels with variance v, the posterior variance is v sigma^2 / (alpha^2 v + sigma^2)."""
    found = measure(ORACLE, IMAGES.split(100), TIMES)
    at = SCHEDULE(TIMES)
    image = 0.25 * at.sigma**2 / (at.alpha**2 * 0.25 + at.sigma**2)
    noise = image * (at.alpha / at.sigma) ** 2
    assert found.log_snr == pytest.approx(at.log_snr.numpy())
    assert found.image_mse.mean(0) == pytest.approx(image.numpy(), rel=0.03)
    assert found.noise_mse.mean(0) == pytest.approx(noise.numpy(), rel=0.03)
    # The error is normal: its mean absolute value is sqrt(2 / pi) times its standard deviation.
    for mae, mse in ((found.image_mae, image), (found.noise_mae, noise)):
        assert mae.mean(0) == pytest.approx((mse * 2 / np.pi).sqrt().numpy(), rel=0.03)
    # The prediction and its error are orthogonal: E[eps_hat^2] = 1 - E[(eps - eps_hat)^2].
    assert found.power.mean(0) == pytest.approx(1 - noise.numpy(), rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_the_optimal_denoiser_has_slope_one_and_no_residual(kind):
    centres = normal(5, 1, 8, 8, seed=3)
    oracle = ORACLE if kind == "gaussian" else Mixture(SCHEDULE, centres, 0.3)
    images = IMAGES
    if kind == "mixture":
        which = torch.arange(400) % 5
        images = centres[which] + 0.3 * normal(400, 1, 8, 8, seed=4)
    found = measure(oracle, images.split(100), TIMES)
    for estimate, truth in ((found.slope, 1), (found.residual, 0)):
        # Three standard errors at each of seven levels.
        assert (abs(estimate.value - truth) < 3 * estimate.error + 1e-9).all()
    assert (found.miscalibrated < 0.01).all()
    assert (found.slope.error < 0.1).all()


@pytest.mark.parametrize("by", [0.8, 1.25])
def test_predictions_of_the_wrong_size_change_the_slope(by):
    found = measure(Scaled(ORACLE, by), IMAGES.split(100), TIMES)
    right = measure(ORACLE, IMAGES.split(100), TIMES)
    assert found.slope.value == pytest.approx(right.slope.value / by)
    noisy = slice(2, None)
    assert (abs(found.slope.value - 1) > 4 * found.slope.error)[noisy].all()
    assert (np.sign(found.residual.value) == np.sign(1 - by))[noisy].all()
    # Multiplying by the slope is the best that scaling can do.
    mended = right.noise_mse.mean(0) / found.noise_mse.mean(0)
    assert found.miscalibrated == pytest.approx(1 - mended, abs=0.01)


def test_the_noise_of_an_image_does_not_depend_on_its_batch():
    one = measure(ORACLE, IMAGES[:20].split(20), TIMES)
    other = measure(ORACLE, IMAGES[:20].split(7), TIMES)
    for name, value in vars(one).items():
        assert value == pytest.approx(vars(other)[name], rel=1e-12), name
    later = measure(ORACLE, [IMAGES[5:20]], TIMES, seed=5)
    assert later.noise_mse == pytest.approx(one.noise_mse[5:], rel=1e-12)


def test_only_memorised_images_have_a_gap():
    seen, unseen = normal(200, 1, 8, 8, seed=5), normal(200, 1, 8, 8, seed=6)
    honest, rote = Gaussian(SCHEDULE, 0.0, 1.0), Mixture(SCHEDULE, seen)
    found = measure_gap(*(measure(honest, [images], TIMES) for images in (seen, unseen)))
    assert found.overall.low < 0 < found.overall.high
    assert (abs(found.by_level.value) < 4 * found.by_level.error).all()
    found = measure_gap(*(measure(rote, [images], TIMES[2:5]) for images in (seen, unseen)))
    assert found.overall.low > 1


def test_a_gap_is_the_relative_increase_of_the_error():
    train = measure(ORACLE, [IMAGES[:50]], TIMES)
    found = measure_gap(train, replace(train, noise_mse=1.5 * train.noise_mse))
    assert found.by_level.value == pytest.approx(0.5)
    assert found.overall.value == pytest.approx(0.5)


@pytest.mark.parametrize("truth", [0.0, 9.0])
def test_the_interval_of_a_gap_holds_the_truth_in_95_percent_of_cases(truth):
    """The ratio of two means of 128 exponential errors is (1 + gap) F(256, 256)."""
    draw, sets, n = np.random.default_rng(0), 1000, 128
    blank = measure(ORACLE, [IMAGES[:2]], TIMES)
    train, other = draw.exponential(1, (n, sets)), (1 + truth) * draw.exponential(1, (n, sets))
    apart = lambda seen, unseen: measure_gap(replace(blank, noise_mse=seen), replace(blank, noise_mse=unseen))
    # In `found`, each level is another draw of both sets. In `over`, each draw has three levels.
    by = np.resize([0.5, 1, 1.5], sets)
    found, truths = apart(train, by * other).by_level, (1 + truth) * by - 1
    over = [apart(train[:, [k]] * [1, 20, 300], other[:, [k]] * [0.5, 20, 450]).overall for k in range(sets)]
    assert 0.92 < np.mean((found.low <= truths) & (truths <= found.high)) < 0.97
    assert 0.92 < np.mean([e.low <= truth <= e.high for e in over]) < 0.97
    spread = (1 + truth) * (256**2 * 2 * 510 / (256 * 254**2 * 252)) ** 0.5
    for size in (0.5, 1, 1.5):
        assert found.value[by == size].std() == pytest.approx(size * spread, rel=0.1)
        assert found.error[by == size].mean() == pytest.approx(size * spread, rel=0.05)


def test_a_prediction_of_the_mean_image_errs_by_the_variance_of_the_images():
    @dataclass(frozen=True)
    class Mean:
        schedule: object = SCHEDULE

        def __call__(self, x_t, t):
            return from_image(x_t, torch.full_like(x_t, 0.3), self.schedule(t).over(x_t))

    found = measure(Mean(), [IMAGES], TIMES)
    assert found.image_mse.mean(0) == pytest.approx((IMAGES - 0.3).square().mean().item())


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.01, 0.2, "above 0 by more than chance: the run memorises"),
        (-0.186, -0.031, "below 0 by more than chance: the held-out images are easier"),
        (-0.1, 0.1, "not distinguishable from 0 at 95 %"),
    ],
)
def test_a_gap_is_above_below_or_not_distinguishable_from_0(low, high, said):
    overall = Estimate(*map(np.array, ((low + high) / 2, low, high)))
    gap = Gap(overall, overall, (50, 50))
    assert gap.conclude().startswith(said)
    assert gap.conclude(1).startswith(said.replace("0 ", "1 ", 1))
