"""Check whether a run repeats its training images.

The check finds copies among samples, and measures the gap between errors on held-out and training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddim.data import SplitImages
from ddim.errors import check_count, format_count
from ddim.evaluation import diagnose
from ddim.evaluation.copies import (
    PIXELS,
    Duplicates,
    Matches,
    Verdict,
    check_counts,
    find_copies_by_features,
    find_copies_by_pixels,
    find_held_out_duplicates,
    format_share,
)
from ddim.evaluation.denoising import Gap, measure_gap
from ddim.evaluation.image_summary import take_pictures
from ddim.evaluation.run_folder import open_run_folder, show_in_tensorboard, write_results
from ddim.evaluation.sample_features import SampledParts
from ddim.files import read_sealed, write_sealed
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.features import Extractor, open_extractor
from ddim.plots import charts
from ddim.plots.pictures import save_png
from ddim.plots.table import Tabular
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.record import make_record
from ddim.sampling.sampling_setup import choose_sampling, collect_guidance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS = 12
"""The largest number of samples in the figure of pairs."""


@dataclass(frozen=True, repr=False)
class Memorisation(Tabular):
    """The results of `check_memorisation`.

    Args:
        copies: which samples are copies of training images, and whether they are more than chance allows.
        gap: the gap between the errors on held-out and on training images; None if fewer than two images were
            held out.
        duplicates: the held-out images that equal or nearly equal a training image.
        folder: the folder of the record and the figure.
    """

    copies: Verdict
    gap: Gap | None
    duplicates: Duplicates
    folder: Path

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each sample: seed, closeness, copy or not, nearest training image."""
        return read_sealed(self.folder / "record.json")["samples"]

    def __repr__(self) -> str:
        return f"{self}\n{self.folder}"

    def _picture(self) -> bytes | None:
        path = self.folder / "pairs.png"
        return path.read_bytes() if path.is_file() else None

    @property
    def title(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Return the findings, each sentence on its own line, the verdict first."""
        return "\n".join(memorisation_sentences(self.copies, self.gap, self.duplicates))


@with_bar
def check_memorisation(
    run: str | Path | LoadedRun,
    n: int = 500,
    steps: int | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    features: str | Extractor = PIXELS,
    progress: Progress = ignore_progress,
    out: str | Path | None = None,
    **guidance: Any,  # noqa: ANN401  (the arguments of `collect_guidance`)
) -> Memorisation:
    """Find copies of training images among samples, and write a record and a figure.

    The samples are those of `ddim.sample` with the same options, and with label "all" if the run was trained
    with labels: they cycle through its classes. If these classes are clusters, each cluster is instead as
    frequent among the samples as among the training images. Guidance that `ddim search` saved for such
    samples is used too. Samples that an evaluation kept in the cache are not made again.

    Args:
        run: a run folder, or the result of `ddim.load`.
        n: number of samples; their seeds are 0 ... n - 1.
        steps: sampling steps, by default the number in the recipe of the run.
        fields: other values for the sampling fields of the recipe, keyed by path, such as
            {"sampler.eta": 0.5}.
        features: what is compared: "pixels", or the features of a network, given as for `ddim.evaluate`.
        progress: called while images are decoded, sampled, denoised and compared, and while features are
            computed.
        out: a new or empty folder for the results, by default RUN/memorisation/N.
        guidance: guidance, guidance_interval and guide_with, as in `ddim.sample`.

    Returns:
        The verdict, the gap to held-out images, duplicates, and the folder of the record.

    Raises:
        UserError: if there are too few images, or the images of the run are missing or have changed. Also if
            the run cannot be sampled with these options.
    """
    check_count("n", n)
    extractor = None if features == PIXELS else open_extractor(features)
    run = open_run_folder(run, out)
    asked = collect_guidance(**guidance)
    setup = choose_sampling(run, steps, choose_label(run.recipe), fields or {}, guidance=asked)
    run = setup.pipeline
    if extractor is not None:
        extractor.to(run.runtime.exact_device)
    own = open_run_images(run, progress)
    # This is checked before time is spent on sampling.
    check_counts(n, len(own.train))
    flip = run.recipe.data.flip
    made = SampledParts(setup, range(n), progress, keep=True)
    samples = torch.cat([*made.samples()]).permute(0, 2, 3, 1).numpy()
    verdict = _find_copies(own, samples, flip, extractor, progress)
    gap, duplicates = _measure_gap(run, own, progress), find_held_out_duplicates(own, flip, progress)
    image = charts.rasterise(draw_pairs(verdict, samples, own))
    content = {
        **memorisation_record(verdict, list(made.seeds), own, gap, duplicates),
        "features": extractor and {"extractor": extractor.name, "weights": extractor.weights},
        "sampling": made.record,
    }
    return Memorisation(verdict, gap, duplicates, _write_files(run, content, image, verdict, out))


def _find_copies(
    own: SplitImages, samples: np.ndarray, flip: bool, extractor: Extractor | None, progress: Progress
) -> Verdict:
    if extractor is None:
        return find_copies_by_pixels(own, samples, flip, progress)
    return find_copies_by_features(own, samples, flip, extractor, progress)


def _write_files(
    run: LoadedRun, content: dict[str, Any], image: np.ndarray, verdict: Verdict, out: str | Path | None
) -> Path:
    """Write the record and the figure, show the share of copies in TensorBoard, and return the folder."""

    def write(folder: Path) -> None:
        save_png(folder / "pairs.png", image)
        write_sealed(folder / "record.json", make_record("memorisation", content, run))

    folder = write_results(run, "memorisation", out, write)
    if out is None:
        checkpoint, share = run.checkpoint, float(verdict.samples.share.value)
        show_in_tensorboard(checkpoint.run, checkpoint.state.step, "memorisation", image, {"copies": share})
    return folder


def _measure_gap(run: LoadedRun, own: SplitImages, progress: Progress) -> Gap | None:
    if len(own.validation) < 2:
        return None
    train, held_out = (
        diagnose.measure_run_errors(run, own, part, diagnose.IMAGES, diagnose.LEVELS, progress)
        for part in (own.train, own.validation)
    )
    return measure_gap(train, held_out)


def draw_pairs(verdict: Verdict, samples: np.ndarray, own: SplitImages) -> Figure:
    """Return a figure of the samples closest to training images, each above its nearest training image.

    The samples are (N, H, W, C) uint8.
    """
    closeness = verdict.samples.neighbours.closeness
    worst = np.argsort(closeness, kind="stable")[:PAIRS]
    which = own.train[verdict.samples.neighbours.indices[worst, 0]]
    rows = {
        "sample": [samples[k] for k in worst],
        "nearest in\ntraining": list(take_pictures(own.images, which)),
    }
    copies = verdict.samples.copies
    notes = {"sample": [f"{closeness[k]:.2f}{' copy' if copies[k] else ''}" for k in worst]}
    names = [own.images.names[k] for k in which]
    files = [name.rsplit("/", 1)[-1] for name in names]
    # Files in different folders may have the same name; then names with their folders are shown.
    names = files if len(set(files)) == len(set(names)) else names
    notes["nearest in\ntraining"] = charts.shorten_apart(names, 11)
    title = (
        f"Nearest by {verdict.space}; numbers: distance relative to other neighbours; below "
        f"{verdict.threshold:.2f}, a sample is a copy"
    )
    return charts.plot_strip(rows, [f"{k + 1}" for k in range(len(worst))], notes, title)


def memorisation_record(
    verdict: Verdict, seeds: list[int], own: SplitImages, gap: Gap | None, duplicates: Duplicates
) -> dict[str, Any]:
    """Return the results as JSON; samples are in the order of their seeds, images are given by name."""
    matches, names = verdict.samples, own.images.names
    nearest_of = own.train[matches.neighbours.indices[:, 0]]
    rows = zip(seeds, matches.neighbours.closeness, matches.copies, nearest_of, strict=True)
    return {
        "memorised": verdict.memorised,
        "verdict": verdict.sentence,
        "space": verdict.space,
        "threshold": verdict.threshold,
        "bound": verdict.bound,
        "learned_from": verdict.learned_from,
        "left_out": verdict.left_out,
        "copies": _share(matches),
        "false_alarms": None if verdict.held_out is None else _share(verdict.held_out),
        "samples": [
            {"seed": seed, "closeness": float(c), "copy": bool(copy), "nearest": names[k]}
            for seed, c, copy, k in rows
        ],
        "gap": None
        if gap is None
        else {
            **gap.overall.to_json(),
            "images": dict(zip(("train", "valid"), gap.images, strict=True)),
            "levels": len(gap.by_level.value),
        },
        "duplicates": {
            "same": [{"valid": names[a], "train": names[b]} for a, b in duplicates.same],
            "alike": [{"valid": names[a], "train": names[b]} for a, b in duplicates.alike],
            "compared": duplicates.compared,
            "of": duplicates.held_out,
        },
    }


def _share(matches: Matches) -> dict[str, Any]:
    return {"count": int(matches.copies.sum()), "of": len(matches.copies), **matches.share.to_json()}


def memorisation_sentences(verdict: Verdict, gap: Gap | None, duplicates: Duplicates) -> list[str]:
    """Return the results as sentences, the verdict first."""
    lines = [verdict.sentence]
    if verdict.held_out is None:
        lines.append(
            "No held-out image is left for a check, so the rate of false alarms is bounded, but not measured."
        )
    else:
        share, n = format_share(verdict.held_out.share), len(verdict.held_out.copies)
        lines.append(
            f"As a check of this bound, {share} of {format_count(n, 'held-out image')} count as copies; "
            "these are false alarms."
        )
    if verdict.left_out:
        are = "image was" if verdict.left_out == 1 else "images were"
        lines.append(f"{verdict.left_out:,} real {are} left out as near-duplicates of training images.")
    if gap is not None:
        times, low, high = (1 + end for end in (gap.overall.value, gap.overall.low, gap.overall.high))
        lines.append(
            "Over all noise levels, the noise MSE on held-out images is "
            f"{times:.3g} [{low:.3g}, {high:.3g}] times the noise MSE on training images, {gap.conclude(1)}."
        )
    same, alike = len(duplicates.same), len(duplicates.alike)
    found = format_count(same, "held-out image")
    if duplicates.compared < duplicates.held_out:
        found = f"Among {duplicates.compared:,} of {duplicates.held_out:,} held-out images, {same:,}"
    equal = f"{found} {'equals' if same == 1 else 'equal'} a training image"
    lines.append(f"{equal}, and {alike:,} {'nearly does' if alike == 1 else 'nearly do'}.")
    return lines
