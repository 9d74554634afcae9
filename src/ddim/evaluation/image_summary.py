"""Describe the images of a source: counts, sizes, classes, rejected files, duplicates, and a sheet."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddim.data import Images, open_images, parse_size, split_images
from ddim.data.cache import read_headers
from ddim.data.clusters import average_cells, group_images
from ddim.data.images import gather_batch
from ddim.data.open import find_array_size
from ddim.data.order import shuffle_epoch
from ddim.errors import escape, format_count
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.plots import charts
from ddim.plots.pictures import check_picture_path, enlarge, find_unused_path, make_sheet, save_png, to_uint8
from ddim.recipe.named import find_recipe
from ddim.runs.folder import check_outside

SHOWN, TYPICAL = 64, 12
"""The largest number of images in a sheet, and of the images of each cluster in a sheet."""

LISTED = 20
"""The largest number of classes, sizes and so on that the text lists."""


@dataclass(frozen=True, repr=False)
class DataSummary:
    """The images of a source, as a training would use them, and a sheet that shows them.

    Attributes:
        images: the images.
        facts: what `summarise_images` returns, and "clusters", their training images by name, if wanted.
        sheet: the file of the sheet.
    """

    images: Images
    facts: Mapping[str, Any]
    sheet: Path

    @property
    def verdict(self) -> str:
        """The number of images that can be used, and of files that cannot."""
        height, width = self.facts["size"]
        count, rejects = len(self.images), len(self.facts["rejected"])
        usable = f"{format_count(count, 'usable image')}, {height}x{width}, {describe_pixels(self.images)}"
        bad = f"; {format_count(rejects, 'file')} rejected" if rejects else ""
        return f"{escape(self.facts['source'])}: {usable}{bad}"

    def to_json(self) -> dict[str, Any]:
        """Return the verdict, and all facts."""
        return {**self.facts, "verdict": self.verdict, "sheet": self.sheet}

    def __repr__(self) -> str:
        """Return the verdict, and lines about sizes, classes, rejected files and duplicates."""
        facts = [f"{name}: {escape(value)}" for name, value in self._list_facts()]
        return "\n".join([self.verdict, *facts, f"grid: {self.sheet}"])

    def _list_facts(self) -> Iterator[tuple[str, str]]:
        shown = "original_sizes", "enlarged", "formats", "modes", "split", "classes", "clusters", "skipped"
        for name in shown:
            counts = self.facts.get(name)
            if isinstance(counts, Mapping):
                listed = [f"{each} {count:,}" for each, count in Counter(counts).most_common(LISTED)]
                listed += ["..."] if len(counts) > LISTED else []
                yield name.replace("_", " "), ", ".join(listed)
            elif counts:
                yield name, f"{counts:,}"
        if self.facts["classes"] is None:
            yield "classes", "none; give each image a folder of its class, or try --clusters 16"
        for reject in self.facts["rejected"]:
            yield "rejected", f"{reject['name']}: {reject['reason']}"
        for group in self.facts["duplicates"]:
            yield "equal", " = ".join(group)


@with_bar
def inspect_data(
    data: str | Path = "blossoms",
    *,
    size: int | str | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> DataSummary:
    """Show what a training would use of your images.

    Prints the number, sizes, formats and classes of the images, which files were rejected and why, and exact
    duplicates, and writes a sheet of 64 images as training would use them.

    Args:
        data: a folder, an archive, a file of arrays, or the name of a data set.
        size: height x width in pixels, such as 64 or 64x96 (default: 64, or the size of arrays).
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA (default: as in most files).
        clusters: find this many classes of similar images, as data.labels clusters:16 does in a training, and
            show in each row of the picture the 12 images nearest to the centre of a cluster.
        out: a new PNG file for the sheet (default: data-grid.png or data-clusters.png).

    Other Parameters:
        progress: called while images are decoded.

    Commands:
        ddim data photos/ --size 64x96
        ddim data photos/ --clusters 16
    """
    source = str(data)
    if size is None:
        shape = find_array_size(source) or (64, 64)
    else:
        shape = parse_size(str(size))
    file = Path(out or find_unused_path("data-clusters.png" if clusters else "data-grid.png"))
    check_outside(file, source)
    check_picture_path(file)
    images = open_images(source, shape, channels, progress=progress)
    facts = summarise_images(source, images)
    if clusters:
        facts["clusters"], figure = _find_clusters(images, clusters)
        save_png(file, charts.rasterise(figure))
    else:
        shown = gather_batch(images, shuffle_epoch(len(images), 0, 0)[:SHOWN])
        save_png(file, enlarge(make_sheet(shown)))
    return DataSummary(images, facts, file)


def _find_clusters(images: Images, count: int) -> tuple[dict[str, int], charts.Figure]:
    """Return the sizes of the clusters that a training with the default recipe would find, and a figure."""
    recipe = find_recipe("fast")
    split = split_images(images, recipe.data.validation, recipe.split_seed)
    thumbnails = average_cells(images.pixels, images.values, np.arange(len(images)))
    clusters = group_images(thumbnails, split.train, count, recipe.data.flip, recipe.seed)
    typical = clusters.list_typical(thumbnails, split.train, TYPICAL)
    batches = [list(to_uint8(gather_batch(images, which))) for which in typical]
    rows = dict(zip(clusters.names, batches, strict=True))
    counts = dict(zip(clusters.names, clusters.counts.tolist(), strict=True))
    return counts, charts.plot_strip(rows, [f"{k + 1}" for k in range(TYPICAL)])


def summarise_images(source: str, images: Images) -> dict[str, Any]:
    """Return the counts, sizes, classes, rejected files and duplicates of a source as plain values."""
    headers, classes, split = read_headers(images), None, None
    _, height, width, channels = images.pixels.shape
    if images.labels is not None:
        classes = Counter(images.classes[label] for label in images.labels.tolist())
    if images.official is not None:
        split = dict(zip(("train", "valid"), map(len, images.official), strict=True))
    return {
        "source": source,
        "images": len(images),
        "size": (height, width),
        "channels": channels,
        "values": asdict(images.values),
        "fingerprint": images.fingerprint,
        "original_sizes": Counter(f"{header.height}x{header.width}" for header in headers),
        "enlarged": sum(each.height < height or each.width < width for each in headers),
        "formats": Counter(header.format for header in headers),
        "modes": Counter(header.mode for header in headers),
        "split": split,
        "classes": classes,
        "skipped": images.skipped,
        "rejected": [{"name": reject.name, "reason": reject.reason} for reject in images.rejects],
        "duplicates": [[images.names[k] for k in group] for group in group_equal_images(images)],
    }


def describe_pixels(images: Images) -> str:
    """Return channels and values in words: "RGB", "8 channels of float32 from 0 to 1"."""
    channels, values = images.pixels.shape[3], images.values
    colours = {1: "gray", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")
    kind = "" if values.eight_bits else f" of {values.type} from {values.low:g} to {values.high:g}"
    return colours + kind


def group_equal_images(images: Images) -> list[list[int]]:
    """Group the images whose pixels are equal after crop and resize.

    Returns:
        The indices of the images in each group of two or more.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, pixels in enumerate(images.pixels):
        groups[hashlib.sha256(pixels.tobytes()).digest()].append(index)
    return [indices for indices in groups.values() if len(indices) > 1]
