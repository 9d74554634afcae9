"""Figures of schedules, diffusion, errors of samplers and losses, and the command that writes them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.data.decode import decode_image, is_image_name
from ddim.data.images import to_unit
from ddim.data.open import find_source
from ddim.data.sources import Member, read_members
from ddim.diffusion.denoiser import Model
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Schedule, check_schedule
from ddim.diffusion.times import plateaus
from ddim.errors import UserError, check_count, explain_errors
from ddim.evaluation import sampler_errors
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.nn.conditioning import Sinusoidal
from ddim.plots import charts
from ddim.plots.pictures import check_picture_path, find_unused_path, to_uint8
from ddim.recipe.codec import describe_kind, load_value, parse_plain
from ddim.runs.log import read_metrics
from ddim.sampling.generate import generate
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import Pipeline, open_pipeline
from ddim.sampling.sampling_setup import choose_sampling

What = Literal["schedules", "embedding", "forward", "reverse", "samplers", "losses"]
"""The names of the figures."""


@with_bar
def plot(  # noqa: PLR0913 (the options of a command)
    what: What,
    *names: str | Path,
    steps: int | None = None,
    n: int | None = None,
    size: int | str | None = None,
    seed: int | None = None,
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> Path:
    """Draw a figure and write it as PNG, SVG or PDF.

    The figures::

        schedules [NAME ...]  alpha, sigma and log-SNR of schedules against t
        embedding             the sinusoidal embedding of the noise variance
        forward [IMAGE|DATA [NAME ...]]
                              an image at growing t, under schedules
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
        n: number of samples whose error `samplers` measures (default: 16).
        size: height and width of the image of `forward`, such as 64x96 (default: 64).
        seed: seed of the noise of `forward`, or of the sample of `reverse` (default: 0).
        out: the file, which is replaced if it exists (default: a new WHAT.png).

    Other Parameters:
        fields: fields of the named schedules, such as schedule.clip, or of the sampling of `reverse`, such as
            sampler.eta.
        progress: called while samples are made for `samplers`.

    Returns:
        The path of the file.

    Raises:
        UserError: if the figure does not use a name or an option that is given, or needs a name.

    Commands:
        ddim plot schedules linear --schedule.clip powers
        ddim plot reverse runs/photos-fast-1 --sampler.eta 1
    """
    path = find_unused_path(f"{what}.png") if out is None else Path(out)
    check_picture_path(path, charts.ENDINGS, replace=True)
    # The parameters of each function say which names and options its figure uses.
    figures: dict[str, Callable[..., charts.Figure]] = {
        "schedules": lambda *names, fields=None: plot_schedules(names or DEFAULT, fields),
        "embedding": plot_embedding,
        "forward": lambda image="blossoms", *names, seed=0, size=64, fields=None: plot_forward(
            image, names or DEFAULT, seed, size=size, fields=fields
        ),
        "reverse": plot_reverse,
        "samplers": lambda run=None, *, n=16: plot_samplers(run, n=n, progress=progress),
        "losses": lambda run, *runs: plot_losses([run, *runs]),
    }
    options = {"steps": steps, "n": n, "size": size, "seed": seed, "fields": fields or None}
    given = {name: value for name, value in options.items() if value is not None}
    with explain_errors(f"the figure {what} cannot be drawn", kind=TypeError):
        inspect.signature(figures[what]).bind(*names, **given)
    charts.save_figure(path, figures[what](*names, **given))
    return path


# Schedules


DEFAULT = ("linear", "cosine", "linear_path")
"""The schedules that are plotted by default: DDPM's, that of Nichol & Dhariwal, and that of flow matching."""

Shown = str | Mapping[str, Schedule] | Sequence[str | Schedule]
"""Schedules to plot: a name, a list of schedules and names, or {name to show: schedule}."""


