"""The optimiser Muon (Jordan et al. 2024) for the weights that are matrices, with AdamW for the others."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddim.recipe.recipe import Optim

MOMENTUM = 0.95
"""Decay rate of Muon's momentum."""

RMS = 0.2
"""Root mean square of the entries of an update, per unit of learning rate.

Updates of AdamW have about this value too, so both use the same learning rate (Liu et al. 2025, section 2.2).
"""

LEAST = 8
"""Muon trains only matrices with more inputs and more outputs than this.

So AdamW trains the convolutions whose inputs or outputs are the channels of an image, of at most 8 channels.
"""

STEPS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Number of iterations in `orthogonalise`, and the coefficients of each (Jordan et al. 2024)."""


def divide_parameters(model: nn.Module, optim: Optim) -> tuple[dict[str, nn.Parameter], ...]:
    """Return the parameters that AdamW trains and those that Muon trains, by name.

    Muon trains the weights of linear layers and convolutions with more than `LEAST` inputs and outputs. AdamW
    trains embeddings, as Jordan et al. advise for the input layers of a network.
    """
    embeddings = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    others, matrices = {}, {}
    for name, p in model.named_parameters():
        matrix = p.dim() >= 2 and min(p.shape[:2]) > LEAST and id(p) not in embeddings
        (matrices if optim.method == "muon" and matrix else others)[name] = p
    return others, matrices


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for `others`; without matrices, it is AdamW.

    The update of a matrix is its momentum, changed so that all singular values are about 1, times a constant
    and the learning rate. So the weights also change quickly in directions in which gradients are small. The
    weights of a convolution form a matrix (outputs, inputs * kernel height * kernel width).

    As in PyTorch's fused AdamW, a step changes nothing if `found_inf` is 1. None means that it is 0.

    Args:
        others: parameters for AdamW, see `divide_parameters`; they form the first group.
        matrices: parameters of two or more dimensions; they form the second group.
        dtype: the type of the matrix products.
        optim: learning rate, betas and weight decay; Muon ignores the betas.
    """

    def __init__(
        self, others: list[nn.Parameter], matrices: list[nn.Parameter], dtype: torch.dtype, optim: Optim
    ) -> None:
        # PyTorch's AdamW refuses an empty list; `step` gives it the group of `others`, which may be empty.
        some = others or [nn.Parameter(torch.zeros(1, device="cpu"))]
        rates = {"lr": optim.lr, "betas": optim.betas, "weight_decay": optim.weight_decay}
        self.adamw = torch.optim.AdamW(some, **rates, fused=True)
        super().__init__([{"params": others}, {"params": matrices}], self.adamw.defaults)
        self.dtype = dtype
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        """Update all parameters that have a gradient."""
        *others, matrices = self.param_groups
        # AdamW shares the state of this optimiser. It is assigned again in each step, because `state` and
        # `param_groups` are new objects after a checkpoint is restored.
        self.adamw.state, self.adamw.param_groups = self.state, others
        self.adamw.found_inf = self.found_inf  # pyrefly: ignore[missing-attribute]
        self.adamw.step()
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                alike[len(parameter), parameter[0].numel()].append((parameter, parameter.grad))
        for group in alike.values():
            self._update(group, matrices["lr"], matrices["weight_decay"])

    def _update(self, group: list[tuple[nn.Parameter, Tensor]], rate: float, decay: float) -> None:
        """Update parameters of the same matrix shape by their gradients, all in one batched product."""
        momenta = []
        for parameter, gradient in group:
            slot = self.state[parameter]
            if "momentum" not in slot:
                slot["momentum"] = torch.zeros_like(parameter)
            momentum = self._change(slot["momentum"], lambda x, g=gradient: x.lerp_(g, 1 - MOMENTUM))
            momenta.append(gradient.lerp(momentum, MOMENTUM).to(self.dtype).reshape(len(parameter), -1))
        updates = orthogonalise(torch.stack(momenta)).float()
        updates *= rate * RMS * math.sqrt(max(updates.shape[1:]))
        for (parameter, _), update in zip(group, updates, strict=True):
            step = update.reshape(parameter.shape)
            self._change(parameter, lambda x, step=step: x.mul_(1 - rate * decay).sub_(step))

    def _change(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Change a tensor by a function that works in place, unless `found_inf` is 1; return the tensor."""
        if self.found_inf is None:
            return change(x)
        return x.copy_(torch.where(self.found_inf > 0, x, change(x.clone())))


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (..., m, n) with the same singular vectors, and singular values of about 0.7 to 1.2.

    This is the Newton-Schulz iteration with the coefficients of Jordan et al. 2024, which raise small
    singular values fast. Singular values below about 0.0015 times the norm of the matrix do not reach
    0.7.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        change = (b * gram + c * gram @ gram) @ x
        x = x.mul_(a).add_(change)
    return x if wide else x.mT
