"""The batches of a training: `batches[step]` has the images, times, noise and labels of a step."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.data import SplitImages
from ddim.data.augment import Transformations, apply_transformations, prepare_transformations
from ddim.data.images import gather_batch, to_unit
from ddim.data.order import draw_flips, select_indices
from ddim.diffusion.denoiser import Labelled, Model, Shape
from ddim.diffusion.noise import AUGMENT, GRAIN, LABEL, NOISE, stream
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.times import LossMemory
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.sampling.labels import drop_labels, label_images

LARGEST_SHARE = 0.25
"""The largest share of an accelerator's memory that the images of a run may fill."""

_CHUNK = 256
"""The number of images that are copied to an accelerator at once, so that the CPU never holds all of them."""


@dataclass(frozen=True)
class Batch:
    """All that a step with B images is trained on, before noise is added.

    Tensors are on the device of the training, except where another device is named.

    Attributes:
        images: the images (B, C, H, W), mirrored if the recipe says so, in the type of `gather_batch`.
        uniform: one random number (B,) of each of B equal slices of [0, 1), float64, on the exact device;
            `draw_times` makes times from them.
        noise: standard normal noise (B, C, H, W).
        grain: uniform noise (B, C, H, W) within the bin of an 8-bit value, or None.
        augment_labels: augmentation labels (B, 9) on the CPU, which define the augmentation, or None.
        class_labels: class labels (B,) or vectors (B, d) on the CPU, or None.
    """

    images: Tensor
    uniform: Tensor
    noise: Tensor
    grain: Tensor | None
    augment_labels: Tensor | None
    class_labels: Tensor | None

    def micro_batch(
        self, which: slice, model: Model, pixels: Pixels, runtime: Runtime
    ) -> tuple[Labelled, Tensor, Tensor]:
        """Return the model with the labels of some of the images, these images x0, and noise (b, C, H, W).

        Args:
            which: the images, as a slice of the batch.
            model: the model.
            pixels: the map between images and model units.
            runtime: how the network runs.
        """
        grain = None if self.grain is None else self.grain[which]
        x0 = runtime.images(pixels.enter(to_unit(self.images[which], grain)))
        augment = label = None
        if self.augment_labels is not None:
            labels = self.augment_labels[which]
            sent = map(runtime.send, prepare_transformations(labels, *x0.shape[2:]))
            x0, augment = apply_transformations(x0, Transformations(*sent)), runtime.send(labels)
        if self.class_labels is not None:
            label = runtime.send(self.class_labels[which])
        # `Model.with_labels` is not used, because it reads the labels and so waits for the device.
        return Labelled(model, label, augment), x0, runtime.images(self.noise[which])


class Batches:
    """The batches of a run: `batches[step]` depends on the recipe and the step alone.

    In particular it does not depend on `optim.accumulate` or the number of processes. If all images fit into
    `LARGEST_SHARE` of a GPU's memory, they are copied to it once. Otherwise a thread reads the next batch
    into pinned memory while the network works on the current one.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        shape: channels, height and width of the images.
        runtime: noise and times are drawn on its device.
    """

    def __init__(self, recipe: Recipe, split: SplitImages, shape: Shape, runtime: Runtime) -> None:
        self.recipe, self.split, self.shape, self.runtime = recipe, split, shape, runtime
        self._on_device = _copy_if_small(split, runtime.device)
        ahead = runtime.device != "cpu" and self._on_device is None
        self._thread = ThreadPoolExecutor(1, "images") if ahead else None
        self._next: tuple[int, Future[Tensor]] | None = None

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        recipe, device = self.recipe, self.runtime.device
        size, seed = recipe.optim.batch, recipe.seed
        random = stream(device, seed, NOISE, step)
        # One time is drawn from each of B equal slices of [0, 1). This has the distribution of independent
        # times and less variance.
        uniform = torch.rand(size, generator=random, device=device, dtype=torch.float32)
        uniform = uniform.to(self.runtime.exact_device).double()
        uniform = (torch.arange(size, device=uniform.device) + uniform) / size
        full = (size, self.shape.channels, self.shape.height, self.shape.width)
        noise = torch.randn(full, generator=random, device=device)
        grain = augment_labels = None
        if recipe.data.dequantise:
            grain = torch.rand(full, generator=stream(device, seed, GRAIN, step), device=device)
        if recipe.augment.probability:
            augment_labels = recipe.augment.draw_labels(size, stream("cpu", seed, AUGMENT, step))
        which, mirrored = self._draw_images(step)
        class_labels = label_images(recipe, self.split.images, which)
        if class_labels is not None:
            draw = stream("cpu", seed, LABEL, step)
            class_labels = drop_labels(class_labels, recipe.data.unlabelled, draw)
        return Batch(self._load(step, which, mirrored), uniform, noise, grain, augment_labels, class_labels)

    def _draw_images(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the indices (B,) of the images of a step, and which of them are mirrored (B,), or None."""
        size, train, seed = self.recipe.optim.batch, self.split.train, self.recipe.seed
        mirrored = draw_flips(len(train), seed, step * size, size) if self.recipe.data.flip else None
        return train[select_indices(len(train), seed, step * size, size)], mirrored

    def _load(self, step: int, which: np.ndarray, mirrored: np.ndarray | None) -> Tensor:
        """Return images (B, C, H, W) on the device; if a thread reads them, it starts on the next batch."""
        if self._on_device is not None:
            pixels = self._on_device[self.runtime.send(torch.from_numpy(which))]
            if mirrored is not None:
                flipped = self.runtime.send(torch.from_numpy(mirrored))
                pixels = torch.where(flipped.reshape(-1, 1, 1, 1), pixels.flip(2), pixels)
            return pixels.permute(0, 3, 1, 2)
        if self._thread is None:
            return gather_batch(self.split.images, which, mirrored)
        known = self._next and self._next[0] == step
        images = self._next[1].result() if self._next and known else self._read(which, mirrored)
        self._next = step + 1, self._thread.submit(self._read, *self._draw_images(step + 1))
        return self.runtime.move(images)

    def _read(self, which: np.ndarray, mirrored: np.ndarray | None) -> Tensor:
        images = gather_batch(self.split.images, which, mirrored)
        return images.pin_memory() if self.runtime.device.startswith("cuda") else images


def _copy_if_small(split: SplitImages, device: str) -> Tensor | None:
    """Return all images (N, H, W, C) on a GPU, in the type of `gather_batch`; None if they are too large."""
    images = split.images
    kind = torch.uint8 if images.values.eight_bits else torch.float32
    if math.prod(images.pixels.shape) * kind.itemsize > LARGEST_SHARE * _device_memory(device):
        return None
    copied = torch.empty(images.pixels.shape, dtype=kind, device=device)
    for first in range(0, len(images), _CHUNK):
        chunk = gather_batch(images, np.arange(first, min(first + _CHUNK, len(images))))
        copied[first : first + _CHUNK] = chunk.permute(0, 2, 3, 1)
    return copied


def _device_memory(device: str) -> int:
    """Return the bytes of memory of an accelerator; 0 if they are not known."""
    return torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0


def draw_times(recipe: Recipe, uniform: Tensor, past_losses: LossMemory | None) -> tuple[Tensor, Tensor]:
    """Return times (B,) in (0, 1] and their weights (B,) in the loss.

    Args:
        recipe: the recipe of the run.
        uniform: random numbers (B,), uniform in [0, 1).
        past_losses: the past losses, if times or weights depend on them, else None.
    """
    if past_losses:
        return past_losses.draw(uniform)
    return recipe.objective.times(uniform, recipe.schedule), torch.ones_like(uniform)
