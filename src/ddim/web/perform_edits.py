"""Edit images as `ddim vary`, `interpolate`, `inpaint` and `invert` do; runs in the worker process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ddim.diffusion.grids import Grid
from ddim.errors import UserError
from ddim.files import write_atomic
from ddim.plots.pictures import save_film, to_uint8
from ddim.runs.codec import override
from ddim.runs.edit_folder import read_hole, read_images, save_edit
from ddim.runs.edit_images import (
    Edit,
    Inversion,
    inpaint_image,
    interpolate_images,
    interpolate_seeds,
    invert_images,
    vary_image,
    warn_of_noise,
)
from ddim.runs.edit_work import choose_edit_grid
from ddim.runs.pipeline import LoadedRun
from ddim.runs.sample_folder import FILM, RECORD
from ddim.web import tasks
from ddim.web.perform_samples import PIPELINES, archive, join_command, sample_command, sample_run
from ddim.web.worker_process import Monitor

SAMPLED = "sampled"
"""The folder of the samples that an edit starts from."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of an edit.

    Attributes:
        run: the loaded run.
        grid: the grid of the edit.
        folder: the folder of the task.
        files: the image files that the edit reads, in this folder.
        notes: sentences for the user.
        monitor: where the progress goes.
    """

    run: LoadedRun
    grid: Grid
    folder: Path
    files: Sequence[Path]
    notes: list[str]
    monitor: Monitor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of the run."""
        return self.run.model.shape.height, self.run.model.shape.width

    @property
    def names(self) -> list[str]:
        """The names of the files, as they stand in the command."""
        return [file.relative_to(self.folder).as_posix() for file in self.files]

    def read(self) -> Tensor:
        """Return the images (B, C, H, W) in [0, 1]."""
        return read_images(self.files, self.size, self.run.model.shape.channels, self.notes.append)

    def progress(self, _what: str, done: float, total: int) -> None:
        """Report network evaluations; see `ddim.runs.progress.Progress`."""
        self.monitor.preview(int(done), total)


def edit_run(task: tasks.EditTask, monitor: Monitor) -> dict[str, Any]:
    """Edit images with a run into the folder of the task, as the command of the same name does."""
    folder = Path(task.folder)
    try:
        return _edit(task, folder, monitor)
    except UserError as error:
        # The folder is temporary, and its path would not help the user.
        raise UserError(str(error).replace(f"{folder}/", "")) from None


def _edit(task: tasks.EditTask, folder: Path, monitor: Monitor) -> dict[str, Any]:
    unknown = [name for name in task.fields if name.split(".")[0] != "grid"]
    if unknown:
        raise UserError(f"{unknown[0]} cannot be changed for an edit; only grid can")
    pipeline = PIPELINES.open(task.run)
    between_seeds = task.kind == "interpolate" and bool(task.seeds)
    recipe = pipeline.recipe
    if not between_seeds and "grid" not in task.fields:
        recipe = pipeline.with_recipe(grid=choose_edit_grid(recipe)).recipe
    start = time.monotonic()
    files = [] if between_seeds else _write_inputs(task, folder, monitor)
    inputs = Inputs(pipeline, override(recipe, task.fields).grid, folder, files, [], monitor)
    edit, facts = _EDITS[task.kind](task, inputs)
    save_edit(edit, folder, task.kind, facts)
    film = None
    if task.kind == "interpolate":
        film = FILM
        save_film(folder / FILM, list(to_uint8(edit.images)))
    if isinstance(edit, Inversion):
        write_atomic(folder / "latents.safetensors", save({"latent": edit.latents.contiguous()}))
    notes = [note.replace(f"{folder}/", "") for note in inputs.notes]
    return {
        "images": _list_images(task, edit),
        "sheet": "strip.png",
        "film": film,
        "record": RECORD,
        "archive": archive(folder),
        "nfe": edit.calls,
        "seconds": round(time.monotonic() - start, 3),
        "command": edit_command(task, inputs.names),
        "python": edit_call(task, inputs.names, inputs.grid),
        "notes": notes,
    }


def _write_inputs(task: tasks.EditTask, folder: Path, monitor: Monitor) -> list[Path]:
    """Write the images that the edit starts from into the folder of the task, and return their paths.

    An image that is given by its seed is sampled, as `ddim sample` does. An upload is copied, so that the
    archive of the result contains it.
    """
    files = []
    for k, upload in enumerate(task.images):
        files.append(folder / f"upload-{k}")
        shutil.copyfile(upload, files[-1])
    if task.mask is not None:
        shutil.copyfile(task.mask, folder / "mask")
    if task.seeds:
        sample_run(_sampling(task, folder / SAMPLED), monitor)
        files += [folder / SAMPLED / f"{seed:05d}.png" for seed in task.seeds]
    return files


def _sampling(task: tasks.EditTask, folder: Path) -> tasks.SampleTask:
    """Return the task that samples the seeds which an edit starts from."""
    return tasks.SampleTask(task.run, str(folder), task.seeds)


