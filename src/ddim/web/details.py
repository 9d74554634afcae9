"""Describe one run for its page: checkpoints, pictures, evaluations, curves, log, and what can guide it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.errors import UserError
from ddim.evaluation.record import RECORD, list_results, name_recorded_guidance
from ddim.experiments.index import Run
from ddim.files import read_sealed
from ddim.recipe.codec import dump
from ddim.recipe.help import explain_fields
from ddim.recipe.named import find_recipe
from ddim.recipe.options import ERRORS, flatten_as_text, labels_by_default
from ddim.runs.folder import REAL_IMAGES, list_checkpoints, list_sheets
from ddim.runs.log import PAUSE, read_metrics
from ddim.web.answers import Refused
from ddim.web.runs import Interval, ListedRun, Row, RunList, api_address, list_intervals

POINTS = 2000
"""The largest number of points of a curve; longer curves are thinned."""
LINES, VALIDATIONS, GUIDES = 200, 50, 50
"""The largest numbers of lines of the log, of validations by noise level, and of guides that are shown."""
LONGEST = 60.0
"""Seconds between two lines of a log that are never taken for a pause of the training."""
PAIRS = "pairs.png"
"""The picture of a memorisation test: the samples that are closest to training images."""
GUIDE = "@guide"
"""The id of the early weights of a run as its guide, as in `--guide-with @guide`."""


@dataclass(frozen=True)
class Field:
    """A field of a recipe.

    Attributes:
        field: the path of the field, such as "optim.lr".
        value: the value of the field in this recipe, as text.
        named: the value of the field in the built-in recipe of the same name, or None.
        help: a sentence about the field, or "".
    """

    field: str
    value: str
    named: str | None = None
    help: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of a run with its address: a sheet after a number of training images, or a film."""

    name: str
    images: int
    url: str


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run; `comparable` marks the one that the list of runs shows."""

    name: str
    when: str
    conditions: str
    nfe: int | None
    metrics: dict[str, Interval]
    comparable: bool


@dataclass(frozen=True)
class Details(Row):
    """Everything that the page of one run shows, in addition to its row.

    Attributes:
        fields: the fields of its recipe.
        checkpoints: the name of each checkpoint, its training step, and the images seen until then.
        sheets: its sheets of samples.
        films: its films.
        real_sheet: the address of its sheet of real images.
        evaluations: its evaluations.
        memorisation: the verdict of its newest memorisation test.
        pairs_url: the address of the picture of this test.
        class_names: the names of its classes.
        vector: see `list_columns`.
        draws_labels: whether samples have a class or a vector of the training if none is given.
        unlabelled: whether it can be sampled without a class or vector.
        guides: texts about the weaker models that can guide it, keyed by `GUIDE` or the id of a run.
        samplers: the names of all samplers.
        grids: the names of all grids.
        sampler: the sampler of the recipe.
        grid: the grid of the recipe.
        steps: the sampling steps of the recipe.
        edits: the names of the edits that it can make.
        can_guide: whether a class or vector can guide its samples.
        can_change: whether this server can rename and delete it.
        doing: the names of the commands of the page that work on it.
        said: what the last of them has said of its progress.
    """

    fields: list[Field] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[Picture] = field(default_factory=list)
    films: list[Picture] = field(default_factory=list)
    real_sheet: str | None = None
    evaluations: list[Evaluated] = field(default_factory=list)
    memorisation: str | None = None
    pairs_url: str | None = None
    class_names: list[str] = field(default_factory=list)
    vector: list[dict[str, Any]] = field(default_factory=list)
    draws_labels: bool = False
    unlabelled: bool = True
    guides: dict[str, str] = field(default_factory=dict)
    samplers: list[str] = field(default_factory=list)
    grids: list[str] = field(default_factory=list)
    sampler: str | None = None
    grid: str | None = None
    steps: int | None = None
    edits: list[str] = field(default_factory=list)
    can_guide: bool = False
    can_change: bool = False
    doing: str = ""
    said: str = ""


def describe_details(known: ListedRun, others: Mapping[str, ListedRun]) -> dict[str, Any]:
    """Return the details that the files of a run have; `others` are all runs, keyed by id."""
    row, run = known.row, known.run
    if row.state == "damaged" or not run.recipe:
        return {}
    recipe, data, batch = run.recipe, run.recipe["data"], int(run.recipe["optim"]["batch"])
    pictures = {name: api_address("runs", row.id, "pictures", name) for name in list_pictures(run.path)}
    drawn, conditional = labels_by_default(data), bool(data.get("labels") or data.get("vectors"))
    trained_without = not conditional or bool(data.get("unlabelled"))
    edits = ["vary", "inpaint"] * (drawn or trained_without) + ["interpolate", "invert"] * trained_without
    shown = known.shown if row.comparable else None
    evaluations = [
        Evaluated(one.name, one.record["time"], one.conditions, one.nfe, list_intervals(one), one is shown)
        for one in run.evaluations
    ]
    classes = recipe["net"].get("classes", 0)
    known_names = run.facts.get("data", {}).get("classes", [])  # an imported run has no images
    names = known_names if len(known_names) == classes else [*map(str, range(classes))]
    saved = list_checkpoints(run.path)
    return {
        "fields": explain_recipe(recipe),
        "checkpoints": [{"name": path.name, "step": k, "images": k * batch} for k, path in saved],
        "sheets": [Picture(f"step {k}", k * batch, pictures[path.name]) for k, path in list_sheets(run.path)],
        "films": [Picture(name, 0, url) for name, url in pictures.items() if name.endswith(".webp")],
        "real_sheet": pictures.get(Path(REAL_IMAGES).name),
        "evaluations": evaluations,
        "memorisation": describe_memorisation(run.path),
        "pairs_url": pictures.get(PAIRS),
        "class_names": names,
        "vector": list_columns(run.facts),
        "draws_labels": drawn,
        "unlabelled": drawn or trained_without,
        "guides": list_guides(known, others),
        "samplers": [*SAMPLERS],
        "grids": [name for name in GRIDS if name not in ("spaced", "sections", "listed")],
        "sampler": recipe["sampler"]["kind"],
        "grid": recipe["grid"]["kind"],
        "steps": recipe["steps"],
        "edits": [] if recipe["objective"]["kind"] == "consistency" else edits,
        "can_guide": conditional and trained_without,
    }


def list_pictures(run: Path) -> dict[str, Path]:
    """Return the pictures of a run, keyed by the names of their files.

    These are sheets, films, real images, and the pairs of the newest memorisation test.
    """
    tests = list_results(run, "memorisation")[-1:]
    files = [path for folder in (run / "samples", *tests) for path in sorted(folder.glob("*"))]
    return {path.name: path for path in files if re.fullmatch(r"[\w.-]+\.(png|webp)", path.name)}


def list_columns(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the name of each number of the vectors of a run, and its range among the training images.

    Args:
        facts: the content of the run.json.
    """
    vectors = (facts.get("data") or {}).get("vectors") or {"columns": [], "low": [], "high": []}
    columns = zip(*map(vectors.get, ("columns", "low", "high")), strict=True)
    return [{"name": name, "low": low, "high": high} for name, low, high in columns]


