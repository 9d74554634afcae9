"""Measure images per second of training and sampling, as ratios to peers measured in the same run.

    python benchmarks/throughput.py [--recipes luz,keras,fast] [--seconds 20] [--rounds 3]
    python benchmarks/throughput.py --recipes keras --keras tensorflow,torch [--keras-python PYTHON]

Keras 3 and its backend are in this environment or in that of another Python; this project needs neither.

For each recipe four rows are interleaved round by round: the whole update (memory map, flips, noise, loss,
optimiser, EMA, checks) as `ddim train` runs it; the bare step of the same network (forward, backward and
optimiser on fixed tensors); and both again in fp32, contiguous and eager. A line below them gives the time of
compilation and of a validation. Sampling is 64 images of 20 steps: compiled; not compiled, as `ddim
sample` runs it; and in fp32, contiguous and eager.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ddim.diffusion.denoiser import Model
from ddim.machine.runtime import Runtime, choose_runtime
from ddim.machine.startup import keep_freed_memory
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe, build_model
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.validation import validate
from timing import PIXELS, bare_step, in_turn, pace, show, training

KERAS = Path(__file__).with_name("keras_tutorial.py")


def keras_pace(python: str, backend: str, mixed: bool, seconds: float) -> float:
    """Return the images per second of the Keras tutorial in a process of its own."""
    command = [python, str(KERAS), "--seconds", str(seconds)] + (["--mixed"] if mixed else [])
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["images_per_second"]


def measure_training(name: str, args: argparse.Namespace, quick: Runtime) -> None:
    """Print one recipe's training table, and the costs beside its steps."""
    slow = replace(quick, precision="fp32", channels_last=False, compile=False)
    begin = time.perf_counter()
    ours = training(find_recipe(name), quick)
    compiled = time.perf_counter() - begin
    plain, bare = training(find_recipe(name), slow), training(find_recipe(name), quick)
    batch = ours.recipe.optim.batch
    step, plain_step = bare_step(bare), bare_step(plain)
    candidates = {
        "whole run": lambda: pace(ours.advance, batch, args.seconds),
        "bare step, same runtime": lambda: pace(step, batch, args.seconds),
        "whole run, fp32 contiguous eager": lambda: pace(plain.advance, batch, args.seconds),
        "bare step, fp32 contiguous eager": lambda: pace(plain_step, batch, args.seconds),
    }
    for backend in args.keras.split(",") if args.keras and name == "keras" else ():
        for mixed in (False, True):
            label = f"Keras on {backend}, {'mixed bf16' if mixed else 'fp32'}"
            candidates[label] = lambda b=backend, m=mixed: keras_pace(args.keras_python, b, m, args.seconds)
    show(f"training, recipe {name}, batch {batch}", in_turn(candidates, args.rounds))
    print(f"  apart: two updates with compiling {compiled:.1f} s", end="")
    begin = time.perf_counter()
    validate(ours)
    print(f", a validation of {len(ours.split.validation)} images {time.perf_counter() - begin:.1f} s")


def measure_sampling(args: argparse.Namespace, quick: Runtime) -> None:
    """Print the speed of sampling 64 images in 20 steps with the luz network, and the pixel differences."""
    recipe = find_recipe("luz")
    runtimes = {
        "compiled": replace(quick, compile=True),
        "as ddim sample runs it (nothing compiled)": replace(quick, compile=False),
        "fp32 contiguous eager": replace(quick, precision="fp32", channels_last=False, compile=False),
    }
    samples, candidates = {}, {}
    for label, runtime in runtimes.items():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = build_model(recipe, 3).eval().requires_grad_(False)
            # A network that starts at zero would hide rounding errors.
            torch.nn.init.normal_(model.net.out_conv.weight, std=0.1)
        runtime.place(model)
        model.net = runtime.compiled(model.net)
        trained = Pipeline(model, PIXELS, recipe, runtime)

        def measure(trained: Pipeline = trained, label: str = label) -> float:
            begin = time.perf_counter()
            samples[label] = generate(SamplingSetup(trained, 20), range(64))[0]
            return 64 / (time.perf_counter() - begin)

        measure()
        candidates[label] = measure
    show(
        "sampling, the luz recipe's network, 64 images, 20 steps, warm",
        in_turn(candidates, args.rounds),
    )
    overhead(recipe, runtimes["as ddim sample runs it (nothing compiled)"], args.rounds)
    *ours, reference = samples
    for label in ours:
        print(f"  largest pixel difference, {label}: {(samples[label] - samples[reference]).abs().max():.2e}")


def overhead(recipe: Recipe, runtime: Runtime, rounds: int) -> None:
    """Print what 20 sampling steps cost beyond 20 network calls, at the micro-batch of the run and at 64."""
    for size in (runtime.micro_batch, 64):
        sized = replace(runtime, micro_batch=size)
        model = sized.place(build_model(recipe, 3).eval().requires_grad_(False))
        trained = Pipeline(model, PIXELS, recipe, sized)
        x = sized.images(model.blank(size))
        noise_level = torch.full((size,), 0.5)

        def bare(x: torch.Tensor = x, noise_level: torch.Tensor = noise_level, model: Model = model) -> float:
            begin = time.perf_counter()
            with torch.no_grad(), runtime.precise():
                for _ in range(20):
                    model.net(x, noise_level)
            return len(x) / (time.perf_counter() - begin)

        def whole(trained: Pipeline = trained, size: int = size) -> float:
            begin = time.perf_counter()
            generate(SamplingSetup(trained, 20), range(size))
            return size / (time.perf_counter() - begin)

        bare(), whole()
        show(
            f"overhead of sampling, {size} at a time",
            in_turn({"20 bare calls": bare, "20 steps": whole}, rounds),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipes", default="luz,keras,fast")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keras", default="", help="backends of Keras 3 to compare with: tensorflow,torch")
    parser.add_argument("--keras-python", default=sys.executable, help="the Python that has Keras")
    parser.add_argument("--no-sampling", action="store_true")
    args = parser.parse_args()
    quick = choose_runtime(compiling=True)
    print(f"{quick}\ntorch {torch.__version__}")
    with keep_freed_memory(), quick, tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("DDIM_CACHE", cache)
        for name in filter(None, args.recipes.split(",")):
            measure_training(name, args, quick)
        if not args.no_sampling:
            measure_sampling(args, quick)


if __name__ == "__main__":
    main()
