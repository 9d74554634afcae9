"""Figures of schedules and of the sinusoidal embedding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import choose_part
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearBeta, Schedule
from ddim.diffusion.times import plateaus
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.recipe.codec import describe_kind, list_slots, load_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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

Shown = Mapping[str, Schedule] | Sequence[str | Schedule] | str | Schedule
"""Schedules to plot: a schedule or its name, a list of schedules and names, or {name to show: schedule}."""


def name_schedules(shown: Shown) -> dict[str, Schedule]:
    """Return schedules keyed by name; an object without a name is named like "cosine start 0.02"."""
    if isinstance(shown, Mapping):
        return dict(shown)
    items = shown if isinstance(shown, Sequence) and not isinstance(shown, str) else [shown]
    names = [item if isinstance(item, str) else describe_kind(item) for item in items]
    return {name: choose_part("schedules", item, SCHEDULES) for name, item in zip(names, items, strict=True)}


def choose_schedules(names: Iterable[str], changes: Mapping[str, Any]) -> dict[str, Schedule]:
    """Return schedules keyed by name, with some of their fields changed.

    Args:
        names: names of schedules.
        changes: new values keyed by field, such as {"clip": "powers"}, for each schedule with this field.

    Raises:
        UserError: if there is no such schedule, no schedule has a field, or a value is invalid.
    """
    known = {name: {slot.name for slot in list_slots(SCHEDULES.get(name))} for name in names}
    # A field that no schedule has is kept, and refused by the first schedule.
    unknown = changes.keys() - set().union(*known.values())
    chosen = {}
    for name, fields in known.items():
        own = {field: value for field, value in changes.items() if field in fields | unknown}
        chosen[name] = load_value({"kind": name, **own}, Schedule, "schedule")
    return chosen


def plot_schedules(schedules: Shown = DEFAULT, points: int = 1001) -> Figure:
    """Return a figure of alpha, sigma and log-SNR of schedules, at `points` evenly spaced times from 0 to 1.

    Schedules can be names and objects: `plot_schedules(["cosine", ddim.Linear(clip="powers")])`.
    Plateaus at t = 0 and t = 1 are drawn thick. A note states the share of times on each plateau: training
    spends this share on a single noise level. Other notes name schedules that are not clean at t = 0, and
    explain the dotted lines, which are the bounds of the torch/luz repository and the Keras example.
    """
    shown, t = name_schedules(schedules), torch.linspace(0, 1, points, dtype=torch.float64)
    levels = {name: schedule(t) for name, schedule in shown.items()}
    plateau_shares = {name: end_shares(schedule) for name, schedule in shown.items()}
    panels = {
        "Signal rate alpha": {name: level.alpha for name, level in levels.items()},
        "Noise rate sigma": {name: level.sigma for name, level in levels.items()},
        "log-SNR, 2 log(alpha / sigma)": {name: level.log_snr for name, level in levels.items()},
    }
    figure = charts.new_figure(14.0, 4.6)
    for k, (axes, (title, values)) in enumerate(zip(figure.subplots(1, 3), panels.items(), strict=True)):
        series = {name: (t.numpy(), _leave_gaps(value)) for name, value in values.items()}
        # If a schedule keeps alpha = 1, its sigma grows far beyond 1, and the panel gets a log scale.
        log = k == 1 and any(value.max() > 1 for value in values.values())
        if log:
            axes.set_yscale("log")
            series = {name: (x, np.where(y > 0, y, np.nan)) for name, (x, y) in series.items()}
        name = f"{title}, log scale" if log else title
        charts.draw_curves(axes, series, "t  (0 clean, 1 noise)", "", title=name)
        lines = axes.get_lines()
        if {"linear", "linear_beta"} <= series.keys():
            # The table and the continuous form of DDPM's schedule overlap, so one line is dashed.
            lines[[*series].index("linear_beta")].set_linestyle((0, (4, 2.5)))
        for line, shares in zip(lines, plateau_shares.values(), strict=True):
            _thicken(axes, line, shares)
        for alpha in BOUNDS:
            sigma = (1 - alpha**2) ** 0.5
            bound = (alpha, sigma, 2 * math.log(alpha / sigma))[k]
            axes.axhline(bound, color=charts.FAINT, linestyle=":", linewidth=1, zorder=1)
            if k == 0:
                x, side = (0.02, "left") if alpha < 0.5 else (0.98, "right")
                axes.text(x, bound + 0.012, f"luz: {alpha:g}", color=charts.FAINT, fontsize=8, ha=side)
    notes = [text for name, shares in plateau_shares.items() if (text := _plateau_note(name, shares))]
    notes += [f"{name}: {text}" for name, each in shown.items() if (text := describe_start(each))]
    notes.append(
        f"dotted: alpha = {BOUNDS[0]:g} and {BOUNDS[1]:g}, the bounds of the torch/luz "
        "repository and the Keras example"
    )
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=9.5, color=charts.INK)
    return figure


CLEAN = 0.02
"""The largest sigma / alpha at t = 0 that counts as clean: about the rounding of pixels to 8 bits."""


def describe_start(schedule: Schedule) -> str:
    """Return a note on a schedule whose image at t = 0 is not clean, "" for other schedules."""
    start = schedule(torch.tensor(0.0, dtype=torch.float64))
    if start.sigma <= CLEAN * start.alpha:
        return ""
    return f"t = 0 is not clean, alpha(0) = {start.alpha:.2g}, sigma(0) = {start.sigma:.2g}"


def _thicken(axes: Axes, line: Line2D, shares: tuple[float, float]) -> None:
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    for part in (x < shares[0], x > 1 - shares[1]):
        style = {"linewidth": 5.5, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 1.5}
        axes.plot(x[part], y[part], color=line.get_color(), **style)


def end_shares(schedule: Schedule) -> tuple[float, float]:
    """Return the shares of times on the plateau at t = 0 and on the plateau at t = 1; 0 without a plateau."""
    found = plateaus(schedule)
    first, last = schedule(torch.tensor([0.0, 1.0])).log_snr.tolist()
    return found.get(first, 0.0), found.get(last, 0.0)


def _leave_gaps(values: Tensor) -> np.ndarray:
    """Return values with NaN in place of infinities, which leaves a gap in a line."""
    return torch.where(values.isfinite(), values, torch.nan).numpy()


def _plateau_note(name: str, shares: tuple[float, float]) -> str:
    ends = [
        f"{100 * share:.0f} % of all times have the noise level of t = {end}"
        for end, share in enumerate(shares)
        if share
    ]
    return f"{name} (thick): {' and '.join(ends)}" if ends else ""


def plot_embedding(width: int = 32, max_frequency: float = 1000.0) -> Figure:
    """Return a figure with two heat maps of the sinusoidal embedding of noise variances.

    The left panel has variances from 0 to 1, the right panel from 0 to 0.02. Between 0 and 1, channels
    oscillate up to `max_frequency` times. In the left panel many channels oscillate several times within a
    pixel. These channels are blurred, because aliasing would show patterns that do not exist.
    """
    from matplotlib.ticker import MaxNLocator

    net = Sinusoidal(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    titles = (
        "All noise variances; white: average over a pixel of the figure",
        "Noise variances up to 0.02",
    )
    for axes, end, title in zip(figure.subplots(1, 2), (1.0, 0.02), titles, strict=True):
        values = blur_embedding(net, end, pixels=720).T.numpy()
        place = {"origin": "lower", "extent": (0, end, 0.5, width + 0.5), "aspect": "auto"}
        colours = {"vmin": -1, "vmax": 1, "cmap": "RdBu_r", "interpolation": "nearest"}
        drawing = axes.imshow(values, **place, **colours)
        bar = figure.colorbar(drawing, ax=axes, pad=0.02, fraction=0.05, ticks=[-1, 0, 1], format="%g")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor=charts.INK)
        axes.axhline(width / 2 + 0.5, color=charts.INK, linewidth=0.8)
        charts.style_panel(axes, "noise variance, sigma squared", "channel", title)
        axes.set_yticks([1, width // 2, width])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        spot = {"transform": axes.transAxes, "ha": "right", "va": "center", "bbox": box}
        for height, name in ((0.25, "sin"), (0.75, "cos")):
            axes.text(0.98, height, name, color=charts.INK, fontsize=9, **spot)
    return figure


def blur_embedding(net: Sinusoidal, end: float, pixels: int) -> Tensor:
    """Return the blurred embedding (pixels, width) at the middles of `pixels` equal parts of [0, end].

    The blur is a Gaussian with a standard deviation of 0.6 parts, in closed form: a sinusoid of angular speed
    w is scaled by exp(-(0.6 w end / pixels)^2 / 2).
    """
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5) * end / pixels
    fading = (-((0.6 * end / pixels * net.speeds) ** 2) / 2).exp()
    return net(at) * fading.repeat(2)
