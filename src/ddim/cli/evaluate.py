"""`ddim evaluate`: how good pictures are, as numbers that carry what they depend on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import WEIGHTS, check_fields
from ddim.errors import UserError

if TYPE_CHECKING:
    from ddim.evaluation.record import Evaluation

TAKES_FIELDS = True

_EPILOG = """
A run is judged against the images that it held out of training; --data names others, and must for images.
Numbers can be compared where features, reference and number of pictures are the same: `ddim compare` minds
that. The record, the features and a grid of the pictures lie in RUN/evaluations/1, 2, ... and TensorBoard
shows the numbers and the grid beside what the run logged.

ways of sampling, as `ddim sample` takes them:
  --sampler, --grid, --sampled_on, --clip, and their fields; default: the recipe's, or the grid that
  `ddim search` found
  --label L, --guidance W, of a run trained with labels; the reference holds images of all classes, and so do
  pictures of --label all, as many of each

examples:
  ddim evaluate runs/photos-fast-1
  ddim evaluate runs/photos-fast-1 --steps 10 -n 5000 --sampler edm
  ddim evaluate pictures/ --data photos/
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim evaluate`."""
    parser.usage = "ddim evaluate RUN|IMAGES [-n 1000] [--steps 20] [--data DATA] [--part PART] [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "source",
        metavar="RUN|IMAGES",
        help="a run, one of its checkpoints, RUN/best for the best of them, a folder or archive of images",
    )
    parser.add_argument("-n", type=int, metavar="N", help="how many pictures of a run (default 1000)")
    parser.add_argument("--steps", type=int, metavar="N", help="levels of the grid (default 20)")
    parser.add_argument("--seed", type=int, metavar="S", help="pictures of seeds S ... S+N-1 (default 0)")
    parser.add_argument("--label", metavar="L", help="a class, by name or index, or all")
    parser.add_argument("--guidance", type=float, metavar="W", help="towards the label; 1 (default) is none")
    parser.add_argument("--weights", help=WEIGHTS)
    parser.add_argument("--data", metavar="DATA", help="images to be judged against (default: the run's own)")
    parser.add_argument(
        "--part",
        metavar="PART",
        help="valid, train or all of them (default: valid of the run's, all of DATA)",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="the network of the features: efficientnet-lite0 (default), inception-2015 or "
        "inception-torchvision, whose weights are downloaded once",
    )
    parser.add_argument("--features-weights", type=Path, metavar="FILE", help="its weights, from a file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder for the evaluation")
    parser.add_argument("--device", help="default: the one that the run was trained on")


_OF_RUNS = ("n", "steps", "seed", "label", "guidance", "weights", "device")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the numbers and where the record lies."""
    check_fields(args, "evaluate", "sampler", "grid", "sampled_on", "clip")
    # Here, so that --help answers without torch.
    from ddim.cli.console import report_progress
    from ddim.evaluation.evaluate import Pictures, evaluate, is_run
    from ddim.evaluation.reference import Reference
    from ddim.metrics.catalogue import DEFAULT
    from ddim.metrics.features import load_extractor

    given = {name: getattr(args, name) for name in _OF_RUNS if getattr(args, name) is not None}
    if (names := [*given, *args.fields]) and not is_run(Path(args.source)):
        dashes = "-" if names[0] == "n" else "--"
        raise UserError(f"{dashes}{names[0]} is for runs, and {args.source} is none")
    found = evaluate(
        args.source,
        Pictures(**given, fields=args.fields),
        Reference(args.data, args.part),
        extractor=load_extractor(args.features or DEFAULT, args.features_weights),
        out=args.out,
        progress=report_progress(),
    )
    sys.stdout.write("\n".join(_lines(found)) + "\n")
    return 0


def _lines(found: Evaluation) -> list[str]:
    """The numbers of an evaluation, as they are printed."""
    r = found.record
    of, features, m, spent = r["reference"], r["features"], r["metrics"], r["seconds"]
    size = "x".join(map(str, of["size"]))
    k, f = m["kid"], m["fid"]
    lines = [
        f"{r['generated']['images']:,} pictures of {r['generated']['source']}"
        + (f", {r['sampling']['nfe']} evaluations each" if r["sampling"] else ""),
        f"against {of['images']:,} images, {of['part']} of {of['source']}, {size} pixels",
        f"features {features['extractor']}, {features['dimensions']:,} of images at {features['resize']}",
        "",
        f"KID        {k['value']:9.5f}   95 % interval {k['low']:.5f} ... {k['high']:.5f}",
        f"           {k['mean']:9.5f}   over {k['subsets']} subsets of {k['size']}, deviation {k['std']:.5f}",
        f"FID        {f['value']:9.3f}   biased upwards, the more the fewer images",
    ]
    if f["infinity"] is not None:
        interval = f"95 % interval {f['low']:.3f} ... {f['high']:.3f}"
        bias = "without the bias of the number of pictures; "
        bias += f"that of {of['images']:,} reference images remains"
        lines.append(f"FID-inf    {f['infinity']:9.3f}   {interval}, {bias}")
    said = {
        "precision": "share of pictures that look like images of the reference",
        "recall": "share of the reference that pictures cover",
        "density": "how many images of the reference pictures are near to, 1 for the reference itself",
        "coverage": "share of the reference with a picture near it",
    }
    lines += [f"{name:<11}{m[name]['value']:9.3f}   {text}" for name, text in said.items()]
    lines += ["", *(f"note: {note}" for note in r["notes"])]
    lines.append(
        f"{spent['sampling']:.0f} s of sampling, {spent['features']:.0f} s of features, "
        f"{spent['metrics']:.0f} s of metrics: {found.folder}/record.json"
    )
    return lines
