"""`ddim sample`: pictures from a run, each a function of its seed, with a record of what made them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ddim.cli import RUN, WEIGHTS, check_fields
from ddim.errors import UserError, check_count

TAKES_FIELDS = True

SHOWN = 256
"""Pictures in the grid and in the film, at most."""

_EPILOG = """
Picture k is made from seed k alone: it is the same in any number of pictures. DIR gets 00000.png, ... named
by seed, each as soon as it is made; grid.png, of the first 256; and record.json, which says what the pictures
depend on. Memory does not grow with their number. A command that was stopped can be given again, with --out.

A run trained with labels (`ddim train photos/ --data.labels yes`) makes the class of --label, by name or
index; with `all` seed s makes class s % classes; without, images of no class in particular. A number is a
name where a class has it, else an index; a class that is called all has its index alone. --guidance W takes
the difference that the label makes W times: above 1 pictures are more of their class and less varied, and
each evaluation is two.

  --steps N      levels of the grid, at each of which the network is asked (the last one makes the picture)
  --sampler.eta  of ddim and dpm_solver: 0 is deterministic (the default), 1 renews all the noise of DDPM
  --sampler      ddim, ddpm, heun, adams_bashforth, dpm_solver or unipc, and its fields: --sampler.order 3;
                 heun asks twice a step; default: the recipe's
  --grid         uniform, quadratic, uniform_log_snr, karras, spaced, sections or listed, and its fields:
                 --grid.end 5, --grid.shares 3,2,1; default: what `ddim search` found for this sampler and
                 --steps, else the recipe's
  --sampled_on   another schedule than that of training: cosine, linear, linear_beta, linear_in or
                 karras_sigma, and its fields: --sampled_on.quantity log_snr
  --clip yes     what each step is told of the picture is held within black and white; x0 for the same with
                 the noise as predicted, as diffusers has it (of which heun and adams_bashforth, that go by
                 the noise, see nothing but in the last prediction)

