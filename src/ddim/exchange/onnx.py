"""Write a network as ONNX, and check the file with onnxruntime: its outputs must be those of the network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim.diffusion.denoiser import Model
from ddim.errors import UserError, is_full_disk, is_full_memory

ONNX = "model.onnx"
"""The file name of a network as ONNX."""

INPUTS, OUTPUT = ("x", "condition", "label"), "F"
"""The names of the inputs and of the output; only networks with classes have a label."""

TOLERANCE = 1e-4
"""The largest allowed difference between the outputs of a program and of the network.

It is relative to the largest output of the network, if that output is above 1.
"""

BATCHES = (1, 3, 8)
"""The batch sizes with which a program is checked."""


class Labelled(nn.Module):
    """Wraps a network so that its inputs are called x, condition and label."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, condition: Tensor, label: Tensor) -> Tensor:
        """Return the output of the network for x (B, C, H, W), condition (B,) and label (B,)."""
        return self.net(x, condition, label)


class Unlabelled(Labelled):
    """Wraps a network without class labels so that its inputs are called x and condition."""

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        """Return the output of the network for x (B, C, H, W) and condition (B,)."""
        return self.net(x, condition)


def write_onnx(model: Model, conditions: Sequence[float], path: Path) -> None:
    """Write the network of a model as ONNX, for any batch size, and check the file with onnxruntime.

    Args:
        model: the model, in eval mode on the CPU.
        conditions: values of the network's second input, with which the program is checked.
        path: the new file.

    Raises:
        UserError: if a package of the extra `onnx` is missing, the network cannot be exported, or the program
            gives other outputs.
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
    with _explain_exporter(model):
        program = torch.onnx.export(traced, dynamo=True, verbose=False, output_names=[OUTPUT])
        if program is None:
            raise UserError("the network cannot be written as ONNX")
        program.save(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        given = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=False)}
        return torch.from_numpy(session.run([OUTPUT], given)[0])

    check_program(model, conditions, run)


def trace_network(model: Model) -> torch.export.ExportedProgram:
    """Return the network of a model as a program of `torch.export`, for 1 to 65,536 images.

    Raises:
        UserError: if the model is conditioned on vectors, or torch.export cannot follow its code.
    """
    if model.vector:
        raise UserError("a run that is conditioned on vectors of numbers cannot be exported")
    batch = torch.export.Dim("batch", min=1, max=65536)
    inputs = _draw_inputs(model, 3, [0.5])
    net = (Labelled if model.classes else Unlabelled)(model.net)
    shapes = tuple({0: batch} for _ in inputs)
    with _explain_exporter(model), torch.no_grad():
        return torch.export.export(net.eval(), tuple(inputs), dynamic_shapes=shapes)


@torch.no_grad()
def check_program(
    model: Model, conditions: Sequence[float], run: Callable[[Sequence[Tensor]], Tensor]
) -> None:
    """Compare a program with the network of a model, in float32, for each number of images in `BATCHES`.

    Args:
        model: the model.
        conditions: values of the network's second input, such as those of the sampling steps.
        run: the program, a function from the inputs of the network to its output.

    Raises:
        UserError: if an output differs by more than `TOLERANCE`, or is not finite.
    """
    for count in BATCHES:
        inputs = _draw_inputs(model, count, conditions)
        wanted, output = model.net(*inputs), run(inputs)
        largest = max(1.0, wanted.abs().max().item())
        difference = (output - wanted).abs().max().item() if output.shape == wanted.shape else torch.inf
        if not difference <= TOLERANCE * largest:
            raise UserError(
                "the program gives other outputs than the network, so nothing was written: the largest "
                f"difference for {count} images is {difference:.3g}, and the largest output is {largest:.3g}"
            )


def _draw_inputs(model: Model, count: int, conditions: Sequence[float]) -> list[Tensor]:
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
def _explain_exporter(model: Model) -> Generator[None]:
    """Hide what torch's exporters print inside the block, and say which network they cannot export."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    # The exporters run the code of any network, which may raise anything.
    except Exception as error:
        if isinstance(error, UserError | OSError) or is_full_disk(error) or is_full_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"network {type(model.net).__name__} cannot be exported by torch.onnx "
            f"({type(error).__name__}: {reason})"
        ) from error
    finally:
        logger.setLevel(level)
