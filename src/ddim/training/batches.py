"""Draw the batches of training: the images, times, noise and labels of one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.augment import apply_augmentation
from ddim.data.batch import gather_batch, to_unit
from ddim.data.order import draw_flips, select_indices
from ddim.diffusion.denoiser import Denoiser, Model
from ddim.diffusion.log_snr import midpoints
from ddim.diffusion.noise import AUGMENT, GRAIN, LABEL, NOISE, stream
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.time_sampling import LossMemory
from ddim.nn.runtime import Runtime
from ddim.runs.classes import drop_labels, label_images
from ddim.runs.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """All random values of one step with B images; they do not depend on `optim.accumulate`.

    Args:
        images: all images of the run.
        which: indices (B,) of the images of the batch.
        mirrored: whether each image is mirrored (B,), or None.
        times: times (B,) of the images.
        weights: weights (B,) of the times in the loss.
        noise: standard normal noise (B, C, H, W).
        dequantisation: uniform noise (B, C, H, W) within the bin of an 8-bit value, or None.
        augment_labels: augmentation labels (B, 9), which define the augmentation of each image, or None.
        class_labels: class labels (B,), or None.
    """

    images: Images
    which: np.ndarray
    mirrored: np.ndarray | None
    times: Tensor
    weights: Tensor
    noise: Tensor
    dequantisation: Tensor | None
    augment_labels: Tensor | None
    class_labels: Tensor | None

    def part(
        self, part: slice, model: Model, pixels: Pixels, runtime: Runtime
    ) -> tuple[Denoiser, Tensor, Tensor, Tensor]:
        """Return the arguments of the loss for a part of the batch.

        Args:
            part: the part, as a slice of the batch.
            model: the model.
            pixels: the map between images and model units.
            runtime: how the network runs.

        Returns:
            The model conditioned on the labels of the part, and its images x0, times and noise.
        """
        mirrored = None if self.mirrored is None else self.mirrored[part]
        dequantisation, augment_labels, class_labels = (
            None if values is None else values[part]
            for values in (self.dequantisation, self.augment_labels, self.class_labels)
        )
        images = gather_batch(self.images, self.which[part], mirrored)
        x0 = runtime.images(pixels.enter(to_unit(images, dequantisation)))
        eps = runtime.images(self.noise[part])
        if augment_labels is not None:
            x0 = apply_augmentation(x0, augment_labels)
        return model.with_labels(class_labels, augment_labels), x0, self.times[part], eps


def draw_batch(
    recipe: Recipe,
    images: Images,
    train: np.ndarray,
    model: Model,
    device: str,
    step: int,
    memory: LossMemory | None,
) -> Batch:
    """Draw the batch of a step, a function of the recipe's seed and of `step`.

    Args:
        recipe: the recipe of the run.
        images: all images of the run.
        train: indices (N,) of its training images.
        model: the model, for the shape of the noise.
        device: the device on which the noise is drawn.
        step: the number of the step.
        memory: the past losses, for loss-aware time sampling; None for other time samplings.
    """
    size, n, seed = recipe.optim.batch, len(train), recipe.seed
    first = step * size
    which = train[select_indices(n, seed, first, size)]
    random = stream(device, seed, NOISE, step)
    # One time is drawn from each of B equal slices of [0, 1). This has the distribution of independent times
    # and less variance.
    uniform = torch.rand(size, generator=random, device=device, dtype=torch.float32).cpu()
    times, weights = draw_times(recipe, (torch.arange(size) + uniform.double()) / size, memory)
    full = (size, model.shape.channels, model.shape.height, model.shape.width)
    noise = torch.randn(full, generator=random, device=device)
    dequantisation = augment_labels = None
    if recipe.data.dequantise:
        dequantisation = torch.rand(full, generator=stream("cpu", seed, GRAIN, step))
    if recipe.augment.probability:
        augment_labels = recipe.augment.draw_labels(size, stream("cpu", seed, AUGMENT, step))
    class_labels = label_images(recipe, images, which)
    if class_labels is not None:
        draw = stream("cpu", seed, LABEL, step)
        class_labels = drop_labels(class_labels, recipe.data.unlabelled, draw)
    mirrored = draw_flips(n, seed, first, size) if recipe.data.flip else None
    return Batch(images, which, mirrored, times, weights, noise, dequantisation, augment_labels, class_labels)


def draw_times(recipe: Recipe, uniform: Tensor, memory: LossMemory | None) -> tuple[Tensor, Tensor]:
    """Return times (B,) in (0, 1] and their weights (B,) in the loss.

    Args:
        recipe: the recipe of the run.
        uniform: random numbers (B,), uniform in [0, 1).
        memory: the past losses, for loss-aware time sampling; None for other time samplings.
    """
    if memory:
        return memory.draw(uniform)
    return recipe.objective.times(uniform, recipe.schedule), torch.ones(len(uniform))


def earliest_time(recipe: Recipe) -> float:
    """Return the earliest of 100,000 training times; noise levels below it are hardly trained."""
    return draw_times(recipe, midpoints(), None)[0].min().item()
