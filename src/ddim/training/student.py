"""Students, which sample in one or two network evaluations, and teachers, from which runs learn guidance.

The recipe of a student names the checkpoint of its teacher, and the guide if the teacher is guided
(`objective.guidance` of the loss `consistency`). So these runs must stay where they are while the student is
trained. A run that learns guidance is its own teacher.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.diffusion.denoiser import Labelled, Model
from ddim.diffusion.grids import Karras
from ddim.diffusion.guidance import Guided, Interval
from ddim.diffusion.loss import Consistency, Objective, paper_times
from ddim.diffusion.samplers import Multistep
from ddim.errors import UserError
from ddim.machine.runtime import Runtime
from ddim.recipe.checks import find_other_meaning
from ddim.recipe.recipe import Recipe
from ddim.runs.names import pin_place
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.sampling_setup import OFF, Guidance, open_guidance

MIDDLE = 10.0
"""sigma / alpha at the second step, in standard deviations of the images.

The paper (Geng et al. 2024) has 3.05 for 64 pixels, after millions of training images. After minutes of
training, the second step must correct more: on flowers of 16 pixels, 9 to 14 were best after 1,000 updates.
"""

EVERY = 4
"""A run that is its own teacher moves one image in so many, so many times as far: the mean is the same."""


@dataclass(frozen=True)
class Teacher:
    """The models whose predictions a student learns.

    Attributes:
        strong: the teacher.
        guide: the weaker model; None for the teacher without its label.
        scale: the guidance scale; 1 is no guidance.
        interval: the log-SNRs with guidance.
    """

    strong: Model
    guide: Model | None
    scale: float
    interval: Interval | None

    @torch.no_grad()
    def move(
        self, denoise: Labelled, x0: Tensor, t: Tensor, eps: Tensor, places: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return images and noise from which a run learns; see `Guided.move`.

        Args:
            denoise: the model of the run, with the labels of the images.
            x0: training images (B, C, H, W) in model units.
            t: times (B,).
            eps: noise (B, C, H, W).
            places: the places (B,) of the images in the batch of all processes, whose times are in order.
            step: the number of earlier steps.
        """
        return self.guided(denoise, self.scale).move(x0, t, eps, exact=True)

    def guided(self, denoise: Labelled, scale: float) -> Guided:
        """Return the guided teacher with the labels of `denoise`."""
        strong = replace(denoise, model=self.strong)
        weak = replace(strong, label=None) if self.guide is None else replace(strong, model=self.guide)
        return Guided(strong, weak, scale, self.interval)


