"""The options of the machine, such as --device and --threads, and the loading of a run with them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim.sampling.pipeline import LoadedRun
    from ddim.training import Machine

_DEVICE = "cpu, cuda or mps (default: the device that the run was trained on)"
THREADS = "processor threads (default: as in the training); another number changes the last bits of results"
"""Help of --threads in commands that read a run."""


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads to a command that reads a run."""
    parser.add_argument("--device", help=_DEVICE)
    add_threads_option(parser, THREADS)


def add_threads_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --threads with the help `text`. The command then runs with this number of torch's threads."""
    parser.add_argument("--threads", type=int, metavar="N", help=text)


def add_training_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that trains: device, threads, precision, compilation, recomputation."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add_threads_option(
        parser,
        "processor threads (default: one for each core that other programs leave free, adapted in training)",
    )
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16 (default: auto)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiling",
        help="compile the network, or do not (default: compile if the run is long enough to gain from it)",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="recompute activations in the backward pass: less memory, slower, same results",
    )


def choose_machine(args: argparse.Namespace) -> Machine:
    """Return the `Machine` of a training, from the options of the command."""
    from ddim.training import Machine

    return Machine(args.device, args.precision, args.compiling, args.threads, args.recompute)


def load_run(args: argparse.Namespace, *, compiling: bool = False) -> LoadedRun:
    """Load the run that the arguments name, with the weights, device and threads that the arguments give."""
    from ddim.sampling.pipeline import load

    return load(args.run, args.weights, compiling=compiling, device=args.device, threads=args.threads)
