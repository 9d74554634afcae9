"""Export a run: write its network in a format that other programs read, with a model card beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError, suggest
from ddim.exchange.card import CARD, hide_folders, write_card
from ddim.exchange.diffusers import export_to_diffusers, find_lacking
from ddim.exchange.onnx import SAMPLING, export_to_onnx
from ddim.files import publish_folder, read_sealed, temporary_folder, temporary_name, write_sealed
from ddim.recipe.codec import describe_kind, dump
from ddim.runs.folder import check_unused
from ddim.runs.names import find_run_folder
from ddim.sampling.labels import choose_label, default_label
from ddim.sampling.pipeline import LoadedCheckpoint, LoadedRun, load
from ddim.sampling.sampling_setup import find_searched_grid, find_searched_guidance

FORMATS = {"diffusers": "a pipeline of diffusers", "onnx": "an ONNX program"}
"""The formats, and what a folder of each holds."""

RECORD = "export.json"
"""The name of the file that marks a folder as the export of a run."""


@dataclass(frozen=True)
class Exported:
    """The result of `export`.

    Attributes:
        verdict: the folder and its format, and why, in one line.
        folder: the folder that was written.
        format: "diffusers" or "onnx".
        notes: sentences about what the format cannot hold, and how its samples differ from those of the run.
    """

    verdict: str
    folder: Path
    format: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        use = f"next: {self.folder / CARD} has a program that samples with it"
        return "\n".join([self.verdict, *(f"note: {note}" for note in self.notes), use])

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return vars(self)


def export(
    run: str | Path,
    to: Literal["diffusers", "onnx"] | None = None,
    out: str | Path | None = None,
    *,
    weights: str = "ema",
    steps: int | None = None,
    own: Sequence[Any] = (),
) -> Exported:
    """Write a run for other programs: as a pipeline of diffusers or as ONNX.

    diffusers can hold runs with the U-Net of DDPM; ONNX any network without vectors. The folder has a model
    card, README.md, with the images, recipe, numbers and samples of the run, and a program that samples. An
    ONNX file is compared with the network before it is kept, and sampling.json says how to sample with it.

    The folder appears only when it is complete. It replaces an earlier export of the same run, of which it
    keeps the metadata at the top of README.md, such as the licence.

    Args:
        run: a run folder, RUN/best, a checkpoint folder, or hub:OWNER/NAME.
        to: the format; by default diffusers if it can hold the run, else onnx.
        out: a new or empty folder, or an earlier export of this run; by default exports/RUN-FORMAT.
        weights: "ema", "raw", or the name of another average.
        steps: number of sampling steps in sampling.json and in the card, by default that of the recipe.
        own: the components of the run that you wrote, as for `ddim.load`.

    Returns:
        The folder, its format, and notes about how its samples differ from those of the run.

    Raises:
        UserError: if the format cannot hold the run, the outputs of an ONNX file differ from those of the
            network, a package is missing, or the folder holds other files.

    Example:
        >>> ddim.export("runs/photos-fast-1", "onnx", steps=10)

    Commands:
        ddim export runs/photos-fast-1
        ddim export runs/photos-fast-1 --to onnx --steps 10
    """
    loaded = load(run, weights, own=own, device="cpu")
    lacking = find_lacking(loaded)
    reason = f", because diffusers cannot hold its {lacking}" if lacking and not to else ""
    to = to or ("onnx" if lacking else "diffusers")
    if to not in FORMATS:
        raise UserError(f"to must be diffusers or onnx, got {to!r}{suggest(to, FORMATS)}")
    if to == "diffusers" and lacking:
        raise UserError(f"diffusers cannot hold {lacking} of this run: export it to onnx")
    name = find_run_folder(loaded.checkpoint.run).resolve().name
    out = Path(out or f"exports/{name}-{to}")
    with replace_export(out, name, loaded.checkpoint) as folder:
        use: dict[str, Any] = {"format": to, "notes": (), "steps": loaded.recipe.choose_steps(steps)}
        if to == "diffusers":
            use |= export_to_diffusers(loaded, folder)._asdict()
        else:
            export_to_onnx(loaded, folder, steps)
        use["notes"] = notes = (*use["notes"], *describe_differences(loaded, to, steps))
        earlier = (out / CARD).read_text() if (out / CARD).is_file() else ""
        write_card(loaded, folder, use, earlier)
    return Exported(f"{out} holds the model as {FORMATS[to]}{reason}.", out, to, notes)


@contextmanager
def replace_export(out: Path, name: str, at: LoadedCheckpoint) -> Generator[Path]:
    """Yield a folder for the block to fill, which becomes `out` in place of an earlier export of the run.

    Args:
        out: a new or empty folder, or an earlier export of this run.
        name: the name of the run.
        at: its checkpoint.

    Raises:
        UserError: if `out` holds files that are not an export of this run.
    """
    record = {"kind": "export", "run": name, "recipe": dump(hide_folders(at.recipe))}
    earlier = read_sealed(out / RECORD) if (out / RECORD).is_file() else {}
    names = {path.name for path in out.iterdir()} if earlier else set()
    if not (record.items() <= earlier.items() and names <= {RECORD, *earlier["files"]}):
        check_unused(out)
    with temporary_folder(out.resolve()) as folder:
        yield folder
        files = sorted(path.name for path in folder.iterdir())
        facts = {"checkpoint": at.sha256, "weights": at.weights, "files": files}
        write_sealed(folder / RECORD, record | facts)
        before = temporary_name(out.resolve())
        if out.exists():
            os.rename(out.resolve(), before)
        publish_folder(folder, out.resolve())
        shutil.rmtree(before, ignore_errors=True)


def describe_differences(run: LoadedRun, to: str, steps: int | None) -> list[str]:
    """Return sentences about how samples of an export differ from those of `ddim sample`.

    Args:
        run: the exported run.
        to: the format.
        steps: number of sampling steps; by default the number in the recipe.
    """
    recipe, values, notes = run.recipe, run.values, []
    sampler, steps, label = recipe.sampler, recipe.choose_steps(steps), default_label(recipe)
    name = f"for {steps} steps of {describe_kind(sampler)}"
    if to == "onnx" and sampler != DDIM():
        notes.append(f"{SAMPLING} has the steps of DDIM, and not those of {describe_kind(sampler)}")
    elif to == "diffusers" and label == "natural":
        notes.append("ddim sample draws the classes of samples as often as they occur in training")
    if (to == "diffusers" or sampler != DDIM()) and find_searched_grid(run, sampler, steps):
        notes.append(f"the times that ddim search found {name} are left out")
    # For class folders, guidance is searched for samples of all classes.
    if any(find_searched_guidance(run, each, steps) for each in (label, choose_label(recipe))):
        notes.append(f"the guidance that ddim search found {name} is left out")
    if not values.eight_bits:
        notes.append(f"in samples, [0, 1] stands for {values.low:g} to {values.high:g} ({values.type})")
    return notes
