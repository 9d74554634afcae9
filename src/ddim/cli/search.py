"""`ddim search`: find the best sampling times or the best guidance for a run and a number of steps."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from ddim.cli import WEIGHTS, check_fields
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result, say
from ddim.errors import UserError, quote

TAKES_FIELDS = True

_EPILOG = """
Varies the sampling times between the first and the last time of the run's grid, and keeps the times whose
samples are nearest to samples with many steps. This takes minutes. The best times are written to
RUN/searched.json; `ddim sample RUN` with the same --steps and sampler uses them, unless --grid is given. For
a student of `ddim distill`, this command finds the noise level of the last step at which samples have the
lowest KID against the validation images.

With --guidance, it finds the guide, scale and noise levels of guidance at which samples have the lowest KID
against the validation images. The best setting is measured again with new seeds, and compared with unguided
samples of these seeds. The unguided samples have either the same number of steps or about the same NFE: the
search takes the one that had the lower KID before. If the KID of the best setting is distinguishably lower
(at 95 %), the setting is written to RUN/searched.json. `ddim sample RUN` and `ddim evaluate RUN` with the
same --steps and sampler then use it; --guidance 1 turns it off. For a run with labels, classifier-free
guidance is tried too. A run without labels needs RUN/guide or --guide-with.

sampling options:
  --sampler, --grid and their fields, as in `ddim sample` (default: the recipe's); --grid without --guidance

examples:
  ddim search runs/photos-fast-1 --steps 10
  ddim search runs/photos-fast-1 --steps 5 --sampler dpm_solver
  ddim search runs/photos-fast-1 --guidance -n 1000
  ddim search runs/photos-fast-distilled-1
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim search`."""
    parser.usage = "ddim search RUN [--guidance] [--steps N] [--sampler NAME] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="sampling steps (default: 10; with --guidance or for a student of ddim distill, the recipe's)",
    )
    parser.add_argument("--guidance", action="store_true", help="search for guidance instead of times")
    parser.add_argument(
        "-n", type=int, metavar="N", help="with --guidance: samples of each setting (default: 500)"
    )
    parser.add_argument(
        "--label",
        metavar="L",
        help="with --guidance: class name or index, whose result is not saved (default: all classes)",
    )
    parser.add_argument(
        "--guide-with",
        metavar="RUN[@NAME]",
        help="with --guidance: guides to try, one or more (default: @guide, the early checkpoint of RUN)",
    )
    parser.add_argument(
        "--end", type=float, metavar="T", help="the last sampling time (default: as in the run's grid)"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="number of samples to compare (default: 16; 500 for students)"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder for searched.json, where `ddim sample` does not look for it (default: RUN)",
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Search for the best sampling times or guidance, and print every setting that was tried."""
    kinds = {False: ("n", "label", "guide_with"), True: ("end", "seeds", "out")}
    for name in kinds[args.guidance]:
        if getattr(args, name) is not None:
            dashes = ("-" if name == "n" else "--") + name.replace("_", "-")
            without, advice = ("without", "leave one of them out") if args.guidance else ("with", "add it")
            raise UserError(f"{dashes} is an option of the search {without} --guidance: {advice}")
    return _search_guidance(args) if args.guidance else _search_times(args)


def _search_guidance(args: argparse.Namespace) -> int:
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.guidance_search import SAMPLES, search_guidance
    from ddim.recipe.codec import override

    for name in args.fields:
        if name.split(".")[0] == "grid":
            raise UserError(f"--{name} is an option of the search without --guidance: leave one of them out")
    check_fields(args, "search", "sampler")
    run = load_run(args)
    run = replace(run, recipe=override(run.recipe, args.fields))
    guides = None if args.guide_with is None else args.guide_with.split(",")
    with ProgressDisplay() as progress:
        found = search_guidance(
            run,
            args.steps,
            SAMPLES if args.n is None else args.n,
            label=args.label,
            guides=guides,
            progress=progress,
            announce=say,
        )
    end = f": {args.run}/searched.json" if found.chosen and found.saved else ""
    print_result(args, {"run": args.run, **found.to_json()}, f"{found!r}{end}")
    return 0


def _search_times(args: argparse.Namespace) -> int:
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.grid_search import search_grid

    check_fields(args, "search", "sampler", "grid")
    run = load_run(args)
    with ProgressDisplay() as progress:
        found = search_grid(
            run,
            args.steps,
            end=args.end,
            seeds=args.seeds,
            fields=args.fields,
            progress=progress,
            out=args.out,
        )
    steps, measure = len(found.times), found.measure.replace("_", " ")
    best = min(found.named, key=found.named.__getitem__)
    file = (args.out or args.run) / "searched.json"
    text = "".join(f"{name}: {measure} {error:.3g}\n" for name, error in found.named.items())
    # The estimate of a KID may be negative, and a ratio would then mean nothing.
    gain = f"{found.named[best] / found.error:.2f} times smaller" if found.error > 0 else "smaller"
    lead = f", {gain} than on the {best} grid" if found.error < found.named[best] else ""
    if found.measure == "kid" and found.error > found.named[best]:
        text += f"{best} is not distinguishably better at 95 %, on fresh samples: the student keeps its own\n"
    text += f"{measure} {found.error:.3g}{lead}: {file}"
    if args.out:
        times = ",".join(f"{t:.6g}" for t in found.times)
        fields = [f"--{name} {value}" for name, value in args.fields.items() if name.startswith("sampler")]
        weights = [] if args.weights == "ema" else [f"--weights {args.weights}"]
        words = [f"ddim sample {quote(args.run)}", *weights, *fields, f"--steps {steps}"]
        text += f"\nto use it: {' '.join(words)} --grid listed --grid.times {times}"
    print_result(args, {"file": file, "steps": steps, **asdict(found)}, text)
    return 0
