"""What a trained run shows of itself by level of noise: errors, calibration, times, bounds, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddim.data import SplitImages
from ddim.data.images import draw_subset
from ddim.diffusion import log_snr as levels
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.time_sampling import LossMemory
from ddim.errors import check_count
from ddim.evaluation.denoising import Errors, gap, measure, together
from ddim.evaluation.gradient_noise import NoiseScale, noise_scale
from ddim.evaluation.noise_range import Bounds, bounds
from ddim.metrics.statistics import Estimate, estimate_mean
from ddim.plots import charts
from ddim.runs import checkpoint
from ddim.runs import classes as labels
from ddim.runs.images import entered, own_images
from ddim.runs.pipeline import LoadedRun
from ddim.training import batches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES = {"training": charts.COLOURS[0], "held out": charts.COLOURS[1]}

IMAGES, LEVELS = 128, 12
"""Images of each side, at most, and levels that are asked where nothing else is said."""

BATCHES = 16
"""Batches whose gradients give the noise scale."""

SPECTRUM = 512
"""Training images, at most, that the bounds are found from."""


@dataclass(frozen=True)
class Diagnosis:
    """Of one run. `valid` is None where it held no images out; shares and plateaus are by log-SNR."""

    train: Errors
    valid: Errors | None
    uniform: dict[int, float]
    training: dict[int, float]
    plateaus: dict[float, float]
    ends: tuple[float, float]
    bounds: Bounds
    noise_scale: NoiseScale
    batch: int


def diagnose(
    trained: LoadedRun,
    images: int = IMAGES,
    count: int = LEVELS,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Ask a run at `count` levels for at most `images` of its training and as many of its held-out images.

    `progress` is called while images are decoded. UserError for fewer than 2 images or levels, or where the
    images of the run are not there.
    """
    check_count("images", images, 2)
    check_count("levels", count, 2)
    own, memory = own_images(trained, progress), _memory(trained)
    schedule = trained.recipe.schedule
    with trained.runtime:
        return Diagnosis(
            train=errors(trained, own, own.train, images, count),
            valid=errors(trained, own, own.validation, images, count) if len(own.validation) > 1 else None,
            uniform=levels.log_snr_shares(schedule, levels.midpoints()),
            training=levels.log_snr_shares(
                schedule, batches.draw_times(trained.recipe, levels.midpoints(), memory)[0]
            ),
            plateaus=levels.plateaus(schedule),
            ends=levels.log_snr_range(schedule),
            bounds=_bounds(trained, own),
            noise_scale=noise_scale(_gradients(trained, own, memory), trained.recipe.optim.batch),
            batch=trained.recipe.optim.batch,
        )


def errors(trained: LoadedRun, own: SplitImages, which: np.ndarray, images: int, count: int) -> Errors:
    """Errors of a run on at most `images` of its own at these indices, at `count` even steps of log-SNR.

    Its network is told their classes where it was trained with labels.
    """
    times = levels.equal_log_snr_times(
        trained.model.schedule, *levels.log_snr_range(trained.model.schedule), count
    )
    some, parts, first = draw_subset(which, images), [], 0
    for x0 in entered(trained, own.images, some):
        told = labels.label_images(trained.recipe, own.images, some[first : first + len(x0)])
        denoise = trained.model.with_labels(told)
        parts.append(measure(denoise, [x0], times, first, trained.runtime.precise()))
        first += len(x0)
    return together(parts)


def _bounds(trained: LoadedRun, own: SplitImages) -> Bounds:
    some = list(entered(trained, own.images, draw_subset(own.train, SPECTRUM)))
    return bounds(torch.cat(some).float().cpu(), trained.pixels.std)


def _gradients(trained: LoadedRun, own: SplitImages, memory: LossMemory | None) -> torch.Tensor:
    """(BATCHES, P) gradients of the objective at these weights, of batches as updates of training have them.

    In eval mode: the statistics of batch norm are those of the run, and an image does not see its batch.
    """
    recipe, model = trained.recipe, trained.model
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    bins, rows = recipe.data.bins(trained.pixels), []
    for step in _steps(len(own.train), recipe.optim.batch):
        total: list[torch.Tensor] = []
        for denoise, x0, t, eps, share in _parts(trained, own, step, memory):
            for p in parameters:
                p.requires_grad_(True)
            with trained.runtime.precise():
                each = recipe.objective(denoise, x0, t, eps, bins)
                loss = (each * share.to(each)).sum()
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
            for p in parameters:
                p.requires_grad_(False)
        rows.append(torch.cat([g.float().flatten().cpu() for g in total]))
    return torch.stack(rows)


