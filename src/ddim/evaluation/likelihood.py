"""Measure bits per dimension of images under the model of a run, and write them to a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.clusters import ImageClusters, average_cells
from ddim.data.images import gather_batch, to_unit
from ddim.data.order import shuffle_epoch
from ddim.data.values import Values
from ddim.diffusion import likelihood
from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.guidance import Clipped
from ddim.diffusion.likelihood import Variance
from ddim.diffusion.noise import Noise, check_seeds
from ddim.diffusion.schedules import Schedule
from ddim.diffusion.times import midpoints
from ddim.errors import UserError, check_count, suggest
from ddim.evaluation.reference import Reference, name_source, open_reference
from ddim.evaluation.run_folder import load_given_run, write_results
from ddim.files import write_sealed
from ddim.machine.progress import Progress, continue_progress, ignore_progress, with_bar
from ddim.plots.table import Tabular
from ddim.recipe.checks import check_diffusion_model, check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.image_features import ImageSet
from ddim.sampling.labels import NULL, label_images
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating
from ddim.sampling.record import make_record
from ddim.training.batches import draw_times

Method = Literal["vlb", "ode"]
STEPS: dict[Method, int] = {"vlb": 1000, "ode": 50}
"""The default number of steps of each method."""

CLEAN = 0.05
"""The largest sigma / alpha at which neighbouring 8-bit values can still be distinguished."""


@dataclass(frozen=True, repr=False)
class Likelihood(Tabular):
    """The bits per dimension of N images, (N,) float64, and the record of how they were measured."""

    bits: Tensor
    record: dict[str, Any]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each image, with its bits per dimension."""
        return [{"image": k, "bits_per_dim": bits} for k, bits in enumerate(self.bits.tolist())]

    def __repr__(self) -> str:
        return self.title

    @property
    def title(self) -> str:
        return f"{self.with_unit}, {len(self.bits):,} images"

    @property
    def with_unit(self) -> str:
        """The mean as text with its unit, and with the name of the number after ±."""
        return f"{self} bits per dimension{'' if self.error is None else ' (± standard error)'}"

    @property
    def value(self) -> float:
        """The mean bits per dimension."""
        return self.bits.mean().item()

    @property
    def error(self) -> float | None:
        """The standard error of the mean; None for a single image."""
        return standard_error(self.bits)

    def __str__(self) -> str:
        """Return the mean and its standard error, such as "3.1416 ± 0.0100"."""
        return format_bits(self.bits)


@with_bar
def bits_per_dim(
    run: str | Path | LoadedRun,
    images: str | Path | Reference = Reference(),  # noqa: B008  (a frozen value)
    method: Method = "vlb",
    *,
    n: int = 64,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = ignore_progress,
) -> Likelihood:
    """Measure the bits per dimension of images under the model of a run; `write_likelihood` saves them.

    If the run was trained with labels, each image is conditioned on the class named like its folder, or on no
    class if there is none. If the classes are clusters, it is conditioned on the nearest cluster. If the run
    was trained with vectors, its own images are conditioned on their vectors, and other images on no vector.

    Args:
        run: a run folder, or the result of `ddim.load`.
        images: a folder, an archive or the name of a data set; by default the run's own held-out images.
        method: "vlb" is the variational bound of DDPM sampling, "ode" the density along the probability flow.
        n: number of images.
        steps: number of steps; by default 50 for "ode", and 1000 or all entries of a shorter table for "vlb".
        seed: image k gets noise of seed `seed` + k.
        progress: called while images are decoded, and with "images" at each network evaluation.

    Returns:
        The bits per dimension of each image.

    Raises:
        UserError: if the objective, the schedule or the images cannot be used.
    """
    reference = _check_choices(images, method, n)
    run = load_given_run(run)
    _check_run(run)
    chosen = _choose_images(run, reference, n, progress)
    classes = _classes(run, chosen)
    count = len(chosen.which)
    check_seeds([seed, seed + count - 1])
    steps = _default_steps(method, run.model.schedule) if steps is None else int(steps)
    nfe = steps if method == "vlb" else 4 * steps
    began, bits = time.monotonic(), torch.zeros(0, dtype=torch.float64)
    for first in range(0, count, run.runtime.micro_batch):
        part = gather_batch(chosen.images, chosen.which[first : first + run.runtime.micro_batch])
        seeds = range(seed + first, seed + first + len(part))
        model = run.model.with_labels(None if classes is None else classes[first : first + len(part)])
        onward = partial(_report_images, continue_progress(progress, first, count), len(part), nfe)
        with evaluating(run.model), run.runtime:
            found = measure_bits(run, Counted(model, onward), part, method, steps, seeds)
        bits = torch.cat([bits, found.cpu()])
    record = {
        "method": method,
        "bits": {"value": bits.mean().item(), "error": standard_error(bits), "each": bits.tolist()},
        "steps": steps,
        "nfe": nfe,
        "variance": variance_of(run) if method == "vlb" else None,
        "reference": _describe(chosen, classes),
        "seeds": [int(seed), int(seed + count - 1)],
        "seconds": round(time.monotonic() - began, 2),
    }
    return Likelihood(bits, record)


