"""Diagnose a run by its errors and calibration at each noise level, and by the times that training draws.

The diagnosis also has the range of useful noise levels and the gradient noise scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.data.images import draw_subset
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.log_snr import equal_log_snr_times, log_snr_range, log_snr_shares, midpoints, plateaus
from ddim.errors import UserError, check_count
from ddim.evaluation.denoising import Gap, LevelErrors, measure_errors, measure_gap
from ddim.evaluation.gradient_noise import (
    NoiseScale,
    collect_gradients,
    estimate_noise_scale,
    find_loss,
    load_loss_memory,
)
from ddim.evaluation.noise_range import NoiseRange, find_noise_range
from ddim.evaluation.run_folder import load_given_run
from ddim.metrics.statistics import estimate_mean
from ddim.plots.charts import rasterise
from ddim.plots.pictures import render_png
from ddim.plots.tabular import Tabular, embed_png
from ddim.runs.classes import label_images
from ddim.runs.images import open_run_images, to_model_batches
from ddim.runs.notebook_cell import with_bar
from ddim.runs.pipeline import LoadedRun
from ddim.runs.progress import READING, Progress, ignore_progress
from ddim.training.batches import draw_times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, LEVELS = 128, 12
"""The default number of images of each part (training, held out), and the default number of noise levels."""

SPECTRUM = 512
"""Largest number of training images from which the useful noise levels are computed."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Tabular):
    """The results of `diagnose`: findings, a figure, and errors at each noise level as a table.

    Args:
        train: denoising errors on training images at each noise level.
        held_out: denoising errors on held-out images, None if there are fewer than two held-out images.
        uniform_times: the share of times in each bin of log-SNR, keyed by the lower edge of the bin, if times
            are distributed uniformly.
        training_times: the same shares, if times are distributed as in the training of the run.
        plateaus: the share of uniformly distributed times on each plateau of the schedule, keyed by log-SNR.
            A plateau is a noise level that many times share.
        split: the numbers of training images and of held-out images that the run has.
        schedule_range: the largest (cleanest) and the smallest (noisiest) log-SNR of the schedule.
        noise_range: the range of log-SNR that the images need.
        noise_scale: the gradient noise scale, which suggests a batch size.
        batch: the batch size of the run.
    """

    train: LevelErrors
    held_out: LevelErrors | None
    uniform_times: dict[int, float]
    training_times: dict[int, float]
    plateaus: dict[float, float]
    split: tuple[int, int]
    schedule_range: tuple[float, float]
    noise_range: NoiseRange
    noise_scale: NoiseScale
    batch: int

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each noise level, with the errors on held-out images.

        If `held_out` is None, the errors on training images replace them.
        """
        errors, gap = self.held_out or self.train, self.gap
        noise, image = estimate_mean(errors.noise_mse), estimate_mean(errors.image_mse)
        columns = {
            "log_snr": errors.log_snr,
            "noise_mse": noise.value,
            "noise_mse_low": noise.low,
            "noise_mse_high": noise.high,
            "image_mse": image.value,
            "slope": errors.slope.value,
            **({} if gap is None else {"gap_to_training": gap.by_level.value}),
        }
        return [{name: float(x[k]) for name, x in columns.items()} for k in range(len(errors.log_snr))]

    def figure(self, title: str = "") -> Figure:
        """Return a figure by noise level: errors, gap of training and held-out errors, calibration, times."""
        from ddim.evaluation.diagnosis_report import draw_diagnosis

        return draw_diagnosis(self, title)

    def _picture(self) -> str:
        return embed_png(render_png(rasterise(self.figure())))

    @property
    def title(self) -> str:
        from ddim.evaluation.diagnosis_report import list_findings

        return "\n".join(list_findings(self))

    @property
    def gap(self) -> Gap | None:
        """The gap between the errors on held-out and on training images; None without `held_out`."""
        return None if self.held_out is None else measure_gap(self.train, self.held_out)


@with_bar
def diagnose(
    run: str | Path | LoadedRun,
    images: int = IMAGES,
    count: int = LEVELS,
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
    own = open_run_images(run, partial(progress, READING))
    if len(own.train) < 2:
        raise UserError(f"a diagnosis needs at least 2 training images, got {len(own.train)}")
    memory, schedule = load_loss_memory(run), run.recipe.schedule
    even, batch = midpoints(), run.recipe.optim.batch
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

    return measure_errors(batches(), times, precise=run.runtime.precise())


def _find_noise_range(run: LoadedRun, own: SplitImages) -> NoiseRange:
    some = list(to_model_batches(run, own.images, draw_subset(own.train, SPECTRUM)))
    return find_noise_range(torch.cat(some).float().cpu(), run.pixels.std, run.values.step)
