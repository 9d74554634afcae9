"""`ddim sample`: generate images with a run, one for each seed, and write them to a folder."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from ddim.cli import LABEL, RUN, STEPS, WEIGHTS, ZOOM, check_fields
from ddim.cli.choices import read_registry
from ddim.cli.guidance import EPILOG, add_guidance_options, take_guidance
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import draw, print_result, read_result
from ddim.errors import UserError, check_count, format_count
from ddim.recipe.options import SAMPLING_FIELDS

TAKES_FIELDS = True

_EPILOG = """
Each image depends on its seed alone, not on the number of images. DIR gets 00000.png, ... named by seed,
grid.png, one image that shows the first 256 samples, and record.json with everything that the images depend
on. If the command is repeated with the same --out, it generates only missing images.

sampling options, which may have fields such as --sampler.order 3:
  --sampler     {samplers}
                (default: the recipe's); --sampler.eta 0 makes ddim and dpm_solver deterministic, 1 makes them
                as stochastic as DDPM
  --grid        the sampling times: {grids}
                (default: the times that `ddim search` found for the sampler and --steps, else the recipe's)
  --sampled_on  a schedule for sampling that differs from the schedule of training:
                {schedules}
  --clip yes    clip the image predicted in each step to the range from black to white; --clip x0 does not
                change the predicted noise, as in diffusers

options for a run trained with labels (`ddim train photos/ --data.labels yes`):
  --label       a class name, a class index, or "all" to cycle through the classes: the image of seed s has
                class s % classes. If the classes are clusters (--data.labels clusters:16): "natural", the
                default, for the frequencies of training, or "none" for no class
{guidance}

options for a run trained with vectors (`ddim train photos/ --data.vectors FILE.csv`):
  --vector      its numbers, such as 0.2,1.5, for all images
  --vectors     a CSV file with a row of numbers for each image (default: the vectors of training images)

examples:
  ddim sample runs/flowers64-fast-1 -n 36
  ddim sample runs/flowers64-fast-1 --seeds 0-15,40 --steps 10 --film --out images
  ddim sample runs/cifar10-train-fast-1 --label frog --guidance 2
  ddim sample runs/cells-fast-1 --vector 0.2,1.5 --guidance 2
  ddim sample runs/flowers64-fast-1 --guidance 1.5 --guide-with @guide --guidance-interval -2,5
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim sample`."""
    parser.usage = "ddim sample RUN [-n 16] [--steps N] [--seed 0] [--out DIR] [--film] [options]"
    parser.epilog = _EPILOG.format(
        samplers=", ".join(read_registry("diffusion.samplers", "SAMPLERS")),
        grids=", ".join(read_registry("diffusion.grids", "GRIDS")),
        schedules=", ".join(read_registry("diffusion.schedules", "SCHEDULES")),
        guidance=EPILOG,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("-n", type=int, metavar="N", help="number of images (default: 16)")
    parser.add_argument("--steps", type=int, metavar="N", help=STEPS)
    parser.add_argument(
        "--seed", type=int, metavar="S", help="the samples have the seeds S, S+1, ... (default: S = 0)"
    )
    parser.add_argument(
        "--seeds", metavar="LIST", help="list of seeds instead of -n and --seed, such as 0-35,70"
    )
    parser.add_argument("--label", metavar="L", help=LABEL)
    parser.add_argument("--vector", metavar="X,Y,...", help="the vector of all images")
    parser.add_argument("--vectors", type=Path, metavar="FILE.csv", help="a vector for each image")
    add_guidance_options(parser)
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="output folder (default: a new samples/RUN-N)"
    )
    parser.add_argument(
        "--film", action="store_true", help="also write film.webp, an animation from noise to the images"
    )
    parser.add_argument("--zoom", type=int, metavar="K", help=ZOOM)
    add_machine_options(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="faster after about a minute of compilation; results differ in the last bits",
    )


def run(args: argparse.Namespace) -> int:
    """Sample the images and print their path."""
    vector, count = read_vector(args)
    seeds = parse_seeds(args.seeds, args.n if args.seeds or args.n is not None else count, args.seed)
    if args.steps is not None:
        check_count("--steps", args.steps)
    check_fields(args, "sample", *SAMPLING_FIELDS)
    # These imports are here, so that --help does not import torch.
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.guidance_name import name_recorded_guidance
    from ddim.machine.distributed import current_processes
    from ddim.plots.pictures import split_sheet
    from ddim.plots.preview import arrange_preview, can_preview, render_preview
    from ddim.sampling.samples import write_samples
    from ddim.sampling.sampling_setup import choose_sampling, collect_guidance

    pipeline = load_run(args, compiling=args.compile)
    label = pipeline.find_label(args.label, vector, seeds)
    guidance = collect_guidance(**take_guidance(args))
    setup = choose_sampling(pipeline, args.steps, label, args.fields, guidance=guidance)
    with ProgressDisplay() as progress:
        written = write_samples(setup, seeds, args.out, film=args.film, zoom=args.zoom, progress=progress)
    if not current_processes().leads:
        return 0
    if can_preview(sys.stderr):
        shape, columns = pipeline.model.shape, shutil.get_terminal_size().columns
        samples = split_sheet(written.sheet, shape.height, shape.width)[: len(seeds)]
        draw(render_preview(arrange_preview(samples, columns, rows=2)))
    made = f"{format_count(len(seeds), 'image')}"
    if written.made < len(seeds):
        made += f", of which {len(seeds) - written.made:,} were there before"
    elif written.seconds:
        made += f" in {written.seconds:.1f} s ({written.made / written.seconds:.1f}/s)"
    names = ["sampling times"] if setup.searched else []
    names += [name_recorded_guidance(setup.guidance.describe())] if setup.guidance.searched else []
    searched = f", with {' and '.join(names)} found by ddim search" if names else ""
    nfe = format_count(written.nfe, "network evaluation")
    text = f"{made}, {nfe} each{searched}: {written.folder}/grid.png"
    print_result(args, read_result(written.folder), text, written.folder)
    return 0


def read_vector(args: argparse.Namespace) -> tuple[list[float] | Path | None, int | None]:
    """Return the vector or the file of vectors that the options give, and the number of vectors in the file.

    The first value is None without --vector and --vectors. The second value is None without --vectors.

    Raises:
        UserError: if --vector is not a list of numbers, the file cannot be read, or two of --label, --vector
            and --vectors are given.
    """
    given = [name for name in ("label", "vector", "vectors") if getattr(args, name) is not None]
    if len(given) > 1:
        raise UserError(f"give --{given[0]} or --{given[1]}, not both")
    if args.vectors is not None:
        from ddim.data.vectors import read_vectors

        return args.vectors, len(read_vectors(args.vectors).rows)
    if args.vector is None:
        return None, None
    try:
        return [float(part) for part in args.vector.split(",")], None
    except ValueError:
        raise UserError(f"--vector must be a list of numbers, such as 0.2,1.5, got {args.vector!r}") from None


def parse_seeds(text: str | None, n: int | None, first: int | None) -> list[int]:
    """Return the seeds that the options name.

    Args:
        text: a list such as "0-35,70", or None.
        n: number of seeds, 16 if None; it must be None if `text` is given.
        first: the first seed, 0 if None; it must be None if `text` is given.

    Raises:
        UserError: if the list cannot be read or names a seed twice, if `n` or `first` is given with the list,
            or if `n` is not from 1 to a million.
    """
    if text is None:
        n = 16 if n is None else n
        check_count("-n", n)
        return list(range(first or 0, (first or 0) + n))
    if n is not None or first is not None:
        raise UserError("--seeds lists the seeds; leave out -n and --seed")
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        bounds = (low, high) if dash else (low, low)
        # A seed of 32 bits has at most 10 digits. A range of a million seeds is a typing error, which could
        # fill the memory.
        if (
            not all(b.isdecimal() and len(b) <= 10 for b in bounds)
            or not 0 <= int(bounds[1]) - int(low) < 10**6
        ):
            raise UserError(f"--seeds must be a list such as 0-35,70, got {text!r}")
        seeds += range(int(low), int(bounds[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds must not contain a seed twice, got {text!r}")
    return seeds
