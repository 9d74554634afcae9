"""Pipelines: models with all that sampling needs. `load` builds a pipeline from a run's checkpoint."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ddim.data.clusters import Clusters, ImageClusters
from ddim.data.values import EIGHT_BITS, Values, choose_channels
from ddim.data.vectors import ImageVectors
from ddim.diffusion.denoiser import Denoiser, Model, with_gradients
from ddim.diffusion.guidance import Clipped, Rescheduled
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, describe_given
from ddim.machine.distributed import current_processes
from ddim.machine.runtime import Precision, Runtime, check_runtime, choose_runtime
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import dump, kind_name, load_recipe, load_value
from ddim.recipe.model import build_fitting_model
from ddim.recipe.options import SAMPLING_FIELDS
from ddim.recipe.recipe import Data, Fixed, Recipe
from ddim.recipe.user_parts import give_parts
from ddim.runs import checkpoint
from ddim.runs.averages import AVERAGE, find_stored_average
from ddim.runs.names import choose_published, locate_run, parse_place, read_checkpoint
from ddim.runs.state import RunState
from ddim.sampling import labels
from ddim.sampling.labels import GivenVectors, Label, VectorLabel


@dataclass(frozen=True)
class Pipeline:
    """A model with all that sampling needs; it is in memory and needs no file.

    Attributes:
        model: the model, in eval mode.
        pixels: the map between images and model units.
        recipe: how the model was trained, and how it is sampled: see `with_recipe`.
        runtime: how the network runs.
        classes: the class names, in the order of class indices; empty if the names are not known.
        clusters: the clusters of the training images; None if the classes are not clusters.
        values: the type and range of the values of the training images; `values.from_unit` converts samples.
        vectors: the vectors of all images; None if the run was trained without vectors.
    """

    model: Model
    pixels: Pixels
    recipe: Recipe
    runtime: Runtime
    _: KW_ONLY
    classes: tuple[str, ...] = ()
    clusters: ImageClusters | None = None
    values: Values = EIGHT_BITS
    vectors: ImageVectors | None = None

    def __repr__(self) -> str:
        """Return one line: recipe, size, parameters and device."""
        shape = self.model.shape
        count = sum(p.numel() for p in self.model.parameters())
        size = f"{shape.channels} x {shape.height} x {shape.width}"
        facts = f"{self.recipe.name}, {size}, {count:,} parameters, {self.runtime.device}"
        return f"{type(self).__name__}({facts})"

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of training images of each cluster; empty if the classes are not clusters."""
        return () if self.clusters is None else tuple(self.clusters.counts.tolist())

    def describe(self) -> dict[str, Any]:
        """Return the recipe and the runtime, as JSON, for a record."""
        return {"recipe": dump(self.recipe), "runtime": vars(self.runtime)}

    def with_recipe(self, **fields: Any) -> Self:  # noqa: ANN401 (any field of a recipe)
        """Return a copy of the pipeline that samples with other values in its recipe.

        They are `sampler`, `grid`, `sampled_on`, `clip` and `steps`. Parts can be names or objects, such as
        `sampler="ddim"` or `sampler=DDIM()`.

        Raises:
            UserError: if another field is changed, as the model was trained with it. Also if a part's name is
                unknown, or a value is a class or lacks a method that is needed.
        """
        # A name leaves a part of this kind as it is.
        known = {name: kind_name(getattr(self.recipe, name)) for name in SAMPLING_FIELDS}
        chosen = {name: part for name, part in fields.items() if known.get(name) != part}
        recipe, allowed = replace(self.recipe, **chosen), (*SAMPLING_FIELDS, "steps")
        if replace(recipe, **{name: getattr(self.recipe, name) for name in allowed}) != self.recipe:
            changed, free = ", ".join(chosen), ", ".join(allowed)
            raise UserError(f"{changed} cannot be changed after training; only {free} can")
        return replace(self, recipe=recipe)

    def to_images(self, x: Tensor) -> Tensor:
        """Return samples x (B, C, H, W) in model units as images in [0, 1], float32, on the CPU."""
        return self.pixels.leave(x.float()).cpu()

    def denoiser(self, inner: Denoiser | None = None, *, consistent: bool = False) -> Denoiser:
        """Return the model with the recipe's sampling schedule and clipping.

        Args:
            inner: a denoiser that wraps the model, to use in its place.
            consistent: whether each prediction must satisfy x_t = alpha x0 + sigma eps, as inversion needs.
                If so, clip "x0" is treated as clip True.
        """
        denoise = self.model if inner is None else inner
        denoise = Rescheduled(denoise, on) if (on := self.recipe.sampled_on) else denoise
        clip = self.recipe.clip
        return Clipped(denoise, self.pixels, keep=clip == "x0" and not consistent) if clip else denoise

    def find_label(
        self, label: str | int | None, vector: GivenVectors | None = None, seeds: Sequence[int] = ()
    ) -> Label:
        """Return the label of samples for the class or the vectors that a user gives.

        Args:
            label: see `ddim.sampling.labels.find_label`.
            vector: see `find_vectors`.
            seeds: the seeds of the samples.

        Raises:
            UserError: if label and vector are both given, or the run was not trained with what is given.
        """
        if vector is None:
            return labels.find_label(label, self.recipe, self.classes)
        if label is not None:
            raise UserError(f"give label or vector, not both, got label {label!r}")
        return labels.find_vectors(vector, seeds, self.vectors)

    def assign_labels(self, label: Label, seeds: Sequence[int]) -> Tensor | None:
        """Return the class labels (B,) or vectors (B, d) of samples with these seeds; None for no label."""
        if label is None:
            return None
        if self.vectors is not None:
            known = isinstance(label, VectorLabel)
            return label.assign(seeds, self.vectors) if known else labels.draw_vectors(seeds, self.vectors)
        if label == "natural":
            classes = [labels.draw_class(seed, self.class_counts) for seed in seeds]
        elif label == "all":
            classes = [seed % self.model.classes for seed in seeds]
        else:
            classes = [label] * len(seeds)
        return torch.tensor(classes, device="cpu")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The checkpoint from which a pipeline was loaded.

    Attributes:
        path: the checkpoint folder.
        sha256: SHA-256 (hex) of its manifest.
        weights: "ema", "raw" or the name of another average.
        state: the state of the run at the checkpoint.
        run: the argument of `load`: a run folder, RUN/best or a checkpoint folder.
        recipe: the recipe of the checkpoint. The recipe of the pipeline may have been changed since.
        average: SHA-256 (hex) of the average, if `weights` names one that `ddim ema` stored; else None.
    """

    path: Path
    sha256: str
    weights: str
    state: RunState
    run: Path
    recipe: Recipe = field(repr=False)
    average: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return path, SHA-256, step and weights, for a record; a stored average has its SHA-256."""
        facts = {"path": str(self.path), "sha256": self.sha256, "step": self.state.step}
        average = {} if self.average is None else {"average": {"sha256": self.average}}
        return {**facts, "weights": self.weights, **average}


