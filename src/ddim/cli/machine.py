"""The options --device and --threads, and the loading of a run with these options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim.runs.pipeline import LoadedRun

_DEVICE = "cpu, cuda or mps (default: the device that the run was trained on)"
THREADS = "processor threads; results differ in the last bits (default: as the run was trained)"
"""Help of --threads in commands that read a run."""


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads to a command that reads a run."""
    parser.add_argument("--device", help=_DEVICE)
    add_threads_option(parser, THREADS)


def add_threads_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --threads with the help `text`. The command then runs with this number of torch's threads."""
    parser.add_argument("--threads", type=int, metavar="N", help=text)


def load_run(args: argparse.Namespace, *, compiling: bool = False) -> LoadedRun:
    """Return the run that the arguments name, loaded with their weights, device and threads."""
    from ddim.runs.pipeline import load

    return load(args.run, args.weights, compiling=compiling, device=args.device, threads=args.threads)
