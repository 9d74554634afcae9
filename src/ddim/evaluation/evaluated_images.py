"""The images that an evaluation measures: samples of a run, or images of a folder or archive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.cache import load_images
from ddim.data.decode import UnusableError, hide_warnings, read_header
from ddim.data.images import check_size, gather_batch
from ddim.data.open import find_source, source_exists
from ddim.data.remote import names_repository
from ddim.data.sources import Folder, Member, Reject
from ddim.data.values import choose_channels
from ddim.diffusion.denoiser import Model
from ddim.errors import UserError, describe_given, format_count
from ddim.evaluation.record import FOLDER
from ddim.evaluation.record_entries import describe_part, parse_sampling
from ddim.evaluation.reference import (
    BY_ARGUMENT,
    Reference,
    open_reference,
    select_reference,
    share_range,
)
from ddim.evaluation.sample_features import FeatureBatch, SampledParts
from ddim.evaluation.samples import Samples
from ddim.files import read_sealed
from ddim.machine.progress import Progress, watch_reading
from ddim.metrics.features import Extractor
from ddim.plots.pictures import check_images, to_pictures, to_uint8
from ddim.recipe.recipe import Data
from ddim.runs.names import (
    find_checkpoint,
    find_run_folder,
    is_checkpoint,
    is_run_folder,
    locate_run,
    names_checkpoint,
    suggest_run,
)
from ddim.sampling.generate import sample_uint8
from ddim.sampling.image_features import BATCH, ImageSet
from ddim.sampling.labels import find_label
from ddim.sampling.pictures import read_saved_image
from ddim.sampling.pipeline import LoadedRun, Pipeline, evaluating, load, open_pipeline
from ddim.sampling.record import sampling_record
from ddim.sampling.sampling_setup import SamplingSetup, choose_sampling, collect_guidance

SAMPLE = re.compile(r"\d{5,}\.(png|npy)")
"""The names of the samples in a folder; a name begins with the seed."""


@dataclass(frozen=True)
class EvaluatedImages:
    """Images to be evaluated, and the images with which they are compared.

    Args:
        source: the run, folder or archive, as the user named it; for a tensor or model, a description.
        count: number of images.
        parts: a function that yields the images and their features part by part. Its arguments are the
            extractor and a number n: the first n images are shown, so their parts must contain the images.
        reference: the images with which they are compared.
        sampling: the record of sampling, as JSON; None if the images have no such record.
        home: the folder in which the folder of an evaluation is made.
        stem: the start of the name of the evaluation's folder, before its number.
        fingerprint: the fingerprint of the given images; None for samples of a run or model.
        device: where features are computed: the exact device of the run or model, or the CPU.
    """

    source: str
    count: int
    parts: Callable[[Extractor, int], Iterator[FeatureBatch]]
    reference: ImageSet
    sampling: dict[str, Any] | None
    home: Path
    stem: str = ""
    fingerprint: str | None = None
    device: str = "cpu"

    @property
    def sampled(self) -> bool:
        """Whether the images are sampled from a run; all processes then divide the sampling among them."""
        return isinstance(self.parts, SampledParts)

    @property
    def summary(self) -> str:
        """One line that describes the images and their reference."""
        of = self.reference
        pairs = f"{self.count:,} images against {describe_part(len(of.which), of.part, of.source)}"
        if self.sampling is None:
            return pairs
        sampling = parse_sampling(self.sampling)
        # Samples in a folder may have an older record, without the name of the sampler.
        sampler = sampling.sampler_name or sampling.sampler.get("kind", "own sampler")
        grid, steps = sampling.grid.get("kind", "own"), len(sampling.times)
        found = isinstance(self.parts, SampledParts) and self.parts.setup.guidance.searched
        note = "found by ddim search (--guidance 1 turns it off)" if found else ""
        how = ", ".join(filter(None, (sampler, sampling.guidance_name, note)))
        how = f"{how}, {grid} grid, {format_count(steps, 'step')}"
        return f"{how}, {format_count(sampling.nfe, 'network evaluation')} each: {pairs}"

    def describe(self) -> dict[str, Any]:
        """Return the entries of a record about the images, as JSON."""
        return {"images": self.count, "source": self.source, "fingerprint": self.fingerprint}


def is_run(path: Path) -> bool:
    """Return whether a path names a run (in a folder or on the Hub) or a checkpoint, rather than images."""
    return names_repository(path) or is_run_folder(path)


Source = str | Path | Tensor | np.ndarray | Pipeline | Model
"""The images to evaluate: a path, images (N, C, H, W), or a model in memory, which is sampled."""


def open_evaluated_images(
    source: Source, samples: Samples, reference: Reference, progress: Progress
) -> EvaluatedImages:
    """Return the samples of a run or model, or the given images, with their reference.

    Raises:
        UserError: if there are no images, the given images have no reference, or `source` has another type.
    """
    if isinstance(source, Pipeline | Model):
        return _sample_model(open_pipeline(source), samples, reference, progress)
    if isinstance(source, np.ndarray):
        # An array that is read-only or reversed, such as bgr[..., ::-1], is copied.
        source = torch.from_numpy(np.require(source, None, ["C", "W"]))
    if isinstance(source, Tensor):
        samples.check_given("images in memory")
        return _take_images(source, samples.n, reference, progress)
    if not isinstance(source, str | Path):
        raise UserError(
            "images must be a path, a tensor or an array (N, C, H, W), a pipeline or a model, "
            f"got {describe_given(source)}"
        )
    source = Path(source)
    if is_run(source):
        return _sample_run(source, samples, reference, progress)
    if reference.data is None:
        if not source_exists(str(source)):
            what = "name a run or a folder or archive of images"
            raise UserError(f"{source} does not exist: {what}{suggest_run(source)}")
        raise UserError(f"{source} is not a run: name the reference images, {BY_ARGUMENT}")
    samples.check_given("the images of a folder or archive")
    return _read_images(source, samples.n, reference, progress)


def _sample_run(path: Path, samples: Samples, reference: Reference, progress: Progress) -> EvaluatedImages:
    source, path = str(path), locate_run(path)
    path = find_named_checkpoint(path) or path
    run = load(path, samples.weights, device=samples.device, threads=samples.threads)
    setup = prepare_sampling(run, samples)
    selected = open_reference(run, reference, progress)
    parts = SampledParts(setup, samples.seeds, progress, keep=True)
    home, stem = _find_home(path)
    return EvaluatedImages(
        source, samples.count, parts, selected, parts.record, home, stem, device=run.runtime.exact_device
    )


def _find_home(path: Path) -> tuple[Path, str]:
    """Return the folder for evaluations of a run or checkpoint, and the start of the names in this folder."""
    if not is_checkpoint(path):
        return path / FOLDER, ""
    # Nothing is added to a checkpoint. For a checkpoint of a run, the evaluation is added to the run.
    run = find_run_folder(path)
    return (run / FOLDER, "") if run != path else (Path(FOLDER), f"{path.resolve().name}-")


def prepare_sampling(pipeline: Pipeline, samples: Samples) -> SamplingSetup:
    """Return how a pipeline is sampled for an evaluation."""
    label = find_label(samples.label, pipeline.recipe, pipeline.classes)
    guidance = collect_guidance(samples.guidance, samples.guidance_interval, samples.guide_with)
    parts: dict[str, Any] = {"sampler": samples.sampler, "grid": samples.grid, "guidance": guidance}
    return choose_sampling(pipeline, samples.steps, label, samples.fields, **parts)


def _sample_model(
    pipeline: Pipeline, samples: Samples, reference: Reference, progress: Progress
) -> EvaluatedImages:
    """Return samples of a model in memory; features are not cached, as the weights may have changed."""
    own = pipeline.checkpoint.weights if isinstance(pipeline, LoadedRun) else None
    if samples.weights not in (own, Samples.weights):
        raise UserError(
            f"a model in memory has its own weights: leave weights out, or load it with {samples.weights!r}"
        )
    setup = prepare_sampling(pipeline, samples)
    shape, home, stem = pipeline.model.shape, Path(FOLDER), "model-"
    if isinstance(pipeline, LoadedRun):
        selected = open_reference(pipeline, reference, progress)
        path = pipeline.checkpoint.run
        home, stem = _find_home(find_named_checkpoint(path) or path)
    else:
        if reference.data is None:
            raise UserError("a model has no images of its own: name the reference images")
        channels = choose_channels(shape.channels)
        data = replace(pipeline.recipe.data, size=(shape.height, shape.width), channels=channels)
        selected = select_reference(reference, data, 0, progress, pipeline.values)

    def parts(extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        with evaluating(pipeline.model):
            for images, nfe in sample_uint8(setup, samples.seeds, progress):
                yield FeatureBatch(extractor(images).numpy(), images, nfe)

    sampling = {"weights": "in memory", "step": 0, **sampling_record(setup, samples.seeds)}
    source, device = repr(setup.pipeline), pipeline.runtime.exact_device
    return EvaluatedImages(source, samples.count, parts, selected, sampling, home, stem, device=device)


def _count_images(found: int, n: int | None) -> int:
    """Return the number of images to use: `n`, or the number `found` if `n` is None.

    Raises:
        UserError: if `n` is larger than `found`.
    """
    if n is not None and n > found:
        raise UserError(f"n must be at most the number of images, {found:,}, or left out, got {n:,}")
    return found if n is None else n


def _take_images(source: Tensor, n: int | None, reference: Reference, progress: Progress) -> EvaluatedImages:
    if reference.data is None:
        raise UserError("images need a reference: name the images that they are compared with")
    check_images(source)
    pixels = torch.from_numpy(to_uint8(source[: _count_images(len(source), n)])).permute(0, 3, 1, 2)
    count, channels, height, width = pixels.shape
    data = Data(size=(height, width), channels=channels)
    selected = select_reference(reference, data, 0, progress)

    def parts(extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        for first in range(0, count, BATCH):
            some = pixels[first : first + BATCH]
            yield FeatureBatch(extractor(some).numpy(), some, 0)

    fingerprint = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    name = f"tensor {count} x {channels} x {height} x {width}"
    return EvaluatedImages(name, count, parts, selected, None, Path(FOLDER), "tensor-", fingerprint)


def _read_images(source: Path, n: int | None, reference: Reference, progress: Progress) -> EvaluatedImages:
    arrays = _SampleArrays(source)
    found = arrays if _is_sample_folder(source) and arrays.list_names() else find_source(str(source))
    size = _first_size(found.members((64, 64)), source)
    check_size(size)
    images = load_images(found, str(source), size, progress=watch_reading(progress))
    which, sampling = _select_samples(source, images)
    which = which[: _count_images(len(which), n)]
    if sampling:
        sampling["seeds"] = sampling["seeds"][: len(which)]
    data = Data(size=size)
    selected = select_reference(reference, data, 0, progress)
    images = share_range(images, selected.images.values)
    nfe = sampling["nfe"] if sampling else 0

    def parts(extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        for first in range(0, len(which), BATCH):
            pixels = to_pictures(gather_batch(images, which[first : first + BATCH]))
            yield FeatureBatch(extractor(pixels).numpy(), pixels if first < shown else None, nfe)

    stem = re.sub(r"[^\w.-]+", "-", source.resolve().name)
    return EvaluatedImages(
        str(source), len(which), parts, selected, sampling, Path(FOLDER), f"{stem}-", images.fingerprint
    )


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


def _is_sample_folder(source: Path) -> bool:
    """Return whether `ddim sample` wrote a folder."""
    return (source / "record.json").is_file()


def _first_size(members: Iterator[Member | Reject], source: Path) -> tuple[int, int]:
    """Return (height, width) of the first readable image of a source."""
    for item in members:
        if isinstance(item, Member):
            with suppress(UnusableError), hide_warnings():
                header = read_header(item.data)
                return header.height, header.width
    raise UserError(f"{source} is neither a run nor a folder or archive of images")


def _select_samples(source: Path, images: Images) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Return the indices of the samples in a source, and the record of how they were sampled, or None.

    In a folder that `ddim sample` wrote, the samples are the files that are named by a seed, in the order of
    the seeds; the sheet is left out.
    """
    if not _is_sample_folder(source):
        return np.arange(len(images)), None
    places = {int(name[:-4]): k for k, name in enumerate(images.names) if SAMPLE.fullmatch(name)}
    seeds = sorted(places)
    sampling, record = None, read_sealed(source / "record.json")
    with suppress(UserError):  # an older record lacks entries
        if parse_sampling(record).seeds == tuple(seeds):
            outside = {"schema", "kind", "time", "seconds", "film"}
            sampling = {name: value for name, value in record.items() if name not in outside}
    return np.array([places[seed] for seed in seeds], np.int64), sampling


def find_named_checkpoint(run: str | Path) -> Path | None:
    """Return the checkpoint of a run for the path RUN/best or RUN/guide, and None for any other path.

    Raises:
        UserError: if the run has no such checkpoint.
    """
    return find_checkpoint(run) if names_checkpoint(run) else None
