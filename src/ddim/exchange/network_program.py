"""Write a network as a program that runs without this library: by `torch.export`, or as ONNX.

A program is checked when it is written: it is read from the file and compared with the network.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddim.diffusion.denoiser import Model
from ddim.errors import UserError, is_full_disk, is_full_memory

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PROGRAM, ONNX = "model.pt2", "model.onnx"
"""The file names of a network as a program of `torch.export` and as ONNX."""

INPUTS = ("x", "condition", "label")
"""The names of the inputs; only networks with classes have a label. The output is `OUTPUT`."""
OUTPUT = "F"

TOLERANCE = 1e-4
"""The largest allowed difference between the outputs of a program and of the network.

It is relative to the largest output of the network, if that output is above 1.
"""

BATCHES = (1, 3, 8)
"""The batch sizes with which a program is checked."""

Run = Callable[[Sequence[Tensor]], Tensor]
"""A function from the inputs of a network to its output."""


class Labelled(nn.Module):
    """Wraps a network so that its inputs are called x, condition and label."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, condition: Tensor, label: Tensor) -> Tensor:
        """Return the output of the network for x (B, C, H, W), condition (B,) and label (B,)."""
        return self.net(x, condition, label)


class Unlabelled(nn.Module):
    """Wraps a network without class labels so that its inputs are called x and condition."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the output of the network for x (B, C, H, W) and condition (B,)."""
        return self.net(x, condition)


def write_program(model: Model, conditions: Sequence[float], path: Path) -> None:
    """Write the network of a model by `torch.export`, for any batch size, and check the file.

    `torch.export.load` reads the file. This module loads the file only to check it, right after writing.

    Args:
        model: the model, in eval mode on the CPU.
        conditions: values of the network's second input, with which the program is checked.
        path: the new file.

    Raises:
        UserError: if the network cannot be exported, or the program gives other outputs.
    """
    with _explained(model):
        torch.export.save(trace_network(model), path)
        found = torch.export.load(path).module()
    check_program(model, conditions, lambda inputs: found(*inputs), "torch.export")


def write_onnx(model: Model, conditions: Sequence[float], path: Path) -> None:
    """Write the network of a model as ONNX, for any batch size, and check the file with onnxruntime.

    The arguments and errors are the same as for `write_program`.

    Raises:
        UserError: also if a package of the extra `onnx` is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (used by torch.onnx)
    except ImportError as error:
        raise UserError(
            f'export to onnx needs the package {error.name}, which is not installed: pip install "ddim[onnx]"'
        ) from None
    traced = trace_network(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with _explained(model):
        made = torch.onnx.export(traced, dynamo=True, verbose=False, output_names=[OUTPUT])
        if made is None:
            raise UserError("the network cannot be written as ONNX")
        made.save(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        given = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=False)}
        return torch.from_numpy(session.run([OUTPUT], given)[0])

    check_program(model, conditions, run, "ONNX")


def trace_network(model: Model) -> ExportedProgram:
    """Return the network of a model as a program of `torch.export`, for 1 to 65,536 images.

    Raises:
        UserError: if the model is conditioned on vectors, or torch.export cannot follow its code.
    """
    if model.vector:
        raise UserError("a run that is conditioned on vectors of numbers can only be exported as safetensors")
    batch = torch.export.Dim("batch", min=1, max=65536)
    inputs = _make_inputs(model, 3, [0.5])
    net = (Labelled if model.classes else Unlabelled)(model.net)
    with _explained(model), torch.no_grad():
        return torch.export.export(
            net.eval(), tuple(inputs), dynamic_shapes=tuple({0: batch} for _ in inputs)
        )


@torch.no_grad()
def check_program(model: Model, conditions: Sequence[float], run: Run, kind: str) -> None:
    """Compare a program with the network of a model, in float32, for each number of images in `BATCHES`.

    Args:
        model: the model.
        conditions: values of the network's second input, such as those of the sampling steps.
        run: the program.
        kind: the kind of the program, for the message.

    Raises:
        UserError: if an output differs by more than `TOLERANCE`, or is not finite.
    """
    for count in BATCHES:
        inputs = _make_inputs(model, count, conditions)
        wanted = model.net(*inputs)
        found = run(inputs)
        largest = max(1.0, wanted.abs().max().item())
        difference = (found - wanted).abs().max().item() if found.shape == wanted.shape else torch.inf
        if not difference <= TOLERANCE * largest:
            raise UserError(
                f"the {kind} program gives other outputs than the network, so nothing was written: the "
                f"largest difference for {count} images is {difference:.3g}, and the largest output is "
                f"{largest:.3g}"
            )


def _make_inputs(model: Model, count: int, conditions: Sequence[float]) -> list[Tensor]:
    """Return inputs of the network for `count` images.

    They are random x (count, C, H, W), conditions (count,) evenly chosen from `conditions`, and labels
    (count,) if there are classes.
    """
    draw = torch.Generator().manual_seed(count)
    x = torch.randn(model.blank(count).shape, generator=draw)
    # Both ends are among them.
    places = torch.linspace(0, len(conditions) - 1, count).round().long()
    condition = torch.tensor(conditions, dtype=torch.float32)[places]
    labels = [torch.arange(count) % (model.classes + 1) - 1] if model.classes else []
    return [x, condition, *labels]


@contextmanager
def _explained(model: Model) -> Generator[None]:
    """Hide what torch's exporters print inside the block, and say which network they cannot export."""
    try:
        with _quiet():
            yield
    # The exporters run the code of any network, which may raise anything.
    except Exception as error:
        if isinstance(error, UserError | OSError) or is_full_disk(error) or is_full_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"network {type(model.net).__name__} cannot be exported by torch.export or torch.onnx "
            f"({type(error).__name__}: {reason})"
        ) from error


@contextmanager
def _quiet() -> Generator[None]:
    """Hide the warnings and the log of torch's exporters inside the block."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
