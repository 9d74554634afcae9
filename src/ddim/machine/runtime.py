"""How networks run on this computer: device, precision, compilation, threads, micro-batch.

A training run chooses its runtime once and stores it, because results depend on it in the last bits. Only the
number of threads is chosen again at each validation.
"""

import math
import os
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from ddim.errors import UserError, check_choice, check_count, format_count, warn_user
from ddim.files import cache_folder, make_folder

Precision = Literal["fp32", "bf16"]
M = TypeVar("M", bound=nn.Module)

COMPILE_PAYS_AFTER = 300.0
"""Seconds that training on an accelerator must take for compilation to save time."""

COMPILE_PAYS_AFTER_ON_CPU = 1800.0
"""The same for a CPU. There compilation takes minutes, and may gain nothing: see docs/results/fast.md."""

TOLERATED = 0.3
"""Number of cores that other programs may use before this program uses one thread less.

An idle desktop uses about this much.
"""

_outer = threading.local()
"""Its `threads` are torch's threads outside each open runtime of a Python thread, innermost last."""

_open: list[str] = []
"""The precision of convolutions outside the first open runtime of the process, once for each open runtime."""

_opening = threading.Lock()

_convolutions: Any = torch.backends.cudnn.conv  # pyrefly: ignore[missing-attribute] (made at import)


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
        check_count("threads", self.threads)
        object.__setattr__(self, "threads", int(self.threads))  # a number of NumPy is no JSON

    def __enter__(self) -> Self:
        """Set the number of threads and the precision of convolutions."""
        _outer.threads = [*getattr(_outer, "threads", ()), torch.get_num_threads()]
        torch.set_num_threads(self.threads)
        # By default Nvidia's GPUs convolve in TF32, with 10 bits of mantissa, even in `ExactConv2d`. "ieee"
        # is full float32. The process has one precision, so the last open runtime restores it.
        with _opening:
            _open.append(_open[0] if _open else _convolutions.fp32_precision)
            _convolutions.fp32_precision = "ieee"
        return self

    def __exit__(self, *_error: object) -> None:
        """Restore the caller's number of threads and precision."""
        torch.set_num_threads(_outer.threads.pop())
        with _opening:
            outside = _open.pop()
            if not _open:
                _convolutions.fp32_precision = outside

    def describe(self) -> str:
        """Return the runtime of a training in words, such as "cpu, bf16, 2 threads, compiled"."""
        facts = [self.device, self.precision, format_count(self.threads, "thread")]
        facts += ["compiled"] * self.compile + ["activations recomputed"] * self.recompute
        return ", ".join(facts)

    def place(self, model: M) -> M:
        """Move the model, in place, to the device and memory format of this runtime; return it."""
        # pyrefly: ignore[no-matching-overload] torch's annotations leave memory_format out
        return model.to(self.device, memory_format=torch.channels_last if self.channels_last else None)

    @property
    def exact_device(self) -> str:
        """The device for float64 tensors: `device`, or the CPU if `device` has no float64."""
        return "cpu" if self.device.startswith("mps") else self.device

    def send(self, x: Tensor) -> Tensor:
        """Return a CPU tensor on `exact_device`, without waiting until the copy is done."""
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
        """Return the network, compiled if `compile` is set and torch can compile; the weights are shared.

        Set `frozen` only if the weights never change again. On a CPU they then become constants of the
        compiled program: they are cast and laid out once, and not at each call.
        """
        if not (self.compile and can_compile(self.device)):
            return net
        compiled: Any = torch.compile(net)
        if frozen and self.device == "cpu":
            from torch._inductor import config  # this import takes two seconds

            # Calls that record gradients ignore this.
            compiled.forward = config.patch(freezing=True)(compiled.forward)
        return compiled


@cache
def can_compile(device: str) -> bool:
    """Return whether torch can compile for a device, by trying it; warn if not.

    torch needs a private cache folder, a C++ compiler and the header files of Python; on GPUs also Triton.
    """
    try:
        secure_compiler_cache()
        with warnings.catch_warnings(action="ignore"):
            torch.compile(lambda x: x.exp().sum())(torch.ones(64, device=device))
    except Exception as error:  # noqa: BLE001  (what fails depends on the missing part)
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        warn_user(f"torch cannot compile networks here, so training is slower ({reason})")
        return False
    return True


