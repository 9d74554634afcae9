"""`ddim ema`: choose the width of the average of a run's weights, after training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli import RUN
from ddim.cli.machine import add_machine_options
from ddim.cli.output import print_result
from ddim.cli.tables import format_table
from ddim.errors import UserError, quote
from ddim.files import read_sealed
from ddim.metrics.catalogue import LEAST
from ddim.runs import folder

if TYPE_CHECKING:
    from ddim.evaluation.average_choice import AverageChoice, AverageList
    from ddim.recipe.recipe import Recipe

_EPILOG = """
Samples come from an average of the weights over the last part of the training (EMA). Its relative width says
how long this part is, as a fraction of the run: width 0.05 is a shorter part than width 0.10. Exactly, it is
the standard deviation of the average's profile over the steps. The best width depends on the run.

A run that is trained with --report.snapshots N keeps N snapshots of two averages. Averages of other widths
are reconstructed from them (Karras et al. 2024).

  ddim ema RUN             lists widths with the error of their reconstruction: the expected distance from the
                           wanted average, divided by the distance of this average from the last weights
  ddim ema RUN --width W   reconstructs this width, and stores it as "width-W"
  ddim ema RUN --pick      reconstructs several widths, measures each, and stores the best as "picked"; the
                           default average is always among them

Averages are stored in RUN/averages, and belong to the checkpoint from which they were made. Commands use them
with --weights, such as --weights picked. Checkpoints are not changed.

examples:
  ddim train photos/ --report.snapshots 8
  ddim ema runs/photos-fast-1 --pick
  ddim sample runs/photos-fast-1 --weights picked
  ddim ema runs/photos-fast-1 --pick --by kid -n 1000
  ddim ema runs/photos-fast-1 --width 0.08
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim ema`."""
    parser.usage = "ddim ema RUN [--width W | --pick] [--by validation|kid] [-n 500] [--name NAME] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument(
        "--width", type=float, metavar="W", help="relative width to reconstruct, such as 0.05"
    )
    parser.add_argument("--pick", action="store_true", help="try several widths and keep the best")
    parser.add_argument(
        "--by",
        help="what --pick compares: validation (error on held-out images) or kid (of samples) "
        "(default: validation)",
    )
    parser.add_argument("-n", type=int, metavar="N", help="with --by kid: samples per width (default: 500)")
    parser.add_argument("--name", help="name of the stored average (default: width-W or picked)")
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """List the widths, reconstruct the average of one width, or choose the best width."""
    from ddim.evaluation.average_choice import list_averages, reconstruct_average

    _check_options(args)
    if args.pick:
        choice = _pick(args)
        average, text = choice.average, _describe_choice(choice)
    elif args.width is None:
        found = list_averages(args.run)
        print_result(args, asdict(found), _describe_list(found, args.run))
        return 0
    else:
        average = reconstruct_average(args.run, args.width, name=args.name)
        text = (
            f"width {average.facts.width:g}, reconstruction error {average.facts.error:.2%}: {average.folder}"
        )
    result = {"name": average.name, "folder": average.folder, **asdict(average.facts)}
    text += f"\nto use it: ddim sample {quote(args.run)} --weights {average.name}"
    print_result(args, result, text, average.folder)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Check that every option has an effect, and that no two options exclude each other."""
    if args.pick and args.width is not None:
        raise UserError("give --width or --pick, not both")
    for option, value in {"--by": args.by, "-n": args.n}.items():
        if value is not None and not args.pick:
            raise UserError(f"{option} is an option of --pick: give both")
    if args.n is not None and args.by != "kid":
        raise UserError("-n is the number of samples for --by kid: give both")
    for option, value in {"--device": args.device, "--threads": args.threads}.items():
        if value is not None and not args.pick:
            raise UserError(f"{option} is an option of --pick, which samples or denoises images: give both")
    if args.name is not None and not args.pick and args.width is None:
        raise UserError("--name names the average of --width or --pick: give one of them")


def _pick(args: argparse.Namespace) -> AverageChoice:
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.average_choice import SAMPLES, pick_average
    from ddim.sampling.pipeline import load

    by, n, name = args.by or "validation", SAMPLES if args.n is None else args.n, args.name or "picked"
    loaded = load(args.run, device=args.device, threads=args.threads)
    with ProgressDisplay() as progress:
        return pick_average(loaded, by, n=n, name=name, progress=progress)


def _describe_choice(choice: AverageChoice) -> str:
    """Return the table of all measured widths, and the sentences about the best width."""
    from ddim.evaluation.average_choice import COLUMNS

    column = COLUMNS[choice.by]
    head = (
        "average",
        "width",
        "reconstruction error",
        column.replace("_", " "),
        "difference",
        "95 % interval",
    )
    rows = []
    for k, row in enumerate(choice.rows):
        values = f"{row[column]:.5f}", f"{row['difference']:+.5f}", f"{row['low']:+.5f} to {row['high']:+.5f}"
        name = "" if k else "default"
        rows.append((f"{name} *" if row is choice.best else name, *_describe_width(row), *values))
    notes = [choice.title, *choice.notes]
    return format_table(head, rows, numbers=1) + "\n".join(notes)


def _describe_list(found: AverageList, given: Path) -> str:
    """Return the table of the widths of a run, with the stored averages.

    Args:
        found: the widths and the averages.
        given: the run or checkpoint as the user named it; it is that of the printed commands.
    """
    from ddim.sampling.pipeline import read_run_recipe

    text = f"{found.title}\n" + format_table(
        ("width", "reconstruction error", "gamma"),
        [(*_describe_width(row), f"{row['gamma']:.2f}") for row in found.rows],
        numbers=0,
    )
    run = quote(given)
    uses = [
        f"ddim sample {run} --weights {row['weights']}"
        if row["step"] == found.step
        else f"{row['weights']}, which belongs to another checkpoint"
        for row in found.stored
    ]
    lines = [f"stored for step {row['step']}: {use}" for row, use in zip(found.stored, uses, strict=True)]
    if lines:
        return text + "\n".join(lines)
    held_out = read_sealed(found.run / folder.RUN)["data"]["valid"]
    pick = name_pick_command(given, read_run_recipe(given), held_out)
    return text + f"`{pick}` chooses a width" if pick else text.rstrip()


def name_pick_command(run: Path, recipe: Recipe, held_out: int) -> str:
    """Return the command that chooses the best average of a run or of a checkpoint of a run.

    Return "" if the run has too few held-out images for it: two for errors, and more for KID.
    """
    # The validation error of a student does not tell which average is best.
    if recipe.is_student:
        possible, by = held_out >= LEAST, " --by kid"
    else:
        possible, by = min(held_out, recipe.report.validation_images) >= 2, ""
    return f"ddim ema {quote(run)} --pick{by}" if possible else ""


def _describe_width(row: Mapping[str, Any]) -> Sequence[str]:
    return "-" if row["width"] is None else f"{row['width']:.3g}", f"{row['reconstruction_error']:.2%}"
