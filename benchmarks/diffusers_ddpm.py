"""Compare recipe `ddpm` with diffusers' network, training script and pipeline, in images per second.

    python benchmarks/diffusers_ddpm.py [--batch 32] [--seconds 20] [--rounds 3] [--images 16] [--steps 10]

Both compute one function: diffusers' `UNet2DModel` gets our weights, and outputs are compared before anything
is timed. All rows are measured in one run, interleaved round by round. Then each of ours is divided by the
most similar one of diffusers.

Training: ours is the whole run (flips, noise, loss, checks, optimiser, EMA) as `ddim train` runs it. Theirs
is examples/unconditional_image_generation/train_unconditional.py, in float32 by default and without EMA.
Its images are already on the device.

Sampling by DDIM: ours is that of `ddim sample`, with the last micro-batch filled up. Theirs is
`DDIMPipeline`, in float32 by default, with all images at once and left as tensors.

The compiled rows of diffusers are what a user could do by hand. One row is ours in bf16 throughout, as theirs
is, without the float32 path of x_t (see exact.py). Freed memory is kept for our rows and returned to the
system for theirs, as in a process of their own.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMPipeline, DDPMScheduler, UNet2DModel
from torch import nn
from torch.nn import functional as F

from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.noise import Noise
from ddim.exchange.diffusers import export_to_diffusers
from ddim.machine.runtime import COMPILE_PAYS_AFTER, Runtime, choose_runtime
from ddim.machine.startup import keep_freed_memory
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe, build_model
from ddim.sampling.pipeline import Pipeline
from exact import rounded
from timing import PIXELS, images, in_turn, pace, sampled, show, training

SAME = 1e-4
"""The largest absolute difference that is allowed between the outputs of the two networks."""


def pair(recipe: Recipe, folder: Path) -> tuple[Pipeline, DDIMPipeline]:
    """Return our network, and diffusers' pipeline with its weights, both on the CPU in float32.

    Raises:
        SystemExit: if their outputs differ.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = build_model(recipe, 3).eval().requires_grad_(False)
        for module in model.modules():
            # Branches that start at zero would hide their weights.
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    trained = Pipeline(model, PIXELS, recipe, Runtime())
    export_to_diffusers(trained, folder / "pipeline")
    pipeline = DDIMPipeline.from_pretrained(folder / "pipeline", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    x, index = Noise(range(4)).like(model.blank(4)), torch.tensor([0, 1, 500, 999])
    with torch.no_grad():
        ours, theirs = model.net(x, index.float()), pipeline.unet(x, index).sample
    apart = (ours - theirs).abs().max().item()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters; outputs {apart:.1e} apart, of deviation {ours.std():.2f}")
    if not apart < SAME:
        raise SystemExit(f"the networks compute different functions: {apart} apart, where {SAME} is rounding")
    return trained, pipeline


def update(net: UNet2DModel, recipe: Recipe, runtime: Runtime) -> Callable[[], object]:
    """Return a function that makes one update of a copy of the network, as in diffusers' script.

    The function has been called once already, so that later calls do not include compilation.
    """
    batch, bf16, device = recipe.optim.batch, runtime.precision == "bf16", runtime.device
    net = runtime.place(copy.deepcopy(net)).train().requires_grad_(True)
    quick, scheduler = runtime.compiled(net), DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    source = images(recipe.data.size)
    # In the precision of the forward pass, as in the script.
    pool = PIXELS.enter(to_unit(gather_batch(source, np.arange(len(source)))))
    pool = pool.to(device, torch.bfloat16 if bf16 else torch.float32)

    def step() -> float:
        x0 = runtime.images(pool[torch.randint(len(pool), (batch,), device=device)])
        eps = torch.randn_like(x0)
        index = torch.randint(1000, (batch,), device=device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16):
            found = quick(scheduler.add_noise(x0, eps, index), index).sample
        loss = F.mse_loss(found.float(), eps.float())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    step()
    return step


def piped(pipeline: DDIMPipeline, runtime: Runtime, count: int, steps: int) -> Callable[[], object]:
    """Return a function that samples images with a copy of diffusers' pipeline.

    The function has been called once already, so that later calls do not include compilation.
    """
    pipeline = copy.deepcopy(pipeline).to(runtime.device)
    if runtime.precision == "bf16":
        pipeline.to(torch.bfloat16)
    pipeline.unet = runtime.compiled(runtime.place(pipeline.unet))

    def make() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        pipeline(count, generators, num_inference_steps=steps, output_type="pt").images.cpu()

    make()
    return make


def compare(title: str, rows: dict[str, Callable[[], float]], alike: dict[str, str], rounds: int) -> None:
    """Print the table of all rows, and the ratio of each of ours to the most similar one of diffusers."""

    def run(name: str) -> float:
        # `ddim` makes the C allocator keep freed memory; diffusers does not.
        with keep_freed_memory() if name.startswith("ours") else nullcontext():
            return rows[name]()

    paces = in_turn({name: lambda name=name: run(name) for name in rows}, rounds)
    show(title, paces)
    for ours, theirs in alike.items():
        show(f"{title}: alike", {name: paces[name] for name in (ours, theirs)})


def measure_training(recipe: Recipe, net: UNet2DModel, args: argparse.Namespace, quick: Runtime) -> None:
    """Print the tables of training."""
    bf16, fp32, plain_bf16, plain_fp32, by_hand = runtimes(quick)
    steps = {
        "ours, as ddim train runs it": training(recipe, quick).advance,
        "ours, bf16 eager": training(recipe, bf16).advance,
        "ours, fp32 eager": training(recipe, fp32).advance,
        "diffusers, as its script runs it (fp32)": update(net, recipe, plain_fp32),
        "diffusers, its script in bf16": update(net, recipe, plain_bf16),
        "diffusers, bf16 channels_last compiled": update(net, recipe, by_hand),
    }
    compare(
        f"training, batch {args.batch}",
        {name: lambda step=step: pace(step, args.batch, args.seconds) for name, step in steps.items()},
        {
            "ours, as ddim train runs it": "diffusers, bf16 channels_last compiled",
            "ours, bf16 eager": "diffusers, its script in bf16",
            "ours, fp32 eager": "diffusers, as its script runs it (fp32)",
        },
        args.rounds,
    )


def measure_sampling(
    trained: Pipeline, pipeline: DDIMPipeline, args: argparse.Namespace, quick: Runtime
) -> None:
    """Print the tables of sampling."""
    count, steps = args.images, args.steps
    bf16, fp32, plain_bf16, plain_fp32, by_hand = runtimes(quick)
    compiled, coarse = replace(bf16, compile=True), replace(trained, model=rounded(trained.model))
    makers = {
        "ours, as ddim sample runs it": sampled(trained, replace(quick, compile=False), count, steps),
        "ours, bf16 compiled": sampled(trained, compiled, count, steps),
        "ours, bf16 compiled, no exact path": sampled(coarse, compiled, count, steps),
        "ours, fp32 eager": sampled(trained, fp32, count, steps),
        "diffusers, as its pipeline runs (fp32)": piped(pipeline, plain_fp32, count, steps),
        "diffusers, its pipeline in bf16": piped(pipeline, plain_bf16, count, steps),
        "diffusers, bf16 channels_last compiled": piped(pipeline, by_hand, count, steps),
    }

    def measure(make: Callable[[], object]) -> float:
        begin = time.perf_counter()
        make()
        return count / (time.perf_counter() - begin)

    compare(
        f"sampling, {count} images, {steps} steps, warm",
        {name: lambda make=make: measure(make) for name, make in makers.items()},
        {
            "ours, as ddim sample runs it": "diffusers, its pipeline in bf16",
            "ours, bf16 compiled": "diffusers, bf16 channels_last compiled",
            "ours, bf16 compiled, no exact path": "diffusers, bf16 channels_last compiled",
            "ours, fp32 eager": "diffusers, as its pipeline runs (fp32)",
        },
        args.rounds,
    )


def runtimes(quick: Runtime) -> tuple[Runtime, ...]:
    """Return the runtimes to compare with the machine's choice.

    They are eager bf16 and fp32, the same two without channels_last, and compiled bf16 with channels_last.
    """
    bf16, fp32 = (replace(quick, precision=precision, compile=False) for precision in ("bf16", "fp32"))
    plain = (replace(runtime, channels_last=False) for runtime in (bf16, fp32))
    return bf16, fp32, *plain, replace(bf16, channels_last=True, compile=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="ddpm", help="or a file of one that diffusers has a network for")
    parser.add_argument("--batch", type=int, default=32, help="images an update (default 32)")
    parser.add_argument("--seconds", type=float, default=20, help="of training, a row and round (default 20)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16, help="sampled, a row and round (default 16)")
    parser.add_argument("--steps", type=int, default=10, help="of DDIM (default 10)")
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    recipe = find_recipe(args.recipe)
    recipe = replace(recipe, optim=replace(recipe.optim, batch=args.batch))
    quick = choose_runtime(seconds=COMPILE_PAYS_AFTER)
    print(f"{quick}\ntorch {torch.__version__}, diffusers {diffusers.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        trained, pipeline = pair(recipe, Path(folder))
    with quick:
        measure_training(recipe, pipeline.unet, args, quick)
        measure_sampling(trained, pipeline, args, quick)


if __name__ == "__main__":
    main()