def name_schedules(shown: Shown, fields: Mapping[str, Any] | None = None) -> Mapping[str, Schedule]:
    """Return schedules keyed by name and fields that are not defaults, such as "cosine min_signal 0.02".

    With `fields`, such as {"schedule.clip": "powers"}, each name stands for a schedule with these fields.

    Raises:
        UserError: if a name is unknown, a named schedule lacks a field, or a log-SNR does not fall.
    """
    if isinstance(shown, Mapping) and not fields:
        return shown
    changes = {path.removeprefix("schedule."): value for path, value in (fields or {}).items()}
    named = {}
    for item in [shown] if isinstance(shown, str) else shown:
        if isinstance(item, str | Path):
            item = load_value({"kind": str(item), **changes}, Schedule, "schedule")  # noqa: PLW2901
        check_schedule(item)
        named[describe_kind(item)] = item
    return named


def plot_schedules(schedules: Shown = DEFAULT, fields: Mapping[str, Any] | None = None) -> charts.Figure:
    """Return a figure of alpha, sigma and log-SNR of schedules against t.

    Schedules can be names and objects: `plot_schedules(["cosine", ddim.Linear(clip="powers")])`. Notes state
    the share of times on each plateau, because training spends this share on a single noise level.

    Args:
        schedules: a name, a list of schedules and names, or {name to show: schedule}.
        fields: fields of the schedules that are given by name, such as {"schedule.clip": "powers"}.
    """
    shown = name_schedules(schedules, fields)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64, device="cpu")
    levels = {name: schedule(t) for name, schedule in shown.items()}
    # If a schedule keeps alpha = 1, its sigma grows far beyond 1, and the panel gets a log scale.
    log = any(level.sigma.max() > 1 for level in levels.values())
    titles = {
        "alpha": "Signal rate alpha",
        "sigma": f"Noise rate sigma{', log scale' * log}",
        "log_snr": "log-SNR, 2 log(alpha / sigma)",
    }
    figure = charts.new_figure(14.0, 4.6)
    for axes, (rate, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        if rate == "sigma" and log:
            axes.set_yscale("log")
        series = {name: (t.numpy(), getattr(level, rate).numpy()) for name, level in levels.items()}
        charts.draw_curves(axes, series, "t  (0 clean, 1 noise)", "", title=title)
    notes = []
    for name, schedule in shown.items():
        for log_snr, share in plateaus(schedule).items():
            notes.append(f"{name}: {100 * share:.0f} % of all times have log-SNR {log_snr:.2f}")
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=9.5, color=charts.INK)
    return figure


def plot_embedding() -> charts.Figure:
    """Return a figure with two heat maps of the sinusoidal embedding of noise variances, in 32 channels.

    The left panel has variances from 0 to 1, the right panel from 0 to 0.02. In the left panel many channels
    oscillate several times within a pixel. These channels are blurred, because aliasing would show patterns
    that do not exist.
    """
    net = Sinusoidal(32)
    middles = (torch.arange(720, dtype=torch.float64, device="cpu") + 0.5) / 720
    figure = charts.new_figure(12.0, 4.8)
    titles = {
        1.0: "All noise variances; white: average over a pixel of the figure",
        0.02: "Noise variances up to 0.02",
    }
    for axes, (end, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        # A Gaussian with a standard deviation s scales a sinusoid of angular speed w by exp(-(s w)^2 / 2).
        fading = (-((0.6 * end / 720 * net.speeds) ** 2) / 2).exp()
        values = (net(end * middles) * fading.repeat(2)).T.numpy()
        style = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "RdBu_r"}
        drawing = axes.imshow(values, extent=(0, end, 0.5, 32.5), vmin=-1, vmax=1, **style)
        figure.colorbar(drawing, ax=axes, pad=0.02, fraction=0.05, ticks=[-1, 0, 1])
        axes.axhline(16.5, color=charts.INK, linewidth=0.8)
        charts.style_panel(axes, "noise variance, sigma squared", "channel: sin below, cos above", title)
    return figure


# Diffusion


PHOTOGRAPH = Pixels.fixed(0.5, 0.25)
"""Approximate mean (0.5) and standard deviation (0.25) of photographs, used if there is no training set."""


