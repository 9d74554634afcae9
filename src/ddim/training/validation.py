"""Validate a run: denoising errors on held-out images, a sheet of samples, and the KID of samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace

import numpy as np
import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.loss import denoising_error
from ddim.diffusion.noise import VALIDATION, stream
from ddim.diffusion.times import log_snr_bins, midpoints
from ddim.errors import UserError
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid
from ddim.recipe.recipe import Recipe, Report
from ddim.sampling.generate import generate_together, sample_uint8, split_into_parts
from ddim.sampling.image_features import BATCH, ImageSet, compute_features
from ddim.sampling.labels import choose_label, default_label, label_images
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.trainer import Trainer

MeasureKID = Callable[[], dict[str, float]]
"""Returns {"kid": ..., "kid_low": ..., "kid_high": ...}, or {} if `report.kid` is 0."""


def validate(training: Trainer) -> dict[str, float]:
    """Return the noise MAE and image MAE, in model units, of the EMA weights on validation images.

    Entries such as "noise_mae/log_snr_-4" are means over the images with a log-SNR in [-4, -2) (see
    `mean_by_level`). Without validation images the result is empty. See also `denoise_validation_images`.
    """
    recipe = replace(training.recipe, report=shrink_report(training))
    times = choose_times(recipe, training.split)
    if not len(times):
        return {}
    with training.averaged() as pipeline:
        shrunk = replace(pipeline, recipe=recipe)
        errors = denoise_validation_images(shrunk, training.split, training.processes.share)
    errors = training.processes.interleave(errors)
    each = {name: torch.cat([error[name] for error in errors]) for name in ("noise_mae", "image_mae")}
    means = {name: values.mean().item() for name, values in each.items()}
    return means | mean_by_level(training.recipe.schedule(times).log_snr, each)


def shrink_report(training: Trainer) -> Report:
    """Return the options of a validation; it has fewer images in a run that is too short for a whole one."""
    report, plan = training.recipe.report, training.plan
    if plan.total is None:
        return report
    _, share = training.plan_validations(plan.total)
    images = max(1, round(share * report.validation_images))
    return replace(report, validation_images=images, grid=max(1, round(share * report.grid)))


def choose_times(recipe: Recipe, split: SplitImages) -> Tensor:
    """Return the evenly spaced timesteps (N,) of a validation, one for each image; N is 0 without images."""
    return midpoints(min(recipe.report.validation_images, len(split.validation)))


@torch.no_grad()
def denoise_validation_images(
    pipeline: Pipeline, split: SplitImages, share: Callable[[range], Sequence[int]] = list
) -> list[dict[str, Tensor]]:
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
    order = torch.randperm(len(split.validation), generator=draw, device="cpu")
    which = split.validation[order[: len(times)].numpy()]
    # The noise of all batches is drawn in each process, so it does not depend on the number of processes.
    parts = torch.arange(len(times), device="cpu").split(runtime.micro_batch)
    shape = astuple(pipeline.model.shape)
    noises = [torch.randn(len(part), *shape, generator=draw, device="cpu") for part in parts]
    errors = []
    with runtime.precise():
        for k in share(range(len(parts))):
            some = which[parts[k].numpy()]
            x0 = runtime.images(pipeline.pixels.enter(to_unit(gather_batch(split.images, some))))
            denoise = pipeline.model.with_labels(label_images(recipe, split.images, some))
            errors.append(denoising_error(denoise, x0, times[parts[k]], runtime.images(noises[k])))
    return errors


def mean_by_level(log_snr: Tensor, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return means in bins of log-SNR, such as {"noise_mae/log_snr_-4": 0.2}.

    Args:
        log_snr: the log-SNR (N,) of each value.
        values: values (N,) keyed by the name of the quantity, such as "noise_mae".
    """
    bins = log_snr_bins(log_snr)
    levels = bins.unique().tolist()
    return {
        f"{name}/log_snr_{int(level)}": value[bins == level].double().mean().item()
        for name, value in values.items()
        for level in levels
    }


def sample_preview(training: Trainer) -> Tensor:
    """Return `report.grid` samples (n, C, H, W) in [0, 1] of the EMA weights, always with the same seeds.

    If the run has labels, sample k has class k % classes.
    """
    recipe = training.recipe
    label = "all" if recipe.data.labels else default_label(recipe)
    seeds = range(shrink_report(training).grid)
    with training.averaged() as pipeline:
        setup = SamplingSetup(pipeline, recipe.steps, label)
        images, _ = generate_together(setup, seeds, progress=training.check_signals)
    return images


def prepare_kid(training: Trainer) -> MeasureKID:
    """Return a function that measures the KID of `report.kid` samples, with its 95 % confidence interval.

    Samples come from the EMA weights, with the same seeds each time, in the recipe's number of steps. If the
    run has labels, the samples have each class in turn. If the classes are clusters, the samples have each
    class as often as in training. The reference set is all validation images.

    Raises:
        UserError: if there are too few validation images, or the packages for features are missing.
    """
    recipe, split, processes = training.recipe, training.split, training.processes
    if not recipe.report.kid:
        return dict
    if (count := len(split.validation)) < LEAST:
        raise UserError(f"report.kid needs {LEAST} validation images, got {count}: raise data.validation")
    held_out = ImageSet(split.images, split.validation, recipe.data.source, "valid")
    extractor = processes.local_first(load_extractor).to(training.runtime.exact_device)
    reference = processes.local_first(lambda: compute_features(held_out, extractor))

    def measure() -> dict[str, float]:
        with training.averaged() as pipeline:
            setup = SamplingSetup(pipeline, recipe.steps, choose_label(recipe))
            features = [
                extractor(batch).numpy()
                for seeds in processes.share([*split_into_parts(pipeline, range(recipe.report.kid), BATCH)])
                # A training goes on with bad samples, whose NaN become black.
                for batch, _ in sample_uint8(setup, seeds, finite=False, progress=training.check_signals)
            ]
        estimate = kid(np.concatenate(processes.interleave(features)), reference, subsets=1)
        return {"kid": estimate.value, "kid_low": estimate.low, "kid_high": estimate.high}

    return measure
