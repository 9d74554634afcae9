"""The guidance of a teacher that a student learns: `objective.guidance` of the loss `consistency`.

The frozen weights of the teacher and of its guide are part of the checkpoints of the student. So a student
can be resumed without the run of its teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.diffusion.consistency import Consistency
from ddim.diffusion.denoiser import Denoiser, Labelled, Model
from ddim.diffusion.guidance import Guided
from ddim.diffusion.loss import LossFunction
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError
from ddim.machine.runtime import Runtime
from ddim.recipe.checks import find_other_meaning
from ddim.recipe.model import find_misfit
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.checkpoint import read_tensors
from ddim.sampling.classes import choose_label
from ddim.sampling.guidance import Guidance
from ddim.sampling.guidance_choice import GuidanceOptions, open_guidance
from ddim.sampling.pipeline import LoadedRun


class Teacher:
    """The frozen models of a guided teacher. They have no weights before `learn_from` or `restore` is called.

    Args:
        loss: the loss of the student, with the guidance scale, its interval and the name of the guide.
        recipe: the recipe of the student.
        channels: number of channels of the images.
        runtime: the device and the compilation of the frozen networks.

    Attributes:
        guide: the guide as JSON, see `ddim.sampling.guidance.Guide.describe`. None without a guide, and after
            `restore`.
    """

    def __init__(self, loss: Consistency, recipe: Recipe, channels: int, runtime: Runtime) -> None:
        self._loss, self._recipe, self._channels, self._runtime = loss, recipe, channels, runtime
        self._names = ["teacher"] if loss.guide is None else ["teacher", "guide"]
        self._models: dict[str, Model] = {}
        self._weights: dict[str, dict[str, Tensor]] = {}
        self.guide: dict[str, Any] | None = None

    def guide_loss(self, loss: LossFunction) -> LossFunction:
        """Return the loss of a student on the images and the noise of `move`."""

        def guided(denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
            moved, noise = self.move(denoise, x0, t, eps)
            return loss(denoise, moved, t, noise, pixels)

        return guided

    def move(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and the noise on which the student is trained; see `Guided.move`.

        Args:
            denoise: the student, conditioned on the labels of the images.
            x0: training images (B, C, H, W) in model units.
            t: times (B,).
            eps: noise (B, C, H, W).
        """
        label, augment = (denoise.label, denoise.augment) if isinstance(denoise, Labelled) else (None, None)
        strong = Labelled(self._models["teacher"], label, augment)
        # Without a guide, the weaker model is the teacher without its label.
        weak = Labelled(self._models[self._names[-1]], label if self._loss.guide else None, augment)
        with torch.no_grad():
            return Guided(strong, weak, self._loss.guidance, *self._loss.limits).move(x0, t, eps)

    def learn_from(self, run: LoadedRun, parts: SplitImages) -> None:
        """Set the weights to those of a run and of its guide.

        Args:
            run: the teacher.
            parts: the images of the student, with their labels and vectors.

        Raises:
            UserError: as in `find_teacher_guidance`. Also if the student has other classes than its teacher,
                or vectors with other columns.
        """
        loss, classes, vectors = self._loss, parts.images.classes, parts.vectors
        found = find_teacher_guidance(
            run, guidance=loss.guidance, guidance_interval=loss.interval, guide_with=loss.guide
        )
        if self._recipe.data.labels and tuple(classes) != tuple(run.classes):
            raise UserError(
                "objective.guidance needs images with the classes of the run of --from, in the same order, "
                f"got {len(classes)} classes with other names: give the images of that run"
            )
        # With equal columns, both runs have the same mean and deviation: see `take_vectors`.
        if vectors is not None and run.vectors is not None and vectors.columns != run.vectors.columns:
            raise UserError(
                "objective.guidance needs vectors with the columns of the run of --from, "
                f"{', '.join(run.vectors.columns)}, in this order, got {', '.join(vectors.columns)}: give "
                "the vectors of that run"
            )
        weights = {"teacher": run.model.state_dict()}
        if found.guide is not None:
            weights["guide"], self.guide = found.guide.run.model.state_dict(), found.guide.describe()
        self.restore(weights)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights for a checkpoint, keyed by model and then by name."""
        return {name: self._weights.get(name, {}) for name in self._names}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Set the weights; `tensors` may hold the tensors of other parts of the checkpoint too."""
        for name in self._names:
            # Building a model draws initial weights, which must not change the caller's random state.
            with torch.random.fork_rng(devices=[]):
                model = build_model(self._recipe, self._channels)
            model.load_state_dict(tensors[name])
            self._runtime.place(model.eval().requires_grad_(False))
            self._weights[name] = model.state_dict()
            model.net = self._runtime.compiled(model.net, frozen=True)
            self._models[name] = model


def make_teacher(recipe: Recipe, channels: int, runtime: Runtime) -> Teacher | None:
    """Return the teacher of a student, still without weights; None if its loss has no guidance."""
    loss = recipe.objective
    if not isinstance(loss, Consistency) or loss.guidance == 1:
        return None
    return Teacher(loss, recipe, channels, runtime)


def load_teacher(student: LoadedRun) -> Teacher | None:
    """Return the teacher in the checkpoint of a student; None if its loss has no guidance.

    Raises:
        UserError: if the run was published, without its teacher.
    """
    path = student.checkpoint.path
    teacher = make_teacher(student.recipe, student.model.shape.channels, student.runtime)
    if teacher:
        if not (path / "teacher.safetensors").is_file():
            raise UserError(
                f"run {student.checkpoint.run} was published without its guided teacher, so its loss cannot "
                "be computed: use the run folder of its training"
            )
        teacher.restore({name: read_tensors(path, name) for name in teacher.tensors()})
    return teacher


def find_teacher_guidance(run: LoadedRun, **asked: Unpack[GuidanceOptions]) -> Guidance:
    """Return the guidance that a student of a run learns.

    Args:
        run: the teacher.
        asked: see `GuidanceOptions`. Saved guidance is that for the sampler and the steps of the run.

    Raises:
        UserError: if the run cannot be guided in this way, or the guide has another network, other labels or
            no name.
    """
    if isinstance(asked.get("guide_with"), LoadedRun):
        raise UserError(
            "guide_with must be text for a student, whose recipe names its guide, such as "
            '"runs/small-1@raw", got a loaded run'
        )
    found = open_guidance(run, choose_label(run.recipe), run.recipe.steps, **asked)
    if found.guide is not None and (other := _find_difference(run, found.guide.run)):
        chosen = ", which `ddim search` chose for samples" if found.searched else ""
        raise UserError(
            f"a student can learn only from a guide with the {other} of its teacher, such as @guide, got "
            f"{found.guide.name}{chosen}: give another guide, or guidance 1 (--guidance 1) to do without"
        )
    return found


def _find_difference(run: LoadedRun, guide: LoadedRun) -> str | None:
    """Return what a guide must have in common with its teacher and has not; None if it fits."""
    if run.recipe.data.conditional != guide.recipe.data.conditional:
        return "labels"
    other = find_other_meaning(run.recipe, guide.recipe)
    return other or ("net" if find_misfit(run.model.state_dict(), guide.model.state_dict()) else None)