def secure_compiler_cache() -> None:
    """Make torch.compile use a cache folder that only this user can write to, in the whole process.

    torch runs the pickles and libraries that it finds there. By default it uses ``torchinductor_USER`` in the
    shared temporary folder, a name that any user of the machine can create first. This function replaces it
    by ``compiler`` in the cache folder. A folder that the user has set with $TORCHINDUCTOR_CACHE_DIR is kept.

    Raises:
        UserError: if other users could write to ``compiler``.
    """
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch keeps precompiled headers in the shared folder in any case.
    config.cpp_cache_precompile_headers = False
    # torch itself sets the variable to its default folder.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) != default_cache_dir():
        return
    folder = cache_folder() / "compiler"
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    # On Windows the cache folder is in the user's profile.
    if os.name != "nt" and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        raise UserError(f"other users can write to {folder}: remove it, or set DDIM_CACHE to another folder")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


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
        precision: "fp32" or "bf16"; "auto" is bf16 if the device has units for it.
        compiling: whether to compile; None compiles if the run is long enough. If torch cannot compile, a
            warning says so.
        threads: number of threads; None is the number of cores that other programs leave free.
        seconds: the expected duration of the run in seconds.
        size: height and width of the images. Large images get small micro-batches on Nvidia's GPUs.

    Raises:
        UserError: if this machine lacks the device, or an argument is invalid.
    """
    device = check_runtime(device, precision, threads)
    if threads is None:
        threads, meter = count_cores(), CoreMeter()
        if device == "cpu" and threads > 1:
            time.sleep(1)
            threads = choose_threads(threads, meter.others())
    chosen: Precision = "bf16" if precision == "bf16" or precision == "auto" and _has_bf16(device) else "fp32"
    if compiling is None:
        least = COMPILE_PAYS_AFTER_ON_CPU if device == "cpu" else COMPILE_PAYS_AFTER
        compiling = seconds >= least and not device.startswith("mps")
    compiling = compiling and can_compile(device)
    # With recipe edm, the activations of 64 images of 256 pixels fill 46 GiB, more than many GPUs have. So a
    # micro-batch has at most as many pixels as 64 images of 64 x 64, but at least one image.
    micro_batch = max(1, min(64, 2**18 // math.prod(size))) if device.startswith("cuda") else 16
    return Runtime(device, chosen, not device.startswith("mps"), compiling, threads, micro_batch)


def check_runtime(device: str, precision: str, threads: int | None) -> str:
    """Return the device, see `find_device`, after checking the arguments of `choose_runtime`.

    Raises:
        UserError: if this machine lacks the device, or an argument is invalid.
    """
    if threads is not None:
        check_count("threads", threads)
    check_choice("precision", precision, ("auto", "fp32", "bf16"))
    return find_device(device)


def find_device(wanted: str) -> str:
    """Return the device for `wanted`; "auto" is the accelerator if there is one, else "cpu".

    Raises:
        UserError: if this machine has no such device.
    """
    kind = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    numbered = [f"{kind}:{k}" for k in range(torch.accelerator.device_count())]
    check_choice("device", wanted, dict.fromkeys(["auto", "cpu", kind, *numbered]))
    return kind if wanted == "auto" else wanted


def _has_bf16(device: str) -> bool:
    """Return whether a device has units for bf16, by the features of its processor."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):  # torch answers for the current GPU.
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def count_cores() -> int:
    """Return the number of cores that this process may use: at most torch's threads outside all runtimes.

    The caller may have set a smaller number than that of the cores.
    """
    outside, *_ = [*getattr(_outer, "threads", ()), torch.get_num_threads()]
    return min(count_allowed(), outside)


def count_allowed() -> int:
    """Return the number of physical cores that the affinity and the cgroup of this process allow."""
    # Hyper-threads of one core have the same siblings.
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = len({read_system_file(siblings.format(k), str(k)) for k in _list_processors()})
    quota, period = read_system_file("/sys/fs/cgroup/cpu.max", "max 1").split()
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


def _list_processors() -> set[int]:
    """Return the indices of the processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {*range(os.cpu_count() or 1)}


def read_system_file(path: str, default: str = "") -> str:
    """Return the text of a file in which Linux describes itself, or `default` on other systems."""
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return default


class CoreMeter:
    """Measures how many cores other programs use, on average since its creation.

    On systems without /proc/stat it measures 0.
    """

    def __init__(self) -> None:
        self.began, self._before = time.monotonic(), _seconds_of_others()

    def others(self) -> float:
        """Return the mean number of cores that other programs have used."""
        return max(0.0, (_seconds_of_others() - self._before) / max(1e-3, time.monotonic() - self.began))


def _seconds_of_others() -> float:
    """Return the seconds for which other processes have used the allowed processors since the system started.

    Processes of low priority (nice above 0) leave this process the cores that it needs, so they do not count.
    """
    names = {f"cpu{k}" for k in _list_processors()}
    lines = [line.split() for line in read_system_file("/proc/stat").splitlines()]
    # The columns are the ticks in user mode, of low priority, in the kernel, idle, waiting, and so on.
    ticks = [int(line[k]) for line in lines if line[0] in names for k in (1, 3, 6, 7, 8)]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4]) if ticks else 0.0


def choose_threads(cores: int, others: float) -> int:
    """Return how many threads to use so that each has a core that other programs leave free; at least 1.

    If one thread has no core of its own, all other threads wait for it. In the backward pass of convolutions,
    waiting threads spin and so occupy cores. On two cores that two other programs use, training with two
    threads has a tenth of the speed of training with one.

    Args:
        cores: number of cores.
        others: cores that other programs use.
    """
    taken = max(0, math.ceil(others - TOLERATED))
    # A compiled network is compiled anew for each number of threads. To have few different numbers, the
    # number is rounded down to a multiple of a quarter of the cores.
    unit = max(1, cores // 4)
    return max(1, (cores - taken) // unit * unit) if taken else cores
