"""Make a `Guidance` with a loaded guide from the plain values that a user gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from ddim.diffusion.guidance import Interval, find_ends
from ddim.diffusion.loss import Consistency
from ddim.errors import UserError, describe_given, suggest, warn_user
from ddim.runs.names import find_run_folder, parse_place
from ddim.sampling.classes import Label
from ddim.sampling.guidance import OFF, Guidance, Guide, check_guidance
from ddim.sampling.pipeline import LoadedRun, Pipeline, load
from ddim.sampling.searched_grids import list_changed
from ddim.sampling.searched_guidance import SavedGuidance, find_saved_guidance


def open_guidance(
    pipeline: Pipeline,
    label: Label,
    steps: int,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | LoadedRun | None = None,
) -> Guidance:
    """Return the `Guidance` for a user's options; the guide is loaded, and all options are checked.

    A warning says so if the model is a student that has learned guidance already.

    Args:
        pipeline: the model to sample, with its sampler and grid.
        label: the label of the samples.
        steps: number of sampling steps.
        guidance: guidance scale; None for the guidance that `ddim search` saved, or 1 if it saved none.
        guidance_interval: the lowest and the highest log-SNR with guidance; None for all noise levels.
        guide_with: the guide, see `open_guide`; None for the sampled model without its label.

    Raises:
        UserError: if these values cannot be used together or with this model.
    """
    searched = False
    if guidance is None:
        if guidance_interval is not None or guide_with is not None:
            name = "guide_with" if guidance_interval is None else "guidance_interval"
            raise UserError(
                f"{name} needs a guidance scale too, such as guidance 2 (--guidance 2), got no guidance"
            )
        saved = find_own_guidance(pipeline, label, steps)
        if saved is None:
            return OFF
        guidance, guidance_interval, guide_with, searched = saved.scale, saved.interval, saved.guide, True
    low, high = find_ends(guidance_interval, "guidance_interval")
    chosen = Guidance(guidance, low, high, searched=searched)
    if not chosen.on:
        return OFF
    try:
        chosen = replace(chosen, guide=None if guide_with is None else open_guide(pipeline, guide_with))
        check_guidance(pipeline, label, steps, chosen)
    except UserError as error:
        if not searched:
            raise
        raise UserError(
            f"{error}; this guidance was chosen by `ddim search`: give guidance 1 (--guidance 1) to sample "
            "without it"
        ) from None
    loss = pipeline.recipe.objective
    if isinstance(loss, Consistency) and loss.guidance != 1:
        warn_user(
            f"this student has learned guidance {loss.guidance:g} from its teacher, so guidance {guidance:g} "
            "guides its samples twice"
        )
    return chosen


class GuidanceOptions(TypedDict, total=False):
    """The options of guidance, as a user gives them.

    In general, only a weaker model can guide tasks that take no class label, such as edits. Classifier-free
    guidance is possible too if the classes of the run are clusters, or the run was trained with vectors: most
    of these tasks then use the label that `ddim sample` uses by default.

    Attributes:
        guidance: guidance scale; 1 for no guidance. None is the guidance that `ddim search` saved, see
            `open_guidance`; edits, whose samples it was not searched for, are then not guided.
        guidance_interval: (low, high), the log-SNRs with guidance; None for all.
        guide_with: the weaker model, such as "@guide"; see `open_guide`.
    """

    guidance: float | None
    guidance_interval: Interval | None
    guide_with: str | Path | LoadedRun | None


def check_option_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Check the names of options that a user gives; `what` is the subject of the message.

    Raises:
        UserError: if an option does not exist; the message suggests a similar one.
    """
    for name in given:
        if name not in known:
            raise UserError(f"{what} has no option {name}{suggest(name, known)}")


def open_task_guidance(
    pipeline: Pipeline, what: str, steps: int, label: Label, **options: Unpack[GuidanceOptions]
) -> Guidance:
    """Return the guidance of a task that takes no class label from the user; by default, guidance is off.

    Args:
        pipeline: the model, with its grid.
        what: the task in words, such as "a variation"; messages use it.
        steps: number of timesteps in the grid.
        label: the label of the samples: `default_label`, or None.
        options: see `GuidanceOptions`.

    Raises:
        UserError: if a guidance scale is given without a guide and without a label, or the options cannot be
            used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return OFF
    if label is None and options.get("guidance") not in (None, 1) and options.get("guide_with") is None:
        raise UserError(
            f"{what} uses no class label, so only a weaker model can guide it: give guide_with, such as "
            f"@guide (--guide-with @guide), got guidance {options.get('guidance')}"
        )
    return open_guidance(pipeline, label, steps, **options)


def find_own_guidance(pipeline: Pipeline, label: Label, steps: int) -> SavedGuidance | None:
    """Return the guidance that `ddim search` saved with the run of a pipeline.

    Saved guidance holds for one sampler, one number of steps and one kind of weights, and for samples either
    with labels or without. The result is None if none was saved for these samples, if `pipeline` is no run,
    or if its schedule of sampling or its clipping was changed since it was loaded.
    """
    if not isinstance(pipeline, LoadedRun):
        return None
    if list_changed(pipeline.checkpoint.recipe, pipeline.recipe, "sampled_on", "clip"):
        return None
    found, labelled = pipeline.checkpoint, label is not None
    return find_saved_guidance(found.run, pipeline.recipe.sampler, steps, found.weights, labelled=labelled)


def open_guide(pipeline: Pipeline, named: str | Path | LoadedRun) -> Guide:
    """Load a guide on the device of the pipeline that it guides.

    Args:
        pipeline: the model that is guided.
        named: a loaded run, or text: the path of a run or checkpoint, "@NAME", or both, such as
            "runs/small-1@raw". Without a path, the sampled run itself is meant. NAME is a step, "best",
            "guide", or weights such as "raw". "@guide" is the early checkpoint that training keeps
            (`report.guide`).

    Raises:
        UserError: if there is no such run, checkpoint or weights.
    """
    if isinstance(named, LoadedRun):
        return Guide(str(named.checkpoint.run), named)
    if not isinstance(named, str | Path):
        raise UserError(
            f'guide_with must be a run, such as "runs/small-1" or "@guide", got {describe_given(named)}'
        )
    own = find_run_folder(pipeline.checkpoint.run) if isinstance(pipeline, LoadedRun) else None
    path, weights = parse_place(str(named), own)
    on = pipeline.runtime
    return Guide(str(named), load(path, weights, device=on.device, threads=on.threads, compiling=on.compile))
