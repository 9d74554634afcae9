"""Diagnose a run: its errors and calibration at each noise level, and the noise levels that its images need.

The optimal prediction of the noise, E[eps | x_t], is orthogonal to its own error at every noise level:
E[eps_hat . (eps - eps_hat)] = 0. The regression of eps on eps_hat then has slope 1. A slope below 1 means
that predictions are too large; a slope above 1 means that they are too small. Multiplied by the slope, the
predictions have the smallest squared error. All this holds for the squared error. A network that is trained
on the absolute error may have another slope, if the distribution of the noise given x_t is skewed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images, SplitImages
from ddim.data.images import gather_batch, to_unit
from ddim.data.values import Values
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.grids import equal_log_snr_times
from ddim.diffusion.loss import denoising_error
from ddim.diffusion.noise import Noise
from ddim.diffusion.schedules import Schedule, variance_preserving
from ddim.diffusion.times import BIN, log_snr_bins, log_snr_range, midpoints, plateaus
from ddim.errors import check_count
from ddim.evaluation.record import Recorded
from ddim.evaluation.run_folder import open_run_folder, write_result
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.statistics import Estimate, estimate_difference, estimate_mean, estimate_ratio
from ddim.plots import charts
from ddim.runs import checkpoint
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import label_images
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating
from ddim.training.batches import draw_times

IMAGES, LEVELS = 128, 12
"""The default number of images of each part (training, held out), and the default number of noise levels."""

SPECTRUM = 512
"""Largest number of training images from which the useful noise levels are computed."""

DISTINGUISHABLE = 0.02
"""Divergence in nats below which noisy images count as noise.

By Pinsker's inequality, a test on one image is then right at most 55 % of the time.
"""


class Diagnosis(Recorded):
    """The record of a diagnosis; its rows are the noise levels, the cleanest first."""

    @property
    def verdict(self) -> str:
        """Whether the run denoises its training images better than new images."""
        gap = self.record["gap"]
        if gap is None:
            return "memorisation cannot be measured: fewer than two images were held out"
        if gap["overall"]["low"] > 0:
            more = f"{100 * gap['overall']['value']:.1f} %"
            gap = f"its error on new images is {more} larger than on its training images"
            return f"the run generalises with a gap: {gap}; `ddim memorisation` looks for copies"
        return "no gap is seen: new images are denoised about as well as training images, or better"

    @property
    def title(self) -> str:
        """The images on which the errors of the table were measured, and the file of the figure."""
        part = "held-out" if self.record["held_out"] else "training"
        return f"errors on {part} images, see {self.folder}/figure.png"

    @property
    def notes(self) -> list[str]:
        """The findings that the table does not show, one sentence each."""
        schedule, useful = self.record["schedule"], self.record["noise_range"]
        cleanest = useful["cleanest"] or math.inf
        notes = [
            f"The schedule goes from log-SNR {schedule['cleanest']:.1f} to {schedule['noisiest']:.1f}.",
            f"The images need {cleanest:.1f} to {useful['noisiest']:.1f}: beyond, the noise is finer than "
            "the rounding of pixel values, or images cannot be distinguished from noise.",
        ]
        if self.record["gap"]:
            notes.append(describe_gap(self.record["gap"]["overall"]))
        return notes

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each noise level, with the errors on held-out images.

        If no images were held out, the errors on training images replace them.
        """
        errors, gap = self.record["held_out"] or self.record["train"], self.record["gap"]
        columns = {"log_snr": errors["log_snr"], "noise_mse": errors["noise_mse"]["value"]}
        columns |= {f"noise_mse_{end}": errors["noise_mse"][end] for end in ("low", "high")}
        columns |= {name: errors[name]["value"] for name in ("image_mse", "slope")}
        if gap:
            columns["gap_to_training"] = gap["by_level"]["value"]
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]


