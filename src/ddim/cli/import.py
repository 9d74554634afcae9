# ruff: noqa: N999  (the name of a command)
"""`ddim import`: convert a model of another library to a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result

_EPILOG = """
MODEL is the folder of a DDIMPipeline or DDPMPipeline of diffusers, with the U-Net of DDPM. `ddim sample` then
samples exactly as the pipeline's scheduler does, if the grid has "trailing" spacing and the number of steps
divides the number of table entries. A DDPMScheduler needs many steps, such as --steps 1000; or sample the run
with --sampler ddim. `ddim train --from RUN` trains its weights further.

example:
  ddim import ddpm-cifar10-32
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim import`."""
    parser.usage = "ddim import MODEL [--out RUN]"
    parser.epilog = _EPILOG
    parser.add_argument("model", type=Path, metavar="MODEL", help="a pipeline folder")
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder (default: a new runs/MODEL-KIND-N)"
    )


def run(args: argparse.Namespace) -> int:
    """Import the model and print the run folder."""
    # This import is here, so that --help does not import torch.
    from ddim.exchange.import_model import import_model

    imported = import_model(args.model, args.out)
    print_result(args, imported.to_json(), str(imported), imported.folder)
    return 0