@dataclass(frozen=True, repr=False)
class LoadedRun(Pipeline):
    """A pipeline and the checkpoint that it was loaded from."""

    checkpoint: LoadedCheckpoint

    def list_changed(self, *fields: str) -> list[str]:
        """Return which of these fields of the recipe were changed since the run was loaded."""
        return [n for n in fields if getattr(self.checkpoint.recipe, n) != getattr(self.recipe, n)]

    def describe(self) -> dict[str, Any]:
        """Return checkpoint, step, weights, recipe and runtime, as JSON."""
        at = self.checkpoint
        facts = at.describe()
        file = {"path": facts.pop("path"), "sha256": facts.pop("sha256")}
        # Samples equal those of the training in every bit only with its runtime, without torch.compile.
        equal = self.runtime == replace(at.state.runtime, compile=False)
        return {"checkpoint": file, **facts, **super().describe(), "bit_equal": equal}


@with_gradients
def load(
    run: str | Path,
    weights: str = "ema",
    *,
    own: Sequence[Any] = (),
    compiling: bool = False,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
) -> LoadedRun:
    """Load the newest undamaged checkpoint of a run, ready to sample.

    Args:
        run: a run folder, RUN/best for its best checkpoint, a checkpoint folder, RUN@raw for other weights,
            or hub:OWNER/NAME[@REVISION] for a run on the Hugging Face Hub, which is downloaded once (the
            extra `hub`); see `ddim.runs.names.parse_place`.
        weights: ema, raw, another EMA of the run, such as 6.94, or one that `ddim ema` made, such as picked;
            see `ddim.nn.ema.name_averages`.
        own: the components of the run that you wrote, such as [MySchedule, MyNetwork]; see `ddim.resume`.
        compiling: compile the network: faster after a minute; results differ in the last bits.
        device: cpu, cuda or mps; by default the device of the training, if this machine has one.
        precision: fp32 or bf16, by default that of the training.
        threads: processor threads, by default as many as in the training; results differ in the last bits.

    Raises:
        UserError: if the run has no checkpoint or no such weights, or needs a component that was not given.

    Example:
        >>> pipeline = ddim.load("runs/photos-fast-1")
        >>> images = ddim.sample(pipeline, n=16)
    """
    give_parts(own)
    if isinstance(run, str | Path):
        run, named = parse_place(str(run))
        weights = named if weights == "ema" else weights
    run = locate_run(run)

    def read(path: Path) -> LoadedRun:
        at, tensors = _read_weights(path, run, weights)
        recipe, state = at.recipe, at.state
        runtime = replace(_runtime(at, device, precision, threads), compile=compiling)
        model = build_fitting_model(path, recipe, state.channels, tensors)
        model.pixels = state.pixels
        runtime.place(model.eval().requires_grad_(False))
        model.net = runtime.compiled(model.net, frozen=True)
        clusters, vectors = read_conditions(path, recipe)
        facts: dict[str, Any] = {"classes": state.classes, "values": state.values}
        facts |= {"clusters": clusters, "vectors": vectors}
        return LoadedRun(model, state.pixels, recipe, runtime, at, **facts)

    return read_checkpoint(run, read)


