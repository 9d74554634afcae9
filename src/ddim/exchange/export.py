"""Export a run for other programs, with a model card: as a pipeline of diffusers, or as ONNX.

The template of the model card has a program of numpy and onnxruntime that reads model.onnx and sampling.json.
"""

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError, check_choice
from ddim.exchange.card import CARD, hide_folders, write_card
from ddim.exchange.diffusers import export_to_diffusers, find_lacking, import_extra
from ddim.files import publish_folder, read_sealed, temporary_folder, write_json, write_sealed
from ddim.recipe.checks import check_steps
from ddim.recipe.codec import describe_kind, dump
from ddim.runs.folder import check_unused
from ddim.runs.names import find_run_folder
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import LoadedRun, Pipeline, load
from ddim.sampling.sampling_setup import find_searched_grid
from ddim.sampling.searched import read_searched

FORMATS = {"diffusers": "a pipeline of diffusers", "onnx": "an ONNX program"}
"""The formats, and what a folder of each holds."""

RECORD, ONNX, SAMPLING = "export.json", "model.onnx", "sampling.json"
"""The files that mark a folder as the export of a run, hold a network as ONNX, and say how to sample it."""


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


def export(
    run: str | Path,
    to: Literal["diffusers", "onnx"] | None = None,
    out: str | Path | None = None,
    *,
    weights: str = "ema",
    steps: int | None = None,
    searched: bool = False,
    own: Sequence[Any] = (),
) -> Exported:
    """Write a run for other programs: as a pipeline of diffusers or as ONNX.

    diffusers can hold runs with the U-Net of DDPM; ONNX any network without vectors. The folder has a model
    card, README.md, with the images, recipe, numbers and samples of the run, and a program that samples. An
    ONNX file is compared with the network before it is kept, and sampling.json says how to sample with it.

    The folder appears only when it is complete. The files replace those of an earlier export of the same run.
    The metadata at the top of README.md stays, such as the licence.

    Args:
        run: a run folder, RUN/best, a checkpoint folder, or hub:OWNER/NAME.
        to: the format; by default diffusers if it can hold the run, else onnx.
        out: a new or empty folder, or an earlier export of this run; by default exports/RUN-FORMAT.
        weights: "ema", "raw", or the name of another average.
        steps: number of sampling steps in sampling.json and in the card, by default that of the recipe.
        searched: for ONNX, use the times that `ddim search` saved for DDIM and this number of steps.
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
    check_choice("to", to, FORMATS)
    if to == "diffusers" and lacking:
        raise UserError(f"diffusers cannot hold {lacking} of this run: export it to onnx")
    at, name = loaded.checkpoint, find_run_folder(loaded.checkpoint.run).resolve().name
    out = Path(out or f"exports/{name}-{to}")
    earlier = read_sealed(out / RECORD) if (out / RECORD).is_file() else {}
    # Runs of two projects may have the same name, but hardly the same images and the same seed.
    images = at.state.images and at.state.images.fingerprint
    of_run = {"run": name, "format": to, "images": images, "seed": loaded.recipe.seed}
    if not of_run.items() <= earlier.items():
        check_unused(out)
    # A missing package must not leave an empty folder.
    import_extra("onnxruntime" if to == "onnx" else to, to)
    with temporary_folder(out.resolve()) as folder:
        use: dict[str, Any] = {"format": to, "notes": (), "steps": loaded.recipe.choose_steps(steps)}
        if to == "diffusers":
            use |= export_to_diffusers(loaded, folder)
        else:
            document = describe_sampling(loaded, use["steps"], searched=searched)
            write_json(folder / SAMPLING, document)
            write_onnx(loaded.model, [step["condition"] for step in document["steps"]], folder / ONNX)
        use["notes"] = notes = (*use["notes"], *describe_differences(loaded, to, searched=searched))
        write_card(loaded, folder, use, (out / CARD).read_text(encoding="utf-8") if earlier else "")
        record = {**of_run, "recipe": dump(hide_folders(loaded.recipe))}
        write_sealed(folder / RECORD, {**record, "checkpoint": at.sha256, "weights": at.weights})
        _publish(folder, out.resolve())
    return Exported(f"{out} holds the model as {FORMATS[to]}{reason}.", out, to, notes)


def _publish(folder: Path, out: Path) -> None:
    """Move an export to `out`, in the place of an earlier one; other files there stay."""
    if not out.exists():
        publish_folder(folder, out)
        return
    with temporary_folder(out) as whole:
        for each in (out, folder):
            shutil.copytree(each, whole, dirs_exist_ok=True)
        with temporary_folder(out) as earlier:
            os.rename(out, earlier)
            try:
                publish_folder(whole, out)
            except BaseException:
                os.rename(earlier, out)
                raise


def describe_differences(run: LoadedRun, to: str, *, searched: bool = False) -> list[str]:
    """Return sentences about how samples of an export differ from those of `ddim sample`."""
    recipe, values, saved, notes = run.recipe, run.values, read_searched(run.checkpoint.run), []
    if to == "onnx" and recipe.sampler != DDIM():
        sampler = describe_kind(recipe.sampler)
        notes.append(f"{SAMPLING} has the steps of DDIM: samples differ from those of the run, by {sampler}")
    if to == "diffusers" and default_label(recipe) == "natural":
        notes.append("ddim sample draws the classes of samples as often as they occur in training")
    if saved["grids"] and not (searched and to == "onnx" and recipe.sampler == DDIM()):
        notes.append("the times that ddim search found are left out")
    if saved["guidance"]:
        notes.append("the guidance that ddim search found is left out")
    if not values.eight_bits:
        notes.append(f"in samples, [0, 1] stands for {values.low:g} to {values.high:g} ({values.type})")
    return notes


# ONNX

FORMULAS = (
    "x = start * noise, with standard normal noise",
    "F = network(input * x, condition, label), the first channels of the output",
    "x0 = skip * x + output * F, clipped from clip.low to clip.high if there is a clip",
    "eps = (x - alpha * x0) / sigma, with x0 before the clip if clip.keep_noise",
    "x = alpha * x0 + sigma * eps, with alpha and sigma of the next step; x0 after the last step",
    "image in [0, 1] = x0 * pixels.std + pixels.mean, for each channel",
)
"""The formulas of DDIM (Song et al. 2021, eq. 12), written with the entries of the JSON file."""


def describe_sampling(pipeline: Pipeline, steps: int, *, searched: bool = False) -> dict[str, Any]:
    """Return the content of `SAMPLING`: shape, pixels, classes, clipping, and coefficients of each DDIM step.

    `class_weights` are the relative frequencies of the classes that samples have by default; null means
    samples without a class. `values` is the range of the training images, which [0, 1] stands for.

    The times are those of the grid of the recipe. All coefficients already contain the effect of another
    sampling schedule (`sampled_on`).

    Args:
        pipeline: the model.
        steps: number of sampling steps.
        searched: see `export`.

    Raises:
        UserError: if the grid cannot have this number of steps, or the model was not trained at one of the
            noise levels.
    """
    recipe, model = pipeline.recipe, pipeline.model
    check_steps(recipe, steps)
    saved = find_searched_grid(pipeline, DDIM(), steps) if searched else None
    grid = saved or recipe.grid
    levels = _describe_levels(pipeline, grid(steps, recipe.sampling_schedule))
    low, high = (bound.tolist() for bound in pipeline.pixels.bounds)
    free = recipe.data.unconditional
    # Clusters are as frequent as in training. Class folders are equally frequent, if each image needs one.
    weighted = model.classes and not (free and default_label(recipe) is None)
    return {
        "version": 1,
        "formulas": list(FORMULAS),
        "shape": [model.shape.channels, model.shape.height, model.shape.width],
        "pixels": {"mean": list(pipeline.pixels.mean), "std": list(pipeline.pixels.std)},
        "values": asdict(pipeline.values),
        "classes": model.classes,
        "class_names": list(pipeline.classes),
        "no_class": -1 if model.classes and free else None,
        "class_weights": (list(pipeline.class_counts) or [1] * model.classes) if weighted else None,
        "start": (levels[0]["alpha"] ** 2 + levels[0]["sigma"] ** 2) ** 0.5,
        "clip": {"low": low, "high": high, "keep_noise": recipe.clip == "x0"} if recipe.clip else None,
        "steps": levels,
    }


def _describe_levels(pipeline: Pipeline, times: Tensor) -> list[dict[str, float]]:
    """Return the coefficients that `FORMULAS` uses at decreasing times (N,), one dictionary for each time."""
    model, at = pipeline.model, pipeline.recipe.sampling_schedule(times)
    inner, scale = times, torch.ones_like(times)
    if pipeline.recipe.sampled_on:
        check_reach(model.schedule, at)
        # As in `Rescheduled`: the network is evaluated at the time of its own schedule with this log-SNR.
        inner = model.schedule.inverse(at.log_snr)
        scale = model.schedule(inner).alpha / at.alpha
    level = model.schedule(inner)
    c = model.predicts(level)
    columns = {
        "t": times,
        "alpha": at.alpha,
        "sigma": at.sigma,
        "condition": model.conditioning(inner, level),
        "input": c.inp * scale,
        "skip": c.skip * scale,
        "output": c.out,
    }
    return [{name: values[k].item() for name, values in columns.items()} for k in range(len(times))]


def write_onnx(model: Model, conditions: Sequence[float], path: Path) -> None:
    """Write the network of a model as ONNX, for any batch size, and check the file with onnxruntime.

    For 1, 3 and 8 images, the outputs of the file must be those of the network, in float32, to within 1e-4
    of the largest output, or of 1 if that is below 1.

    Args:
        model: the model, in eval mode on the CPU.
        conditions: values of the network's second input, such as those of the sampling steps.
        path: the new file.

    Raises:
        UserError: if a package of the extra `onnx` is missing, the network is conditioned on vectors, or the
            file gives other outputs.
    """
    runtime = import_extra("onnxruntime", "onnx")
    if model.vector:
        raise UserError("a run that is conditioned on vectors of numbers cannot be exported")
    inputs = _draw_inputs(model, 3, [0.5])
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            model.net.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["F"],
            dynamic_shapes=[{0: torch.export.Dim("batch", min=1, max=65536)}] * len(inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3, 8):
        inputs = _draw_inputs(model, count, conditions)
        with torch.no_grad():
            wanted = model.net(*inputs.values())
        (output,) = session.run(["F"], {name: value.numpy() for name, value in inputs.items()})
        difference = (torch.from_numpy(output) - wanted).abs().max().item()
        largest = max(1.0, wanted.abs().max().item())
        if not difference <= 1e-4 * largest:
            found = f"{difference:.3g} apart for {count} images, the largest output is {largest:.3g}"
            raise UserError(f"ONNX gives other outputs than the network, so nothing was written: {found}")


def _draw_inputs(model: Model, count: int, conditions: Sequence[float]) -> dict[str, Tensor]:
    """Return inputs of the network for `count` images, keyed by their names in the file.

    They are random x (count, C, H, W), conditions (count,) evenly chosen from `conditions`, and labels
    (count,) if there are classes.
    """
    draw = torch.Generator().manual_seed(count)
    x = torch.randn(model.blank(count).shape, generator=draw)
    # Both ends are among them.
    places = torch.linspace(0, len(conditions) - 1, count).round().long()
    inputs = {"x": x, "condition": torch.tensor(conditions, dtype=torch.float32)[places]}
    return inputs | ({"label": torch.arange(count) % (model.classes + 1) - 1} if model.classes else {})
