"""Measure training and sampling on one GPU within some minutes: Markdown tables, and results.json.

    python benchmarks/gpu.py [--out gpu-benchmark] [--minutes 10] [--parts training,...] [--data DATA]

The parts, in this order:

    training   recipes luz and fast at 64 pixels, ddpm and edm at 32 pixels (the size of CIFAR-10): images/s
               of training as `ddim train` runs it (compiled), of the bare step of the same compiled network,
               and of training in float32 without compilation
    diffusers  the training step of diffusers' network with the weights of ddpm, if diffusers is installed
    graphs     training compiled with mode="reduce-overhead", which uses CUDA graphs
    recompute  training of ddpm and edm without compilation, without and with `--recompute`
    sampling   images/s of 50 network evaluations by DDIM, without and with compilation
    run        recipe luz, trained on --data at 64 pixels until the time is over, and a sheet of its samples

Training images are noise, because the speed does not depend on them. The FLOPs of a step are those of the
forward and the backward pass. Peaks are measured with large matrix products on the same device, in bf16 and
in float32 without TF32. A measurement that fails or has no time left is listed with the reason. A note gives
the number of compiled programs that could not use CUDA graphs.

--tiny runs the same code on small networks with a trivial compiler, in seconds on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ddim
from ddim.machine.runtime import Runtime, choose_runtime
from ddim.plots.pictures import make_sheet, save_png
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.log import read_metrics
from ddim.sampling.pipeline import Pipeline
from ddim.training import Callback, Machine
from timing import PIXELS, bare_step, pace, sampled, synchronise, training

NAMES = ("luz", "fast", "ddpm", "edm")
PARTS = {"training": 50, "diffusers": 8, "graphs": 14, "recompute": 5, "sampling": 7, "run": 16}
"""The share of the time of each part, in percent. Time that a part does not use goes to the next part."""
EVALUATIONS = 50
WARM_UP = 10
"""Steps of the run that are not timed."""
LEAST_RUN = 45.0
"""The run begins only if so many seconds are left: drawing images and compiling the network take time."""
LAST_SECONDS = 40.0
"""Seconds of the whole time that are reserved for the start of Python and for the samples at the end."""
SMALL = {
    "luz": {"widths": (8,), "middle": (8,), "depth": 1, "embedding": 8},
    "fast": {"widths": (8,), "down": (0,), "up": (1,), "attention": (False,), "embedding": 16},
    "ddpm": {"width": 8, "multipliers": (1,), "attention": (False,), "blocks": 1, "groups": 4},
    "edm": {"width": 8, "multipliers": (1,), "attention": (False,), "blocks": 1, "groups": 4},
}


@dataclass
class Row:
    """One measurement.

    Attributes:
        part: the part of the benchmark.
        recipe: name of the recipe.
        how: what ran.
        batch: images per step.
        images_per_second: the speed; None if it could not be measured.
        first: seconds until the first steps were done, with compilation.
        memory: the most memory that tensors took on the GPU, in GiB; None on a CPU.
        of_peak: share of the measured peak of the device; None for sampling.
        note: why there is no speed, or what else happened.
    """

    part: str
    recipe: str
    how: str
    batch: int
    images_per_second: float | None = None
    first: float | None = None
    memory: float | None = None
    of_peak: float | None = None
    note: str = ""


class Benchmark:
    """The time, the device and the rows of a benchmark."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.began, self.rows, self.run = args, time.monotonic(), [], {}
        self.total = 60 * args.minutes - LAST_SECONDS
        shares = [PARTS[name] for name in args.parts]
        ends = [self.total * done / sum(shares) for done in accumulate(shares)]
        self.ends = dict(zip(args.parts, ends, strict=True))
        self.runtime = choose_runtime(compiling=True)
        self.eager = replace(self.runtime, precision="fp32", compile=False)
        self.peaks: dict[str, float] = {}
        self.flops: dict[str, float] = {}

    def left(self, part: str) -> float:
        """Return the seconds that are left for a part."""
        return self.began + self.ends[part] - time.monotonic()

    def recipe(self, name: str) -> Recipe:
        """Return a named recipe, or its small version."""
        found = find_recipe(name)
        if not self.args.tiny:
            return found
        found = replace(found, net=replace(found.net, **SMALL[name]))
        return override(found, {"data.size": 32, "optim.batch": 4})

    def measure(self, row: Row, build: Callable[[], Callable[[], object]], precision: str | None) -> Row:
        """Build a step and time it; add the row with the result to `rows`, and return it.

        Args:
            row: what runs; its other fields are filled in.
            build: prepares and returns the step.
            precision: the precision of training; None for sampling.
        """
        self.rows.append(row)
        if self.left(row.part) <= 0:
            row.note = "no time left"
            return row
        begin, skips = time.monotonic(), counters["inductor"]["cudagraph_skips"]
        try:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            step = build()
            synchronise()
            row.first = time.monotonic() - begin
            row.images_per_second = pace(step, row.batch, self.args.seconds)
        except Exception as error:  # a failure must not cost the other measurements
            row.note = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:120]
            return row
        if torch.cuda.is_available():
            row.memory = torch.cuda.max_memory_allocated() / 2**30
        if precision:
            row.of_peak = row.images_per_second * self.flops[row.recipe] / self.peaks[precision]
        if skipped := counters["inductor"]["cudagraph_skips"] - skips:
            row.note = f"{skipped} compiled programs without CUDA graphs"
        return row

    def save(self) -> None:
        """Write results.json."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        document = {
            "device": device,
            "torch": torch.__version__,
            "runtime": vars(self.runtime),
            "peaks": self.peaks,
            "flops_per_image": self.flops,
            "rows": [asdict(row) for row in self.rows],
            "run": self.run,
            "seconds": time.monotonic() - self.began,
        }
        self.args.out.mkdir(parents=True, exist_ok=True)
        (self.args.out / "results.json").write_text(json.dumps(document, indent=2) + "\n")


def release() -> None:
    """Release the memory of networks and compiled programs that are not used any more."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def compiling(**options: str):
    """Give torch.compile more options inside the block."""
    with mock.patch.object(torch, "compile", partial(torch.compile, **options)):
        yield


