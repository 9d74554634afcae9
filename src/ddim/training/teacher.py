"""The guidance of a teacher that a student learns: `objective.guidance` of the loss `consistency`.

The frozen weights of the teacher and of its guide are part of the checkpoints of the student. So a student
can be resumed without the run of its teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.consistency import Consistency
from ddim.diffusion.denoiser import Denoiser, Labelled, Model
from ddim.diffusion.guidance import Guided
from ddim.errors import UserError
from ddim.nn.runtime import Runtime
from ddim.runs.classes import choose_label
from ddim.runs.fitting import find_misfit
from ddim.runs.guidance import Guidance
from ddim.runs.guidance_choice import open_guidance
from ddim.runs.pipeline import LoadedRun
from ddim.runs.recipe import Recipe

Tensors = dict[str, dict[str, Tensor]]

_MEANING = "schedule", "predicts", "conditioning"
"""The fields of a recipe that give the input and the output of a network their meaning."""


class Teacher:
    """The frozen models of a guided teacher, on the device of a training.

    Args:
        loss: the loss of the student, with the guidance scale, its interval and the name of the guide.
        student: the model that is trained, on its device. The frozen models begin with copies of its weights;
            `learn_from` or `restore` sets other weights.
        runtime: how the networks run.

    Attributes:
        loss: the loss of the student.
        guide: the guide as JSON, see `ddim.runs.guidance.Guide.describe`; None without a guide, and in a
            training that was restored from a checkpoint.
    """

    def __init__(self, loss: Consistency, student: Model, runtime: Runtime) -> None:
        self.loss, self.runtime = loss, runtime
        self.guide: dict[str, Any] | None = None
        names = ["teacher"] if loss.guide is None else ["teacher", "guide"]
        self._models = {name: copy.deepcopy(student).eval().requires_grad_(False) for name in names}
        self._compiled = {name: _compile(model, runtime) for name, model in self._models.items()}

    def move(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and the noise on which the student is trained; see `Guided.move`.

        Args:
            denoise: the student, conditioned on the labels of the images.
            x0: training images (B, C, H, W) in model units.
            t: times (B,).
            eps: noise (B, C, H, W).
        """
        label, augment = (denoise.label, denoise.augment) if isinstance(denoise, Labelled) else (None, None)
        strong = Labelled(self._compiled["teacher"], label, augment)
        if "guide" in self._compiled:
            weak = Labelled(self._compiled["guide"], label, augment)
        else:
            weak = Labelled(self._compiled["teacher"], None, augment)
        with torch.no_grad(), self.runtime.precise():
            return Guided(strong, weak, self.loss.guidance, *self.loss.limits).move(x0, t, eps)

    def learn_from(self, run: LoadedRun, recipe: Recipe) -> None:
        """Set the weights to those of a run and of its guide.

        Args:
            run: the teacher.
            recipe: the recipe of the student.

        Raises:
            UserError: as in `find_teacher_guidance`. Also if the student gives the input or the output of the
                network another meaning than the teacher.
        """
        for name in _MEANING:
            if (own := getattr(recipe, name)) != (wanted := getattr(run.recipe, name)):
                raise UserError(
                    f"objective.guidance needs the {name} of the run of --from, {wanted}, got {own}"
                )
        asked = {"guidance_interval": self.loss.interval, "guide_with": self.loss.guide}
        found = find_teacher_guidance(run, guidance=self.loss.guidance, **asked)
        weights = {"teacher": run.model.state_dict()}
        if found.guide is not None:
            weights["guide"], self.guide = found.guide.run.model.state_dict(), found.guide.describe()
        self.restore(weights)

    def tensors(self) -> Tensors:
        """Return the weights for a checkpoint, keyed by model and then by name."""
        return {name: model.state_dict() for name, model in self._models.items()}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Set the weights; `tensors` may hold the tensors of other parts of the checkpoint too."""
        for name, model in self._models.items():
            model.load_state_dict(tensors[name])


def make_teacher(recipe: Recipe, student: Model, runtime: Runtime) -> Teacher | None:
    """Return the teacher of a training; None if its loss has no guidance. See `Teacher` for the arguments."""
    loss = recipe.objective
    if not isinstance(loss, Consistency) or loss.guidance == 1:
        return None
    return Teacher(loss, student, runtime)


def find_teacher_guidance(run: LoadedRun, **asked: Any) -> Guidance:  # noqa: ANN401 (options of users)
    """Return the guidance that a student of a run learns.

    Args:
        run: the teacher.
        asked: `guidance`, `guidance_interval` and `guide_with`, as in `open_guidance`. If `guidance` is None,
            it is what `ddim search --guidance` saved for the sampler and the steps of the run, or none.

    Raises:
        UserError: if the run cannot be guided in this way, or the guide has another network.
    """
    found = open_guidance(run, choose_label(run.recipe), run.recipe.steps, **asked)
    if found.guide is not None and not _is_same_network(run, found.guide.run):
        raise UserError(
            "a student learns guidance only from a guide with the network of its teacher, such as @guide, "
            f"got {found.guide.name}: give guidance 1 (--guidance 1) for a student without guidance"
        )
    return found


def _is_same_network(run: LoadedRun, guide: LoadedRun) -> bool:
    same = all(getattr(run.recipe, name) == getattr(guide.recipe, name) for name in _MEANING)
    return same and not find_misfit(run.model.state_dict(), guide.model.state_dict())


def _compile(model: Model, runtime: Runtime) -> Model:
    """Return the model with a compiled network that shares its weights, if the runtime compiles."""
    net = runtime.compiled(model.net, frozen=True)
    return Model(net, model.schedule, model.predicts, model.conditioning, model.shape).eval()
