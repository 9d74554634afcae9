"""The batches of a training: `batches[step]` has the images, times, noise and labels of a step."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

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
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.sampling.labels import drop_labels, label_images

LARGEST_SHARE = 0.25
"""The largest share of an accelerator's memory that the images of a run may fill."""

Rows = TypeVar("Rows", Tensor, np.ndarray)

READERS = 4
"""Threads that read images. Those of a memory map may have to wait for the disk, image by image."""

_CHUNK = 256
"""The number of images that are copied to an accelerator at once, so that the CPU never holds all of them."""


@dataclass(frozen=True)
class Batch:
    """All that a step with B images is trained on, before noise is added: the n images of this process.

    Tensors are on the device of the training, except where another device is named.

    Attributes:
        images: the images (n, C, H, W), mirrored if the recipe says so, in the type of `gather_batch`.
        uniform: one random number (B,) of each of B equal slices of [0, 1), float64, on the exact device;
            `draw_times` makes the times of all B images from them.
        noise: standard normal noise (n, C, H, W).
        grain: uniform noise (n, C, H, W) within the bin of an 8-bit value, or None.
        augment_labels: augmentation labels (n, 9) on the CPU, which define the augmentation, or None.
        class_labels: class labels (n,) or vectors (n, d) on the CPU, or None.
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
            which: the images, as a slice of those of this process.
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

    In particular it does not depend on `optim.accumulate` or the number of processes: all processes draw the
    random numbers of the whole batch, and each reads and keeps its own images. If all images fit into
    `LARGEST_SHARE` of a GPU's memory, they are copied to it once. Otherwise the next batch is read into
    pinned memory while the network works on the current one.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        shape: channels, height and width of the images.
        runtime: noise and times are drawn on its device.
        processes: the processes that share each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        split: SplitImages,
        shape: Shape,
        runtime: Runtime,
        processes: Processes = Processes(),  # noqa: B008  (a frozen value)
    ) -> None:
        self.recipe, self.split, self.shape, self.runtime = recipe, split, shape, runtime
        self._place, self._places = processes.rank, (-1, processes.count, recipe.optim.accumulate)
        self._on_device = _copy_if_small(split, runtime.device)
        self._readers = ThreadPoolExecutor(READERS, "readers")
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
        noise = self._own(torch.randn(full, generator=random, device=device))
        grain = augment_labels = None
        if recipe.data.dequantise:
            grain = self._own(torch.rand(full, generator=stream(device, seed, GRAIN, step), device=device))
        if recipe.augment.probability:
            augment_labels = self._own(recipe.augment.draw_labels(size, stream("cpu", seed, AUGMENT, step)))
        class_labels = label_images(recipe, self.split.images, self._select_images(step))
        if class_labels is not None:
            draw = stream("cpu", seed, LABEL, step)
            class_labels = self._own(drop_labels(class_labels, recipe.data.unlabelled, draw))
        return Batch(self._load(step), uniform, noise, grain, augment_labels, class_labels)

    def _own(self, rows: Rows) -> Rows:
        """Return the rows of the images of this process, from those of a whole batch.

        Micro-batch k of a single process has the images k, k + accumulate, ... of the batch. Several
        processes divide these images among themselves.
        """
        shape = rows.shape[1:]
        return rows.reshape(*self._places, *shape)[:, self._place].reshape(-1, *shape)

    def _select_images(self, step: int) -> np.ndarray:
        """Return the indices (B,) of the images of a step."""
        size, train = self.recipe.optim.batch, self.split.train
        return train[select_indices(len(train), self.recipe.seed, step * size, size)]

    def _choose_images(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the indices (n,) of the images of this process, and which are mirrored (n,), or None."""
        size, which = self.recipe.optim.batch, self._own(self._select_images(step))
        if not self.recipe.data.flip:
            return which, None
        return which, self._own(draw_flips(len(self.split.train), self.recipe.seed, step * size, size))

    def _load(self, step: int) -> Tensor:
        """Return the images (n, C, H, W) of this process on the device, and start to read the next ones."""
        if self._on_device is not None:
            return self._copy_from_device(self._on_device, step)
        if self._thread is None:
            return self._read(step)
        ahead = self._next
        # A read that failed is not asked again.
        self._next = None
        known = ahead is not None and ahead[0] == step
        images = ahead[1].result() if ahead and known else self._read(step)
        self._next = step + 1, self._thread.submit(self._read, step + 1)
        return self.runtime.move(images)

    def _copy_from_device(self, images: Tensor, step: int) -> Tensor:
        """Return the images (n, C, H, W) of this process from all images (N, H, W, C) on the device."""
        which, mirrored = self._choose_images(step)
        pixels = images[self.runtime.send(torch.from_numpy(which))]
        if mirrored is not None:
            flipped = self.runtime.send(torch.from_numpy(mirrored))
            pixels = torch.where(flipped.reshape(-1, 1, 1, 1), pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2)

    def _read(self, step: int) -> Tensor:
        """Return the images (n, C, H, W) of this process from the memory map, which several threads read."""
        which, mirrored = self._choose_images(step)
        chunks = np.array_split(np.arange(len(which)), min(READERS, len(which)))

        def gather(chunk: np.ndarray) -> Tensor:
            flips = None if mirrored is None else mirrored[chunk]
            return gather_batch(self.split.images, which[chunk], flips)

        images = torch.cat([*self._readers.map(gather, chunks)])
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
