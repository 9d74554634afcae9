"""Evaluate samples of a run, or a folder of images: images -> features -> metrics -> a record.

Each batch of samples is freed after its features are computed, so 50,000 samples need little memory. The
folder of an evaluation gets its final name only when it is complete, so an evaluation that is killed leaves
no record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import Interval
from ddim.diffusion.noise import check_seeds
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError, check_count, to_int
from ddim.evaluation import record as records
from ddim.evaluation.choices import Choice, expand_choices
from ddim.evaluation.compare import EvaluationTable, arrange_cells, load_features, plot_table
from ddim.evaluation.evaluated_images import (
    EvaluatedImages,
    Source,
    is_given,
    open_given_images,
    open_model,
)
from ddim.evaluation.measure import measure_metrics, measure_yardstick
from ddim.evaluation.record import Evaluation
from ddim.evaluation.reference import Part, Reference
from ddim.evaluation.run_folder import show_in_tensorboard
from ddim.evaluation.sample_features import SampledParts
from ddim.files import atomic_file, hash_file, temporary_folder, write_atomic, write_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress, open_progress
from ddim.machine.signals import Stopped
from ddim.metrics.catalogue import DEFAULT, LEAST, METRICS, metric_name
from ddim.metrics.features import Extractor, open_extractor
from ddim.plots.charts import save_figure
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.runs.folder import check_unused, list_numbered_folders, parse_out, publish_output
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.record import make_record, sample_conditions
from ddim.sampling.sampling_setup import SamplingSetup

SHOWN = 36
"""Number of samples in the sheet of an evaluation."""

SAMPLES = 1000
"""The default number of samples."""


def evaluate(  # noqa: PLR0913 (the choices of a notebook)
    images: Source,
    reference: str | Path | None = None,
    n: int | None = None,
    steps: int | Sequence[int] | None = None,
    *,
    sampler: Sampler | str | Sequence[Sampler | str] | None = None,
    grid: Grid | str | Sequence[Grid | str] | None = None,
    seed: int = 0,
    label: str | int | Sequence[str | int] | None = None,
    guidance: float | Sequence[float] | None = None,
    guidance_interval: Interval | Sequence[Interval] | None = None,
    guide_with: str | Path | Sequence[str] | None = None,
    weights: str | Sequence[str] = "ema",
    part: Part | None = None,
    features: str | Extractor = DEFAULT,
    features_weights: str | Path | None = None,
    metric: str = "kid",
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool | Progress = True,
) -> Evaluation | EvaluationTable:
    """Measure how close samples or other images are to real images.

    Writes a record with KID, FID, precision, recall, density and coverage, features, and a sheet of images.
    Several values of an option give a table; a field is combined only with samplers or grids that have it.
    The same command continues what was stopped.

    Args:
        images: a run, or a folder, an archive or an array of images.
        reference: the images to compare with: a folder, an archive or the name of a data set (default: the
            run's held-out images).
        n: number of samples (default: 1000), or of images (default: all).
        steps: sampling steps (default: the run's, 20 in most recipes).
        sampler: ddim, ddpm, edm, ... (default: the run's).
        grid: uniform, karras, ... (default: what `ddim search` found, else the run's).
        seed: the samples have the seeds S, S+1, ...
        label: class name, class index or "all".
        guidance: guidance scale; 1 is off (default: what `ddim search` found, else 1).
        guide_with: a weaker model that guides, such as @guide.
        weights: ema, raw or another average of the run.
        part: the part of the reference (default: valid for the run's own images if at least 20 are held out,
            else all).
        fields: sampling fields of the recipe, such as --sampler.eta 0,1.
        metric: the metric of a table.
        out: a new folder (default: RUN/evaluations/N or RUN/tables/N).

    Other Parameters:
        guidance_interval: guide only at these log-SNRs, such as -2,5; an end may be left out.
        features: efficientnet-lite0, inception-2015, inception-torchvision or scattering; the weights of
            Inception are downloaded once.
        features_weights: a file with the weights of the feature network.
        device: cpu, cuda, ... (default: where the run was trained).
        threads: processor threads (default: as in the training); others change the last bits of samples.
        progress: True shows a bar in a notebook cell, False shows nothing; or a function, see `Progress`.

    Returns:
        The metrics with a verdict; or a table, if a choice has several values.

    Raises:
        UserError: if there are too few images, the folder cannot be made, or `reference` is missing for
            images or for a model without a run.

    Example:
        >>> ddim.evaluate(run, steps=10, sampler=ddim.EDM())
        >>> ddim.evaluate(ddim.sample(model, n=1000), "photos/").value("kid")
        >>> ddim.evaluate(run, steps=[10, 20, 50], fields={"sampler.eta": [0, 0.5, 1]}).to_frame()

    Commands:
        ddim evaluate runs/photos-fast-1 --steps 10,20 --sampler ddim,edm
        ddim evaluate images/ --reference photos/
    """
    given: dict[str, Any] = {"steps": steps, "weights": None if weights == "ema" else weights, "label": label}
    given |= {"sampler": sampler, "grid": grid, "guidance": guidance}
    given |= {"guidance_interval": guidance_interval, "guide_with": guide_with, **(fields or {})}
    choices = expand_choices({name: value for name, value in given.items() if value is not None})
    of, out = Reference(None if reference is None else str(reference), part), parse_out(out)
    metric = metric_name(metric)
    with _explain_stop(), open_progress(progress) as shown, join_processes() as processes:
        extractor = processes.local_first(partial(open_extractor, features, features_weights))
        if out is not None and processes.leads:
            check_unused(out)
        if is_given(images):
            if names := [*choices[0], *["seed"] * bool(seed)]:
                raise UserError(f"images that are given are not sampled: leave {names[0]} out")
            return _evaluate_images(open_given_images(images, n, of, shown), extractor, out, shown)
        seeds = _choose_seeds(n, seed)
        model = open_model(images, of, shown, device=device, threads=threads)
        setups = [model.prepare(choice) for choice in choices]
        if len(choices) == 1:
            return _evaluate_images(model.sample(setups[0], seeds, shown), extractor, out, shown)
        found = _evaluate_choices(model, setups, seeds, extractor, shown)
        write = partial(_write_table, choices, found, metric, out, model.home.parent / "tables")
        return processes.broadcast(write() if processes.leads else None)


@contextmanager
def _explain_stop() -> Generator[None]:
    """If a signal stops the block, say that the same command continues: samples and features are kept."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.number, "stopped; the same command continues") from None


def _choose_seeds(n: int | None, seed: int) -> range:
    check_count("n", count := SAMPLES if n is None else to_int("n", n), LEAST)
    first = to_int("seed", seed)
    check_seeds([first, first + count - 1])
    return range(first, first + count)


# One evaluation


def _evaluate_images(
    images: EvaluatedImages, extractor: Extractor, out: Path | None, progress: Progress
) -> Evaluation:
    """Evaluate images, write the record, and return the evaluation; processes share the sampling."""
    processes = current_processes()
    extractor.to(images.device)
    if processes.leads:
        return processes.broadcast(_evaluate_as_lead(images, extractor, out, progress))
    if isinstance(images.parts, SampledParts):
        for _ in images.parts(extractor, SHOWN):
            pass
    return processes.broadcast(None)


def _evaluate_as_lead(
    images: EvaluatedImages, extractor: Extractor, out: Path | None, progress: Progress
) -> Evaluation:
    """Return the evaluation of images; only process 0 calls this, computes metrics and writes files."""
    selected, count = images.reference, min(images.count, len(images.reference.which))
    if count < LEAST:
        more = 'name more images, or use all images of the reference, with part "all"'
        raise UserError(f"{count} images are too few to measure, at least {LEAST} are needed: {more}")
    parent = images.home if out is None else out.resolve().parent
    with temporary_folder(parent / "evaluation") as folder:
        began = time.monotonic()
        truth = compute_features(selected, extractor, partial(progress, "features of the reference"))
        seconds = {"sampling": 0.0, "features": time.monotonic() - began, "metrics": 0.0}
        nfe, kept = _extract_features(images, extractor, folder, seconds, progress)
        began = time.monotonic()
        metrics, notes = _measure_file(folder / records.FEATURES, truth)
        real = partial(progress, "real against real")
        yardstick = measure_yardstick(selected, images.count, extractor, real)
        seconds["metrics"] = time.monotonic() - began
        generated = {"images": images.count, "source": images.source, "fingerprint": images.fingerprint}
        content = {
            "metrics": metrics,
            "notes": [*images.remarks, *notes],
            "yardstick": yardstick,
            **_describe_reference(selected, extractor),
            "generated": generated | {"kept": kept, "sha256": hash_file(folder / records.FEATURES)},
            "sampling": images.sampling and {**images.sampling, "nfe": nfe},
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
        }
        write_sealed(
            folder / records.RECORD, make_record("evaluation", {"schema": records.SCHEMA, **content})
        )
        found = records.read_evaluation(publish_output(folder, out, images.home, images.stem))
    if out is None and not images.stem and found.sampling:
        values = {name: value for name in METRICS if (value := found.value(name)) is not None}
        with Image.open(found.folder / records.GRID) as sheet:
            step = found.sampling["step"]
            show_in_tensorboard(images.home.parent, step, "evaluation", np.asarray(sheet), values)
    return found


def _extract_features(
    images: EvaluatedImages, extractor: Extractor, folder: Path, seconds: dict[str, float], progress: Progress
) -> tuple[int, int]:
    """Write the features of the images and a sheet of the first images.

    Returns the NFE, and the number of images that were in the cache, or whose features were.

    Adds the seconds of sampling and of computing features to `seconds`.
    """
    done, nfe, shown, kept = 0, 0, [], 0
    with atomic_file(folder / records.FEATURES) as file:
        shape = images.count, extractor.dimensions
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
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
    save_png(folder / records.GRID, enlarge(make_sheet(torch.cat(shown))))
    return nfe, kept


def _measure_file(features: Path, truth: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Return `measure_metrics` of the features in a file, compared with `truth`."""
    # The memory map ends with this function. Windows does not rename a folder while a file in it is mapped.
    return measure_metrics(np.lib.format.open_memmap(features, mode="r"), truth)


def _describe_reference(reference: ImageSet, extractor: Extractor) -> dict[str, Any]:
    """Return the entries of a record about the features and the reference."""
    used = records.Features(extractor.name, extractor.weights, extractor.resize, extractor.dimensions)
    source, images, count = reference.source, reference.images, len(reference.which)
    size, identity = images.pixels.shape[1:3], reference.identity(extractor)
    of = records.ReferenceSet(source, images.fingerprint, reference.part, size, count, identity)
    return {"features": asdict(used), "reference": asdict(of)}


# A table of evaluations


def _evaluate_choices(
    model: EvaluatedImages,
    setups: Sequence[SamplingSetup],
    seeds: range,
    extractor: Extractor,
    progress: Progress,
) -> list[Evaluation]:
    """Return one evaluation for each way of sampling; those that exist are not repeated."""
    works = [len(seeds) * setup.count_evaluations() for setup in setups]
    found, processes = [], current_processes()
    for k, setup in enumerate(setups):

        def report(what: str, done: float, total: int, k: int = k) -> None:
            if what == "samples":
                what, total = "network evaluations", sum(works)
                done = sum(works[:k]) + works[k] * done / len(seeds)
            progress(what, done, total)

        images = model.sample(setup, seeds, report)
        # Another process may not see the files of process 0, or may look for them later.
        there = _find_evaluation(images, extractor) if processes.leads and model.cached else None
        found.append(processes.broadcast(there) or _evaluate_images(images, extractor, None, report))
    return found


def _find_evaluation(images: EvaluatedImages, extractor: Extractor) -> Evaluation | None:
    """Return the newest evaluation of the same samples against the same reference, or None."""
    wanted = _identify(_describe_reference(images.reference, extractor) | {"sampling": images.sampling})
    for folder in reversed(list_numbered_folders(images.home, images.stem)):
        with suppress(UserError):  # damaged, of another version, or without a record
            found = records.read_evaluation(folder)
            if found.sampling and _identify(found.record) == wanted and load_features(found) is not None:
                return found
    return None


def _identify(record: Mapping[str, Any]) -> str:
    """Return a text that is equal for evaluations with the same samples, features and reference images."""
    sampling, reference = record["sampling"], record["reference"]["sha256"]
    facts = [sample_conditions(sampling), sampling["seeds"], record["features"], reference]
    return json.dumps(facts, sort_keys=True)


def _write_table(
    choices: Sequence[Choice], found: Sequence[Evaluation], metric: str, out: Path | None, home: Path
) -> EvaluationTable:
    """Return the table of evaluations, and write table.csv and table.png into its folder."""
    table = EvaluationTable(metric, arrange_cells(choices, found, metric))
    with temporary_folder((out or home / "table").resolve()) as folder:
        write_atomic(folder / "table.csv", table.to_csv().encode())
        save_figure(folder / "table.png", plot_table(table))
        return replace(table, folder=publish_output(folder, out, home))
