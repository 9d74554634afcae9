# ruff: noqa: N999  (the name of a command)
"""`ddim import`: convert a model of another library to a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli.output import print_result, say

TAKES_FIELDS = True

_EPILOG = """
MODEL is one of
  the folder of a DDIMPipeline or DDPMPipeline of diffusers, with the U-Net of DDPM
  a checkpoint of denoising-diffusion-pytorch 2 (.pt); its EMA weights are used
  a state dict of improved-diffusion or guided-diffusion (.pt)
A separate process reads files of torch.save. It accepts tensors and plain values only, and runs nothing that
the file contains. A checkpoint does not contain the size of its images: give --size. For a state dict, give
other options that it does not contain as fields of the recipe, such as --net.heads 4, --net.head 64,
--schedule beta_table or --schedule.entries 4000.

`ddim sample` then samples exactly as the pipeline's scheduler does, if the grid has "trailing" spacing and
the number of steps divides the number of table entries. A DDPMScheduler needs many steps, such as --steps
1000; or sample the run with --sampler ddim. `ddim train --from RUN` trains its weights further.

examples:
  ddim import ddpm-cifar10-32
  ddim import results/model-100.pt --size 64
  ddim import cifar10_uncond_50M_500K.pt --size 32 --schedule beta_table --schedule.entries 4000
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim import`."""
    parser.usage = "ddim import MODEL [--size N] [--out RUN] [fields of the recipe]"
    parser.epilog = _EPILOG
    parser.add_argument("model", type=Path, metavar="MODEL", help="a pipeline folder, or a checkpoint file")
    parser.add_argument("--size", metavar="N|HxW", help="image size of a checkpoint, such as 64 or 96x64")
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder (default: a new runs/MODEL-KIND-N)"
    )


def run(args: argparse.Namespace) -> int:
    """Import the model and print the run folder."""
    # These imports are here, so that --help does not import torch.
    from ddim.runs.importing import import_model

    fields = args.fields if args.size is None else {**args.fields, "data.size": args.size}
    imported = import_model(args.model, args.out, fields=fields)
    for note in imported.notes:
        say(note)
    result = {"folder": imported.run, "notes": list(imported.notes)}
    print_result(args, result, f"run: {imported.run}", imported.run)
    return 0
