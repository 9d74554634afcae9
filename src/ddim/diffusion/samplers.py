"""Samplers: methods that turn noise into samples, step by step along the times of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.likelihood import posterior
from ddim.diffusion.multistep import AdamsBashforth, DPMSolver, UniPC
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.sampler import Sampler, State, Steps, initial_noise, last_state, move  # noqa: F401
from ddim.diffusion.schedule import Level, spread_over, time_of_ratio
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, eq. 12 and 16): eta 0 is deterministic, eta 1 is ancestral sampling (DDPM).

    It works for any schedule. A grid of N times takes N network evaluations.

    Attributes:
        eta: amount of noise that each step adds: 0 is deterministic, 1 is DDPM.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler.eta must lie in [0, 1], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether sampling draws noise; see `Sampler`."""
        return self.eta > 0

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Yield the state before each step; see `Sampler`."""
        for t, s in pairwise(times):
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            x = self.step(p, denoise.schedule(t), denoise.schedule(s), noise)
        return x

    def step(self, p: Prediction, now: Level, then: Level, noise: Noise | None = None) -> Tensor:
        """Return the images at noise level `then`, from their prediction at `now`; eta 0 needs no noise."""
        x0, eps = p.x0, p.eps
        # The rates are float64, because on a fine grid those of both levels are almost equal.
        ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
        fresh = self.eta * then.sigma * (1 - ratio**2).clamp(min=0).sqrt()
        kept = (then.sigma**2 - fresh**2).clamp(min=0).sqrt()
        x = spread_over(then.alpha, x0) * x0 + spread_over(kept, x0) * eps
        return x if noise is None or self.eta == 0 else x + spread_over(fresh, x) * noise.like(x)


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling, DDPM (Ho et al. 2020, algorithm 2), with steps between any two times t > s.

    `variance` is the variance of a step:

    - "small": the variance of q(x_s | x_t, x0), optimal if all data are one image.
    - "large": beta, the variance of q(x_t | x_s), optimal for normal data of unit variance on a
      variance-preserving schedule.
    - "learned": between "small" and "large". For each pixel, the network predicts how to interpolate between
      their logarithms (Nichol & Dhariwal 2021, eq. 15).

    A grid of N times takes N network evaluations.

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

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Yield the state before each step; see `Sampler`."""
        for t, s in pairwise(times):
            q = posterior(denoise.schedule(t), denoise.schedule(s))
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            if self.variance == "learned":
                deviation = (q.log_variance("learned", p.variance_mix) / 2).exp()
            else:
                deviation = spread_over((q.small if self.variance == "small" else q.large).sqrt(), x)
            mean = spread_over(q.x_weight, x) * x + spread_over(q.x0_weight, x) * p.x0
            x = mean + deviation * noise.like(x)
        return x


@dataclass(frozen=True)
class EDM(Sampler):
    """The EDM sampler, with Heun steps and churn (Karras et al. 2022, algorithms 2 and 3).

    Its variable is sigma / alpha, the ratio of noise rate and signal rate, so it works for any schedule. A
    step of order 2 evaluates the network twice: at its start, and after a fraction of its length. The field
    `alpha` is this fraction, not the signal rate: 1 is Heun's method, 1/2 the midpoint method, 2/3 Ralston's
    method. Order 1 is Euler's method.

    A grid of N times takes 2 N - 1 network evaluations, or N for order 1.

    `s_churn`, `s_min`, `s_max` and `s_noise` are parameters of the paper. Before each step, "churn" adds
    noise and moves to a noisier time, which is the time of the state. Churn happens if sigma / alpha lies
    between `s_min` and `s_max`. There is no upper limit if `s_max` is None. `s_churn` is the amount of noise,
    `s_noise` its standard deviation. The noisier time is at most 1; on a table whose `read` is "floor" it is
    rounded up to an entry. Unlike algorithm 2 at i = N - 1, this sampler has no churn at the last time.

    Attributes:
        order: 1 for Euler's method, 2 for two network evaluations in each step.
        alpha: fraction of the step at which the second evaluation takes place: 1 is Heun's method.
        s_churn: amount of noise that steps add; 0 is deterministic.
        s_min: lowest noise level, sigma / alpha, at which noise is added.
        s_max: highest noise level at which noise is added; None for no limit.
        s_noise: standard deviation of the added noise.
    """

    order: int = 2
    alpha: float = 1.0
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float | None = None
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        if self.order not in (1, 2) or not 0 < self.alpha <= 1 or min(self.s_churn, self.s_noise) < 0:
            raise UserError(
                "sampler.order must be 1 or 2, sampler.alpha above 0 and at most 1, and sampler.s_churn and "
                f"sampler.s_noise at least 0, got {self}"
            )

    @property
    def stochastic(self) -> bool:
        """Whether sampling draws noise; see `Sampler`."""
        return self.s_churn > 0

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run; see `Sampler`."""
        return self.order * (levels - 1) + 1

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Yield the state before each step; see `Sampler`."""
        schedule = denoise.schedule
        for t, s in pairwise(times):
            x, t = self._churn(denoise, x, t, len(times), noise)  # noqa: PLW2901  (the paper's t-hat)
            now, then = schedule(t), schedule(s)
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            slope = p.eps
            if self.order == 2:
                begin, end = now.noise_to_signal, then.noise_to_signal
                where = s if self.alpha == 1 else time_of_ratio(schedule, torch.lerp(begin, end, self.alpha))
                at = schedule(where)
                q = denoise(move(x, p.eps, now, at), where)
                # The actual fraction differs from alpha if a table has no noise level between its entries.
                part = (at.noise_to_signal - begin) / (end - begin)
                if part > 0:
                    slope = p.eps + (q.eps - p.eps) / spread_over(2 * part, x)
            x = move(x, slope, now, then)
        return x

    def _churn(
        self, denoise: Denoiser, x: Tensor, t: Tensor, levels: int, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Add noise to x at time t; return the noisier x and its time (algorithm 2, lines 4 to 6)."""
        schedule = denoise.schedule
        now = schedule(t)
        ratio = now.noise_to_signal
        if self.s_churn == 0 or not self.s_min <= ratio <= (math.inf if self.s_max is None else self.s_max):
            return x, t
        gamma = min(self.s_churn / levels, math.sqrt(2) - 1)
        raised = time_of_ratio(schedule, ratio * (1 + gamma))
        then = schedule(raised)
        fresh = (then.noise_to_signal**2 - ratio**2).clamp(min=0).sqrt() * self.s_noise
        kept = spread_over(then.alpha / now.alpha, x) * x
        return kept + spread_over(then.alpha * fresh, x) * noise.like(x), raised


@dataclass(frozen=True)
class Multistep(Sampler):
    """Multistep consistency sampling, for runs of `ddim distill` (Song et al. 2023, algorithm 1).

    The model predicts the image. The image then gets fresh noise of the next noise level, and so on. The
    first prediction is already a sample; each further step corrects it. N times take N network evaluations.
    """

    stochastic = True

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Yield the state before each step; see `Sampler`."""
        for t, s in pairwise(times):
            x0 = denoise(x, t).x0
            yield State(x, t.item(), x0)
            x = denoise.schedule(s).noisy(x0, noise.like(x0))
        return x


SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "edm": EDM,
    "adams_bashforth": AdamsBashforth,
    "dpm_solver": DPMSolver,
    "unipc": UniPC,
    "multistep": Multistep,
}
"""All samplers, keyed by their names in a recipe."""
