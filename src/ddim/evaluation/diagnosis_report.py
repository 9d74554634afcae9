"""A diagnosis of a run as a table, sentences, a figure and a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim.diffusion.times import BIN
from ddim.evaluation.denoising import Gap, LevelErrors, measure_gap
from ddim.evaluation.gradient_noise import BATCHES, NoiseScale
from ddim.evaluation.noise_range import NoiseRange
from ddim.evaluation.run_folder import show_in_tensorboard, write_results
from ddim.files import write_sealed
from ddim.metrics.statistics import Estimate, estimate_mean
from ddim.plots import charts
from ddim.plots.pictures import render_png, save_png
from ddim.plots.table import Tabular
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.record import make_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES = {"training": charts.COLOURS[0], "held out": charts.COLOURS[1]}


@dataclass(frozen=True, repr=False)
class Diagnosis(Tabular):
    """The results of `diagnose`: findings, a figure, and errors at each noise level as a table.

    Args:
        train: denoising errors on training images at each noise level.
        held_out: denoising errors on held-out images, None if there are fewer than two held-out images.
        uniform_times: the share of times in each bin of log-SNR, keyed by the lower edge of the bin, if times
            are distributed uniformly.
        training_times: the same shares, if times are distributed as in the training of the run.
        plateaus: the share of uniformly distributed times on each plateau of the schedule, keyed by log-SNR.
            A plateau is a noise level that many times share.
        split: the numbers of training images and of held-out images that the run has.
        schedule_range: the largest (cleanest) and the smallest (noisiest) log-SNR of the schedule.
        noise_range: the range of log-SNR that the images need.
        noise_scale: the gradient noise scale, which suggests a batch size.
        batch: the batch size of the run.
    """

    train: LevelErrors
    held_out: LevelErrors | None
    uniform_times: dict[int, float]
    training_times: dict[int, float]
    plateaus: dict[float, float]
    split: tuple[int, int]
    schedule_range: tuple[float, float]
    noise_range: NoiseRange
    noise_scale: NoiseScale
    batch: int

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each noise level, with the errors on held-out images.

        If `held_out` is None, the errors on training images replace them.
        """
        errors, gap = self.held_out or self.train, self.gap
        noise, image = estimate_mean(errors.noise_mse), estimate_mean(errors.image_mse)
        columns = {
            "log_snr": errors.log_snr,
            "noise_mse": noise.value,
            "noise_mse_low": noise.low,
            "noise_mse_high": noise.high,
            "image_mse": image.value,
            "slope": errors.slope.value,
            **({} if gap is None else {"gap_to_training": gap.by_level.value}),
        }
        return [{name: float(x[k]) for name, x in columns.items()} for k in range(len(errors.log_snr))]

    def figure(self, title: str = "") -> Figure:
        """Return a figure by noise level: errors, gap of training and held-out errors, calibration, times."""
        return draw_diagnosis(self, title)

    def _picture(self) -> bytes:
        return render_png(charts.rasterise(self.figure()))

    @property
    def title(self) -> str:
        return "\n".join(list_findings(self))

    @property
    def gap(self) -> Gap | None:
        """The gap between the errors on held-out and on training images; None without `held_out`."""
        return None if self.held_out is None else measure_gap(self.train, self.held_out)


def write_diagnosis(d: Diagnosis, run: LoadedRun, out: str | Path | None = None) -> Path:
    """Write the record and the figure of a diagnosis into a folder, and return the folder.

    Args:
        d: the diagnosis.
        run: the run.
        out: the folder, by default RUN/diagnostics/N/. With this default, TensorBoard also shows the figure.
    """
    found, step = run.checkpoint, run.checkpoint.state.step
    figure = draw_diagnosis(d, f"{found.run.resolve().name}, step {step}, {found.weights} weights")
    image = charts.rasterise(figure)

    def write(folder: Path) -> None:
        save_png(folder / "figure.png", image)
        write_sealed(folder / "record.json", make_record("diagnosis", diagnosis_record(d), run))

    folder = write_results(run, "diagnostics", out, write)
    if out is None:
        show_in_tensorboard(found.run, step, "diagnostics", image)
    return folder


