"""Activation checkpointing: blocks whose activations the backward pass computes again.

Chen et al. 2016, "Training deep nets with sublinear memory cost": only the inputs of each block are kept.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module
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
            options["context_fn"] = lambda: (nullcontext(), self._copy_buffers())
        return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)

    def _copy_buffers(self) -> AbstractContextManager[None]:
        """Use copies of the buffers, so that a second forward pass does not update batch norm again."""
        return _reparametrize_module(self, {name: each.clone() for name, each in self.named_buffers()})


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
