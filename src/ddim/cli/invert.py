"""`ddim invert`: real images to latents and back, with the error of the round trip."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ddim.cli import RUN, editing

TAKES_FIELDS = True

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
    editing.add_options(parser, 50)
    parser.add_argument("--exact", action="store_true", help="solve each step")


def run(args: argparse.Namespace) -> int:
    """Invert and restore the images, and print the errors."""
    from safetensors.torch import save

    from ddim.files import write_atomic
    from ddim.runs.edit import invert_images, warn_of_noise

    run, grid = editing.open_run(args, "invert")
    edit = invert_images(run, editing.read(run, args.images), args.steps, grid=grid, exact=args.exact)
    if note := warn_of_noise(edit):
        editing.write_line(f"note: {note}")
    if edit.residual > 0:
        editing.write_line(
            f"note: some steps did not converge and change by {edit.residual:.2g} a round: take more steps"
        )
    for path, error in zip(args.images, edit.errors.tolist(), strict=True):
        shown = f"{error:.3g}" if math.isfinite(error) else "not a finite number"
        editing.write_line(f"{path}: mean squared error of the round trip {shown}")
    out = editing.save(args, "invert", edit, {"images": list(map(str, args.images))})
    write_atomic(out / "latents.safetensors", save({"latent": edit.latents.contiguous()}))
    editing.write_line(f"{len(edit.latents)} images, {args.steps} levels there and back: {out}/strip.png")
    return 0
