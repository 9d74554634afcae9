"""`ddim data DATA`: look before you train. Counts, sizes, rejects with reasons, duplicates, a grid."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddim.data import Images
    from ddim.data.decode import Header
    from ddim.data.sources import Reject

_GRID = Path("data-grid.png")
_SHOWN = 64
_FEW_CLASSES, _ENDS = 20, 5
_FEW_GROUPS = 10


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("data", metavar="DATA", nargs="?", default="blossoms", help=_HELP)
    parser.add_argument("--size", default="64", help='"64" or height x width, "64x96" (default: 64)')
    parser.add_argument(
        "--channels", type=int, help="1 gray, 3 RGB, 4 RGBA (default: what most of the files have)"
    )
    parser.add_argument("--out", type=Path, default=_GRID, help=f"the grid of images (default: {_GRID})")


_HELP = (
    "a folder, a .zip or .tar[.gz|.xz], or blossoms, flowers, pets, cifar10 (default: blossoms); "
    "flowers:FOLDER reads a local copy"
)


def run(args: argparse.Namespace) -> int:
    """Print what the source holds and write a grid of it. UserError where no image in it can be used."""
    import torch

    from ddim.data import open_images, parse_size
    from ddim.data.cache import enlarged, originals, rejects, survey
    from ddim.data.find_source import find
    from ddim.data.order import order
    from ddim.files import cache_folder
    from ddim.plots.pictures import check_out, grid, save_png

    size = parse_size(args.size)
    check_out(args.out)
    with _bar() as progress:
        images = open_images(args.data, size, args.channels, progress=progress)
    others = survey(find(args.data), cache_folder()).others
    lines = [
        *_counts(args.data, images, originals(images), len(enlarged(images)), others),
        *_classes(images),
        *_rejected(rejects(images)),
        *_duplicates(images),
    ]
    print("\n".join(lines))
    shown = order(len(images), 0, 0)[:_SHOWN]
    save_png(args.out, grid(torch.from_numpy(images.pixels[shown]).permute(0, 3, 1, 2)))
    print(f"grid: {escaped(str(args.out))}")
    return 0


def escaped(text: str) -> str:
    """The text with everything that could move a terminal's cursor spelled out."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def _counts(
    source: str, images: Images, originals: Sequence[Header], small: int, others: int
) -> Iterator[str]:
    height, width, channels = images.pixels.shape[1:]
    kind = {1: "gray", 3: "RGB", 4: "RGBA"}[channels]
    yield f"{escaped(source)}: {len(images):,} images, used at {height}x{width}, {kind}"
    by_area = sorted((header.height * header.width, header.height, header.width) for header in originals)
    smallest, median, largest = (
        "{1}x{2}".format(*by_area[place]) for place in (0, len(by_area) // 2, len(by_area) - 1)
    )
    yield f"original sizes (height x width): smallest {smallest}, median {median}, largest {largest}"
    if small:
        yield f"enlarged: {small:,}, smaller than {height}x{width}"
    yield f"formats: {_tally(header.format for header in originals)}"
    yield f"modes: {_tally(header.mode for header in originals)}"
    if images.official is not None:
        train, valid = images.official
        yield f"official split: {len(train):,} to train on, {len(valid):,} to validate"
    if others:
        yield f"skipped, not images: {others:,}"


def _tally(values: Iterator[str]) -> str:
    return ", ".join(f"{value} {count:,}" for value, count in Counter(values).most_common())


def _classes(images: Images) -> Iterator[str]:
    if images.labels is None:
        yield "classes: none (images in class folders would have some)"
        return
    counts = Counter(images.labels.tolist())
    ranked = [(escaped(images.classes[label]), count) for label, count in counts.most_common()]
    yield f"classes: {len(ranked)}, of {ranked[-1][1]:,} to {ranked[0][1]:,} images"
    if len(ranked) > _FEW_CLASSES:
        hidden = (f"... {len(ranked) - 2 * _ENDS} others", None)
        ranked = [*ranked[:_ENDS], hidden, *ranked[-_ENDS:]]
    for name, count in ranked:
        yield f"  {name}" if count is None else f"  {name}: {count:,}"


def _rejected(rejects: Sequence[Reject]) -> Iterator[str]:
    yield f"rejected: {len(rejects):,}" if rejects else "rejected: none"
    for reject in rejects:
        yield f"  {escaped(reject.name)}: {escaped(reject.reason)}"


def _duplicates(images: Images) -> Iterator[str]:
    """Images that are the same, pixel by pixel, as they are used: after crop and resize."""
    groups = defaultdict(list)
    for place, pixels in enumerate(images.pixels):
        groups[hashlib.sha256(pixels.tobytes()).digest()].append(place)
    copies = [places for places in groups.values() if len(places) > 1]
    if not copies:
        yield "duplicates: none"
        return
    extra = sum(len(places) - 1 for places in copies)
    yield f"duplicates: {extra:,}, exact copies of {len(copies):,}"

    def mixed(places: list[int]) -> bool:
        return images.labels is not None and len(set(images.labels[places].tolist())) > 1

    if contradictions := sum(map(mixed, copies)):
        yield f"  across classes: {contradictions:,}"
    for places in sorted(copies, key=mixed, reverse=True)[:_FEW_GROUPS]:
        yield "  " + " = ".join(escaped(images.names[place]) for place in places)
    if len(copies) > _FEW_GROUPS:
        yield f"  ... {len(copies) - _FEW_GROUPS:,} more groups"


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("decoding", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