def measure_peak(precision: str, sizes: tuple[int, ...], seconds: float) -> float:
    """Return the FLOP/s of square matrix products, for the best of some sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    found = 0.0
    for n in sizes:
        # A GPU multiplies constants faster than random numbers, because it then draws less power.
        x = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(device, kind)
        out = torch.empty_like(x)
        found = max(found, 2 * n**3 * pace(partial(torch.mm, x, x, out=out), 1, seconds))
    return found


def count_flops(recipe: Recipe, runtime: Runtime) -> float:
    """Return the FLOPs of the forward and backward pass for one image."""
    run = training(recipe, runtime, updates=0)
    # The kernels of fused attention compute some products twice; those do not count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        bare_step(run)()
    return counter.get_total_flops() / recipe.optim.batch


def measure_training(bench: Benchmark) -> None:
    """Measure the training of each recipe."""
    for name in NAMES:
        recipe, run = bench.recipe(name), None
        batch, precision = recipe.optim.batch, bench.runtime.precision

        def whole(runtime: Runtime, recipe: Recipe = recipe) -> Callable[[], object]:
            nonlocal run
            run = training(recipe, runtime)
            return run.advance

        row = partial(Row, "training", name, batch=batch)
        bench.measure(row("as ddim train runs it"), partial(whole, bench.runtime), precision)
        if run is not None:
            bench.measure(row("bare step"), partial(bare_step, run), precision)
        run = None
        release()
        bench.measure(row("float32, not compiled"), partial(whole, bench.eager), "fp32")
        run = None
        release()


def measure_graphs(bench: Benchmark) -> None:
    """Measure the training of each recipe with CUDA graphs."""
    for name in NAMES:
        recipe = bench.recipe(name)
        with compiling(mode="reduce-overhead"):
            bench.measure(
                Row("graphs", name, 'mode="reduce-overhead"', recipe.optim.batch),
                lambda recipe=recipe: training(recipe, bench.runtime).advance,
                bench.runtime.precision,
            )
        release()


def measure_diffusers(bench: Benchmark) -> None:
    """Measure the training step of diffusers' network of the size of ddpm."""
    try:
        from diffusers.utils import logging

        from diffusers_ddpm import pair, runtimes, update

        logging.set_verbosity_error()
        logging.disable_progress_bar()

        recipe = bench.recipe("ddpm")
        with TemporaryDirectory() as folder:
            _, pipeline = pair(recipe, Path(folder))
    except (ImportError, SystemExit) as error:
        bench.rows.append(Row("diffusers", "ddpm", "diffusers", 0, note=str(error)))
        return
    _, _, bf16, fp32, compiled = runtimes(bench.runtime)
    for how, runtime in {
        "diffusers, its script in bf16": bf16,
        "diffusers, its script (float32)": fp32,
        "diffusers, bf16 channels_last compiled": compiled,
    }.items():
        bench.measure(
            Row("diffusers", "ddpm", how, recipe.optim.batch),
            partial(update, pipeline.unet, recipe, runtime),
            runtime.precision,
        )
        release()


