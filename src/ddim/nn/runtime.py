"""How any network is run: device, precision, memory format, compiler, threads, micro-batch.

Chosen once a run, from trials and not from tables of processors, and written down: bits depend on it.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ddim.errors import UserError
from ddim.nn import allocator as memory

Precision = Literal["fp32", "bf16"]
M = TypeVar("M", bound=nn.Module)
MOST_THREADS = 1024
"""More than this machine may have: bits depend on the threads, and those of a larger one can be had here."""
COMPILE_PAYS_AFTER = 300.0
"""Seconds of training under which compiling, about a minute on two cores, is not repaid."""


@dataclass(frozen=True)
class Runtime:
    """How a network is run. `micro_batch` images are sampled at a time, always that many."""

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    threads: int = 1
    micro_batch: int = 16

    def start(self) -> None:
        """Take the threads, memory that is kept, and float32 that is float32, for the whole process."""
        torch.set_num_threads(self.threads)
        memory.keep()
        # Left alone, convolutions on Nvidia's cards keep 10 bits, and with them a network's exact path.
        # pyrefly: ignore[missing-attribute] torch makes it at import
        torch.backends.cudnn.conv.fp32_precision = "ieee"

    def place(self, model: M) -> M:
        """The model on its device and in its memory format, in place."""
        model.to(self.device)
        # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def images(self, x: Tensor) -> Tensor:
        """(B, C, H, W) on the device and in the memory format."""
        x = x.to(self.device, non_blocking=True)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def precise(self) -> AbstractContextManager[Any]:
        """The context of a forward pass: bf16 autocast or float32."""
        enabled = self.precision == "bf16"
        # The cache of cast weights would outlive a step in which they change under no_grad.
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=enabled, cache_enabled=False)

    def compiled(self, net: nn.Module, *, frozen: bool = False) -> nn.Module:
        """The network through torch.compile where this runtime compiles; it shares the weights.

        `frozen`: it never learns again. Processors then keep its weights as `Frozen` does.
        """
        if not self.compile:
            return net
        # The first compilation's notes on the compiler are of no use to the one who trains.
        warnings.filterwarnings("ignore", module=r"torch\._(inductor|dynamo).*")
        compiled: nn.Module = torch.compile(net)  # type: ignore[assignment]
        return Frozen(compiled) if frozen and self.device == "cpu" else compiled


class Frozen(nn.Module):
    """A compiled network whose weights are part of the program: rounded and laid out once, not at each call.

    They must not change any more. Where gradients are asked for it is the compiled network, not frozen.
    """

    def __init__(self, compiled: nn.Module) -> None:
        super().__init__()
        self.compiled = compiled

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the network has)
        """What is asked of the network beside its output, such as its number of classes."""
        own = super().__getattr__
        return own(name) if name == "compiled" else getattr(own("compiled"), name)

    def forward(self, *args: Any, **told: Any) -> Tensor:  # noqa: ANN401  (whatever the network takes)
        """As the network."""
        from torch._inductor import config  # two seconds, for those who compile

        # The compiler looks at it when it is first called, with gradients and without.
        with config.patch(freezing=not torch.is_grad_enabled()):
            return self.compiled(*args, **told)


def choose(
    device: str = "auto",
    precision: str = "auto",
    compiling: bool | None = None,
    threads: int | None = None,
    seconds: float = 0.0,
) -> Runtime:
    """The runtime for a run of about `seconds`; what is given is kept, the rest is tried out.

    UserError for a device, precision or number of threads that is not there.
    """
    check(device, precision, threads)
    device = find_device(device)
    threads = threads or _physical_cores()
    torch.set_num_threads(threads)
    if precision == "auto":
        precision = "bf16" if _bf16_pays(device) else "fp32"
    if compiling is None:
        compiling = _has_compiler(device) and seconds >= COMPILE_PAYS_AFTER
    micro_batch = 64 if device.startswith("cuda") else 16
    chosen: Precision = "bf16" if precision == "bf16" else "fp32"
    return Runtime(device, chosen, device != "mps", compiling, threads, micro_batch)


def check(device: str, precision: str, threads: int | None) -> None:
    """UserError for what `choose` cannot use, before anything is spent on it."""
    find_device(device)
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads must be at least 1 and at most {MOST_THREADS}, got {threads}")
    if precision not in ("auto", "fp32", "bf16"):
        raise UserError(f"precision must be auto, fp32 or bf16, got {precision!r}")


def find_device(wanted: str) -> str:
    """The device of a name, "auto" the accelerator if there is one; UserError if this machine has it not."""
    accelerator = torch.accelerator.current_accelerator()
    found = accelerator.type if accelerator is not None and torch.accelerator.is_available() else "cpu"
    if wanted == "auto":
        return found
    possible = ["cpu"]
    if found != "cpu":
        possible += [found, *(f"{found}:{k}" for k in range(torch.accelerator.device_count()))]
    if wanted not in possible:
        raise UserError(f"device must be one of auto, {', '.join(possible)} on this machine, got {wanted!r}")
    return wanted


def _physical_cores() -> int:
    """Cores this process may use, without their second threads where the system tells."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, torch.get_num_threads()))


def _has_compiler(device: str) -> bool:
    if device.startswith("cuda"):
        from importlib.util import find_spec

        return find_spec("triton") is not None
    return device == "cpu" and any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def _bf16_pays(device: str) -> bool:
    """Whether a training step of a 3x3 convolution is at least 1.3 times as fast under bf16 autocast."""
    if device == "mps":
        return False
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Initial weights are drawn from the caller's stream, which must not notice.
    with torch.random.fork_rng(devices=[]):
        conv = Runtime().place(nn.Conv2d(64, 64, 3, padding=1))
    x = Runtime().images(torch.ones(8, 64, 32, 32))

    def seconds(enabled: bool) -> float:
        def step() -> float:
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = conv(x)
            # Its own output as the gradient: a loss would add what costs the same in both.
            y.backward(y.detach())
            return time.perf_counter() - begin

        step()
        return min(step() for _ in range(4))

    return seconds(False) > 1.3 * seconds(True)
