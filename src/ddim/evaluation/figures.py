"""Figures of schedules, of the sinusoidal embedding, of diffusion, of sampling errors and of losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data.decode import UnusableError, decode_image, hide_warnings, is_image_name, read_header
from ddim.data.images import to_unit
from ddim.data.open import find_source
from ddim.data.sources import Member
from ddim.data.values import LARGEST, Values, choose_range
from ddim.diffusion.denoiser import Model, choose_part
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import SCHEDULES, Cosine, Linear, LinearBeta, Schedule
from ddim.diffusion.times import plateaus
from ddim.errors import UserError, check_count
from ddim.evaluation.sampler_errors import (
    REFERENCE_LEVELS,
    SamplerError,
    compare_samplers_on_oracle,
    compare_samplers_on_run,
)
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.plots.pictures import check_images, check_picture_path, find_unused_path, to_uint8
from ddim.recipe.codec import describe_kind, list_slots, load_value, parse_plain
from ddim.runs.log import read_metrics
from ddim.sampling.generate import generate
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, Pipeline, open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

What = Literal["schedules", "embedding", "forward", "reverse", "samplers", "losses"]
"""The names of the figures."""


@with_bar
def plot(  # noqa: PLR0913 (the options of a command)
    what: What,
    *names: str | Path,
    steps: int | None = None,
    n: int = 16,
    size: int | str = 64,
    seed: int = 0,
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> Path:
    """Draw a figure and write it as PNG, SVG or PDF.

        schedules [NAME ...]  alpha, sigma and log-SNR of schedules against t
        embedding             the sinusoidal embedding of the noise variance
        forward [IMAGE|DATA]  an image at growing t, under two schedules
        reverse RUN           sampling states, predicted clean images, and the
                              sample with noise added
        samplers [RUN]        the error of every sampler and grid against its
                              network evaluations; without RUN, for a mixture
                              of Gaussians, whose score is exact
        losses RUN ...        the losses of runs against the images seen

    Args:
        what: the figure.
        names: schedules, an image or data, or runs.
        steps: sampling steps of `reverse` (default: the run's).
        n: number of samples whose error `samplers` measures.
        size: height and width of the image of `forward`, such as 64 or 64x96.
        seed: seed of the noise of `forward`, or of the sample of `reverse`.
        out: the file, which is replaced if it exists (default: a new WHAT.png).

    Other Parameters:
        fields: fields of the schedules that have them, such as schedule.clip.
        progress: called while samples are made for `samplers`.

    Returns:
        The path of the file.

    Commands:
        ddim plot schedules linear --schedule.clip powers
        ddim plot reverse runs/photos-fast-1 --seed 7
    """
    path = find_unused_path(f"{what}.png") if out is None else Path(out)
    check_picture_path(path, charts.ENDINGS, replace=True)
    first: Any = next(iter(names), None)
    if what == "schedules":
        changes = {name.removeprefix("schedule."): value for name, value in (fields or {}).items()}
        chosen = choose_schedules(map(str, names or DEFAULT), changes)
        figure = plot_schedules(chosen if names or changes else DEFAULT)
    elif what == "embedding":
        figure = plot_embedding()
    elif what == "forward":
        figure = plot_forward(first or "blossoms", seed=seed, size=size)
    elif what == "losses":
        figure = plot_losses(names)
    elif what == "samplers":
        figure = plot_samplers(first, n=n, progress=progress)
    else:
        figure = plot_reverse(first, steps, seed)
    charts.save_figure(path, figure)
    return path


# Schedules


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


# The embedding


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


# Diffusion


PHOTOGRAPH = Pixels.fixed(0.5, 0.25)
"""Approximate mean (0.5) and standard deviation (0.25) of photographs, used if there is no training set."""


def read_image(source: str, size: tuple[int, int]) -> Tensor:
    """Return an image (1, 3, H, W) in [0, 1] from a file, or the first usable image of a folder or archive.

    Images with more than 8 bits and arrays are shown as 8-bit pictures; see `to_uint8`.

    Raises:
        UserError: if there is no usable image.
    """
    path, refusal = Path(source).expanduser(), ""
    if is_image_name(path.name, b"") and not path.is_dir():
        members = iter([Member(path.name, path.read_bytes())])
    else:
        members = find_source(source).members(size)
    for member in members:
        if isinstance(member, Member):
            try:
                with hide_warnings():
                    return _decode_picture(member.data, size)
            except UnusableError as error:
                refusal = f": {member.name}: {error}"
    raise UserError(f"{source!r} has no usable image{refusal}")


def _decode_picture(data: bytes | np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return the image (1, 3, H, W) in [0, 1] of a file or array; floats are scaled by their own range."""
    header = read_header(data)
    kind = "uint8" if header.format == "PNG" else header.values
    channels = 3 if kind == "uint8" and header.format != "array" else header.channels
    pixels = decode_image(data, size, channels, kind).pixels
    ends = (0.0, LARGEST[kind]) if kind in LARGEST else choose_range(pixels.min().item(), pixels.max().item())
    unit = torch.from_numpy(Values(kind, *ends).to_unit(pixels)).permute(2, 0, 1)[None]
    picture = torch.from_numpy(to_uint8(unit)[..., :3]).permute(0, 3, 1, 2) / 255
    return picture.expand(-1, 3, -1, -1)


def plot_forward(
    image: str | Path | Tensor | np.ndarray = "blossoms",
    schedules: Shown = ("linear", "cosine"),
    columns: int = 9,
    seed: int = 0,
    *,
    size: int | str | tuple[int, int] = 64,
) -> Figure:
    """Return a figure of an image with the same noise at evenly spaced times, with a row for each schedule.

    Args:
        image: a tensor or array (1, 3, H, W), in [0, 1] or uint8; an image file; or a folder, an archive or
            the name of a data set, whose first image is used.
        schedules: see `name_schedules`.
        columns: number of times.
        seed: seed of the noise.
        size: height and width to which a file is cropped and resized, such as 64, "64x96" or (64, 96).

    Raises:
        UserError: if `columns` is below 1, or the image cannot be used.
    """
    check_count("columns", columns)
    if isinstance(image, Tensor | np.ndarray):
        # An array that is read-only or reversed, such as bgr[..., ::-1], is copied.
        image = image if isinstance(image, Tensor) else torch.from_numpy(np.require(image, None, ["C", "W"]))
        check_images(image)
        if image.ndim != 4 or image.shape[:2] != (1, 3):
            raise UserError(f"an image must have the shape (1, 3, H, W), got {tuple(image.shape)}")
        image = to_unit(image)
    else:
        image = read_image(str(image), parse_plain(size, tuple[int, int], "data.size"))
    shown = name_schedules(schedules)
    times = torch.linspace(0, 1, columns, dtype=torch.float64)
    x0 = PHOTOGRAPH.enter(image)
    eps = Noise([seed]).like(x0)
    rows, notes = {}, {}
    for name, schedule in shown.items():
        rows[name] = [p[0] for p in map(to_uint8, add_noise(x0, eps, schedule, times, PHOTOGRAPH))]
        notes[name] = [f"alpha {alpha:.2f}" for alpha in schedule(times).alpha.tolist()]
    heads = [f"t = {t:g}" for t in times.tolist()]
    title = "Forward diffusion of the same image and noise"
    noisy = [name for name, schedule in shown.items() if describe_start(schedule)]
    title += f"; not clean at t = 0: {', '.join(noisy)}" if noisy else ""
    return charts.plot_strip(rows, heads, notes, title)


def add_noise(x0: Tensor, eps: Tensor, schedule: Schedule, times: Tensor, pixels: Pixels) -> list[Tensor]:
    """Return the noisy images alpha * x0 + sigma * eps, as (B, C, H, W) in [0, 1], at each of the times.

    Args:
        x0: clean images (B, C, H, W) in model units.
        eps: noise of the same shape.
        schedule: the noise schedule.
        times: the times (N,).
        pixels: the map between images in [0, 1] and model units.
    """
    return [pixels.leave(schedule(t).noisy(x0, eps)) for t in times]


def plot_reverse(
    model: str | Path | Pipeline | Model, steps: int | None = None, seed: int = 0, columns: int = 10
) -> Figure:
    """Return a figure of the reverse diffusion of a sample, and forward diffusion of the finished sample.

    The three rows show the states x_t from noise to the sample, the clean image predicted from each state,
    and the finished sample with fresh noise added. At most `columns` of the times are shown. If the run has
    labels, the sample of seed s has the class that `ddim.sampling.labels.choose_label` describes.

    Args:
        model: a run folder, a `Pipeline` from `load`, or a `Model`.
        steps: sampling steps, by default the number in the recipe.
        seed: seed of the sample.
        columns: largest number of times that are shown.

    Raises:
        UserError: if `steps` or `columns` is below 1.
    """
    check_count("columns", columns)
    pipeline, states = open_pipeline(model), []
    steps = pipeline.recipe.choose_steps(steps)
    setup = SamplingSetup(pipeline, steps, choose_label(pipeline.recipe))
    generate(setup, [seed], watch=lambda _, state: states.append(state))
    shown = [(state.x, state.t, state.x0) for state in states]
    which = np.unique(np.linspace(0, len(shown) - 1, min(columns, len(shown))).round().astype(int))
    kept = [shown[k] for k in which]
    sample = states[-1].x0.float().cpu()
    # The sample depends on the noise from which sampling started, so independent noise is added to it.
    fresh = Noise([2**32 - 1 - seed]).like(sample)
    times = torch.tensor([t for _, t, _ in kept], dtype=torch.float64)
    # A schedule may have noise at t = 0, so the last image is the sample itself, without added noise.
    back = add_noise(sample, fresh, pipeline.recipe.sampling_schedule, times[:-1], pipeline.pixels)
    rows = {
        "reverse:\nstate x_t": [pipeline.pixels.leave(x.float().cpu()) for x, _, _ in kept],
        "reverse:\npredicted x0": [pipeline.pixels.leave(x0.float().cpu()) for _, _, x0 in kept],
        "forward:\nthe sample,\nnoise added": [*back, pipeline.pixels.leave(sample)],
    }
    images = {name: [to_uint8(image)[0] for image in images] for name, images in rows.items()}
    heads = [f"t = {t:.2g}" for t in times.tolist()]
    title = f"Reverse diffusion: seed {seed} in {steps} steps"
    return charts.plot_strip(images, heads, title=title)


# Errors of samplers, and losses


@with_bar
def plot_samplers(
    model: str | Path | Pipeline | Model | None = None,
    evaluations: Sequence[int] = (5, 10, 20, 40),
    n: int = 16,
    *,
    progress: Progress = ignore_progress,
) -> Figure:
    """Return a figure of the error of every sampler on every named grid, against network evaluations.

    Args:
        model: a run folder, a `Pipeline` from `load`, or a `Model`; None for a mixture of Gaussians, whose
            score is exact.
        evaluations: the numbers of network evaluations for each sample.
        n: number of samples whose error is measured.
        progress: see `compare_samplers_on_run`.

    Raises:
        UserError: if `evaluations` is empty, or the schedule is a table with too few different noise levels.
    """
    check_count("n", n)
    if not len(evaluations):
        raise UserError("evaluations must be numbers of network evaluations, such as (5, 10), got none")
    if model is None:
        return plot_sampler_errors(compare_samplers_on_oracle(evaluations, n), "mixture of Gaussians")
    pipeline = open_pipeline(model)
    title = (
        pipeline.checkpoint.run.resolve().name if isinstance(pipeline, LoadedRun) else pipeline.recipe.name
    )
    return plot_sampler_errors(compare_samplers_on_run(pipeline, evaluations, range(n), progress), title)


def plot_sampler_errors(cells: Sequence[SamplerError], title: str) -> Figure:
    """Return a figure of errors against network evaluations, with a panel per grid and a line per sampler.

    `title` names the model.
    """
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
        charts.style_panel(axes, "network evaluations", "", f"{grid} grid")
        axes.grid(color="#e6e6e6", linewidth=0.7)
        ticks = sorted({cell.nfe for cell in cells if cell.sampler == cells[0].sampler})
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=charts.INK)
    label = f"mean squared error, against images generated from the same noise in {REFERENCE_LEVELS:,} steps"
    figure.supylabel(label, color=charts.INK, fontsize=10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    return figure


MEASURES = {
    "loss": "Training loss, by each run's objective",
    "noise_mae": "Validation: MAE of noise",
    "image_mae": "Validation: MAE of images",
}
"""The fields of metrics.jsonl that are plotted, and their titles."""


Log = Sequence[Mapping[str, Any]]
"""The lines of a log, from `ddim.runs.log.read_metrics`."""


def _curve(log: Log, field: str) -> charts.Curve:
    """Return the numbers of images at which a log has a field, and the values of the field."""
    points = [(line["images"], line[field]) for line in log if line.get(field) is not None]
    return [images for images, _ in points], [value for _, value in points]


def plot_losses(runs: str | Path | Sequence[str | Path]) -> Figure:
    """Return a figure of the losses of a run, or of several runs, against the training images seen.

    Training losses are comparable only between runs with the same objective.

    Raises:
        UserError: if a run is not a folder, or has logged no loss yet.
    """
    given = runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs]
    paths = [Path(run) for run in given]
    if missing := [str(path) for path in paths if not path.is_dir()]:
        raise UserError(f"run {missing[0]!r} is not a folder")
    paths = list(dict.fromkeys(path.resolve() for path in paths))
    return plot_logs({name: read_metrics(path) for name, path in zip(_names(paths), paths, strict=True)})


