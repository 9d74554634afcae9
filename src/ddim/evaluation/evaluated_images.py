"""The images that an evaluation measures: samples of a run or a model, or images that are given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.cache import load_images
from ddim.data.decode import UnusableError, hide_warnings, read_header
from ddim.data.images import gather_batch
from ddim.data.open import find_source, source_exists
from ddim.data.remote import names_repository
from ddim.data.sources import Folder, Member, Reject
from ddim.diffusion.denoiser import Model
from ddim.errors import UserError
from ddim.evaluation.choices import OWN, Choice
from ddim.evaluation.measure import to_pixels
from ddim.evaluation.record import FOLDER
from ddim.evaluation.reference import Reference, open_reference, select_reference, share_range
from ddim.evaluation.sample_features import FeatureBatch, SampledParts
from ddim.files import read_sealed
from ddim.machine.progress import Progress, watch_reading
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor
from ddim.plots.pictures import to_pictures
from ddim.recipe.recipe import Data
from ddim.runs import names
from ddim.sampling.image_features import BATCH, ImageSet
from ddim.sampling.labels import find_label
from ddim.sampling.pictures import read_saved_image
from ddim.sampling.pipeline import LoadedRun, Pipeline, load, open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup, choose_sampling, collect_guidance

SAMPLE = re.compile(r"\d{5,}\.(png|npy)")
"""The names of the samples in a folder; a name begins with the seed."""

Source = str | Path | Tensor | np.ndarray | Pipeline | Model
"""The images to evaluate: a path, images (N, C, H, W), or a model in memory, which is sampled."""

Parts = Callable[[Extractor, int], Iterator[FeatureBatch]]
"""Yields images and their features part by part. The arguments are the extractor and a number n: the first n
images are shown, so their parts must contain the images."""


@dataclass(frozen=True)
class EvaluatedImages:
    """Images to be evaluated, and the images with which they are compared.

    Attributes:
        source: the run, folder or archive, as the user named it; for a tensor or model, a description.
        reference: the images with which they are compared.
        home: the folder in which the folder of an evaluation is made.
        stem: the start of the name of the evaluation's folder, before its number.
        count: number of images.
        parts: the images and their features; see `Parts`.
        sampling: the record of sampling, as JSON; None if the images have no such record.
        fingerprint: the fingerprint of the given images; None for samples of a run or model.
        device: where features are computed.
        load: returns a model with the weights of a name; each of its weights is loaded once.
        cached: whether features and evaluations of its samples are kept and used again.
        remarks: sentences about the reference.
    """

    source: str
    reference: ImageSet
    home: Path
    stem: str
    count: int = 0
    parts: Parts = lambda extractor, shown: iter(())
    sampling: dict[str, Any] | None = None
    fingerprint: str | None = None
    device: str = "cpu"
    load: Callable[[str], Pipeline] = load
    cached: bool = False
    remarks: Sequence[str] = ()

    def sample(self, setup: SamplingSetup, seeds: range, progress: Progress) -> EvaluatedImages:
        """Return the samples of a model with these seeds."""
        parts = SampledParts(setup, seeds, progress, keep=True, cached=self.cached)
        device = setup.pipeline.runtime.exact_device
        return replace(self, count=len(seeds), parts=parts, sampling=parts.record, device=device)

    def prepare(self, choice: Choice) -> SamplingSetup:
        """Return how a model is sampled with one combination of choices."""
        pipeline = self.load(choice.get("weights", "ema"))
        label = find_label(choice.get("label"), pipeline.recipe, pipeline.classes)
        guided = (choice.get(name) for name in ("guidance", "guidance_interval", "guide_with"))
        fields = {name: value for name, value in choice.items() if name not in OWN}
        guidance = collect_guidance(*guided)
        return choose_sampling(pipeline, choice.get("steps"), label, fields, guidance=guidance)


def open_model(
    source: Source,
    asked: Reference,
    progress: Progress,
    *,
    device: str | None = None,
    threads: int | None = None,
) -> EvaluatedImages:
    """Open a run or a model, which is not sampled yet, and the images with which it is compared.

    Without a choice, these are its held-out images, or all of its images if fewer than `LEAST` are held out.
    Features of samples of a model in memory are not cached, as its weights may have changed.
    """
    load_weights = _find_loader(source, device=device, threads=threads)
    model = load_weights("ema")
    run = model.checkpoint.run if isinstance(model, LoadedRun) else None
    if run is None and asked.data is None:
        raise UserError("a model has no images of its own: name the reference images")
    selected, remarks = open_reference(model, asked, progress), []
    if asked == Reference() and (count := len(selected.which)) < LEAST:
        selected = replace(selected, which=np.arange(len(selected.images)), part="all")
        remarks.append(f"the reference is all images of the run, because only {count} are held out")
    if asked.data is None and selected.part != "valid":
        remarks.append("the run was trained on images of the reference, so copies of them look good here")
    named = isinstance(source, str | Path)
    facts = {"load": load_weights, "cached": named, "remarks": remarks}
    return EvaluatedImages(str(source) if named else repr(model), selected, *_find_home(run), **facts)


def _find_loader(source: Source, **options: Any) -> Callable[[str], Pipeline]:  # noqa: ANN401
    """Return a function that returns the model with the weights of a name."""
    if isinstance(source, str | Path):
        path, named = names.parse_place(str(source))
        path = names.locate_run(path)
        # RUN/best means one checkpoint, even if the training goes on.
        path = names.find_checkpoint(path) if names.names_checkpoint(path) else path
        return cache(lambda weights: load(path, named if weights == "ema" else weights, **options))
    pipeline = open_pipeline(source)  # type: ignore[arg-type]  (images were opened before)
    own = pipeline.checkpoint.weights if isinstance(pipeline, LoadedRun) else "ema"

    def check(weights: str) -> Pipeline:
        if weights not in (own, "ema"):
            raise UserError(f"a model in memory has its own weights: leave weights out, or load {weights!r}")
        return pipeline

    return check


def _find_home(run: Path | None) -> tuple[Path, str]:
    """Return the folder for evaluations of a run or model, and the start of the names in this folder."""
    if run is None:
        return Path(FOLDER), "model-"
    # Nothing is added to a checkpoint. For a checkpoint of a run, the evaluation is added to the run.
    inside = names.find_run_folder(run) if names.is_checkpoint(run) else run
    lone = names.is_checkpoint(run) and inside == run
    return (Path(FOLDER), f"{run.resolve().name}-") if lone else (inside / FOLDER, "")


# Images that are given


def is_given(source: Source) -> TypeGuard[str | Path | Tensor | np.ndarray]:
    """Return whether a source is images, and not a run, a checkpoint or a model that is sampled."""
    if isinstance(source, str | Path):
        return not (names_repository(source) or names.is_run_folder(names.parse_place(str(source))[0]))
    return isinstance(source, Tensor | np.ndarray)


def open_given_images(
    source: str | Path | Tensor | np.ndarray, n: int | None, reference: Reference, progress: Progress
) -> EvaluatedImages:
    """Return the first `n` of the images that a user gives, by default all, with their reference.

    Raises:
        UserError: if there are no images, or fewer than n, or their reference is not named.
    """
    if isinstance(source, str | Path) and not source_exists(str(source)):
        what = "name a run or a folder or archive of images"
        raise UserError(f"{source} does not exist: {what}{names.suggest_run(Path(source))}")
    if reference.data is None:
        what = "images in memory are" if isinstance(source, Tensor | np.ndarray) else f"{source} is"
        raise UserError(f"{what} no run: name the reference images")
    if isinstance(source, str | Path):
        return _read_images(Path(source), n, reference, progress)
    pixels = torch.from_numpy(to_pixels(source[: _count_images(len(source), n)])).permute(0, 3, 1, 2)
    count, channels, height, width = pixels.shape
    selected = select_reference(reference, Data(size=(height, width), channels=channels), 0, progress)

    def parts(extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        for some in pixels.split(BATCH):
            yield FeatureBatch(extractor(some).numpy(), some, 0)

    facts = {"fingerprint": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), "parts": parts}
    name = f"tensor {count} x {channels} x {height} x {width}"
    return EvaluatedImages(name, selected, Path(FOLDER), "tensor-", count, **facts)


def _count_images(found: int, n: int | None) -> int:
    """Return the number of images to use: `n`, or the number `found` if `n` is None."""
    if n is not None and n > found:
        raise UserError(f"n must be at most the number of images, {found:,}, or left out, got {n:,}")
    return found if n is None else n


def _read_images(source: Path, n: int | None, reference: Reference, progress: Progress) -> EvaluatedImages:
    record = _read_record(source)
    arrays = _SampleArrays(source)
    found = arrays if record and arrays.list_names() else find_source(str(source))
    size = _first_size(found.members((64, 64)), source)
    images = load_images(found, str(source), size, progress=watch_reading(progress))
    which, sampling = _select_samples(images, record) if record else (np.arange(len(images)), None)
    which = which[: _count_images(len(which), n)]
    if sampling:
        sampling["seeds"] = sampling["seeds"][: len(which)]
    selected = select_reference(reference, Data(size=size), 0, progress)
    images = share_range(images, selected.images.values)
    nfe = sampling["nfe"] if sampling else 0

    def parts(extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        for first in range(0, len(which), BATCH):
            pixels = to_pictures(gather_batch(images, which[first : first + BATCH]))
            yield FeatureBatch(extractor(pixels).numpy(), pixels if first < shown else None, nfe)

    stem = re.sub(r"[^\w.-]+", "-", source.resolve().name) + "-"
    facts = {"parts": parts, "sampling": sampling, "fingerprint": images.fingerprint}
    return EvaluatedImages(str(source), selected, Path(FOLDER), stem, len(which), **facts)


@dataclass(frozen=True)
class _SampleArrays(Folder):
    """The samples in .npy files of a folder, sorted by name. A `Folder` leaves out such files."""

    def stamp(self) -> str:
        """Return the stamp of the folder, marked as that of its arrays; see `Source`."""
        stamp = super().stamp()
        return stamp and f"{stamp}\0arrays"

    def list_names(self) -> list[str]:
        """Return the names of the samples, sorted."""
        return [name for name in super().list_names() if SAMPLE.fullmatch(name) and name.endswith(".npy")]

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield the samples, sorted by name; see `Source`."""
        for name in self.list_names():
            yield Member(name, read_saved_image(self.path / name))


