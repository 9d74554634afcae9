"""Figures of schedules and of the sinusoidal embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddim.diffusion.denoiser import choose_part
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearBeta, Schedule
from ddim.diffusion.times import plateaus
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.recipe.codec import describe_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = (0.02, 0.95)
"""The smallest and the largest signal rate of the torch/luz repository and the Keras example."""

DEFAULT: dict[str, Schedule] = {
    "cosine": Cosine(*BOUNDS),
    "linear": Linear(clip="rates", read="floor"),
    "linear_beta": LinearBeta(),
}
"""The schedules that are plotted by default.

"cosine" and "linear" have the bounds of the torch/luz repository. "linear_beta" is DDPM's schedule in
continuous time.
"""

CLEAN = 0.02
"""The largest sigma / alpha at t = 0 that counts as clean: about the rounding of pixels to 8 bits."""

Shown = Mapping[str, Schedule] | Sequence[str | Schedule] | str | Schedule
"""Schedules to plot: a schedule or its name, a list of schedules and names, or {name to show: schedule}."""


def name_schedules(shown: Shown) -> dict[str, Schedule]:
    """Return schedules keyed by name; an object without a name is named like "cosine start 0.02"."""
    if isinstance(shown, Mapping):
        return dict(shown)
    items = shown if isinstance(shown, Sequence) and not isinstance(shown, str) else [shown]
    names = [item if isinstance(item, str) else describe_kind(item) for item in items]
    return {name: choose_part("schedules", item, SCHEDULES) for name, item in zip(names, items, strict=True)}


def plot_schedules(schedules: Shown = DEFAULT, points: int = 1001) -> Figure:
    """Return a figure of alpha, sigma and log-SNR of schedules, at `points` evenly spaced times from 0 to 1.

    Schedules can be names and objects: `plot_schedules(["cosine", ddim.Linear(clip="powers")])`. Notes state
    the share of times on each plateau, because training spends this share on a single noise level. They also
    name schedules that are not clean at t = 0, and explain the dotted lines, which are the bounds of the
    torch/luz repository and the Keras example.
    """
    shown, t = name_schedules(schedules), torch.linspace(0, 1, points, dtype=torch.float64)
    levels = {name: schedule(t) for name, schedule in shown.items()}
    # If a schedule keeps alpha = 1, its sigma grows far beyond 1, and the panel gets a log scale.
    log = any(level.sigma.max() > 1 for level in levels.values())
    titles = {
        "alpha": "Signal rate alpha",
        "sigma": f"Noise rate sigma{', log scale' * log}",
        "log_snr": "log-SNR, 2 log(alpha / sigma)",
    }
    figure = charts.new_figure(14.0, 4.6)
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        if name == "sigma" and log:
            axes.set_yscale("log")
        # A line has a gap where a value is infinite.
        values = {key: getattr(level, name) for key, level in levels.items()}
        lines = {key: torch.where(value.isfinite(), value, torch.nan) for key, value in values.items()}
        series = {key: (t.numpy(), line.numpy()) for key, line in lines.items()}
        charts.draw_curves(axes, series, "t  (0 clean, 1 noise)", "", title=title)
        if {"linear", "linear_beta"} <= series.keys():
            # The table and the continuous form of DDPM's schedule overlap, so one line is dashed.
            axes.get_lines()[[*series].index("linear_beta")].set_linestyle((0, (4, 2.5)))
        for alpha in BOUNDS:
            sigma = (1 - alpha**2) ** 0.5
            bound = {"alpha": alpha, "sigma": sigma, "log_snr": 2 * math.log(alpha / sigma)}[name]
            axes.axhline(bound, color=charts.FAINT, linestyle=":", linewidth=1, zorder=1)
    notes = [note for name, schedule in shown.items() for note in _describe(name, schedule)]
    bounds = "the bounds of the torch/luz repository and the Keras example"
    notes.append(f"dotted: alpha = 0.02 and 0.95, {bounds}")
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=9.5, color=charts.INK)
    return figure


def starts_clean(schedule: Schedule) -> bool:
    """Return whether the image at t = 0 has hardly any noise."""
    start = schedule(torch.tensor(0.0, dtype=torch.float64))
    return bool(start.sigma <= CLEAN * start.alpha)


def _describe(name: str, schedule: Schedule) -> list[str]:
    """Return notes on the plateaus of a schedule, and on its start if that is not clean."""
    notes = [
        f"{name}: {100 * share:.0f} % of all times have log-SNR {level:.2f}"
        for level, share in plateaus(schedule).items()
    ]
    start = schedule(torch.tensor(0.0, dtype=torch.float64))
    if not starts_clean(schedule):
        rates = f"alpha(0) = {start.alpha:.2g}, sigma(0) = {start.sigma:.2g}"
        notes.append(f"{name}: t = 0 is not clean, {rates}")
    return notes


def plot_embedding(width: int = 32, max_frequency: float = 1000.0) -> Figure:
    """Return a figure with two heat maps of the sinusoidal embedding of noise variances.

    The left panel has variances from 0 to 1, the right panel from 0 to 0.02. Between 0 and 1, channels
    oscillate up to `max_frequency` times. In the left panel many channels oscillate several times within a
    pixel. These channels are blurred, because aliasing would show patterns that do not exist.
    """
    net = Sinusoidal(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    titles = {
        1.0: "All noise variances; white: average over a pixel of the figure",
        0.02: "Noise variances up to 0.02",
    }
    for axes, (end, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        drawing = axes.imshow(
            blur_embedding(net, end, pixels=720).T.numpy(),
            origin="lower",
            extent=(0, end, 0.5, width + 0.5),
            aspect="auto",
            interpolation="nearest",
            vmin=-1,
            vmax=1,
            cmap="RdBu_r",
        )
        figure.colorbar(drawing, ax=axes, pad=0.02, fraction=0.05, ticks=[-1, 0, 1])
        axes.axhline(width / 2 + 0.5, color=charts.INK, linewidth=0.8)
        charts.style_panel(axes, "noise variance, sigma squared", "channel: sin below, cos above", title)
        axes.set_yticks([1, width // 2, width])
        axes.locator_params(axis="x", nbins=5)
    return figure


def blur_embedding(net: Sinusoidal, end: float, pixels: int) -> Tensor:
    """Return the blurred embedding (pixels, width) at the middles of `pixels` equal parts of [0, end].

    The blur is a Gaussian with a standard deviation of 0.6 parts, in closed form: a sinusoid of angular speed
    w is scaled by exp(-(0.6 w end / pixels)^2 / 2).
    """
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5) * end / pixels
    fading = (-((0.6 * end / pixels * net.speeds) ** 2) / 2).exp()
    return net(at) * fading.repeat(2)
