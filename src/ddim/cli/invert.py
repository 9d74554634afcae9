"""`ddim invert`: real images to latents and back, with the error of the round trip."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import RUN, editing

if TYPE_CHECKING:
    from torch import Tensor

TAKES_FIELDS = True
_NOISY = 0.05

_EPILOG = """
A latent is the noise from which DDIM makes the image. DIR gets the images as they entered, their latents, the
images that come back, strip.png, latents.safetensors and record.json.

  --exact   solve each step instead of following the slope where it begins: the way back then leads to the
            image, where the steps are short enough for that; it says so where they are not
  --grid    the levels (default uniform_log_snr to 6, on a schedule that ends before it uniform)

examples:
  ddim invert runs/photos-fast-1 flower.jpg --steps 100
  ddim invert runs/photos-fast-1 *.jpg --steps 20 --exact
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim invert`."""
    parser.usage = "ddim invert RUN IMAGE... [--steps 50] [--exact] [--out DIR] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    editing.options(parser, 50)
    parser.add_argument("--exact", action="store_true", help="solve each step")


def run(args: argparse.Namespace) -> int:
    """Invert, come back, write and print the errors."""
    import torch
    from safetensors.torch import save

    from ddim.diffusion.editing import invert, restore
    from ddim.files import write_atomic

    work = editing.opened(args, "invert")
    images = editing.read(work, args.images)
    model, times, out = work.model, work.times, editing.folder(args.out, "invert")
    clean, end = (model.schedule(t) for t in (torch.zeros((), dtype=torch.float64), times[-1]))
    if clean.sigma > _NOISY:
        sys.stdout.write(
            f"note: at t = 0 this run's schedule still holds noise, sigma = {clean.sigma:.2f}: an image "
            "without noise is no state of it, and its latent is that of a slightly different, grainy image\n"
        )
    elif end.sigma > _NOISY:
        sys.stdout.write(
            f"note: the last of these {len(times)} levels has sigma = {end.sigma:.2f}, which an image "
            "without noise lacks: its latent is that of a slightly different one; more --steps come nearer\n"
        )
    residuals = [0.0]

    def latents(x0: Tensor) -> Tensor:
        found = invert(model, x0, times, exact=args.exact)
        residuals.append(0.0 if found.converged else found.residual)
        return found.latent

    with work.precise(args.exact):
        latent = work.in_batches(latents, work.enter(images)).float()
        back = work.leave(work.in_batches(lambda z: restore(model, z, times), latent))
    if max(residuals) > 0:
        sys.stdout.write(
            f"note: some steps did not converge and change by {max(residuals):.2g} a round: take more steps\n"
        )
    # Latents that overflowed come back as no number, which is no JSON.
    errors = [e if math.isfinite(e) else None for e in (back - images).square().mean((1, 2, 3)).tolist()]
    for path, error in zip(args.images, errors, strict=True):
        told = "not a finite number" if error is None else f"{error:.3g}"
        sys.stdout.write(f"{path}: mean squared error of the round trip {told}\n")
    seen = (latent / latent.std() / 6 + 0.5).clamp(0, 1)
    work.save(
        out,
        {"image": images, "latent": seen, "back": back},
        {
            "images": list(map(str, args.images)),
            "exact": args.exact,
            "converged": max(residuals) == 0,
            "squared_errors": errors,
        },
    )
    write_atomic(out / "latents.safetensors", save({"latent": latent.contiguous()}))
    return editing.said(out, f"{len(images)} images, {len(times)} levels there and back")