def measure_recompute(bench: Benchmark) -> None:
    """Measure the training of the largest networks with activation checkpointing."""
    for name in ("ddpm", "edm"):
        recipe, runtime = bench.recipe(name), replace(bench.runtime, compile=False)
        for recompute in (False, True):
            chosen = replace(runtime, recompute=recompute)
            bench.measure(
                Row("recompute", name, "--recompute" if recompute else "not compiled", recipe.optim.batch),
                lambda recipe=recipe, chosen=chosen: training(recipe, chosen).advance,
                runtime.precision,
            )
            release()


def measure_sampling(bench: Benchmark) -> None:
    """Measure 50 evaluations of each network, first without compilation."""
    steps, count = (2, 4) if bench.args.tiny else (EVALUATIONS, bench.runtime.micro_batch)
    for compiled in (False, True):
        runtime = replace(bench.runtime, compile=compiled, micro_batch=count)
        for name in NAMES:
            recipe = override(bench.recipe(name), {"sampler": "ddim"})
            with torch.random.fork_rng(devices=[]):
                model = build_model(recipe, 3).eval().requires_grad_(False)
            bench.measure(
                Row("sampling", name, "compiled" if compiled else "as ddim sample runs it", count),
                partial(sampled, Pipeline(model, PIXELS, recipe, runtime), runtime, count, steps),
                None,
            )
            release()


class StopAt(Callback):
    """Ends a training when its time is over, and notes images and time about once a second."""

    def __init__(self, left: Callable[[], float]) -> None:
        self.left, self.seen, self.ends = left, 0, []

    def on_step(self, training, values) -> None:  # noqa: D102
        self.seen = training.seen
        # The network is compiled in the first steps.
        late = not self.ends or time.monotonic() - self.ends[-1][1] > 1 or training.finished
        if late and training.step >= WARM_UP:
            synchronise()
            self.ends.append((training.seen, time.monotonic()))
        if self.left() <= 0:
            training.stop("its time is over")


def train_run(bench: Benchmark) -> None:
    """Train recipe luz on images, and save a sheet of its samples."""
    args, out = bench.args, bench.args.out
    if not args.tiny and bench.left("run") < LEAST_RUN:
        print("\nno time left for the run")
        return
    recipe = override(bench.recipe("luz"), {"images": args.images, "report.events": 2})
    clock = StopAt(lambda: bench.left("run"))
    machine = Machine(compiling=True)
    folder = out / "run"
    ddim.train(args.data, recipe, out=folder, machine=machine, callbacks=[clock], progress=False)
    steps = 2 if args.tiny else EVALUATIONS
    samples = ddim.sample(folder, n=4 if args.tiny else 64, steps=steps, progress=False)
    save_png(out / "samples.png", make_sheet(samples))
    (first, begin), (last, end) = (clock.ends[k] if clock.ends else (0, 0.0) for k in (0, -1))
    validations = [line for line in read_metrics(folder) if "image_mae" in line]
    bench.run = {
        "images": clock.seen,
        "images_per_second": round((last - first) / (end - begin), 1) if end > begin else None,
        "image_mae": validations[-1]["image_mae"] if validations else None,
        "samples": "samples.png",
    }
    print("\n## run\n\n| recipe | images | images/s | image MAE | samples |\n|---|---:|---:|---:|---|")
    print(f"| luz | {' | '.join(map(str, bench.run.values()))} |")


