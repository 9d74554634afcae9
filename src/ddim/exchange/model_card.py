"""Write the model card of an exported run: its data, recipe, metrics, samples and memorisation test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim.errors import UserError, format_count
from ddim.evaluation.record import GRID, Evaluation, WeightsIdentity, list_evaluations, read_evaluation
from ddim.exchange.publishing import hide_folders
from ddim.experiments.measurements import Measurements, read_measurements
from ddim.plots.table import format_cell
from ddim.recipe.codec import dump
from ddim.recipe.options import flatten_as_text
from ddim.runs.folder import sheet_path
from ddim.runs.names import find_run_folder
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.record import list_versions

CARD, SAMPLES = "README.md", "samples.png"
"""File names of the model card and of the sheet of samples beside it."""

LICENCE = (
    "None was chosen. Whoever publishes this model chooses its licence, and checks that the licences of the "
    "training images allow it."
)


def make_card(
    run: LoadedRun, about: Sequence[str], programs: Sequence[tuple[str, str]]
) -> tuple[str, dict[str, bytes]]:
    """Return the model card as Markdown, and the content of its PNG files, keyed by file name.

    All texts from files, such as the names of images and classes, are escaped. Folders are left out, because
    other people may read the card.

    Args:
        run: the exported run.
        about: sentences about the format.
        programs: pairs (language, program) that use the exported run.

    Raises:
        UserError: if the record of an evaluation or of a memorisation test cannot be read. Otherwise
            the card would say that nothing was measured.
    """
    folder = find_run_folder(run.checkpoint.run)
    own = run.checkpoint.sha256, run.checkpoint.weights, run.checkpoint.average
    evaluations = _find_own_evaluations(own, folder)
    measured = read_measurements(folder, own)
    for path in measured.damaged.get("memorisation", ()):
        raise UserError(f"{path} cannot be read: put back a copy, or remove its folder")
    picture = _find_picture(run, folder, evaluations)
    numbers, notes = _list_numbers(evaluations)
    values = {
        "name": folder.resolve().name,
        "summary": _summarise(run),
        "about": about,
        "programs": programs,
        "images": _describe_images(run),
        "numbers": numbers,
        "evaluations": notes,
        "memorisation": _describe_memorisation(own, measured),
        "picture": SAMPLES,
        "caption": picture and picture[1],
        "recipe": flatten_as_text(dump(hide_folders(run.recipe))).items(),
        "origin": _list_origin(run).items(),
        "licence": LICENCE,
    }
    return _render(values), {SAMPLES: picture[0]} if picture else {}


def _render(values: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader, options = PackageLoader("ddim.experiments"), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, **options)
    environment.filters |= {"text": _escape, "fence": _fence}
    return environment.get_template("card.md").render(**values)


def _escape(text: str) -> str:
    """Return a text on one line, with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", " ".join(text.split()))


def _fence(program: str, language: str) -> str:
    """Return a program between fences that are longer than any row of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", program)), default=0))
    return f"{fence}{language}\n{program.strip()}\n{fence}"


def _find_own_evaluations(own: WeightsIdentity, folder: Path) -> list[Evaluation]:
    """Return the evaluations in a run folder that measured these weights.

    Raises:
        UserError: if the record of an evaluation is damaged.
    """
    found = [read_evaluation(path) for path in list_evaluations(folder)]
    return [each for each in found if each.sampling and each.sampling.weights_identity == own]


def _describe_memorisation(own: WeightsIdentity, measured: Measurements) -> str:
    """Return the verdict of the newest memorisation test of these weights, or that there is none."""
    tested = measured.tested
    if not measured.verdict:
        return "Not measured. The command ddim memorisation measures it."
    if tested is None:
        return f"{measured.verdict} The record of this test does not say which weights it tested."
    if tested.identity == own:
        return measured.verdict
    return (
        f"These weights were not tested. The newest test was of the {tested.weights} weights at step "
        f"{tested.step:,}. The command ddim memorisation tests them."
    )


def _summarise(run: LoadedRun) -> str:
    shape = run.model.shape
    kind = {1: "gray", 3: "RGB", 4: "RGBA"}.get(shape.channels, f"{shape.channels}-channel")
    count = sum(parameter.numel() for parameter in run.model.parameters())
    classes = f" It is conditioned on {run.model.classes:,} classes." if run.model.classes else ""
    return (
        f"A diffusion model of {kind} images of {shape.height} x {shape.width} pixels, with {count:,} "
        f"parameters, recipe {run.recipe.name}.{classes}"
    )


def _describe_images(run: LoadedRun) -> str:
    state, source = run.checkpoint.state, hide_folders(run.recipe).data.source
    if state.images is None:
        return "The run was imported, and its training images are not known."
    seen = state.step * run.recipe.optim.batch
    repeated = ", with repetitions" if seen > state.images.train else ""
    named = run.classes if run.model.classes <= 200 else ()
    names = f" Classes: {', '.join(named)}." if run.model.classes and named else ""
    return (
        f"{format_count(state.images.train, 'training image')} of {source}. The run saw {seen:,} "
        f"images{repeated}. SHA-256 of all images: {state.images.fingerprint}.{names}"
    )


def _list_numbers(evaluations: Sequence[Evaluation]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the rows of the table of metrics, and one sentence about each evaluation."""
    rows, notes = [], []
    for number, evaluation in enumerate(evaluations, 1):
        for entry in evaluation.to_records():
            low, high = entry["low"], entry["high"]
            interval = "" if low is None or high is None else f"{format_cell(low)} to {format_cell(high)}"
            rows.append((f"{number}", entry["metric"], format_cell(entry["value"]), interval))
        features, generated = evaluation.features, evaluation.generated
        seeds = evaluation.sampling.seeds if evaluation.sampling else ()
        notes.append(
            f"Evaluation {number}: {format_count(generated.images, 'sample')} of {evaluation.name}, seeds "
            f"{seeds[0]} to {seeds[-1]}, compared with {evaluation.reference.name}; features "
            f"{features.extractor} (weights {features.weights[:12]}, {features.resize}); record of "
            f"{evaluation.time}, SHA-256 of the samples {generated.sha256[:12]}."
        )
    return rows, notes


def _find_picture(
    run: LoadedRun, folder: Path, evaluations: Sequence[Evaluation]
) -> tuple[bytes, str] | None:
    """Return a PNG file with samples of the run's weights, and its caption; None if there are no samples."""
    for evaluation in reversed(evaluations):
        if (sheet := evaluation.folder / GRID).is_file():
            return sheet.read_bytes(), f"The first samples of {evaluation.name}."
    step = run.checkpoint.state.step
    sheet = sheet_path(folder, step)
    if run.checkpoint.weights == "ema" and sheet.is_file():
        caption = f"Samples after training step {step:,}, {run.recipe.steps} sampling steps."
        return sheet.read_bytes(), caption
    return None


def _list_origin(run: LoadedRun) -> dict[str, str]:
    found = run.checkpoint
    return {
        "weights": found.weights,
        "training step": f"{found.state.step:,}",
        "SHA-256 of the checkpoint": found.sha256,
        **({"SHA-256 of the average": found.average} if found.average else {}),
        **{name: str(version) for name, version in list_versions().items() if name in ("ddim", "torch")},
    }
