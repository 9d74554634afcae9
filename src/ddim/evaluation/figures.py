"""What schedules, embeddings and trained runs show: values -> figures, drawn with `ddim.plots.charts`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.log_snr import plateaus
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import SCHEDULES as KINDS
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta, Schedule
from ddim.errors import UserError, suggest
from ddim.nn.embedding import Sinusoidal
from ddim.plots import charts
from ddim.plots.pictures import to_uint8
from ddim.runs.codec import load_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from ddim.evaluation.sampler_errors import SamplerError
    from ddim.runs.pipeline import Pipeline

SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "linear": Linear(), "linear_beta": LinearBeta()}
"""What is compared where nothing else is asked for: the two under the seed's bounds, and DDPM's own."""

KNOWN: dict[str, Any] = {name: kind() for name, kind in KINDS.items()}
"""All that can be drawn."""

PHOTOGRAPH = Pixels.fixed(0.5, 0.25)
"""About the mean and deviation of photographs: what a forward strip takes, which has no training set."""


# --- schedules ----------------------------------------------------------------------------------------------


def schedules(shown: Mapping[str, Schedule] = SCHEDULES, points: int = 1001) -> Figure:
    """alpha, sigma and log-SNR of named schedules at `points` even times from 0 to 1.

    Times that share the level of t = 0 or of t = 1 are drawn thick, and counted in a note: training spends
    that share on one level. Dotted lines are the bounds of the seed repository and of the Keras example.
    """
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    levels = {name: schedule(t) for name, schedule in shown.items()}
    plateau_shares = {name: end_shares(schedule) for name, schedule in shown.items()}
    panels = {
        "Signal rate alpha": {name: level.alpha for name, level in levels.items()},
        "Noise rate sigma": {name: level.sigma for name, level in levels.items()},
        "log-SNR, 2 log(alpha / sigma)": {name: level.log_snr for name, level in levels.items()},
    }
    figure = charts.new_figure(14.0, 4.6)
    for k, (axes, (title, values)) in enumerate(zip(figure.subplots(1, 3), panels.items(), strict=True)):
        series = {name: (t.numpy(), gapped(value)) for name, value in values.items()}
        charts.draw_curves(axes, series, "t  (0 clean, 1 noise)", "", title=title)
        lines = axes.get_lines()
        if {"linear", "linear_beta"} <= series.keys():
            # DDPM's two forms cover each other.
            lines[[*series].index("linear_beta")].set_linestyle((0, (4, 2.5)))
        for line, shares in zip(lines, plateau_shares.values(), strict=True):
            _thicken(axes, line, shares)
        for alpha in (Cosine().min_signal, Cosine().max_signal):
            sigma = (1 - alpha**2) ** 0.5
            bound = (alpha, sigma, 2 * math.log(alpha / sigma))[k]
            axes.axhline(bound, color=charts.FAINT, linestyle=":", linewidth=1, zorder=1)
            if k == 0:
                x, side = (0.02, "left") if alpha < 0.5 else (0.98, "right")
                axes.text(x, bound + 0.012, f"seed: {alpha:g}", color=charts.FAINT, fontsize=8, ha=side)
    notes = [text for name, shares in plateau_shares.items() if (text := _plateau_note(name, shares))]
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=9.5, color=charts.INK)
    return figure


def chosen(names: Sequence[str], changes: Mapping[str, str]) -> dict[str, Schedule]:
    """The schedules of these names, with fields set by text in each that has them: {"clip": "powers"}.

    UserError for a name that is not one of `KNOWN`, a field that none of them has, or a bad value.
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
            hint = f"; it is one of {' and '.join(owners)}" if owners else ""
            raise UserError(f"schedule.{field} is not a field of {', '.join(known)}{hint}")
    return {
        name: load_value(
            {"kind": name, **{k: v for k, v in changes.items() if k in known[name]}}, Schedule, "schedule"
        )
        # In one order, whatever was asked for: what covers what depends on it.
        for name in KNOWN
        if name in known
    }


