"""The images that an evaluation measures: samples of a run or a model, or images that are given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from ddim.data import Images
from ddim.data.cache import load_images
from ddim.data.decode import UnusableError, hide_warnings, read_header
from ddim.data.images import gather_batch
from ddim.data.open import find_source
from ddim.data.remote import Files, names_repository
from ddim.data.sources import Member, Reject
from ddim.data.values import choose_channels
from ddim.diffusion.denoiser import Model
from ddim.errors import UserError
from ddim.evaluation.choices import OWN, Choice
from ddim.evaluation.measure import to_pixels
from ddim.evaluation.record import FOLDER
from ddim.evaluation.reference import Reference, open_other_images, open_reference, share_range
from ddim.evaluation.sample_features import ImageFeatures, SampledParts
from ddim.files import read_sealed
from ddim.machine.progress import Progress, continue_progress, watch_reading
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor
from ddim.plots.pictures import to_pictures
from ddim.recipe.recipe import Data
from ddim.runs.names import find_run_folder, is_checkpoint, is_run_folder, parse_place
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.pipeline import LoadedRun, Pipeline, load, open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup, choose_sampling, collect_guidance

SAMPLE = re.compile(r"\d{5,}\.(png|npy)")
"""The names of the samples in a folder; a name begins with the seed."""

Given = str | Path | Tensor | np.ndarray
"""Images that are given: a path, the name of a data set, or images (N, C, H, W)."""

Source = Given | Pipeline | Model
"""The images to evaluate: images that are given, or a run or a model in memory, which is sampled."""


@dataclass(frozen=True)
class EvaluatedImages:
    """Images to be evaluated.

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
class Opened:
    """A run, a model or images that are given, ready for their evaluations.

    Attributes:
        source: the run, folder or archive, as the user named it; for an array or model, a description.
        images: the images of each evaluation; for a run, the samples of each combination of choices.
        reference: the images with which they are compared.
        remarks: sentences about the reference.
        device: where features are computed.
        home: the folder in which the folders of evaluations are made.
        stem: the start of the names of these folders, before their numbers.
    """

    source: str
    images: Sequence[EvaluatedImages]
    reference: ImageSet
    remarks: Sequence[str]
    device: str
    home: Path
    stem: str


# Samples of a run or a model


def open_samples(
    source: str | Path | Pipeline | Model,
    asked: Reference,
    choices: Sequence[Choice],
    seeds: range,
    progress: Progress,
    device: str | None = None,
    threads: int | None = None,
) -> Opened:
    """Open a run or a model, whose samples are evaluated for each combination of choices; sample nothing yet.

    Without a choice, the reference is the held-out images of the run, or all of its images if fewer than
    `LEAST` are held out. Features of samples of a model in memory are not cached, as its weights may have
    changed.
    """

    @cache
    def open_weights(name: str) -> Pipeline:
        if isinstance(source, str | Path):
            return load(source, name, device=device, threads=threads)
        return open_pipeline(source)

    named = isinstance(source, str | Path)
    if not named and "weights" in choices[0]:
        raise UserError("weights can be chosen for a run folder, but a model in memory has its own")
    model = open_weights("ema")
    run = model.checkpoint.run if isinstance(model, LoadedRun) else None
    if run is None and asked.data is None:
        raise UserError("a model has no images of its own: name the reference images")
    reference, remarks = open_reference(model, asked, progress), []
    if asked == Reference() and (count := len(reference.which)) < LEAST:
        reference = replace(reference, which=np.arange(len(reference.images)), part="all")
        remarks.append(f"the reference is all images of the run, because only {count} are held out")
    if asked.data is None and reference.part != "valid":
        remarks.append("the run was trained on images of the reference, so copies of them look good here")
    images = []
    for choice in choices:
        setup = choose_setup(open_weights(choice.get("weights", "ema")), choice)
        watch = continue_progress(progress, len(images) * len(seeds), len(choices) * len(seeds))
        samples = SampledParts(setup, seeds, watch, cached=named)
        images.append(EvaluatedImages(len(seeds), samples.compute_features, samples.record))
    name, device = str(source) if named else repr(model), model.runtime.exact_device
    return Opened(name, images, reference, remarks, device, *_find_home(run))


