"""Figures of schedules and of the sinusoidal embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import choose_part
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearBeta, Schedule
from ddim.diffusion.times import plateaus
from ddim.errors import UserError, suggest
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.recipe.codec import describe_kind, load_value

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

KNOWN: dict[str, Any] = {name: kind() for name, kind in SCHEDULES.items()}
"""All named schedules, with their default fields, keyed by name."""


Shown = Mapping[str, Schedule] | Sequence[str | Schedule] | str | Schedule
"""Schedules to plot: a schedule or its name, a list of schedules and names, or {name to show: schedule}."""


def name_schedules(shown: Shown) -> dict[str, Schedule]:
    """Return schedules keyed by name; an object without a name is named like "cosine start 0.02"."""
    if isinstance(shown, Mapping):
        return dict(shown)
    named = {}
    for item in shown if isinstance(shown, Sequence) and not isinstance(shown, str) else [shown]:
        if isinstance(item, str):
            named |= choose_schedules([item], {})
        else:
            named[describe_kind(item)] = choose_part("schedules", item, SCHEDULES)
    return named


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


def choose_schedules(names: Sequence[str], changes: Mapping[str, str]) -> dict[str, Schedule]:
    """Return schedules keyed by name, with some of their fields changed.

    Args:
        names: names of schedules.
        changes: new values keyed by field, such as {"clip": "powers"}, for each schedule with this field.

    Raises:
        UserError: if a name is not in `KNOWN`, no schedule has a field, or a value is invalid.
    """
    known = {}
    for name in names:
        if name not in KNOWN:
            hint = suggest(name, KNOWN)
            raise UserError(f"schedule must be one of {', '.join(KNOWN)}, got {name!r}{hint}")
        known[name] = {f.name for f in fields(KNOWN[name])}
    for field in changes:
        if not any(field in names_of for names_of in known.values()):
            owners = [name for name, schedule in KNOWN.items() if hasattr(schedule, field)]
            hint = f"; it is a field of {' and '.join(owners)}" if owners else ""
            raise UserError(f"schedule.{field} is not a field of {', '.join(known)}{hint}")
    return {
        name: load_value(
            {"kind": name, **{k: v for k, v in changes.items() if k in known[name]}}, Schedule, "schedule"
        )
        # Later lines cover earlier lines, so the order is that of `KNOWN`, whatever the order of `names`.
        for name in KNOWN
        if name in known
    }


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

    net = make_embedding(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    titles = (
        "All noise variances; white: average over a pixel of the figure",
        "Noise variances up to 0.02",
    )
    for axes, end, title in zip(figure.subplots(1, 2), (1.0, 0.02), titles, strict=True):
        values = blur_embedding(net, end, pixels=720)
        _draw_heat_map(figure, axes, values.T.numpy(), (0, end, 0.5, width + 0.5), most=1)
        axes.axhline(width / 2 + 0.5, color=charts.INK, linewidth=0.8)
        charts.style_panel(axes, "noise variance, sigma squared", "channel", title)
        axes.set_yticks([1, width // 2, width])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        spot = {"transform": axes.transAxes, "ha": "right", "va": "center", "bbox": box}
        for height, name in ((0.25, "sin"), (0.75, "cos")):
            axes.text(0.98, height, name, color=charts.INK, fontsize=9, **spot)
    return figure


def _draw_heat_map(
    figure: Figure, axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float], most: float
) -> None:
    """Draw a heat map of values (rows, columns), with a colour bar.

    Args:
        figure: the figure that contains `axes`.
        axes: the panel.
        values: (rows, columns); the first row is drawn at the bottom.
        extent: (left, right, bottom, top) of the panel in data units.
        most: the largest absolute value of the colour scale, which is white at 0.
    """
    span = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
    drawing = axes.imshow(
        values, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **span
    )
    bar = figure.colorbar(drawing, ax=axes, pad=0.02, fraction=0.05, ticks=[-most, 0, most], format="%g")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=charts.INK)


def blur_embedding(net: Sinusoidal, end: float, pixels: int) -> Tensor:
    """Return the blurred embedding (pixels, width) at the middles of `pixels` equal parts of [0, end].

    The blur is a Gaussian with a standard deviation of 0.6 parts, in closed form: a sinusoid of angular speed
    w is scaled by exp(-(0.6 w end / pixels)^2 / 2).
    """
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5) * end / pixels
    fading = (-((0.6 * end / pixels * net.speeds) ** 2) / 2).exp()
    return net(at) * fading.repeat(2)


def plot_embedding_products(width: int = 32, max_frequency: float = 1000.0) -> Figure:
    """Return a figure of the inner products of embeddings of a and b, which depend on a - b alone.

    Source: Kazemnejad 2019. The left panel has all pairs of 201 noise variances. The right panel plots the
    products against a - b, for three values of a; the three lines coincide.
    """
    from matplotlib.ticker import MaxNLocator

    net = make_embedding(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    left, right = figure.subplots(1, 2)
    values = multiply_embeddings(net, torch.linspace(0, 1, 201, dtype=torch.float64))
    _draw_heat_map(figure, left, values, (0, 1, 0, 1), most=width / 2)
    charts.style_panel(
        left, "noise variance b", "noise variance a", "e(a) . e(b) is constant along diagonals"
    )
    left.set_aspect("equal")
    apart = torch.linspace(-0.03, 0.03, 1201, dtype=torch.float64)
    for k, a in enumerate((0.2, 0.5, 0.8)):
        line = net(torch.tensor([a])) @ net(a - apart).T
        # Lines are drawn from thick to thin, so that lines that coincide can be seen.
        style = {"linewidth": (7, 3.5, 1.2)[k], "alpha": (0.25, 0.5, 1)[k]}
        right.plot(apart.numpy(), line[0].numpy(), color=charts.COLOURS[k], label=f"a = {a}", **style)
    charts.style_panel(right, "a - b", "e(a) . e(b)", "The same line for every a")
    right.grid(color="#e6e6e6", linewidth=0.7)
    right.margins(x=0)
    right.xaxis.set_major_locator(MaxNLocator(6))
    right.legend(frameon=False, fontsize=9.5, labelcolor=charts.INK)
    return figure


def multiply_embeddings(net: Sinusoidal, at: Tensor) -> np.ndarray:
    """Return the inner products (N, N) of the embeddings of numbers (N,)."""
    values = net(at)
    return (values @ values.T).numpy()


def make_embedding(width: int, max_frequency: float) -> Sinusoidal:
    """Return the sinusoidal embedding with `width` channels.

    Raises:
        UserError: if the width is odd or below 4, or the frequency is not above 1 or is infinite.
    """
    if width < 4 or width % 2:
        raise UserError(f"width must be even and at least 4, got {width}")
    if not 1 < max_frequency < math.inf:
        raise UserError(f"max-frequency must be above 1 and finite, got {max_frequency}")
    return Sinusoidal(width, max_frequency)
