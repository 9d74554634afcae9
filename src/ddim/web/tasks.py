"""The tasks that the server gives to its worker process, and the JSON messages that carry them.

The worker imports this module too, so it imports no package of the web server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, get_args


@dataclass(frozen=True)
class SampleTask:
    """Sample images of a run into a folder, as `ddim sample` does.

    Attributes:
        run: the run folder.
        folder: the output folder, which is new or empty.
        seeds: one seed for each image.
        steps: sampling steps, None for those of the recipe.
        fields: fields of the recipe that differ, as text keyed by path, such as {"sampler": "ddim"}.
        label: class name, class index, "all", "natural", "none" or None.
        vector: the numbers of the vector of all images, or None.
        guidance: guidance scale, or None.
        interval: the log-SNRs with guidance, or None.
        guide_with: the weaker model that guides, "@guide" or a run folder, or None.
        film: whether to write a film.
        previews: whether to send a preview of each step.
    """

    run: str
    folder: str
    seeds: list[int]
    steps: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    label: str | int | None = None
    vector: list[float] | None = None
    guidance: float | None = None
    interval: list[float | None] | None = None
    guide_with: str | None = None
    film: bool = False
    previews: bool = False


@dataclass(frozen=True)
class EditTask:
    """Edit images with a run into a folder, as `ddim vary`, `interpolate`, `inpaint` and `invert` do.

    Attributes:
        run: the run folder.
        folder: the output folder, which is new or empty.
        kind: "vary", "interpolate", "inpaint" or "invert".
        images: files of uploaded images.
        seeds: the seeds of the samples that are edited; [] if all images are uploads.
        mask: the file of the mask of "inpaint", or None.
        n: number of results of "vary" and "inpaint", number of frames of "interpolate".
        seed: the first seed of "vary" and "inpaint".
        steps: sampling steps.
        strength: the time up to which "vary" adds noise.
        resample: how often "inpaint" repeats each step.
        exact: whether "invert" solves each step exactly, by fixed-point iteration.
        fields: fields of the grid that differ, as text keyed by path.
        guidance: guidance scale, or None.
        interval: the log-SNRs with guidance, or None.
        guide_with: the weaker model that guides, "@guide" or a run folder, or None.
        previews: whether to send a preview of each step.
    """

    run: str
    folder: str
    kind: str
    images: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    mask: str | None = None
    n: int = 4
    seed: int = 0
    steps: int = 50
    strength: float = 0.5
    resample: int = 5
    exact: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    guidance: float | None = None
    interval: list[float | None] | None = None
    guide_with: str | None = None
    previews: bool = False


@dataclass(frozen=True)
class UploadTask:
    """Decode an uploaded image, to find out whether it can be used."""

    file: str


@dataclass(frozen=True)
class DataTask:
    """Describe the images of a source, and write a sheet of them, as `ddim data` does."""

    source: str
    size: list[int]
    sheet: str


@dataclass(frozen=True)
class ReportTask:
    """Write a report on runs as an .html file."""

    folder: str
    out: str
    title: str


@dataclass(frozen=True)
class CompareTask:
    """Compare evaluations by a metric, the first with each other one; see `ddim.compare`."""

    records: list[str]
    metric: str


@dataclass(frozen=True)
class TrainingTask:
    """Check that a training can start with a recipe and fields (text keyed by path).

    The task does not wait in the queue.
    """

    recipe: str
    fields: dict[str, str]


@dataclass(frozen=True)
class RecipeTask:
    """Explain the fields of a recipe. The task does not wait in the queue."""

    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class ChoicesTask:
    """List the recipes, their fields, the samplers and the grids. The task does not wait in the queue."""


Task: TypeAlias = (
    SampleTask
    | EditTask
    | UploadTask
    | DataTask
    | ReportTask
    | CompareTask
    | TrainingTask
    | RecipeTask
    | ChoicesTask
)
TASKS: dict[str, type[Task]] = {kind.__name__: kind for kind in get_args(Task)}
QUICK = (TrainingTask, RecipeTask, ChoicesTask)
"""Tasks that the worker does immediately, even while it samples."""


@dataclass(frozen=True)
class Message:
    """A line from the server to the worker, or back.

    Attributes:
        number: the number of the task.
        kind: "begin" or "cancel" to the worker; "step", "done" or "failed" from the worker.
        content: for "begin" the task, for "step" the preview, for "done" the result, for "failed" a sentence
            and an HTTP status.
    """

    number: int
    kind: str
    content: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the message as a line of JSON."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Message:
        """Return the message that a line of JSON contains."""
        return Message(**json.loads(line))


def encode_task(task: Task) -> dict[str, Any]:
    """Return a task as a dictionary that JSON can express."""
    return {"task": type(task).__name__, **asdict(task)}


def decode_task(content: Mapping[str, Any]) -> Task:
    """Return the task that a dictionary from `encode_task` describes."""
    fields = dict(content)
    return TASKS[fields.pop("task")](**fields)