def read_image(source: str, size: tuple[int, int]) -> Tensor:
    """Return an image (1, 3, H, W) in [0, 1] from a file, or the first usable image of a folder or archive.

    Raises:
        UserError: if there is no usable image.
    """
    path = Path(os.path.expanduser(source))
    if is_image_name(path.name, b"") and not path.is_dir():
        members = [Member(path.name, path.read_bytes())]
    else:
        members = find_source(source).members(size)
    found = next(read_members(members, lambda data: decode_image(data, size, 3)), None)
    if found is None:
        raise UserError(f"{source!r} has no usable image")
    return to_unit(torch.from_numpy(found.pixels.copy()).permute(2, 0, 1)[None])


def plot_forward(
    image: str | Path | Tensor | np.ndarray = "blossoms",
    schedules: Shown = DEFAULT,
    seed: int = 0,
    *,
    size: int | str | tuple[int, int] = 64,
    fields: Mapping[str, Any] | None = None,
) -> charts.Figure:
    """Return a figure of an image with the same noise at evenly spaced times, with a row for each schedule.

    Args:
        image: a tensor or array (1, 3, H, W), in [0, 1] or uint8; an image file; or a folder, an archive or
            the name of a data set, whose first image is used.
        schedules, fields: see `name_schedules`.
        seed: seed of the noise.
        size: height and width to which a file is cropped and resized, such as 64, "64x96" or (64, 96).

    Raises:
        UserError: if the image cannot be used.
    """
    if isinstance(image, str | Path):
        image = read_image(str(image), parse_plain(size, tuple[int, int], "data.size"))
    x0 = PHOTOGRAPH.enter(to_unit(torch.as_tensor(image)))
    eps = Noise([seed]).like(x0)
    times = torch.linspace(0, 1, 9, dtype=torch.float64, device="cpu")
    rows, notes = {}, {}
    for name, schedule in name_schedules(schedules, fields).items():
        level = schedule(times)
        rows[name] = list(to_uint8(PHOTOGRAPH.leave(level.noisy(x0, eps))))
        rates = zip(level.alpha.tolist(), level.sigma.tolist(), strict=True)
        notes[name] = [f"alpha {alpha:.2f}\nsigma {sigma:.2f}" for alpha, sigma in rates]
    heads = [f"t = {t:g}" for t in times.tolist()]
    return charts.plot_strip(rows, heads, notes, "Forward diffusion of the same image and noise")


def plot_reverse(
    model: str | Path | Pipeline | Model,
    *,
    steps: int | None = None,
    seed: int = 0,
    fields: Mapping[str, Any] | None = None,
) -> charts.Figure:
    """Return a figure of the reverse diffusion of a sample, and forward diffusion of the finished sample.

    The three rows show the states x_t from noise to the sample, the clean image predicted from each state,
    and the finished sample with fresh noise added, at most at ten times. If the run has labels, the sample of
    seed s has the class that `ddim.sampling.labels.choose_label` describes.

    Args:
        model: a run folder, a `Pipeline` from `load`, or a `Model`.
        steps: sampling steps, by default the number in the recipe.
        seed: seed of the sample.
        fields: sampling fields of the recipe, such as {"sampler.eta": 1}.

    Raises:
        UserError: if `choose_sampling` refuses the steps or the fields.
    """
    pipeline, states = open_pipeline(model), []
    setup = choose_sampling(pipeline, steps, choose_label(pipeline.recipe), fields)
    recipe = setup.pipeline.recipe
    generate(setup, [seed], watch=lambda _, state: states.append(state))
    places = np.linspace(0, len(states) - 1, min(10, len(states)))
    kept = [states[k] for k in places.round().astype(int)]
    sample = states[-1].x0.float().cpu()
    # The sample depends on the noise from which sampling started, so independent noise is added to it.
    fresh = Noise([2**32 - 1 - seed]).like(sample)
    times = torch.tensor([state.t for state in kept], dtype=torch.float64, device="cpu")
    levels = recipe.sampling_schedule(times[:-1])
    images = {
        "reverse:\nstate x_t": torch.cat([state.x for state in kept]),
        "reverse:\npredicted x0": torch.cat([state.x0 for state in kept]),
        # A schedule may have noise at t = 0, so the last image is the sample itself, without added noise.
        "forward:\nthe sample,\nnoise added": torch.cat([levels.noisy(sample, fresh), sample]),
    }
    rows = {name: list(to_uint8(pipeline.to_images(batch))) for name, batch in images.items()}
    heads = [f"t = {t:.2g}" for t in times.tolist()]
    title = f"Reverse diffusion: seed {seed} in {setup.steps} steps of {describe_kind(recipe.sampler)}"
    return charts.plot_strip(rows, heads, title=title)