HEAD = ("log-SNR", "noise MSE", "image MSE", "slope", "gap to training")


def level_rows(d: Diagnosis) -> list[tuple[str, ...]]:
    """Return the errors as rows of text under `HEAD`, one row for each noise level."""
    errors, gap = d.held_out or d.train, d.gap
    noise, image, slope = estimate_mean(errors.noise_mse), estimate_mean(errors.image_mse), errors.slope
    return [
        (
            f"{level:.2f}",
            _within(noise, k),
            _within(image, k),
            _within(slope, k),
            "" if gap is None else _percent(gap.by_level, k),
        )
        for k, level in enumerate(errors.log_snr)
    ]


def describe_images(d: Diagnosis) -> str:
    """Return words with the numbers of images on which the errors in the table were measured."""
    counts = [("training", d.train, d.split[0])]
    counts += [] if d.held_out is None else [("held-out", d.held_out, d.split[1])]
    used = [f"{len(errors.noise_mse):,} of {count:,} {name} images" for name, errors, count in counts]
    return f"{used[-1]}" + (f"; gap to {used[0]}" if len(used) > 1 else "")


def list_findings(d: Diagnosis) -> Iterator[str]:
    """Yield the findings that the table of errors does not show, one sentence each."""
    gap, (cleanest, noisiest) = d.gap, d.schedule_range
    if gap is None:
        count = d.split[1]
        has = f"only {count} held-out image, but 2 are needed" if count else "no held-out images"
        yield f"The run has {has}: memorisation cannot be measured."
    else:
        yield f"The gap to training is {_percent(gap.overall)} over all noise levels, {gap.conclude()}."
    errors = d.held_out or d.train
    worst = int(np.argmax(errors.miscalibrated))
    yield (
        f"Scaling the predicted noise would lower its MSE by at most "
        f"{100 * errors.miscalibrated[worst]:.1f} %, at log-SNR {errors.log_snr[worst]:.1f}."
    )
    for level, share in d.plateaus.items():
        yield f"{100 * share:.0f} % of uniform times lie on one noise level, log-SNR {level:.2f}: a plateau."
    useful = d.noise_range
    needed, finer = f"log-SNR above {useful.noisiest:.1f}", ""
    if useful.cleanest is not None:
        needed = f"{useful.cleanest:.1f} to {useful.noisiest:.1f}"
        finer = "at a larger log-SNR the noise is finer than the rounding of pixel values, "
    yield (
        f"The schedule goes from log-SNR {cleanest:.1f} to {noisiest:.1f}. The images need {needed}: {finer}"
        "at a smaller log-SNR images cannot be distinguished from noise. The largest distance between two "
        f"images suggests {useful.distance:.1f} as the smallest log-SNR."
    )
    yield d.noise_scale.compare_batch(d.batch)


