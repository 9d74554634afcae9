"""Pictures -> features -> metrics -> a record: how good a run's pictures, or a folder of images, are.

Pictures are made, shown to the extractor and forgotten, micro-batch by micro-batch: 50,000 of them are never
in memory. An evaluation's folder appears in one piece, by one rename: one that was killed leaves no record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim.data import Images, open_images
from ddim.data.batch import gather_batch
from ddim.data.decode import UnusableError, read_header
from ddim.data.open import find_source, source_exists
from ddim.data.sources import Member
from ddim.diffusion.noise import check_seeds
from ddim.errors import UserError, check_count
from ddim.evaluation import record as scores
from ddim.evaluation.record import Evaluation
from ddim.evaluation.reference import Reference, open_reference, select_reference
from ddim.files import (
    atomic_file,
    hash_file,
    publish_folder,
    read_json,
    remove_leftovers,
    temporary_folder,
    write_json,
)
from ddim.metrics import catalogue
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor, load_extractor, release_pages, write_npy_header
from ddim.metrics.fid import explain_fid_bias, fid, fid_infinity
from ddim.metrics.kid import kid
from ddim.metrics.precision_recall import prdc
from ddim.plots.pictures import make_sheet, save_png
from ddim.runs import checkpoint
from ddim.runs import classes as labels
from ddim.runs.checks import check_label
from ddim.runs.folder import check_unused, make_numbered_folder
from ddim.runs.generate import sample_uint8, with_options
from ddim.runs.image_features import BATCH, Chosen, features_of
from ddim.runs.log import show_in_tensorboard
from ddim.runs.pipeline import load
from ddim.runs.provenance import make_record, sampling_record
from ddim.runs.recipe import Data
from ddim.runs.run_path import find_best_checkpoint, names_best

ENOUGH = 5
"""FID is extrapolated where a fifth of the pictures, its smallest part, outnumbers the dimensions."""

SHOWN = 36
"""Pictures in the grid of an evaluation."""

Progress = Callable[[str, int, int], None]
"""Called with what is looked at, "reference" or "pictures", how many are done, and of how many."""


@dataclass(frozen=True)
class Pictures:
    """Which pictures of a run: those of `n` seeds from `seed` on, in so many steps.

    `fields` are those of the recipe's sampler, grid, clip and sampled_on to change, as `override` takes
    them; without a grid among them, levels that a search found for this sampler and number of steps are used.
    `label` is a class by name or index, or "all"; see `ddim.runs.generate.generate` for it and `guidance`.
    """

    n: int = 1000
    steps: int = 20
    seed: int = 0
    weights: str = "ema"
    fields: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    label: str | int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        if self.n < LEAST:
            raise UserError(f"n must be at least {LEAST} pictures, got {self.n}")
        check_count("n", self.n)
        check_seeds([self.seed, self.seed + self.n - 1])


def evaluate(
    source: str | Path,
    pictures: Pictures = Pictures(),  # noqa: B008  (a frozen value)
    reference: Reference = Reference(),  # noqa: B008
    *,
    extractor: Extractor | None = None,
    out: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Judge pictures of a run (its folder or a checkpoint), or the images of a folder or archive.

    The record lies in `out`, by default RUN/evaluations/1, 2, ..., of images evaluations/NAME-1, 2, ...
    `extractor` is by default `ddim.metrics.features.DEFAULT`. UserError where there are too few images of
    either kind, images without a reference, or a folder that is not empty or cannot be made.
    """
    extractor = extractor or load_extractor()
    if out is not None:
        check_unused(out)
    path = Path(source)
    subject = (_of_run if is_run(path) else _of_images)(path, pictures, reference, progress)
    against = subject.against
    named = f"{against.part} of {against.source}"
    for count, what in ((subject.count, str(source)), (len(against.which), f"the reference, {named},")):
        if count < LEAST:
            raise UserError(f"{what} has {count} images, and at least {LEAST} are needed")
    parent = subject.home if out is None else out.parent
    with ExitStack() as stack:
        # Before the features, which may take long.
        try:
            beside = stack.enter_context(temporary_folder(parent / "evaluation"))
        except OSError as error:
            raise UserError(f"an evaluation cannot be written in {parent}: {error.strerror}") from None
        if out is None:
            # What lies beside a folder that the user named is not ours.
            remove_leftovers(parent)
        began = time.monotonic()
        truth = features_of(against, extractor, partial(progress, "reference"))
        spent = {"sampling": 0.0, "features": time.monotonic() - began, "metrics": 0.0}
        features, nfe = _extracted(subject, extractor, beside, spent, progress)
        began = time.monotonic()
        metrics, notes = measured(features, truth)
        spent["metrics"] = time.monotonic() - began
        content = {
            "metrics": metrics,
            "notes": notes,
            **_facts(against, extractor),
            "generated": {
                "images": subject.count,
                "source": str(source),
                "fingerprint": subject.fingerprint,
                "sha256": hash_file(beside / scores.FEATURES),
            },
            "sampling": subject.sampling and {**subject.sampling, "nfe": nfe},
            "seconds": {name: round(seconds, 2) for name, seconds in spent.items()},
        }
        write_json(beside / scores.RECORD, make_record("evaluation", content, schema=scores.SCHEMA))
        found = scores.read_evaluation(_published(beside, subject, out))
    # Beside a run, evaluations are numbers alone.
    if out is None and not subject.stem:
        _show(subject.home.parent, found)
    return found


