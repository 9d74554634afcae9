# ruff: noqa: N999  (the name of a command)
"""`ddim import`: turn a diffusers pipeline into a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result

_EPILOG = """
DIR is the folder of a DDIMPipeline or DDPMPipeline with the U-Net of DDPM and weights in safetensors.
`ddim sample` then samples as the pipeline's scheduler does, if the grid has "trailing" spacing and the number
of steps divides the number of table entries. A DDPMScheduler needs many steps, such as --steps 1000; or
sample the run with --sampler ddim. `ddim train --from RUN` trains its weights further.

examples:
  ddim import ddpm-cifar10-32
  ddim import pipeline --out runs/imported
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim import`."""
    parser.usage = "ddim import DIR [--out RUN]"
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a diffusers pipeline")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: a new runs/DIR-ddpm-N)")


def run(args: argparse.Namespace) -> int:
    """Import the pipeline and print the run folder."""
    # These imports are here, so that --help does not import torch.
    from ddim.runs.diffusers_format import import_from_diffusers

    folder = import_from_diffusers(args.folder, args.out)
    print_result(args, {"folder": folder}, f"run: {folder}")
    return 0
