"""Samples of a run and their features, computed part by part and kept in the cache folder.

A part is a batch of samples of consecutive seeds. Parts are kept under a hash of everything on which they
depend. Therefore a stopped evaluation continues where it stopped, an evaluation of more samples makes only
the new samples, and other features of the same samples need no sampling. Samples are divided into the same
parts whether or not they are in the cache, so the metrics are bit-identical in both cases.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.files import cache_folder
from ddim.machine.distributed import current_processes
from ddim.machine.progress import Progress, continue_progress, ignore_progress
from ddim.metrics.features import Extractor
from ddim.sampling.generate import SamplesNotFinite, sample_uint8, split_into_parts
from ddim.sampling.image_features import BATCH, keep_part, name_part, read_part
from ddim.sampling.record import sample_conditions, sampling_record
from ddim.sampling.sampling_setup import SamplingSetup

LARGEST_KEPT = 2**26
"""The largest size of all samples of an evaluation that are kept in the cache, in bytes."""


@dataclass(frozen=True)
class FeatureBatch:
    """A batch of the images that are evaluated, with their features.

    Attributes:
        features: (B, dimensions) float32.
        images: (B, C, H, W) uint8; may be None if the images were not asked for.
        nfe: network evaluations per image.
        sampling: seconds that sampling took.
        kept: whether the images or their features are from the cache, so that nothing was sampled.
    """

    features: np.ndarray
    images: Tensor | None
    nfe: int
    sampling: float = 0.0
    kept: bool = False


@dataclass(frozen=True)
class SampledParts:
    """Samples of a run; a call yields the samples and their features part by part.

    Attributes:
        setup: the run, with steps, label and guidance.
        seeds: consecutive seeds.
        progress: called with "samples" after each sampling step.
        keep: whether to keep the samples too if they need at most `LARGEST_KEPT` bytes. Otherwise only their
            features and the samples that are shown are kept.
        cached: False to neither use nor write the cache, for a model in memory, whose weights may change.
    """

    setup: SamplingSetup
    seeds: range
    progress: Progress = ignore_progress
    keep: bool = False
    cached: bool = True

    def __call__(self, extractor: Extractor, shown: int) -> Iterator[FeatureBatch]:
        """Yield features part by part, in the order of the seeds; the first `shown` samples come with images.

        If there are several processes, they share the work, but each process yields all parts.

        Raises:
            UserError: if the cache folder cannot be written.
        """
        folder = self._folder(extractor)
        processes = current_processes()
        parts = [*split_into_parts(self.setup.pipeline, self.seeds, BATCH)]
        for first in range(0, len(parts), processes.count):
            mine = processes.share(parts[first : first + processes.count])
            made = [self._measure(seeds, extractor, folder, shown) for seeds in mine]
            yield from processes.interleave(made)

    def samples(self) -> Iterator[Tensor]:
        """Yield the samples (B, C, H, W) part by part, as uint8."""
        for seeds in split_into_parts(self.setup.pipeline, self.seeds, BATCH):
            yield self._sample(seeds, keep=self._keeps)[0]["images"]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the samples, on which the path in the cache depends."""
        return {"weights": "in memory", "step": 0, **sampling_record(self.setup, self.seeds)}

    @property
    def _keeps(self) -> bool:
        """Whether all samples are kept."""
        shape = self.setup.pipeline.model.shape
        return self.keep and len(self.seeds) * shape.channels * shape.height * shape.width <= LARGEST_KEPT

    def _measure(self, seeds: Sequence[int], extractor: Extractor, folder: Path, shown: int) -> FeatureBatch:
        """Return the part with these seeds; compute its features if they are not in `folder`."""
        path, pictured = folder / name_part(seeds), seeds[0] - self.seeds[0] < shown
        found = read_part(path, "features", "nfe") if self.cached else None
        images, seconds = None, 0.0
        if found is None or pictured:
            samples, seconds = self._sample(seeds, keep=self._keeps or pictured)
            images = samples["images"]
            if found is None:
                features = torch.from_numpy(extractor(images).numpy())
                found = {"features": features, "nfe": samples["nfe"]}
                if self.cached:
                    keep_part(path, found)
        return FeatureBatch(found["features"].numpy(), images, int(found["nfe"]), seconds, kept=seconds == 0)

    def _sample(self, seeds: Sequence[int], *, keep: bool) -> tuple[dict[str, Tensor], float]:
        """Return "images" and "nfe" of the samples with these seeds, and the seconds that sampling took.

        Samples from the cache took 0 seconds.
        """
        path = self._folder() / name_part(seeds)
        found = read_part(path, "images", "nfe") if self.cached else None
        if found is not None:
            self.progress("samples", seeds[-1] + 1 - self.seeds[0], len(self.seeds))
            return found, 0.0
        began = time.monotonic()
        onward = continue_progress(self.progress, seeds[0] - self.seeds[0], len(self.seeds))
        ((images, nfe),) = sample_uint8(self.setup, seeds, onward)
        seconds = time.monotonic() - began
        made = {"images": images.contiguous(), "nfe": torch.tensor(nfe)}
        if keep and self.cached:
            # Samples that cannot be kept are made again when they are needed again.
            with suppress(OSError):
                keep_part(path, made)
        return made, seconds

    def _folder(self, extractor: Extractor | None = None) -> Path:
        """Return the folder of the features, or of the samples if there is no extractor.

        Its name has the SHA-256 (hex) of everything that its files depend on, apart from the seeds.
        """
        facts = [sample_conditions(self.record)]
        facts += [] if extractor is None else [extractor.name, extractor.weights, extractor.resize]
        identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "features" / f"samples-{identity}"


def sample_features(
    setup: SamplingSetup, seeds: range, extractor: Extractor, progress: Progress
) -> np.ndarray | None:
    """Return the features (n, d) of the samples of a run, from the cache if possible; None if one is NaN."""
    parts = SampledParts(setup, seeds, progress)
    with suppress(SamplesNotFinite):
        return np.concatenate([part.features for part in parts(extractor, 0)])
    return None
