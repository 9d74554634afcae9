"""Denoising errors of oracles are their closed forms; a diagnosis of a run records them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import tiny
from ddim.data.values import EIGHT_BITS, Values
from ddim.diffusion.grids import equal_log_snr_times
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.schedules import Cosine, LinearBeta, variance_preserving
from ddim.diffusion.times import log_snr_range
from ddim.evaluation.diagnose import (
    DISTINGUISHABLE,
    diagnose,
    divergence_from_noise,
    find_noise_range,
    measure_errors,
    measure_gap,
    summarise_errors,
)
from ddim.evaluation.likelihood import likelihood
from ddim.evaluation.memorisation import memorisation
from ddim.files import read_sealed
from ddim.sampling.pipeline import load
from oracles import normal

SCHEDULE = Cosine(0.02, 0.999)
ORACLE = Gaussian(SCHEDULE, 0.3, 0.5)
TIMES = equal_log_snr_times(SCHEDULE, *log_snr_range(SCHEDULE), 7)
IMAGES = 0.3 + 0.5 * normal(400, 1, 8, 8)


def measure(denoise, batches, times):
    """Return the errors of one denoiser on all batches."""
    return measure_errors([(denoise, batch) for batch in batches], times)


def test_the_errors_of_the_optimal_denoiser_are_its_closed_forms():
    """For normal pixels with variance v, the posterior variance is v sigma^2 / (alpha^2 v + sigma^2)."""
    found = measure(ORACLE, IMAGES.split(100), TIMES)
    at = SCHEDULE(TIMES)
    image = 0.25 * at.sigma**2 / (at.alpha**2 * 0.25 + at.sigma**2)
    noise = image * (at.alpha / at.sigma) ** 2
    assert found["log_snr"] == pytest.approx(at.log_snr.numpy())
    assert found["image_mse"].mean(0) == pytest.approx(image.numpy(), rel=0.03)
    assert found["noise_mse"].mean(0) == pytest.approx(noise.numpy(), rel=0.03)
    # The error is normal: its mean absolute value is sqrt(2 / pi) times its standard deviation.
    for mae, mse in ((found["image_mae"], image), (found["noise_mae"], noise)):
        assert mae.mean(0) == pytest.approx((mse * 2 / np.pi).sqrt().numpy(), rel=0.03)
    # The prediction and its error are orthogonal: E[eps_hat^2] = 1 - E[(eps - eps_hat)^2].
    assert found["power"].mean(0) == pytest.approx(1 - noise.numpy(), rel=0.05)


def test_the_optimal_denoiser_has_slope_one_and_no_residual():
    centres = normal(5, 1, 8, 8, seed=3)
    images = centres[torch.arange(400) % 5] + 0.3 * normal(400, 1, 8, 8, seed=4)
    found = summarise_errors(measure(Mixture(SCHEDULE, centres, 0.3), images.split(100), TIMES))
    for name, truth in (("slope", 1), ("residual", 0)):
        value, low, high = (np.array(found[name][end]) for end in ("value", "low", "high"))
        # About three standard errors at each of seven levels.
        assert (abs(value - truth) < 0.8 * (high - low) + 1e-9).all()
        assert (high - low < 0.4).all()
    assert max(found["miscalibrated"]) < 0.01


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_predictions_of_the_wrong_size_change_the_slope(std):
    """For normal pixels, the slope is the variance of x_t in which the denoiser believes, by the true one."""
    found = summarise_errors(measure(Gaussian(SCHEDULE, 0.3, std), IMAGES.split(100), TIMES))
    at = SCHEDULE(TIMES)
    believed, true = (at.alpha**2 * each**2 + at.sigma**2 for each in (std, 0.5))
    assert found["slope"]["value"] == pytest.approx((believed / true).tolist(), rel=0.08)
    # Multiplied by the slope, the predictions are the best ones.
    best = measure(ORACLE, IMAGES.split(100), TIMES)["noise_mse"].mean(0)
    assert found["miscalibrated"] == pytest.approx(1 - best / found["noise_mse"]["value"], abs=0.01)


def test_only_memorised_images_have_a_gap():
    seen, unseen = (normal(200, 1, 8, 8, seed=seed) for seed in (5, 6))

    def apart(denoise, times):
        errors = [measure(denoise, [images], times)["noise_mse"] for images in (seen, unseen)]
        return measure_gap(*errors)

    by_level, overall = apart(Gaussian(SCHEDULE, 0.0, 1.0), TIMES)
    assert overall.low < 0 < overall.high
    assert (abs(by_level.value) < 4 * by_level.error).all()
    assert apart(Mixture(SCHEDULE, seen), TIMES[2:5])[1].low > 1


@pytest.mark.parametrize("truth", [0.0, 9.0])
def test_the_interval_of_a_gap_holds_the_truth_in_95_percent_of_cases(truth):
    """The ratio of two means of 128 exponential errors is (1 + gap) F(256, 256)."""
    draw, sets, n = np.random.default_rng(0), 1000, 128
    train = draw.exponential(1, (n, sets))
    other = (1 + truth) * draw.exponential(1, (n, sets))
    # Each level is another draw of both sets.
    found = measure_gap(train, other)[0]
    assert 0.92 < np.mean((found.low <= truth) & (truth <= found.high)) < 0.97
    spread = (1 + truth) * (256**2 * 2 * 510 / (256 * 254**2 * 252)) ** 0.5
    assert found.value.std() == pytest.approx(spread, rel=0.1)
    assert found.error.mean() == pytest.approx(spread, rel=0.05)
    # Each draw has three levels.
    inside = 0
    for k in range(sets):
        overall = measure_gap(train[:, [k]] * [1, 20, 300], other[:, [k]] * [0.5, 20, 450])[1]
        inside += overall.low <= truth <= overall.high
    assert 0.92 < inside / sets < 0.97


# --- noise levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 3.0])
def test_the_divergence_is_that_of_the_two_gaussians(log_snr, count):
    rows = normal(count, 8) @ normal(8, 8, seed=1) + 0.3
    at = variance_preserving(torch.tensor(log_snr))
    one = torch.eye(8, dtype=torch.float64)
    noised = MultivariateNormal(at.alpha * rows.mean(0), at.alpha**2 * rows.T.cov() + at.sigma**2 * one)
    start = MultivariateNormal(0 * one[0], one)
    exact = kl_divergence(noised, start).item()
    assert divergence_from_noise(rows)(log_snr) == pytest.approx(exact, rel=1e-6)


def test_the_noisiest_level_is_where_the_divergence_is_small_enough():
    images = normal(30, 3, 4, 4)
    found = find_noise_range(images, (0.25, 0.25, 0.25), EIGHT_BITS)
    divergence = divergence_from_noise(images.flatten(1))
    assert divergence(found["noisiest"]) == pytest.approx(DISTINGUISHABLE, rel=1e-6)
    # Images with four times the deviation can be distinguished from noise with four times the deviation.
    wide = find_noise_range(4 * images, (0.25, 0.25, 0.25), EIGHT_BITS)
    assert found["noisiest"] - wide["noisiest"] == pytest.approx(2 * math.log(4), abs=0.5)


@pytest.mark.parametrize("values", [EIGHT_BITS, Values("uint16", 0, 65535), Values("uint16", 100, 1100)])
def test_the_cleanest_level_has_the_noise_of_rounding(values):
    std = 0.2
    exact = torch.linspace(0, 1, 1_000_003, dtype=torch.float64)
    count = values.high - values.low
    rounding = ((exact * count).round() / count - exact).std().item() / std
    found = find_noise_range(normal(4, 1, 2, 2), (std,), values)["cleanest"]
    assert math.exp(-found / 2) == pytest.approx(rounding, rel=1e-3)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the torch/luz repository's schedule, whose clip leaves plateaus."""
    recipe = tiny.recipe(schedule="linear", schedule__clip="powers", optim__warmup=0)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


