"""Estimate the memory that a training needs, and train with less memory if there is too little."""

import re
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ddim.errors import OutOfMemory, UserError
from ddim.machine.runtime import read_system_file
from ddim.sampling.pipeline import evaluating
from ddim.training.machine import blank_loss, reduce_size
from ddim.training.trainer import StepValues, Trainer

SMALL = 32
"""Side in pixels of the image for which activations are counted; larger for networks with many stages."""

TEMPORARY = 1.25
"""The peak of a step divided by the tensors that autograd keeps: measured 1.15 with `fast` at 1024 pixels."""

SAMPLED = 0.4
"""The memory for an image that is sampled, relative to one that is trained: measured 0.34 to 0.45."""


def estimate_memory(training: Trainer) -> int:
    """Return the memory in bytes for training: weights, gradients, optimiser, EMAs and activations.

    The activations are those of a part of a batch, or of a micro-batch of samples if these need more. Those
    of one image are counted at a small size, or at full size if the user wrote the network.
    """
    model, recipe, runtime = training.model, training.recipe, training.runtime
    small = reduce_size(recipe, SMALL)
    # Tensors that no image needs, such as weights in bf16, are in both counts.
    image = _count_kept(training, small, 2) - _count_kept(training, small, 1)
    image *= prod(recipe.data.size) / prod(small)
    weights = sum(weight.nbytes for weight in model.parameters())
    # Tensors of the size of the weights: weights, gradients, two moments of the optimiser, and each average.
    copies = 4 + len(training.averages)
    images = max(recipe.optim.batch / recipe.optim.accumulate, SAMPLED * runtime.micro_batch)
    return round(copies * weights + TEMPORARY * image * images)


def _count_kept(training: Trainer, size: tuple[int, int], n: int) -> int:
    """Return the bytes that autograd keeps for the backward pass of n blank images of this size."""
    model = training.model
    kept: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}
    alive: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        # Each storage is counted once, by its address. `alive` keeps it, so that no other gets this address.
        kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
        alive.append(x)
        return x

    # In eval mode no statistics of batch norm change, and no random numbers are drawn.
    with evaluating(model), saved_tensors_hooks(keep, lambda x: x):
        blank_loss(model, training.recipe, training.runtime, size, n)
    return sum(kept.values())


def find_free_memory(device: str) -> int | None:
    """Return the bytes of memory that are free for a CPU; None if not known, and for an accelerator."""
    known = re.search(r"MemAvailable: *(\d+)", read_system_file("/proc/meminfo"))
    return int(known[1]) * 1024 if known and device == "cpu" else None


def fit_memory(training: Trainer) -> str:
    """Halve the parts in which batches are trained until a step fits into the free memory of a CPU.

    A system kills a process that fills its memory. An accelerator raises an error instead, which
    `advance_within_memory` answers.

    Returns:
        A sentence if parts were halved, else "".

    Raises:
        UserError: if parts that cannot be halved do not fit.
    """
    free, notice = find_free_memory(training.runtime.device), ""
    if free is None:
        return ""
    free //= training.processes.local_count
    while (needed := estimate_memory(training)) > free:
        notice = _halve(training, f"{free / 2**30:.1f} GiB of memory are free")
        if not notice:
            need = f"this training needs about {needed / 2**30:.1f} GiB of memory"
            advice = "use a smaller --size or --optim.batch, a narrower network or --recompute"
            raise UserError(f"{need}, and {free / 2**30:.1f} GiB are free: {advice}")
    return notice


def advance_within_memory(training: Trainer) -> tuple[StepValues, str]:
    """Train for one step; as long as the memory is too small, halve the parts in which a batch is trained.

    The batch stays the same, and so do its gradient and its loss, up to rounding. The larger
    `optim.accumulate` is written into the recipe of the training, and so into its checkpoints.

    Returns:
        The values of the step, and a sentence if parts were halved, else "".

    Raises:
        OutOfMemory: if the optimiser filled the memory, which smaller parts do not help. Also if the parts
            cannot be halved: their number of images is odd, several processes would have to agree, or the
            network has batch norm, whose statistics depend on the parts.
    """
    notice = ""
    while True:
        try:
            return training.advance(), notice
        except OutOfMemory:
            if training.updating:
                raise
            notice = _halve(training, "the memory was full")
            if not notice:
                raise
        # Here the error is gone, and with it the tensors of the failed step.
        if training.runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()


def _halve(training: Trainer, why: str) -> str:
    """Halve the parts of a batch, and return a sentence about it, or "" if that is not possible."""
    optim = training.recipe.optim
    batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in training.model.modules())
    if training.processes.count > 1 or batch_norm or optim.batch % (2 * optim.accumulate):
        return ""
    optim = replace(optim, accumulate=2 * optim.accumulate)
    training.recipe = replace(training.recipe, optim=optim)
    return f"{why}: batches are trained in {optim.accumulate} parts now (optim.accumulate {optim.accumulate})"
