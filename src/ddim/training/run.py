"""`train`: from a source of images to a run folder."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddim.data import open_images, split
from ddim.data.batch import batch as gather
from ddim.data.batch import unit
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.errors import Interrupted, NotFinite, UserError
from ddim.files import lock_folder, read_json, write_json
from ddim.nn.runtime import Runtime, check_runtime, choose_runtime, find_device
from ddim.runs import checkpoint
from ddim.runs import folder as tracking
from ddim.runs.checks import check_training
from ddim.runs.classes import count_classes
from ddim.runs.codec import dump, write_recipe
from ddim.runs.codec import load as load_recipe
from ddim.runs.images import check_there
from ddim.runs.named_recipes import find
from ddim.runs.pipeline import LoadedRun, load, load_state, recipe_of
from ddim.runs.provenance import list_versions
from ddim.runs.recipe import Fixed, Recipe, build
from ddim.training.callbacks import Callback, Checkpoints, Log, SampleGrid
from ddim.training.engine import LocalEngine
from ddim.training.kid import Judge, judge
from ddim.training.loop import Plan, Split, Training

RUN = "run.json"
"""The file that makes a folder a run: what it is and where it began."""

MEASURED = 60.0
"""Seconds of training, or a tenth of a shorter budget, before a time budget becomes a number of images."""


@dataclass(frozen=True)
class Machine:
    """What a user asks of `choose_runtime`; "auto" and None leave the choice to it."""

    device: str = "auto"
    precision: str = "auto"
    compiling: bool | None = None
    threads: int | None = None


def train(
    data: str | None = None,
    recipe: str | Recipe = "fast",
    *,
    out: Path | None = None,
    source: Path | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train a model on images and return the run folder.

    `data` is a folder, an archive or a name (see `ddim.data.open_images`), by default the recipe's; `recipe`
    a name, a YAML file or a value, whose `images` or `minutes` are the budget. `source` is a run whose
    weights and pixels to start from: a recipe of a name takes them over, a value must have them.
    `progress(done, total)` is called while images are decoded. UserError for what cannot be used; `NotFinite`
    where training breaks down; `Interrupted` after a signal.
    """
    began = time.monotonic()
    chosen = recipe if isinstance(recipe, Recipe) else named(recipe, source)
    chosen = replace(chosen, data=replace(chosen.data, source=data or chosen.data.source))
    # What would be refused once the images are decoded is refused before.
    check_runtime(machine.device, machine.precision, machine.threads)
    check_training(chosen, None if source is None else recipe_of(source))
    if out is not None and out.exists() and not _unborn(out):
        tracking.check_unused(out, ", or go on with --resume")
    parts = opened(chosen, progress)
    m = machine
    runtime = choose_runtime(m.device, m.precision, m.compiling, m.threads, _seconds(chosen, parts))
    with runtime:
        parent = parent_of(source)
        training = begun(chosen, parts, runtime, parent)
        judged = judge(training)
        short = _short(chosen.data.source)
        folder = out if out is not None and _unborn(out) else tracking.new_run_folder(out, short, chosen.name)
        with lock_folder(folder):
            write_json(folder / RUN, _facts(training, machine, source, parent))
            parent = None  # a second network need not be kept
            _fit(training, judged, folder, callbacks, None, began)
    return folder


def named(recipe: str, source: Path | None) -> Recipe:
    """The recipe of a name, in the pixels of the run to start from: nobody has asked for its own."""
    found = find(recipe)
    return found if source is None else replace(found, pixels=recipe_of(source).pixels)


def resume(
    folder: Path, *, callbacks: Sequence[Callback] = (), progress: Callable[[int, int], None] | None = None
) -> Path:
    """Go on with a run as if it had never been stopped; return its folder.

    The machine's choices are read, not made again. A finished run is left as it is. UserError where the
    folder is no run, or its images have changed or are not there.
    """
    began = time.monotonic()
    if not (folder / RUN).is_file():
        raise UserError(f"run {folder} cannot be resumed: it is no run folder, for it holds no {RUN}")
    facts = read_json(folder / RUN)
    with lock_folder(folder):
        path = checkpoint.newest(folder / "checkpoints")
        if path is None:
            return _afresh(folder, facts, callbacks, progress)
        recipe = load_recipe(checkpoint.read_document(path, "recipe"))
        state = load_state(path)
        runtime, pixels = state.runtime, state.pixels
        find_device(runtime.device)
        with runtime:
            parts = _again(folder, recipe, progress)
            training = Training(recipe, parts, pixels, LocalEngine(runtime), Plan(None))
            names = training.tensors()
            training.restore({name: checkpoint.read_tensors(path, name) for name in names}, state)
            if not training.finished:
                _fit(training, judge(training), folder, callbacks, training.step, began)
    return folder