def choose_setup(pipeline: Pipeline, choice: Choice) -> SamplingSetup:
    """Return how a model is sampled with one combination of choices."""
    label = pipeline.find_label(choice.get("label"))
    guided = (choice.get(name) for name in ("guidance", "guidance_interval", "guide_with"))
    fields = {name: value for name, value in choice.items() if name not in OWN}
    guidance = collect_guidance(*guided)
    return choose_sampling(pipeline, choice.get("steps"), label, fields, guidance=guidance)


def _find_home(run: Path | None) -> tuple[Path, str]:
    """Return the folder for evaluations of a run or model, and the start of the names in this folder."""
    if run is None:
        return Path(FOLDER), "model-"
    folder = find_run_folder(run)
    if is_checkpoint(folder):  # it belongs to no run, and nothing is added to it
        return Path(FOLDER), f"{folder.resolve().name}-"
    return folder / FOLDER, ""


# Images that are given


def is_given(source: Source) -> TypeGuard[Given]:
    """Return whether a source is images, and not a run, a checkpoint or a model that is sampled."""
    if isinstance(source, str | Path):
        return not (names_repository(source) or is_run_folder(parse_place(str(source))[0]))
    return isinstance(source, Tensor | np.ndarray)


def open_given_images(source: Given, n: int | None, asked: Reference, progress: Progress) -> Opened:
    """Open the first `n` of the images that a user gives, by default all.

    Raises:
        UserError: if there are no images, or fewer than n, or their reference is not named.
    """
    if isinstance(source, str | Path):
        images, sampling = _read_images(Path(source), progress)
        name, stem = str(source), re.sub(r"[^\w.-]+", "-", Path(source).resolve().name)
    else:
        images, sampling = _hold_images(source), None
        name, stem = f"tensor {' x '.join(map(str, source.shape))}", "tensor"
    if asked.data is None:
        raise UserError(f"{name} is no run: name the reference images")
    count = len(images) if n is None else n
    if count > len(images):
        raise UserError(f"n must be at most the number of images, {len(images):,}, or left out, got {n:,}")
    if sampling:
        sampling["seeds"] = sampling["seeds"][:count]
    _, height, width, channels = images.pixels.shape
    data = Data(size=(height, width), channels=choose_channels(channels))
    reference = open_other_images(asked, data, progress=progress)
    images = share_range(images, reference.images.values)
    given = ImageSet(images, np.arange(count), name, "all")

    def compute(extractor: Extractor, shown: int) -> ImageFeatures:
        features = compute_features(given, extractor, partial(progress, "images"))
        first = to_pictures(gather_batch(images, given.which[:shown]))
        return ImageFeatures(features, first, sampling["nfe"] if sampling else 0)

    evaluated = EvaluatedImages(count, compute, sampling, images.fingerprint)
    return Opened(name, [evaluated], reference, (), "cpu", Path(FOLDER), f"{stem}-")


def _hold_images(given: Tensor | np.ndarray) -> Images:
    """Return images (N, C, H, W) in memory."""
    pixels = to_pixels(given)
    content = f"{pixels.shape}".encode() + pixels.tobytes()
    return Images(pixels, None, (), (), hashlib.sha256(content).hexdigest())


def _read_images(source: Path, progress: Progress) -> tuple[Images, dict[str, Any] | None]:
    """Return the images of a source, in their size, and the record of sampling if `ddim sample` wrote them.

    Of a folder of samples, only the files that are named by a seed are read, in the order of the seeds. The
    record is None if there are more or fewer samples than it has seeds.
    """
    file = source / "record.json"
    record = read_sealed(file) if file.is_file() else {}
    sampled = record.get("kind") == "samples"
    if sampled:
        samples = [path for path in source.iterdir() if SAMPLE.fullmatch(path.name)]
        found = Files([(f"{int(path.stem):010d}", path, None) for path in samples])
    else:
        found = find_source(str(source))
    size = _first_size(found.members((64, 64)), source)
    images = load_images(found, str(source), size, progress=watch_reading(progress))
    if not sampled or [int(name) for name in images.names] != record["seeds"]:
        return images, None
    outside = {"schema", "kind", "time", "seconds", "film"}
    return images, {name: value for name, value in record.items() if name not in outside}


def _first_size(members: Iterator[Member | Reject], source: Path) -> tuple[int, int]:
    """Return (height, width) of the first readable image of a source."""
    for item in members:
        if isinstance(item, Member):
            with suppress(UnusableError), hide_warnings():
                header = read_header(item.data)
                return header.height, header.width
    raise UserError(f"{source} is neither a run nor a folder or archive of images")
