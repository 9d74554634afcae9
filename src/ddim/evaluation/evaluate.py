"""Evaluate samples of a run, or a folder of images: images -> features -> metrics -> a record.

Each batch of samples is freed after its features are computed, so 50,000 samples need little memory. The
folder of an evaluation gets its final name only when it is complete, so an evaluation that is killed leaves
no record.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ddim.data.arrays import give_images, hold_images
from ddim.data.cache import open_images
from ddim.data.decode import read_header
from ddim.data.open import find_source
from ddim.data.remote import Files, names_repository
from ddim.data.sources import Source as ImageSource, read_members
from ddim.data.values import choose_channels
from ddim.diffusion.denoiser import Model
from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import Interval
from ddim.diffusion.samplers import Sampler
from ddim.errors import UserError, warn_user
from ddim.evaluation import image_sets, record as records
from ddim.evaluation.compare import OWN, Choice, EvaluationTable, arrange_cells, expand_choices, plot_table
from ddim.evaluation.image_sets import ImageFeatures, Part, Reference, SampledParts
from ddim.evaluation.measure import measure_metrics
from ddim.evaluation.record import Evaluation, read_evaluation
from ddim.evaluation.run_folder import find_home
from ddim.files import hash_file, read_sealed, temporary_folder, write_atomic, write_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress, continue_progress, open_progress
from ddim.machine.runtime import Precision
from ddim.metrics.catalogue import DEFAULT, LEAST, metric_name
from ddim.metrics.features import Extractor, open_extractor
from ddim.plots.charts import save_figure
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.recipe.recipe import Data
from ddim.runs.folder import check_unused, parse_out, publish_output
from ddim.runs.names import is_run_folder, parse_place
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.pictures import write_array
from ddim.sampling.pipeline import LoadedRun, Pipeline, load, open_pipeline
from ddim.sampling.record import make_record
from ddim.sampling.sampling_setup import open_samples

SHOWN = 36
"""Number of samples in the sheet of an evaluation."""

SAMPLE = re.compile(r"\d{5,}\.(png|npy)")
"""The names of the samples in a folder; a name begins with the seed."""

Given = str | Path | Tensor | np.ndarray
"""Images that a user gives: a path, or images (N, C, H, W)."""

Source = Given | Pipeline | Model
"""The images to evaluate: images that are given, a run, or a model in memory, which is sampled."""


def evaluate(  # noqa: PLR0913 (the choices of a notebook)
    images: Source,
    reference: Given | None = None,
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
    searched: bool = False,
    weights: str | Sequence[str] | None = None,
    part: Part | None = None,
    features: str | Extractor = DEFAULT,
    features_weights: str | Path | None = None,
    metric: str = "kid",
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
    compiling: bool = False,
    progress: bool | Progress = True,
) -> Evaluation | EvaluationTable:
    """Measure how close samples or other images are to real images.

    Writes a record with KID, FID and the other metrics, features, and a sheet of images.
    Several values of an option give a table; a field is combined only with samplers or grids that have it.
    The same command continues what was stopped.

    Args:
        images: a run, a model, or a folder, an archive or an array of images.
        reference: images to compare with, such as a folder or the name of a data set (default: the held-out
            images of the run).
        n: number of samples (default: 1000), or of images (default: all).
        steps: sampling steps (default: the run's, 20 in most recipes).
        sampler: ddim, ddpm, edm, ... (default: the run's).
        grid: uniform, karras, ... (default: the run's).
        seed: the samples have the seeds S, S+1, ...
        label: class name, class index or "all".
        guidance: guidance scale (default: 1, off).
        guide_with: a weaker model that guides, such as @guide.
        searched: use the times and the guidance that `ddim search` found, where none are given.
        weights: ema, raw or another average of the run (default: ema).
        part: the part of the reference (default: valid for the run's own images if at least 20 are held out,
            else all).
        fields: sampling fields of the recipe, such as --sampler.eta 0,1.
        metric: the metric of a table.
        out: a new folder (default: RUN/evaluations/N or tables/N).

    Other Parameters:
        guidance_interval: guide only at these log-SNRs, such as -2,5; an end may be left out.
        features: efficientnet-lite0, inception-2015, inception-torchvision or scattering; the weights of
            Inception are downloaded once.
        features_weights: a file with the weights of the feature network.
        device: cpu, cuda, ... (default: where the run was trained).
        threads: processor threads (default: as in the training); others change the last bits of samples.
        precision: fp32 or bf16 (default: that of the training).
        compiling: compile the network: faster after a minute; results differ in the last bits.
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
    given: dict[str, Any] = {"steps": steps, "weights": weights, "label": label, "sampler": sampler}
    given |= {"grid": grid, "guidance": guidance, "guidance_interval": guidance_interval}
    given |= {"guide_with": guide_with, "searched": searched or None, **(fields or {})}
    choices = expand_choices({name: value for name, value in given.items() if value is not None})
    asked, out, metric = Reference(hold_images(reference), part), parse_out(out), metric_name(metric)
    with open_progress(progress) as shown, join_processes() as processes:
        extractor = processes.local_first(partial(open_extractor, features, features_weights))
        if out is not None and processes.leads:
            check_unused(out)
        if isinstance(images, Tensor | np.ndarray) or _names_images(images):
            if names := [*choices[0], *["seed"] * bool(seed)]:
                raise UserError(f"images that are given are not sampled: leave {names[0]} out")
            evaluator = _open_given_images(images, n, asked, extractor, shown)
        else:
            loading = {"device": device, "threads": threads}
            loading |= {"precision": precision, "compiling": compiling}
            seeds = range(seed, seed + (1000 if n is None else n))
            evaluator = _open_samples(images, asked, choices, seeds, extractor, shown, loading)
        if len(choices) == 1:
            return evaluator.evaluate(evaluator.images[0], out)
        found = [evaluator.evaluate(each) for each in evaluator.images]
        if not processes.leads:
            return processes.broadcast(None)
        table = EvaluationTable(metric, arrange_cells(choices, found, metric))
        home = evaluator.home.parent / "tables"
        with temporary_folder((out or home / "table").resolve()) as folder:
            write_atomic(folder / "table.csv", table.to_csv().encode())
            save_figure(folder / "table.png", plot_table(table))
            table = replace(table, folder=publish_output(folder, out, home))
        return processes.broadcast(table)


def _names_images(source: Source) -> TypeGuard[str | Path]:
    """Return whether a source is the path or the name of images, and not of a run or a checkpoint."""
    named = isinstance(source, str | Path) and not names_repository(source)
    return named and not is_run_folder(parse_place(str(source))[0])


# Evaluations


@dataclass(frozen=True)
class _EvaluatedImages:
    """The images of one evaluation.

    Attributes:
        count: number of images.
        compute: returns the features of the images. Its arguments are the extractor, and the number of first
            images that come with them.
        sampling: the record of sampling, as JSON; None if the images have no such record.
        fingerprint: the fingerprint of the given images; None for samples of a run or model.
    """

    count: int
    compute: Callable[[Extractor, int], ImageFeatures]
    sampling: dict[str, Any] | None
    fingerprint: str | None = None


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates images of one source, such as a run, with one reference.

    Attributes:
        source: the run, folder or archive, as the user named it; for an array or model, a description.
        images: the images of each evaluation; for a run, the samples of each combination of choices.
        reference: the images with which they are compared.
        remarks: sentences about the reference, and about files that were left out.
        home: the folder in which the folders of evaluations are made.
        stem: the start of the names of these folders, before their numbers.
        extractor: computes the features.
        progress: called while features are computed.
    """

    source: str
    images: Sequence[_EvaluatedImages]
    reference: ImageSet
    remarks: Sequence[str]
    home: Path
    stem: str
    extractor: Extractor
    progress: Progress

    @cached_property
    def yardstick(self) -> dict[str, Any] | None:
        """The metrics of real images in place of the evaluated ones, as a yardstick, as JSON.

        The real images come from the same source as the reference, but are not part of it. For example, they
        are training images if the reference is the held-out images. There are as many as evaluated images, if
        the source has enough, because some metrics depend on the number of images. The yardstick is None if
        there are too few.
        """
        reference, count = self.reference, self.images[0].count
        others = np.setdiff1d(np.arange(len(reference.images)), reference.which)
        if min(count, len(others)) < LEAST:
            return None
        chosen = np.sort(np.random.default_rng(0).permutation(others)[:count])
        part = {"valid": "train", "train": "valid"}[reference.part]
        real = replace(reference, which=chosen, part=part)
        identity = real.identity(self.extractor)
        metrics, _ = measure_metrics(self._features_of(real), self._features_of(reference))
        return {"images": len(chosen), "part": part, "sha256": identity, "metrics": metrics}

    def _features_of(self, images: ImageSet) -> np.ndarray:
        return compute_features(images, self.extractor, partial(self.progress, "features of real images"))

    def evaluate(self, images: _EvaluatedImages, out: Path | None = None) -> Evaluation:
        """Evaluate images, write the record, and return the evaluation.

        Processes share the sampling. Process 0 alone computes metrics and writes files.
        """
        processes = current_processes()
        if not processes.leads:
            images.compute(self.extractor, SHOWN)
            return processes.broadcast(None)
        if (count := min(images.count, len(self.reference))) < LEAST:
            raise UserError(f"{count} images are too few to measure, at least {LEAST} are needed")
        with temporary_folder((out or self.home / "evaluation").resolve()) as folder:
            began = time.monotonic()
            truth = self._features_of(self.reference)
            found = images.compute(self.extractor, SHOWN)
            computed = time.monotonic()
            metrics, notes = measure_metrics(found.features, truth)
            write_array(folder / records.FEATURES, found.features)
            save_png(folder / records.GRID, enlarge(make_sheet(found.images)))
            used, of = self.extractor, self.reference
            features = records.Features(used.name, used.weights, used.resize, used.dimensions)
            size, sha256 = of.images.pixels.shape[1:3], of.identity(used)
            reference = records.ReferenceSet(of.source, of.images.fingerprint, of.part, size, len(of), sha256)
            content = {
                "metrics": metrics,
                "notes": [*self.remarks, *notes],
                "yardstick": self.yardstick,
                "features": asdict(features),
                "reference": asdict(reference),
                "generated": {
                    "images": images.count,
                    "source": self.source,
                    "fingerprint": images.fingerprint,
                    "kept": found.kept,
                    "sha256": hash_file(folder / records.FEATURES),
                },
                "sampling": images.sampling,
                "seconds": {
                    "sampling": round(found.seconds, 2),
                    "features": round(computed - began - found.seconds, 2),
                    "metrics": round(time.monotonic() - computed, 2),
                },
            }
            write_sealed(folder / records.RECORD, make_record("evaluation", content))
            written = publish_output(folder, out, self.home, self.stem)
            return processes.broadcast(read_evaluation(written))


# Samples of a run or a model


def _open_samples(
    source: str | Path | Pipeline | Model,
    asked: Reference,
    choices: Sequence[Choice],
    seeds: range,
    extractor: Extractor,
    progress: Progress,
    loading: Mapping[str, Any],
) -> _Evaluator:
    """Open a run or a model, whose samples are evaluated for each combination of choices; sample nothing yet.

    Without a choice, the reference is the held-out images of the run, or all of its images if fewer than
    `LEAST` are held out. Features of samples of a model in memory are not cached, as its weights may have
    changed.
    """

    @cache
    def open_weights(name: str) -> Pipeline:
        if isinstance(source, str | Path):
            return load(source, name, **loading)
        return open_pipeline(source)

    named = isinstance(source, str | Path)
    if not named and "weights" in choices[0]:
        raise UserError("weights can be chosen for a run folder, but a model in memory has its own")
    model = open_weights("ema")
    reference, remarks = image_sets.open_reference(model, asked, progress), []
    if asked == Reference() and (count := len(reference.which)) < LEAST:
        reference = replace(reference, which=np.arange(len(reference.images)), part="all")
        remarks.append(f"the reference is all images of the run, because only {count} are held out")
    if asked.data is None and reference.part != "valid":
        remarks.append("the run was trained on images of the reference, so copies of them look good here")
    if isinstance(source, Model):
        known = "what ddim.load returns knows its range"
        remarks.append(f"the model is sampled as one of images in [-1, 1]; {known}")
    images = []
    for choice in choices:
        pipeline, fields = open_weights(choice.get("weights", "ema")), dict(choice)
        own = {name: fields.pop(name, None) for name in OWN}
        setup = open_samples(pipeline, own["steps"], seeds, {**own, "fields": fields})
        watch = continue_progress(progress, len(images) * len(seeds), len(choices) * len(seeds))
        samples = SampledParts(setup, seeds, watch, cached=named)
        images.append(_EvaluatedImages(len(seeds), samples.compute_features, samples.record))
    run = model.checkpoint.run if isinstance(model, LoadedRun) else None
    home, stem = find_home(run, records.FOLDER) if run else (Path(records.FOLDER), "model-")
    name, extractor = str(source) if named else repr(model), extractor.to(model.runtime.exact_device)
    return _Evaluator(name, images, reference, remarks, home, stem, extractor, progress)


# Images that are given


def _open_given_images(
    source: Given, n: int | None, asked: Reference, extractor: Extractor, progress: Progress
) -> _Evaluator:
    """Open the first `n` of the images that a user gives, by default all.

    Raises:
        UserError: if there are no images, or their reference is not named.
    """
    if isinstance(source, str | Path):
        name, stem = str(source), re.sub(r"[^\w.-]+", "-", Path(source).resolve().name)
        found, sampling = _find_images(Path(source))
    else:
        name, stem = f"tensor {' x '.join(map(str, source[:n].shape))}", "tensor"
        found, sampling = give_images(source[:n]), None
    header = next(read_members(found.members((64, 64)), read_header), None)
    if header is None:
        raise UserError(f"{name} is neither a run nor a folder or archive of images")
    size = header.height, header.width
    images = open_images(found, size, progress=progress)
    # Otherwise, there are more or fewer samples than the record has seeds.
    if sampling and sampling["seeds"] == [int(name) for name in images.names]:
        sampling["seeds"] = sampling["seeds"][:n]
    else:
        sampling = None
    which, channels = np.arange(len(images))[:n], choose_channels(images.pixels.shape[3])
    reference = image_sets.open_other_images(asked, Data(size=size, channels=channels), progress)
    given = ImageSet(image_sets.share_range(images, reference.images.values), which, name, "all")

    def compute(extractor: Extractor, shown: int) -> ImageFeatures:
        features = compute_features(given, extractor, partial(progress, "images"))
        return ImageFeatures(features, torch.from_numpy(given[:shown]).permute(0, 3, 1, 2))

    evaluated = _EvaluatedImages(len(which), compute, sampling, images.fingerprint)
    home, left_out = Path(records.FOLDER), images.describe_rejects()
    for sentence in left_out:
        warn_user(sentence)
    return _Evaluator(name, [evaluated], reference, left_out, home, f"{stem}-", extractor, progress)


def _find_images(path: Path) -> tuple[ImageSource, dict[str, Any] | None]:
    """Return the source of the images at a path, and the record of sampling if `ddim sample` wrote them.

    Of a folder of samples, only the files that are named by a seed are read, in the order of the seeds.
    """
    file = path / "record.json"
    record = read_sealed(file) if file.is_file() else {}
    if record.get("kind") != "samples":
        return find_source(str(path)), None
    samples = [file for file in path.iterdir() if SAMPLE.fullmatch(file.name)]
    outside = {"schema", "kind", "time", "seconds", "film"}
    sampling = {name: value for name, value in record.items() if name not in outside}
    return Files([(f"{int(file.stem):010d}", file, None) for file in samples]), sampling