def _afresh(
    folder: Path,
    facts: dict[str, Any],
    callbacks: Sequence[Callback],
    progress: Callable[[int, int], None] | None,
) -> Path:
    """A run that was killed before its first checkpoint starts again, with what it had chosen."""
    began = time.monotonic()
    recipe = load_recipe(facts["recipe"])
    source = Path(facts["source"]) if facts["source"] else None
    parent = parent_of(source)
    if parent and parent.checkpoint.sha256 != facts.get("source_sha256", parent.checkpoint.sha256):
        raise UserError(
            f"run {source} is at another checkpoint than when {folder} began from it, which cannot begin so "
            "again: start a new run with --from"
        )
    runtime = Runtime(**facts["runtime"])
    with runtime:
        training = begun(recipe, _again(folder, recipe, progress), runtime, parent)
        parent = None  # a second network need not be kept
        _fit(training, judge(training), folder, callbacks, None, began)
    return folder


def parent_of(source: Path | None) -> LoadedRun | None:
    """The run that another starts from, open; None for none. UserError where it cannot be opened."""
    return None if source is None else load(source, device="cpu")


def begun(recipe: Recipe, parts: Split, runtime: Runtime, parent: LoadedRun | None) -> Training:
    """A training at step 0, from random weights or from the averaged ones of another run, `parent`.

    UserError where the recipe wants labels that the images do not have, or other ones than `parent`.
    """
    told, there = parent.model.classes if parent else 0, len(parts.images.classes)
    if parent and recipe.data.labels and told != there:
        raise UserError(
            f"--from gives weights of a network that was told of {told} classes, and {recipe.data.source} "
            f"has {there}: without labels, --data.labels no, they can be trained on"
        )
    recipe = count_classes(recipe, parts.images)
    pixels = parent.pixels if parent else pixels_of(recipe, parts)
    training = Training(recipe, parts, pixels, LocalEngine(runtime), Plan(recipe.images))
    if parent:
        training.begin_from(parent.model.state_dict())
    return training


def _unborn(folder: Path) -> bool:
    """Whether a folder is what a run leaves that was killed before it had written what it is."""
    return folder.is_dir() and all(path.name.startswith((".lock", ".tmp-")) for path in folder.iterdir())


def _fit(
    training: Training,
    judged: Judge,
    folder: Path,
    callbacks: Sequence[Callback],
    resumed: int | None,
    began: float,
) -> None:
    """Updates, events and checkpoints until the budget is spent or a signal comes."""
    if resumed is None:
        # For people, and for --recipe; a resume reads the checkpoint's.
        (folder / "recipe.yaml").write_text(write_recipe(training.recipe), encoding="utf-8")
    with tracking.RunLog(folder, resumed) as log, _signals() as caught:
        keeper = Checkpoints(log, list(callbacks))
        # The log before the checkpoint that covers it; the checkpoint before anyone hears of the event.
        hooks: list[Callback] = [Log(log), SampleGrid(log), keeper, *callbacks]
        for hook in hooks:
            hook.begin(training, folder)
        clock = _Clock(training, began)
        while not training.finished and not caught:
            try:
                values = training.advance()
            except NotFinite as error:
                raise NotFinite(f"{error}: {_left(folder)}") from None
            for hook in hooks:
                hook.stepped(training, values)
            if training.plan.total is None and clock.ready():
                spent = time.monotonic()
                _event(training, judged, hooks)
                clock.settle(training, time.monotonic() - spent)
                keeper.save(training)
            elif training.plan.total is not None and training.step in training.events():
                _event(training, judged, hooks)
            else:
                keeper.due(training)
        for hook in hooks:
            hook.end(training)
    if caught and not training.finished:
        raise Interrupted(caught[0], folder)


def _left(folder: Path) -> str:
    """What is there of a run that broke down, and what may help."""
    if checkpoint.newest(folder / "checkpoints"):
        return "the last good checkpoint is kept; a lower optim.lr or --precision fp32 may help"
    return "no checkpoint was written yet; start a new run with a lower optim.lr or --precision fp32"


def _event(training: Training, judged: Judge, hooks: Sequence[Callback]) -> None:
    values = training.validate() | judged()
    for hook in hooks:
        hook.event(training, values)


