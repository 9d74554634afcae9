"""Warn users before training: about unusable files, few images, and unreadable noise levels."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import torch

from ddim.data import Images
from ddim.diffusion.conditioning import LogSNR
from ddim.errors import quote
from ddim.metrics.neighbours import FEWEST
from ddim.nn.conditioning import Sinusoidal
from ddim.recipe.codec import kind_name
from ddim.recipe.recipe import Optim
from ddim.training.loop import Training

FEW = 500
"""With fewer training images than this number, samples are often copies of training images.

Two runs were measured (docs/results/memorisation.md). On 64 images, 95.5 % of the samples were copies. On
6,480 images, no sample of 200 was a copy (95 % confidence interval: 0 to 1.8 %).
"""

MEASURED = (
    "in measured runs, 95.5 % of the samples were copies after 64 images were seen 750 times each, and "
    "none of 200 after 6,480 images were seen 11 times each"
)
"""The results of two runs (docs/results/memorisation.md), for users with between 64 and 6,480 images."""


REPEATS = 20
"""An embedding that repeats more often than this within the noise levels of a run can hardly tell them apart.

The recipes of this library repeat at most four times.
"""


def list_all_cautions(training: Training, run: Path) -> list[str]:
    """Return warnings about a training that begins; [] if it is resumed. `run` is the run folder."""
    if training.step:
        return []
    parts = training.split
    found = [*list_cautions(parts.images, len(parts.train), run), describe_conditioning(training)]
    return [text for text in found if text]


def describe_conditioning(training: Training) -> str:
    """Return a warning if the network can hardly tell the noise levels of a training apart; else "".

    The embeddings of most networks repeat with every unit of their input, which then must be a small number,
    such as the log-SNR divided by 10. Timesteps, from 0 to 999, are for the networks of `ddpm` and `iddpm`.
    """
    model = training.model
    found = [each.speeds.min().item() for each in model.modules() if isinstance(each, Sinusoidal)]
    # At t = 0, the log-SNR of a table is infinite.
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    inputs = model.conditioning(t, model.schedule(t))
    low, high = inputs.min().item(), inputs.max().item()
    if not found or (high - low) * min(found) / (2 * math.pi) <= REPEATS:
        return ""
    conditioning, net = kind_name(model.conditioning), kind_name(training.recipe.net)
    better = "--conditioning.scale 10" if isinstance(model.conditioning, LogSNR) else "--conditioning log_snr"
    return (
        f"conditioning {conditioning} gives the network numbers up to {high:.4g}, which net {net} "
        "can hardly tell apart, because its embedding repeats with every unit: samples may be poor; "
        f"{better} suits it"
    )


def list_cautions(images: Images, train: int, run: Path) -> list[str]:
    """Return warnings about the images of a run, which the user should read before the run begins.

    Args:
        images: the images of the run.
        train: the number of training images of the run.
        run: the run folder.
    """
    copies = describe_few(train)
    if copies and train >= FEWEST:
        copies += f"; after the training, check this with `ddim memorisation {quote(run)}`"
    return [text for text in (describe_rejects(images), copies) if text]


def describe_rejects(images: Images) -> str:
    """Return a sentence about the files that were left out, with the most common reason; "" if none was."""
    rejects = images.rejects
    if not rejects:
        return ""
    common = Counter(reject.reason for reject in rejects).most_common(1)[0][0]
    name = next(reject.name for reject in rejects if reject.reason == common)
    files = "1 file was" if len(rejects) == 1 else f"{len(rejects):,} files were"
    return f"{files} left out, such as {name!r}: {common}"


def describe_few(train: int) -> str:
    """Return a warning if there are fewer than `FEW` training images, so that copies are likely; else ""."""
    if train >= FEW:
        return ""
    repeats = "may repeat them" if train >= FEWEST else "will repeat them instead of making new ones"
    return f"few training images ({train}): the network {repeats}"


def describe_warm_up(optim: Optim, total: int) -> str:
    """Return a warning if a training ends while its learning rate still rises; else "".

    Args:
        optim: the options of the optimiser.
        total: the number of training images that the run will see.
    """
    if optim.warmup <= total:
        return ""
    share, shorter = total / optim.warmup, max(1, total // 50)
    return (
        f"the learning rate rises for {optim.warmup:,} images (optim.warmup), and this run sees only "
        f"{total:,}: it ends at {share:.2g} times optim.lr; --optim.warmup {shorter} is shorter"
    )
