"""Read the tensors of files that others wrote: safetensors, and checkpoints that torch pickled.

No code in such a file is run, and the size of the file limits the memory that is used. Names and shapes are
known before tensors are read, so that a caller can refuse a file that does not fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.errors import UserError
from ddim.runs.pickle_reader import MOST_TENSORS, REFUSED

LARGEST = 2**34
"""The largest file that is read, in bytes."""

MOST_WEIGHTS = 2**31
"""The largest number of weights of a network that is read."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors, keyed by name."""


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors.

    Attributes:
        path: the path that the user gave, for messages.
        shapes: the shape of each tensor, keyed by name.
        content: reads a tensor by its name.
    """

    path: Path
    shapes: Shapes
    content: Callable[[str], Tensor] = field(repr=False)

    def read(self, name: str) -> Tensor:
        """Return a tensor as float32.

        Raises:
            UserError: if the tensor contains NaN or an infinity.
        """
        value = self.content(name).float()
        if not value.isfinite().all():
            raise UserError(f"{self.path} cannot be used: {_show(name)} has infinite numbers or NaN")
        return value

    def within(self, prefix: str) -> TensorFile:
        """Return the part of the file whose names begin with `prefix`; the new names lack this prefix."""
        inner = {name[len(prefix) :]: shape for name, shape in self.shapes.items() if name.startswith(prefix)}
        return TensorFile(self.path, inner, lambda name: self.content(prefix + name))


@contextmanager
def open_tensors(path: Path) -> Generator[TensorFile]:
    """Yield an open file of tensors, which is closed at the end of the block.

    A file with the ending .safetensors is read as safetensors, and any other file as a checkpoint of torch.
    Another process first turns such a checkpoint into safetensors; see `ddim.runs.pickle_reader`.

    Raises:
        UserError: if the file cannot be read, or holds more than tensors and plain values.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        with _open_safetensors(path, path) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="ddim-") as folder:
        plain = Path(folder) / "tensors.safetensors"
        _unpickle(path, plain)
        with _open_safetensors(plain, path) as found:
            yield found


def fill_weights(
    file: TensorFile, state: Mapping[str, Tensor], translate: Callable[[str], Sequence[str]]
) -> dict[str, Tensor]:
    """Return the tensors of a file with the names and shapes of a network's state.

    Args:
        file: the tensors.
        state: the state of the network; it can be on the device "meta".
        translate: maps the name of a weight in `state` to its possible names in the file.

    Raises:
        UserError: if a tensor is missing, is not finite, has no place in the network, or has another shape,
            in which axes of length 1 do not count.
    """
    left, filled = dict(file.shapes), {}
    for name, like in state.items():
        there = next((other for other in translate(name) if other in left), None)
        if there is None:
            raise UserError(f"{file.path} does not fit: it has no weight {translate(name)[0]}")
        shape = tuple(left.pop(there))
        # 1x1 convolutions and their like may have axes of length 1 more or less.
        if [size for size in shape if size > 1] != [size for size in like.shape if size > 1]:
            raise UserError(
                f"{file.path} does not fit: {there} has shape {shape}, but the network has "
                f"{tuple(like.shape)}"
            )
        filled[name] = file.read(there).reshape(like.shape)
    if left:
        raise UserError(f"{file.path} does not fit: the network has no place for {_show(min(left))}")
    return filled


def find_shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of the tensor `name`.

    Raises:
        UserError: if there is no tensor with this name and number of dimensions, or a dimension has length 0.
    """
    shape = shapes.get(name, ())
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"the checkpoint has no weight {name} with {dimensions} dimensions")
    return shape


def check_weight_count(shapes: Shapes, state: Mapping[str, Tensor], path: Path) -> None:
    """Check that a file has as many weights as a network on the device "meta".

    This check comes before memory is used for the weights.

    Raises:
        UserError: if the numbers differ, or the network has more than `MOST_WEIGHTS`.
    """
    wanted = sum(value.numel() for value in state.values())
    found = sum(torch.Size(shape).numel() for shape in shapes.values())
    if wanted > MOST_WEIGHTS or found != wanted:
        raise UserError(f"{path} does not fit: it has {found:,} weights, but the network has {wanted:,}")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a checkpoint, or the folder of a diffusers pipeline")
    size = path.stat().st_size
    if not 8 < size <= LARGEST:
        raise UserError(
            f"{path} must have 9 bytes to {LARGEST / 2**30:.0f} GiB to be imported, got {size:,} bytes"
        )


@contextmanager
def _open_safetensors(path: Path, given: Path) -> Generator[TensorFile]:
    """Open a safetensors file; `given` is the path for messages."""
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(path, framework="pt", device="cpu")
        with opened as file:
            names = list(file.keys())
            if len(names) > MOST_TENSORS:
                raise UserError(f"{given} cannot be used: it holds more than {MOST_TENSORS:,} tensors")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            yield TensorFile(given, shapes, file.get_tensor)
    # A header with a dtype that torch does not have raises KeyError.
    except (OSError, SafetensorError, KeyError, OverflowError, RuntimeError) as error:
        raise UserError(f"{given} cannot be read as safetensors: {_show(str(error))}") from error


def _unpickle(path: Path, out: Path) -> None:
    """Turn a pickled checkpoint into a safetensors file in a process with limited memory and rights."""
    # -P: Python does not search modules in the current folder, which may hold anything.
    command = [sys.executable, "-P", "-m", "ddim.runs.pickle_reader", str(path.resolve()), str(out)]
    seconds = 300 + path.stat().st_size / 10**6
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{path} cannot be read as a checkpoint: it needs too much time") from None
    if done.returncode == 0 and out.is_file():
        return
    reason = "the process that read it ended early, as if it needed far more memory or time than its size"
    if done.returncode == REFUSED:
        reason = json.loads(done.stdout)["reason"]
    raise UserError(f"{path} cannot be read as a checkpoint: {_show(reason)}")


def _show(text: str) -> str:
    """Return a text from a file on one line, without control characters, and not too long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 200 else f"{plain[:200]}..."
