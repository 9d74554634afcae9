"""Draw the batches of training: the images, timesteps, noise and labels of each step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.data.augment import apply_transformations, prepare_transformations
from ddim.data.images import to_unit
from ddim.data.order import draw_flips, select_indices
from ddim.diffusion.denoiser import Denoiser, Labelled, Model
from ddim.diffusion.noise import AUGMENT, GRAIN, LABEL, NOISE, stream
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.times import LossMemory, midpoints
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.sampling.classes import drop_labels, label_images


@dataclass(frozen=True)
class Rows:
    """Images of a batch.

    Attributes:
        which: the indices (b,) of the images.
        mirrored: whether each image is mirrored (b,); None if no image is mirrored.
    """

    which: np.ndarray
    mirrored: np.ndarray | None

    def part(self, part: slice) -> Rows:
        """Return the rows of a part of the batch."""
        return Rows(self.which[part], None if self.mirrored is None else self.mirrored[part])


@dataclass(frozen=True)
class Batch:
    """All random values of one step with B images; they do not depend on `optim.accumulate`.

    Tensors are on the device of the training, except where another device is named.

    Args:
        rows: the images of the batch.
        times: timesteps (B,) of the images, float64, on `Runtime.exact_device`.
        weights: weights (B,) of the timesteps in the loss, float64, on `Runtime.exact_device`.
        noise: standard normal noise (B, C, H, W).
        dequantisation: uniform noise (B, C, H, W) within the bin of an 8-bit value, or None.
        augment_labels: augmentation labels (B, 9) on the CPU, which define the augmentation, or None.
        class_labels: class labels (B,) or vectors (B, d) on the CPU, or None.
    """

    rows: Rows
    times: Tensor
    weights: Tensor
    noise: Tensor
    dequantisation: Tensor | None
    augment_labels: Tensor | None
    class_labels: Tensor | None

    def part(
        self, part: slice, images: Tensor, model: Model, pixels: Pixels, runtime: Runtime
    ) -> tuple[Denoiser, Tensor, Tensor, Tensor]:
        """Return the arguments of the loss for a part of the batch.

        Args:
            part: the part, as a slice of the batch.
            images: the images (b, C, H, W) of the part, as in `gather_batch`, on the device.
            model: the model.
            pixels: the map between images and model units.
            runtime: how the network runs.

        Returns:
            The model, conditioned on the labels of the part; and the images x0, timesteps and noise of the
            part.
        """
        dequantisation = None if self.dequantisation is None else self.dequantisation[part]
        x0 = runtime.images(pixels.enter(to_unit(images, dequantisation)))
        eps = runtime.images(self.noise[part])
        augment = label = None
        if self.augment_labels is not None:
            labels = self.augment_labels[part]
            done = prepare_transformations(labels, *x0.shape[2:])
            x0, augment = apply_transformations(x0, done.send(runtime.send)), runtime.send(labels)
        if self.class_labels is not None:
            label = runtime.send(self.class_labels[part])
        # `Model.with_labels` is not used, because it reads the labels and so waits for the device.
        denoise = model if label is None and augment is None else Labelled(model, label, augment)
        return denoise, x0, self.times[part], eps


def draw_rows(recipe: Recipe, train: np.ndarray, step: int) -> Rows:
    """Return the indices of the images of a step, and which of these images are mirrored.

    Args:
        recipe: the recipe of the run.
        train: indices (N,) of the training images of the run.
        step: the number of the step.
    """
    size, n, seed = recipe.optim.batch, len(train), recipe.seed
    mirrored = draw_flips(n, seed, step * size, size) if recipe.data.flip else None
    return Rows(train[select_indices(n, seed, step * size, size)], mirrored)


def draw_batch(
    recipe: Recipe,
    split: SplitImages,
    model: Model,
    runtime: Runtime,
    step: int,
    memory: LossMemory | None,
) -> Batch:
    """Return the batch of a step; its random numbers depend only on the recipe's seed and on `step`.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        model: the model, for the shape of the noise.
        runtime: how the network runs; noise and times are drawn on its device.
        step: the number of the step.
        memory: the past losses, if times or weights depend on them, else None.
    """
    size, seed, device = recipe.optim.batch, recipe.seed, runtime.device
    rows = draw_rows(recipe, split.train, step)
    random = stream(device, seed, NOISE, step)
    # One time is drawn from each of B equal slices of [0, 1). This has the distribution of independent times
    # and less variance.
    uniform = torch.rand(size, generator=random, device=device, dtype=torch.float32)
    uniform = uniform.to(runtime.exact_device).double()
    slices = torch.arange(size, device=uniform.device)
    times, weights = draw_times(recipe, (slices + uniform) / size, memory)
    full = (size, model.shape.channels, model.shape.height, model.shape.width)
    noise = torch.randn(full, generator=random, device=device)
    dequantisation = augment_labels = None
    if recipe.data.dequantise:
        grain = stream(device, seed, GRAIN, step)
        dequantisation = torch.rand(full, generator=grain, device=device)
    if recipe.augment.probability:
        augment_labels = recipe.augment.draw_labels(size, stream("cpu", seed, AUGMENT, step))
    class_labels = label_images(recipe, split.images, rows.which)
    if class_labels is not None:
        draw = stream("cpu", seed, LABEL, step)
        class_labels = drop_labels(class_labels, recipe.data.unlabelled, draw)
    return Batch(rows, times, weights, noise, dequantisation, augment_labels, class_labels)


def draw_times(recipe: Recipe, uniform: Tensor, memory: LossMemory | None) -> tuple[Tensor, Tensor]:
    """Return times (B,) in (0, 1] and their weights (B,) in the loss.

    Args:
        recipe: the recipe of the run.
        uniform: random numbers (B,), uniform in [0, 1).
        memory: the past losses, if times or weights depend on them, else None.
    """
    if memory:
        return memory.draw(uniform)
    return recipe.objective.times(uniform, recipe.schedule), torch.ones_like(uniform)


def earliest_time(recipe: Recipe) -> float:
    """Return the smallest of 100,000 training timesteps; the network is hardly trained at smaller ones."""
    return draw_times(recipe, midpoints(), None)[0].min().item()


@contextmanager
def seed_globally(device: str, seed: int, use: int, step: int, part: int = 0) -> Generator[None]:
    """Seed torch's global generators inside the block, because dropout can use no other generator.

    Args:
        device: the device of the training.
        seed: the seed of the run.
        use: see `stream`.
        step: the training step.
        part: the first image of a part of the batch, if each part has its own numbers.
    """
    cuda = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.set_state(stream("cpu", seed + part * 2**32, use, step).get_state())
        for name in cuda:
            torch.cuda.set_rng_state(stream(name, seed + part * 2**32, use, step).get_state(), name)
        yield
