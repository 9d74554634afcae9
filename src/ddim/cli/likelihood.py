"""`ddim likelihood`: bits per dimension of images under a run, with a standard error and a record."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import WEIGHTS, check_run_folder
from ddim.errors import UserError, check_count
from ddim.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddim.diffusion.denoiser import Denoiser
    from ddim.diffusion.variational_bound import Variance
    from ddim.runs.pipeline import Pipeline

_STEPS = {"vlb": 1000, "ode": 50}

_EPILOG = """
Bits per dimension say how short a lossless code for 8-bit images could be with this model: lower is better, 8
is no model at all. Two models may be compared on the same images only.

  --method vlb   the variational bound over --steps steps (default 1000), equal in log-SNR or between
                 entries of a table (at most all), of the model that ddpm samples from, with the variance that
                 the network has learned, else the larger of the fixed ones (beta)
  --method ode   the density along the path of deterministic samplers, in --steps steps (default 50) of four
                 evaluations and as many derivatives

A run trained with labels is told the class of each image, by the name of its folder, and no class where that
is none of the run's: its bits are those of an image whose class is known.

RUN/likelihoods/<n>/record.json keeps the number of every image.

examples:
  ddim likelihood runs/cifar10-iddpm-1 -n 256
  ddim likelihood runs/photos-fast-1 --method ode --data other-photos/
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim likelihood`."""
    parser.usage = "ddim likelihood RUN [--method vlb|ode] [-n 64] [--data DATA] [--part valid] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--method", choices=tuple(_STEPS), default="vlb", help="vlb (default) or ode")
    parser.add_argument("--data", metavar="DATA", help="images (default: those of the run)")
    parser.add_argument(
        "--part", choices=("valid", "train"), default="valid", help="which part of them: valid (default)"
    )
    parser.add_argument("-n", type=int, default=64, metavar="N", help="how many images (default 64)")
    parser.add_argument("--steps", type=int, metavar="N", help="default: 1000 of vlb, 50 of ode")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default 0)")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--device", help="default: the one that the run was trained on")


def run(args: argparse.Namespace) -> int:  # noqa: PLR0915
    """Measure, print, keep."""
    from dataclasses import replace
    from datetime import UTC, datetime

    import torch

    from ddim.data.batch import batch
    from ddim.data.order import order
    from ddim.diffusion import likelihood
    from ddim.diffusion.noise import check_seeds
    from ddim.runs import classes as labels
    from ddim.runs import folder as tracking
    from ddim.runs.codec import dump
    from ddim.runs.images import check_own, check_unchanged
    from ddim.runs.pipeline import load
    from ddim.training import batches
    from ddim.training.run import opened

    check_run_folder(args.run)
    check_count("-n", args.n)
    trained = load(args.run, args.weights, device=args.device)
    recipe = trained.recipe
    likelihood.check(trained.model.schedule, batches.earliest(recipe))
    if args.data is None:
        check_own(trained, "name images with --data")
    data = replace(recipe.data, source=args.data or recipe.data.source, channels=trained.model.shape.channels)
    parts = opened(replace(recipe, data=data), None)
    if args.data is None:
        check_unchanged(trained, parts.images, "name images with --data")
    part = getattr(parts, args.part)
    if not len(part):
        raise UserError(f"--part {args.part} of {data.source} holds no image")
    which = part[order(len(part), 0, 0)[: args.n]]
    told = labels.by_name(recipe, trained.checkpoint.state.classes, parts.images, which)
    if told is not None and (told == labels.NULL).any():
        labels.check_null(recipe, f"an image of {data.source} that is in no class folder of the run's")
    check_seeds([args.seed, args.seed + len(which) - 1])
    steps = args.steps
    if steps is None:
        steps = _STEPS[args.method]
        if args.method == "vlb":
            steps = min(steps, likelihood.entries(trained.model.schedule))
    began, found = time.monotonic(), torch.zeros(0, dtype=torch.float64)
    size = trained.runtime.micro_batch
    for first in range(0, len(which), size):
        mine = batch(parts.images, which[first : first + size])
        seeds = range(args.seed + first, args.seed + first + len(mine))
        model = trained.model.given(None if told is None else told[first : first + len(mine)])
        found = torch.cat([found, _bits(trained, model, mine, args.method, steps, seeds).cpu()])
        seconds = time.monotonic() - began
        sys.stdout.write(f"{seconds:6.0f} s  {len(found)} of {len(which)} images: {_shown(found)}\n")
        sys.stdout.flush()
    folder = tracking.numbered(args.run / "likelihoods")
    record = {
        "schema": 1,
        "kind": "likelihood",
        "method": args.method,
        "bits": {"value": found.mean().item(), "error": _error(found), "each": found.tolist()},
        "steps": steps,
        "nfe": steps if args.method == "vlb" else 4 * steps,
        "variance": _variance(trained) if args.method == "vlb" else None,
        "reference": {
            "source": data.source,
            "fingerprint": parts.images.fingerprint,
            "part": args.part,
            "size": list(data.size),
            "images": which.tolist(),
            "labels": None if told is None else told.tolist(),
        },
        "seeds": [args.seed, args.seed + len(which) - 1],
        "checkpoint": {"path": str(trained.checkpoint.path), "sha256": trained.checkpoint.sha256},
        "step": trained.checkpoint.state.step,
        "weights": trained.checkpoint.weights,
        "recipe": dump(recipe),
        "runtime": vars(trained.runtime),
        "seconds": round(time.monotonic() - began, 2),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": tracking.versions(),
    }
    write_json(folder / "record.json", record)
    sys.stdout.write(f"{_shown(found)} bits per dimension: {folder}/record.json\n")
    return 0


def _bits(  # noqa: PLR0913  (a run, its model as it is asked, and what of)
    trained: Pipeline, model: Denoiser, images: Tensor, method: str, steps: int, seeds: range
) -> Tensor:
    """(B,) bits per dimension of images (B, C, H, W) uint8, one seed each; in float32 however trained."""
    from ddim.data.batch import unit
    from ddim.diffusion.guidance import Clipped
    from ddim.diffusion.likelihood import flow, grid, vlb
    from ddim.diffusion.noise import Noise
    from ddim.training.batches import earliest

    pixels, noise = trained.recipe.data.bins(trained.pixels), Noise(seeds)
    x0 = trained.runtime.images(pixels.enter(unit(images)))
    first = earliest(trained.recipe)
    if method == "ode":
        return flow(model, x0, pixels, noise, steps, earliest=first)
    # A noise predicted a little wrong is an image far out of bounds where there is hardly any signal.
    return vlb(
        Clipped(model, *trained.pixels.bounds),
        x0,
        pixels,
        grid(steps, model.schedule, pixels, first),
        noise,
        _variance(trained),
    )


def _variance(trained: Pipeline) -> Variance:
    from ddim.diffusion.loss import Hybrid

    # A network may predict one that no loss has trained.
    return "learned" if isinstance(trained.recipe.objective, Hybrid) else "large"


def _shown(found: Tensor) -> str:
    error = _error(found)
    return f"{found.mean():.4f}" + (f" +- {error:.4f}" if error is not None else "")


def _error(found: Tensor) -> float | None:
    """The standard error of the mean; of one image there is none."""
    return (found.std() / len(found) ** 0.5).item() if len(found) > 1 else None
