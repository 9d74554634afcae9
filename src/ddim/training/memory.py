"""Estimate the memory that a training needs, and train with less memory if the memory is full."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ddim.diffusion.pixels import Pixels
from ddim.errors import OutOfMemory, UserError
from ddim.machine.runtime import Runtime
from ddim.nn.power_averages import track_averages
from ddim.nn.recompute import recompute_blocks
from ddim.recipe.recipe import Recipe, build_model
from ddim.recipe.user_parts import is_user_part
from ddim.training.loop import Training
from ddim.training.muon import divide_parameters
from ddim.training.step_values import StepValues

SMALLER = "use a smaller --size or --optim.batch, a narrower network, --optim.accumulate 4, or --recompute"
"""What a user can do if a training does not fit into the memory."""

SMALL = 32
"""Side in pixels of the image for which activations are counted; larger for networks with many stages."""


def estimate_memory(recipe: Recipe, channels: int, runtime: Runtime) -> int:
    """Return the least memory in bytes for training: weights, gradients, optimiser, EMAs and activations.

    The activations that autograd keeps are counted for two small images, or for two of full size if the user
    wrote the network, which may take no other size. They are then scaled up to the size of the real images,
    and to the number of images in one forward pass (batch / accumulate). Attention over many pixels needs
    more than this. With bf16, activations are assumed to take half the bytes.

    Args:
        recipe: the recipe; its images are not read.
        channels: number of channels of the images.
        runtime: how the network runs; its precision and its `recompute` change the result.
    """
    side = max(recipe.data.size) if is_user_part(recipe.net) else max(SMALL, recipe.net.multiple)
    height, width = (min(full, side) for full in recipe.data.size)
    small = replace(recipe, data=replace(recipe.data, size=(height, width)))
    # Initial weights and dropout must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        model = build_model(small, channels)
        recompute_blocks(model.net, runtime.recompute)
        weights = sum(weight.nbytes for weight in model.parameters())
        _, matrices = divide_parameters(model, recipe.optim)
        kept = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}
        alive: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            # Each storage is counted once, by its address. `alive` keeps every tensor alive, so that no
            # address is used again.
            kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
            alive.append(x)
            return x

        # Batch norm may need two images.
        x0, t = model.blank(2), torch.full((2,), 0.5)
        denoise = model.with_blank_labels(2)
        with saved_tensors_hooks(keep, lambda x: x):
            recipe.objective.at(0.5, 0)(denoise, x0, t, torch.ones_like(x0), Pixels.fixed(0.5, 0.5, channels))
    ratio = prod(recipe.data.size) / (height * width) * recipe.optim.batch / recipe.optim.accumulate / 2
    activations = sum(kept.values()) * ratio * (0.5 if runtime.precision == "bf16" else 1.0)
    # Tensors of the size of the weights: weights, gradients, two moments of the optimiser, and each average.
    # Muon has only one moment.
    copies = 4 + len(track_averages(recipe.ema, recipe.report.snapshots))
    one_moment = sum(weight.nbytes for weight in matrices.values())
    return round(copies * weights - one_moment + activations)


def find_free_memory(device: str) -> int | None:
    """Return the bytes of memory that are free for a CPU; None if not known, and for an accelerator."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if device == "cpu" and found else None


def check_memory(recipe: Recipe, channels: int, runtime: Runtime) -> None:
    """Check that a training fits into the memory that is free, before anything is allocated for it.

    Only a training on a CPU is checked: it may be killed if the memory is full. On an accelerator, a training
    halves the parts of its batches instead (`advance_within_memory`).

    Raises:
        UserError: if the training needs more; the message says how much, and what to do.
    """
    free = find_free_memory(runtime.device)
    if free is None:
        return
    needed = estimate_memory(recipe, channels, runtime)
    if needed > free:
        height, width = recipe.data.size
        raise UserError(
            f"training {recipe.name} at {height}x{width} with batches of {recipe.optim.batch} needs about "
            f"{needed / 2**30:.0f} GiB of memory, and {free / 2**30:.0f} GiB are free: {SMALLER}"
        )


def advance_within_memory(training: Training) -> tuple[StepValues, str]:
    """Train for one step; as long as the memory is too small, halve the parts in which a batch is trained.

    The batch stays the same, and so do its gradient and its loss, up to rounding. The larger
    `optim.accumulate` is written into the recipe of the training, and so into its checkpoints.

    Returns:
        The values of the step, and a sentence if parts were halved, else "".

    Raises:
        OutOfMemory: if the parts cannot be halved: their number of images is odd, several processes would
            have to agree, or the network has batch norm, whose statistics depend on the parts.
    """
    before = training.recipe.optim.accumulate
    while True:
        try:
            values = training.advance()
            break
        except OutOfMemory:
            if not _can_halve(training):
                raise
        # Here the error is gone, and with it the tensors of the failed step.
        if training.runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()
        optim = training.recipe.optim
        training.recipe = replace(training.recipe, optim=replace(optim, accumulate=2 * optim.accumulate))
    after = training.recipe.optim.accumulate
    if after == before:
        return values, ""
    return values, f"the memory was full: batches are trained in {after} parts now (optim.accumulate {after})"


def _can_halve(training: Training) -> bool:
    optim = training.recipe.optim
    batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in training.model.modules())
    return training.processes.count == 1 and not batch_norm and optim.batch % (2 * optim.accumulate) == 0
