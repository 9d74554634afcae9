"""Write a folder of samples: a PNG for each seed, a sheet, a film, and a record of all sampling options."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddim.diffusion.noise import check_seeds
from ddim.errors import UserError
from ddim.files import read_json, write_json
from ddim.plots.pictures import make_sheet, save_film, save_png, to_uint8
from ddim.runs.classes import Label
from ddim.runs.folder import make_output_folder
from ddim.runs.generate import Film, generate, split_into_parts
from ddim.runs.pipeline import LoadedRun
from ddim.runs.provenance import make_record, sampling_record
from ddim.runs.recipe_checks import check_label

RECORD = "record.json"
SHOWN = 256
"""The largest number of samples in the sheet and in the film."""

_CONDITIONS = (
    "checkpoint",
    "weights",
    "sampler",
    "schedule",
    "clip",
    "times",
    "label",
    "guidance",
    "runtime",
    "versions",
)
"""Entries of a record on which samples depend, in addition to their seeds."""


@dataclass(frozen=True)
class Written:
    """The result of `write_samples`: folder, sheet (H, W, 3) uint8, seconds of sampling, NFE."""

    folder: Path
    sheet: np.ndarray
    seconds: float
    nfe: int


def write_samples(
    pipeline: LoadedRun,
    seeds: Sequence[int],
    steps: int = 20,
    *,
    out: str | Path | None = None,
    label: Label = None,
    guidance: float = 1.0,
    film: bool = False,
) -> Written:
    """Sample images into a folder, with a sheet, a record and on request a film.

    Samples are added to a folder that holds samples of the same run with the same options. If a call was
    stopped, the same call finishes it. Each image is written at once, so memory does not grow with the
    number of seeds.

    Args:
        pipeline: the run to sample.
        seeds: the seeds; image k depends on seeds[k] alone.
        steps: sampling steps.
        out: the folder, by default a new folder samples/RUN-N.
        label: class index, "all" to cycle through the classes, None for no class.
        guidance: classifier-free guidance scale; 1 turns it off.
        film: whether to write film.webp, the states of the sampler from noise to samples.

    Raises:
        UserError: if a seed, the label or the guidance scale cannot be used, or `out` holds other files.
    """
    check_seeds(seeds)
    check_label(pipeline.recipe, label, guidance)
    record = make_record("samples", sampling_record(pipeline, seeds, steps, 0, label, guidance), pipeline)
    folder, before = _open_folder(None if out is None else Path(out), record)
    if not (folder / RECORD).is_file():
        # The record marks the folder as one of samples, so that the same call can finish it later.
        write_json(folder / RECORD, {**record, "seeds": [], "seconds": 0.0})
    frames, shown, seconds, nfe = Film(pipeline.pixels, seeds[:SHOWN]), [], 0.0, 0
    for part in split_into_parts(pipeline, seeds):
        start = time.monotonic()
        images, nfe = generate(
            pipeline, part, steps, label=label, guidance=guidance, watch=frames.add if film else None
        )
        seconds += time.monotonic() - start
        for seed, pixels in zip(part, to_uint8(images), strict=True):
            save_png(folder / f"{seed:05d}.png", pixels)
        shown += images[: SHOWN - len(shown)]
    sheet = make_sheet(torch.stack(shown))
    save_png(folder / "grid.png", sheet)
    if film:
        save_film(folder / "film.webp", frames.frames())
    end = {"nfe": nfe, "seeds": sorted({*before, *seeds}), "seconds": round(seconds, 2)}
    write_json(folder / RECORD, {**record, **end})
    return Written(folder, sheet, seconds, nfe)


def _open_folder(out: Path | None, record: dict[str, Any]) -> tuple[Path, list[int]]:
    """Create or check the output folder; return it and the seeds of the samples that it holds already."""
    before = []
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, got the file {out}")
    if out and out.is_dir() and any(out.iterdir()):
        if not (out / RECORD).is_file():
            raise UserError(f"--out {out} holds files that are not samples; give a new folder")
        there = read_json(out / RECORD)
        if not isinstance(there, dict) or any(there.get(name) != record[name] for name in _CONDITIONS):
            raise UserError(
                f"--out {out} holds samples of another run or with other options; give a new folder"
            )
        before = there["seeds"]
    # The folder is named after the run, also for RUN/best and for RUN/checkpoints/N.
    path = Path(record["checkpoint"]["path"]).resolve()
    named = path.parent.parent if path.parent.name == "checkpoints" else path
    return make_output_folder(out, "samples", named.name), before