def test_a_diagnosis_is_a_table_a_figure_and_a_record_and_leaves_the_log(run):
    log = (run / "metrics.jsonl").read_bytes()
    found = diagnose(run, 4, 5, progress=False)
    record = read_sealed(found.folder / "record.json")
    assert sorted(path.name for path in found.folder.iterdir()) == ["figure.png", "record.json"]
    assert json.loads(json.dumps(found.record)) == record
    assert str(found).startswith("no gap is seen")
    assert f"{found.folder}/figure.png" in str(found)
    assert "The schedule goes from log-SNR 2.9 to -3.9." in found.details.replace("\n", " ")
    assert len(found.to_records()) == 5
    assert found.to_records()[0]["noise_mse"] == record["held_out"]["noise_mse"]["value"][0]
    assert record["held_out"]["images"] == record["train"]["images"] == 4
    assert [round(p["share"], 2) for p in record["plateaus"]] == [0.38, 0.07]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in record["times"].values())
    assert record["times"]["uniform"]["-4"] > 0.38
    assert (run / "metrics.jsonl").read_bytes() == log


def test_a_run_without_held_out_images_is_diagnosed_on_training_images(tmp_path):
    run = tiny.train(tiny.recipe(data__validation="0", images=8), tmp_path / "run")
    found = diagnose(run, 3, 3, progress=False)
    assert "memorisation cannot be measured" in found.verdict
    assert found.record["held_out"] is None
    assert len(found.to_records()) == 3


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_left_as_it_was(tmp_path):
    """Batch norm in train mode uses the statistics of the batch, and changes the averages that it keeps."""
    run = tiny.train(replace(tiny.recipe("batch norm", images=8), schedule=LinearBeta()), tmp_path / "run")
    wanted, given = load(run), load(run)
    given.model.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    for measure in (
        lambda trained: diagnose(trained, 2, 2, progress=False).to_records(),
        lambda trained: likelihood(trained, n=3, steps=3, progress=False).bits.tolist(),
        lambda trained: memorisation(trained, 4, 2, progress=False).record["gap"],
    ):
        assert measure(given) == measure(wanted)
        assert all(layer.training for layer in given.model.modules())
        assert all(p.requires_grad for p in given.model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())
