"""`ddim train`: options, a bar, and one call of `ddim.training.train`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.runs.recipe import Recipe
    from ddim.training import Callback, Machine

# Spelt here as well as in `ddim.runs.named_recipes`, so that --help needs no torch; a test compares the two.
RECIPES = {
    "fast": "the default: the best pictures for minutes of two processor cores",
    "ddpm": "DDPM and DDIM as published for CIFAR-10; on a laptop with --net.width 32 --net.groups 8",
    "iddpm": "improved DDPM for CIFAR-10, its variance learned; --net.width 32 --net.groups 8 on a laptop",
    "keras": "Béres' Keras tutorial, with its own hyper-parameters",
    "clear": "Béres' clear-diffusion-keras; on a laptop with --net.widths 32,64,96,128 and no attention",
    "luz": "the torch/luz repository, with its own hyper-parameters",
    "edm": "Karras et al. 2022: preconditioned, weighted, augmented",
    "edm-vp": "edm with the preconditioning and noise levels of the VP SDE",
    "edm-ve": "edm with those of the VE SDE",
    "edm-iddpm": "edm with those of Nichol & Dhariwal",
    "smoke": "seconds: to see that everything runs",
}

TAKES_FIELDS = True

_EPILOG = "recipes:\n" + "\n".join(f"  {name:<9} {text}" for name, text in RECIPES.items())
_EPILOG += """

Any field of a recipe can be set as an option:
  --optim.lr 3e-4   --schedule linear --schedule.clip powers   --data.flip false
`ddim train --help-recipe fast` lists every field of a recipe.

