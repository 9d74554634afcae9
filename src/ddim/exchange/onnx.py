"""Write a network as ONNX, checked with onnxruntime, and describe as JSON how to sample it with DDIM.

The template of the model card has a program of numpy and onnxruntime that reads both files.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.guidance import check_reach
from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError
from ddim.exchange.extras import import_extra
from ddim.files import write_json
from ddim.recipe.checks import check_steps
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import find_searched_grid

ONNX, SAMPLING = "model.onnx", "sampling.json"
"""The file names of a network as ONNX, and of the document that says how to sample it."""

FORMULAS = (
    "x = start * noise, with standard normal noise",
    "F = network(input * x, condition, label), the first channels of the output",
    "x0 = skip * x + output * F, clipped from clip.low to clip.high if there is a clip",
    "eps = (x - alpha * x0) / sigma, with x0 before the clip if clip.keep_noise",
    "x = alpha * x0 + sigma * eps, with alpha and sigma of the next step; x0 after the last step",
    "image in [0, 1] = x0 * pixels.std + pixels.mean, for each channel",
)
"""The formulas of DDIM (Song et al. 2021, eq. 12), written with the entries of the JSON file."""


def export_to_onnx(pipeline: Pipeline, folder: Path, steps: int | None = None) -> None:
    """Write the network of a model and the description of its sampling into a folder.

    Args:
        pipeline: the model, on the CPU.
        folder: the folder.
        steps: number of sampling steps; by default the number in the recipe.

    Raises:
        UserError: see `describe_sampling` and `write_onnx`.
    """
    document = describe_sampling(pipeline, steps)
    write_onnx(pipeline.model, [step["condition"] for step in document["steps"]], folder / ONNX)
    write_json(folder / SAMPLING, document)


def describe_sampling(pipeline: Pipeline, steps: int | None = None) -> dict[str, Any]:
    """Return the content of `SAMPLING`: shape, pixels, classes, clipping, and coefficients of each DDIM step.

    `class_weights` are the relative frequencies of the classes that samples have by default; null means
    samples without a class. `values` is the range of the training images, which [0, 1] stands for.

    The times are those of the grid that `ddim search` saved for DDIM and this number of steps, or else of the
    grid of the recipe. All coefficients already contain the effect of another sampling schedule
    (`sampled_on`).

    Args:
        pipeline: the model.
        steps: number of sampling steps; by default the number in the recipe.

    Raises:
        UserError: if the grid cannot have this number of steps, or the model was not trained at one of the
            noise levels.
    """
    recipe, model = pipeline.recipe, pipeline.model
    steps = recipe.choose_steps(steps)
    check_steps(recipe, steps)
    grid = find_searched_grid(pipeline, DDIM(), steps) or recipe.grid
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
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def write_onnx(model: Model, conditions: Sequence[float], path: Path) -> None:
    """Write the network of a model as ONNX, for any batch size, and check the file with onnxruntime.

    For 1, 3 and 8 images, the outputs of the file must be those of the network, in float32, to within 1e-4
    of the largest output, or of 1 if that is below 1.

    Args:
        model: the model, in eval mode on the CPU.
        conditions: values of the network's second input, such as those of the sampling steps.
        path: the new file.

    Raises:
        UserError: if a package of the extra `onnx` is missing, the network cannot be exported, or the file
            gives other outputs.
    """
    runtime = import_extra("onnxruntime", "onnx")
    import_extra("onnxscript", "onnx")  # torch.onnx uses it
    if model.vector:
        raise UserError("a run that is conditioned on vectors of numbers cannot be exported")
    inputs = _draw_inputs(model, 3, [0.5])
    try:
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
    # The exporter runs the code of any network, which may raise anything.
    except Exception as error:
        if isinstance(error, OSError | MemoryError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"torch.onnx cannot export {type(model.net).__name__}: {reason:.200}") from error
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _check_program(model, session, conditions)


@torch.no_grad()
def _check_program(model: Model, session: Any, conditions: Sequence[float]) -> None:  # noqa: ANN401
    for count in (1, 3, 8):
        inputs = _draw_inputs(model, count, conditions)
        wanted = model.net(*inputs.values())
        (output,) = session.run(["F"], {name: value.numpy() for name, value in inputs.items()})
        difference = (torch.from_numpy(output) - wanted).abs().max().item()
        largest = max(1.0, wanted.abs().max().item())
        if not difference <= 1e-4 * largest:
            raise UserError(
                "the program gives other outputs than the network, so nothing was written: the largest "
                f"difference for {count} images is {difference:.3g}, and the largest output is {largest:.3g}"
            )


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
