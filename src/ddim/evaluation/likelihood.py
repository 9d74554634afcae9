"""Measure bits per dimension of images under the model of a run."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.arrays import hold_images
from ddim.data.clusters import average_cells
from ddim.data.images import gather_batch, to_unit
from ddim.data.order import shuffle_epoch
from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.guidance import Clipped
from ddim.diffusion.likelihood import Variance, bound_bits, bound_times, flow_bits
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import count_entries
from ddim.diffusion.schedules import Schedule
from ddim.diffusion.times import midpoints
from ddim.errors import UserError, check_count
from ddim.evaluation.image_sets import Part, Reference, open_reference
from ddim.evaluation.record import Recorded, describe_part
from ddim.evaluation.run_folder import open_run_folder, write_result
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.estimate import Estimate
from ddim.recipe.checks import check_diffusion_model, check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.labels import NULL, label_images
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating
from ddim.training.batches import draw_times

Method = Literal["vlb", "ode"]

CLEAN = 0.05
"""The largest sigma / alpha at which neighbouring 8-bit values can still be distinguished."""


class Likelihood(Recorded):
    """The record of a likelihood; its rows are the images, with the bits per dimension of each."""

    @property
    def bits(self) -> Tensor:
        """The bits per dimension of each image, (N,) float64."""
        return torch.tensor(self.record["bits"]["each"], dtype=torch.float64, device="cpu")

    @property
    def verdict(self) -> str:
        """How short the model makes the code of an image."""
        share = self.record["bits"]["value"] / 8
        return f"coded with this model, an image takes {100 * share:.0f} % of its raw size: less is better"

    @property
    def title(self) -> str:
        """The mean bits per dimension with half of its 95 % interval, the images, and the file."""
        record, bits, of = self.record, self.record["bits"], self.record["reference"]
        unit = f"bits per dimension by {record['method']} in {record['steps']} steps"
        images = describe_part(len(bits["each"]), of["part"], of["source"])
        return f"{format_bits(bits, 4)} {unit} of {images}: {self.folder}/record.json"

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each image, with its bits per dimension."""
        return [{"image": k, "bits_per_dim": bits} for k, bits in enumerate(self.record["bits"]["each"])]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return []


def format_bits(bits: Mapping[str, Any], digits: int) -> str:
    """Return the mean bits per dimension of a record as text, with half the width of its 95 % interval."""
    value = f"{bits['value']:.{digits}f}"
    if bits["error"] is None:
        return value
    mean = Estimate.from_error(bits["value"], bits["error"], len(bits["each"]) - 1)
    return f"{value} ± {mean.high - mean.value:.{digits}f}"