examples:
  ddim train photos/ --minutes 30
  ddim train photos/ --size 64x96 --images 200000
  ddim train photos/ --from runs/blossoms-fast-1
  ddim train photos/ --data.labels yes   (a folder a class: then `ddim sample RUN --label NAME --guidance 2`)
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
        help="a folder, a .zip, a .tar[.gz|.xz], or blossoms, flowers, pets, cifar10 (default: the recipe's)",
    )
    parser.add_argument("--recipe", metavar="NAME|FILE", help="see below (default fast)")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default runs/DATA-RECIPE-N)")
    parser.add_argument("--minutes", metavar="M", help="how long to train (the recipe's default: 40)")
    parser.add_argument("--images", metavar="N", help="how many images to see, instead of --minutes")
    parser.add_argument("--size", metavar="64|64x96", help="height x width in pixels (default: the recipe's)")
    parser.add_argument("--seed", metavar="S", help="of weights, order, noise and split (default 0)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with --out, or the newest run that fits, or begin one"
    )
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
    from ddim.cli.console import Console, decoding, say
    from ddim.training import Machine, resume, train

    if args.minutes is not None and args.images is not None:
        raise UserError("give --minutes or --images, not both")
    if args.resume and args.source:
        raise UserError("--resume goes on with a run and --from starts a new one: give one of them")
    why = ""
    if args.resume:
        folder, why = _to_resume(args)
        if folder is not None:
            with Console() as console:
                resume(folder, callbacks=[console], progress=decoding())
            return console.done(folder)
    recipe = _recipe(args)
    if why:
        say(f"{why}; a new run begins")
    machine = Machine(args.device, args.precision, args.compiling, args.threads)
    drawings: list[Callback] = []
    if args.find_lr:
        recipe, drawing = _with_found_rate(recipe, machine, args.source)
        drawings.append(drawing)
    with Console() as console:
        folder = train(
            recipe.data.source,
            recipe,
            out=args.out,
            source=args.source,
            machine=machine,
            callbacks=[*drawings, console],
            progress=decoding(),
        )
    return console.done(folder)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of a new run."""
    from dataclasses import replace

    from ddim.runs.pipeline import recipe_of
    from ddim.training.run import named

    if args.recipe is None and args.source is not None:
        # Weights fit the network that they were trained in.
        return _changed(replace(recipe_of(args.source), images=None), args)
    return _changed(named(args.recipe or "fast", args.source), args)


def _changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """A recipe with what the options say of it."""
    from dataclasses import replace

    from ddim.runs.codec import override

    plain = {
        "data.source": args.data,
        "images": args.images,
        "minutes": args.minutes,
        "seed": args.seed,
        "data.size": args.size,
    }
    if args.minutes is not None:
        recipe = replace(recipe, images=None)
    return override(recipe, {**args.fields, **{n: value for n, value in plain.items() if value is not None}})


def _to_resume(args: argparse.Namespace) -> tuple[Path | None, str]:
    """The run that --resume means; or None, to start afresh, and why. UserError where --out cannot be it."""
    if args.out is not None:
        if (args.out / "run.json").is_file():
            if found := _differing(args.out, args):
                name, value, other = found
                raise UserError(
                    f"run {args.out} has {name} = {value}, which {name} = {other} contradicts; "
                    "resume without it, or start a new run"
                )
            return args.out, ""
        if (args.out / "checkpoints").is_dir():
            raise UserError(
                f"--out {args.out} holds weights, as an imported run does, and no training to resume: "
                f"start a new run from them with --from {args.out}"
            )
        # A command line that says what to train is one to repeat until it is done.
        if not args.out.exists() and args.data is None and args.recipe is None:
            raise UserError(f"--out {args.out} is not there to resume; to begin a run there, name its DATA")
        return None, f"--out {args.out} holds no run to resume"
    runs = sorted(Path("runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    why = ""
    for folder in (path.parent for path in runs):
        try:
            found = _differing(folder, args)
        except UserError:
            continue
        if not found:
            return folder, ""
        name, value, other = found
        # Of the newest on the same images: more were a list of all that was ever trained.
        if name != "data.source" and not why:
            why = f": {folder} has {name} = {value}, not {other}"
    return None, f"no run in runs/ fits{why}"


def _differing(folder: Path, args: argparse.Namespace) -> tuple[str, Any, Any] | None:
    """A field or choice in which the options are not the run: its name, value, and what is asked for.

    Of several the images come first. None where they fit; UserError where the recipe cannot be read.
    """
    from dataclasses import replace

    from ddim.files import read_json
    from ddim.runs.codec import flat, load, override
    from ddim.runs.named_recipes import find

    facts = read_json(folder / "run.json")
    # Without a name the run's own recipe is meant; only what is spelt out can contradict it.
    recipe = load(facts["recipe"])
    meant = recipe if args.recipe is None else find(args.recipe)
    if facts.get("source"):
        # A recipe by name took the pixels of the run that it started from.
        meant = replace(meant, pixels=recipe.pixels)
    wanted = _changed(meant, args)
    source = recipe.data.source
    if args.data is None or os.path.normpath(args.data) == os.path.normpath(source):
        wanted = replace(wanted, data=replace(wanted.data, source=source))
    if wanted.data.labels and recipe.data.labels and not wanted.net.classes:
        # The run has counted those of its images.
        wanted = override(wanted, {"net.classes": recipe.net.classes})
    if args.find_lr:
        wanted = replace(wanted, optim=replace(wanted.optim, lr=recipe.optim.lr))
    asked = {name: value for name, _, value in flat(wanted)}
    pairs = [(name, value, asked.get(name)) for name, _, value in flat(recipe)]
    given = {"device": args.device, "precision": args.precision}
    given |= {"compile": args.compiling, "threads": args.threads}
    pairs += [(n, facts["runtime"][n], value) for n, value in given.items() if value not in (None, "auto")]
    pairs.sort(key=lambda pair: pair[0] != "data.source")
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _with_found_rate(recipe: Recipe, machine: Machine, source: Path | None) -> tuple[Recipe, Callback]:
    """The recipe with a learning rate from a range test, and what draws that."""
    from ddim.cli.console import say
    from ddim.runs.codec import override
    from ddim.training.lr_finder import Drawing, find_rate

    curve = find_rate(recipe, machine, source)
    say(f"learning rate {curve.suggested:.2g}: lr-finder.png in the run folder shows why")
    return override(recipe, {"optim.lr": curve.suggested}), Drawing(curve, recipe)


def _help_recipe(name: str) -> int:
    """Every field of a recipe, one line each."""
    from ddim.runs.codec import flat
    from ddim.runs.named_recipes import RECIPES as MADE
    from ddim.runs.named_recipes import find

    recipe = find(name)
    about = (MADE[name].__doc__ or "").strip().splitlines()[0] if name in MADE else name
    sys.stdout.write(f"{about}\n\n")
    for path, possible, value in flat(recipe):
        items = value if isinstance(value, tuple) else (value,)
        # As an option takes it: true, not True.
        shown = ",".join(str(item).lower() if item in (True, False, None) else str(item) for item in items)
        sys.stdout.write(f"  --{path:<24} {shown or '[]':<16} {possible}\n")
    return 0