def _thicken(axes: Axes, line: Line2D, shares: tuple[float, float]) -> None:
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    for part in (x < shares[0], x > 1 - shares[1]):
        style = {"linewidth": 5.5, "alpha": 0.5, "solid_capstyle": "butt", "zorder": 1.5}
        axes.plot(x[part], y[part], color=line.get_color(), **style)


def end_shares(schedule: Schedule) -> tuple[float, float]:
    """The shares of times on the level of t = 0 and on that of t = 1; 0 where that is no plateau."""
    found = plateaus(schedule)
    first, last = schedule(torch.tensor([0.0, 1.0])).log_snr.tolist()
    return found.get(first, 0.0), found.get(last, 0.0)


def gapped(values: Tensor) -> np.ndarray:
    """Values with NaN where they are infinite, which leaves a gap in a line."""
    return torch.where(values.isfinite(), values, torch.nan).numpy()


def _plateau_note(name: str, shares: tuple[float, float]) -> str:
    ends = [
        f"{100 * share:.0f} % of its times at the level of t = {end}"
        for end, share in enumerate(shares)
        if share
    ]
    return f"{name} (thick): {' and '.join(ends)}" if ends else ""


# --- embeddings ---------------------------------------------------------------------------------------------


def embedding(width: int = 32, max_frequency: float = 1000.0) -> Figure:
    """Heat maps of the sinusoidal embedding of the noise variance, from 0 to 1 and from 0 to 0.02.

    Channels turn up to `max_frequency` times: on the left many turn several times within a pixel, and are
    faded accordingly, instead of showing patterns that are not there.
    """
    from matplotlib.ticker import MaxNLocator

    net = sinusoidal(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    titles = ("All noise variances; the fastest channels fade", "The first fiftieth of them")
    for axes, end, title in zip(figure.subplots(1, 2), (1.0, 0.02), titles, strict=True):
        values = resolved(net, end, pixels=720)
        charts.draw_heat_map(figure, axes, values.T.numpy(), (0, end, 0.5, width + 0.5), most=1)
        axes.axhline(width / 2 + 0.5, color=charts.INK, linewidth=0.8)
        charts.style_panel(axes, "noise variance, sigma squared", "channel", title)
        axes.set_yticks([1, width // 2, width])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        spot = {"transform": axes.transAxes, "ha": "right", "va": "center", "bbox": box}
        for height, name in ((0.25, "sin"), (0.75, "cos")):
            axes.text(0.98, height, name, color=charts.INK, fontsize=9, **spot)
    return figure


def resolved(net: Sinusoidal, end: float, pixels: int) -> Tensor:
    """(pixels, width): the embedding at the middle of each of `pixels` parts of [0, end], as seen there.

    Blurred by a Gaussian of 0.6 parts, in closed form: a sinusoid of angular speed w stays one, smaller by
    exp(-(0.6 w end / pixels)^2 / 2).
    """
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5) * end / pixels
    fading = (-((0.6 * end / pixels * net.speeds) ** 2) / 2).exp()
    return net(at) * fading.repeat(2)


def distance(width: int = 32, max_frequency: float = 1000.0) -> Figure:
    """The inner product of the embeddings of a and b depends on a - b alone (Kazemnejad 2019).

    Left, for all pairs of 201 levels; right, against a - b for three a, which fall on one line.
    """
    from matplotlib.ticker import MaxNLocator

    net = sinusoidal(width, max_frequency)
    figure = charts.new_figure(12.0, 4.8)
    left, right = figure.subplots(1, 2)
    values = products(net, torch.linspace(0, 1, 201, dtype=torch.float64))
    charts.draw_heat_map(figure, left, values, (0, 1, 0, 1), most=width / 2)
    charts.style_panel(
        left, "noise variance b", "noise variance a", "e(a) . e(b) is constant along diagonals"
    )
    left.set_aspect("equal")
    apart = torch.linspace(-0.03, 0.03, 1201, dtype=torch.float64)
    for k, a in enumerate((0.2, 0.5, 0.8)):
        line = net(torch.tensor([a])) @ net(a - apart).T
        # From thick to thin, so that lines which coincide are seen to.
        style = {"linewidth": (7, 3.5, 1.2)[k], "alpha": (0.25, 0.5, 1)[k]}
        right.plot(apart.numpy(), line[0].numpy(), color=charts.COLOURS[k], label=f"a = {a}", **style)
    charts.style_panel(right, "a - b", "e(a) . e(b)", "The same line for every a")
    right.grid(color="#e6e6e6", linewidth=0.7)
    right.margins(x=0)
    right.xaxis.set_major_locator(MaxNLocator(6))
    right.legend(frameon=False, fontsize=9.5, labelcolor=charts.INK)
    return figure


def products(net: Sinusoidal, at: Tensor) -> np.ndarray:
    """(N,) numbers -> (N, N): the inner products of their embeddings."""
    values = net(at)
    return (values @ values.T).numpy()


def sinusoidal(width: int, max_frequency: float) -> Sinusoidal:
    """The embedding; UserError where a width is odd or below 4, or the frequency is not above 1."""
    if width < 4 or width % 2:
        raise UserError(f"width must be even and at least 4, got {width}")
    if not max_frequency > 1:
        raise UserError(f"max-frequency must be above 1, got {max_frequency}")
    return Sinusoidal(width, max_frequency)


# --- strips -------------------------------------------------------------------------------------------------


def one_image(source: str, size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) in [0, 1]: an image file, or the first usable image of a folder, archive or data set.

    UserError where there is none.
    """
    from ddim.data.decode import UnusableError, decode_image, is_image_name
    from ddim.data.open import find_source
    from ddim.data.sources import Member

    path, refusal = Path(source).expanduser(), ""
    if is_image_name(path.name, b"") and not path.is_dir():
        members = iter([Member(path.name, _bytes(path))])
    else:
        members = find_source(source).members(size)
    for member in members:
        if not isinstance(member, Member):
            continue
        try:
            _, pixels = decode_image(member.data, size, 3)
        except UnusableError as error:
            refusal = f": {member.name}: {error}"
            continue
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    raise UserError(f"{source!r} holds no image that can be used{refusal}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def forward(image: Tensor, shown: Mapping[str, Schedule], columns: int = 9, seed: int = 0) -> Figure:
    """One image (1, C, H, W) in [0, 1] at even times from 0 to 1, under named schedules, with one noise."""
    times = torch.linspace(0, 1, columns, dtype=torch.float64)
    x0 = PHOTOGRAPH.enter(image)
    eps = Noise([seed]).like(x0)
    rows, notes = {}, {}
    for name, schedule in shown.items():
        rows[name] = [p[0] for p in map(to_uint8, noised(x0, eps, schedule, times, PHOTOGRAPH))]
        notes[name] = [f"alpha {alpha:.2f}" for alpha in schedule(times).alpha.tolist()]
    heads = [f"t = {t:g}" for t in times.tolist()]
    return charts.plot_strip(
        rows, heads, notes, "Forward diffusion: the same image and noise under each schedule"
    )


def noised(x0: Tensor, eps: Tensor, schedule: Schedule, times: Tensor, pixels: Pixels) -> list[Tensor]:
    """Images (B, C, H, W) in [0, 1]: alpha * x0 + sigma * eps, in model units, at each of the times (N,)."""
    return [pixels.leave(schedule(t).noisy(x0, eps)) for t in times]


def reverse(trained: Pipeline, steps: int = 20, seed: int = 0, columns: int = 10) -> Figure:
    """How a picture of a model comes about, at up to `columns` of its levels, and that picture noised again.

    Rows: the states x_t from noise to the picture; the clean image predicted from each; and the forward way,
    the finished picture under fresh noise. With labels seed s has class s % classes.
    UserError for fewer than 1 step.
    """
    from ddim.runs.classes import choose_label
    from ddim.runs.generate import generate

    states = []
    label = choose_label(trained.recipe)
    generate(trained, [seed], steps, label=label, watch=lambda _, state: states.append(state))
    # A state carries the prediction that led to it, so the one made from it comes with the next.
    asked = [(state.x, state.t, after.x0) for state, after in pairwise(states)]
    asked.append((states[-1].x, 0.0, states[-1].x0))
    kept = np.unique(np.linspace(0, len(asked) - 1, min(columns, len(asked))).round().astype(int))
    chosen = [asked[k] for k in kept]
    picture = states[-1].x0.float().cpu()
    # Not the noise that the run began with: the picture depends on it.
    fresh = Noise([2**32 - 1 - seed]).like(picture)
    times = torch.tensor([t for _, t, _ in chosen], dtype=torch.float64)
    # The schedule of a model may hold noise at t = 0; the picture holds none.
    back = noised(picture, fresh, trained.recipe.sampling_schedule, times[:-1], trained.pixels)
    rows = {
        "reverse:\nstate x_t": [trained.pixels.leave(x.float().cpu()) for x, _, _ in chosen],
        "reverse:\npredicted x0": [trained.pixels.leave(x0.float().cpu()) for _, _, x0 in chosen],
        "forward:\nthe picture,\nnoised again": [*back, trained.pixels.leave(picture)],
    }
    pictures = {name: [to_uint8(image)[0] for image in images] for name, images in rows.items()}
    heads = [f"t = {t:.2g}" for t in times.tolist()]
    title = f"Reverse diffusion: seed {seed} in {steps} steps"
    return charts.plot_strip(pictures, heads, title=title)


# --- samplers -----------------------------------------------------------------------------------------------


def samplers(cells: Sequence[SamplerError], title: str) -> Figure:
    """Error of pictures against evaluations: a panel a grid, a line a sampler, both axes logarithmic."""
    from matplotlib.ticker import FixedLocator, NullLocator

    grids = list(dict.fromkeys(cell.grid for cell in cells))
    figure = charts.new_figure(11.5, 4 * math.ceil(len(grids) / 2))
    spots = figure.subplots(math.ceil(len(grids) / 2), 2, squeeze=False, sharey=True).flat
    for axes, grid in zip(spots, grids, strict=False):
        axes.loglog()
        for k, name in enumerate(dict.fromkeys(cell.sampler for cell in cells)):
            line = [(c.nfe, c.error) for c in cells if (c.sampler, c.grid) == (name, grid)]
            colour = charts.COLOURS[k % len(charts.COLOURS)]
            axes.plot(
                *zip(*line, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3, label=name
            )
        charts.style_panel(axes, "evaluations", "", f"{grid} grid")
        axes.grid(color="#e6e6e6", linewidth=0.7)
        ticks = sorted({cell.nfe for cell in cells if cell.sampler == cells[0].sampler})
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    figure.supylabel(f"mean squared error of the picture, {title}", color=charts.INK, fontsize=10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    return figure


# --- losses -------------------------------------------------------------------------------------------------


MEASURES = {
    "loss": "Training loss, by each run's objective",
    "noise_mae": "Validation: MAE of noise",
    "image_mae": "Validation: MAE of images",
}
"""Fields of metrics.jsonl that are drawn, and their titles."""


def losses(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The losses of named runs, as `ddim.runs.log.read_metrics` gives them, against the images seen.

    Training losses compare only between runs of one objective. UserError where a run has logged no loss.
    """
    from matplotlib.ticker import MaxNLocator

    empty = [
        name
        for name, lines in runs.items()
        if not any(line.get(f) is not None for line in lines for f in MEASURES)
    ]
    if empty or not runs:
        raise UserError(f"no loss is logged yet in {', '.join(empty)}")
    panels = {}
    for field, title in MEASURES.items():
        series = {}
        for name, lines in runs.items():
            points = [(line["images"], line[field]) for line in lines if line.get(field) is not None]
            series[name] = [images for images, _ in points], [value for _, value in points]
        if any(images for images, _ in series.values()):
            panels[title] = series
    figure = charts.new_figure(0.8 + 4.6 * len(panels), 4.2)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, series) in zip(spots, panels.items(), strict=True):
        charts.draw_curves(axes, series, "images seen", "", title=title)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(
            lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
        )
    return figure
