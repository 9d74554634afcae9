"""The batches of training: which images an update sees, and how, at which times, in which noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.augment import augmented
from ddim.data.batch import batch as gather
from ddim.data.batch import unit
from ddim.data.order import flips, indices
from ddim.diffusion.denoiser import Denoiser, Model
from ddim.diffusion.log_snr import slices
from ddim.diffusion.noise import AUGMENT, GRAIN, LABEL, NOISE, stream
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.time_sampling import Memory
from ddim.nn.runtime import Runtime
from ddim.runs import classes as labels
from ddim.runs.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What is drawn for one update of B images, for all at once: how they are divided must not change it.

    `which` (B,) of the images and which are `mirrored` (B,); `times` (B,) and what each `counts`; `noise`
    (B, C, H, W), and the `grain` of dequantisation alike; labels `done` (B, 9) of augmentation and classes
    `told` (B,). None where a recipe does no such thing.
    """

    images: Images
    which: np.ndarray
    mirrored: np.ndarray | None
    times: Tensor
    counts: Tensor
    noise: Tensor
    grain: Tensor | None
    done: Tensor | None
    told: Tensor | None

    def part(
        self, mine: slice, model: Model, pixels: Pixels, runtime: Runtime
    ) -> tuple[Denoiser, Tensor, Tensor, Tensor]:
        """Of some of the images: the model told of them what training tells it; x0, times and noise."""
        mirrored = None if self.mirrored is None else self.mirrored[mine]
        grain, done, told = (
            None if every is None else every[mine] for every in (self.grain, self.done, self.told)
        )
        x0 = runtime.images(pixels.enter(unit(gather(self.images, self.which[mine], mirrored), grain)))
        eps = runtime.images(self.noise[mine])
        if done is not None:
            x0 = augmented(x0, done)
        return model.given(told, done), x0, self.times[mine], eps


def draw(
    recipe: Recipe,
    images: Images,
    train: np.ndarray,
    model: Model,
    device: str,
    step: int,
    memory: Memory | None,
) -> Batch:
    """The batch of a run's update `step`, of its images at the indices `train` (N,).

    `memory` is that of the run, where its times are drawn by their losses.
    """
    size, n, seed = recipe.optim.batch, len(train), recipe.seed
    first = step * size
    which = train[indices(n, seed, first, size)]
    random = stream(device, seed, NOISE, step)
    # One time in each of B equal slices of [0, 1): the same density as B independent ones, less variance.
    uniform = torch.rand(size, generator=random, device=device, dtype=torch.float32).cpu()
    drawn, counts = times(recipe, (torch.arange(size) + uniform.double()) / size, memory)
    full = (size, model.shape.channels, model.shape.height, model.shape.width)
    noise = torch.randn(full, generator=random, device=device)
    grain = done = None
    if recipe.data.dequantise:
        grain = torch.rand(full, generator=stream("cpu", seed, GRAIN, step))
    if recipe.augment.probability:
        done = recipe.augment.labels(size, stream("cpu", seed, AUGMENT, step))
    told = labels.label_images(recipe, images, which)
    if told is not None:
        told = labels.drop_labels(told, recipe.data.unlabelled, stream("cpu", seed, LABEL, step))
    mirrored = flips(n, seed, first, size) if recipe.data.flip else None
    return Batch(images, which, mirrored, drawn, counts, noise, grain, done, told)


def times(recipe: Recipe, uniform: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor]:
    """(B,) uniform in [0, 1) -> (B,) times in (0, 1] as a run draws them, and what each counts."""
    if memory:
        return memory.draw(uniform)
    return recipe.objective.times(uniform, recipe.schedule), torch.ones(len(uniform))


def earliest(recipe: Recipe) -> float:
    """The first of 100,000 times, in even slices, as a run draws them: what is cleaner it hardly sees."""
    return times(recipe, slices(), None)[0].min().item()