class _Clock:
    """Turns a time budget into images, once, from the pace of the first minute."""

    def __init__(self, training: Training, began: float) -> None:
        self.seconds = training.recipe.minutes * 60
        self.deadline = began + self.seconds
        self.training, self.first = training, training.step
        self.marked: tuple[float, int] | None = None

    def ready(self) -> bool:
        """Whether the pace is known: after the first updates, in which the network is compiled."""
        if self.training.step - self.first < 3:
            return False
        if self.marked is None:
            self.marked = time.monotonic(), self.training.seen
        measured = min(MEASURED, self.seconds / 10)
        return time.monotonic() - self.marked[0] >= measured and self.training.seen > self.marked[1]

    def settle(self, training: Training, event: float) -> None:
        """Fix the budget, leaving the time for the events to come, `event` seconds each."""
        now = time.monotonic() - event
        begin, seen = self.marked or (now, 0)
        pace = (training.seen - seen) / max(1e-9, now - begin)
        left = self.deadline - time.monotonic() - event * training.recipe.report.events
        training.settle(training.seen + round(pace * max(0.0, left)))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that holds the signal once SIGINT or SIGTERM came; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: object) -> None:
        caught.append(number)
        for kind, before in saved.items():
            signal.signal(kind, before)
        # It may have come in the middle of another line: the run is saved, whatever becomes of this one.
        with suppress(Exception):
            sys.stderr.write("finishing this step and saving; once more stops at once\n")

    saved = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    for kind in saved:
        signal.signal(kind, note)
    try:
        yield caught
    finally:
        for kind, before in saved.items():
            signal.signal(kind, before)


def opened(recipe: Recipe, progress: Callable[[int, int], None] | None) -> Split:
    """The images of a recipe, split by its seed."""
    d = recipe.data
    images = open_images(d.source, d.size, d.channels, progress=progress)
    return Split(images, *split(images, d.valid, recipe.seed))


def _again(folder: Path, recipe: Recipe, progress: Callable[[int, int], None] | None) -> Split:
    """The images of a run that goes on. UserError where they are not there."""
    check_there(folder, recipe.data.source)
    return opened(recipe, progress)


def pixels_of(recipe: Recipe, parts: Split) -> Pixels:
    """The border between images and model units, measured over the training images or fixed."""
    channels = parts.images.pixels.shape[-1]
    if isinstance(recipe.pixels, Fixed):
        return Pixels.fixed(recipe.pixels.mean, recipe.pixels.std, channels)
    chunks = (parts.train[k : k + 256] for k in range(0, len(parts.train), 256))
    batches = (unit(gather(parts.images, chunk)) for chunk in chunks)
    return Pixels.measured(batches, recipe.pixels.std)


def _seconds(recipe: Recipe, parts: Split) -> float:
    """About how long the run will take, to judge whether compiling repays itself."""
    if recipe.images is None:
        return recipe.minutes * 60
    few = 4
    # Weights and dropout are drawn from the caller's stream, which must not notice.
    with torch.random.fork_rng(devices=[]):
        model = Runtime().place(build(recipe, parts.images.pixels.shape[-1]))
        x0 = Runtime().images(Noise(range(few)).like(model.blank(few)))
        pixels = Pixels.fixed(0.5, 0.5, model.shape.channels)

        def step() -> float:
            begin = time.perf_counter()
            recipe.objective(model, x0, torch.full((few,), 0.5), x0, pixels).mean().backward()
            return time.perf_counter() - begin

        step()
        return step() * recipe.images / few


def _facts(
    training: Training, machine: Machine, source: Path | None, parent: LoadedRun | None
) -> dict[str, object]:
    images = training.split.images
    return {
        "recipe": dump(training.recipe),
        "seed": training.recipe.seed,
        "source": None if source is None else str(source.resolve()),
        # Of its checkpoint: a run that trains on gives others another start.
        "source_sha256": None if parent is None else parent.checkpoint.sha256,
        "data": {
            "source": training.recipe.data.source,
            "fingerprint": images.fingerprint,
            "images": len(images),
            "train": len(training.split.train),
            "valid": len(training.split.valid),
            "classes": list(images.classes),
        },
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "runtime": vars(training.engine.runtime),
        "asked": vars(machine),
        "versions": list_versions(),
    }


def _short(data: str) -> str:
    """A name for the folder: flowers64 of path/to/flowers64.zip."""
    name = Path(data.split(":", maxsplit=1)[0] if ":" in data and not Path(data).exists() else data).name
    return name.split(".")[0] or "images"
