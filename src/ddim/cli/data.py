"""`ddim data`: print counts, sizes, duplicates and rejected files with reasons; write a sheet of images."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.cli import DATA, ZOOM
from ddim.cli.output import print_result
from ddim.errors import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ddim.data import Images
    from ddim.data.decode import Header
    from ddim.data.sources import Reject

_EPILOG = """
Prints the number, sizes, formats and classes of the images, which files were rejected and why, and exact
duplicates, and writes a sheet of 64 images as training would use them.

--clusters 16 shows the classes that `ddim train DATA --data.labels clusters:16` would find: their sizes, and
a sheet with a row for each cluster, of the 12 images nearest to its centre.

examples:
  ddim data photos/ --size 64x96
  ddim data photos/ --clusters 16
  ddim data flowers:downloads/flowers    a local copy of a built-in data set
"""
_GRID, _CLUSTERS = Path("data-grid.png"), Path("data-clusters.png")
_COLUMNS = 12
_FEW_CLASSES, _ENDS = 20, 5
_FEW_GROUPS = 10


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ddim data`."""
    parser.usage = "ddim data [DATA] [--size 64|64x96] [--channels 1|3|4] [--clusters K] [--out FILE]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "data", nargs="?", default="blossoms", metavar="DATA", help=f"{DATA} (default: blossoms)"
    )
    parser.add_argument(
        "--size", metavar="64|64x96", help="height x width in pixels (default: 64, or the size of arrays)"
    )
    parser.add_argument(
        "--channels",
        type=int,
        metavar="C",
        help="1 for grayscale, 3 for RGB, 4 for RGBA (default: as in most files)",
    )
    parser.add_argument(
        "--axis", choices=("first", "last"), help="the axis of the channels in a .npy or .npz file"
    )
    parser.add_argument("--array", metavar="NAME", help="the array of a .npz file that holds the images")
    parser.add_argument(
        "--clusters", type=int, metavar="K", help="find K classes of similar images, and show them"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"PNG of the images (default: a new {_GRID} or {_CLUSTERS})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out if it exists")
    parser.add_argument("--zoom", type=int, metavar="K", help=ZOOM)


def run(args: argparse.Namespace) -> int:
    """Print a summary of the source and write a sheet of its images."""
    from ddim.cli.console import ProgressDisplay
    from ddim.data import open_images, parse_size
    from ddim.data.cache import read_headers
    from ddim.data.clusters import Clusters
    from ddim.data.open import find_array_size
    from ddim.data.values import Reading
    from ddim.evaluation.image_summary import draw_images, find_enlarged, summarise_images
    from ddim.machine.progress import watch_reading
    from ddim.plots.pictures import (
        check_picture_path,
        check_zoom,
        enlarge,
        find_unused_path,
        save_png,
    )
    from ddim.runs.folder import check_outside

    reading = Reading(axis=args.axis or "auto", array=args.array)
    size = find_array_size(args.data, reading) or (64, 64) if args.size is None else parse_size(args.size)
    wanted = None if args.clusters is None else Clusters.parse(f"clusters:{args.clusters}")
    out = find_unused_path(_CLUSTERS if wanted else _GRID) if args.out is None else args.out
    check_outside(out, args.data)
    check_picture_path(out, replace=args.overwrite)
    check_zoom(args.zoom)
    with ProgressDisplay() as shown:
        images = open_images(args.data, size, args.channels, reading=reading, progress=watch_reading(shown))
    lines = [
        *_counts(args.data, images, read_headers(images), len(find_enlarged(images))),
        *_classes(images),
        *_rejected(images.rejects),
        *_duplicates(images),
    ]
    found = _find_clusters(images, wanted.count) if wanted else None
    lines += found.lines if found else []
    save_png(out, enlarge(found.sheet if found else draw_images(images), args.zoom))
    lines.append(f"grid: {escape(str(out))}")
    content = {**summarise_images(args.data, images), "skipped": images.skipped, "sheet": out}
    print_result(args, content | ({"clusters": found.sizes} if found else {}), "\n".join(lines))
    return 0