def _names(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run: the end of its path, just long enough that all names differ."""
    parts = 1
    while len({run.parts[-parts:] for run in runs}) < len(runs):
        parts += 1
    return ["/".join(run.parts[-parts:]) for run in runs]


def plot_logs(runs: Mapping[str, Log], tails: Mapping[str, Sequence[Log]] | None = None) -> Figure:
    """Return a figure of the losses in the logs of runs.

    Args:
        runs: the lines of each log, from `ddim.runs.log.read_metrics`, keyed by the name of the run.
        tails: further logs, keyed by the names of `runs`; they are drawn as thin lines in the run's colour.

    Raises:
        UserError: if a run has logged no loss yet.
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
        series = {name: _curve(lines, field) for name, lines in runs.items()}
        if any(len(images) for images, _ in series.values()):
            panels[field, title] = series
    figure = charts.new_figure(0.8 + 4.6 * len(panels), 4.2)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((field, title), series) in zip(spots, panels.items(), strict=True):
        charts.draw_curves(axes, series, "images seen", "", title=title)
        for k, name in enumerate(series):
            for log in (tails or {}).get(name, []):
                axes.plot(*_curve(log, field), color=charts.COLOURS[k], linewidth=0.9, alpha=0.8)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(
            lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
        )
    return figure
