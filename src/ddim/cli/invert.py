"""`ddim invert`: find the latents of real images, and the error of the round trip."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ddim.cli import RUN, editing
from ddim.cli.output import print_result, read_result
from ddim.errors import format_count

TAKES_FIELDS = True

_EPILOG = """
A latent is the noise from which DDIM generates the image. DIR gets the images at the size of the run, the
images restored from their latents, strip.png, latents.safetensors and record.json. An inversion takes no
guidance, because guidance multiplies the errors of latents (Mokady et al. 2023).

sampling options:
  --grid   the sampling times (default: uniform_log_snr with --grid.end 6; uniform if the schedule ends at a
           lower log-SNR)

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
    editing.add_options(parser, guided=False)
    parser.add_argument(
        "--exact",
        action="store_true",
        help="solve each step by iteration, for a smaller error; take more --steps if it does not converge",
    )


def run(args: argparse.Namespace) -> int:
    """Invert and restore the images, and print the errors."""
    from ddim.sampling.edits import invert_images

    editing.check_options(args, "invert")
    act = partial(invert_images, images=args.images, exact=args.exact)
    edit, out = editing.edit_and_save(args, act, guided=False)
    lines = []
    for path, error in zip(args.images, edit.facts["squared_errors"], strict=True):
        shown = "not a finite number" if error is None else f"{error:.3g}"
        lines.append(f"{path}: mean squared error of the round trip {shown}")
    steps = f"{format_count(args.steps, 'step')} in each direction"
    lines.append(f"{format_count(len(args.images), 'image')}, {steps}: {out}/strip.png")
    print_result(args, read_result(out), "\n".join(lines), out)
    return 0