@with_bar
def diagnose(
    run: str | Path | LoadedRun,
    n: int = IMAGES,
    levels: int = LEVELS,
    *,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> Diagnosis:
    """Measure the errors of a run at each noise level.

    Training images and held-out images are denoised at equal steps of log-SNR, the cleanest first. Columns::

        noise_mse, image_mse  errors of the predictions, in model units
        slope                 regression of the true on the predicted noise: 1 is
                              calibrated; below 1, the predictions are too large
        gap_to_training       how much larger the error is on held-out images

    Args:
        run: a run folder.
        n: largest number of training images, and of held-out images, to measure.
        levels: number of noise levels.
        out: a new or empty folder for the results (default: RUN/diagnostics/N).

    Other Parameters:
        progress: called while images are decoded and denoised.

    Returns:
        The errors at each noise level; its folder has record.json and figure.png.

    Raises:
        UserError: if the images of the run are missing or have changed.

    Commands:
        ddim diagnose runs/photos-fast-1
        ddim diagnose runs/photos-fast-1 -n 500 --levels 20
    """
    check_count("n", n, 2)
    check_count("levels", levels)
    run = open_run_folder(run, out)
    split = open_run_images(run, progress)
    schedule, even = run.recipe.schedule, midpoints().to(run.runtime.exact_device)
    memory = run.recipe.objective.times.memory(run.runtime.exact_device)
    if memory:
        memory.restore(checkpoint.read_tensors(run.checkpoint.path, "times"))
    with run.runtime:
        times = {"uniform": even, "training": draw_times(run.recipe, even, memory)[0]}
        batches = to_model_batches(run, split.images, draw_subset(split.train, SPECTRUM))
        some = torch.cat([x0 for _, x0 in batches]).float().cpu()
        content = {
            **measure_parts(run, split, progress, n, levels),
            "times": {name: log_snr_shares(schedule, drawn) for name, drawn in times.items()},
            "plateaus": [{"log_snr": level, "share": share} for level, share in plateaus(schedule).items()],
            "schedule": dict(zip(("cleanest", "noisiest"), log_snr_range(schedule), strict=True)),
            "noise_range": find_noise_range(some, run.pixels.std, run.values),
        }
    figure = charts.rasterise(draw_diagnosis(content))
    return Diagnosis(*write_result("diagnosis", run, "diagnostics", out, content, figure=figure))


# Errors


Errors = dict[str, np.ndarray]
"""Errors of N images at L noise levels, (N, L) float64: means over pixels and channels, in model units.

"noise_mse" and "noise_mae" are the squared and the absolute error of the predicted noise eps_hat; "image_mse"
and "image_mae" those of the predicted clean image. "power" is eps_hat^2, and "inner" is the predicted noise
times its error, eps_hat * (eps - eps_hat). "log_snr" (L,) are the noise levels.
"""


@torch.no_grad()
def measure_errors(batches: Iterable[tuple[Denoiser, Tensor]], times: Tensor) -> Errors:
    """Return the denoising errors of images at each of the times (L,); image i gets the noise of seed i.

    Args:
        batches: pairs (denoiser, images). The images are (B, C, H, W) in model units, and the denoiser is
            conditioned on their labels.
        times: the times (L,).
    """
    parts, levels, count = defaultdict(list), times, 0
    for denoise, x0 in batches:
        levels = denoise.schedule(times).log_snr
        noise = Noise(range(count, count + len(x0)))
        count += len(x0)
        errors = [denoising_error(denoise, x0, t, noise.like(x0)) for t in times]
        for name in errors[0]:
            parts[name].append(torch.stack([error[name] for error in errors], 1))
    whole = {name: torch.cat(tensors).numpy() for name, tensors in parts.items()}
    return {**whole, "log_snr": levels.numpy()}


def summarise_errors(errors: Errors) -> dict[str, Any]:
    """Return the means of errors over images with their 95 % confidence intervals, as JSON.

    "slope" is that of the regression of eps on eps_hat, through the origin, and "residual" is the mean of
    eps_hat * (eps - eps_hat); they are 1 and 0 for the optimal denoiser. "miscalibrated" is the share of the
    noise MSE that vanishes if eps_hat is multiplied by the slope.
    """
    power, inner = errors["power"], errors["inner"]
    scale = power.mean(0) * errors["noise_mse"].mean(0)
    means = ("noise_mse", "noise_mae", "image_mse", "image_mae")
    estimates = {
        **{name: estimate_mean(errors[name]) for name in means},
        "slope": estimate_ratio(power + inner, power),
        "residual": estimate_mean(inner),
    }
    return {
        "images": len(power),
        "log_snr": errors["log_snr"].tolist(),
        **{name: estimate.to_json() for name, estimate in estimates.items()},
        "miscalibrated": (inner.mean(0) ** 2 / scale).tolist(),
    }


def measure_parts(
    run: LoadedRun, split: SplitImages, progress: Progress, n: int = IMAGES, levels: int = LEVELS
) -> dict[str, Any]:
    """Return the errors of a run on its training images and its held-out images, and the gap, as JSON.

    "held_out" and "gap" are None if fewer than two images were held out. The network is conditioned on the
    labels of the images.

    Args:
        run: the run.
        split: its images.
        progress: called with "denoised images" after each batch.
        n: largest number of images of each part.
        levels: number of noise levels, in equal steps of log-SNR.
    """
    schedule = run.model.schedule
    times = equal_log_snr_times(schedule, *log_snr_range(schedule), levels)

    def measure(part: np.ndarray) -> Errors:
        batches = to_model_batches(run, split.images, draw_subset(part, n), progress)
        with evaluating(run.model), run.runtime.precise():
            return measure_errors(batches, times)

    train = measure(split.train)
    parts: dict[str, Any] = {"train": summarise_errors(train), "held_out": None, "gap": None}
    if len(split.validation) >= 2:
        held_out = measure(split.validation)
        by_level, overall = measure_gap(train["noise_mse"], held_out["noise_mse"])
        parts["held_out"] = summarise_errors(held_out)
        parts["gap"] = {"by_level": by_level.to_json(), "overall": overall.to_json()}
    return parts


def draw_subset(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices, drawn at random and sorted.

    The first `count` indices would be a bad choice, because neighbouring images often belong to one class.
    """
    return np.sort(np.random.default_rng(0).permutation(indices)[:count])


def to_model_batches(
    trained: Pipeline, images: Images, which: np.ndarray, progress: Progress = ignore_progress
) -> Iterator[tuple[Denoiser, Tensor]]:
    """Yield the images at indices `which` in batches (B, C, H, W) in model units, on the run's device.

    Each comes with the model, conditioned on the labels of the batch. `progress` is called with "denoised
    images" after each batch.
    """
    size = trained.runtime.micro_batch
    for first in range(0, len(which), size):
        some = which[first : first + size]
        x0 = trained.runtime.images(trained.pixels.enter(to_unit(gather_batch(images, some))))
        yield trained.model.with_labels(label_images(trained.recipe, images, some)), x0
        progress("denoised images", first + len(some), len(which))


def measure_gap(train: np.ndarray, other: np.ndarray) -> tuple[Estimate, Estimate]:
    """Return the noise MSE of other images divided by the noise MSE of training images, minus 1.

    A gap above 0 means that the network denoises other images worse than training images.

    Args:
        train: the noise MSE of training images (N, L).
        other: the noise MSE of other images (M, L).

    Returns:
        The gap at each noise level (L,), and the mean gap over the noise levels.
    """
    scale = train.mean(0)
    unseen = other / scale
    # Delta method: if the mean error on training images is wrong by a small fraction e, the ratio is wrong by
    # e times the ratio. `seen` has mean 1 and exactly this uncertainty, so the interval of the gap includes
    # the uncertainty of both means.
    seen = 1 + unseen.mean(0) * (train / scale - 1)
    by_level = estimate_difference(estimate_mean(unseen), estimate_mean(seen))
    return by_level, estimate_difference(estimate_mean(unseen.mean(1)), estimate_mean(seen.mean(1)))


def describe_gap(gap: Mapping[str, Any]) -> str:
    """Return a sentence on the overall gap between held-out and training images, given as JSON."""
    times, low, high = (1 + gap[name] for name in ("value", "low", "high"))
    return (
        f"Over all noise levels, the noise MSE on held-out images is {times:.3g} [{low:.3g}, {high:.3g}] "
        "times the noise MSE on training images; above 1 there is a generalisation gap."
    )


# Noise levels


def log_snr_shares(schedule: Schedule, times: Tensor) -> dict[int, float]:
    """Return the share of the times (N,) in each bin [b, b + 2) of log-SNR, as {b: share}, b increasing."""
    bins = Counter(log_snr_bins(schedule(times).log_snr).int().tolist())
    return {low: count / len(times) for low, count in sorted(bins.items())}


def find_noise_range(images: Tensor, stds: Sequence[float], values: Values) -> dict[str, Any]:
    """Return the log-SNRs at the ends of the range of noise levels that images need, as JSON.

    A network learns nothing at noise levels outside this range. "noisiest" is the log-SNR below which no test
    distinguishes noisy images from pure noise. "cleanest" is the log-SNR above which the noise is finer than
    the rounding of pixel values; None for floats, which are not rounded.

    Args:
        images: (N, C, H, W) in model units.
        stds: the standard deviation of each channel, of values in [0, 1].
        values: the type and range of the pixels; rounding gives integers a cleanest level, and floats none.
    """
    from scipy.optimize import root_scalar

    divergence = divergence_from_noise(images.flatten(1).double())
    # Rounding to steps of size q adds noise with standard deviation q / sqrt(12). Model units divide this by
    # the standard deviation of the channel, so the channel with the largest one has the finest noise.
    step = 1 / (values.high - values.low)
    rounding = step / math.sqrt(12) / max(stds)
    cleanest = None if values.type == "float32" else -2 * math.log(rounding)
    noisiest = root_scalar(lambda log_snr: divergence(log_snr) - DISTINGUISHABLE, bracket=(-40, 40)).root
    return {"noisiest": noisiest, "cleanest": cleanest}


def divergence_from_noise(rows: Tensor) -> Callable[[float], float]:
    """Return a function of the log-SNR: KL(noisy images || noise) in nats, for clean images `rows` (N, d).

    The noisy images are approximated by a Gaussian. The noise is N(0, alpha^2 + sigma^2), from which sampling
    starts.
    """
    mean = rows.mean(0)
    away, square = rows - mean, mean.square().sum().item()
    # The N x N matrix of inner products has the same nonzero eigenvalues as the d x d covariance.
    count, dimensions = rows.shape
    spectrum = torch.linalg.eigvalsh(away @ away.T / (count - 1)).clamp(min=0)[-dimensions:]
    total = torch.cat([spectrum, spectrum.new_zeros(dimensions - len(spectrum))])

    def divergence(log_snr: float) -> float:
        at = variance_preserving(torch.tensor(log_snr, device="cpu"))
        # These are the variances alpha^2 lambda + sigma^2, minus the variance of the noise, which is 1.
        excess = at.alpha**2 * (total - 1)
        return 0.5 * ((excess - excess.log1p()).sum() + at.alpha**2 * square).item()

    return divergence


PANELS: dict[str, tuple[str, float | None]] = {
    "noise_mse": ("MSE of the noise", None),
    "image_mse": ("MSE of the image, model units", None),
    "gap": ("Gap to training, noise MSE", 0),
    "slope": ("Slope of eps on predicted eps, 1 if calibrated", 1),
    "residual": ("E[eps_hat . (eps - eps_hat)], 0 if calibrated", 0),
}
"""The title of each panel of the figure, and the value of an optimal denoiser, which is drawn dotted."""


def draw_diagnosis(record: Mapping[str, Any]) -> charts.Figure:
    """Return a figure of the errors over the log-SNR, clean images on the left, with 95 % intervals.

    Its panels are those in `PANELS`, and the distribution of the times.
    """
    figure = charts.new_figure(16.0, 8.0)
    *panels, last = figure.subplots(2, 3).flat
    dotted = {"color": charts.FAINT, "linestyle": ":", "linewidth": 1}
    x = record["train"]["log_snr"]
    zero = dict.fromkeys(("value", "low", "high"), [0.0] * len(x))
    sides = {"training": {**record["train"], "gap": zero}}
    if record["held_out"]:
        sides["held out"] = {**record["held_out"], "gap": record["gap"]["by_level"]}
    for axes, (name, (heading, truth)) in zip(panels, PANELS.items(), strict=True):
        axes.set_yscale("log" if truth is None else "linear")
        for colour, errors in zip(charts.COLOURS, sides.values(), strict=False):
            low, high = errors[name]["low"], errors[name]["high"]
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        curves = {side: (x, errors[name]["value"]) for side, errors in sides.items()}
        charts.draw_curves(axes, curves, "log-SNR", "", heading)
        if truth is not None:
            axes.axhline(truth, **dotted)
    half = BIN / 2
    for k, (name, shares) in enumerate(record["times"].items()):
        places = [low + half * (0.5 + k) for low in shares]
        heights = [100 * share for share in shares.values()]
        last.bar(places, heights, width=0.9 * half, color=charts.COLOURS[k], label=f"{name} times")
    charts.style_panel(last, "log-SNR; dotted: range that images need", "% of times", "Times by log-SNR")
    last.legend(frameon=False, fontsize=9, labelcolor=charts.INK)
    for level in record["noise_range"].values():
        if level is not None:
            last.axvline(level, **dotted)
    for axes in figure.axes:
        axes.invert_xaxis()
    return figure
