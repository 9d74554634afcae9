"""Measure how the choices of a sampler affect the sampling error (Karras et al. 2022, figure 2).

The choices are discretisation, schedule, scaling and solver.

A trained denoiser D defines the probability flow. A sampler chooses the noise levels, the variable and
the solver with which this flow is integrated. The paper scales a noisy image: x = s(t) (x0 + sigma(t) eps),
with a schedule sigma(t) and a scaling s(t). This x follows (eq. 81)

    dx/dt = (s' / s + sigma' / sigma) x - (sigma' s / sigma) D(x / s; sigma).

With an exact solver, all choices lead to equal samples; with large steps, the samples differ. Here sigma
stands for sigma / alpha of the model's own schedule: the standard deviation of the noise in x_t / alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.sampler import Steps
from ddim.diffusion.samplers import EDM, Sampler, State
from ddim.diffusion.schedules import time_of_ratio
from ddim.errors import check_count
from ddim.evaluation.discretisation_error import (
    SamplingError,
    TimeRange,
    count_reference_levels,
    error_against_reference,
    find_time_range,
)
from ddim.evaluation.sampler_errors import count_levels
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import OFF, Guidance

LOW, SLOPE = 0.1, 19.9
"""beta_min and beta_d of the VP SDE (table 1)."""


def _vp_time(sigma: Tensor) -> Tensor:
    """Return the t at which sigma^2 = exp(SLOPE t^2 / 2 + LOW t) - 1."""
    integral = (sigma**2).log1p()
    return 2 * integral / (LOW + (LOW**2 + 2 * SLOPE * integral).sqrt())


def _vp_sigma(t: Tensor) -> Tensor:
    return torch.expm1(LOW * t + SLOPE / 2 * t**2).sqrt()


DISCRETISATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "edm": (lambda sigma: sigma ** (1 / 7), lambda u: u**7),
    "vp": (_vp_time, _vp_sigma),
    "ve": (torch.log, torch.exp),
    "iddpm": (torch.atan, torch.tan),
}
"""For each discretisation, (f, inverse of f); the values f(sigma) at the noise levels are equally spaced.

See the row "Time steps" of table 1. For iDDPM, f is the angle of the cosine schedule, without the offset and
the rounding of its table."""


def discretise(name: str, steps: int, ends: TimeRange) -> Tensor:
    """Return times (steps,) at the noise levels of a discretisation, a key of `DISCRETISATIONS`."""
    clock, sigma = DISCRETISATIONS[name]
    both = ends.schedule(torch.tensor([ends.first, ends.last], dtype=torch.float64))
    start, stop = clock(both.noise_to_signal).tolist()
    times = time_of_ratio(ends.schedule, sigma(torch.linspace(start, stop, steps, dtype=torch.float64)))
    times[0], times[-1] = ends.first, ends.last
    return times


@dataclass(frozen=True)
class Point:
    """Scalars at one noise level: the paper's t, sigma(t), s(t), and the derivatives sigma'(t) and s'(t)."""

    t: Tensor
    sigma: Tensor
    s: Tensor
    sigma_slope: Tensor
    s_slope: Tensor

    def move(self, x: Tensor, x0: Tensor, h: Tensor) -> Tensor:
        """Return h dx/dt at x (B, C, H, W), given the clean image x0."""
        ratio = self.sigma_slope / self.sigma
        return (h * (self.s_slope / self.s + ratio)).to(x) * x - (h * ratio * self.s).to(x) * x0


@dataclass(frozen=True)
class Flow(Sampler):
    """Solve the flow by Euler's or Heun's method, for a choice of sigma(t) and s(t) (algorithm 1).

    Args:
        order: 1 for Euler's method, 2 for Heun's method.
        schedule: sigma(t): "linear" is t, as in EDM and DDIM; "ve" is sqrt(t); "vp" is from the VP SDE.
        scaling: s(t): "none" is 1; "vp" keeps x at unit variance.
    """

    order: int = 2
    schedule: Literal["linear", "ve", "vp"] = "linear"
    scaling: Literal["none", "vp"] = "none"

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of sampling at `levels` times; see `Sampler`."""
        return self.order * (levels - 1) + 1

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Yield the state before each step; see `Sampler`."""
        for t, s in pairwise(times):
            (a, now), (b, then) = (
                (at.alpha, self.point(at.noise_to_signal)) for at in map(denoise.schedule, (t, s))
            )
            h = then.t - now.t
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            y = (now.s / a).to(x) * x
            step = now.move(y, p.x0, h)
            if self.order == 2:
                ahead = y + step
                q = denoise((b / then.s).to(x) * ahead, s)
                step = (step + then.move(ahead, q.x0, h)) / 2
            x = (b / then.s).to(x) * (y + step)
        return x

    def point(self, sigma: Tensor) -> Point:
        """Return the time, the scaling and the derivatives at the scalar noise level sigma."""
        one = torch.ones_like(sigma)
        if self.schedule == "linear":
            t, slope = sigma, one
        elif self.schedule == "ve":
            t, slope = sigma**2, 1 / (2 * sigma)
        else:
            t = _vp_time(sigma)
            slope = (LOW + SLOPE * t) * (sigma + 1 / sigma) / 2
        if self.scaling == "none":
            return Point(t, sigma, one, slope, 0 * one)
        s = (1 + sigma**2).rsqrt()
        return Point(t, sigma, s, slope, -sigma * slope * s**3)


