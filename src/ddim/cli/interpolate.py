"""`ddim interpolate`: the way from one picture to another, through latents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import RUN, editing
from ddim.errors import UserError, check_count

if TYPE_CHECKING:
    from torch import Tensor

TAKES_FIELDS = True

_EPILOG = """
Between two seeds, or between two real images, which are inverted first. Latents are mixed along the sphere on
which noise lies; a straight line would lead through flat pictures. DIR gets the frames, strip.png, film.webp
and record.json.

examples:
  ddim interpolate runs/photos-fast-1 --seeds 3,8
  ddim interpolate runs/photos-fast-1 rose.jpg lily.jpg --frames 16
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim interpolate`."""
    parser.usage = "ddim interpolate RUN (--seeds A,B | IMAGE IMAGE) [--frames 9] [--steps 50] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="two image files")
    parser.add_argument("--seeds", metavar="A,B", help="two seeds instead of images")
    parser.add_argument("--frames", type=int, default=9, metavar="N", help="with both ends (default 9)")
    editing.options(parser, 50)


def run(args: argparse.Namespace) -> int:
    """Find both latents, mix them, make the frames."""
    from ddim.diffusion.editing import between, invert, restore
    from ddim.diffusion.noise import Noise, check_seeds
    from ddim.diffusion.samplers import DDIM, last, picture, start
    from ddim.plots.pictures import save_film, to_uint8

    if (len(args.images) == 2) == (args.seeds is not None) or len(args.images) not in (0, 2):
        raise UserError("give two images, or --seeds with two seeds, such as --seeds 3,8")
    check_count("--frames", args.frames, 2)
    seeds = _seeds(args.seeds) if args.seeds is not None else []
    check_seeds(seeds)
    # Between seeds the ends are what `ddim sample` makes of them; an image is inverted by DDIM.
    work = editing.opened(args, "interpolate", real=not seeds)
    ends = None if seeds else work.enter(editing.read(work, args.images))
    model, times, out = work.model, work.times, editing.folder(args.out, "interpolate")
    sampler = work.trained.recipe.sampler if seeds else DDIM()

    def made(latent: Tensor) -> Tensor:
        return picture(model, last(sampler(model, latent, times, Noise(range(len(latent))))))

    with work.precise():
        if ends is None:
            a, b = start(model.schedule, Noise(seeds), work.trained.model.blank(2).cpu(), times[0])
        else:
            a, b = work.in_batches(lambda x0: invert(model, x0, times).latent, ends)
        frames = between(a, b, args.frames)
        images = work.in_batches(made, frames)
        if not seeds:
            # The ends as they came in, without a last denoising.
            images[[0, -1]] = work.in_batches(lambda z: restore(model, z, times), frames[[0, -1]])
    images = work.leave(images)
    work.save(out, {"frame": images}, {"images": list(map(str, args.images)), "between_seeds": seeds})
    save_film(out / "film.webp", list(to_uint8(images)))
    return editing.said(out, f"{args.frames} frames")


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds must be two seeds, such as 3,8, got {text!r}")
    return list(map(int, parts))
