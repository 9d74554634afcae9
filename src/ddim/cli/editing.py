"""The options, inputs and outputs that the commands for edits share."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli import WEIGHTS, ZOOM, check_fields
from ddim.cli.guidance import add_guidance_options
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import say
from ddim.errors import UserError, check_count

if TYPE_CHECKING:
    from torch import Tensor

    from ddim.diffusion.grids import Grid
    from ddim.runs.edit_images import Edit
    from ddim.runs.pipeline import LoadedRun


def add_options(parser: argparse.ArgumentParser, *, guided: bool = True) -> None:
    """Add the options of every edit, and those of guidance unless `guided` is False."""
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps (default: 50)")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="output folder (default: a new edits/COMMAND-N)"
    )
    parser.add_argument("--zoom", type=int, metavar="K", help=ZOOM)
    if guided:
        add_guidance_options(parser, labels=False)
    add_machine_options(parser)


def add_seed_options(parser: argparse.ArgumentParser, n: int) -> None:
    """Add the options of an edit that generates `n` images by default."""
    parser.add_argument("-n", type=int, default=n, metavar="N", help=f"number of images (default: {n})")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="first seed: S ... S+N-1 (default: 0)"
    )


def open_run(args: argparse.Namespace, command: str, *, real: bool = True) -> tuple[LoadedRun, Grid]:
    """Load the run that the arguments name.

    Args:
        args: the parsed arguments.
        command: the command's name.
        real: whether the edit starts from real images. If so, `choose_edit_grid` gives its default grid.

    Returns:
        The run, and the grid of the edit with the fields that the arguments set.

    Raises:
        UserError: if an argument cannot be used.
    """
    from ddim.plots.pictures import check_zoom
    from ddim.runs.codec import override
    from ddim.runs.edit_work import choose_edit_grid

    check_count("--steps", args.steps)
    check_fields(args, command, "grid")
    check_zoom(args.zoom)
    if args.out and args.out.is_dir() and any(args.out.iterdir()):
        raise UserError(f"--out {args.out} holds files already; name a new folder")
    for image in vars(args).get("images") or [vars(args).get("image")]:
        if image and image.is_dir() and args.run.is_file():
            words = shlex.join(["ddim", command, str(image), str(args.run)])
            raise UserError(f"RUN comes before IMAGE: {words}")
    run = load_run(args)
    recipe = run.recipe
    if real and "grid" not in args.fields:
        recipe = run.with_recipe(grid=choose_edit_grid(recipe)).recipe
    return run, override(recipe, args.fields).grid


def read_inputs(run: LoadedRun, paths: Sequence[Path]) -> Tensor:
    """Return image files as (B, C, H, W) in [0, 1] of the run's size; print how each one was changed."""
    from ddim.runs.edit_folder import read_images

    shape = run.model.shape
    return read_images(paths, (shape.height, shape.width), shape.channels, say, run.values)


def save_outputs(args: argparse.Namespace, command: str, edit: Edit, facts: dict[str, Any]) -> Path:
    """Write an edit into its folder; return the folder.

    Args:
        args: the parsed arguments.
        command: the command's name, in the name of a new folder and in the record.
        edit: the result of the edit.
        facts: further fields of the record.
    """
    from ddim.runs.edit_folder import save_edit
    from ddim.runs.folder import make_output_folder

    out = make_output_folder(args.out, "edits", command)
    save_edit(edit, out, command, facts, args.zoom)
    return out
