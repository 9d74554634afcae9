"""Evaluate samples of a run, or a folder of images: images -> features -> metrics -> a record.

Samples go through the extractor batch by batch and are freed, so that 50,000 of them need little memory. The
folder of an evaluation appears by one rename: an evaluation that is killed leaves no record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddim.errors import UserError
from ddim.evaluation.record import FEATURES, GRID, RECORD, SCHEMA, Evaluation, read_evaluation
from ddim.evaluation.reference import Reference
from ddim.evaluation.subject import Progress, Samples, Subject, open_subject
from ddim.files import (
    atomic_file,
    hash_file,
    publish_folder,
    remove_leftovers,
    temporary_folder,
    write_json,
)
from ddim.metrics.catalogue import LEAST, METRICS
from ddim.metrics.features import Extractor, load_extractor, write_npy_header
from ddim.metrics.fid import explain_fid_bias, fid, fid_infinity
from ddim.metrics.kid import kid
from ddim.metrics.precision_recall import prdc
from ddim.plots.pictures import make_sheet, save_png
from ddim.runs.folder import check_unused, make_numbered_folder
from ddim.runs.image_features import ImageSet, compute_features
from ddim.runs.log import show_in_tensorboard
from ddim.runs.provenance import make_record

ENOUGH = 5
"""FID-infinity needs more than this many samples for each dimension of the features.

Its smallest subset is a fifth of the samples, and must have more images than dimensions.
"""

SHOWN = 36
"""Number of samples in the sheet of an evaluation."""


def evaluate(
    source: str | Path,
    samples: Samples = Samples(),  # noqa: B008  (a frozen value)
    reference: Reference = Reference(),  # noqa: B008
    *,
    extractor: Extractor | None = None,
    out: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Measure KID, FID, precision, recall, density and coverage of samples, and write a record.

    Args:
        source: a run folder or checkpoint, or a folder or archive of images.
        samples: which samples of a run.
        reference: the images that they are compared with, by default the run's own held-out images.
        extractor: the network of the features, by default `ddim.metrics.catalogue.DEFAULT`.
        out: a new or empty folder, by default RUN/evaluations/N, or evaluations/NAME-N for images.
        progress: see `Progress`.

    Returns:
        The folder of the evaluation and its record.

    Raises:
        UserError: if there are too few images, images have no reference, or the folder cannot be made.

    Example:
        >>> found = ddim.evaluate(run, ddim.Samples(n=1000, steps=20))
        >>> found.value("kid"), found.interval("kid")
    """
    extractor, out = extractor or load_extractor(), None if out is None else Path(out)
    if out is not None:
        check_unused(out)
    subject = open_subject(Path(source), samples, reference, progress)
    selected = subject.reference
    of_reference = f"the reference, {selected.part} of {selected.source},"
    for count, what in ((subject.count, str(source)), (len(selected.which), of_reference)):
        if count < LEAST:
            raise UserError(f"{what} has {count} images, and at least {LEAST} are needed")
    with _unfinished_folder(subject, out) as folder:
        began = time.monotonic()
        truth = compute_features(selected, extractor, partial(progress, "reference"))
        seconds = {"sampling": 0.0, "features": time.monotonic() - began, "metrics": 0.0}
        features, nfe = _extract_features(subject, extractor, folder, seconds, progress)
        began = time.monotonic()
        metrics, notes = measure_metrics(features, truth)
        seconds["metrics"] = time.monotonic() - began
        content = {
            "metrics": metrics,
            "notes": notes,
            **_describe_reference(selected, extractor),
            "generated": subject.describe(str(source)) | {"sha256": hash_file(folder / FEATURES)},
            "sampling": subject.sampling and {**subject.sampling, "nfe": nfe},
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
        }
        write_json(folder / RECORD, make_record("evaluation", content, schema=SCHEMA))
        found = read_evaluation(_publish(folder, subject, out))
    if out is None and not subject.stem:
        _show(subject.home.parent, found)
    return found


