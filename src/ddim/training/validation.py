"""Validate a run during training: denoising errors of its EMA weights on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.loss import DenoisingError, denoising_error
from ddim.diffusion.noise import VALIDATION, stream
from ddim.diffusion.times import log_snr_bins
from ddim.metrics.statistics import estimate_mean
from ddim.recipe.recipe import Recipe
from ddim.sampling.classes import default_label, label_images
from ddim.sampling.generate import gather_samples, generate, share_seeds
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.loop import Training


def validate(training: Training) -> dict[str, float]:
    """Return the noise MAE and image MAE, in model units, of the EMA weights on validation images.

    Entries such as "noise_mae/log_snr_-4" are means over the images with a log-SNR in [-4, -2) (see
    `mean_by_level`). Without validation images the result is empty. See also `denoise_validation_images`.
    """
    recipe, processes = training.recipe, training.processes
    times = choose_times(recipe, training.split)
    if not len(times):
        return {}
    with training.averaged() as pipeline:
        errors = denoise_validation_images(pipeline, training.split, processes.share)
    errors = processes.interleave(errors)
    each = {
        "noise_mae": torch.cat([error.noise_mae for error in errors]),
        "image_mae": torch.cat([error.image_mae for error in errors]),
    }
    means = {name: values.mean().item() for name, values in each.items()}
    return means | mean_by_level(recipe.schedule(times).log_snr, each)


def choose_times(recipe: Recipe, split: SplitImages) -> Tensor:
    """Return the evenly spaced timesteps (N,) of a validation, one for each image; N is 0 without images."""
    count = min(recipe.report.validation_images, len(split.validation))
    return (torch.arange(count, dtype=torch.float64) + 0.5) / max(1, count)


@torch.no_grad()
def denoise_validation_images(
    pipeline: Pipeline, split: SplitImages, share: Callable[[range], Sequence[int]] = list
) -> list[DenoisingError]:
    """Return the denoising errors of a model on the validation images of a run, batch by batch.

    The images, the evenly spaced timesteps and the noise are the same in each validation. A network with
    class labels gets the labels of the images.

    Args:
        pipeline: the model, with the recipe, the pixels and the runtime of the run.
        split: the images of the run.
        share: takes the indices of all batches, and returns the indices of those for this process.
    """
    recipe, runtime = pipeline.recipe, pipeline.runtime
    times = choose_times(recipe, split)
    draw = stream("cpu", recipe.seed, VALIDATION, 0)
    which = split.validation[torch.randperm(len(split.validation), generator=draw)[: len(times)].numpy()]
    errors, parts = [], torch.arange(len(times)).split(runtime.micro_batch)
    mine = set(share(range(len(parts))))
    with runtime.precise():
        for k, part in enumerate(parts):
            # Each process draws the noise of all parts, so that it does not depend on the number of
            # processes.
            noise = torch.randn(len(part), *astuple(pipeline.model.shape), generator=draw)
            if k not in mine:
                continue
            some = which[part.numpy()]
            x0 = runtime.images(pipeline.pixels.enter(to_unit(gather_batch(split.images, some))))
            denoise = pipeline.model.with_labels(label_images(recipe, split.images, some))
            errors.append(denoising_error(denoise, x0, times[part], runtime.images(noise)))
    return errors


def sample_preview(training: Training) -> Tensor:
    """Return `report.grid` samples (n, C, H, W) in [0, 1] of the EMA weights, always with the same seeds.

    If the run has labels, sample k has class k % classes.
    """
    report, recipe = training.recipe.report, training.recipe
    with training.averaged() as pipeline:
        mine = share_seeds(pipeline, range(report.grid))
        label = "all" if recipe.data.labels else default_label(recipe)
        images, _ = generate(
            SamplingSetup(pipeline, recipe.steps, label), mine, progress=training.check_signals
        )
    return gather_samples(pipeline, images)


def mean_by_level(log_snr: Tensor, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return means in bins of log-SNR, such as {"noise_mae/log_snr_-4": 0.2}.

    For a bin with at least two values, the bounds of the 95 % confidence interval of the mean are added, as
    "noise_mae_low/log_snr_-4" and "noise_mae_high/log_snr_-4".

    Args:
        log_snr: the log-SNR (N,) of each value.
        values: values (N,) keyed by the name of the quantity, such as "noise_mae".
    """
    bins, means = log_snr_bins(log_snr), {}
    for name, value in values.items():
        for b in bins.unique():
            inside = value[bins == b].double()
            means[f"{name}/log_snr_{int(b)}"] = inside.mean().item()
            if len(inside) > 1:
                interval = estimate_mean(inside.numpy())
                means[f"{name}_low/log_snr_{int(b)}"] = float(interval.low)
                means[f"{name}_high/log_snr_{int(b)}"] = float(interval.high)
    return means