def measure_bits(
    pipeline: Pipeline, denoise: Denoiser, images: Tensor, method: Method, steps: int, seeds: range
) -> Tensor:
    """Return the bits per dimension (B,) of images, computed in float32.

    Args:
        pipeline: the run.
        denoise: the pipeline's model, conditioned on the images' classes.
        images: (B, C, H, W) uint8.
        method: see `bits_per_dim`.
        steps: number of steps.
        seeds: one seed for each image.
    """
    pixels, noise = pipeline.recipe.data.bins(pipeline.pixels), Noise(seeds)
    x0 = pipeline.runtime.images(pixels.enter(to_unit(images)))
    first = earliest_time(pipeline.recipe)
    if method == "ode":
        return likelihood.flow_bits(denoise, x0, pixels, noise, steps, earliest=first)
    # At high noise a small error of eps is a large error of x0, so x0 is clipped to [black, white].
    clipped = Clipped(denoise, pipeline.pixels)
    times = likelihood.bound_times(steps, denoise.schedule, pixels, first)
    return likelihood.bound_bits(clipped, x0, pixels, times, noise, variance_of(pipeline))


def variance_of(pipeline: Pipeline) -> Variance:
    """Return the variance of the reverse steps: "learned" only if a loss has trained it, else "large"."""
    return "learned" if pipeline.recipe.objective.needs_variance else "large"


def standard_error(bits: Tensor) -> float | None:
    """Return the standard error of the mean of `bits` (N,), None if N is 1."""
    return (bits.std() / len(bits) ** 0.5).item() if len(bits) > 1 else None


def format_bits(bits: Tensor) -> str:
    """Return the mean of `bits` (N,) and its standard error, such as "3.1416 ± 0.0100"."""
    error = standard_error(bits)
    return f"{bits.mean():.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _check_choices(images: str | Path | Reference, method: str, n: int) -> Reference:
    """Check the method and the number of images, and return the reference that names the images."""
    check_count("n", n)
    if method not in STEPS:
        raise UserError(f"method must be {' or '.join(STEPS)}, got {method!r}{suggest(str(method), STEPS)}")
    return images if isinstance(images, Reference) else Reference(name_source(images))


def _check_run(run: LoadedRun) -> None:
    """Check that a run is a diffusion model of 8-bit images, and distinguishes their values."""
    check_diffusion_model(run.recipe, "bits per dimension need")
    _check_values("this run", run.values)
    check_reaches_images(run.model.schedule, earliest_time(run.recipe))


def _check_values(owner: str, values: Values) -> None:
    """Check that images have 8 bits; `owner` names them in the message."""
    if not values.eight_bits:
        raise UserError(f"bits per dimension are measured for 8-bit images, but {owner} has {values.type}")


def _choose_images(run: LoadedRun, reference: Reference, n: int, progress: Progress) -> ImageSet:
    """Return `n` random images of a reference, or all if it has fewer; every call draws the same images.

    The run's own images have their vectors, if it was trained with vectors.
    """
    chosen = open_reference(run, reference, progress)
    _check_values(chosen.source, chosen.images.values)
    if not len(chosen.which):
        raise UserError(f"part {chosen.part} of {chosen.source} has no images")
    if reference.data is None and run.vectors is not None:
        vectors = run.vectors.standardise(run.vectors.rows)
        chosen = replace(chosen, images=replace(chosen.images, vectors=vectors))
    return replace(chosen, which=chosen.which[shuffle_epoch(len(chosen.which), 0, 0)[:n]])


