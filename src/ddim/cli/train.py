"""`ddim train`: train a model on images, with a progress bar."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli.choices import list_kinds
from ddim.cli.machine import add_training_machine_options, choose_machine
from ddim.cli.output import print_result
from ddim.cli.own import load_callback, load_own, names_own
from ddim.cli.request import add_request_options, read_fields
from ddim.errors import UserError, suggest
from ddim.files import read_sealed
from ddim.machine.startup import count_restarts

if TYPE_CHECKING:
    from ddim.cli.console import Console
    from ddim.recipe.recipe import Recipe
    from ddim.training import Callback, Machine

TAKES_FIELDS = True

_EPILOG = """recipes:
{recipes}

Every field of a recipe is an option, such as --optim.lr 3e-4, --data.flip false or --schedule linear
--schedule.clip powers. `ddim train --help-recipe fast` explains the fields. `ddim train --help-recipe
schedule` explains the values of the field `schedule`, each with its own fields.

examples:
  ddim train photos/ --minutes 30
  ddim train photos/ --size 64x96 --images 200000
  ddim train photos/ --from runs/blossoms-fast-1
  ddim train photos/ --data.labels yes   one folder for each class; then ddim sample RUN --label NAME
  ddim train photos/ --data.labels clusters:16   16 classes of similar images, found by k-means
  ddim train photos/ --resume            after Ctrl-C: continues exactly where the run stopped
  ddim train new/photos/ --resume --out RUN   the same, after the images have moved
  ddim train mine.py:images --net mine.py:Net   your own components; then ddim sample RUN --own mine.py
  ddim train --resume --out RUN --more 20   train a finished run 20 minutes longer; or --images N
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim train`."""
    parser.usage = "ddim train [DATA] [--recipe NAME|FILE] [--out RUN] [--minutes M | --images N] [options]"
    parser.epilog = _EPILOG.format(recipes=list_kinds("recipe.named", "RECIPES"))
    add_request_options(parser, "those of --from, or of the recipe")
    parser.add_argument("--minutes", metavar="M", help="training time (default: the recipe's, 40 for fast)")
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder (default: a new runs/DATA-RECIPE-N)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out, or the newest run that this command started, or start a new run",
    )
    parser.add_argument(
        "--more", type=float, metavar="M", help="with --resume: train M minutes longer than planned"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="RUN", help="start from the EMA weights of another run"
    )
    parser.add_argument(
        "--find-lr", action="store_true", help="run a learning-rate range test first and use its result"
    )
    parser.add_argument(
        "--callback",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="your own callback, a class or an instance; may be repeated",
    )
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        choices=["wandb", "mlflow"],
        help="also report to an experiment tracker; may be repeated",
    )
    add_training_machine_options(parser)
    parser.add_argument(
        "--help-recipe",
        nargs="?",
        const="",
        metavar="NAME",
        help="list the fields of a recipe and exit; if NAME is a field, such as sampler, list its values",
    )


def run(args: argparse.Namespace) -> int:
    """Train and show the progress."""
    if args.help_recipe is not None:
        return _help_recipe(args)
    # These imports are here, so that --help does not import torch.
    from ddim.cli.console import Console, say
    from ddim.data.arrays import give_images
    from ddim.machine.distributed import current_processes
    from ddim.training import resume, train
    from ddim.training.callbacks import TRACKERS
    from ddim.training.request import choose_recipe

    _check_options(args)
    machine, fields = choose_machine(args), read_fields(args)
    own = give_images(load_own(args.data)) if names_own(args.data) else None
    data = args.data if own is None else own
    hooks: list[Callback] = [load_callback(name) for name in args.callback]
    hooks += [TRACKERS[name]() for name in args.track]
    # Each machine counts only the restarts that its own processes caused, so take the highest count.
    restarted = current_processes().highest(count_restarts())[0] > 0
    if args.resume or restarted:
        if folder := _find_run(args, data, fields):
            # Minutes that were added before torchrun restarted the command are not added again.
            more, images = None if restarted else args.more, _read_images(fields)
            with Console(args.own) as console:
                given = {"callbacks": [*hooks, console], "progress": console.preparing}
                resume(folder, more=more, images=images, data=data, machine=machine, **given)
            return print_run(args, console, folder)
        if args.more is not None:
            raise UserError("no run fits this command, so --more has nothing to extend: name one with --out")
        say("no run fits this command: starting a new one")
    recipe = choose_recipe(args.recipe, data, fields, args.source)
    if args.find_lr:
        recipe, drawing = _find_learning_rate(recipe, machine, args.source)
        hooks.append(drawing)
    with Console(args.own) as console:
        given = {"callbacks": [*hooks, console], "progress": console.preparing}
        folder = train(recipe.data.source, recipe, out=args.out, source=args.source, machine=machine, **given)
    return print_run(args, console, folder)


def _check_options(args: argparse.Namespace) -> None:
    """Check that no two options exclude each other."""
    if args.minutes is not None and args.images is not None:
        raise UserError("give --minutes or --images, not both")
    if args.resume and args.source:
        raise UserError("--resume continues a run and --from starts a new run: give one of them")
    if not args.resume and args.more is not None:
        raise UserError("--more is an option of --resume: give both")
    if args.find_lr and "optim.lr" in read_fields(args):
        raise UserError("--find-lr sets --optim.lr too: give one of them")


def _find_run(args: argparse.Namespace, data: object, fields: Mapping[str, str]) -> Path | None:
    """Return the run to resume: the one in --out, or the newest one that this command would have started.

    Raises:
        UserError: if the run in --out has another recipe than the options, or --out is not a run to resume.
    """
    from ddim.machine.distributed import current_processes
    from ddim.runs.folder import CHECKPOINTS, RUN
    from ddim.training.request import choose_recipe

    if args.out is None:
        recipe, processes = choose_recipe(args.recipe, data, fields, args.source), current_processes()
        return processes.broadcast(find_run(recipe, any_rate=args.find_lr) if processes.leads else None)
    if (args.out / RUN).is_file():
        check_resumed_recipe(args.out, args.recipe, fields)
        return args.out
    if (args.out / CHECKPOINTS).is_dir():
        raise UserError(
            f"--out {args.out} is an imported run, with weights but without a training state: "
            f"start a new run from its weights with --from {args.out}"
        )
    # If the command gives images or a recipe, it may start a new run. So a user can repeat one command, from
    # the start of a run until it is finished.
    if args.recipe is None and data is None:
        what = "holds no run to resume" if args.out.exists() else "does not exist"
        raise UserError(f"--out {args.out} {what}; give DATA to start a new run there")
    return None


def find_run(recipe: Recipe, runs: str | Path = "runs", *, any_rate: bool = False) -> Path | None:
    """Return the newest run in a folder that was started with this recipe; None if there is none.

    Args:
        recipe: the recipe that a new run would have.
        runs: the folder.
        any_rate: whether runs with another learning rate fit too, because a range test chose it.
    """
    from ddim.runs.folder import RUN
    from ddim.training.request import describe_request

    wanted = describe_request(recipe)
    for path in sorted(Path(runs).glob(f"*/{RUN}"), key=os.path.getmtime, reverse=True):
        # A run that cannot be read, or was started elsewhere, does not fit.
        with suppress(UserError, KeyError):
            known = read_sealed(path)["requested"]
            if any_rate:
                known["optim"]["lr"] = wanted["optim"]["lr"]
            if known == wanted:
                return path.parent
    return None


def check_resumed_recipe(run: Path, recipe: str | None, fields: Mapping[str, Any]) -> None:
    """Check that a request to resume a run asks for no other recipe.

    Args:
        run: the run folder.
        recipe: the name or file of a recipe; None if the user gave none.
        fields: the fields that the user gave. Another path of the images and another budget in images are
            not compared, because the images may have moved, and the budget may grow.

    Raises:
        UserError: if the recipe of the run is another one.
    """
    from ddim.recipe.codec import load_recipe
    from ddim.recipe.named import find_recipe
    from ddim.runs.folder import RUN
    from ddim.training.request import change_recipe

    known = load_recipe(read_sealed(run / RUN)["recipe"])
    given = {name: value for name, value in fields.items() if name not in ("data.source", "images")}
    named = recipe is None or find_recipe(recipe, known.data.size).name == known.name
    if not named or change_recipe(known, given) != known:
        advice = "resume it with --out alone (and --more, --images or options of the machine)"
        raise UserError(f"run {run} has another recipe than this command: {advice}")


def _read_images(fields: Mapping[str, str]) -> int | None:
    """Return the budget in images that the options give, or None."""
    from ddim.recipe.codec import override
    from ddim.recipe.recipe import Recipe

    return override(Recipe(), {"images": fields["images"]}).images if "images" in fields else None


def print_run(args: argparse.Namespace, console: Console, folder: Path) -> int:
    """Say how the training ended, and print the run folder; with --json also its state and errors."""
    from ddim.experiments.index import read_run, run_record
    from ddim.machine.distributed import current_processes

    if current_processes().leads:
        console.done(folder)
        print_result(args, run_record(read_run(folder)), str(folder))
    return 0


def _find_learning_rate(recipe: Recipe, machine: Machine, source: Path | None) -> tuple[Recipe, Callback]:
    """Return the recipe with the learning rate of a range test, and the callback that plots this test."""
    from ddim.cli.console import ProgressDisplay, say
    from ddim.recipe.codec import override
    from ddim.training.lr_finder import CurvePlot, find_learning_rate

    with ProgressDisplay() as progress:
        curve = find_learning_rate(recipe, machine, source, progress)
    say(f"learning rate {curve.suggested:.2g}; lr-finder.png in the run folder shows the range test")
    return override(recipe, {"optim.lr": curve.suggested}), CurvePlot(curve)


def _help_recipe(args: argparse.Namespace) -> int:
    """Print the fields of a recipe, or the values of one field with the fields of each value."""
    import dataclasses
    import inspect

    from ddim.recipe.codec import list_paths, override
    from ddim.recipe.help import explain_fields, explain_kinds
    from ddim.recipe.named import RECIPES, find_recipe
    from ddim.recipe.recipe import Recipe
    from ddim.training.request import find_size

    name = args.help_recipe.removeprefix("--") or args.recipe or "fast"
    parts = list(explain_kinds(name))
    titles = [f"--{name} {kind}: {about}" for kind, about, _ in parts]
    recipe, fields = args.recipe or "fast", read_fields(args)
    size = find_size(fields, fields.get("data.source"))
    if not parts and (rows := _explain_field(override(find_recipe(recipe, size), fields), name)):
        parts, titles = (
            [(name, "", rows)],
            [f"field {name}, with its value in recipe {recipe}, or its default:"],
        )
    if not parts and name not in RECIPES and not name.endswith((".yaml", ".yml", ".json")):
        known = [field.name for field in dataclasses.fields(Recipe)]
        hint = suggest(name, [*RECIPES, *list_paths()])
        raise UserError(
            f"--help-recipe must be a recipe ({', '.join(RECIPES)}), a .yaml file, or a field "
            f"({', '.join(known)}, or a field of these, such as optim.lr), got {name!r}{hint}"
        )
    if not parts:
        about = (inspect.getdoc(RECIPES[name]) or "") if name in RECIPES else name
        parts, titles = [(name, about, explain_fields(override(find_recipe(name, size), fields)))], [about]
    text = "\n".join(
        "\n".join([title, "", *map(_format_field, rows), ""])
        for title, (_, _, rows) in zip(titles, parts, strict=True)
    )
    heads = ("field", "value", "possible", "meaning")
    result = {part: [dict(zip(heads, row, strict=True)) for row in rows] for part, _, rows in parts}
    print_result(args, result, text)
    return 0


def _explain_field(recipe: Recipe, path: str) -> list[tuple[str, str, str, str]]:
    """Return the rows of one field; if the recipe lacks it, of each other class of its part that has it."""
    from ddim.recipe.help import explain_fields, explain_kinds

    here = [row for row in explain_fields(recipe) if row[0] == path]
    others = [row for _, _, rows in explain_kinds(path.rpartition(".")[0]) for row in rows if row[0] == path]
    return here or list(dict.fromkeys(others))


def _format_field(row: tuple[str, str, str, str]) -> str:
    """Return a field as text: its option and value on the left, its meaning and valid values on the right."""
    path, value, possible, meaning = row
    left, indent = f"  --{path} {value}", " " * 38
    text = f"{meaning.replace('None', 'none')} [{possible}]"
    lines = textwrap.wrap(text, 110, initial_indent=indent, subsequent_indent=indent)
    if len(left) < len(indent):
        lines[0] = left.ljust(len(indent)) + lines[0].lstrip()
        return "\n".join(lines)
    return "\n".join([left, *lines])
