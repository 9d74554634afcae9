"""`ddim plot`: draw a figure and write it as PNG, SVG or PDF."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.cli import RUN, STEPS, check_fields
from ddim.cli.choices import list_kind_fields, read_registry
from ddim.cli.machine import THREADS, add_threads_option
from ddim.cli.output import print_result
from ddim.errors import UserError, check_count, quote

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TAKES_FIELDS = True

_EPILOG = """examples:
  ddim plot schedule                                 cosine, linear and linear_beta side by side
  ddim plot schedule linear --schedule.clip powers   the table of the torch/luz repository, and its plateau
  ddim plot schedule linear_in --schedule.quantity log_noise   a schedule of clear-diffusion-keras
  ddim plot forward photo.jpg --size 128             an image that becomes noise
  ddim plot reverse runs/blossoms-fast-1 --seed 7    noise that becomes an image
  ddim plot samplers runs/blossoms-fast-1            the error of each sampler against the NFE
  ddim plot losses runs/*                            the losses of several runs

`ddim plot KIND --help` lists the options of a kind.
"""

_FIELDS = """
--schedule.FIELD VALUE sets a field in every schedule that has it, as in `ddim train`:
{fields}
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Formats a help text, so that options stand beside their descriptions."""

    def __init__(self, prog: str, **options: Any) -> None:  # noqa: ANN401  (argparse's own options)
        super().__init__(prog, **{"max_help_position": 32, **options})


def add(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand with its options for each kind of figure."""
    parser.epilog = _EPILOG
    parser.formatter_class = _Formatter
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, title="kinds")

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        options: dict[str, Any] = {"allow_abbrev": False, "formatter_class": _Formatter}
        inner = kinds.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **options)
        _add_file(inner, name)
        return inner

    schedule = kind("schedule", "draw alpha, sigma and log-SNR of schedules against t")
    schedule.usage = "ddim plot schedule [NAME ...] [--schedule.FIELD VALUE ...] [--out FILE]"
    schedule.epilog = _FIELDS.format(fields=list_kind_fields("diffusion.schedules", "SCHEDULES"))
    known = ", ".join(read_registry("diffusion.schedules", "SCHEDULES"))
    schedule.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{known} (default: cosine, linear, linear_beta)"
    )
    for name, text in (
        ("embedding", "draw the sinusoidal embedding of the noise variance as heat maps"),
        ("distance", "draw inner products of embeddings of two noise variances, against their difference"),
    ):
        inner = kind(name, text)
        inner.add_argument("--width", type=int, default=32, metavar="N", help="channels (default: 32)")
        inner.add_argument(
            "--max-frequency",
            type=float,
            default=1000.0,
            metavar="F",
            help="oscillations of the fastest channel between noise variances 0 and 1 (default: 1000)",
        )
    forward = kind("forward", "draw an image at growing t, under the linear and the cosine schedule")
    forward.add_argument(
        "source",
        nargs="?",
        default="blossoms",
        metavar="IMAGE|DATA",
        help="an image file, or DATA as in `ddim train`, whose first image is drawn (default: blossoms)",
    )
    forward.add_argument(
        "--size", default="64", metavar="64|64x96", help="height x width in pixels (default: 64)"
    )
    forward.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the noise (default: 0)")
    reverse = kind("reverse", "draw sampling states, predicted clean images, and the sample with noise added")
    reverse.add_argument("run", metavar="RUN", help=RUN)
    reverse.add_argument("--steps", type=int, metavar="N", help=STEPS)
    reverse.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sample (default: 0)")
    samplers = kind("samplers", "draw the error of every sampler and grid against its network evaluations")
    samplers.add_argument(
        "run", nargs="?", metavar="RUN", help=f"{RUN} (default: a mixture of Gaussians, whose score is exact)"
    )
    samplers.add_argument(
        "--seeds", type=int, default=16, metavar="N", help="number of samples to compare (default: 16)"
    )
    for inner in (reverse, samplers):
        add_threads_option(inner, THREADS)
    losses = kind("losses", "draw the losses of runs against the training images seen")
    losses.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")


def _add_file(parser: argparse.ArgumentParser, name: str) -> None:
    text = f"PNG, SVG or PDF file (default: a new {name}.png)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out if it exists")


def run(args: argparse.Namespace) -> int:
    """Draw the figure and print its path."""
    from ddim.plots.charts import ENDINGS, save_figure
    from ddim.plots.pictures import check_picture_path, find_unused_path

    check_fields(args, f"plot {args.kind}", *(["schedule"] if args.kind == "schedule" else []))
    out = find_unused_path(f"{args.kind}.png") if args.out is None else args.out
    check_picture_path(out, ENDINGS, replace=args.overwrite)
    save_figure(out, _DRAW[args.kind](args))
    print_result(args, {"file": out}, str(out))
    return 0


def _schedule(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import schedule_figures

    if name := args.fields.get("schedule"):
        raise UserError(f"name the schedule without an option: ddim plot schedule {quote(name)}")
    changes = {name.removeprefix("schedule."): value for name, value in args.fields.items()}
    names = args.names or [*schedule_figures.DEFAULT]
    return schedule_figures.plot_schedules(schedule_figures.choose_schedules(names, changes))


def _embedding(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import schedule_figures

    return schedule_figures.plot_embedding(args.width, args.max_frequency)


def _distance(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import schedule_figures

    return schedule_figures.plot_embedding_products(args.width, args.max_frequency)


def _forward(args: argparse.Namespace) -> Figure:
    from ddim.data import parse_size
    from ddim.evaluation import run_figures

    return run_figures.plot_forward(args.source, seed=args.seed, size=parse_size(args.size))


def _reverse(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import run_figures

    return run_figures.plot_reverse(_find_model(args), args.steps, args.seed)


def _samplers(args: argparse.Namespace) -> Figure:
    from ddim.cli.console import ProgressDisplay
    from ddim.evaluation import run_figures

    check_count("--seeds", args.seeds)
    with ProgressDisplay() as progress:
        return run_figures.plot_samplers(_find_model(args), n=args.seeds, progress=progress)


def _find_model(args: argparse.Namespace) -> Any:  # noqa: ANN401  (the run of a figure, if it has one)
    """Return the run that the arguments name: loaded if --threads is given, else as its path or None."""
    from ddim.sampling.pipeline import load

    return load(args.run, threads=args.threads) if args.run and args.threads else args.run


def _losses(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import run_figures

    return run_figures.plot_losses(args.runs)


_DRAW = {
    "schedule": _schedule,
    "embedding": _embedding,
    "distance": _distance,
    "forward": _forward,
    "reverse": _reverse,
    "samplers": _samplers,
    "losses": _losses,
}
