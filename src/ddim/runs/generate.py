"""From a run to images: loading, and sampling in fixed micro-batches with one seed an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.runs import checkpoint
from ddim.runs.codec import load as load_recipe
from ddim.runs.codec import override
from ddim.runs.recipe import Recipe, build
from ddim.diffusion.denoiser import Denoiser, Model
from ddim.nn.ema import profiles
from ddim.errors import UserError, amount
from ddim.diffusion.grids import Grid, Listed
from ddim.diffusion.guidance import Clipped, Rescheduled, check_reach
from ddim.runs.classes import Label, check, guided, of_seeds
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.nn.runtime import Runtime, choose, find_device
from ddim.diffusion.samplers import Sampler, State, picture, start
from ddim.runs.searched_grids import saved
from ddim.plots.pictures import to_uint8
from ddim.runs.image_features import BATCH


@dataclass(frozen=True)
class Trained:
    """A checkpoint, open: the model in eval mode, and all that is known of it."""

    model: Model
    pixels: Pixels
    recipe: Recipe
    runtime: Runtime
    state: dict[str, Any]
    path: Path
    weights: str
    digest: str = ""
    """The SHA-256 of the checkpoint; "" where there is no file yet."""
    opened: Path | None = None
    """The folder that `load` was given, a run or a checkpoint."""

    def __iter__(self) -> Iterator[Any]:
        """So that `model, pixels = ddim.load(run)` reads."""
        return iter((self.model, self.pixels))

    def sampled(self, inner: Denoiser, *, whole: bool = False) -> Denoiser:
        """The model, or a denoiser made of it, as its recipe has it sampled: on which schedule, clipped.

        `whole` where the halves must add up to x_t, as on a way that is gone back: clip x0 then is clip yes.
        """
        denoise = Rescheduled(inner, on) if (on := self.recipe.sampled_on) else inner
        clip = self.recipe.clip
        return Clipped(denoise, *self.pixels.bounds, keep=clip == "x0" and not whole) if clip else denoise


def recipe_of(run: str | Path) -> Recipe:
    """The recipe of a run folder or of a checkpoint folder; UserError where there is no checkpoint."""
    return load_recipe(checkpoint.read_document(checkpoint_of(Path(run)), "recipe"))


def load(
    run: str | Path, weights: str = "ema", *, compiling: bool = False, device: str | None = None
) -> Trained:
    """The newest whole checkpoint of a run folder, of RUN/best its best, or a checkpoint folder itself.

    `weights` is "ema", "raw", or the name of another average that the run keeps (see `ddim.nn.ema.profiles`).
    `compiling` runs the network through torch.compile: quicker after a first slow batch, other bits.
    UserError where there are no such weights, or no checkpoint of this library.
    """
    path = checkpoint_of(Path(run))
    # Now: a run in progress may have removed the files when the pictures are made.
    digest = checkpoint.digest(path)
    recipe = load_recipe(checkpoint.read_document(path, "recipe"))
    state = checkpoint.read_document(path, "state")
    if not isinstance(state, dict):
        raise checkpoint.Damaged(f"{path}/state.json is not a table")
    possible = ["ema", "raw", *(name for name in profiles(recipe.ema) if name != "default")]
    if weights not in possible:
        raise UserError(f"weights must be {', '.join(possible[:-1])} or {possible[-1]}, got {weights!r}")
    pixels = Pixels(tuple(state["pixels"]["mean"]), tuple(state["pixels"]["std"]))
    # Initial weights are drawn and thrown away; the caller's stream must not notice.
    with torch.random.fork_rng(devices=[]):
        model = build(recipe, state["channels"])
    tensors = checkpoint.read_tensors(path, "model")
    if weights != "raw":
        tensors |= checkpoint.read_tensors(path, f"ema/{'default' if weights == 'ema' else weights}")
    _fill(model, tensors, path)
    runtime = _runtime(Runtime(**state["runtime"]), device, compiling)
    runtime.start()
    runtime.place(model.eval().requires_grad_(False))
    model.net = runtime.compiled(model.net, frozen=True)
    return Trained(model, pixels, recipe, runtime, state, path, weights, digest, Path(run))


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


@torch.no_grad()
def generate(  # noqa: PLR0913  (the choices of `ddim sample`)
    trained: Trained,
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
        denoise, state = trained.sampled(asked), None
        with runtime.precise():
            for state in trajectory(denoise, blank, filled, times, sampler):
                if watch is not None:
                    watch(mine, State(state.x[: len(mine)], state.t, state.x0[: len(mine)]))
        if state is not None:
            made.append(trained.pixels.leave(state.x0[: len(mine)].float()).cpu())
        nfe = sum(count.evaluations for count in counts)
    return torch.cat(made), nfe


def batches(trained: Trained, seeds: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int], Tensor]]:
    """The micro-batches of a run: its seeds, those filled up to the fixed size, and a blank (B, C, H, W)."""
    size = trained.runtime.micro_batch
    for mine in parts(trained, seeds):
        filled = [*mine] + [0] * (size - len(mine))
        yield mine, filled, trained.runtime.images(trained.model.blank(size))


def parts(trained: Trained, seeds: Sequence[int], about: int = 1) -> Iterator[Sequence[int]]:
    """The seeds in parts of whole micro-batches, about so many seeds each.

    What `generate` makes of them one after the other is, to the bit, what it makes of all, in the memory of
    one part.
    """
    size = trained.runtime.micro_batch * max(1, about // trained.runtime.micro_batch)
    for first in range(0, len(seeds), size):
        yield seeds[first : first + size]


def made(
    trained: Trained, seeds: Sequence[int], steps: int, label: Label = None, guidance: float = 1.0
) -> Iterator[tuple[Tensor, int]]:
    """Pictures (B, C, H, W) uint8 of the seeds, as they are saved, a few micro-batches at a time, and the NFE
    of each.
    """
    # What an extractor is given at once should not be much smaller than what suits it.
    for part in parts(trained, seeds, BATCH):
        images, nfe = generate(trained, part, steps, label=label, guidance=guidance)
        yield torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2), nfe


def sample(
    run: str | Path | Trained,
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
    amount("n", n)
    trained = run if isinstance(run, Trained) else load(run, weights)
    asked, _ = as_asked(trained, {}, steps)
    return generate(asked, range(seed, seed + n), steps, label=label, guidance=guidance)[0]


def as_asked(trained: Trained, fields: Mapping[str, Any], steps: int) -> tuple[Trained, bool]:
    """A run with fields of its recipe changed, as `override` takes them; and whether a search found its grid.

    Where the fields name neither a grid nor a schedule, levels that `ddim search` found for the sampler and
    so many steps are taken before the recipe's grid. UserError as of `check_levels`.
    """
    recipe, found = override(trained.recipe, fields), None
    if not any(name.split(".")[0] in ("grid", "sampled_on") for name in fields):
        found = found_levels(trained, recipe.sampler, steps)
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


def found_levels(trained: Trained, sampler: Sampler, steps: int) -> Listed | None:
    """The levels that `ddim search` found for a run, this sampler and so many steps; None of a checkpoint."""
    return saved(trained.opened, sampler, steps, trained.weights) if trained.opened else None


def checkpoint_of(run: Path) -> Path:
    """The newest whole checkpoint of a run folder, its best of RUN/best, or the folder itself if it is one.

    UserError where there is none.
    """
    if found := checkpoint.chosen(run):
        return found
    if not run.is_dir():
        raise UserError(
            f"run {run} is not a folder; `ddim train` makes runs, under runs/ unless --out says where"
        )
    if (run / checkpoint.MANIFEST).is_file():
        checkpoint.verify(run)
        return run
    found = checkpoint.newest(run / "checkpoints")
    if found is None and not any((run / name).exists() for name in ("run.json", "checkpoints")):
        raise UserError(
            f"{run} is no run, for it holds neither run.json nor checkpoints; "
            f"`ddim runs {run}` lists those below it"
        )
    if found is None:
        raise UserError(f"run {run} holds no checkpoint yet")
    return found


def _runtime(recorded: Runtime, device: str | None, compiling: bool) -> Runtime:
    """The run's own choices where its kind of device is there and wanted, else this machine's."""
    try:
        where = find_device(device or recorded.device)
    except UserError:
        if device:
            raise
        where = find_device("auto")
    if where.split(":")[0] != recorded.device.split(":")[0]:
        return choose(where, compiling=compiling)
    return replace(recorded, device=where, compile=compiling)


def _fill(model: Model, tensors: dict[str, Tensor], path: Path) -> None:
    """Strict loading, with a sentence instead of torch's list."""
    state = model.state_dict()
    wrong = [name for name in state if name not in tensors or tensors[name].shape != state[name].shape]
    wrong += [name for name in tensors if name not in state]
    if wrong:
        raise checkpoint.Damaged(
            f"{path}/model.safetensors does not fit its recipe: {wrong[0]} is missing or of another shape"
        )
    model.load_state_dict(tensors)