# Errors of samplers, and losses


@with_bar
def plot_samplers(
    model: str | Path | Pipeline | Model | None = None,
    evaluations: Sequence[int] = (5, 10, 20, 40),
    n: int = 16,
    *,
    progress: Progress = ignore_progress,
) -> charts.Figure:
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
        title = f"recipe {pipeline.recipe.name}"
        error, ends = sampler_errors.prepare_run(pipeline, range(n), progress)
    return plot_sampler_errors(sampler_errors.compare_samplers(error, ends, evaluations, progress), title)


def plot_sampler_errors(table: sampler_errors.ErrorTable, title: str) -> charts.Figure:
    """Return a figure of errors against network evaluations, with a panel per grid and a line per sampler.

    Args:
        table: see `compare_samplers`.
        title: the name of the model.
    """
    figure = charts.new_figure(14.0, 8.0)
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, (grid, lines) in zip(panels, table.items(), strict=True):
        axes.loglog()
        curves = {name: (np.array(points)[:, 0], np.array(points)[:, 1]) for name, points in lines.items()}
        charts.draw_curves(axes, curves, "network evaluations", "mean squared error", f"{grid} grid")
        ticks = [nfe for nfe, _ in next(iter(lines.values()))]
        axes.set_xticks(ticks, [f"{nfe:g}" for nfe in ticks])
        axes.set_xticks([], minor=True)
    reference = f"images generated from the same noise in {sampler_errors.REFERENCE_LEVELS:,} steps"
    figure.suptitle(f"{title}: mean squared error, against {reference}", color=charts.INK)
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
    logged = [line for line in log if line.get(field) is not None]
    return [line["images"] for line in logged], [line[field] for line in logged]


def plot_losses(runs: str | Path | Sequence[str | Path]) -> charts.Figure:
    """Return a figure of the losses of a run, or of several runs, against the training images seen.

    Training losses are comparable only between runs with the same objective.

    Raises:
        UserError: if no run has logged a loss yet.
    """
    given = [runs] if isinstance(runs, str | Path) else runs
    return plot_logs({str(run): read_metrics(Path(run)) for run in given})


def plot_logs(runs: Mapping[str, Log], tails: Mapping[str, Sequence[Log]] | None = None) -> charts.Figure:
    """Return a figure of the losses in the logs of runs.

    Args:
        runs: the lines of each log, from `ddim.runs.log.read_metrics`, keyed by the name of the run.
        tails: further logs, keyed by the names of `runs`; they are drawn as thin lines in the run's colour.

    Raises:
        UserError: if no run has logged a loss yet.
    """
    panels = {}
    for field in MEASURES:
        series = {name: _curve(lines, field) for name, lines in runs.items()}
        if any(len(images) for images, _ in series.values()):
            panels[field] = series
    if not panels:
        raise UserError(f"no loss is logged yet in {', '.join(runs)}")
    figure = charts.new_figure(0.8 + 4.6 * len(panels), 4.2)
    spots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (field, series) in zip(spots, panels.items(), strict=True):
        charts.draw_curves(axes, series, "images seen", "", title=MEASURES[field])
        for k, name in enumerate(series):
            for log in (tails or {}).get(name, []):
                axes.plot(*_curve(log, field), color=charts.COLOURS[k], linewidth=0.9, alpha=0.8)
        axes.set_xlim(left=0)
    return figure
