"""Compute the features of a run's samples part by part, and keep each part in the cache folder.

A part is a batch of samples of consecutive seeds. Parts are kept under a hash of everything on which their
features depend. Therefore a stopped evaluation continues where it stopped, and an evaluation of more samples
makes only the new samples. Samples are divided into the same parts whether or not they are in the cache, so
the metrics are bit-identical in both cases.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ddim.errors import UserError
from ddim.files import cache_folder, make_folder, read_file, write_atomic
from ddim.metrics.features import Extractor
from ddim.nn.processes import current_processes
from ddim.runs.classes import Label
from ddim.runs.generate import sample_uint8, split_into_parts
from ddim.runs.guidance import Guidance
from ddim.runs.image_features import BATCH, unwritable_cache
from ddim.runs.pipeline import Pipeline
from ddim.runs.progress import Progress, continue_progress, ignore_progress
from ddim.runs.provenance import sample_conditions

LARGEST_PART = 2**32
"""The largest file of a part that is read, in bytes."""


@dataclass(frozen=True)
class Part:
    """A batch of the images that are evaluated, with their features.

    Attributes:
        features: (B, dimensions) float32.
        images: (B, C, H, W) uint8; may be None if the images were not asked for.
        nfe: network evaluations per image.
        sampling: seconds that sampling took.
        kept: whether the features are from the cache.
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
        pipeline: the run.
        seeds: consecutive seeds.
        steps: sampling steps.
        label: see `ddim.runs.generate.generate`.
        guidance: see `ddim.runs.generate.generate`.
        sampling: the record of the samples, on which the path in the cache depends.
        progress: called with "samples" after each sampling step.
    """

    pipeline: Pipeline
    seeds: range
    steps: int
    label: Label
    guidance: Guidance
    sampling: Mapping[str, Any]
    progress: Progress = ignore_progress

    def __call__(self, extractor: Extractor, shown: int) -> Iterator[Part]:
        """Yield features part by part, in the order of the seeds; the first `shown` samples come with images.

        If there are several processes, they share the work, but each process yields all parts.

        Raises:
            UserError: if the cache folder cannot be written.
        """
        folder = cache_folder() / "features" / f"samples-{self._identity(extractor)}"
        try:
            make_folder(folder)
        except OSError as error:
            raise unwritable_cache(folder, error) from None
        processes = current_processes()
        parts = [*split_into_parts(self.pipeline, self.seeds, BATCH)]
        for first in range(0, len(parts), processes.count):
            mine = processes.share(parts[first : first + processes.count])
            yield from processes.interleave([self._open(seeds, extractor, folder, shown) for seeds in mine])

    def _open(self, seeds: Sequence[int], extractor: Extractor, folder: Path, shown: int) -> Part:
        """Return the part with these seeds, from the cache folder if possible.

        If the part is not in the cache folder, or lacks some of the first `shown` images, make and save it.
        """
        path, pictured = folder / f"{seeds[0]}-{len(seeds)}", seeds[0] - self.seeds[0] < shown
        part = _read(path)
        if part is None or (pictured and part.images is None):
            part = self._make(seeds, extractor)
            _keep(path, part, pictured)
        return part

    def _make(self, seeds: Sequence[int], extractor: Extractor) -> Part:
        began = time.monotonic()
        onward = continue_progress(self.progress, seeds[0] - self.seeds[0], len(self.seeds))
        ((images, nfe),) = sample_uint8(self.pipeline, seeds, self.steps, self.label, self.guidance, onward)
        seconds = time.monotonic() - began
        return Part(extractor(images).numpy(), images, nfe, seconds)

    def _identity(self, extractor: Extractor) -> str:
        """Return the SHA-256 (hex) of everything that the features depend on, apart from the seeds."""
        facts = [sample_conditions(self.sampling), extractor.name, extractor.weights, extractor.resize]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Part | None:
    """Return a part from its file, or None if the file is missing or damaged."""
    with suppress(OSError, UserError, SafetensorError, KeyError):
        digest, content = (whole := read_file(path, LARGEST_PART))[:32], whole[32:]
        if hashlib.sha256(content).digest() == digest:
            found = safetensors.torch.load(content)
            return Part(found["features"].numpy(), found.get("images"), int(found["nfe"]), kept=True)
    return None


def _keep(path: Path, part: Part, pictured: bool) -> None:
    found = {"features": torch.from_numpy(part.features), "nfe": torch.tensor(part.nfe)}
    if pictured and part.images is not None:
        found["images"] = part.images.contiguous()
    content = safetensors.torch.save(found)
    try:
        write_atomic(path, hashlib.sha256(content).digest() + content)
    except OSError as error:
        raise unwritable_cache(path.parent, error) from None