@with_bar
def likelihood(  # noqa: PLR0913 (the options of a command)
    run: str | Path | LoadedRun,
    data: str | Path | Tensor | np.ndarray | None = None,
    method: Method = "vlb",
    *,
    n: int = 64,
    steps: int | None = None,
    seed: int = 0,
    part: Part | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> Likelihood:
    """Measure bits per dimension of images under a model.

    Bits per dimension are the length of a lossless code with this model, for each 8-bit value of an image.
    Lower is better; uniformly random pixels need 8. Compare two models on the same images only.

    If the run was trained with labels, each image is conditioned on the class named like its folder, or on no
    class if there is none. If the classes are clusters, it is conditioned on the nearest cluster. If the run
    was trained with vectors, its own images are conditioned on their vectors, and other images on no vector.

    Args:
        run: a run folder.
        data: a folder, an archive, the name of a data set, or a tensor (default: the run's own images).
        method: vlb is the variational bound of DDPM sampling, ode the density along the probability flow.
        n: number of images.
        steps: number of steps (default: 50 for ode; 1000 for vlb, at most the entries of a schedule's table).
        part: "valid", "train" or "all" (default: valid for the images of the run, all for `data`).
        out: a new or empty folder for the results (default: RUN/likelihoods/N).

    Other Parameters:
        seed: image k gets noise of seed `seed` + k.
        progress: called while images are decoded, and with "images" at each network evaluation.

    Returns:
        The bits per dimension of each image; its folder has record.json.

    Raises:
        UserError: if the objective, the schedule or the images cannot be used.

    Commands:
        ddim likelihood runs/photos-fast-1
        ddim likelihood runs/cifar10-iddpm-1 --method ode -n 256
    """
    check_count("n", n)
    run = open_run_folder(run, out)
    check_diffusion_model(run.recipe, "bits per dimension need")
    check_reaches_images(run.model.schedule, earliest_time(run.recipe))
    chosen = open_reference(run, Reference(hold_images(data), part), progress)
    if not (run.values.eight_bits and chosen.images.values.eight_bits):
        types = f"{run.values.type} in training, {chosen.images.values.type} now"
        raise UserError(f"bits per dimension need 8-bit images, got {types}")
    # Every call draws the same images.
    which = chosen.which[shuffle_epoch(len(chosen.which), 0, 0)[:n]]
    if not len(which):
        raise UserError(f"part {chosen.part} of {chosen.source} has no images")
    count, labels = len(which), label_any_images(run, chosen.images, which)
    if steps is None:
        steps = {"vlb": min(1000, count_entries(run.model.schedule)), "ode": 50}[method]
    check_count("steps", steps)
    nfe = {"vlb": steps, "ode": 4 * steps}[method]

    def measure_from(first: int) -> Tensor:
        places = slice(first, first + run.runtime.micro_batch)
        images = gather_batch(chosen.images, which[places])
        model = run.model.with_labels(None if labels is None else labels[places])
        counted = Counted(model, lambda done: progress("images", first + len(images) * done / nfe, count))
        seeds = range(seed + first, seed + first + len(images))
        with evaluating(run.model), run.runtime:
            return measure_bits(run, counted, images, method, steps, seeds).cpu()

    began = time.monotonic()
    bits = torch.cat([measure_from(first) for first in range(0, count, run.runtime.micro_batch)])
    error = (bits.std() / count**0.5).item() if count > 1 else None
    content = {
        "method": method,
        "bits": {"value": bits.mean().item(), "error": error, "each": bits.tolist()},
        "steps": int(steps),
        "nfe": int(nfe),
        "variance": variance_of(run) if method == "vlb" else None,
        "reference": {
            "source": chosen.source,
            "fingerprint": chosen.images.fingerprint,
            "part": chosen.part,
            "size": list(chosen.images.pixels.shape[1:3]),
            "images": which.tolist(),
            "labels": None if labels is None else labels.tolist(),
        },
        "seeds": [int(seed), int(seed + count - 1)],
        "seconds": round(time.monotonic() - began, 2),
    }
    return Likelihood(*write_result("likelihood", run, "likelihoods", out, content))


def measure_bits(
    pipeline: Pipeline, denoise: Denoiser, images: Tensor, method: Method, steps: int, seeds: range
) -> Tensor:
    """Return the bits per dimension (B,) of images, computed in float32.

    Args:
        pipeline: the run.
        denoise: the pipeline's model, conditioned on the images' classes.
        images: (B, C, H, W) uint8.
        method: see `likelihood`.
        steps: number of steps.
        seeds: one seed for each image.
    """
    pixels, noise = pipeline.recipe.data.bins(pipeline.pixels), Noise(seeds)
    x0 = pipeline.runtime.images(pixels.enter(to_unit(images)))
    first = earliest_time(pipeline.recipe)
    if method == "ode":
        return flow_bits(denoise, x0, pixels, noise, steps, earliest=first)
    # At high noise a small error of eps is a large error of x0, so x0 is clipped to [black, white].
    clipped = Clipped(denoise, pipeline.pixels)
    times = bound_times(steps, denoise.schedule, pixels, first)
    return bound_bits(clipped, x0, pixels, times, noise, variance_of(pipeline))


def variance_of(pipeline: Pipeline) -> Variance:
    """Return the variance of the reverse steps: "learned" only if a loss has trained it, else "large"."""
    return "learned" if isinstance(pipeline.recipe.objective, Hybrid) else "large"


def label_any_images(run: Pipeline, images: Images, which: np.ndarray) -> Tensor | None:
    """Return the class labels (B,) or vectors (B, d) of any images, also of some that the run never saw.

    The class of an image is the class with the name of its folder. If the classes are clusters, its class is
    the nearest cluster.

    Returns:
        Class indices, or `NULL` for an image whose folder is not a class of the run; or vectors. None if the
        images have no class folders and no vectors, or the run was trained with neither.

    Raises:
        UserError: if an image has no label, but every training image of the run had one.
    """
    labels = label_images(run.recipe, images, which)
    if run.clusters is not None:
        cells = average_cells(images.pixels, images.values, which)
        labels = torch.from_numpy(run.clusters.find_labels(cells)[0])
    elif labels is not None and run.recipe.data.labels:
        places = [run.classes.index(name) if name in run.classes else NULL for name in images.classes]
        labels = torch.tensor(places, device="cpu")[labels]
    if labels is None or (run.recipe.data.labels and NULL in labels):
        what = "an image without a vector, or in a folder that is not named like a class"
        check_unconditional(run.recipe, what)
    return labels


def check_reaches_images(schedule: Schedule, earliest: float = 0.0) -> None:
    """Check that a schedule, from the `earliest` training time on, includes almost clean images.

    Raises:
        UserError: if sigma / alpha at `earliest` is above `CLEAN`.
    """
    ratio = schedule(earliest).noise_to_signal.item()
    if ratio > CLEAN:
        needed = f"a least noise sigma / alpha in training of at most {CLEAN}, got {ratio:.3g}"
        raise UserError(f"likelihood needs 8-bit values that can be distinguished, so {needed}")


def earliest_time(recipe: Recipe) -> float:
    """Return the smallest of 100,000 training timesteps; the network is hardly trained at smaller ones."""
    return draw_times(recipe, midpoints(), None)[0].min().item()