def _vary(task: tasks.EditTask, inputs: Inputs) -> tuple[Edit, dict[str, Any]]:
    options = {"grid": inputs.grid, "progress": inputs.progress}
    edit = vary_image(inputs.run, inputs.read(), task.strength, _seeds(task), task.steps, **options)
    return edit, {"image": inputs.names[0]}


def _interpolate(task: tasks.EditTask, inputs: Inputs) -> tuple[Edit, dict[str, Any]]:
    options = {"grid": inputs.grid, "progress": inputs.progress}
    if task.seeds:
        edit = interpolate_seeds(inputs.run, task.seeds, task.n, task.steps, **options)
    else:
        edit = interpolate_images(inputs.run, inputs.read(), task.n, task.steps, **options)
    return edit, {"images": inputs.names}


def _inpaint(task: tasks.EditTask, inputs: Inputs) -> tuple[Edit, dict[str, Any]]:
    image, mask = inputs.files[0], inputs.folder / "mask"
    pixels, hole = inputs.read(), read_hole(mask, image, inputs.size, inputs.notes.append)
    options = {"grid": inputs.grid, "progress": inputs.progress}
    seeds = _seeds(task)
    edit = inpaint_image(inputs.run, pixels, hole, seeds, task.steps, resample=task.resample, **options)
    return edit, {"image": inputs.names[0], "mask": mask.name}


def _invert(task: tasks.EditTask, inputs: Inputs) -> tuple[Edit, dict[str, Any]]:
    options = {"grid": inputs.grid, "progress": inputs.progress}
    edit = invert_images(inputs.run, inputs.read(), task.steps, exact=task.exact, **options)
    if note := warn_of_noise(edit):
        inputs.notes.append(note)
    if edit.residual > 0:
        inputs.notes.append(f"some steps did not converge (change {edit.residual:.2g}): take more steps")
    return edit, {"images": inputs.names}


_EDITS: dict[str, Callable[[tasks.EditTask, Inputs], tuple[Edit, dict[str, Any]]]] = {
    "vary": _vary,
    "interpolate": _interpolate,
    "inpaint": _inpaint,
    "invert": _invert,
}


def _seeds(task: tasks.EditTask) -> range:
    return range(task.seed, task.seed + task.n)


def _list_images(task: tasks.EditTask, edit: Edit) -> list[dict[str, Any]]:
    """Return the images of the result. For an inversion, the inputs, resized to the run's size,
    come first.
    """
    rows = ["input", "restored"] if task.kind == "invert" else list(edit.rows)[-1:]
    names = [f"{row.replace(' ', '-')}-{k:02d}.png" for row in rows for k in range(len(edit.rows[row]))]
    if task.kind in ("vary", "inpaint"):
        return [{"name": name, "seed": seed} for name, seed in zip(names, _seeds(task), strict=True)]
    return [{"name": name} for name in names]


def edit_command(task: tasks.EditTask, names: Sequence[str]) -> str:
    """Return the command that writes the same images. If the edit starts from samples, the command that
    samples them comes first.
    """
    words: list[object] = ["ddim", task.kind, task.run, *names]
    if task.kind == "interpolate" and task.seeds:
        words += ["--seeds", ",".join(map(str, task.seeds))]
    if task.kind == "interpolate":
        words += ["--frames", task.n]
    if task.mask is not None:
        words += ["--mask", "mask", "--resample", task.resample]
    if task.kind == "vary":
        words += ["--strength", task.strength]
    if task.kind in ("vary", "inpaint"):
        words += ["-n", task.n, "--seed", task.seed]
    words += ["--steps", task.steps, *(["--exact"] if task.exact else [])]
    for name, value in task.fields.items():
        words += [f"--{name}", value]
    first = f"{sample_command(_sampling(task, Path()))} --out {SAMPLED}\n" if names and task.seeds else ""
    return first + join_command(words)


def edit_call(task: tasks.EditTask, names: Sequence[str], grid: Grid) -> str:
    """Return Python code that makes the same images from the same files."""
    parts: list[str] = [repr(task.run)]
    if task.kind == "interpolate":
        parts += [f"seeds={list(task.seeds)!r}"] if task.seeds else [repr(list(names))]
        parts += [f"frames={task.n}"]
    elif task.kind == "invert":
        parts += [repr(list(names)), *(["exact=True"] if task.exact else [])]
    else:
        parts += [repr(names[0]), *([repr("mask")] if task.mask else [f"strength={task.strength!r}"])]
        parts += [f"seeds=range({task.seed}, {task.seed + task.n})"]
        parts += [f"resample={task.resample}"] if task.mask else []
    parts += [f"steps={task.steps}", *([f"grid=ddim.grids.{grid!r}"] if task.fields else [])]
    call = f"import ddim\nedit = ddim.{task.kind}({', '.join(parts)})"
    if not (names and task.seeds):
        return call
    return f"# after: {sample_command(_sampling(task, Path()))} --out {SAMPLED}\n{call}"
