"""`ddim plot KIND`: the figures of `ddim.evaluation.figures`, each written as a PNG."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import UserError, check_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPILOG = """examples:
  ddim plot schedule                                 cosine, linear and linear_beta beside each other
  ddim plot schedule linear --schedule.clip powers   the torch/luz repository's table, and its plateau
  ddim plot schedule linear_in --schedule.quantity log_noise   one of Béres' seven
  ddim plot forward photo.jpg --size 128             an image that becomes noise
  ddim plot reverse runs/blossoms-fast-1 --seed 7    noise that becomes a picture
  ddim plot samplers runs/blossoms-fast-1            which sampler is worth its evaluations
  ddim plot losses runs/*                            the losses of several runs

`ddim plot KIND --help` lists the options of a kind.
"""

# Spelt here as well as in `ddim.diffusion.schedules`, so that --help needs no torch; a test compares them.
SCHEDULES = ("cosine", "linear", "linear_beta")
OTHERS = ("beta_table", "linear_in", "karras_sigma")
FIELDS = {
    "clip": "linear, beta_table: none, rates (default), or powers, as the torch/luz repository",
    "min_signal": "cosine, linear, beta_table: the least signal rate (default 0.02)",
    "max_signal": "cosine, linear, beta_table: the greatest signal rate (default 0.95)",
    "read": "linear, beta_table: between entries, floor (default) or log_snr",
    "entries": "linear, beta_table: entries of the table (default 1000)",
    "first": "linear, beta_table: the first beta (default 1e-4)",
    "last": "linear, beta_table: the last beta (default 0.02)",
    "betas": "beta_table: cosine (default), quad, const, jsd or sigmoid",
    "low": "linear_beta: beta at t = 0 (default 0.1)",
    "high": "linear_beta: beta at t = 1 (default 20)",
    "quantity": "linear_in: angle (default), log_snr, noise_power, log_noise, log_signal, noise_step or "
    "signal_step",
    "start": "linear_in: log-SNR at t = 0 (default 3)",
    "end": "linear_in: log-SNR at t = 1 (default -10)",
    "sigma_min": "karras_sigma: sigma at t = 0 (default 0.001)",
    "sigma_max": "karras_sigma: sigma at t = 1 (default 80)",
    "rho": "karras_sigma: the power whose root is linear in t, or none (default 7)",
}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with the options and their words side by side."""

    def __init__(self, prog: str, **how: Any) -> None:  # noqa: ANN401  (argparse's own options)
        super().__init__(prog, **{"max_help_position": 32, **how})


def add(parser: argparse.ArgumentParser) -> None:
    """Add the kinds of figure, each with its options."""
    parser.epilog = _EPILOG
    parser.formatter_class = _Formatter
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, title="kinds")

    def kind(name: str, text: str) -> argparse.ArgumentParser:
        words = f"{text[0].upper()}{text[1:]}."
        inner = kinds.add_parser(
            name, help=text, description=words, allow_abbrev=False, formatter_class=_Formatter
        )
        out = Path(f"{name}.png")
        inner.add_argument(
            "--out", type=Path, default=out, metavar="FILE", help=f"the picture (default {out})"
        )
        return inner

    schedule = kind("schedule", "alpha, sigma and log-SNR of schedules against t")
    schedule.usage = "ddim plot schedule [NAME ...] [--schedule.FIELD VALUE ...] [--out FILE]"
    schedule.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(SCHEDULES)} (default these), {', '.join(OTHERS)}",
    )
    for name, text in FIELDS.items():
        schedule.add_argument(f"--schedule.{name}", dest=name, metavar="VALUE", help=text)
    for name, text in (
        ("embedding", "the sinusoidal embedding of the noise variance, as heat maps"),
        ("distance", "inner products of embeddings, which depend on the distance alone"),
    ):
        inner = kind(name, text)
        inner.add_argument("--width", type=int, default=32, help="channels (default 32)")
        inner.add_argument("--max-frequency", type=float, default=1000.0, help="turns (default 1000)")
    forward = kind("forward", "one image at growing t, under the linear and the cosine schedule")
    forward.add_argument(
        "source",
        nargs="?",
        default="blossoms",
        metavar="IMAGE|DATA",
        help="an image, or a folder, archive or name whose first image is taken (default blossoms)",
    )
    forward.add_argument("--size", default="64", metavar="64|64x96", help="height x width (default 64)")
    forward.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    reverse = kind("reverse", "how one picture of a trained run comes about, and the way back")
    reverse.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    reverse.add_argument("--steps", type=int, default=20, help="levels of the grid (default 20)")
    reverse.add_argument("--seed", type=int, default=0, help="of the picture (default 0)")
    samplers = kind("samplers", "error against evaluations, for every sampler and grid")
    samplers.add_argument("run", nargs="?", metavar="RUN", help="a run; without one, an oracle's exact model")
    samplers.add_argument("--seeds", type=int, default=16, help="pictures that are compared (default 16)")
    losses = kind("losses", "losses of runs against the images they have seen")
    losses.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")


def run(args: argparse.Namespace) -> int:
    """Draw the figure and print where it lies. UserError where that cannot be."""
    from ddim.plots.charts import save_figure
    from ddim.plots.pictures import check_png_path

    check_png_path(args.out)
    save_figure(args.out, _DRAW[args.kind](args))
    print(args.out)
    return 0


def _schedule(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import figures

    names = args.names or SCHEDULES
    changes = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    return figures.schedules(figures.chosen(names, changes))


def _embedding(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import figures

    return figures.embedding(args.width, args.max_frequency)


def _distance(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import figures

    return figures.distance(args.width, args.max_frequency)


def _forward(args: argparse.Namespace) -> Figure:
    from ddim.data import parse_size
    from ddim.evaluation import figures

    image = figures.one_image(args.source, parse_size(args.size))
    return figures.forward(image, figures.chosen(("linear", "cosine"), {}), seed=args.seed)


def _reverse(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import figures
    from ddim.runs.pipeline import load

    return figures.reverse(load(args.run), args.steps, args.seed)


def _samplers(args: argparse.Namespace) -> Figure:
    import torch

    from ddim.diffusion.oracles import Mixture
    from ddim.diffusion.schedules import Cosine
    from ddim.evaluation import figures
    from ddim.evaluation.sampler_errors import (
        compare_samplers,
        compare_samplers_on_run,
        sampling_error_of_oracle,
    )
    from ddim.runs.pipeline import load

    check_count("--seeds", args.seeds)
    budgets = (5, 10, 20, 40)
    if args.run is not None:
        errors = compare_samplers_on_run(load(args.run), budgets, range(args.seeds))
        return figures.samplers(errors, Path(args.run).name)
    draw = torch.Generator().manual_seed(0)
    centres, x = torch.randn(2, max(3, args.seeds), 1, 4, 4, generator=draw, dtype=torch.float64)
    law = Mixture(Cosine(0.014, 0.99995), centres[:3], 0.5)
    error = sampling_error_of_oracle(law, x[: args.seeds], 0.1)
    return figures.samplers(compare_samplers(error, law.schedule, 0.1, budgets), "mixture of Gaussians")


def _losses(args: argparse.Namespace) -> Figure:
    from ddim.evaluation import figures
    from ddim.runs.log import read_metrics

    missing = [str(run) for run in args.runs if not run.is_dir()]
    if missing:
        raise UserError(f"run {missing[0]!r} is not a folder")
    runs = list(dict.fromkeys(run.resolve() for run in args.runs))
    return figures.losses({name: read_metrics(run) for name, run in zip(_names(runs), runs, strict=True)})


def _names(runs: list[Path]) -> list[str]:
    """The last parts of different paths, as many as it takes to tell them apart."""
    parts = 1
    while len({run.parts[-parts:] for run in runs}) < len(runs):
        parts += 1
    return ["/".join(run.parts[-parts:]) for run in runs]


_DRAW = {
    "schedule": _schedule,
    "embedding": _embedding,
    "distance": _distance,
    "forward": _forward,
    "reverse": _reverse,
    "samplers": _samplers,
    "losses": _losses,
}