def measured(generated: np.ndarray, reference: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """The metrics of features (N, d) and (M, d), by name as a record holds them; and a sentence for each
    number that is missing or that is easily misread.
    """
    count, dimensions, few = len(generated), generated.shape[1], min(len(generated), len(reference))
    # Subsets of a thousand, as published; of sets of fewer than two, halves: wholes would all be one subset.
    k = kid(generated, reference, size=min(1000, few // 2))
    f: dict[str, float | None] = {"value": fid(generated, reference)}
    f |= {"infinity": None, "low": None, "high": None}
    notes = [explain_fid_bias(count, len(reference), dimensions)]
    if count > ENOUGH * dimensions:
        f["infinity"], f["low"], f["high"] = fid_infinity(generated, reference)
        notes.append(
            f"FID-infinity and its interval are about FID against these {len(reference):,} reference images, "
            "not against all that they stand for"
        )
    elif notes == [None]:
        notes.append(f"FID-infinity needs more than {ENOUGH * dimensions:,} pictures, got {count:,}")
    if k.value < 0:
        notes.append(
            "KID is below 0: its estimate is unbiased, so that of like sets falls on either side of 0"
        )
    least = catalogue.METRICS["kid"].least
    if few < least:
        notes.append(f"{few} images are few: nothing is ranked by fewer than {least}")
    overlap = {name: {"value": value} for name, value in asdict(prdc(generated, reference)).items()}
    metrics = {"kid": asdict(k), "fid": f, **overlap}
    return metrics, [note for note in notes if note]


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder, RUN/best or a checkpoint, and no images."""
    names = ("run.json", "checkpoints", checkpoint.MANIFEST)
    return any((path / name).exists() for name in names) or names_best(path)


@dataclass(frozen=True)
class _Subject:
    """What is judged: `count` pictures, in batches (B, C, H, W) uint8 with the NFE of each picture; against
    what; what they depend on, as far as it is known; where its evaluations go, `home` / (`stem` + number);
    and the fingerprint of images that were given.
    """

    count: int
    batches: Iterator[tuple[Tensor, int]]
    against: Chosen
    sampling: dict[str, Any] | None
    home: Path
    stem: str = ""
    fingerprint: str | None = None


def _of_run(run: Path, pictures: Pictures, reference: Reference, progress: Progress) -> _Subject:
    run = find_best_checkpoint(run) or run
    trained = load(run, pictures.weights, device=pictures.device)
    label = labels.find_label(pictures.label, trained.recipe, trained.classes)
    guidance = pictures.guidance
    check_label(trained.recipe, label, guidance)
    against = open_reference(trained, reference, partial(progress, "images"))
    trained, _ = with_options(trained, pictures.fields, pictures.steps)
    seeds = range(pictures.seed, pictures.seed + pictures.n)
    sampling = sampling_record(trained, seeds, pictures.steps, 0, label, guidance)
    batches = sample_uint8(trained, seeds, pictures.steps, label, guidance)
    if not (run / checkpoint.MANIFEST).is_file():
        return _Subject(pictures.n, batches, against, sampling, run / scores.FOLDER)
    # Nothing may be added to a checkpoint; its run's folder is two above.
    if run.resolve().parent.name == "checkpoints":
        return _Subject(pictures.n, batches, against, sampling, run.resolve().parent.parent / scores.FOLDER)
    return _Subject(pictures.n, batches, against, sampling, Path(scores.FOLDER), f"{run.resolve().name}-")


def _of_images(source: Path, _: Pictures, reference: Reference, progress: Progress) -> _Subject:
    if reference.data is None:
        if not source_exists(str(source)):
            raise UserError(f"{source} does not exist: name a run or a folder or archive of images")
        raise UserError(f"{source} is no run, so --data must say what images it is judged against")
    tell = partial(progress, "images")
    images = open_images(str(source), _size_of(source), progress=tell)
    which, sampling = _pictures_of(source, images)
    data = Data(size=(images.pixels.shape[1], images.pixels.shape[2]))
    against = select_reference(reference, data, 0, tell)
    stem = re.sub(r"[^\w.-]+", "-", source.resolve().name)
    batches = _read(images, which, sampling["nfe"] if sampling else 0)
    home = Path(scores.FOLDER)
    return _Subject(len(which), batches, against, sampling, home, f"{stem}-", images.fingerprint)


def _read(images: Images, which: np.ndarray, nfe: int) -> Iterator[tuple[Tensor, int]]:
    for first in range(0, len(which), BATCH):
        yield gather_batch(images, which[first : first + BATCH]), nfe
        release_pages(images.pixels)


def _size_of(source: Path) -> tuple[int, int]:
    """(height, width) of the first image of a source that can be read."""
    for item in find_source(str(source)).members((64, 64)):
        if isinstance(item, Member):
            with suppress(UnusableError):
                found = read_header(item.data)
                return found.height, found.width
    raise UserError(f"{source} is neither a run nor a folder or archive of images")


def _pictures_of(source: Path, images: Images) -> tuple[np.ndarray, dict[str, Any] | None]:
    """Indices of the pictures, in a folder of `ddim sample` those of seeds, in their order, and not its grid;
    and what they depend on, where its record is of just these.
    """
    if not (source / "record.json").is_file():
        return np.arange(len(images)), None
    places = {int(name[:-4]): k for k, name in enumerate(images.names) if re.fullmatch(r"\d{5,}\.png", name)}
    seeds = sorted(places)
    sampling = None
    with suppress(UserError):
        record = read_json(source / "record.json")
        if scores.is_sampling(record) and record["seeds"] == seeds:
            outside = {"schema", "kind", "time", "seconds"}
            sampling = {name: value for name, value in record.items() if name not in outside}
    return np.array([places[seed] for seed in seeds], np.int64), sampling


def _extracted(
    subject: _Subject, extractor: Extractor, folder: Path, spent: dict[str, float], progress: Progress
) -> tuple[np.ndarray, int]:
    """The features of the pictures, kept in the folder with a grid of the first, and the NFE of each; adds
    the seconds that they took.
    """
    done, nfe, shown = 0, 0, []
    with atomic_file(folder / scores.FEATURES) as file:
        write_npy_header(file, (subject.count, extractor.dimensions))
        began = time.monotonic()
        for pictures, each in subject.batches:
            sampled, nfe = time.monotonic(), each
            file.write(extractor(pictures).numpy().tobytes())
            if done < SHOWN:
                shown.append(pictures[: SHOWN - done])
            done += len(pictures)
            progress("pictures", done, subject.count)
            spent["sampling"] += sampled - began
            began = time.monotonic()
            spent["features"] += began - sampled
    save_png(folder / scores.GRID, make_sheet(torch.cat(shown)))
    return np.lib.format.open_memmap(folder / scores.FEATURES, mode="r"), nfe


def _show(run: Path, found: Evaluation) -> None:
    """Add the numbers and the grid of an evaluation to the TensorBoard events of its run."""
    values = {name: value for name in catalogue.METRICS if (value := found.value(name)) is not None}
    with Image.open(found.folder / scores.GRID) as grid:
        show_in_tensorboard(run, found.record["sampling"]["step"], "evaluation", np.asarray(grid), values)


def _facts(against: Chosen, extractor: Extractor) -> dict[str, Any]:
    """What a record says of the features and of the images that pictures are judged against."""
    return {
        "features": {
            "extractor": extractor.name,
            "weights": extractor.weights,
            "resize": extractor.resize,
            "dimensions": extractor.dimensions,
        },
        "reference": {
            "source": against.source,
            "fingerprint": against.images.fingerprint,
            "part": against.part,
            "size": list(against.images.pixels.shape[1:3]),
            "images": len(against.which),
            "sha256": against.identity(extractor),
        },
    }


def _published(beside: Path, subject: _Subject, out: Path | None) -> Path:
    """Give the finished folder its name: `out`, or the next free number."""
    if out is not None:
        publish_folder(beside, out)
        return out
    return make_numbered_folder(subject.home, subject.stem, beside)
