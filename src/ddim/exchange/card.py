"""Write the model card of an exported run: its data, recipe, metrics, samples and memorisation test."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from ddim.data.open import NAMES
from ddim.diffusion.loss import Consistency
from ddim.evaluation.record import GRID, RECORD, list_results, name_guide, read_evaluation
from ddim.files import read_sealed, write_atomic
from ddim.plots.table import format_cell
from ddim.recipe.codec import dump
from ddim.recipe.options import flatten_as_text
from ddim.recipe.recipe import Recipe
from ddim.runs.folder import sheet_path
from ddim.runs.names import find_run_folder
from ddim.sampling.pipeline import LoadedCheckpoint, LoadedRun
from ddim.sampling.record import list_versions

CARD, SAMPLES = "README.md", "samples.png"
"""File names of the model card and of the sheet of samples beside it."""


def write_card(run: LoadedRun, folder: Path, use: Mapping[str, Any], earlier: str = "") -> None:
    """Write the model card of a run as Markdown into a folder, and a sheet of samples if the run has one.

    All texts from files, such as the names of images and classes, are escaped. Folders are left out, because
    other people may read the card.

    Args:
        run: the exported run.
        folder: the folder.
        use: the variables of the part "Use" of the template, such as `format`.
        earlier: an earlier card. What its metadata says counts more, such as the licence.

    Raises:
        UserError: if the record of an evaluation or of a memorisation test cannot be read. Otherwise
            the card would say that nothing was measured.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    at, home = run.checkpoint, find_run_folder(run.checkpoint.run).resolve()
    evaluations = [read_evaluation(path) for path in list_results(home)]
    evaluations = [each for each in evaluations if _measures(each.record.get("sampling") or {}, at)]
    tests = [read_sealed(path / RECORD) for path in list_results(home, "memorisation")]
    # The sheet of the newest evaluation, or else that of the training.
    sheets = {each.folder / GRID: f"The first samples of {each.name}." for each in reversed(evaluations)}
    if at.weights == "ema":
        sheets[sheet_path(home, at.state.step)] = f"Samples after training step {at.state.step:,}."
    sheet = next(filter(Path.is_file, sheets), None)
    if sheet:
        write_atomic(folder / SAMPLES, sheet.read_bytes())
    options = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=PackageLoader("ddim.exchange"), undefined=StrictUndefined, **options)
    environment.filters |= {"text": _escape, "cell": format_cell}
    card = environment.get_template("card.md").render(
        **use,
        run=replace(run, recipe=hide_folders(run.recipe)),
        name=home.name,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        evaluations=evaluations,
        tests=[test["verdict"] for test in tests if _measures(test, at)],
        caption=sheet and sheets[sheet],
        recipe=flatten_as_text(dump(hide_folders(run.recipe))),
        versions=list_versions(),
    )
    head, text = _split_card(card)
    kept, _ = _split_card(earlier)
    kept.pop("model-index", None)
    lines = yaml.safe_dump(head | kept, sort_keys=False)
    write_atomic(folder / CARD, f"---\n{lines}---\n{text}".encode())


def _measures(record: Mapping[str, Any], at: LoadedCheckpoint) -> bool:
    """Return whether the record of samples names the weights of a loaded checkpoint."""
    facts = [(record.get(name) or {}).get("sha256") for name in ("checkpoint", "average")]
    return [*facts, record.get("weights")] == [at.sha256, at.average, at.weights]


def _split_card(card: str) -> tuple[dict[str, Any], str]:
    """Return the metadata at the top of a model card, and the rest of its text."""
    head = re.match(r"---\r?\n(.*?\n)---\r?\n", card, re.DOTALL)
    if head is None:
        return {}, card
    return yaml.safe_load(head[1]) or {}, card[head.end() :]


def hide_folders(recipe: Recipe) -> Recipe:
    """Return the recipe without the folders of its images, its vectors and its guide; only the names stay.

    The name of a guide that is a checkpoint, such as "small-1/best", includes that of its run.
    """
    data, loss = recipe.data, recipe.objective
    kind, _, rest = data.source.partition(":")
    # "blossoms:200" is a name with a number; "pets:/path" is a name with a folder.
    named = kind if re.search(r"[/\\]", rest) and kind in NAMES else data.source
    source = named if kind in (*NAMES, "hub") else _name_file(data.source)
    vectors = None if data.vectors is None else _name_file(data.vectors)
    if isinstance(loss, Consistency):
        loss = replace(loss, guide=loss.guide and name_guide(loss.guide), teacher=None)
    return replace(recipe, data=replace(data, source=source, vectors=vectors), objective=loss)


def _name_file(path: str) -> str:
    """Return the last part of a path without the leading "." or "~" of a hidden folder or a home."""
    # The path may be from Windows, where both / and \ separate folders.
    return PureWindowsPath(path).name.lstrip(".~") or "images"


def _escape(text: str) -> str:
    """Return a text on one line, with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&$])", r"\\\1", " ".join(str(text).split()))
