"""The options of guidance: --guidance, --guidance-interval and --guide-with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ddim.errors import UserError

INTERVAL = "--guidance-interval"
NAMES = ("guidance", "guidance_interval", "guide_with")
"""The names of the options of guidance among parsed arguments."""

EPILOG = """
guidance makes samples more typical and less varied; each guided step evaluates a network twice:
  --guidance W  the scale; 1 is off. The default is what `ddim search --guidance` saved for RUN, or 1
  --guide-with  a weaker model (autoguidance), for a run with or without labels. @guide is the early
                checkpoint of RUN itself; @STEP and @raw are other versions of RUN, and runs/small-1@raw
                is another run. Without this option, RUN without its label guides (classifier-free
                guidance), which needs --label, except for clusters and vectors
  --guidance-interval LOW,HIGH
                guide only at log-SNRs from LOW to HIGH, such as -2,5; an end may be left out"""


LABEL_FREE = """
guidance, with a weaker model, such as RUN/guide:
  --guidance 2 --guide-with @guide, as in `ddim sample`; each guided step evaluates two networks"""
"""A text about guidance for the help of commands without the option --label."""


def add_guidance_options(
    parser: argparse.ArgumentParser, *, several: bool = False, labels: bool = True, classless: bool = False
) -> None:
    """Add the options of guidance.

    Args:
        parser: the parser of the command.
        several: whether each option takes a list of values.
        labels: whether the command samples with class labels, and uses what `ddim search` found.
        classless: whether a command without class labels uses no clusters and no vectors either.
    """
    off = "1 is off (default: what `ddim search --guidance` found, else 1)" if labels else "(default: 1, off)"
    needed = f"(needed with --guidance{'' if classless else ', unless RUN has clusters or vectors'})"
    own = "(default: RUN without its label)" if labels else needed
    more = ", one or more" if several else ""
    parser.add_argument(
        "--guidance",
        metavar="W",
        type=str if several else float,
        help=f"guidance scale{more}{'; ' if labels else ' '}{off}",
    )
    parser.add_argument(
        INTERVAL,
        metavar="LOW,HIGH",
        help="guide only at these log-SNRs, such as -2,5 (default: all)"
        + ("; several as [-2,5],[0,5]" if several else ""),
    )
    parser.add_argument(
        "--guide-with",
        metavar="RUN[@NAME]",
        help=f"guide with a weaker model{more}: @guide (early weights of RUN), or runs/small-1@raw {own}",
    )


def take_guidance(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of guidance, keyed by `NAMES`.

    Raises:
        UserError: if the interval cannot be read.
    """
    interval = None if args.guidance_interval is None else parse_interval(args.guidance_interval)
    return dict(zip(NAMES, (args.guidance, interval, args.guide_with), strict=True))


def parse_interval(text: str) -> tuple[float | None, float | None]:
    """Return the ends of an interval of log-SNR from text such as "-2,5"; an end that is left out is None.

    Raises:
        UserError: if the text is not two numbers, or the first is not below the second.
    """
    words = text.split(",")
    try:
        low, high = (float(word) if word.strip() else None for word in words)
    except ValueError:
        raise UserError(f"{INTERVAL} must be two log-SNRs, such as -2,5, got {text!r}") from None
    if low is not None and high is not None and not low < high:
        raise UserError(f"{INTERVAL} must have its lower end first, got {text!r}")
    return low, high


def join_lists(words: Sequence[str]) -> list[str]:
    """Return the words of a command line; "=" joins each list of numbers to its option.

    As a separate word, a value such as -2,5 would look like another option to argparse.
    """
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in (INTERVAL, "--vector", "--data.range"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
