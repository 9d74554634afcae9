"""`ddim export`: write a run for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, WEIGHTS
from ddim.cli.output import print_result, say

_EPILOG = """
formats:
  diffusers  a pipeline folder: diffusers.DiffusionPipeline.from_pretrained("DIR")
  onnx       model.onnx, for any number of images, and sampling.json, which says how to sample with it;
             docs/export.md samples with numpy and onnxruntime. Needs pip install "ddim[onnx]"
ONNX is compared with the run when it is written; if they differ, nothing is written. Each folder has a model
card, README.md, with the images, recipe, numbers and samples of the run. The weights alone are in the file
model.safetensors of each checkpoint.

examples:
  ddim export runs/photos-fast-1 --to onnx --steps 10
  ddim export runs/cifar10-ddpm-1 pipeline
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim export`."""
    parser.usage = "ddim export RUN [DIR] [--to diffusers|onnx] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="a new or empty folder (default: a new exports/RUN-FORMAT-N)",
    )
    parser.add_argument(
        "--to", default="diffusers", metavar="FORMAT", help="output format (default: diffusers)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--steps", type=int, metavar="N", help="sampling steps in sampling.json (default: the run's)"
    )


def run(args: argparse.Namespace) -> int:
    """Export the run and print the folder."""
    # These imports are here, so that --help does not import torch.
    from ddim.exchange.export import export_run

    exported = export_run(args.run, args.folder, args.to, weights=args.weights, steps=args.steps)
    for note in exported.notes:
        say(note)
    result = {"folder": exported.folder, "format": exported.format, "notes": list(exported.notes)}
    print_result(args, result, f"{exported.format}: {exported.folder}", exported.folder)
    return 0
