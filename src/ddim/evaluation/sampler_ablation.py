"""What discretisation, schedule, scaling and solver are worth to a model (Karras et al. 2022, figure 2).

A model says where clean images lie, and with that fixes the flow. How a sampler walks along it is free: over
which noise levels, in which variable, by which rule. The paper's x, under any noise sigma(t) and scale s(t),
is s(t) times the image with noise sigma, and moves by (its eq. 81)

    dx/dt = (s' / s + sigma' / sigma) x - (sigma' s / sigma) D(x / s; sigma).

An exact solver sees no difference between any two choices; steps that are not small do. Here sigma is the
noise on a clean image of weight one, sigma / alpha of the model's own schedule, whatever that is.
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
from ddim.diffusion.grids import pin_ends
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import EDM, Sampler, State, Times
from ddim.diffusion.samplers.flow import time_of_ratio
from ddim.diffusion.schedules import Schedule, as_double
from ddim.errors import UserError
from ddim.evaluation.grid_search import check, fine, pictures, reference
from ddim.evaluation.sampler_errors import levels
from ddim.runs.pipeline import Pipeline

LOW, SLOPE = 0.1, 19.9
"""beta_min and beta_d of the VP SDE (table 1)."""


def _vp_time(sigma: Tensor) -> Tensor:
    """The t at which sigma^2 = exp(SLOPE t^2 / 2 + LOW t) - 1."""
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
"""What grows in equal steps from one noise level to the next, and sigma of it (table 1, time steps).

iDDPM's is the angle of its cosine, without the offset and the rounding of its table."""


def grid(name: str, steps: int, schedule: Schedule, end: float, first: float = 1.0) -> Tensor:
    """(steps,) times of the schedule from `first` to `end`, at the noise levels of a discretisation."""
    clock, sigma = DISCRETISATIONS[name]
    start, stop = clock(schedule(torch.tensor([first, end], dtype=torch.float64)).noise_to_signal).tolist()
    times = time_of_ratio(schedule, sigma(torch.linspace(start, stop, steps, dtype=torch.float64)))
    return pin_ends(times, first, end)


@dataclass(frozen=True)
class Point:
    """A level (): the time t of the paper, sigma there, s, and the derivatives of both over t."""

    t: Tensor
    sigma: Tensor
    s: Tensor
    sigma_slope: Tensor
    s_slope: Tensor

    def moved(self, x: Tensor, x0: Tensor, h: Tensor) -> Tensor:
        """h dx/dt at x (B, C, H, W), where the clean image is x0."""
        ratio = self.sigma_slope / self.sigma
        return (h * (self.s_slope / self.s + ratio)).to(x) * x - (h * ratio * self.s).to(x) * x0


@dataclass(frozen=True)
class Flow(Sampler):
    """Euler's rule (order 1) or Heun's on the flow under a choice of sigma(t) and s(t): algorithm 1.

    `schedule`: sigma is t (linear, EDM's and DDIM's), its square root (ve), or that of the VP SDE (vp).
    `scaling`: s is 1 (none) or keeps x at unit variance (vp). N levels are 2 (N - 1) evaluations, N - 1 of
    order 1; the picture is one more.
    """

    order: int = 2
    schedule: Literal["linear", "ve", "vp"] = "linear"
    scaling: Literal["none", "vp"] = "none"

    def evaluations(self, levels: int) -> int:
        """Network evaluations of a run; see `Sampler`."""
        return self.order * (levels - 1) + 1

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Walk down the times; see `Sampler`."""
        times = as_double(times)
        yield State(x, times[0].item(), torch.zeros_like(x))
        for t, s in pairwise(times):
            (a, now), (b, then) = (
                (at.alpha, self.point(at.noise_to_signal)) for at in map(denoise.schedule, (t, s))
            )
            h = then.t - now.t
            p = denoise(x, t)
            y = (now.s / a).to(x) * x
            step = now.moved(y, p.x0, h)
            if self.order == 2:
                ahead = y + step
                q = denoise((b / then.s).to(x) * ahead, s)
                step = (step + then.moved(ahead, q.x0, h)) / 2
            x = (b / then.s).to(x) * (y + step)
            yield State(x, s.item(), p.x0)

    def point(self, sigma: Tensor) -> Point:
        """All that the flow depends on at the level of noise sigma ()."""
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
"""By which part the noise is raised at each step, up to the paper's most."""

ORIGINS: dict[str, tuple[str, str, str]] = {
    "VP": ("vp", "vp", "vp"),
    "VE": ("ve", "ve", "none"),
    "DDIM": ("iddpm", "linear", "none"),
}
"""Discretisation, schedule and scaling of the samplers that the paper starts from (table 1)."""


@dataclass(frozen=True)
class Cell:
    """One way along the flow: its evaluations and the mean squared error of its pictures, in model units."""

    discretisation: str
    solver: str
    schedule: str
    scaling: str
    nfe: int
    error: float


Error = Callable[[Sampler, Tensor], float]
"""A sampler and its times -> the mean squared error of its pictures."""


def of_run(trained: Pipeline, end: float, seeds: Sequence[int], nfe: int, first: float = 1.0) -> Error:
    """Against the pictures of the same noise by a run that is finer than any of `nfe` evaluations.

    UserError where the schedule has no so fine a run: a table, whose levels coincide.
    """
    steps = fine(levels(EDM(), nfe))
    check(steps, trained.recipe.walked, end, first)
    truth = reference(trained, end, seeds, steps, first)
    return lambda sampler, times: (pictures(trained, sampler, times, seeds) - truth).square().mean().item()


def ablated(error: Error, schedule: Schedule, end: float, nfe: int, first: float = 1.0) -> Iterator[Cell]:
    """Every discretisation, solver, schedule and scaling, at no more than `nfe` evaluations a picture."""
    if nfe < 3:
        raise UserError(f"an ablation needs at least 3 evaluations, two levels of Heun's rule, got {nfe}")
    for name in DISCRETISATIONS:
        for solver, order in SOLVERS.items():
            for clock, scaling in FLOWS:
                sampler = Flow(order, clock, scaling)
                count = levels(sampler, nfe)
                times = grid(name, count, schedule, end, first)
                value = error(sampler, times)
                yield Cell(name, solver, clock, scaling, sampler.evaluations(count), value)


def churned(
    error: Error, schedule: Schedule, end: float, nfe: int, first: float = 1.0
) -> Iterator[tuple[float, float]]:
    """(gamma, error) of Heun's rule on EDM's levels with noise renewed (algorithm 2), for each of `CHURN`.

    Renewed noise leads to another picture: the error says how far pictures go, not how good they are.
    """
    count = levels(EDM(), nfe)
    times = grid("edm", count, schedule, end, first)
    for gamma in CHURN:
        yield gamma, error(EDM(s_churn=gamma * count), times)


def path(cells: Sequence[Cell], origin: str) -> list[float]:
    """The errors along figure 2: as published, by Heun's rule, on EDM's levels, with sigma = t and s = 1."""
    discretisation, schedule, scaling = ORIGINS[origin]
    stages = [
        (discretisation, "euler", schedule, scaling),
        (discretisation, "heun", schedule, scaling),
        ("edm", "heun", schedule, scaling),
        ("edm", "heun", "linear", "none"),
    ]
    found = {(c.discretisation, c.solver, c.schedule, c.scaling): c.error for c in cells}
    return [found[stage] for stage in stages]