SOLVERS: dict[str, int] = {"euler": 1, "heun": 2}
FLOWS: tuple[tuple[Literal["linear", "ve", "vp"], Literal["none", "vp"]], ...] = (
    ("linear", "none"),
    ("ve", "none"),
    ("vp", "none"),
    ("linear", "vp"),
    ("ve", "vp"),
    ("vp", "vp"),
)
"""Every schedule with every scaling."""

CHURN = (0.05, 0.2, math.sqrt(2) - 1)
"""Values of gamma, the relative increase of sigma at each step (algorithm 2); the last is the upper limit."""

ORIGINS: dict[str, tuple[str, str, str]] = {
    "VP": ("vp", "vp", "vp"),
    "VE": ("ve", "ve", "none"),
    "DDIM": ("iddpm", "linear", "none"),
}
"""Discretisation, schedule and scaling of the published samplers that the paper improves (table 1)."""


@dataclass(frozen=True)
class FlowError:
    """One combination of choices, its network evaluations, and the mean squared error of its samples."""

    discretisation: str
    solver: str
    schedule: str
    scaling: str
    nfe: int
    error: float


@dataclass(frozen=True)
class Ablation:
    """The errors of each discretisation, solver and probability flow, and of sampling with fresh noise.

    Args:
        errors: for each discretisation and each solver, one error for each probability flow in `FLOWS`.
        churned: pairs (gamma, error). Fresh noise leads to other samples, so this error is their distance
            from the reference and does not measure their quality.
    """

    errors: list[FlowError]
    churned: list[tuple[float, float]]


@with_bar
def ablate_sampler(
    pipeline: Pipeline,
    evaluations: int = 19,
    seeds: int = 16,
    *,
    end: float | None = None,
    progress: Progress = ignore_progress,
    guidance: Guidance = OFF,
) -> Ablation:
    """Return the sampling error of every combination of discretisation, solver, schedule and scaling.

    Each combination uses at most `evaluations` evaluations of the denoiser for a sample.

    Args:
        pipeline: the run.
        evaluations: evaluations of the denoiser for each sample, at least 3; a guided denoiser evaluates two
            networks.
        seeds: number of samples whose error is measured.
        end: the last time, by default the last time of the run's own grid.
        progress: called with "reference samples", then with "samplers" after each combination.
        guidance: the guidance of all samples, also of the reference.

    Raises:
        UserError: if a number is not allowed, or the schedule is a table with too few different noise levels.
    """
    check_count("seeds", seeds)
    # Heun's method needs 3 evaluations for a grid of two times, the smallest grid.
    check_count("evaluations", evaluations, 3)
    ends = find_time_range(pipeline.recipe, pipeline.recipe.steps, end)
    levels = count_reference_levels(count_levels(EDM(), evaluations))
    ends.check(levels)
    error = error_against_reference(pipeline, ends, range(seeds), levels, progress, guidance)
    total = len(DISCRETISATIONS) * len(SOLVERS) * len(FLOWS) + len(CHURN)
    errors, churned = [], []
    for found in ablate_flows(error, ends, evaluations):
        errors.append(found)
        progress("samplers", len(errors), total)
    for pair in ablate_churn(error, ends, evaluations):
        churned.append(pair)
        progress("samplers", len(errors) + len(churned), total)
    return Ablation(errors, churned)


def ablate_flows(error: SamplingError, ends: TimeRange, nfe: int) -> Iterator[FlowError]:
    """Yield the error of every combination of choices, at `nfe` network evaluations or fewer.

    Args:
        error: measures the error of a sampler on given times.
        ends: the noise schedule, and the first and the last time.
        nfe: the largest number of network evaluations.
    """
    for name in DISCRETISATIONS:
        for solver, order in SOLVERS.items():
            for clock, scaling in FLOWS:
                sampler = Flow(order, clock, scaling)
                count = count_levels(sampler, nfe)
                value = error(sampler, discretise(name, count, ends))
                yield FlowError(name, solver, clock, scaling, sampler.evaluations(count), value)


def ablate_churn(error: SamplingError, ends: TimeRange, nfe: int) -> Iterator[tuple[float, float]]:
    """Yield (gamma, error) of Heun's method with fresh noise (algorithm 2), for each of `CHURN`.

    The arguments are the same as in `ablate_flows`.
    """
    count = count_levels(EDM(), nfe)
    times = discretise("edm", count, ends)
    for gamma in CHURN:
        yield gamma, error(EDM(s_churn=gamma * count), times)


def trace_improvements(errors: Sequence[FlowError], origin: str) -> list[float]:
    """Return the four errors of figure 2 for a key of `ORIGINS`.

    The first is the error of the published sampler. The others add one change after another: Heun's method,
    EDM's noise levels, and sigma = t with s = 1.
    """
    discretisation, schedule, scaling = ORIGINS[origin]
    stages = [
        (discretisation, "euler", schedule, scaling),
        (discretisation, "heun", schedule, scaling),
        ("edm", "heun", schedule, scaling),
        ("edm", "heun", "linear", "none"),
    ]
    found = {(c.discretisation, c.solver, c.schedule, c.scaling): c.error for c in errors}
    return [found[stage] for stage in stages]
