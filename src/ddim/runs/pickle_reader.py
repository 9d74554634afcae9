"""Turn a checkpoint that torch pickled into a safetensors file, in a separate process.

`python -m ddim.runs.pickle_reader CHECKPOINT OUT` does this; `ddim.runs.tensor_file` calls it. Three
restrictions make this safe. torch reads only tensors and plain values. The process may use little more memory
and time than the file needs, if the system has such limits. It cannot start programs, connect to other
machines or write other files.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

MOST_TENSORS, LONGEST_NAME, DEEPEST = 100_000, 300, 4
"""Limits of a checkpoint: number of tensors, characters of a name, and levels of nested dictionaries."""

SLACK = 2**29
"""Bytes of memory that the process may use in addition to a multiple of the size of the file."""

REFUSED = 3
"""The exit code of this process if the file cannot be read. The process has then printed the reason."""

_SKIPPED = ("opt", "optimizer", "scaler")
"""Dictionaries of a checkpoint that hold no weights."""

_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "shutil.",
    "socket.",
    "subprocess.",
    "pty.",
    "webbrowser.",
    "ctypes.",
)


def convert_pickle(path: str, out: str) -> int:
    """Write the tensors of the checkpoint `path` to the file `out`, and return the exit code.

    Tensors in nested dictionaries get names with slashes, such as "ema/model.weight". Other values are left
    out.
    """
    # These imports are here, because the limit of the memory is in addition to what torch needs.
    import torch
    from safetensors.torch import save_file

    size = os.path.getsize(path)
    _limit(size)
    sys.addaudithook(_Guard(out))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(_flatten(content))
        _check_sizes(found, size)
        plain = {name: value.detach().contiguous().clone() for name, value in found.items()}
        save_file(plain, out)
    except MemoryError:
        return _refuse("it needs far more memory than its size")
    except _Refused as error:
        return _refuse(str(error))
    # A damaged or hostile file can raise anything.
    except Exception as error:
        return _refuse(
            "it needs far more memory than its size"
            if "memory" in str(error)
            else f"it is damaged, or holds more than tensors and plain values ({type(error).__name__})"
        )
    return 0


class _Refused(Exception):  # noqa: N818
    """The content cannot be used; the message says why."""


class _Guard:
    """An audit hook that ends the process if it starts a program, opens a connection or writes another file.

    Only the file `out` may be written.
    """

    def __init__(self, out: str) -> None:
        self.out = os.path.realpath(out)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN) or (event == "open" and self._writes(*args)):
            # An exception could be caught by code in the file; the end of the process cannot.
            _refuse("it tries to run code")
            os._exit(REFUSED)

    def _writes(self, path: object, mode: object = None, flags: object = 0) -> bool:
        writing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        writing = writing or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))
        return bool(writing) and (not isinstance(path, str) or os.path.realpath(path) != self.out)


def _limit(size: int) -> None:
    """Limit the memory, processor time and output of this process for a file of `size` bytes."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    with open("/proc/self/statm" if os.path.exists("/proc/self/statm") else os.devnull) as file:
        pages = file.read().split()
    used = int(pages[0]) * resource.getpagesize() if pages else 2**34
    for kind, most in (
        (resource.RLIMIT_AS, used + 4 * size + SLACK),
        (resource.RLIMIT_CPU, 60 + size // 10**7),
        (resource.RLIMIT_FSIZE, size + 2**26),
    ):
        _, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (OSError, ValueError):
            # macOS accepts no limit below its address space, which is hundreds of GiB at the start.
            if kind != resource.RLIMIT_AS:
                raise


def _flatten(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the names and values of the tensors in nested dictionaries."""
    import torch

    if not isinstance(content, Mapping):
        raise _Refused("it is not a dictionary of tensors")
    if depth == DEEPEST:
        raise _Refused(f"its dictionaries are nested more than {DEEPEST} deep")
    for count, (name, value) in enumerate(content.items()):
        if count > MOST_TENSORS:
            raise _Refused(f"it holds more than {MOST_TENSORS:,} entries")
        if not isinstance(name, str) or (depth == 0 and name in _SKIPPED):
            continue
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise _Refused(
                f"the pickle has a name that is not printable, or longer than {LONGEST_NAME} characters"
            )
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{place}{name}/", depth + 1)
        elif isinstance(value, torch.Tensor):
            yield place + name, value


def _check_sizes(found: Mapping[str, Any], size: int) -> None:
    """Check that all tensors are dense, and together not larger than a file of `size` bytes."""
    import torch

    total = 0
    for name, value in found.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or not (
            value.is_floating_point() or value.dtype in (torch.int64, torch.int32, torch.bool)
        ):
            raise _Refused(f"{name} is not a plain tensor of numbers")
        total += math.prod(value.shape) * value.element_size()
    if len(found) > MOST_TENSORS or total > size:
        raise _Refused("it has too many tensors, or they are larger than the file")


def _refuse(reason: str) -> int:
    """Print the reason as JSON, and return the exit code."""
    os.write(1, json.dumps({"reason": reason}).encode())
    return REFUSED


if __name__ == "__main__":
    sys.exit(convert_pickle(*sys.argv[1:3]))
