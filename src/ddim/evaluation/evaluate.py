"""Evaluate samples of a run, or a folder of images: images -> features -> metrics -> a record.

Each batch of samples is freed after its features are computed, so 50,000 samples need little memory. The
folder of an evaluation gets its final name only when it is complete, so an evaluation that is killed leaves
no record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import Interval
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError
from ddim.evaluation import evaluated_images
from ddim.evaluation.choices import Choice, expand_choices
from ddim.evaluation.compare import load_features
from ddim.evaluation.evaluated_images import EvaluatedImages, Opened, Source
from ddim.evaluation.measure import measure_metrics, measure_yardstick
from ddim.evaluation.record import (
    FEATURES,
    GRID,
    RECORD,
    SCHEMA,
    Evaluation,
    Features,
    ReferenceSet,
    read_evaluation,
)
from ddim.evaluation.reference import Part, Reference
from ddim.evaluation.table import EvaluationTable, arrange_cells, plot_table
from ddim.files import hash_file, temporary_folder, write_atomic, write_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress, open_progress
from ddim.metrics.catalogue import DEFAULT, LEAST, metric_name
from ddim.metrics.features import Extractor, open_extractor
from ddim.plots.charts import save_figure
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.runs.folder import check_unused, list_numbered_folders, parse_out, publish_output
from ddim.sampling.image_features import compute_features
from ddim.sampling.record import make_record, sample_conditions

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
    weights: str | Sequence[str] | None = None,
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
        weights: ema, raw or another average of the run (default: ema).
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
    given: dict[str, Any] = {
        "steps": steps,
        "weights": weights,
        "label": label,
        "sampler": sampler,
        "grid": grid,
        "guidance": guidance,
        "guidance_interval": guidance_interval,
        "guide_with": guide_with,
        **(fields or {}),
    }
    choices = expand_choices({name: value for name, value in given.items() if value is not None})
    asked = Reference(None if reference is None else str(reference), part)
    out, metric = parse_out(out), metric_name(metric)
    with open_progress(progress) as shown, join_processes() as processes:
        extractor = processes.local_first(partial(open_extractor, features, features_weights))
        if out is not None and processes.leads:
            check_unused(out)
        if evaluated_images.is_given(images):
            if names := [*choices[0], *["seed"] * bool(seed)]:
                raise UserError(f"images that are given are not sampled: leave {names[0]} out")
            opened = evaluated_images.open_given_images(images, n, asked, shown)
        else:
            seeds = range(seed, seed + (SAMPLES if n is None else n))
            opened = evaluated_images.open_samples(images, asked, choices, seeds, shown, device, threads)
        evaluator = _Evaluator(opened, extractor.to(opened.device), shown)
        if len(choices) == 1:
            return evaluator.evaluate(opened.images[0], out)
        # The weights of a model in memory may have changed since an earlier evaluation.
        reusable = processes.leads and isinstance(images, str | Path)
        found = []
        for each in opened.images:
            earlier = evaluator.find_earlier(each) if reusable else None
            # Another process may not see the files of process 0, or may look for them later.
            found.append(processes.broadcast(earlier) or evaluator.evaluate(each))
        home = opened.home.parent / "tables"
        table = _write_table(choices, found, metric, out, home) if processes.leads else None
        return processes.broadcast(table)


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates images with one reference; only process 0 computes metrics and writes files."""

    opened: Opened
    extractor: Extractor
    progress: Progress

    @cached_property
    def truth(self) -> np.ndarray:
        """The features of the reference."""
        watch = partial(self.progress, "features of the reference")
        return compute_features(self.opened.reference, self.extractor, watch)

    @cached_property
    def yardstick(self) -> dict[str, Any] | None:
        """The metrics of real images in place of the evaluated ones; see `measure_yardstick`."""
        reference, count = self.opened.reference, self.opened.images[0].count
        return measure_yardstick(
            reference, count, self.extractor, partial(self.progress, "real against real")
        )

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """The entries of a record about the features and the reference."""
        used, of = self.extractor, self.opened.reference
        images = of.images
        features = Features(used.name, used.weights, used.resize, used.dimensions)
        reference = ReferenceSet(
            of.source,
            images.fingerprint,
            of.part,
            images.pixels.shape[1:3],
            len(of.which),
            of.identity(used),
        )
        return {"features": asdict(features), "reference": asdict(reference)}

    def find_earlier(self, images: EvaluatedImages) -> Evaluation | None:
        """Return the newest evaluation of the same samples with the same reference, or None."""
        wanted = _identify({**self.conditions, "sampling": images.sampling})
        for folder in reversed(list_numbered_folders(self.opened.home, self.opened.stem)):
            with suppress(UserError):  # damaged, of another version, or without a record
                found = read_evaluation(folder)
                same = found.sampling and _identify(found.record) == wanted
                if same and load_features(found) is not None:
                    return found
        return None

    def evaluate(self, images: EvaluatedImages, out: Path | None = None) -> Evaluation:
        """Evaluate images, write the record, and return the evaluation; processes share the sampling."""
        processes = current_processes()
        if processes.leads:
            return processes.broadcast(self._measure(images, out))
        images.compute(self.extractor, SHOWN)
        return processes.broadcast(None)

    def _measure(self, images: EvaluatedImages, out: Path | None) -> Evaluation:
        opened = self.opened
        if (count := min(images.count, len(opened.reference.which))) < LEAST:
            more = 'name more images, or use all images of the reference, with part "all"'
            raise UserError(f"{count} images are too few to measure, at least {LEAST} are needed: {more}")
        with temporary_folder((out or opened.home / "evaluation").resolve()) as folder:
            began = time.monotonic()
            truth, found = self.truth, images.compute(self.extractor, SHOWN)
            computed = time.monotonic()
            metrics, notes = measure_metrics(found.features, truth)
            np.save(folder / FEATURES, found.features)
            save_png(folder / GRID, enlarge(make_sheet(found.images)))
            content = {
                "schema": SCHEMA,
                "metrics": metrics,
                "notes": [*opened.remarks, *notes],
                "yardstick": self.yardstick,
                **self.conditions,
                "generated": {
                    "images": images.count,
                    "source": opened.source,
                    "fingerprint": images.fingerprint,
                    "kept": found.kept,
                    "sha256": hash_file(folder / FEATURES),
                },
                "sampling": images.sampling and {**images.sampling, "nfe": found.nfe},
                "seconds": {
                    "sampling": round(found.seconds, 2),
                    "features": round(computed - began - found.seconds, 2),
                    "metrics": round(time.monotonic() - computed, 2),
                },
            }
            write_sealed(folder / RECORD, make_record("evaluation", content))
            return read_evaluation(publish_output(folder, out, opened.home, opened.stem))


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