def measure_metrics(generated: np.ndarray, reference: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of features (N, d) and (M, d), in the form of a record, and notes on them.

    A note is a sentence about a number that is missing or easily misread.
    """
    count, dimensions, few = len(generated), generated.shape[1], min(len(generated), len(reference))
    # A subset has 1000 images, as published, but at most half of the set: subsets as large as the set
    # would all be the same.
    k = kid(generated, reference, size=min(1000, few // 2))
    f: dict[str, float | None] = {"value": fid(generated, reference)}
    f |= {"infinity": None, "low": None, "high": None}
    notes = [explain_fid_bias(count, len(reference), dimensions)]
    if count > ENOUGH * dimensions:
        f["infinity"], f["low"], f["high"] = fid_infinity(generated, reference)
        notes.append(
            f"FID-infinity and its interval are for these {len(reference):,} reference images, "
            "not for the distribution that they come from"
        )
    elif notes == [None]:
        notes.append(f"FID-infinity needs more than {ENOUGH * dimensions:,} samples, got {count:,}")
    if k.value < 0:
        notes.append("KID is below 0: the estimate is unbiased, so it may fall below 0 for similar sets")
    least = METRICS["kid"].least
    if few < least:
        notes.append(f"{few} images are few: no metric ranks fewer than {least}")
    overlap = {name: {"value": value} for name, value in asdict(prdc(generated, reference)).items()}
    return {"kid": asdict(k), "fid": f, **overlap}, [note for note in notes if note]


@contextmanager
def _unfinished_folder(subject: Subject, out: Path | None) -> Iterator[Path]:
    """Yield a temporary folder, and remove it at the end.

    It is created before features are computed, so that an unusable path is reported at once.
    """
    parent = subject.home if out is None else out.parent
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(parent / "evaluation"))
        except OSError as error:
            raise UserError(f"an evaluation cannot be written in {parent}: {error.strerror}") from None
        if out is None:
            # Files beside a folder that the user named do not belong to us.
            remove_leftovers(parent)
        yield folder


def _extract_features(
    subject: Subject, extractor: Extractor, folder: Path, seconds: dict[str, float], progress: Progress
) -> tuple[np.ndarray, int]:
    """Write the features of the images and a sheet of the first ones; return the features and the NFE.

    Adds the seconds of sampling and of computing features to `seconds`.
    """
    done, nfe, shown = 0, 0, []
    with atomic_file(folder / FEATURES) as file:
        write_npy_header(file, (subject.count, extractor.dimensions))
        began = time.monotonic()
        for images, each in subject.batches:
            sampled, nfe = time.monotonic(), each
            file.write(extractor(images).numpy().tobytes())
            if done < SHOWN:
                shown.append(images[: SHOWN - done])
            done += len(images)
            progress("samples", done, subject.count)
            seconds["sampling"] += sampled - began
            began = time.monotonic()
            seconds["features"] += began - sampled
    save_png(folder / GRID, make_sheet(torch.cat(shown)))
    return np.lib.format.open_memmap(folder / FEATURES, mode="r"), nfe


def _describe_reference(reference: ImageSet, extractor: Extractor) -> dict[str, Any]:
    """Return what a record says about the features and the reference."""
    return {
        "features": {
            "extractor": extractor.name,
            "weights": extractor.weights,
            "resize": extractor.resize,
            "dimensions": extractor.dimensions,
        },
        "reference": {
            "source": reference.source,
            "fingerprint": reference.images.fingerprint,
            "part": reference.part,
            "size": list(reference.images.pixels.shape[1:3]),
            "images": len(reference.which),
            "sha256": reference.identity(extractor),
        },
    }


def _publish(folder: Path, subject: Subject, out: Path | None) -> Path:
    """Rename the finished folder to `out`, or to the next free number."""
    if out is not None:
        publish_folder(folder, out)
        return out
    return make_numbered_folder(subject.home, subject.stem, folder)


def _show(run: Path, found: Evaluation) -> None:
    """Add the numbers and the sheet of an evaluation to the TensorBoard events of its run."""
    values = {name: value for name in METRICS if (value := found.value(name)) is not None}
    with Image.open(found.folder / GRID) as sheet:
        show_in_tensorboard(run, found.record["sampling"]["step"], "evaluation", np.asarray(sheet), values)
