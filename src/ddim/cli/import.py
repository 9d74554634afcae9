# ruff: noqa: N999  (the name of a command)
"""`ddim import`: a model of diffusers as a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_EPILOG = """
DIR is the folder of a DDIMPipeline or DDPMPipeline of diffusers, with DDPM's U-Net and weights in
safetensors. `ddim sample` then makes its pictures, as its scheduler does (on a trailing grid, in numbers of
steps that divide its entries): those of a DDPMScheduler want many --steps (there 1000), or --sampler ddim.
`ddim train --from RUN` goes on from its weights.

examples:
  ddim import ddpm-cifar10-32
  ddim import pipeline --out runs/imported
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim import`."""
    parser.usage = "ddim import DIR [--out RUN]"
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, metavar="DIR", help="a pipeline folder of diffusers")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default runs/DIR-ddpm-N)")


def run(args: argparse.Namespace) -> int:
    """Make the run, print where it is."""
    # Here, so that --help answers without torch.
    from ddim.runs.diffusers_format import import_

    sys.stdout.write(f"a run to sample: {import_(args.folder, args.out)}\n")
    return 0