def diagnosis_record(d: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as JSON."""
    gap, s = d.gap, d.noise_scale
    return {
        "train": _errors(d.train),
        "held_out": None if d.held_out is None else _errors(d.held_out),
        "gap": gap and {"by_level": gap.by_level.to_json(), "overall": gap.overall.to_json()},
        "times": {"uniform": d.uniform_times, "training": d.training_times},
        "plateaus": [{"log_snr": level, "share": share} for level, share in d.plateaus.items()],
        "schedule": {"cleanest": d.schedule_range[0], "noisiest": d.schedule_range[1]},
        "noise_range": vars(d.noise_range),
        # JSON has no infinity, so an infinite value becomes null.
        "gradient_noise_scale": {k: v if math.isfinite(v) else None for k, v in vars(s).items()}
        | {"batches": BATCHES},
        "batch": d.batch,
    }


def draw_diagnosis(d: Diagnosis, title: str) -> Figure:
    """Return a figure of six panels over the log-SNR, clean images on the left, with 95 % intervals.

    The panels show the MSE of the predicted noise, the MSE of the predicted image, the gap between held-out
    and training images, the slope of the regression of the noise on the predicted noise, the mean of eps_hat
    * (eps - eps_hat), and the distribution of the times.
    """
    sheet = charts.new_figure(14.0, 8.0)
    panels = iter(sheet.subplots(2, 3).flat)
    sheet.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=charts.INK)
    sides = {"training": d.train} | ({} if d.held_out is None else {"held out": d.held_out})

    def panel(title: str, of: Callable[[LevelErrors], Estimate], truth: float | None = None) -> Axes:
        axes = next(panels)
        _bands(axes, {name: (e.log_snr, of(e)) for name, e in sides.items()}, title, truth)
        return axes

    panel("MSE of the noise", lambda e: estimate_mean(e.noise_mse)).set_yscale("log")
    panel("MSE of the image, model units", lambda e: estimate_mean(e.image_mse)).set_yscale("log")
    if (gap := d.gap) is None:
        next(panels).set_axis_off()
    else:
        _bands(next(panels), {"held out": (d.train.log_snr, gap.by_level)}, "Gap to training, noise MSE", 0)
    panel("Slope of eps on predicted eps, 1 if calibrated", lambda e: e.slope, 1)
    panel("E[eps_hat . (eps - eps_hat)], 0 if calibrated", lambda e: e.residual, 0)
    _shares(next(panels), d)
    return sheet


def _bands(
    axes: Axes, sides: dict[str, tuple[np.ndarray, Estimate]], title: str, truth: float | None = None
) -> None:
    """Draw lines with their confidence intervals, and a dotted line at `truth`, the optimum, if given."""
    for name, (x, e) in sides.items():
        colour = _SIDES[name]
        axes.plot(x, e.value, color=colour, linewidth=1.8, label=name, marker="o", markersize=3)
        axes.fill_between(x, e.low, e.high, color=colour, alpha=0.2, linewidth=0)
    if truth is not None:
        axes.axhline(truth, color=charts.FAINT, linestyle=":", linewidth=1)
    charts.style_panel(axes, "log-SNR", "", title)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.invert_xaxis()
    if len(sides) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=charts.INK)


def _shares(axes: Axes, d: Diagnosis) -> None:
    """Draw the share of times in each bin of log-SNR, and the ends of the useful range."""
    half = BIN / 2
    for k, (name, found) in enumerate(
        (("uniform times", d.uniform_times), ("training times", d.training_times))
    ):
        x = [b + half * (0.5 + k) for b in found]
        axes.bar(x, [100 * s for s in found.values()], width=0.9 * half, color=charts.COLOURS[k], label=name)
    for level in (d.noise_range.noisiest, d.noise_range.cleanest):
        if level is not None:
            axes.axvline(level, color=charts.FAINT, linestyle=":", linewidth=1)
    charts.style_panel(axes, "log-SNR; dotted: range that images need", "% of times", "Times by log-SNR")
    axes.invert_xaxis()
    axes.legend(frameon=False, fontsize=9, labelcolor=charts.INK)


def _within(e: Estimate, k: int) -> str:
    return f"{e.value[k]:.3g} ± {e.high[k] - e.value[k]:.1g}"


def _percent(e: Estimate, k: int | tuple[()] = ()) -> str:
    return f"{100 * e.value[k]:+.1f} % [{100 * e.low[k]:.1f}, {100 * e.high[k]:.1f}]"


def _errors(e: LevelErrors) -> dict[str, Any]:
    fields = ("noise_mse", "noise_mae", "image_mse", "image_mae")
    return {
        "images": len(e.noise_mse),
        "log_snr": e.log_snr.tolist(),
        **{name: estimate_mean(getattr(e, name)).to_json() for name in fields},
        "slope": e.slope.to_json(),
        "residual": e.residual.to_json(),
        "miscalibrated": e.miscalibrated.tolist(),
    }
