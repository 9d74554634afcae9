"""Figures of diffusion, of the errors of samplers and of losses, and the command that writes figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data.decode import UnusableError, decode_image, hide_warnings, is_image_name
from ddim.data.images import to_unit
from ddim.data.open import find_source
from ddim.data.sources import Member
from ddim.diffusion.denoiser import Model
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.evaluation import sampler_errors
from ddim.evaluation.schedule_figures import (
    DEFAULT,
    Shown,
    name_schedules,
    plot_embedding,
    plot_schedules,
    starts_clean,
)
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.plots import charts
from ddim.plots.pictures import check_images, check_picture_path, find_unused_path, to_uint8
from ddim.recipe.codec import load_value, parse_plain
from ddim.runs.log import read_metrics
from ddim.sampling.generate import generate
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import Pipeline, open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    The figures::

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
        fields: fields of the named schedules, such as schedule.clip.
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
        shown = map(str, names or (DEFAULT if changes else ()))
        named = {name: load_value({"kind": name, **changes}, Schedule, "schedule") for name in shown}
        figure = plot_schedules(named or DEFAULT)
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


# Diffusion


PHOTOGRAPH = Pixels.fixed(0.5, 0.25)
"""Approximate mean (0.5) and standard deviation (0.25) of photographs, used if there is no training set."""


def read_image(source: str, size: tuple[int, int]) -> Tensor:
    """Return an image (1, 3, H, W) in [0, 1] from a file, or the first usable image of a folder or archive.

    Raises:
        UserError: if there is no usable image.
    """
    path = Path(source).expanduser()
    if is_image_name(path.name, b"") and not path.is_dir():
        members = iter([Member(path.name, path.read_bytes())])
    else:
        members = find_source(source).members(size)
    for member in members:
        if isinstance(member, Member):
            with hide_warnings(), suppress(UnusableError):
                pixels = decode_image(member.data, size, 3).pixels
                return to_unit(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    raise UserError(f"{source!r} has no usable image")


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
    if isinstance(image, str | Path):
        image = read_image(str(image), parse_plain(size, tuple[int, int], "data.size"))
    else:
        # PyTorch takes no array that is read-only or reversed, such as bgr[..., ::-1], so it is copied.
        given = torch.from_numpy(np.array(np.asarray(image)))
        check_images(given)
        image = to_unit(given)
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
    noisy = [name for name, schedule in shown.items() if not starts_clean(schedule)]
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
    which = np.linspace(0, len(states) - 1, min(columns, len(states))).round().astype(int)
    kept = [states[k] for k in which]
    sample = states[-1].x0.float().cpu()
    # The sample depends on the noise from which sampling started, so independent noise is added to it.
    fresh = Noise([2**32 - 1 - seed]).like(sample)
    times = torch.tensor([state.t for state in kept], dtype=torch.float64)
    # A schedule may have noise at t = 0, so the last image is the sample itself, without added noise.
    back = add_noise(sample, fresh, pipeline.recipe.sampling_schedule, times[:-1], pipeline.pixels)
    rows = {
        "reverse:\nstate x_t": [pipeline.to_images(state.x) for state in kept],
        "reverse:\npredicted x0": [pipeline.to_images(state.x0) for state in kept],
        "forward:\nthe sample,\nnoise added": [*back, pipeline.to_images(sample)],
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
        progress: see `compare_samplers`.

    Raises:
        UserError: if the schedule is a table with too few different noise levels.
    """
    check_count("n", n)
    if model is None:
        title, (error, ends) = "mixture of Gaussians", sampler_errors.prepare_oracle(n)
    else:
        pipeline = open_pipeline(model)
        title = Path(model).name if isinstance(model, str | Path) else pipeline.recipe.name
        error, ends = sampler_errors.prepare_run(pipeline, range(n), progress)
    return plot_sampler_errors(sampler_errors.compare_samplers(error, ends, evaluations, progress), title)


def plot_sampler_errors(table: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], title: str) -> Figure:
    """Return a figure of errors against network evaluations, with a panel per grid and a line per sampler.

    Args:
        table: see `compare_samplers`.
        title: the name of the model.
    """
    figure = charts.new_figure(11.5, 4 * math.ceil(len(table) / 2))
    panels = figure.subplots(math.ceil(len(table) / 2), 2, squeeze=False, sharey=True).flat
    for axes, (grid, lines) in zip(panels, table.items(), strict=False):
        axes.loglog()
        for colour, (name, points) in zip(charts.COLOURS, lines.items(), strict=True):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
        charts.style_panel(axes, "network evaluations", "", f"{grid} grid")
        axes.grid(color="#e6e6e6", linewidth=0.7)
        ticks = [nfe for nfe, _ in next(iter(lines.values()))]
        axes.set_xticks(ticks, [f"{nfe:g}" for nfe in ticks])
        axes.set_xticks([], minor=True)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=charts.INK)
    reference = f"images generated from the same noise in {sampler_errors.REFERENCE_LEVELS:,} steps"
    figure.supylabel(f"mean squared error, against {reference}", color=charts.INK, fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
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
        UserError: if no run has logged a loss yet.
    """
    given = [runs] if isinstance(runs, str | Path) else runs
    return plot_logs({str(run): read_metrics(Path(run)) for run in given})


def plot_logs(runs: Mapping[str, Log], tails: Mapping[str, Sequence[Log]] | None = None) -> Figure:
    """Return a figure of the losses in the logs of runs.

    Args:
        runs: the lines of each log, from `ddim.runs.log.read_metrics`, keyed by the name of the run.
        tails: further logs, keyed by the names of `runs`; they are drawn as thin lines in the run's colour.

    Raises:
        UserError: if no run has logged a loss yet.
    """
    panels = {}
    for field, title in MEASURES.items():
        series = {name: _curve(lines, field) for name, lines in runs.items()}
        if any(len(images) for images, _ in series.values()):
            panels[field, title] = series
    if not panels:
        raise UserError(f"no loss is logged yet in {', '.join(runs)}")
    figure = charts.new_figure(0.8 + 4.6 * len(panels), 4.2)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((field, title), series) in zip(spots, panels.items(), strict=True):
        charts.draw_curves(axes, series, "images seen", "", title=title)
        for k, name in enumerate(series):
            for log in (tails or {}).get(name, []):
                axes.plot(*_curve(log, field), color=charts.COLOURS[k], linewidth=0.9, alpha=0.8)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.xaxis.set_major_formatter(
            lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
        )
    return figure
