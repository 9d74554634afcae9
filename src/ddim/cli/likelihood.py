"""`ddim likelihood`: measure the bits per dimension of images under the model of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import PART, WEIGHTS
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result, read_result

_EPILOG = """
Bits per dimension are the length of a lossless code with this model, for each 8-bit value of an image. Lower
is better; uniformly random pixels need 8. Compare two models on the same images only.

  --method vlb   the variational bound of DDPM sampling, over --steps steps (default: 1000). The steps are
                 equal in log-SNR. If the schedule is a table, the steps are its entries, which limits their
                 number. The variance is the learned variance if the run has learned one, else the larger
                 fixed variance (beta).
  --method ode   the density along the probability flow, over --steps steps (default: 50). Each step costs
                 four network evaluations and four derivatives.

A run trained with labels is conditioned on the class that is named like the folder of each image, or on no
class if the run has no class of this name. If its classes are clusters, it is conditioned on the nearest one.
A run trained with vectors is conditioned on the vector of each of its own images. For images of --data, it is
conditioned on no vector.

RUN/likelihoods/N/record.json has the bits of every image.

examples:
  ddim likelihood runs/cifar10-iddpm-1 -n 256
  ddim likelihood runs/photos-fast-1 --method ode --data other-photos/
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim likelihood`."""
    parser.usage = "ddim likelihood RUN [--method vlb|ode] [-n 64] [--data DATA] [--part PART] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--method",
        choices=("vlb", "ode"),
        default="vlb",
        help="vlb: variational bound of DDPM sampling; ode: density along the probability flow "
        "(default: vlb)",
    )
    parser.add_argument("--data", metavar="DATA", help="images to measure (default: the run's own)")
    parser.add_argument("--part", metavar="PART", help=f"part of the images: {PART}")
    parser.add_argument("-n", type=int, default=64, metavar="N", help="number of images (default: 64)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="number of steps (default: 1000 for vlb, 50 for ode)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the noise (default: 0)")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder for the results (default: RUN/likelihoods/N)"
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the bits per dimension of the images, and print their mean."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.likelihood import bits_per_dim, write_likelihood
    from ddim.evaluation.record import describe_part
    from ddim.evaluation.reference import Reference
    from ddim.evaluation.run_folder import open_run_folder

    run = open_run_folder(load_run(args), args.out)
    images = Reference(args.data, args.part)
    with ProgressDisplay() as progress:
        found = bits_per_dim(
            run, images, args.method, n=args.n, steps=args.steps, seed=args.seed, progress=progress
        )
    folder, of = write_likelihood(found, run, args.out), found.record["reference"]
    measured = describe_part(len(found.bits), of["part"], of["source"])
    text = f"{found.with_unit} of {measured}: {folder}/record.json"
    print_result(args, read_result(folder), text, folder)
    return 0
