"""From a run to images: loading, and sampling in fixed micro-batches with one seed an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.grids import Grid
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, State, picture, start
from ddim.errors import UserError, check_count
from ddim.plots.pictures import to_uint8
from ddim.runs.classes import Label, check, guided, of_seeds
from ddim.runs.codec import override
from ddim.runs.image_features import BATCH
from ddim.runs.pipeline import Pipeline, load
from ddim.runs.recipe import Recipe


def trajectory(
    denoise: Denoiser, blank: Tensor, seeds: Sequence[int], times: Tensor, sampler: Sampler
) -> Iterator[State]:
    """The states of a run from pure noise, one image a seed, blank (B, C, H, W); last the picture, t = 0."""
    if not len(times):
        raise UserError("a run needs at least one level in its grid, got none")
    noise = Noise(seeds)
    x = start(denoise.schedule, noise, blank, times[0])
    state = State(x, times[0].item(), torch.zeros_like(x))
    for state in sampler(denoise, x, times, noise):
        yield state
    x0 = picture(denoise, state)
    yield State(x0, 0.0, x0)


P = TypeVar("P", bound=Pipeline)


@torch.no_grad()
def generate(  # noqa: PLR0913  (the choices of `ddim sample`)
    trained: Pipeline,
    seeds: Sequence[int],
    steps: int = 20,
    *,
    sampler: Sampler | None = None,
    grid: Grid | None = None,
    label: Label = None,
    guidance: float = 1.0,
    watch: Callable[[Sequence[int], State], None] | None = None,
) -> tuple[Tensor, int]:
    """Images (N, C, H, W) in [0, 1] on the CPU, image k a function of seeds[k] alone, and the NFE of each.

    `label` is their class, None for images of no class, or "all", which gives seed s the class s % classes.
    `guidance` w makes them w - 1 times as far again from those of no class (`Guided`), at twice the
    evaluations. UserError where the run cannot: see `ddim.runs.classes.check`.

    `watch` is called after each state with the seeds it belongs to. Images are made in micro-batches of one
    fixed size, the last one filled up, because the bits of a convolution depend on how many it is given.
    """
    model, runtime = trained.model, trained.runtime
    check(trained.recipe, label, guidance)
    sampler = sampler or trained.recipe.sampler
    times = (grid or trained.recipe.grid)(steps, trained.recipe.walked)
    made, nfe = [], 0
    for mine, filled, blank in batches(trained, seeds):
        asked, counts = guided(model, of_seeds(label, filled, model), guidance)
        denoise, state = trained.denoiser(asked), None
        with runtime.precise():
            for state in trajectory(denoise, blank, filled, times, sampler):
                if watch is not None:
                    watch(mine, State(state.x[: len(mine)], state.t, state.x0[: len(mine)]))
        if state is not None:
            made.append(trained.pixels.leave(state.x0[: len(mine)].float()).cpu())
        nfe = sum(count.evaluations for count in counts)
    return torch.cat(made), nfe


def batches(trained: Pipeline, seeds: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int], Tensor]]:
    """The micro-batches of a run: its seeds, those filled up to the fixed size, and a blank (B, C, H, W)."""
    size = trained.runtime.micro_batch
    for mine in parts(trained, seeds):
        filled = [*mine] + [0] * (size - len(mine))
        yield mine, filled, trained.runtime.images(trained.model.blank(size))


def parts(trained: Pipeline, seeds: Sequence[int], about: int = 1) -> Iterator[Sequence[int]]:
    """The seeds in parts of whole micro-batches, about so many seeds each.

    What `generate` makes of them one after the other is, to the bit, what it makes of all, in the memory of
    one part.
    """
    size = trained.runtime.micro_batch * max(1, about // trained.runtime.micro_batch)
    for first in range(0, len(seeds), size):
        yield seeds[first : first + size]


def made(
    trained: Pipeline, seeds: Sequence[int], steps: int, label: Label = None, guidance: float = 1.0
) -> Iterator[tuple[Tensor, int]]:
    """Pictures (B, C, H, W) uint8 of the seeds, as they are saved, a few micro-batches at a time, and the NFE
    of each.
    """
    # What an extractor is given at once should not be much smaller than what suits it.
    for part in parts(trained, seeds, BATCH):
        images, nfe = generate(trained, part, steps, label=label, guidance=guidance)
        yield torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2), nfe


def sample(
    run: str | Path | Pipeline,
    n: int = 16,
    steps: int = 20,
    *,
    seed: int = 0,
    label: Label = None,
    guidance: float = 1.0,
    weights: str = "ema",
) -> Tensor:
    """(n, C, H, W) images in [0, 1] of the seeds `seed` ... `seed` + n - 1, of a run or what `load` gave.

    They are those of `ddim sample`: on levels that a search found for the recipe's sampler and so many steps,
    else on the recipe's grid. `label` and `guidance` as of `generate`.
    """
    check_count("n", n)
    trained = run if isinstance(run, Pipeline) else load(run, weights)
    asked, _ = as_asked(trained, {}, steps)
    return generate(asked, range(seed, seed + n), steps, label=label, guidance=guidance)[0]


def as_asked(trained: P, fields: Mapping[str, Any], steps: int) -> tuple[P, bool]:
    """A run with fields of its recipe changed, as `override` takes them; and whether a search found its grid.

    Where the fields name neither a grid nor a schedule, levels that `ddim search` found for the sampler and
    so many steps are taken before the recipe's grid. UserError as of `check_levels`.
    """
    recipe, found = override(trained.recipe, fields), None
    if not any(name.split(".")[0] in ("grid", "sampled_on") for name in fields):
        found = trained.searched_grid(recipe.sampler, steps)
    if found:
        recipe = replace(recipe, grid=found)
    check_levels(recipe, steps)
    return replace(trained, recipe=recipe), found is not None


def check_levels(recipe: Recipe, steps: int) -> None:
    """UserError where a recipe's grid has no so many levels, or its model does not know them (`sampled_on`).

    It costs nothing, and a picture is asked for long after the recipe is known.
    """
    levels = recipe.walked(recipe.grid(steps, recipe.walked))
    if recipe.sampled_on:
        check_reach(recipe.schedule, levels)


def ends(recipe: Recipe, steps: int) -> tuple[float, float]:
    """The first and the last time of a recipe's grid of so many levels; UserError where it has none."""
    times = recipe.grid(steps, recipe.walked)
    return times[0].item(), times[-1].item()