@dataclass(frozen=True)
class _Clusters:
    """The clusters of images: the number of training images in each, the lines to print, and a sheet."""

    sizes: dict[str, int]
    lines: list[str]
    sheet: np.ndarray


def _find_clusters(images: Images, count: int) -> _Clusters:
    """Return the clusters that a training with the default recipe would find."""
    import numpy as np
    import torch

    from ddim.data import split_images
    from ddim.data.clusters import average_cells, group_images
    from ddim.evaluation.image_summary import take_pictures
    from ddim.plots.pictures import make_sheet
    from ddim.recipe.named import find_recipe

    recipe = find_recipe("fast")
    split = split_images(images, recipe.data.validation, recipe.split_seed)
    thumbnails = average_cells(images.pixels, images.values, np.arange(len(images)))
    clusters = group_images(thumbnails, split.train, count, recipe.data.flip, recipe.seed)
    cells = np.full((count, _COLUMNS, *take_pictures(images, split.train[:1]).shape[1:]), 255, np.uint8)
    for row, which in zip(cells, clusters.list_typical(thumbnails, split.train, _COLUMNS), strict=True):
        row[: len(which)] = take_pictures(images, which)
    sheet = make_sheet(torch.from_numpy(cells.reshape(-1, *cells.shape[2:])).permute(0, 3, 1, 2), _COLUMNS)
    sizes = dict(zip(clusters.names, clusters.counts.tolist(), strict=True))
    return _Clusters(sizes, [*_list_counts("clusters", Counter(sizes), "training images")], sheet)


def _counts(source: str, images: Images, originals: Sequence[Header], small: int) -> Iterator[str]:
    from ddim.evaluation.image_summary import describe_pixels

    height, width = images.pixels.shape[1:3]
    yield f"{escape(source)}: {len(images):,} images, used at {height}x{width}, {describe_pixels(images)}"
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
        yield f"official split: {len(train):,} training images, {len(valid):,} validation images"
    if images.skipped:
        yield f"skipped, not images: {images.skipped:,}"


def _tally(values: Iterator[str]) -> str:
    return ", ".join(f"{value} {count:,}" for value, count in Counter(values).most_common())


def _classes(images: Images) -> Iterator[str]:
    if images.labels is None:
        yield (
            "classes: none; for classes, put the images of each class into a separate folder, or try "
            "--clusters 16"
        )
        return
    counts = Counter(images.labels.tolist())
    yield from _list_counts("classes", Counter({images.classes[k]: n for k, n in counts.items()}), "images")


def _list_counts(title: str, counts: Counter[str], unit: str) -> Iterator[str]:
    ranked = [(escape(name), count) for name, count in counts.most_common()]
    yield f"{title}: {len(ranked)}, of {ranked[-1][1]:,} to {ranked[0][1]:,} {unit}"
    if len(ranked) > _FEW_CLASSES:
        hidden = (f"... {len(ranked) - 2 * _ENDS} others", None)
        ranked = [*ranked[:_ENDS], hidden, *ranked[-_ENDS:]]
    for name, count in ranked:
        yield f"  {name}" if count is None else f"  {name}: {count:,}"


def _rejected(rejects: Sequence[Reject]) -> Iterator[str]:
    yield f"rejected: {len(rejects):,}" if rejects else "rejected: none"
    for reject in rejects:
        yield f"  {escape(reject.name)}: {escape(reject.reason)}"


def _duplicates(images: Images) -> Iterator[str]:
    from ddim.evaluation.image_summary import crosses_classes, group_equal_images

    groups = group_equal_images(images)
    if not groups:
        yield "duplicates: none"
        return
    extra = sum(len(indices) - 1 for indices in groups)
    yield f"duplicates: {extra:,}, exact copies of {len(groups):,}"
    if crossing := sum(crosses_classes(images, indices) for indices in groups):
        yield f"  across classes: {crossing:,}"
    for indices in groups[:_FEW_GROUPS]:
        yield "  " + " = ".join(escape(images.names[index]) for index in indices)
    if len(groups) > _FEW_GROUPS:
        yield f"  ... {len(groups) - _FEW_GROUPS:,} more groups"
