"""Distil a run: train a student that samples in one or two network evaluations.

The student starts from the weights of the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddim.data.arrays import give_images
from ddim.diffusion.grids import Karras
from ddim.diffusion.guidance import Interval
from ddim.diffusion.loss import Consistency, paper_times
from ddim.diffusion.parameterisation import PredictsEDM
from ddim.diffusion.samplers import Multistep
from ddim.errors import UserError
from ddim.machine.progress import Progress
from ddim.recipe.recipe import Recipe
from ddim.recipe.user_parts import give_parts
from ddim.sampling.generate import find_grid_ends
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import OFF, Guidance, collect_guidance
from ddim.training.callbacks import Callback
from ddim.training.request import load_parent_recipe, use_data
from ddim.training.run import train
from ddim.training.start import Machine
from ddim.training.teacher import open_teacher_guidance

MIDDLE = 10.0
"""sigma / alpha at the second step, in standard deviations of the images.

The paper (Geng et al. 2024) has 3.05 for 64 pixels, after millions of training images. After minutes of
training, the second step must correct more: on flowers of 16 pixels, 9 to 14 were best after 1,000 updates.
"""


def distill(  # noqa: PLR0913 (the choices of a notebook)
    run: str | Path,
    data: object = None,
    *,
    minutes: float | None = None,
    images: int | None = None,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | None = None,
    fields: Mapping[str, Any] | None = None,
    own: Sequence[Any] = (),
    out: str | Path | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Train a two-step student, starting from the EMA weights of a run, and return the folder of the student.

    The student has the network of the run. It is trained on the images of the run by consistency tuning, see
    `ddim.diffusion.loss.Consistency`. The student is a run like any other: it can be resumed, sampled
    and evaluated. Samples have 2 steps by default, and can have 1 or more.

    Args:
        run: the run folder of the teacher, RUN/best or a checkpoint.
        data: the images, see `train`; they get the size of the run, and its labels. By default the images of
            the run, where they are now. Images from Python in another process must be given again.
        minutes: training time of the student, by default 60.
        images: training length in images, in place of `minutes`.
        guidance: guidance scale of the teacher. The student learns the guided teacher, and needs no guidance
            itself. None for the guidance that `ddim search` saved with the run, or 1 (off) if it saved none.
        guidance_interval: the lowest and the highest log-SNR with guidance; None for all noise levels.
        guide_with: the weaker model, with the network of the run, such as "@guide"; None for the run itself
            without its labels. See `ddim.sample`.
        fields: other values for fields of the student's recipe, keyed by path, such as {"optim.lr": 3e-4}.
        own: the components of the run that you wrote; see `resume`.
        out: the folder of the student, by default runs/DATA-RECIPE-distilled-N.
        machine, callbacks, progress: as in `train`.

    Raises:
        UserError: if the run cannot be distilled or guided in this way, or its images are missing, have
            changed or were not published. Also if images on which it was trained would be held out.
        NotFinite, OutOfMemory, Interrupted: see `train`.

    Example:
        >>> student = ddim.distill("runs/photos-fast-1", minutes=60)
        >>> ddim.sheet(ddim.sample(student, n=16))
    """
    give_parts(own)
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data)
    asked = collect_guidance(guidance, guidance_interval, guide_with)
    budget = {"minutes": minutes, "images": images}
    changes = {**(fields or {}), **{name: value for name, value in budget.items() if value is not None}}
    recipe = _plan_student(run, data, changes, asked)
    return train(recipe=recipe, source=run, out=out, machine=machine, callbacks=callbacks, progress=progress)


def _plan_student(
    run: str | Path, data: object, changes: Mapping[str, Any], asked: Guidance | None
) -> Recipe:
    """Return the recipe of a student; `changes` are new values of its fields, see `distill`."""
    if any(name.startswith(("objective.guid", "objective.interval")) for name in changes):
        # Saved guidance would be mixed with these fields.
        asked = asked or OFF
    learned = open_teacher_guidance(load(run, device="cpu"), asked)
    parent = load_parent_recipe(run, own_images=data is not None or "data.source" in changes)
    recipe = make_student(parent, learned)
    return use_data(recipe, data, {"data.labels": recipe.data.labels, **changes}, keep_size=False)


def make_student(recipe: Recipe, guidance: Guidance = OFF) -> Recipe:
    """Return the recipe of a student of a run.

    Args:
        recipe: the recipe of the run. The student keeps its images, network, noise schedule, batch and EMA.
        guidance: the guidance of the run that the student learns.

    Raises:
        UserError: if the run cannot be distilled.
    """
    if recipe.is_student or recipe.net.outputs != 1 or recipe.schedule.entries is not None:
        raise UserError(
            "this run cannot be distilled: a teacher must be no student itself, have a continuous noise "
            "schedule (no table of levels) and predict no variance (net.outputs 1)"
        )
    # In EDM the deviation of the images is 0.5, the default if none is recorded.
    edm = recipe.predicts.sigma_data if isinstance(recipe.predicts, PredictsEDM) else None
    deviation = edm or recipe.pixels.deviation or 0.5
    # Sampling with the student starts at the same noise level as sampling with the run.
    first, _ = find_grid_ends(recipe, recipe.steps)
    noise = recipe.sampling_schedule(first).noise_to_signal.item()
    most = recipe.schedule(1.0).noise_to_signal.item()
    return replace(
        recipe,
        name=f"{recipe.name}-distilled",
        objective=Consistency(
            paper_times(deviation),
            sigma_data=deviation,
            guidance=guidance.scale,
            interval=guidance.interval,
            guide=guidance.guide,
        ),
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
