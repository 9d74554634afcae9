"""Samplers: methods that turn noise into samples, step by step along the times of a grid."""

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
from ddim.diffusion.schedules import Level, Schedule, spread_over, time_of_ratio
from ddim.errors import UserError


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, eq. 12 and 16): eta 0 is deterministic, eta 1 is ancestral sampling (DDPM).

    It works for any schedule. A grid of N times takes N network evaluations.

    Attributes:
        eta: amount of noise that each step adds: 0 is deterministic, 1 is DDPM.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler.eta must lie in [0, 1], got {self.eta}")

    def step(self, x: Tensor, p: Prediction, now: Level, then: Level, noise: Noise) -> Tensor:
        # The rates are float64, because on a fine grid those of both levels are almost equal.
        ratio = (now.alpha * then.sigma) / (then.alpha * now.sigma)
        forgotten = (1 - ratio**2).clamp(min=0)
        fresh = self.eta * then.sigma * forgotten.sqrt()
        kept = (then.sigma**2 - fresh**2).clamp(min=0).sqrt()
        mean = spread_over(then.alpha, x) * p.x0 + spread_over(kept, x) * p.eps
        return mean + spread_over(fresh, x) * noise.like(x) if self.stochastic else mean


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

    def step(self, x: Tensor, p: Prediction, now: Level, then: Level, noise: Noise) -> Tensor:
        q = posterior(now, then)
        if self.variance == "learned":
            deviation = (q.log_variance("learned", p.variance_mix) / 2).exp()
        else:
            variance = q.small if self.variance == "small" else q.large
            deviation = spread_over(variance.sqrt(), x)
        return q.mean(x, p.x0) + deviation * noise.like(x)


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

    order: Literal[1, 2] = 2
    alpha: float = 1.0
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float | None = None
    s_noise: float = 1.0

    def evaluations(self, levels: int) -> int:
        return self.order * (levels - 1) + 1

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        schedule = denoise.schedule
        for t, s in pairwise(times):
            if self.stochastic:
                x, t = self._churn(schedule, x, t, len(times), noise)  # noqa: PLW2901  (the paper's t-hat)
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
        self, schedule: Schedule, x: Tensor, t: Tensor, levels: int, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Add noise to x at time t; return the noisier x and its time (algorithm 2, lines 4 to 6)."""
        now = schedule(t)
        ratio = now.noise_to_signal
        if not self.s_min <= ratio <= (math.inf if self.s_max is None else self.s_max):
            return x, t
        gamma = min(self.s_churn / levels, math.sqrt(2) - 1)
        raised = time_of_ratio(schedule, ratio * (1 + gamma))
        then = schedule(raised)
        added = (then.noise_to_signal**2 - ratio**2).clamp(min=0)
        fresh = added.sqrt() * self.s_noise
        kept = spread_over(then.alpha / now.alpha, x) * x
        return kept + spread_over(then.alpha * fresh, x) * noise.like(x), raised


@dataclass(frozen=True)
class Multistep(Sampler):
    """Multistep consistency sampling, for runs of `ddim distill` (Song et al. 2023, algorithm 1).

    The model predicts the image. The image then gets fresh noise of the next noise level, and so on. The
    first prediction is already a sample; each further step corrects it. N times take N network evaluations.
    """

    stochastic = True

    def step(self, x: Tensor, p: Prediction, now: Level, then: Level, noise: Noise) -> Tensor:
        return then.noisy(p.x0, noise.like(x))


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
