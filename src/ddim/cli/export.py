"""`ddim export`: write a run for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN, WEIGHTS
from ddim.cli.output import print_result

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
  ddim export runs/cifar10-ddpm-1 --out pipeline
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim export`."""
    parser.usage = "ddim export RUN [--to diffusers|onnx] [--out DIR] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: exports/RUN-FORMAT)")
    parser.add_argument("--to", choices=["diffusers", "onnx"], help="output format (default: what fits)")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps (default: the run's)")


def run(args: argparse.Namespace) -> int:
    """Export the run and print the folder."""
    # These imports are here, so that --help does not import torch.
    from ddim.exchange.export import export

    exported = export(args.run, args.to, args.out, weights=args.weights, steps=args.steps)
    print_result(args, exported.to_json(), str(exported), exported.folder)
    return 0