class OwnTeacher(Teacher):
    """An average of the run itself, guided by its early weights; moves a part of the images, see `EVERY`."""

    @torch.no_grad()
    def move(
        self, denoise: Labelled, x0: Tensor, t: Tensor, eps: Tensor, places: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return images and noise from which a run learns; see `Teacher.move`."""
        # One image of every few with similar times has its turn, and as many in each of few micro-batches.
        some = ((places + places // 8 + step) % EVERY == 0).nonzero().flatten()
        if not len(some):
            return x0, eps
        there = some.to(x0.device, non_blocking=True)
        labels = (each if each is None else each[there] for each in (denoise.label, denoise.augment))
        guided = self.guided(Labelled(self.strong, *labels), 1 + EVERY * (self.scale - 1))
        moved, noise = guided.move(x0[there], t[some.to(t.device, non_blocking=True)], eps[there])
        return x0.index_copy(0, there, moved), eps.index_copy(0, there, noise)


def name_teacher(recipe: Recipe, run: LoadedRun, split: SplitImages) -> Recipe:
    """Return the recipe of a new student of a run, with the names of this run and of its guide.

    Args:
        recipe: the recipe of a new run; a recipe that has a teacher or needs none is returned as it is.
        run: the run from whose weights the new run starts.
        split: the images of the new run, with their labels and vectors.

    Raises:
        UserError: if the classes or the columns of the vectors are not those of the teacher.
    """
    loss, vectors = recipe.objective, split.vectors
    if not isinstance(loss, Consistency) or loss.teacher:
        return recipe
    # With equal columns, both runs have the same mean and deviation: see `label_split`.
    other_vectors = vectors and run.vectors and vectors.columns != run.vectors.columns
    if other_vectors or (recipe.data.labels and tuple(split.images.classes) != tuple(run.classes)):
        raise UserError("a student needs the classes and vectors of its teacher, the run of --from")
    guide = loss.guide and pin_place(loss.guide)
    teacher = str(run.checkpoint.path.absolute())
    return replace(recipe, objective=replace(loss, teacher=teacher, guide=guide))


def load_teacher(recipe: Recipe, runtime: Runtime) -> Teacher | None:
    """Return the teacher that the recipe of a student names; None if it names none.

    Args:
        recipe: the recipe of the student.
        runtime: the device and the compilation of the frozen networks.

    Raises:
        UserError: if the teacher or its guide is not where it was.
    """
    loss = recipe.objective
    if not isinstance(loss, Consistency) or loss.teacher is None:
        return None
    run = load(loss.teacher, device=runtime.device, threads=runtime.threads, compiling=runtime.compile)
    guide = open_teacher_guidance(run, Guidance(loss.guidance, loss.interval, loss.guide)).run
    return Teacher(run.model, None if guide is None else guide.model, loss.guidance, loss.interval)


def make_own_teacher(
    loss: Objective, model: Model, average: dict[str, Tensor], guide: dict[str, Tensor], runtime: Runtime
) -> OwnTeacher:
    """Return the teacher of a run that learns its own guidance: its average, guided by its early weights.

    Let E be the prediction that the run would learn from the images, and W that of the guide. With guidance
    of scale w, it shall learn D = W + w (E - W). But E is not known: the average of the run has learnt a part
    of the guidance already, and at last predicts D. As E = W + (D - W) / w, the wanted prediction is

        D = E + (1 - 1 / w) (D - W).

    So the average is guided by the scale 2 - 1 / w, which adds (1 - 1 / w) (D - W) to the images. Repeated,
    this converges to D, because 1 - 1 / w is below 1: the learnt scale rises from 2 - 1 / w to w.

    Args:
        loss: the loss, with the guidance scale w and its interval.
        model: the model of the run; it is copied.
        average: the average of the run, keyed by the names of weights. The teacher shares its memory, so the
            teacher follows each update of the average.
        guide: the early weights.
        runtime: the compilation of the networks.
    """
    strong, weak = (copy.deepcopy(model).eval() for _ in range(2))
    for copied, weights in (strong, average), (weak, guide):
        copied.load_state_dict(weights, strict=False, assign=True)
        copied.net = runtime.compiled(copied.requires_grad_(False).net)
    return OwnTeacher(strong, weak, 2 - 1 / loss.guidance, loss.interval)


def open_teacher_guidance(run: LoadedRun, asked: Guidance) -> Guidance:
    """Return the guidance that a student of a run learns.

    Args:
        run: the teacher.
        asked: the guidance; its guide is loaded.

    Raises:
        UserError: if the run cannot be guided in this way, or the guide has no name or another network.
    """
    guidance = open_guidance(run, choose_label(run.recipe), run.recipe.steps, asked)
    if guidance.run and (other := find_other_meaning(run.recipe, guidance.run.recipe)):
        raise UserError(f"the guide of a student must have the {other} of its teacher, as @guide has")
    return guidance


def make_student(recipe: Recipe, guidance: Guidance = OFF) -> Recipe:
    """Return the recipe of a student of a run.

    Args:
        recipe: the recipe of the run. The student keeps its images, network, noise schedule, batch and EMA.
        guidance: the guidance of the run that the student learns.

    Raises:
        UserError: if the run cannot be distilled.
    """
    if recipe.is_student or recipe.net.outputs != 1 or recipe.schedule.entries is not None:
        raise UserError("a teacher must be no student, have no table of noise levels and predict no variance")
    deviation = recipe.shared_numbers["objective"]["sigma_data"]
    # Sampling with the student starts at the same noise level as sampling with the run.
    first = recipe.times(recipe.steps)[0].item()
    noise = recipe.sampling_schedule(first).noise_to_signal.item()
    most = recipe.schedule(1.0).noise_to_signal.item()
    guided = {"guidance": guidance.scale, "interval": guidance.interval, "guide": guidance.guide}
    return replace(
        recipe,
        name=f"{recipe.name}-distilled",
        objective=Consistency(paper_times(deviation), sigma_data=deviation, **guided),
        optim=replace(recipe.optim, decay="cosine"),
        # A student's denoising error rises while it learns, so its lowest value marks no good checkpoint.
        report=replace(recipe.report, guide=0.0, best="kid" if recipe.report.best == "kid" else "none"),
        # The second step needs less noise than the first, which may have little.
        grid=Karras(min(MIDDLE * deviation, noise / 2), None if noise > 0.999 * most else noise),
        sampler=Multistep(),
        steps=2,
        sampled_on=None,
        minutes=60.0,
        images=None,
    )
