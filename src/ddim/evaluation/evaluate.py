"""Evaluate samples of a run, or a folder of images: images -> features -> metrics -> a record.

Each batch of samples is freed after its features are computed, so 50,000 samples need little memory. The
folder of an evaluation gets its final name only when it is complete, so an evaluation that is killed leaves
no record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import Interval
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError, explain_error, format_count
from ddim.evaluation.evaluated_images import EvaluatedImages, Source, open_evaluated_images
from ddim.evaluation.measure import measure_metrics, measure_yardstick
from ddim.evaluation.record import FEATURES, GRID, RECORD, SCHEMA, Evaluation, read_evaluation
from ddim.evaluation.record_entries import Features, ReferenceSet, describe_part
from ddim.evaluation.reference import BY_ARGUMENT, Part, Reference, name_source
from ddim.evaluation.run_folder import show_in_tensorboard
from ddim.evaluation.samples import Samples
from ddim.files import atomic_file, hash_file, temporary_folder, write_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress, ignore_progress, open_progress
from ddim.metrics.catalogue import DEFAULT, LEAST, METRICS
from ddim.metrics.features import Extractor, open_extractor, write_npy_header
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.record import make_record

SHOWN = 36
"""Number of samples in the sheet of an evaluation."""


def evaluate(  # noqa: PLR0913 (the choices of a notebook)
    images: Source,
    reference: str | Path | None = None,
    n: int | None = None,
    steps: int | None = None,
    *,
    sampler: Sampler | str | None = None,
    grid: Grid | str | None = None,
    seed: int = 0,
    label: str | int | None = None,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | None = None,
    weights: str = "ema",
    part: Part | None = None,
    features: str | Extractor = DEFAULT,
    out: str | Path | None = None,
    progress: bool | Progress = True,
) -> Evaluation:
    """Measure KID, FID, precision, recall, density and coverage of images, and write a record.

    Args:
        images: a run, a `Pipeline` or a `Model`, from which images are sampled; or the images themselves, as
            a folder, an archive, or a tensor or array (N, C, H, W) in [0, 1] or uint8.
        reference: the images to compare with: a folder, an archive or the name of a data set; by default the
            run's held-out images.
        n: number of samples, by default 1000. If `images` is a folder, archive, tensor or array, its first
            `n` images are used, by default all.
        steps: number of sampling steps, by default the number in the recipe.
        sampler: the sampler or its name, by default the sampler of the run. See `ddim.samplers`.
        grid: the grid of times (timesteps) at which the network is evaluated, or its name. See `ddim.grids`.
        seed: seed of the first sample.
        label, guidance, guidance_interval, guide_with: as for `ddim.sample`.
        weights: "ema", "raw" or the name of another EMA of a run.
        part: the part of the reference, "valid", "train" or "all"; by default "valid" for the run's own
            images, and "all" for other images.
        features: the network that computes the features: "efficientnet-lite0", another name in
            `ddim.metrics.catalogue.EXTRACTORS`, or an `Extractor`.
        out: a new or empty folder, by default RUN/evaluations/N for a run, else evaluations/NAME-N.
        progress: True shows a bar in a notebook cell, False shows nothing; or a function, see `Progress`.

    Returns:
        The metrics with their 95 % confidence intervals, as a table.

    Raises:
        UserError: if there are too few images, the folder cannot be made, or `reference` is missing for
            images or for a model without a run.

    Example:
        >>> ddim.evaluate(run, steps=10, sampler=ddim.EDM())
        >>> ddim.evaluate(ddim.sample(model, n=1000), "photos/").value("kid")
    """
    guided: dict[str, Any] = {"guidance_interval": guidance_interval, "guide_with": guide_with}
    guided |= {"guidance": guidance, "label": label}
    samples = Samples(n, steps, seed, weights, sampler=sampler, grid=grid, **guided)
    of = Reference(None if reference is None else name_source(reference), part)
    with open_progress(progress) as shown:
        return evaluate_source(
            images, samples, of, extractor=open_extractor(features), out=out, progress=shown
        )


def evaluate_source(
    source: Source,
    samples: Samples = Samples(),  # noqa: B008  (a frozen value)
    reference: Reference = Reference(),  # noqa: B008
    *,
    extractor: Extractor | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
    announce: Callable[[str], object] = lambda text: None,
) -> Evaluation:
    """Return an evaluation as `evaluate` does, but take objects instead of plain values.

    Args:
        source: the images, as for `evaluate`.
        samples: the options of sampling.
        reference: the images to compare with.
        extractor: the network of the features; None for the default.
        out: a new or empty folder, as for `evaluate`.
        progress: called while images are decoded and sampled, and while features are computed.
        announce: called with `EvaluatedImages.summary` before the evaluation begins.
    """
    out = parse_out(out)
    with join_processes() as processes:
        extractor = extractor or processes.local_first(open_extractor)
        if out is not None and processes.leads:
            check_unused(out)
        images = open_evaluated_images(source, samples, reference, progress)
        announce(images.summary)
        return evaluate_images(images, extractor, out, progress)


def evaluate_images(
    images: EvaluatedImages, extractor: Extractor, out: Path | None, progress: Progress
) -> Evaluation:
    """Evaluate images, write the record, and return the evaluation; processes share the sampling."""
    processes = current_processes()
    extractor.to(images.device)
    if processes.leads:
        return processes.broadcast(_evaluate_as_lead(images, extractor, out, progress))
    if images.sampled:
        for _ in images.parts(extractor, SHOWN):
            pass
    return processes.broadcast(None)


def _evaluate_as_lead(
    images: EvaluatedImages, extractor: Extractor, out: Path | None, progress: Progress
) -> Evaluation:
    """Return the evaluation of images; only process 0 calls this, computes metrics and writes files."""
    selected = images.reference
    _check_counts(images)
    with _unfinished_folder(images, out) as folder:
        began = time.monotonic()
        truth = compute_features(selected, extractor, partial(progress, "features of the reference"))
        seconds = {"sampling": 0.0, "features": time.monotonic() - began, "metrics": 0.0}
        nfe, kept = _extract_features(images, extractor, folder, seconds, progress)
        began = time.monotonic()
        metrics, notes = _measure_file(folder / FEATURES, truth)
        yardstick = measure_yardstick(
            selected, images.count, extractor, partial(progress, "real against real")
        )
        seconds["metrics"] = time.monotonic() - began
        used, reference = describe_reference(selected, extractor)
        content = {
            "metrics": metrics,
            "notes": notes,
            "yardstick": yardstick,
            "features": asdict(used),
            "reference": asdict(reference),
            "generated": images.describe() | {"kept": kept, "sha256": hash_file(folder / FEATURES)},
            "sampling": images.sampling and {**images.sampling, "nfe": nfe},
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
        }
        write_sealed(folder / RECORD, make_record("evaluation", content, schema=SCHEMA))
        found = read_evaluation(publish_output(folder, out, images.home, images.stem))
    if out is None and not images.stem and found.sampling:
        _show(images.home.parent, found, found.sampling.step)
    return found


def _check_counts(images: EvaluatedImages) -> None:
    """Check that the images and their reference have at least `LEAST` images each."""
    if images.count < LEAST:
        few = format_count(images.count, "image")
        raise UserError(f"{images.source} has {few}, and at least {LEAST} images are needed: add more")
    of = images.reference
    if (count := len(of.which)) < LEAST:
        whole = len(of.images) >= LEAST
        mend = "use all of its images, with --part all" if whole else f"name more images, {BY_ARGUMENT}"
        raise UserError(
            f"the reference is {describe_part(count, of.part, of.source)}, "
            f"and at least {LEAST} are needed: {mend}"
        )


@contextmanager
def _unfinished_folder(images: EvaluatedImages, out: Path | None) -> Generator[Path]:
    """Yield a temporary folder for an evaluation; remove it at the end if it was not renamed.

    The folder is created before features are computed, so that an unusable path is reported at once.
    """
    parent = images.home if out is None else out.resolve().parent
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(parent / "evaluation"))
        except OSError as error:
            raise explain_error(error, f"an evaluation cannot be written in {parent}") from None
        yield folder


def _extract_features(
    images: EvaluatedImages, extractor: Extractor, folder: Path, seconds: dict[str, float], progress: Progress
) -> tuple[int, int]:
    """Write the features of the images and a sheet of the first images.

    Returns the NFE, and the number of images that were in the cache, or whose features were.

    Adds the seconds of sampling and of computing features to `seconds`.
    """
    done, nfe, shown, kept = 0, 0, [], 0
    with atomic_file(folder / FEATURES) as file:
        write_npy_header(file, (images.count, extractor.dimensions))
        began = time.monotonic()
        for part in images.parts(extractor, SHOWN):
            nfe, count = part.nfe, len(part.features)
            file.write(part.features.tobytes())
            if done < SHOWN and part.images is not None:
                shown.append(part.images[: SHOWN - done])
            done, kept = done + count, kept + part.kept * count
            progress("samples", done, images.count)
            ended = time.monotonic()
            seconds["sampling"] += part.sampling
            seconds["features"] += ended - began - part.sampling
            began = ended
    save_png(folder / GRID, enlarge(make_sheet(torch.cat(shown))))
    return nfe, kept


def _measure_file(features: Path, truth: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Return `measure_metrics` of the features in a file, compared with `truth`."""
    # The memory map ends with this function. Windows does not rename a folder while a file in it is mapped.
    return measure_metrics(np.lib.format.open_memmap(features, mode="r"), truth)


def describe_reference(reference: ImageSet, extractor: Extractor) -> tuple[Features, ReferenceSet]:
    """Return the entries of a record about the features and the reference."""
    source, images, count = reference.source, reference.images, len(reference.which)
    size, identity = images.pixels.shape[1:3], reference.identity(extractor)
    return (
        Features(extractor.name, extractor.weights, extractor.resize, extractor.dimensions),
        ReferenceSet(source, images.fingerprint, reference.part, size, count, identity),
    )


def _show(run: Path, found: Evaluation, step: int) -> None:
    """Add the numbers and the sheet of an evaluation to the TensorBoard events of its run."""
    values = {name: value for name in METRICS if (value := found.value(name)) is not None}
    with Image.open(found.folder / GRID) as sheet:
        show_in_tensorboard(run, step, "evaluation", np.asarray(sheet), values)
