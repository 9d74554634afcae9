"""`ddim export`: a run as a folder that diffusers opens."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddim.cli import RUN, WEIGHTS

_EPILOG = """
DIR becomes what diffusers.DDIMPipeline.from_pretrained(DIR) opens; it makes the same pictures from the same
noise (on a trailing grid, in numbers of steps that divide its entries). Runs of the recipe ddpm that
DDIM samples can be exported, and such as differ from it in ways that diffusers' DDIM knows.

example:
  ddim export runs/cifar10-ddpm-1 pipeline
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim export`."""
    parser.usage = "ddim export RUN DIR [--weights ema|raw|VALUE]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)


def run(args: argparse.Namespace) -> int:
    """Write the folder, print where it is."""
    # Here, so that --help answers without torch.
    from ddim.runs.diffusers_format import export
    from ddim.runs.pipeline import load

    export(load(args.run, args.weights, device="cpu"), args.folder)
    sys.stdout.write(f"a DDIMPipeline of diffusers: {args.folder}\n")
    return 0
