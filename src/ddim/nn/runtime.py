"""The runtime of a network: device, precision, memory format, compilation, threads, micro-batch.

A training run chooses its runtime once, by measurements on this machine, and stores it, because results
depend on it in the last bits.
"""

from __future__ import annotations

import math
import platform
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from ddim.errors import UserError, format_count, to_int
from ddim.nn.compiler_cache import secure_compiler_cache
from ddim.nn.compilers import can_compile
from ddim.nn.cores import CoreMeter, choose_threads, count_allowed, measure_others

Precision = Literal["fp32", "bf16"]
M = TypeVar("M", bound=nn.Module)
MOST_THREADS = 1024
"""The largest number of threads.

It may exceed the number of cores of this machine, because a run that began on a larger machine keeps its
threads.
"""
LONGER = 3.0
"""Seconds for which the use of cores by other programs is measured before a run gets fewer threads."""
COMPILE_PAYS_AFTER = 300.0
"""Seconds that training must take for compilation to save time; compilation takes a minute on two cores."""


class _Outer(threading.local):
    """Holds (threads, convolution precision) to restore at the end of each open runtime, innermost last."""

    def __init__(self) -> None:
        self.settings: list[tuple[int, str]] = []


_outer = _Outer()


@dataclass(frozen=True)
class Runtime:
    """How a network runs. Images are sampled in batches of exactly `micro_batch`.

    `with runtime:` sets the number of torch's threads, and full float32 precision for convolutions. Both are
    restored at the end of the block. Runtimes may be nested.

    Attributes:
        device: a torch device, such as "cpu" or "cuda".
        precision: "fp32", or "bf16" for autocast.
        channels_last: whether weights and images are in channels_last memory format.
        compile: whether networks are compiled by torch.compile.
        threads: torch's threads on the CPU.
        micro_batch: images per forward pass of sampling.
        recompute: whether training recomputes the activations of each block in the backward pass.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    threads: int = 1
    micro_batch: int = 16
    recompute: bool = False

    def __post_init__(self) -> None:
        check_threads(self.threads)
        # JSON and torch refuse numbers of NumPy.
        object.__setattr__(self, "threads", int(self.threads))

    def __enter__(self) -> Self:
        """Set the number of threads and the precision of convolutions."""
        _outer.settings.append((torch.get_num_threads(), _convolutions().fp32_precision))
        torch.set_num_threads(self.threads)
        # By default Nvidia's GPUs convolve in TF32, with 10 bits of mantissa, even in `ExactConv2d`. "ieee"
        # is full float32.
        _convolutions().fp32_precision = "ieee"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the caller's number of threads and precision."""
        threads, _convolutions().fp32_precision = _outer.settings.pop()
        torch.set_num_threads(threads)

    def describe(self) -> str:
        """Return the runtime of a training in words, such as "cpu, bf16, 2 threads, compiled"."""
        text = f"{self.device}, {self.precision}, {format_count(self.threads, 'thread')}"
        text += ", compiled" if self.compile else ""
        return text + (", activations recomputed" if self.recompute else "")

    def place(self, model: M) -> M:
        """Move the model, in place, to the device and memory format of this runtime; return it."""
        model.to(self.device)
        # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    @property
    def exact_device(self) -> str:
        """The device for float64 tensors: `device`, or the CPU if `device` has no float64."""
        return "cpu" if self.device.startswith("mps") else self.device

    def send(self, x: Tensor) -> Tensor:
        """Return a copy of a CPU tensor on `exact_device`, without waiting until the copy is done."""
        x = x.pin_memory() if self.device.startswith("cuda") else x
        return x.to(self.exact_device, non_blocking=True)

    def move(self, x: Tensor) -> Tensor:
        """Return a tensor on the device, without waiting until the copy is done if this is safe."""
        # On Apple's GPUs such a copy of a temporary tensor can have wrong values: its memory is reused early.
        return x.to(self.device, non_blocking=not self.device.startswith("mps"))

    def images(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) on the device and in the memory format of this runtime."""
        x = self.move(x)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    @contextmanager
    def precise(self) -> Generator[None]:
        """Return a context for a forward pass, with bf16 autocast if `precision` is "bf16"."""
        kind, enabled = self.device.split(":")[0], self.precision == "bf16"
        # Cast weights are not cached: the cache could outlive a training step, which changes the weights.
        with self, torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=False):
            yield

    def compiled(self, net: nn.Module, *, frozen: bool = False) -> nn.Module:
        """Return the network, compiled by torch.compile if `compile` is set; the weights are shared.

        Set `frozen` only if the weights never change again: on a CPU they then become constants of the
        compiled program (see `Compiled`).
        """
        if not self.compile:
            return net
        secure_compiler_cache()
        return Compiled(torch.compile(net), frozen=frozen and self.device == "cpu")  # type: ignore[arg-type]


def _convolutions() -> Any:  # noqa: ANN401  (torch makes it at import; its annotations leave it out)
    return torch.backends.cudnn.conv  # pyrefly: ignore[missing-attribute]


class Compiled(nn.Module):
    """A network compiled by torch.compile.

    If `frozen` is set, weights are cast and laid out once, during compilation, and not at each call. The
    weights must not change afterwards. Calls that record gradients do not use frozen weights.
    """

    def __init__(self, compiled: nn.Module, *, frozen: bool = False) -> None:
        super().__init__()
        self.compiled, self.frozen = compiled, frozen
        self.called: set[bool] = set()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute of the network)
        """Return an attribute of the network, such as its number of classes."""
        own = super().__getattr__
        return own(name) if name == "compiled" else getattr(own("compiled"), name)

    def forward(self, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401  (whatever the network takes)
        """Apply the network."""
        from torch._inductor import config  # this import takes two seconds

        # torch compiles at the first call with gradients, and again at the first call without.
        gradients = torch.is_grad_enabled()
        first = gradients not in self.called
        self.called.add(gradients)
        with (
            warnings.catch_warnings() if first else nullcontext(),
            config.patch(freezing=not gradients) if self.frozen else nullcontext(),
        ):
            if first:
                # The compiler's warnings about its own code do not help the user.
                warnings.filterwarnings("ignore", module=r"torch\._(inductor|dynamo).*")
            return self.compiled(*args, **options)


def choose_runtime(
    device: str = "auto",
    precision: str = "auto",
    compiling: bool | None = None,
    threads: int | None = None,
    seconds: float = 0.0,
    size: tuple[int, int] = (64, 64),
) -> Runtime:
    """Return a runtime for a training run; options that are not given are chosen for this machine.

    Args:
        device: a device; "auto" is the accelerator if there is one, else the CPU.
        precision: "fp32" or "bf16"; "auto" is bf16 if the device is faster with it (see `_bf16_pays`).
        compiling: whether to compile; None compiles if torch can and the run is long enough.
        threads: number of threads; None is the number of cores that other programs leave free.
        seconds: the expected duration of the run in seconds.
        size: height and width of the images. Large images get small micro-batches on Nvidia's GPUs.

    Raises:
        UserError: if this machine lacks the device, or an argument is invalid.
    """
    check_runtime(device, precision, threads)
    device = find_device(device)
    if threads is None:
        cores, meter = count_cores(), CoreMeter()
        # The measurement takes half a second, and one core gets one thread in any case.
        others = measure_others(meter) if device == "cpu" and cores > 1 else 0.0
        threads = choose_threads(cores, others)
        if threads < cores:
            # A program that ran for a moment must not cost the run a thread.
            threads = choose_threads(cores, measure_others(meter, LONGER))
    if precision == "auto":
        with Runtime(threads=threads):
            precision = "bf16" if _bf16_pays(device) else "fp32"
    if compiling is None:
        compiling = seconds >= COMPILE_PAYS_AFTER and can_compile(device)
    # With recipe edm, the activations of 64 images of 256 pixels fill 46 GiB, more than many GPUs have. So a
    # micro-batch has at most as many pixels as 64 images of 64 x 64, but at least one image.
    micro_batch = max(1, min(64, 2**18 // math.prod(size))) if device.startswith("cuda") else 16
    chosen: Precision = "bf16" if precision == "bf16" else "fp32"
    return Runtime(device, chosen, not device.startswith("mps"), compiling, threads, micro_batch)


def check_runtime(device: str, precision: str, threads: int | None) -> None:
    """Check the arguments of `choose_runtime`, before time is spent on anything else.

    Raises:
        UserError: if this machine lacks the device, or an argument is invalid.
    """
    find_device(device)
    check_threads(threads)
    if precision not in ("auto", "fp32", "bf16"):
        raise UserError(f"precision must be auto, fp32 or bf16, got {precision!r}")


def check_threads(threads: int | None) -> None:
    """Check a number of threads; None is allowed.

    Raises:
        UserError: if the number is too small or too large.
    """
    if threads is not None and not 1 <= to_int("threads", threads) <= MOST_THREADS:
        raise UserError(f"threads must be at least 1 and at most {MOST_THREADS}, got {threads}")


@contextmanager
def limit_threads(threads: int | None) -> Generator[None]:
    """Set the number of torch's threads inside the block; None changes nothing.

    Raises:
        UserError: if the number is too small or too large.
    """
    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def count_cores() -> int:
    """Return the number of physical cores that this process may use.

    The result is at most the number of threads that torch uses outside all runtimes. By default torch uses no
    hyper-threads, where it recognises them. The caller may have set a smaller number.
    """
    outside = _outer.settings[0][0] if _outer.settings else torch.get_num_threads()
    return max(1, min(count_allowed(), outside))


def find_device(wanted: str) -> str:
    """Return the device for `wanted`; "auto" is the accelerator if there is one, else "cpu".

    Raises:
        UserError: if this machine has no such device.
    """
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


def _bf16_pays(device: str) -> bool:
    """Return whether a device computes in bf16 faster than in fp32.

    On x86 the features of the processor decide, so the result does not depend on other programs. On other
    processors it is measured: a training step of a 3x3 convolution must be at least 1.3 times as fast.
    """
    if device.startswith("mps"):
        return False
    if device.startswith("cuda"):
        with torch.cuda.device(device):  # torch answers for the current GPU.
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    # Drawing initial weights must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        conv = Runtime().place(nn.Conv2d(64, 64, 3, padding=1))
    x = Runtime().images(torch.ones(8, 64, 32, 32))

    def step(enabled: bool) -> float:
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = conv(x)
        # The output serves as its own gradient: a loss would add the same cost to both precisions.
        y.backward(y.detach())
        return time.perf_counter() - begin

    # The two precisions are timed in turn, so that other programs slow both equally. The first pair, which
    # allocates memory, does not count.
    pairs = [(step(False), step(True)) for _ in range(8)][1:]
    return min(plain for plain, _ in pairs) > 1.3 * min(rounded for _, rounded in pairs)