examples:
  ddim sample runs/flowers64-fast-1 -n 36
  ddim sample runs/flowers64-fast-1 --seeds 0-15,40 --steps 10 --film --out pictures
  ddim sample runs/cifar10-train-fast-1 --label frog --guidance 2
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim sample`."""
    parser.usage = "ddim sample RUN [-n 16] [--steps 20] [--seed 0] [--out DIR] [--film] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN)
    parser.add_argument("-n", type=int, default=None, metavar="N", help="how many pictures (default 16)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="levels of the grid (default 20)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="seeds S ... S+N-1 (default 0)")
    parser.add_argument("--seeds", metavar="LIST", help="any seeds instead, such as 0-35,70")
    parser.add_argument(
        "--label", metavar="L", help="a class, by name or index, or all, of a run trained with labels"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W", help="towards the label; 1 (default) is none"
    )
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default samples/RUN-N, a new folder")
    parser.add_argument("--film", action="store_true", help="also film.webp: the grid from noise to pictures")
    parser.add_argument("--device", help="default: the one that the run was trained on")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: about a minute first, then quicker; other bits than without",
    )


def run(args: argparse.Namespace) -> int:
    """Make the pictures, write them, print where they are."""
    seeds = _seeds(args)
    check_count("--steps", args.steps)
    # Here, so that --help answers without torch.
    import torch

    from ddim.diffusion.noise import check_seeds
    from ddim.files import write_json
    from ddim.plots.pictures import can_preview, grid, save_film, save_png, terminal, to_uint8
    from ddim.runs.classes import check, find
    from ddim.runs.generate import as_asked, generate, parts
    from ddim.runs.pipeline import load
    from ddim.runs.provenance import Film, sampling_record

    check_seeds(seeds)
    check_fields(args, "sample", "sampler", "grid", "sampled_on", "clip")
    trained = load(args.run, args.weights, compiling=args.compile, device=args.device)
    trained, searched = as_asked(trained, args.fields, args.steps)
    if searched:
        sys.stdout.write(f"levels that ddim search found, in {args.run}/grids.json; --grid takes others\n")
    label = find(args.label, trained.recipe, trained.checkpoint.state.classes)
    check(trained.recipe, label, args.guidance)
    record = sampling_record(trained, seeds, args.steps, 0, label, args.guidance)
    out, before = _folder(args, record)
    if not (out / "record.json").is_file():
        # With it the folder is one of pictures, which the same command may finish.
        write_json(out / "record.json", {**record, "seeds": [], "seconds": 0.0})
    film, shown, seconds, nfe = Film(trained.pixels, seeds[:SHOWN]), [], 0.0, 0
    for part in parts(trained, seeds):
        began = time.monotonic()
        images, nfe = generate(
            trained,
            part,
            args.steps,
            label=label,
            guidance=args.guidance,
            watch=film.add if args.film else None,
        )
        seconds += time.monotonic() - began
        for seed, pixels in zip(part, to_uint8(images), strict=True):
            save_png(out / f"{seed:05d}.png", pixels)
        shown += images[: SHOWN - len(shown)]
    sheet = grid(torch.stack(shown))
    save_png(out / "grid.png", sheet)
    if args.film:
        save_film(out / "film.webp", film.frames())
    ended = {"nfe": nfe, "seeds": sorted({*before, *seeds}), "seconds": round(seconds, 2)}
    write_json(out / "record.json", {**record, **ended})
    if can_preview(sys.stdout):
        sys.stdout.write(terminal(sheet, 72) + "\n")
    pace = len(seeds) / seconds
    sys.stdout.write(
        f"{len(seeds)} pictures in {seconds:.1f} s ({pace:.1f}/s), {nfe} evaluations each: {out}/grid.png\n"
    )
    return 0


def _seeds(args: argparse.Namespace) -> list[int]:
    if args.seeds is None:
        n = 16 if args.n is None else args.n
        check_count("-n", n)
        first = args.seed or 0
        return list(range(first, first + n))
    if args.n is not None or args.seed is not None:
        raise UserError("--seeds says which pictures, so -n and --seed cannot be given with it")
    seeds: list[int] = []
    for part in args.seeds.split(","):
        low, dash, high = part.strip().partition("-")
        bounds = (low, high) if dash else (low, low)
        # A seed has 32 bits; a range of more would fill the memory before anyone looked at it.
        if (
            not all(b.isdecimal() and len(b) <= 10 for b in bounds)
            or not 0 <= int(bounds[1]) - int(low) < 10**6
        ):
            raise UserError(f"--seeds must be a list such as 0-35,70, got {args.seeds!r}")
        seeds += range(int(low), int(high if dash else low) + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds must name each seed once, got {args.seeds!r}")
    return seeds


_ALIKE = (
    "checkpoint",
    "weights",
    "sampler",
    "schedule",
    "clip",
    "times",
    "label",
    "guidance",
    "runtime",
    "versions",
)
"""What pictures depend on beside their seeds, by the names of a record."""


def _implied(record: dict[str, Any]) -> dict[str, Any]:
    """What records mean that say nothing of guidance and of ways of sampling, from before there were such."""
    recipe = record["recipe"] if isinstance(record.get("recipe"), dict) else {}
    return {"guidance": 1.0, "schedule": recipe.get("schedule"), "clip": recipe.get("clip")}


def _folder(args: argparse.Namespace, record: dict[str, Any]) -> tuple[Path, list[int]]:
    """The folder to write to, and the seeds of the pictures there.

    A new or an empty one, or one of pictures that depend on the same: no two experiments mix.
    """
    from ddim.files import read_json
    from ddim.runs.folder import writable

    out, before = args.out, []
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, got the file {out}")
    if out and out.is_dir() and any(out.iterdir()):
        if not (out / "record.json").is_file():
            raise UserError(f"--out {out} holds files that are not samples; name a new folder")
        there = read_json(out / "record.json")
        if not isinstance(there, dict) or any(
            {**_implied(there), **there}.get(name) != record[name] for name in _ALIKE
        ):
            raise UserError(
                f"--out {out} holds pictures of another run or way of sampling; name a new folder"
            )
        before = there["seeds"]
    # Of RUN/best and of a checkpoint of a run it is the run that a user knows by name.
    path = Path(record["checkpoint"]["path"]).resolve()
    named = path.parent.parent if path.parent.name == "checkpoints" else path
    return writable(out, "samples", named.name), before
