"""`ddim evaluate`: measure the quality of samples, as numbers with confidence intervals and a record."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli import LABEL, PART, RUN, WEIGHTS, check_fields
from ddim.cli.choice_tables import format_choices_table, parse_choices
from ddim.cli.guidance import NAMES, add_guidance_options
from ddim.cli.machine import add_machine_options
from ddim.cli.output import print_result, read_result, say
from ddim.errors import UserError
from ddim.machine.signals import Stopped
from ddim.recipe.options import SAMPLING_FIELDS

if TYPE_CHECKING:
    from ddim.evaluation.record import Evaluation
    from ddim.evaluation.record_entries import Yardstick
    from ddim.evaluation.reference import Reference
    from ddim.evaluation.samples import Samples

TAKES_FIELDS = True

_EPILOG = """
Compares samples of a run, or images in a folder or archive, with reference images: the run's held-out images,
or the images of --data. `ddim compare` ranks evaluations with the same features and reference and, except by
KID and FID-infinity, the same number of samples. RUN/evaluations/N/ gets the record, the features and a sheet
(one image) of the first samples; TensorBoard shows the numbers and the sheet too.

sampling options, as in `ddim sample`:
  --sampler, --grid, --sampled_on, --clip and their fields (default: the recipe's, with the sampling times
  that `ddim search` found)
  --label L, for a run trained with labels. The reference has images of all classes; use --label all to cycle
  through the classes. If the classes are clusters, they are as frequent as in training by default.
  --guidance W, --guide-with RUN[@NAME], --guidance-interval LOW,HIGH (default: what `ddim search --guidance`
  found)

tables over choices: options with several values, such as --steps 10,20,50 --sampler.eta 0,0.5,1. Each
combination is evaluated with equal seeds, in RUN/evaluations as above. Combinations that were evaluated
before are not evaluated again. A field is combined only with samplers or grids that have it. RUN/tables/N/
gets table.csv and table.png. The next command makes table 1 of Song et al. 2021; its
last row has the larger variance, which the paper calls sigma-hat:

  ddim evaluate RUN --steps 10,20,50,100 --sampler ddim,ddpm --sampler.eta 0,0.2,0.5,1 \\
      --sampler.variance large