def describe_memorisation(run: Path) -> str | None:
    """Return the verdict of the newest memorisation test of a run, or None if the run has no test."""
    for newest in list_results(run, "memorisation")[-1:]:
        try:
            record = read_sealed(newest / RECORD)
        except UserError:
            return f"the record of memorisation test {newest.name} is damaged"
        guidance = name_recorded_guidance(record["sampling"])
        samples = f" Samples: {guidance}." if guidance else ""
        tested = f"the {record['weights']} weights at step {record['step']:,}"
        return f"{record['verdict']}.{samples} Tested: {tested}."
    return None


def explain_recipe(recipe: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a recipe; without help if it cannot be loaded, as with components of the user."""
    try:
        named, texts = _explain_named(str(recipe.get("name")), *map(int, recipe["data"]["size"]))
    except UserError:
        named, texts = {}, {}
    values = flatten_as_text(recipe).items()
    return [Field(path, value, named.get(path), texts.get(path, "")) for path, value in values]


@lru_cache(64)
def _explain_named(name: str, height: int, width: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields of a built-in recipe as text, and a sentence about each."""
    recipe = find_recipe(name, (height, width))
    return flatten_as_text(dump(recipe)), {path: text for path, _, _, text in explain_fields(recipe)}


# Curves


def read_curves(run: Path) -> dict[str, Any]:
    """Return the curves of a training, of at most `POINTS` points, and "lines", the last lines of its log.

    The lists "seconds" and "loss", and those in "errors" and "more", have an entry for each of "images"; None
    means no value. "seconds" leaves out the pauses of the training. "noise" has the errors of the latest
    validations, after "noise_images", keyed by log-SNR.
    """
    log = read_metrics(run)
    seconds = list_seconds([line["time"] for line in log])
    lines = [{**line, "seconds": each} for line, each in zip(log, seconds, strict=True)]
    judged = [line for line in lines if any(line.get(name) is not None for name in ERRORS)]
    measured = [line for line in lines if line.get("kid") is not None]
    kept, late = _thin(lines, judged), judged[-VALIDATIONS:]

    def column(name: str, of: Sequence[Mapping[str, Any]] = kept) -> list[Any]:
        return [line.get(name) for line in of]

    steps = [(b["images"] - a["images"], b["seconds"] - a["seconds"]) for a, b in pairwise(kept)]
    rates = [images / seconds if images > 0 < seconds else None for images, seconds in steps]
    levels = [name for name in (late[-1] if late else {}) if name.startswith("noise_mae/log_snr_")]
    more = {name: column(name) for name in ("lr", "gradient_norm")}
    return {
        **{name: column(name) for name in ("images", "seconds", "loss")},
        "errors": {name: column(name) for name in ERRORS},
        "more": {**more, "images_per_second": [None, *rates][: len(kept)]},
        "noise_images": column("images", late),
        "noise": {name.removeprefix("noise_mae/log_snr_"): column(name, late) for name in levels},
        "kid_images": column("images", measured),
        "kid": [Interval(*map(line.get, ("kid", "kid_low", "kid_high"))) for line in measured],
        "lines": log[-LINES:],
    }


def list_seconds(times: Sequence[float]) -> list[float]:
    """Return the seconds of training until each time, without the pauses between a stop and a resume."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    longest = max(LONGEST, PAUSE * median(gaps or [0]))
    return [*accumulate((gap if gap <= longest else 0.0 for gap in gaps), initial=0.0)][: len(times)]


def _thin(lines: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return at most `POINTS` lines, evenly spread; half of them are validations if there are so many."""
    parts = [part[:: math.ceil(2 * len(part) / POINTS) or 1] for part in (lines, judged)]
    wanted = {id(line) for part in parts for line in part}
    return [line for line in lines if id(line) in wanted or len(lines) <= POINTS]


# Guides


def list_guides(known: ListedRun, others: Mapping[str, ListedRun]) -> dict[str, str]:
    """Return texts about the models that can guide a run, keyed by `GUIDE` or the id of a run.

    These are its own early weights, then the newest runs that fit.
    """
    # An imported run has the recipe of a training, but no images and no early weights.
    early = known.run.recipe["report"]["guide"] and "data" in known.run.facts
    own = {GUIDE: "its early weights"} if early else {}
    newest = sorted(others.values(), key=lambda other: other.row.changed or 0, reverse=True)
    fitting = [other for other in newest if other is not known and can_guide(known.run, other.run)]
    saved = [other.row for other in fitting if list_checkpoints(other.run.path)]
    return own | {row.id: f"run {row.name}" for row in saved[:GUIDES]}


def find_guide(given: str, known: ListedRun, runs: RunList) -> str:
    """Return a guide, given by its id, as `ddim sample --guide-with` takes it.

    Raises:
        Refused: if this guide cannot guide the run.
    """
    others = runs.read()
    if given not in list_guides(known, others):
        raise Refused(422, f"guide_with must be one of the guides in the details of the run, got {given!r}")
    return given if given == GUIDE else str(others[given].run.path)


def can_guide(run: Run, other: Run) -> bool:
    """Return whether `other` can guide `run`, as far as their run.json files tell.

    Both runs must have the same images, split in the same way, because the map from pixels to model units is
    measured on the training images.
    """
    # Runs that wait have no run.json yet, and that of a damaged run can hold anything.
    if other.state == "damaged" or not other.facts or other.recipe["objective"]["kind"] == "consistency":
        return False
    (images, condition), (others, condition_of_other) = _list_traits(run), _list_traits(other)
    free = not any(condition) and other.recipe["data"].get("unlabelled")
    return images == others and (not any(condition_of_other) or free or condition == condition_of_other)


def _list_traits(run: Run) -> tuple[list[Any], list[Any]]:
    """Return what decides the training images of a run, and the classes or vectors of its network."""
    data, images = run.recipe["data"], run.facts.get("data") or {}
    # The fingerprint includes the channels, the type and the classes of the images.
    names = ("size", "validation", "dequantise", "range")
    seed = run.recipe.get("seed") if data.get("split_seed") is None else data["split_seed"]
    condition = [data.get("labels"), (images.get("vectors") or {}).get("sha256")]
    return [*map(data.get, names), images.get("fingerprint"), run.recipe.get("pixels"), seed], condition