def show_rows(bench: Benchmark, part: str) -> None:
    """Print the rows of a part as a Markdown table."""
    rows = [row for row in bench.rows if row.part == part]
    whole = find_speeds(bench, "as ddim train runs it")
    against = {"training": find_speeds(bench, "bare step")}.get(part, whole)
    title = {"training": "of the bare step", "sampling": ""}.get(part, "of ddim train")
    print(
        f"\n## {part}\n\n| recipe | batch | what | images/s | {title} | of the peak | GiB | first, s | note |"
    )
    print("|---|" + "---:|" + "---|" + "---:|" * 5 + "---|")
    for row in rows:
        speed, base = row.images_per_second, against.get(row.recipe) if title else None
        cells = [
            f"{speed:,.1f}" if speed else "",
            f"{speed / base:.2f}" if speed and base else "",
            f"{row.of_peak:.1%}" if row.of_peak else "",
            f"{row.memory:.1f}" if row.memory else "",
            f"{row.first:.0f}" if row.first is not None else "",
        ]
        print(f"| {row.recipe} | {row.batch} | {row.how} | {' | '.join(cells)} | {row.note} |", flush=True)


def find_speeds(bench: Benchmark, how: str) -> dict[str, float | None]:
    """Return the images per second of each recipe that ran in this way."""
    return {row.recipe: row.images_per_second for row in bench.rows if row.how == how}


MEASURE = {
    "training": measure_training,
    "diffusers": measure_diffusers,
    "graphs": measure_graphs,
    "recompute": measure_recompute,
    "sampling": measure_sampling,
}


def run_parts(bench: Benchmark) -> None:
    """Measure and print the peak of the device and the chosen parts."""
    sizes, seconds = ((256,), 0.05) if bench.args.tiny else ((4096, 8192), 0.5)
    for precision in ("bf16", "fp32"):
        bench.peaks[precision] = measure_peak(precision, sizes, seconds)
        print(f"peak in {precision}: {bench.peaks[precision] / 1e12:.2f} TFLOP/s")
    for name in NAMES:
        few = override(bench.recipe(name), {"optim.batch": 2})
        bench.flops[name] = count_flops(few, bench.eager)
        print(f"training step of {name}: {bench.flops[name] / 1e9:.2f} GFLOP per image", flush=True)
    release()
    for part in bench.args.parts:
        if part == "run":
            continue
        MEASURE[part](bench)
        show_rows(bench, part)
        bench.save()


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="new folder of the results")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="minutes of the whole benchmark (default: 10)"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of each measurement (default: 4)")
    parser.add_argument("--data", default="blossoms:2048", help="images of the run (default blossoms:2048)")
    parser.add_argument(
        "--images", type=int, default=1_640_000, help="training images of the run (default: 1.64 million)"
    )
    parser.add_argument("--tiny", action="store_true", help="run everything in small, to test this script")
    args = parser.parse_args()
    args.parts = [name for name in PARTS if name in args.parts.split(",")]
    options = {}
    if args.tiny:
        args.seconds, args.data, args.images, options = 0.05, "blossoms:40", 160, {"backend": "eager"}
    bench = Benchmark(args)
    print(f"{bench.runtime}\ntorch {torch.__version__}")
    with compiling(**options):
        with bench.runtime:
            run_parts(bench)
        if "run" in args.parts:
            train_run(bench)
    bench.save()


if __name__ == "__main__":
    main()
