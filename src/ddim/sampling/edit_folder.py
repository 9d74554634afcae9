"""Write the folder of an edit: a file for each image, strip.png with all images, and record.json.

Images are written without loss, see `sample_files`. An interpolation also gets film.webp. An inversion
also gets latents.safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from safetensors.torch import save

from ddim.errors import UserError
from ddim.files import write_atomic, write_sealed
from ddim.plots.charts import plot_strip, save_figure
from ddim.plots.pictures import check_zoom, save_film, to_uint8
from ddim.runs.folder import make_output_folder
from ddim.sampling.edit_images import Edit, Inversion
from ddim.sampling.edit_work import EditOptions, Source
from ddim.sampling.file_edits import FileEdit, Interpolation, describe_inaccuracy
from ddim.sampling.pipeline import open_pipeline
from ddim.sampling.provenance import describe_times, make_record
from ddim.sampling.sample_files import sample_suffix, to_pixels, write_image

RECORD, STRIP, FILM, LATENTS = "record.json", "strip.png", "film.webp", "latents.safetensors"


@dataclass(frozen=True)
class WrittenEdit:
    """The result of `write_edit`.

    Attributes:
        folder: the folder of the edit.
        edit: the edit, with its images in memory.
        files: the files of the images, keyed by row name, such as "input"; the last row is the result.
    """

    folder: Path
    edit: Edit
    files: dict[str, list[Path]]


@dataclass(frozen=True)
class EditOutput:
    """Options of the files that `write_edit` writes.

    Attributes:
        folder: the output folder, by default a new folder edits/COMMAND-N.
        zoom: the integer factor by which the strip and the film are enlarged; see `plot_strip`.
        on_note: called with sentences on how files were resized and what makes an inversion less accurate.
    """

    folder: str | Path | None = None
    zoom: int | None = None
    on_note: Callable[[str], object] = lambda note: None

    def __post_init__(self) -> None:
        check_zoom(self.zoom)


def write_edit(
    model: Source,
    edit: FileEdit,
    steps: int = 50,
    *,
    output: EditOutput = EditOutput(),  # noqa: B008  (a frozen value)
    **options: Unpack[EditOptions],
) -> WrittenEdit:
    """Edit image files, and write a folder: a file for each image, a strip of all images, and a record.

    The folder is created after the edit, so an edit that is refused leaves no folder. The record names files
    in the folder by their paths relative to the folder, and other files by the given paths.

    Args:
        model: a run folder, a pipeline or a model.
        edit: `Variations`, `Interpolation`, `Inpainting` or `Latents`, see `ddim.sampling.file_edits`.
        steps: number of timesteps in the grid.
        output: the output folder, and other options of the files.
        options: grid, guidance and progress, see `EditOptions`.

    Raises:
        UserError: if a file or an option cannot be used, or the folder holds the record of another result.

    Example:
        >>> written = write_edit(run, Variations("rose.jpg", 0.6, seeds=range(4)))
        >>> written.folder, written.files["varied"]
    """
    if output.folder is not None and (Path(output.folder) / RECORD).exists():
        raise UserError(f"folder {output.folder} holds results already; give a new folder")
    pipeline, notes = open_pipeline(model), []
    # The notes on how files were resized come only after all files were read without an error.
    inputs = edit.read(pipeline, notes.append)
    _tell(notes, output)
    made = edit.edit(pipeline, inputs, steps, **options)
    _tell(describe_inaccuracy(made), output)
    given = None if output.folder is None else Path(output.folder)
    folder = make_output_folder(given, "edits", edit.command)
    files = _write_images(made, folder, output.zoom)
    if isinstance(edit, Interpolation):
        save_film(folder / FILM, list(to_uint8(made.images)), zoom=output.zoom)
    if isinstance(made, Inversion):
        write_atomic(folder / LATENTS, save({"latent": made.latents.contiguous()}))
    content = {
        "command": edit.command,
        **describe_times(made.pipeline, len(made.times)),
        "network_calls": made.calls,
        **made.facts,
        **edit.facts(lambda path: _name_file(Path(path), folder)),
    }
    write_sealed(folder / RECORD, make_record("edit", content, made.pipeline))
    return WrittenEdit(folder, made, files)


def _tell(notes: Sequence[str], output: EditOutput) -> None:
    for note in notes:
        output.on_note(note)


def _name_file(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _write_images(edit: Edit, folder: Path, zoom: int | None) -> dict[str, list[Path]]:
    """Write the images and the strip of an edit; return the files of the images, keyed by row."""
    values, files = edit.pipeline.values, {}
    for row, images in edit.rows.items():
        suffix = sample_suffix(values, images.shape[1])
        pixels = to_pixels(images, values)
        files[row] = [folder / f"{row.replace(' ', '-')}-{k:02d}{suffix}" for k in range(len(pixels))]
        for path, each in zip(files[row], pixels, strict=True):
            write_image(path, each)
    rows: dict[str, Any] = {row: list(to_uint8(images)) for row, images in edit.rows.items()}
    heads = [""] * max(map(len, rows.values()))
    notes = {list(rows)[-1]: edit.captions} if edit.captions else None
    save_figure(folder / STRIP, plot_strip(rows, heads, notes, zoom=zoom))
    return files
