"""Diagnose a run by its errors and calibration at each noise level, and by the times that training draws.

The diagnosis also has the range of useful noise levels and the gradient noise scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images, SplitImages
from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.denoiser import Denoiser, with_gradients
from ddim.diffusion.grids import equal_log_snr_times
from ddim.diffusion.schedules import Schedule
from ddim.diffusion.times import log_snr_bins, log_snr_range, midpoints, plateaus
from ddim.errors import UserError, check_count
from ddim.evaluation.copies import draw_subset
from ddim.evaluation.denoising import LevelErrors, measure_errors
from ddim.evaluation.diagnosis_report import Diagnosis
from ddim.evaluation.gradient_noise import (
    collect_gradients,
    estimate_noise_scale,
    find_loss,
    load_loss_memory,
)
from ddim.evaluation.noise_range import NoiseRange, find_noise_range
from ddim.evaluation.run_folder import load_given_run
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import label_images
from ddim.sampling.pipeline import LoadedRun, evaluating
from ddim.training.batches import draw_times

IMAGES, LEVELS = 128, 12
"""The default number of images of each part (training, held out), and the default number of noise levels."""

SPECTRUM = 512
"""Largest number of training images from which the useful noise levels are computed."""


@with_bar
@with_gradients
def diagnose(
    run: str | Path | LoadedRun,
    images: int = IMAGES,
    count: int = LEVELS,
    *,
    progress: Progress = ignore_progress,
) -> Diagnosis:
    """Measure denoising errors, calibration, noise range and gradient noise of a run on its own images.

    Errors are measured at `count` noise levels in equal steps of log-SNR.

    Args:
        run: a run folder, or the result of `ddim.load`.
        images: largest number of training images, and of held-out images, whose errors are measured.
        count: number of noise levels.
        progress: called while images are decoded and denoised, and while gradients are computed.

    Raises:
        UserError: if `images` or `count` is below 2, or the images of the run are missing or have changed.
            Also if the run has fewer than two training images.
    """
    check_count("images", images, 2)
    check_count("levels", count, 2)
    run = load_given_run(run)
    own = open_run_images(run, progress)
    if len(own.train) < 2:
        raise UserError(f"a diagnosis needs at least 2 training images, got {len(own.train)}")
    memory, schedule = load_loss_memory(run), run.recipe.schedule
    even, batch = midpoints().to(run.runtime.exact_device), run.recipe.optim.batch
    with run.runtime:
        return Diagnosis(
            train=measure_run_errors(run, own, own.train, images, count, progress),
            held_out=measure_run_errors(run, own, own.validation, images, count, progress)
            if len(own.validation) > 1
            else None,
            uniform_times=log_snr_shares(schedule, even),
            training_times=log_snr_shares(schedule, draw_times(run.recipe, even, memory)[0]),
            plateaus=plateaus(schedule),
            split=(len(own.train), len(own.validation)),
            schedule_range=log_snr_range(schedule),
            noise_range=_find_noise_range(run, own),
            noise_scale=estimate_noise_scale(
                collect_gradients(run, own, find_loss(run), memory, progress), batch
            ),
            batch=batch,
        )


def measure_run_errors(
    run: LoadedRun,
    own: SplitImages,
    which: np.ndarray,
    images: int,
    count: int,
    progress: Progress = ignore_progress,
) -> LevelErrors:
    """Return the denoising errors of a run on some of its images.

    If the run was trained with labels, the network is conditioned on the class of each image.

    Args:
        run: the run.
        own: its images.
        which: indices of the images to draw from.
        images: largest number of images.
        count: number of noise levels, in equal steps of log-SNR.
        progress: called with "denoised images" after each batch.
    """
    schedule = run.model.schedule
    times = equal_log_snr_times(schedule, *log_snr_range(schedule), count)
    some = draw_subset(which, images)

    def batches() -> Iterator[tuple[Denoiser, Tensor]]:
        first = 0
        for x0 in to_model_batches(run, own.images, some):
            classes = label_images(run.recipe, own.images, some[first : first + len(x0)])
            first += len(x0)
            yield run.model.with_labels(classes), x0
            progress("denoised images", first, len(some))

    with evaluating(run.model):
        return measure_errors(batches(), times, precise=run.runtime.precise())


def _find_noise_range(run: LoadedRun, own: SplitImages) -> NoiseRange:
    some = list(to_model_batches(run, own.images, draw_subset(own.train, SPECTRUM)))
    return find_noise_range(torch.cat(some).float().cpu(), run.pixels.std, run.values)


def to_model_batches(trained: LoadedRun, images: Images, which: np.ndarray) -> Iterator[Tensor]:
    """Yield the images at indices `which` as batches (B, C, H, W) in model units, on the run's device."""
    size = trained.runtime.micro_batch
    for first in range(0, len(which), size):
        part = to_unit(gather_batch(images, which[first : first + size]))
        yield trained.runtime.images(trained.pixels.enter(part))


def log_snr_shares(schedule: Schedule, times: Tensor) -> dict[int, float]:
    """Return the share of the times (N,) in each bin [b, b + 2) of log-SNR, as {b: share}, b increasing."""
    bins, counts = log_snr_bins(schedule(times).log_snr).unique(return_counts=True)
    shares = counts.double() / len(times)
    return dict(zip(bins.int().tolist(), shares.tolist(), strict=True))
