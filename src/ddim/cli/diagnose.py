"""`ddim diagnose`: measure the errors of a run at each noise level."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import WEIGHTS
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result, read_result
from ddim.cli.tables import format_table

_EPILOG = """
Denoises training images and held-out images at equal steps of log-SNR, the cleanest first. For each noise
level it prints
  noise MSE, image MSE   the errors of the predictions, in model units, with 95 % confidence intervals
  slope                  regression of the true noise on the predicted noise: 1 is calibrated; below 1, the
                         predictions are too large
  gap to training        how much larger the error is on held-out images; if the interval of the gap lies
                         above 0, the run memorises
Then it reports the plateaus of the schedule (shares of uniform times on one noise level), the range of noise
levels that the images need, and the batch size above which larger batches bring little (the gradient noise
scale, McCandlish et al. 2018).

RUN/diagnostics/N/ gets record.json and figure.png, which TensorBoard shows too. Both also have the
distribution of training times over noise levels, and E[eps_hat . (eps - eps_hat)]: the mean product of the
predicted noise and its error, which is 0 for the best possible prediction. Below 0, predictions are too
large; above 0, they are too small.

examples:
  ddim diagnose runs/flowers64-fast-1
  ddim diagnose runs/flowers64-fast-1 --images 500 --levels 20
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim diagnose`."""
    parser.usage = "ddim diagnose RUN [--images 128] [--levels 12] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--images",
        type=int,
        default=128,
        metavar="N",
        help="most training images, and most held-out images, to measure (default: 128)",
    )
    parser.add_argument(
        "--levels", type=int, default=12, metavar="N", help="number of noise levels (default: 12)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder for the results (default: RUN/diagnostics/N)"
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Diagnose the run, print the findings, write the figure and the record."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.diagnose import diagnose
    from ddim.evaluation.diagnosis_report import (
        HEAD,
        describe_images,
        level_rows,
        list_findings,
        write_diagnosis,
    )
    from ddim.evaluation.run_folder import open_run_folder

    run = open_run_folder(load_run(args), args.out)
    with ProgressDisplay() as progress:
        found = diagnose(run, args.images, args.levels, progress=progress)
    folder = write_diagnosis(found, run, args.out)
    text = f"{describe_images(found)}\n"
    text += format_table(HEAD, level_rows(found), numbers=0) + "\n"
    text += "\n".join([*list_findings(found), f"{folder}/figure.png"])
    print_result(args, read_result(folder), text)
    return 0
