"""`ddim distill`: train a student that samples in two steps, from a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import RUN as RUN_HELP
from ddim.cli.guidance import add_guidance_options, take_guidance
from ddim.cli.machine import add_training_machine_options, choose_machine
from ddim.cli.train import print_run
from ddim.errors import UserError
from ddim.machine.startup import count_restarts

TAKES_FIELDS = True

_EPILOG = """
The student starts from the EMA weights of RUN and is trained on the same images by consistency tuning (Geng
et al. 2024). It then generates an image in 2 network evaluations, or in 1; RUN needs about 20. A training
step of the student costs about 1.3 times as much as one of RUN. The student is a run like any other: `ddim
sample`, `ddim evaluate` and `ddim train --resume --out STUDENT` work with it.

Every field of its recipe is an option, such as --optim.lr 3e-4. `ddim train --help-recipe objective` explains
the fields of the loss. --grid.sigma_min is the noise level (sigma / alpha) of the second sampling step;
`ddim search STUDENT` finds the best value on held-out images.

With --guidance the student learns the guided RUN, and needs no guidance itself: it still takes 1 or 2 network
evaluations. The guide must have the network of RUN. A step then costs about 1.4 times as much as without.

examples:
  ddim distill runs/photos-fast-1
  ddim distill runs/photos-fast-1 --minutes 120 --out runs/photos-2-steps
  ddim distill runs/photos-fast-1 --guidance 2 --guide-with @guide --guidance-interval -2,5
  ddim sample runs/photos-fast-distilled-1             2 steps; --steps 1 for one
  ddim train --resume --out runs/photos-fast-distilled-1            after Ctrl-C; --more 30 to train longer
  ddim search runs/photos-fast-distilled-1
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim distill`."""
    parser.usage = "ddim distill RUN [--minutes 60 | --images N] [--out STUDENT] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument("--minutes", metavar="M", help="training time of the student (default: 60)")
    parser.add_argument(
        "--images",
        metavar="N",
        help="number of training images to see, repetitions counted, instead of --minutes",
    )
    parser.add_argument(
        "--out", type=Path, metavar="STUDENT", help="run folder (default: a new runs/DATA-RECIPE-distilled-N)"
    )
    add_guidance_options(parser)
    add_training_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train the student and show the progress."""
    # These imports are here, so that --help does not import torch.
    from ddim.cli.console import Console
    from ddim.training import distill, resume

    if args.minutes is not None and args.images is not None:
        raise UserError("give --minutes or --images, not both")
    budget = {"minutes": args.minutes, "images": args.images}
    fields = {**args.fields, **{name: value for name, value in budget.items() if value is not None}}
    with Console(args.own) as console:
        if _is_restarted(args.out):
            folder = resume(args.out, callbacks=[console], progress=console.preparing)
        else:
            folder = distill(
                args.run,
                fields=fields,
                out=args.out,
                **take_guidance(args),
                machine=choose_machine(args),
                callbacks=[console],
                progress=console.preparing,
            )
    return print_run(args, console, folder)


def _is_restarted(out: Path | None) -> bool:
    """Return whether the run `out` must be resumed: it had begun when torchrun restarted this command.

    Raises:
        UserError: if the command was restarted, and the folder of the student is not given.
    """
    from ddim.machine.distributed import current_processes
    from ddim.runs.folder import RUN

    processes = current_processes()
    if not processes.highest(count_restarts())[0]:
        return False
    if out is None:
        raise UserError("after a restart the student is resumed, so its folder must be given: --out STUDENT")
    return processes.broadcast((out / RUN).is_file() if processes.leads else None)
