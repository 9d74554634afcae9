"""`ddim train`: options, a bar, and one call of `ddim.training.train`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.config import Recipe

# Spelt here as well as in `ddim.recipes`, so that --help need not import torch; a test compares the two.
RECIPES = {
    "fast": "the default: the best pictures for minutes of two processor cores",
    "keras": "Béres' Keras tutorial, with its own hyper-parameters",
    "seed": "the torch/luz repository, with its own hyper-parameters",
    "smoke": "seconds: to see that everything runs",
}

TAKES_FIELDS = True

_EPILOG = "recipes:\n" + "\n".join(f"  {name:<7} {text}" for name, text in RECIPES.items())
_EPILOG += """

Any field of a recipe can be set as an option:
  --optim.lr 3e-4   --schedule linear --schedule.clip powers   --data.flip false
`ddim train --help-recipe fast` lists every field of a recipe.

examples:
  ddim train photos/ --minutes 30
  ddim train photos/ --size 64x96 --images 200000
  ddim train photos/ --from runs/blossoms-fast-1
  ddim train photos/ --resume            (after Ctrl-C: goes on exactly where it stopped)
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim train`."""
    parser.usage = "ddim train [DATA] [--recipe NAME|FILE] [--out RUN] [--minutes M | --images N] [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a folder, a .zip, a .tar[.gz|.xz], or blossoms (default), flowers, pets, cifar10",
    )
    parser.add_argument("--recipe", metavar="NAME|FILE", help="see below (default fast)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default runs/DATA-RECIPE-N)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="M", help="how long to train (the recipe's default: 40)")
    budget.add_argument("--images", metavar="N", help="how many images to see, instead of --minutes")
    parser.add_argument("--size", metavar="64|64x96", help="height x width in pixels (default 64)")
    parser.add_argument("--seed", metavar="S", help="of weights, order, noise and split (default 0)")
    parser.add_argument("--resume", action="store_true", help="go on with --out, or the newest run that fits")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="RUN", help="start from that run's weights"
    )
    parser.add_argument("--find-lr", action="store_true", help="first find a learning rate, draw it, use it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: the cores)")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiling",
        help="torch.compile (default: where the run is long enough to repay it)",
    )
    parser.add_argument("--help-recipe", metavar="NAME", help="list every field of a recipe and exit")


def run(args: argparse.Namespace) -> int:
    """Train, printing what was chosen and how it goes."""
    if args.help_recipe:
        return _help_recipe(args.help_recipe)
    # Here, so that --help answers without torch.
    from ddim.cli.console import Console, decoding
    from ddim.training import Machine, resume, train

    if args.resume and args.source:
        raise UserError("--resume goes on with a run and --from starts a new one: give one of them")
    if args.resume:
        folder = _to_resume(args)
        if folder is not None:
            console = Console()
            resume(folder, callbacks=[console], progress=decoding())
            return console.done(folder)
    recipe = _recipe(args)
    machine = Machine(args.device, args.precision, args.compiling, args.threads)
    if args.find_lr:
        recipe = _with_found_rate(recipe, machine, args.data or recipe.data.source)
    console = Console()
    folder = train(
        args.data or recipe.data.source,
        recipe,
        out=args.out,
        source=args.source,
        machine=machine,
        callbacks=[console],
        progress=decoding(),
    )
    return console.done(folder)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that the options describe."""
    from dataclasses import replace

    from ddim.config import override
    from ddim.generate import load
    from ddim.recipes import find

    if args.recipe is None and args.source is not None:
        # Weights fit the network that they were trained in.
        recipe = replace(load(args.source, device="cpu").recipe, images=None)
    else:
        recipe = find(args.recipe or "fast")
    changes = dict(args.fields)
    plain = {"images": args.images, "minutes": args.minutes, "seed": args.seed, "data.size": args.size}
    changes |= {name: value for name, value in plain.items() if value is not None}
    if args.minutes is not None:
        recipe = replace(recipe, images=None)
    return override(recipe, changes)


def _to_resume(args: argparse.Namespace) -> Path | None:
    """The run that --resume means; None to start afresh. UserError where the options contradict the run."""
    from ddim.config import flat
    from ddim.recipes import read_recipe

    wanted = _recipe(args)
    if args.out is not None:
        candidates = [args.out]
    else:
        candidates = sorted(Path("runs").glob("*/recipe.yaml"), key=lambda path: path.stat().st_mtime)[::-1]
        candidates = [path.parent for path in candidates]
    for folder in candidates:
        if not (folder / "recipe.yaml").is_file():
            continue
        found = read_recipe(folder / "recipe.yaml")
        rows = {name: value for name, _, value in flat(found)}
        asked = {name: value for name, _, value in flat(wanted)}
        if args.data is None:
            asked["data.source"] = rows["data.source"]
        else:
            asked["data.source"] = args.data
        if args.recipe is None:
            # Without a name the run's own recipe is meant; only what was spelt out can contradict it.
            spelt = {
                *args.fields,
                *(n for n in ("images", "minutes", "seed") if getattr(args, n) is not None),
            }
            spelt |= {"data.size"} if args.size is not None else set()
            asked = {
                name: asked[name] if name in spelt or name == "data.source" else rows[name] for name in rows
            }
        different = [name for name in rows if asked.get(name) != rows[name]]
        if not different:
            return folder
        if args.out is not None:
            name = different[0]
            raise UserError(
                f"run {folder} has {name} = {rows[name]}, which {name} = {asked.get(name)} contradicts; "
                "resume without it, or start a new run"
            )
    return None


def _with_found_rate(recipe: Recipe, machine: object, data: str) -> Recipe:
    """The recipe with a learning rate from a range test, which is drawn."""
    from ddim.config import override
    from ddim.training.lr_finder import find_rate

    rate, drawing = find_rate(data, recipe, machine)  # type: ignore[arg-type]
    sys.stdout.write(f"learning rate {rate:.2g}, found in {drawing}\n")
    return override(recipe, {"optim.lr": rate})


def _help_recipe(name: str) -> int:
    """Every field of a recipe, one line each."""
    from ddim.config import flat
    from ddim.recipes import RECIPES as MADE
    from ddim.recipes import find

    recipe = find(name)
    about = (MADE[name].__doc__ or "").strip().splitlines()[0] if name in MADE else name
    sys.stdout.write(f"{about}\n\n")
    for path, possible, value in flat(recipe):
        shown = ",".join(str(item).lower() for item in value) if isinstance(value, tuple) else value
        sys.stdout.write(f"  --{path} {'none' if shown is None else str(shown):<24} {possible}\n")
    return 0
