"""Activation checkpointing: blocks whose activations the backward pass computes again.

Chen et al. 2016, "Training deep nets with sublinear memory cost": only the inputs of each block are kept.
"""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddim.errors import UserError


class Recomputable(nn.Module):
    """A block that keeps only its inputs for the backward pass if `recompute` is set.

    Outputs and gradients do not depend on `recompute`. A `Recomputable` block must not contain
    another one.

    Attributes:
        recompute: whether the backward pass computes the activations again; see `recompute_blocks`.
    """

    recompute: bool = False

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:  # noqa: ANN401  (whatever the block takes)
        """Apply the block."""
        if not self.recompute:
            return super().__call__(*inputs, **options)
        # torch.compile moves updates of buffers out of the recomputed block, so they are made only once.
        if not torch.compiler.is_compiling():
            options["context_fn"] = lambda: (nullcontext(), copy_buffers(self))
        return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)


@contextmanager
def copy_buffers(net: nn.Module) -> Generator[None]:
    """Let a network use copies of its buffers inside the block.

    A second forward pass on the same batch then does not update the statistics of batch norm again.
    """
    layers = list(net.modules())
    owned = [(layer, *named) for layer in layers for named in layer.named_buffers(recurse=False)]
    for layer, name, buffer in owned:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in owned:
            setattr(layer, name, buffer)


def recompute_blocks(net: nn.Module, recompute: bool) -> None:
    """Set whether the blocks of a network recompute their activations in the backward pass.

    Raises:
        UserError: if `recompute` is true and the network has no `Recomputable` block.
    """
    blocks = [layer for layer in net.modules() if isinstance(layer, Recomputable)]
    if recompute and not blocks:
        name = type(net).__name__
        raise UserError(f"{name} has no block that is a ddim.nn.recompute.Recomputable: leave out recompute")
    for block in blocks:
        block.recompute = recompute
