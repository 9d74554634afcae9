"""What few evaluations cost: the error of every deterministic sampler on every named grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import (
    DDIM,
    EDM,
    AdamsBashforth,
    DPMSolver,
    Sampler,
    UniPC,
    final_sample,
    last_state,
)
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError
from ddim.evaluation.grid_search import check, named_grids, pictures, reference
from ddim.runs.pipeline import Pipeline

SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "Heun": EDM(),
    "Adams-Bashforth 2": AdamsBashforth(2),
    "Adams-Bashforth 4, equal weights": AdamsBashforth(4, steps="equal"),
    "DPM-Solver++ 2M": DPMSolver(2),
    "DPM-Solver++ 3M": DPMSolver(3),
    "UniPC-2": UniPC(2),
    "UniPC-3": UniPC(3),
}
FINE = 500
"""Levels of the runs of Heun's rule that errors are measured against."""


@dataclass(frozen=True)
class Cell:
    """A sampler on a named grid: its evaluations, and the mean squared error of its pictures."""

    sampler: str
    grid: str
    nfe: int
    error: float


def levels(sampler: Sampler, nfe: int) -> int:
    """The most levels that a run of at most `nfe` evaluations can have; at least 2."""
    return max([2, *(n for n in range(2, nfe + 1) if sampler.evaluations(n) <= nfe)])


def compared(
    error: Callable[[Sampler, Tensor], float],
    schedule: Schedule,
    end: float,
    budgets: Sequence[int],
    first: float = 1.0,
) -> list[Cell]:
    """Every sampler on every named grid from the time `first` to `end`, at each budget of evaluations."""
    cells = []
    for name, sampler in SAMPLERS.items():
        for nfe in budgets:
            count = levels(sampler, nfe)
            spent = sampler.evaluations(count)
            for grid, times in named_grids(count, schedule, end, first).items():
                cells.append(Cell(name, grid, spent, error(sampler, times)))
    return cells


def of_run(
    trained: Pipeline, end: float, seeds: Sequence[int], first: float = 1.0
) -> Callable[[Sampler, Tensor], float]:
    """The error of a run's pictures against a fine run between the same ends, in model units.

    UserError where the schedule has no so fine a run: a table, whose levels coincide.
    """
    try:
        check(FINE, trained.recipe.walked, end, first)
    except UserError:
        raise UserError(
            f"samplers cannot be compared on this run: its schedule has no {FINE} different levels"
        ) from None
    truth = reference(trained, end, seeds, FINE, first)
    return lambda sampler, times: (pictures(trained, sampler, times, seeds) - truth).square().mean().item()


def of_oracle(law: Mixture, x: Tensor, end: float) -> Callable[[Sampler, Tensor], float]:
    """The error on an oracle, of runs from x (B, C, H, W)."""

    def made(sampler: Sampler, times: Tensor) -> Tensor:
        return final_sample(law, last_state(sampler(law, x, times, Noise(range(len(x))))))

    truth = made(EDM(), named_grids(FINE, law.schedule, end)["uniform_log_snr"])
    return lambda sampler, times: (made(sampler, times) - truth).square().mean().item()
