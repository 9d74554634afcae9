"""Say what `ddim sample` does with a run that other programs do not do with its export."""

from __future__ import annotations

from ddim.diffusion.samplers import DDIM
from ddim.exchange.sampling_json import SAMPLING
from ddim.sampling.guidance import find_searched_guidance
from ddim.sampling.labels import choose_label, default_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.record import describe_kind


def describe_differences(run: LoadedRun, to: str, steps: int | None) -> tuple[str, ...]:
    """Return sentences about how samples of an export differ from those of `ddim sample`.

    Args:
        run: the exported run.
        to: the format, a name in `FORMATS`.
        steps: number of sampling steps; by default the number in the recipe.
    """
    if to == "safetensors":
        # The user writes the sampler.
        return ()
    recipe, sampler = run.recipe, run.recipe.sampler
    steps, name, notes = recipe.choose_steps(steps), describe_kind(sampler), []
    if to != "diffusers" and sampler != DDIM():
        notes.append(f"{SAMPLING} has the steps of DDIM, and not those of the sampler of the run, {name}")
    if (to == "diffusers" or sampler != DDIM()) and run.searched_grid(sampler, steps):
        notes.append(f"the times that ddim search found for {steps} steps of {name} are left out")
    label = default_label(recipe)
    # For class folders, guidance is searched for samples of all classes.
    if any(find_searched_guidance(run, each, steps) for each in (label, choose_label(recipe))):
        notes.append(f"the guidance that ddim search found for {steps} steps of {name} is left out")
    if to == "diffusers" and label == "natural":
        notes.append("ddim sample draws the classes of samples as often as they occur in training")
    if not (values := run.values).eight_bits:
        notes.append(
            f"samples are in [0, 1], which stands for {values.low:g} to {values.high:g} ({values.type}) in "
            "the images of the run"
        )
    return tuple(notes)