def _steps(images: int, batch: int) -> range:
    """BATCHES updates of a training of so many images of which no two see images of the same epoch.

    Batches of one epoch have no image in common, and so are not independent: their gradients cancel.
    """
    apart = math.ceil(images / batch) + 1
    return range(0, BATCHES * apart, apart)


def _parts(
    trained: LoadedRun, own: SplitImages, step: int, memory: LossMemory | None
) -> Iterator[tuple[Denoiser, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Micro-batches of the batch of training's update `step`, and the share (b,) of each image in its loss.

    The model told what training tells it of them, their classes and how they were augmented; x0, t, eps.
    """
    runtime = trained.runtime
    batch = batches.draw_batch(
        trained.recipe, own.images, own.train, trained.model, runtime.device, step, memory
    )
    size = len(batch.which)
    for start in range(0, size, runtime.micro_batch):
        mine = slice(start, start + runtime.micro_batch)
        yield *batch.part(mine, trained.model, trained.pixels, runtime), batch.weights[mine] / size


def _memory(trained: LoadedRun) -> LossMemory | None:
    """The losses that a run draws its times by, as of its checkpoint; None where it draws them without."""
    memory = trained.recipe.objective.times.memory()
    if memory:
        memory.restore(checkpoint.read_tensors(trained.checkpoint.path, "times"))
    return memory


# --- shown --------------------------------------------------------------------------------------------------


HEAD = ("log-SNR", "noise MSE", "image MSE", "slope", "gap to training")


def level_rows(d: Diagnosis) -> list[tuple[str, ...]]:
    """Format the errors as a table under `HEAD`, one row for each noise level."""
    judged = d.valid or d.train
    noise, image, slope = estimate_mean(judged.noise_mse), estimate_mean(judged.image_mse), judged.slope
    apart = None if d.valid is None else gap(d.train, d.valid)
    return [
        (
            f"{level:.2f}",
            _within(noise, k),
            _within(image, k),
            _within(slope, k),
            "" if apart is None else _percent(apart.by_level, k),
        )
        for k, level in enumerate(judged.log_snr)
    ]


def findings(d: Diagnosis) -> Iterator[str]:
    """Say in a sentence each what the diagnosis found beside the errors at each noise level."""
    cleanest, noisiest = d.ends
    if d.valid is None:
        yield "The run held no images out, so that nothing can be said of memorising."
    else:
        apart = gap(d.train, d.valid).overall
        what = "more than chance: the run memorises" if apart.low > 0 else "no more than chance"
        yield f"The gap to training is {_percent(apart)} over all levels, {what}."
    judged = d.valid or d.train
    worst = int(np.argmax(judged.miscalibrated))
    yield (
        f"Scaling the predicted noise would take at most {100 * judged.miscalibrated[worst]:.1f} % "
        f"off its MSE, at log-SNR {judged.log_snr[worst]:.1f}."
    )
    for level, share in d.plateaus.items():
        yield f"{100 * share:.0f} % of uniform times lie on one level, log-SNR {level:.2f}: a plateau."
    b = d.bounds
    yield (
        f"The schedule goes from log-SNR {cleanest:.1f} to {noisiest:.1f}; the images ask for "
        f"{b.cleanest:.1f} (finer is 8-bit rounding) to {b.noisiest:.1f} (noisier is not told from noise; "
        f"{b.distance:.1f} by the largest distance of two)."
    )
    s = d.noise_scale
    scale = "too large to be seen" if math.isinf(s.value) else f"{s.value:,.0f} images"
    yield (
        f"The gradient noise scale is {scale} [{s.low:,.0f}, {s.high:,.0f}], the run's batch {d.batch}: "
        "a batch well below it averages too little, one well above buys little."
    )


def record(d: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON."""
    apart = None if d.valid is None else gap(d.train, d.valid)
    s = d.noise_scale
    return {
        "train": _errors(d.train),
        "valid": None if d.valid is None else _errors(d.valid),
        "gap": None
        if apart is None
        else {"by_level": _estimate(apart.by_level), "overall": _estimate(apart.overall)},
        "times": {"uniform": d.uniform, "training": d.training},
        "plateaus": [{"log_snr": level, "share": share} for level, share in d.plateaus.items()],
        "schedule": {"cleanest": d.ends[0], "noisiest": d.ends[1]},
        "bounds": vars(d.bounds),
        # Infinity is no JSON.
        "gradient_noise_scale": {k: v if math.isfinite(v) else None for k, v in vars(s).items()}
        | {"batches": BATCHES},
        "batch": d.batch,
    }


def figure(d: Diagnosis, title: str) -> Figure:
    """Six panels by log-SNR, clean on the left: errors of noise and image, gap, slope, residual, times."""
    sheet = charts.new_figure(14.0, 8.0)
    panels = iter(sheet.subplots(2, 3).flat)
    sheet.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=charts.INK)
    sides = {"training": d.train} | ({} if d.valid is None else {"held out": d.valid})

    def panel(title: str, of: Callable[[Errors], Estimate], truth: float | None = None) -> Axes:
        axes = next(panels)
        _bands(axes, {name: (e.log_snr, of(e)) for name, e in sides.items()}, title, truth)
        return axes

    panel("MSE of the noise", lambda e: estimate_mean(e.noise_mse)).set_yscale("log")
    panel("MSE of the image, model units", lambda e: estimate_mean(e.image_mse)).set_yscale("log")
    if d.valid is None:
        next(panels).set_axis_off()
    else:
        by_level = gap(d.train, d.valid).by_level
        _bands(next(panels), {"held out": (d.valid.log_snr, by_level)}, "Gap to training, noise MSE", 0)
    panel("Slope of eps on predicted eps", lambda e: e.slope, 1)
    panel("E[eps_hat . (eps - eps_hat)]", lambda e: e.residual, 0)
    _shares(next(panels), d)
    return sheet


def _bands(
    axes: Axes, sides: dict[str, tuple[np.ndarray, Estimate]], title: str, truth: float | None = None
) -> None:
    """Lines with their intervals; where the optimum is known, a dotted line there."""
    for name, (x, e) in sides.items():
        colour = _SIDES[name]
        axes.plot(x, e.value, color=colour, linewidth=1.8, label=name, marker="o", markersize=3)
        axes.fill_between(x, e.low, e.high, color=colour, alpha=0.2, linewidth=0)
    if truth is not None:
        axes.axhline(truth, color=charts.FAINT, linestyle=":", linewidth=1)
    charts.style_panel(axes, "log-SNR", "", title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.invert_xaxis()
    if len(sides) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=charts.INK)


def _shares(axes: Axes, d: Diagnosis) -> None:
    """Where times lie, and the bounds that the images ask for."""
    half = levels.BIN / 2
    for k, (name, found) in enumerate((("uniform times", d.uniform), ("times of training", d.training))):
        x = [b + half * (0.5 + k) for b in found]
        axes.bar(x, [100 * s for s in found.values()], width=0.9 * half, color=charts.COLOURS[k], label=name)
    for level in (d.bounds.noisiest, d.bounds.cleanest):
        axes.axvline(level, color=charts.FAINT, linestyle=":", linewidth=1)
    charts.style_panel(axes, "log-SNR; dotted: what the images ask for", "% of times", "Where times lie")
    axes.invert_xaxis()
    axes.legend(frameon=False, fontsize=9, labelcolor=charts.INK)


def _within(e: Estimate, k: int) -> str:
    return f"{e.value[k]:.3g} ± {e.high[k] - e.value[k]:.1g}"


def _percent(e: Estimate, k: int | tuple[()] = ()) -> str:
    return f"{100 * e.value[k]:+.1f} % [{100 * e.low[k]:.1f}, {100 * e.high[k]:.1f}]"


def _estimate(e: Estimate) -> dict[str, Any]:
    return {name: value.tolist() for name, value in vars(e).items()}


def _errors(e: Errors) -> dict[str, Any]:
    fields = ("noise_mse", "noise_mae", "image_mse", "image_mae")
    return {
        "images": len(e.noise_mse),
        "log_snr": e.log_snr.tolist(),
        **{name: _estimate(estimate_mean(getattr(e, name))) for name in fields},
        "slope": _estimate(e.slope),
        "residual": _estimate(e.residual),
        "miscalibrated": e.miscalibrated.tolist(),
    }