def _read_weights(path: Path, run: Path, weights: str) -> tuple[LoadedCheckpoint, dict[str, Tensor]]:
    """Read the checkpoint `path` of a run, and its tensors with the weights of this name; see `load`."""
    recipe = load_recipe(checkpoint.read_document(path, "recipe"))
    published = choose_published(path, weights)
    stored = None if published else find_stored_average(path, weights)
    tensors = checkpoint.read_tensors(path, "model")
    if stored is not None:
        tensors |= checkpoint.read_tensors(stored, AVERAGE)
    elif not published and weights != "raw":
        tensors |= checkpoint.read_tensors(path, f"ema/{'default' if weights == 'ema' else weights}")
    sha256 = checkpoint.hash_checkpoint(path)
    average = None if stored is None else checkpoint.hash_checkpoint(stored)
    at = LoadedCheckpoint(path, sha256, published or weights, load_state(path), run, recipe, average)
    return at, tensors


def _runtime(
    at: LoadedCheckpoint, device: str | None, precision: Precision | None, threads: int | None
) -> Runtime:
    """Return the recorded runtime with the given changes; for another type of device, it is chosen anew."""
    recorded = at.state.runtime
    wanted = current_processes().assign_device(device or recorded.device)
    try:
        where = check_runtime(wanted, precision or "auto", threads)
    except UserError:
        if device is not None:
            raise
        where = check_runtime("auto", precision or "auto", threads)
    if where.split(":")[0] != recorded.device.split(":")[0]:
        return choose_runtime(where, precision or "auto", False, threads, size=at.recipe.data.size)
    precision, threads = precision or recorded.precision, threads or recorded.threads
    return replace(recorded, device=where, precision=precision, threads=threads)


Source = str | Path | Pipeline | Model
"""What can be sampled: a run folder, a loaded run or another pipeline, or a model."""


def load_given_run(run: str | Path | LoadedRun) -> LoadedRun:
    """Return the loaded run; load it first if `run` is a path.

    Raises:
        UserError: if `run` is neither a path nor the result of `load`, or has no checkpoint.
    """
    return run if isinstance(run, LoadedRun) else load(run)


def open_pipeline(source: Source) -> Pipeline:
    """Return a pipeline for sampling: `source` itself, or a pipeline made from a run or a bare model.

    A bare model is sampled as the recipe `fast` says, on the device of its weights, in their dtype.

    Raises:
        UserError: if `source` is none of these, or `load` refuses the run.
    """
    if isinstance(source, Pipeline):
        return source
    if isinstance(source, str | Path):
        return load(source)
    if not isinstance(source, Model):
        what = "a run folder, a Pipeline or a Model, such as ddim.Model(network, ddim.Cosine())"
        raise UserError(f"model must be {what}, got {describe_given(source)}")
    shape = source.shape
    weight = next(source.parameters(), torch.zeros((), device="cpu"))
    size, channels = (shape.height, shape.width), choose_channels(shape.channels)
    parts: dict[str, Any] = {name: getattr(source, name) for name in ("schedule", "predicts", "conditioning")}
    data = Data(size=size, channels=channels, labels=source.classes > 0)
    recipe = Recipe(data=data, net=UNetSpec(classes=source.classes), pixels=Fixed(0.5, 0.5), **parts)
    runtime = Runtime(str(weight.device), channels_last=False, threads=torch.get_num_threads())
    return Pipeline(source, source.pixels, recipe, runtime)


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Set every layer to eval mode inside the block, and restore each layer's mode after it."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def read_conditions(path: Path, recipe: Recipe) -> tuple[ImageClusters | None, ImageVectors | None]:
    """Return the clusters and the vectors in the checkpoint `path`; None for what the recipe does not use."""
    clusters = vectors = None
    if isinstance(recipe.data.labels, Clusters):
        clusters = ImageClusters.from_tensors(checkpoint.read_tensors(path, "clusters"))
    if recipe.data.vectors is not None:
        vectors = ImageVectors.from_tensors(checkpoint.read_tensors(path, "vectors"))
    return clusters, vectors


def list_conditions(clusters: ImageClusters | None, vectors: ImageVectors | None) -> dict[str, Any]:
    """Return the groups of tensors of a checkpoint that `read_conditions` reads, keyed by name."""
    given = {"clusters": clusters, "vectors": vectors}
    return {name: each.to_tensors() for name, each in given.items() if each}


def load_state(path: Path) -> RunState:
    """Return the typed state of the checkpoint `path`."""
    return load_value(checkpoint.read_document(path, "state"), RunState)
