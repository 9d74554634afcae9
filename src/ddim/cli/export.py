"""`ddim export`: write a run as a folder that diffusers loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, WEIGHTS
from ddim.cli.output import print_result

_EPILOG = """
`diffusers.DDIMPipeline.from_pretrained("DIR")` loads the folder. The pipeline generates the same samples from
the same noise if the grid has "trailing" spacing and the number of steps divides the number of table entries.
A run can be exported if it has the recipe ddpm and the sampler ddim. Options that diffusers supports may
differ from this recipe.

example:
  ddim export runs/cifar10-ddpm-1 pipeline
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim export`."""
    parser.usage = "ddim export RUN DIR [--weights ema|raw|VALUE]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder for the pipeline")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)


def run(args: argparse.Namespace) -> int:
    """Export the run and print the folder of the pipeline."""
    # These imports are here, so that --help does not import torch.
    from ddim.runs.diffusers_format import export_to_diffusers
    from ddim.runs.pipeline import load

    export_to_diffusers(load(args.run, args.weights, device="cpu"), args.folder)
    print_result(args, {"folder": args.folder}, f"diffusers DDIMPipeline: {args.folder}")
    return 0
