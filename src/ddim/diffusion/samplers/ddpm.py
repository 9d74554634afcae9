"""Ancestral sampling of denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.gaussian import posterior
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.state import Sampler, State
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling, DDPM (Ho et al. 2020, algorithm 2), with steps between any two times t > s.

    `variance` is the variance of a step:

    - "small": the variance of q(x_s | x_t, x0), optimal if all data are one image.
    - "large": beta, the variance of q(x_t | x_s), optimal for normal data of unit variance on a
      variance-preserving schedule.
    - "learned": between "small" and "large". For each pixel, the network predicts how to interpolate between
      their logarithms (Nichol & Dhariwal 2021, eq. 15).

    A grid of N times takes N - 1 network evaluations; the final sample takes one more.

    Attributes:
        variance: variance of a step; "learned" needs a network that was trained to predict it.
    """

    variance: Literal["small", "large", "learned"] = "small"

    stochastic = True

    def __post_init__(self) -> None:
        check_part_values("sampler", self)

    @property
    def needs_variance(self) -> bool:
        """Whether the network must predict a variance; see `Sampler`."""
        return self.variance == "learned"

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`.

        Raises:
            UserError: if `variance` is "learned", but the network does not predict a variance.
        """
        for t, s in pairwise(times):
            q = posterior(denoise.schedule(t), denoise.schedule(s))
            p = denoise(x, t)
            if self.variance == "learned" and p.variance_mix is None:
                raise UserError(
                    'sampler.variance is "learned", but this network predicts no variance: give "small" or '
                    '"large"'
                )
            mean = q.x_weight.to(x) * x + q.x0_weight.to(x) * p.x0
            if p.variance_mix is not None and self.variance == "learned":
                spread = (q.log_variance(p.variance_mix) / 2).exp()
            else:
                spread = (q.small if self.variance == "small" else q.large).sqrt().to(x)
            x = mean + spread * noise.like(x)
            yield State(x, s.item(), p.x0)