def _first_size(members: Iterator[Member | Reject], source: Path) -> tuple[int, int]:
    """Return (height, width) of the first readable image of a source."""
    for item in members:
        if isinstance(item, Member):
            with suppress(UnusableError), hide_warnings():
                header = read_header(item.data)
                return header.height, header.width
    raise UserError(f"{source} is neither a run nor a folder or archive of images")


def _read_record(source: Path) -> dict[str, Any] | None:
    """Return the record of a folder that `ddim sample` wrote, None for other folders and for archives."""
    file = source / "record.json"
    record = read_sealed(file) if file.is_file() else {}
    return record if record.get("kind") == "samples" else None


def _select_samples(images: Images, record: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Return the indices of the samples in a folder, and the record of how they were sampled.

    The samples are the files that are named by a seed, in the order of the seeds; the sheet is left out. The
    record is None if there are more or fewer samples than it has seeds.
    """
    places = {int(name[:-4]): k for k, name in enumerate(images.names) if SAMPLE.fullmatch(name)}
    seeds = sorted(places)
    outside = {"schema", "kind", "time", "seconds", "film"}
    sampling = {name: value for name, value in record.items() if name not in outside}
    which = np.array([places[seed] for seed in seeds], np.int64)
    return which, sampling if sampling.get("seeds") == seeds else None
