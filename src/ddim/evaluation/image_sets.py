"""The images of an evaluation: real images to compare with, and samples of a run with their features.

Features of samples are computed part by part and kept in the cache folder. A part is a batch of samples of
consecutive seeds. Parts are kept under a hash of everything on which they depend. Therefore a stopped
evaluation continues where it stopped, an evaluation of more samples makes only the new samples, and other
features of the same samples need no sampling. Samples are divided into the same parts whether or not they are
in the cache, so the metrics are bit-identical in both cases.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.arrays import GivenImages
from ddim.data.values import EIGHT_BITS, Reading, Values, choose_channels
from ddim.errors import UserError
from ddim.files import cache_folder, hash_json
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, continue_progress, ignore_progress
from ddim.metrics.features import Extractor
from ddim.recipe.recipe import Data
from ddim.runs.names import is_run_folder
from ddim.sampling.generate import sample_uint8, split_into_parts
from ddim.sampling.image_features import BATCH, ImageSet, keep_part, name_part, read_part
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import LoadedRun, Pipeline
from ddim.sampling.record import sample_conditions, sampling_record
from ddim.sampling.sampling_setup import SamplingSetup

Part = Literal["valid", "train", "all"]


@dataclass(frozen=True)
class Reference:
    """The images that samples are compared with.

    Args:
        data: a folder, an archive, the name of a data set or images in memory; None for the run's own.
        part: "valid", "train" or "all". None means "valid" for the run's own images, and "all" for other
            images.

    Raises:
        UserError: if `data` is a run.
    """

    data: str | Path | GivenImages | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, str | Path) and is_run_folder(self.data):
            raise UserError(f"{self.data} is a run: name images, such as those it was trained on or sampled")

    def select(self, split: SplitImages, source: str) -> ImageSet:
        """Return the part of the images of a source."""
        part = self.part or ("all" if self.data else "valid")
        every = np.arange(len(split.images))
        which = {"valid": split.validation, "train": split.train, "all": every}[part]
        return ImageSet(split.images, which, source, part)


def open_reference(run: Pipeline, reference: Reference, progress: Progress = ignore_progress) -> ImageSet:
    """Return the images of a reference, decoded, and split into training and held-out images as in `run`.

    Raises:
        UserError: if the images cannot be opened. Also if they are the run's own images, and have changed.
    """
    data = run.recipe.data
    if reference.data is not None or not isinstance(run, LoadedRun):
        data = replace(data, channels=choose_channels(run.model.shape.channels))
        return open_other_images(reference, data, progress, run.recipe.split_seed, run.values)
    return reference.select(open_run_images(run, progress), data.source)


def open_other_images(
    reference: Reference, data: Data, progress: Progress, seed: int = 0, values: Values = EIGHT_BITS
) -> ImageSet:
    """Return the images of a reference that are not a run's own, decoded and split as `data` says.

    Args:
        reference: the choice of the images.
        data: the size, the channels and the validation share.
        progress: called while images are decoded.
        seed: the seed of the split; see `Recipe.split_seed`.
        values: the type and range of other values, whose range these images share.

    Raises:
        UserError: if the images cannot be opened, or `reference` names none.
    """
    if reference.data is None:
        raise UserError("only a run has images of its own: name the reference images")
    source = reference.data.text if isinstance(reference.data, GivenImages) else str(reference.data)
    images = open_images(source, data.size, data.channels, reading=Reading(axis=data.axis), progress=progress)
    split = split_images(share_range(images, values), data.validation, seed)
    return reference.select(split, source)


def share_range(images: Images, values: Values) -> Images:
    """Return images with the range of `values` if their pixels have its type, so that both have one scale.

    Values outside the range are treated as the nearer end.
    """
    return replace(images, values=values) if images.values.type == values.type else images


# Samples

LARGEST_KEPT = 2**26
"""The largest size of all samples of an evaluation that are kept in the cache, in bytes."""

_NO_IMAGES = torch.empty(0, dtype=torch.uint8, device="cpu")


@dataclass(frozen=True)
class ImageFeatures:
    """The features of images that are evaluated.

    Attributes:
        features: (N, dimensions) float32.
        images: the first images, (n, C, H, W) uint8.
        kept: number of images that were not sampled, because they or their features were in the cache.
        seconds: seconds of sampling.
    """

    features: np.ndarray
    images: Tensor
    kept: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SampledParts:
    """Samples of a run.

    Attributes:
        setup: the run, with steps, label and guidance.
        seeds: consecutive seeds.
        progress: called with "samples" after each sampling step.
        cached: False to neither use nor write the cache, for a model in memory, whose weights may change.
    """

    setup: SamplingSetup
    seeds: range
    progress: Progress = ignore_progress
    cached: bool = True

    def compute_features(self, extractor: Extractor, shown: int = 0) -> ImageFeatures:
        """Return the features in the order of the seeds, and the first `shown` samples.

        The samples are kept in the cache if they are shown, or if some are shown and all need at most
        `LARGEST_KEPT` bytes. If there are several processes, they share the work, but each returns all.
        """
        processes = current_processes()
        parts = [*split_into_parts(self.setup.pipeline, self.seeds, BATCH)]
        found: list[ImageFeatures] = []
        for first in range(0, len(parts), processes.count):
            mine = processes.share(parts[first : first + processes.count])
            found += processes.interleave([self._measure(seeds, extractor, shown) for seeds in mine])
            self.progress("samples", sum(len(part.features) for part in found), len(self.seeds))
        return ImageFeatures(
            np.concatenate([part.features for part in found]),
            torch.cat([part.images for part in found])[:shown],
            sum(part.kept for part in found),
            sum(part.seconds for part in found),
        )

    def samples(self) -> Tensor:
        """Return the samples (N, C, H, W) as uint8."""
        parts = split_into_parts(self.setup.pipeline, self.seeds, BATCH)
        return torch.cat([self._sample(seeds, keep=self._few)[0] for seeds in parts])

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the samples, on which the path in the cache depends."""
        return {"weights": "in memory", "step": 0, **sampling_record(self.setup, self.seeds)}

    @property
    def _few(self) -> bool:
        """Whether all samples need so few bytes that they are kept."""
        shape = self.setup.pipeline.model.shape
        return len(self.seeds) * shape.channels * shape.height * shape.width <= LARGEST_KEPT

    def _measure(self, seeds: Sequence[int], extractor: Extractor, shown: int) -> ImageFeatures:
        """Return the features of the part with these seeds; compute those that are not in the cache."""
        path = self._path(seeds, extractor)
        known = read_part(path, "features") if self.cached else None
        pictured = seeds[0] - self.seeds[0] < shown
        if known is not None and not pictured:
            return ImageFeatures(known["features"].numpy(), _NO_IMAGES, len(seeds))
        samples, seconds = self._sample(seeds, keep=pictured or (shown > 0 and self._few))
        if known is None:
            known = {"features": extractor(samples).clone()}
            if self.cached:
                keep_part(path, known)
        images = samples if pictured else _NO_IMAGES
        kept = 0 if seconds else len(seeds)
        return ImageFeatures(known["features"].numpy(), images, kept, seconds)

    def _sample(self, seeds: Sequence[int], *, keep: bool) -> tuple[Tensor, float]:
        """Return the samples with these seeds, and the seconds that sampling took.

        Samples from the cache took 0 seconds.
        """
        path = self._path(seeds)
        known = read_part(path, "images") if self.cached else None
        if known is not None:
            return known["images"], 0.0
        began = time.monotonic()
        onward = continue_progress(self.progress, seeds[0] - self.seeds[0], len(self.seeds))
        ((images, _),) = sample_uint8(self.setup, seeds, onward)
        seconds = time.monotonic() - began
        images = images.contiguous()
        if keep and self.cached:
            # Samples that cannot be kept are made again when they are needed again.
            with suppress(OSError):
                keep_part(path, {"images": images})
        return images, seconds

    def _path(self, seeds: Sequence[int], extractor: Extractor | None = None) -> Path:
        """Return the file of the features of a part, or of its samples if there is no extractor.

        The name of its folder has the SHA-256 (hex) of everything on which its files depend, apart from the
        seeds.
        """
        facts = [sample_conditions(self.record)]
        facts += [] if extractor is None else [extractor.name, extractor.weights, extractor.resize]
        return cache_folder() / "features" / f"samples-{hash_json(facts)}" / name_part(seeds)
