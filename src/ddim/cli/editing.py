"""The options, inputs and outputs that the commands for edits share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import WEIGHTS, ZOOM, check_fields
from ddim.cli.guidance import add_guidance_options, take_guidance
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import say
from ddim.errors import UserError, check_count, quote

if TYPE_CHECKING:
    from ddim.sampling.edits import Edit


def add_options(parser: argparse.ArgumentParser, *, guided: bool = True, classless: bool = False) -> None:
    """Add the options of every edit, and unless `guided` is False, those of `add_guidance_options`."""
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps (default: 50)")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="output folder (default: a new edits/COMMAND-N)"
    )
    parser.add_argument("--zoom", type=int, metavar="K", help=ZOOM)
    if guided:
        add_guidance_options(parser, labels=False, classless=classless)
    add_machine_options(parser)


def add_seed_options(parser: argparse.ArgumentParser, n: int) -> None:
    """Add the options of an edit that generates `n` images by default."""
    parser.add_argument("-n", type=int, default=n, metavar="N", help=f"number of images (default: {n})")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the samples have the seeds S, S+1, ... (default: S = 0)",
    )


def edit_and_save(
    args: argparse.Namespace, act: Callable[..., Edit], *, real: bool = True, guided: bool = True
) -> tuple[Edit, Path]:
    """Load the run that the arguments name, edit with it, and save the result; return both.

    Args:
        args: the parsed arguments.
        act: makes the edit; called with the run, and with options by name.
        real: whether real images are edited, and not samples.
        guided: whether the command has the options of guidance.

    Raises:
        UserError: if an argument cannot be used.
    """
    from ddim.cli.console import ProgressDisplay
    from ddim.sampling.edits import choose_edit_grid

    run = load_run(args)
    options = take_guidance(args) if guided else {}
    grid = choose_edit_grid(run.recipe, args.fields, real=real)
    with ProgressDisplay() as progress:
        edit = act(run, steps=args.steps, grid=grid, progress=progress, **options)
    for note in edit.notes:
        say(note)
    return edit, edit.save(args.out, args.zoom)


def check_options(args: argparse.Namespace, command: str) -> None:
    """Check the options of every edit, before the run is loaded.

    Raises:
        UserError: if an argument cannot be used.
    """
    from ddim.plots.pictures import check_zoom

    check_count("--steps", args.steps)
    check_zoom(args.zoom)
    check_fields(args, command, "grid")
    if args.out and args.out.is_dir() and any(args.out.iterdir()):
        raise UserError(f"--out {args.out} holds files already; name a new folder")
    for image in vars(args).get("images") or [vars(args).get("image")]:
        if image and image.is_dir() and args.run.is_file():
            words = quote("ddim", command, image, args.run)
            raise UserError(f"RUN comes before IMAGE: {words}")
