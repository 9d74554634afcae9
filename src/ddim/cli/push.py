"""`ddim push`: upload a run to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, WEIGHTS
from ddim.cli.output import print_result

_EPILOG = """
The command first lists what it uploads: the weights as safetensors, the recipe, a model card with the numbers
of the run, a sheet of samples, and what sampling needs. Training images, folders of this machine and code
stay here. A new repository is private; its settings on the Hub make it public. The metadata at the
top of README.md, such as the licence, stays as it is if the run is pushed again.

It needs pip install "ddim[hub]" and a token with the right to write: `hf auth login`, or the variable
HF_TOKEN. Anyone who can read the repository then gives hub:OWNER/NAME in place of a run:
  ddim sample hub:ada/photos
  ddim sample hub:ada/photos@COMMIT

examples:
  ddim push runs/photos-fast-1 ada/photos
  ddim push runs/photos-fast-1 ada/photos --weights picked
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim push`."""
    parser.usage = "ddim push RUN OWNER/NAME [--weights W]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("to", metavar="OWNER/NAME", help="the repository on the Hub")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")


def run(args: argparse.Namespace) -> int:
    """Upload the run and print its address."""
    # These imports are here, so that --help does not import torch.
    from ddim.exchange.hub import push

    pushed = push(args.run, args.to, weights=args.weights, dry_run=args.dry_run)
    print_result(args, pushed.to_json(), str(pushed))
    return 0
