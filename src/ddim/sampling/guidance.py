"""Guidance of samples: a scale, an interval of noise levels, and a weaker model, the guide.

Classifier-free guidance (Ho & Salimans 2022) compares the model with a class label and the model without one.
Autoguidance (Karras et al. 2024) compares the model with a guide, a smaller or less trained model, and needs
no labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Model
from ddim.diffusion.guidance import Guided, Interval, Rescheduled, check_reach, lies_inside
from ddim.errors import UserError
from ddim.recipe.checks import check_diffusion_model, check_unconditional
from ddim.sampling.classes import Label
from ddim.sampling.pipeline import LoadedRun, Pipeline

LARGEST_SCALE = 1e6
"""The largest guidance scale; useful scales are below 20."""


@dataclass(frozen=True)
class Guide:
    """A weaker model that guides another model.

    Attributes:
        name: the name that the user gave, such as "@guide" or "runs/small-1@raw".
        run: the loaded model.
    """

    name: str
    run: LoadedRun

    def describe(self) -> dict[str, Any]:
        """Return the guide as JSON: its name, and the path, SHA-256, step and weights of its checkpoint.

        If its weights have changed in memory, the SHA-256 is theirs.
        """
        found, changed = self.run.checkpoint, self.run.changed
        return {
            "name": self.name,
            "path": str(found.path),
            "sha256": changed or found.sha256,
            "step": found.state.step,
            "weights": "in memory" if changed else found.weights,
            **({} if found.average is None else {"average": {"sha256": found.average}}),
        }


@dataclass(frozen=True)
class Guidance:
    """How samples are guided.

    Attributes:
        scale: guidance scale; 1 turns guidance off.
        low: the lowest log-SNR at which guidance is used.
        high: the highest log-SNR at which guidance is used.
        guide: the weaker model; None for classifier-free guidance, by the same model without a label.
        searched: whether `ddim search` found these values.
    """

    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    guide: Guide | None = None
    searched: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, Real):
            raise UserError(f"guidance must be a number, got {self.scale!r}")
        # A larger scale is beyond what float32 keeps of the difference of two predictions.
        if not 0 <= self.scale <= LARGEST_SCALE:
            raise UserError(f"guidance must be at least 0 and at most 1,000,000, got {self.scale}")
        if not self.low < self.high:
            raise UserError(f"guidance_interval must have low < high, got {self.low:g} and {self.high:g}")
        # Equal scales must be equal as text too, in records and names.
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def on(self) -> bool:
        """Whether the scale differs from 1, so that steps inside the interval are guided."""
        return self.scale != 1

    @property
    def interval(self) -> Interval | None:
        """The interval of log-SNR; None if guidance is used at all noise levels."""
        ends = tuple(end if math.isfinite(end) else None for end in (self.low, self.high))
        return None if ends == (None, None) else (ends[0], ends[1])

    def describe(self) -> dict[str, Any]:
        """Return the entries of a record about guidance, as JSON; only the scale if guidance is off."""
        found: dict[str, Any] = {"guidance": self.scale}
        if self.on and self.interval:
            found["guidance_interval"] = list(self.interval)
        if self.on and self.guide:
            found["guide"] = self.guide.describe()
        return found

    def apply(self, model: Model, label: Tensor | int | None) -> tuple[Denoiser, list[Counted]]:
        """Return the guided denoiser of a model, and the counters of its network evaluations.

        Args:
            model: the model that is sampled.
            label: class labels (B,), one label for all images, or None for no class.
        """
        return self.combine(Counted(model.with_labels(label)), Counted(self._weak(model, label)))

    def combine(self, strong: Counted, weak: Counted) -> tuple[Denoiser, list[Counted]]:
        """Return a denoiser in which `weak` guides `strong`, and the counters of its evaluations."""
        if not self.on:
            return strong, [strong]
        on = strong.schedule
        other = weak if weak.schedule == on else Rescheduled(weak, on)
        return Guided(strong, other, self.scale, self.low, self.high), [strong, weak]

    def _weak(self, model: Model, label: Tensor | int | None) -> Denoiser:
        if self.guide is None:
            return model
        return self.guide.run.model.with_labels(label if self.guide.run.recipe.data.conditional else None)


OFF = Guidance()
"""No guidance."""


def check_guidance(pipeline: Pipeline, label: Label, steps: int, guidance: Guidance) -> None:
    """Check that a model can be guided in this way.

    Raises:
        UserError: if there is no guide and classifier-free guidance is impossible. Also if the guide is a
            student, or does not fit the model.
    """
    if not guidance.on:
        return
    if guidance.guide is not None:
        _check_guide(pipeline, label, steps, guidance, guidance.guide)
        return
    data, mend = pipeline.recipe.data, "or name a weaker model, guide_with @guide (--guide-with @guide)"
    if not data.conditional:
        problem = "guidance needs a label, and this run was trained without labels: leave guidance out"
    elif label is None:
        problem = 'guidance needs a label to guide towards: give a class or "all"'
    elif not data.unlabelled:
        problem = (
            "guidance needs a network that also trained without a class, and this run has data.unlabelled "
            "0: leave guidance out"
        )
    else:
        return
    raise UserError(f"{problem}, {mend}, got guidance {guidance.scale:g}")


def _have_same_weights(one: LoadedRun, other: LoadedRun) -> bool:
    named = [(run.checkpoint.sha256, run.checkpoint.weights) for run in (one, other)]
    # Hashing weights takes time, so it comes last.
    return named[0] == named[1] and one.changed == other.changed


def _check_guide(pipeline: Pipeline, label: Label, steps: int, guidance: Guidance, named: Guide) -> None:
    model, guide, own = pipeline.model, named.run, named.run.checkpoint
    check_diffusion_model(guide.recipe, "a guide must be", named.name)
    if isinstance(pipeline, LoadedRun) and _have_same_weights(guide, pipeline):
        raise UserError("the guide must be weaker than the model, got the same checkpoint and weights")
    if guide.model.shape != model.shape:
        raise UserError(
            f"the guide must have images of the model's size, {model.shape}, got {guide.model.shape}"
        )
    if guide.pixels != pipeline.pixels:
        raise UserError(
            f"the guide must map pixels to model units as the model does, {pipeline.pixels}, got "
            f"{guide.pixels}: train it on the same images with the same recipe field pixels"
        )
    # The runtimes may name the same GPU differently, "cuda" and "cuda:0".
    if (found := guide.model.blank(0).device) != (device := model.blank(0).device):
        raise UserError(f"the guide must be on the device of the model, {device}, got {found}")
    if guide.recipe.data.conditional and label is None:
        check_unconditional(guide.recipe, "guidance without a label")
    if guide.recipe.data.labels and label is not None and guide.classes != pipeline.classes:
        count, found = len(pipeline.classes), len(guide.classes)
        raise UserError(
            f"the guide must have the {count} classes of the model, in the same order, got "
            + (f"{found} classes" if found != count else "other names or another order")
        )
    _check_vectors(pipeline, label, guide)
    mine = pipeline.checkpoint.clusters if isinstance(pipeline, LoadedRun) else None
    if label is not None and mine and own.clusters and not np.array_equal(mine.centres, own.clusters.centres):
        raise UserError(
            "the guide must have the clusters of the model, got other centres: train it on the same images "
            "with the same data.labels, data.flip and seed"
        )
    schedule = pipeline.recipe.sampling_schedule
    times = pipeline.recipe.grid(steps, schedule)
    guided = times[lies_inside(schedule(times).log_snr, guidance.low, guidance.high)]
    if len(guided):
        check_reach(guide.recipe.schedule, schedule(guided), "guidance_interval", "the guide")


def _check_vectors(pipeline: Pipeline, label: Label, guide: LoadedRun) -> None:
    own, other = pipeline.vectors, guide.vectors
    if label is None or other is None:
        return
    if own is None or own.columns != other.columns or not np.array_equal(own.mean, other.mean):
        raise UserError(
            "the guide must have the vectors of the model, got other vectors: train it on the same images "
            "with the same data.vectors and seed"
        )