examples:
  ddim evaluate runs/photos-fast-1
  ddim evaluate runs/photos-fast-1 --steps 10 -n 5000 --sampler edm
  ddim evaluate runs/photos-fast-1 --guide-with @guide --guidance 1,1.5,2
  ddim evaluate images/ --data photos/
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim evaluate`."""
    from ddim.metrics.catalogue import DEFAULT, EXTRACTORS, METRICS

    parser.usage = (
        "ddim evaluate RUN|IMAGES [-n 1000] [--steps N[,N...]] [--data DATA] [--part PART] [options]"
    )
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="RUN|IMAGES", help=f"{RUN}; or a folder or archive of images")
    parser.add_argument("-n", type=int, metavar="N", help="number of samples of a run (default: 1000)")
    parser.add_argument(
        "--steps", metavar="N", help="sampling steps, one or more (default: the run's, 20 in most recipes)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="the samples have the seeds S, S+1, ... (default: S = 0)"
    )
    parser.add_argument("--label", metavar="L", help=LABEL)
    add_guidance_options(parser, several=True)
    parser.add_argument("--weights", help=WEIGHTS)
    parser.add_argument("--data", metavar="DATA", help="reference images (default: the run's own)")
    parser.add_argument("--part", metavar="PART", help=f"part of the reference: {PART}")
    parser.add_argument(
        "--features",
        metavar="NAME",
        help=f"features of the metrics: {', '.join(EXTRACTORS)} (default: {DEFAULT}); the weights of "
        "inception are downloaded once, scattering has none",
    )
    parser.add_argument(
        "--features-weights", type=Path, metavar="FILE", help="file with the weights of the feature network"
    )
    parser.add_argument(
        "--metric", metavar="NAME", help=f"metric of a table: {', '.join(METRICS)} (default: kid)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="a new folder (default: RUN/evaluations/N, or RUN/tables/N for a table)",
    )
    add_machine_options(parser)


_OF_RUNS = ("n", "steps", "seed", "label", *NAMES, "weights", "device")


def run(args: argparse.Namespace) -> int:
    """Evaluate the samples; print the metrics and the path of the record."""
    check_fields(args, "evaluate", *SAMPLING_FIELDS)
    # These imports are here, so that --help does not import torch.
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.evaluate import evaluate_source
    from ddim.evaluation.evaluated_images import is_run
    from ddim.evaluation.reference import Reference
    from ddim.evaluation.samples import Samples
    from ddim.machine.distributed import current_processes
    from ddim.metrics.catalogue import DEFAULT
    from ddim.metrics.features import load_extractor
    from ddim.runs.names import suggest_run

    given = {name: getattr(args, name) for name in _OF_RUNS if getattr(args, name) is not None}
    if (names := [*given, *args.fields]) and not is_run(Path(args.source)):
        dashes = "-" if names[0] == "n" else "--"
        option = dashes + names[0].replace("_", "-")
        hint = suggest_run(Path(args.source))
        raise UserError(f"{option} is for runs, and {args.source} is not a run{hint}")
    single = {name: given[name] for name in ("n", "seed", "label", "device") if name in given}
    single["threads"] = args.threads
    choices = parse_choices(
        {name: value for name, value in given.items() if name not in single} | args.fields
    )
    reference = Reference(args.data, args.part)
    if any(isinstance(values, list) for values in choices.values()):
        return _tabulate(args, choices, Samples(**single), reference)
    if args.metric:
        raise UserError(
            "--metric is for tables: give several values of one option, such as --steps 10,20, or leave out "
            "--metric"
        )
    fields = {name: choices.pop(name) for name in args.fields}
    samples = Samples(**single, **choices, fields=fields)
    extractor = load_extractor(args.features or DEFAULT, args.features_weights)
    with _saying_what_continues(), ProgressDisplay() as progress:
        found = evaluate_source(
            args.source,
            samples,
            reference,
            extractor=extractor,
            out=args.out,
            progress=progress,
            announce=say,
        )
    if current_processes().leads:
        print_result(args, read_result(found.folder), "\n".join(_lines(found)))
    return 0


@contextmanager
def _saying_what_continues() -> Generator[None]:
    """If a signal stops the block, say that the same command continues the evaluation.

    The command can continue because samples and their features are kept.
    """
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.number, "stopped; the same command continues") from None


def _tabulate(
    args: argparse.Namespace, choices: dict[str, Any], samples: Samples, reference: Reference
) -> int:
    """Evaluate every combination of choices; print the table and the folder of its files."""
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation.table_files import save_table
    from ddim.evaluation.tabulate import tabulate
    from ddim.machine.distributed import current_processes
    from ddim.metrics.catalogue import DEFAULT
    from ddim.metrics.features import load_extractor
    from ddim.runs.folder import check_unused, make_numbered_folder

    if args.out is not None:
        check_unused(args.out)
    extractor = load_extractor(args.features or DEFAULT, args.features_weights)
    with _saying_what_continues(), ProgressDisplay() as progress:
        table = tabulate(
            args.source,
            choices,
            samples,
            reference,
            metric=args.metric or "kid",
            features=extractor,
            progress=progress,
        )
    if not current_processes().leads:
        return 0
    home = table.cells[0].evaluation.folder.parent.parent / "tables"
    folder = save_table(table, args.out or make_numbered_folder(home))
    text = f"{format_choices_table(table)}{folder}/table.csv and .png"
    print_result(args, {"folder": folder, **table.describe()}, text)
    return 0


def _lines(found: Evaluation) -> list[str]:
    """Return the lines that the command prints about an evaluation."""
    from ddim.evaluation.record_entries import describe_part

    of, features, generated, m = found.reference, found.features, found.generated, found.metrics
    k = m["kid"]
    lines = [
        f"{generated.images:,} samples of {generated.source}"
        + (f": {found.name}, grid {found.sampling.grid['kind']}" if found.sampling else ""),
        f"compared with {describe_part(of.images, of.part, of.source)}, {'x'.join(map(str, of.size))} pixels",
        f"features {features.extractor}, {features.dimensions:,} dimensions, images at {features.resize}",
        "",
        f"KID        {k.value:9.5f}   lower is better; 95 % confidence interval {k.low:.5f} ... {k.high:.5f}",
        f"           {k.mean:9.5f}   over {k.subsets} subsets of {k.size}, deviation {k.std:.5f}",
        f"FID        {m['fid'].value:9.3f}   lower is better; biased upwards, more so with fewer images",
    ]
    if f := m.get("fid_infinity"):
        bias = (
            "corrected for the bias of few samples, but not for that of having only "
            f"{of.images:,} reference images"
        )
        lines.append(f"FID-inf    {f.value:9.3f}   95 % interval {f.low:.3f} ... {f.high:.3f}, {bias}")
    meanings = {
        "precision": "share of samples that look like reference images",
        "recall": "share of reference images that the samples cover",
        "density": "how many reference images are near each sample; about 1 for other real images",
        "coverage": "share of reference images with a sample nearby",
    }
    lines += [f"{name:<11}{m[name].value:9.3f}   {text}" for name, text in meanings.items()]
    if found.yardstick:
        lines += ["", *_yardstick_lines(found.yardstick, generated.images)]
    lines += ["", *found.notes]
    if generated.kept:
        lines.append(f"{generated.kept:,} of the samples, or their features, were kept from earlier")
    spent = ", ".join(f"{seconds:.0f} s of {part}" for part, seconds in found.seconds.items())
    return [*lines, f"{spent}: {found.folder}/record.json"]


def _yardstick_lines(yardstick: Yardstick, samples: int) -> list[str]:
    """Return the lines about the scores that real images would get in place of the samples."""
    m, part = yardstick.metrics, {"train": "training", "valid": "held-out"}[yardstick.part]
    k = m["kid"]
    others = ", ".join(
        f"{name} {m[name].value:.3f}" for name in ("precision", "recall", "density", "coverage")
    )
    fewer = " (fewer than samples, so compare only KID)" if yardstick.images < samples else ""
    return [
        f"real against real: {yardstick.images:,} {part} images in place of samples would score{fewer}",
        f"KID {k.value:.5f} ({k.low:.5f} ... {k.high:.5f}), FID {m['fid'].value:.3f}, {others}",
    ]
