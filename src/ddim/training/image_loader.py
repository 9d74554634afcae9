"""Load the images of each batch onto the device of a training, without making the training wait."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ddim.data import Images
from ddim.data.images import gather_batch
from ddim.machine.runtime import Runtime
from ddim.training.batches import Rows

LARGEST_SHARE = 0.25
"""The largest share of an accelerator's memory that the images of a run may fill."""

_PART = 256
"""The number of images that are copied to an accelerator at once, so that the CPU never holds all of them."""


class ImageLoader:
    """Returns batches of images on the device of a training.

    If all images fit into `LARGEST_SHARE` of an accelerator's memory, they are copied to it once. Otherwise a
    thread reads the next batch, into pinned memory for a GPU, while the network works on the current batch.

    Args:
        images: all images of the run.
        runtime: how the network runs.
    """

    def __init__(self, images: Images, runtime: Runtime) -> None:
        self.images, self.runtime = images, runtime
        self.on_device: Tensor | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[Rows, Future[Tensor]] | None = None
        if runtime.device == "cpu":
            return
        # Images with more than 8 bits are float32 there.
        size = len(images) * int(np.prod(images.pixels.shape[1:])) * (1 if images.values.eight_bits else 4)
        if size <= LARGEST_SHARE * _device_memory(runtime.device):
            self.on_device = _copy_all(images, runtime.device)
        else:
            self._thread = ThreadPoolExecutor(1, "images")

    @property
    def reads_ahead(self) -> bool:
        """Whether a thread reads images before they are used; `expect` tells it which."""
        return self._thread is not None

    def load(self, rows: Rows) -> Tensor:
        """Return the images (b, C, H, W) at these rows, in the type and memory format of `gather_batch`."""
        if self.on_device is None:
            return self.runtime.move(self._take(rows))
        pixels = self.on_device[self.runtime.send(torch.from_numpy(rows.which))]
        if rows.mirrored is not None:
            flipped = self.runtime.send(torch.from_numpy(rows.mirrored))
            pixels = torch.where(flipped.reshape(-1, 1, 1, 1), pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2)

    def expect(self, rows: Rows) -> None:
        """Start to read the images that the next call of `load` will ask for."""
        if self._thread:
            self._next = rows, self._thread.submit(self._read, rows)

    def _take(self, rows: Rows) -> Tensor:
        expected, self._next = self._next, None
        if expected and np.array_equal(expected[0].which, rows.which):
            return expected[1].result()
        return self._read(rows)

    def _read(self, rows: Rows) -> Tensor:
        images = gather_batch(self.images, rows.which, rows.mirrored)
        return images.pin_memory() if self.runtime.device.startswith("cuda") else images


def _copy_all(images: Images, device: str) -> Tensor:
    """Return all images (N, H, W, C) on a device, in the type of `gather_batch`."""
    kind = torch.uint8 if images.values.eight_bits else torch.float32
    copied = torch.empty(images.pixels.shape, dtype=kind, device=device)
    for first in range(0, len(images), _PART):
        part = gather_batch(images, np.arange(first, min(first + _PART, len(images))))
        copied[first : first + _PART] = part.permute(0, 2, 3, 1)
    return copied


def _device_memory(device: str) -> int:
    """Return the bytes of memory of an accelerator; 0 if they are not known."""
    return torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
