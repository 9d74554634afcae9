"""Find the schedule that matches a table of betas from another program."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.schedules import LONGEST, BetaTable, Linear, Schedule
from ddim.errors import UserError


def find_schedule(betas: Tensor) -> Schedule:
    """Return the schedule whose table of betas equals `betas` (T,) to within 0.2 %.

    Raises:
        UserError: if `betas` is not a linear, quadratic, cosine or sigmoid table, or does not have 2 to
            `LONGEST` entries.
    """
    entries = betas.numel()
    if betas.ndim != 1 or not 2 <= entries <= LONGEST:
        raise UserError(f"betas must be a table of 2 to {LONGEST:,} entries, got shape {tuple(betas.shape)}")
    table = betas.double()
    candidates: list[Linear | BetaTable] = []
    if 0 < table[0] < table[-1] < 1:
        ends = [float(f"{value:.6g}") for value in (table[0].item(), table[-1].item())]
        candidates = [make_table(kind, entries, *ends) for kind in ("linear", "quad")]
    candidates += [make_table(kind, entries) for kind in ("cosine", "signal_sigmoid")]
    for schedule in candidates:
        own = 1 - schedule.powers / torch.cat([torch.ones(1), schedule.powers[:-1]])
        if torch.allclose(own, table, rtol=2e-3, atol=1e-7):
            return schedule
    raise UserError(
        "the betas of the checkpoint are not linear, quadratic, cosine or sigmoid: no schedule fits"
    )


def make_table(kind: Any, entries: int, first: float = 1e-4, last: float = 0.02) -> Linear | BetaTable:  # noqa: ANN401
    """Return a table of betas without clipping: `Linear` for "linear", else the `BetaTable` of this kind."""
    if kind == "linear":
        return Linear(entries, first, last, clip="none", read="log_snr")
    return BetaTable(entries, first, last, clip="none", read="log_snr", betas=kind)