def _report_images(progress: Progress, images: int, nfe: int, evaluations: int) -> None:
    progress("images", images * min(1.0, evaluations / nfe), images)


def _default_steps(method: Method, schedule: Schedule) -> int:
    """Return the default number of steps; for "vlb", at most the number of entries in a schedule's table."""
    steps = STEPS[method]
    return min(steps, schedule.entries or steps) if method == "vlb" else steps


def _classes(run: LoadedRun, chosen: ImageSet) -> Tensor | None:
    """Return the class of each image, by its folder name or cluster, or its vector.

    Return None for a run with neither labels nor vectors.
    """
    clusters = run.clusters
    classes = label_any_images(run.recipe, run.classes, chosen.images, chosen.which, clusters)
    if classes is None:
        return None
    vectors = classes.is_floating_point()
    if (classes.isnan() if vectors else classes == NULL).any():
        lack = "without a vector" if vectors else "whose folder is not named like a class of the run"
        check_unconditional(run.recipe, f"an image of {chosen.source} {lack}")
    return classes


def label_any_images(
    recipe: Recipe,
    classes: Sequence[str],
    images: Images,
    which: np.ndarray,
    clusters: ImageClusters | None = None,
) -> Tensor | None:
    """Return the class labels (B,) or vectors (B, d) of images that a run was not trained on.

    The class of an image is the class with the name of its folder. If the classes are clusters, its class is
    the nearest cluster.

    Args:
        recipe: the recipe of the run.
        classes: the class names of the run.
        images: any images.
        which: indices (B,) of the images to label.
        clusters: the clusters of the run, if its labels are clusters.

    Returns:
        Class indices. An image gets `NULL` if it has no class folder, or if its folder is not a class of the
        run. For a run with vectors: the vectors of the images, or NaN if the images have none. None for a run
        with neither labels nor vectors.
    """
    if recipe.data.vectors is not None and images.vectors is None:
        return torch.full((len(which), recipe.net.vector), torch.nan)
    if not recipe.data.labels:
        return label_images(recipe, images, which)
    if clusters is not None and images.classes != clusters.names:
        labels, _ = clusters.find_labels(average_cells(images.pixels, images.values, which))
        return torch.from_numpy(labels)
    if images.labels is None:
        return torch.full((len(which),), NULL)
    places = [classes.index(name) if name in classes else NULL for name in images.classes]
    return torch.tensor(places)[torch.from_numpy(images.labels[which])]


def _describe(chosen: ImageSet, classes: Tensor | None) -> dict[str, Any]:
    """Return what a record says about the images, as a dict for JSON; an image without a vector has None."""
    labels = None if classes is None else classes.tolist()
    if classes is not None and classes.is_floating_point():
        labels = [None if row.isnan().any() else row.tolist() for row in classes]
    return {
        "source": chosen.source,
        "fingerprint": chosen.images.fingerprint,
        "part": chosen.part,
        "size": list(chosen.images.pixels.shape[1:3]),
        "images": chosen.which.tolist(),
        "labels": labels,
    }


def write_likelihood(found: Likelihood, run: LoadedRun, out: str | Path | None = None) -> Path:
    """Write the record into `out`, by default the next free folder RUN/likelihoods/N/; return the folder."""
    record = make_record("likelihood", found.record, run)
    return write_results(run, "likelihoods", out, lambda folder: write_sealed(folder / "record.json", record))


def check_reaches_images(schedule: Schedule, earliest: float = 0.0) -> None:
    """Check that a schedule, from the `earliest` training time on, includes almost clean images.

    Raises:
        UserError: if sigma / alpha at `earliest` is above `CLEAN`.
    """
    ratio = schedule(earliest).noise_to_signal.item()
    if ratio > CLEAN:
        raise UserError(
            f"likelihood needs a least noise sigma / alpha in training of at most {CLEAN}, so that "
            f"8-bit values can be distinguished, got {ratio:.3g}"
        )


def earliest_time(recipe: Recipe) -> float:
    """Return the smallest of 100,000 training timesteps; the network is hardly trained at smaller ones."""
    return draw_times(recipe, midpoints(), None)[0].min().item()
