"""Class labels for images without class folders: images that look alike form a cluster, found by k-means.

Images are compared by small thumbnails (see `thumbnails`). So the colours of their parts decide, not the
objects in them. No pretrained network is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images, SplitImages
from ddim.data.kmeans import find_centres, find_nearest
from ddim.data.thumbnails import SIDE, compute_thumbnails
from ddim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CHROMA = 2.0
"""The weight of colour differences against differences of lightness, chosen by looking at flowers.

In Oklab both colour axes span less than a third of the range of lightness.
"""

ENOUGH = 10_000
"""The largest number of images in k-means.

For more than 200 clusters, the largest number is 50 images for each cluster instead.
"""

_PREFIX = "clusters:"
_USE = 4  # the streams 1 to 3 are those of `ddim.data.order`
_PART = 4096


@dataclass(frozen=True)
class Clusters:
    """Class labels that are found by clustering the training images; written as "clusters:16" in a recipe.

    Attributes:
        count: number of clusters.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"data.labels {self} has too few clusters: give at least clusters:2")

    def __str__(self) -> str:
        """Return the text of this value in recipes and on the command line."""
        return f"{_PREFIX}{self.count}"

    @staticmethod
    def is_meant(text: object) -> bool:
        """Return whether a value is a text that starts with "clusters"; `parse` may still reject it."""
        return isinstance(text, str) and text.startswith(_PREFIX.removesuffix(":"))

    @classmethod
    def parse(cls, text: str) -> Clusters:
        """Return the `Clusters` that a text such as "clusters:16" stands for.

        Raises:
            UserError: if the text is not "clusters:K" with a whole number K of at least 2.
        """
        number = text.removeprefix(_PREFIX)
        if not text.startswith(_PREFIX) or not (number.isascii() and number.isdecimal()):
            raise UserError(f"data.labels needs the number of clusters, such as clusters:16, got {text!r}")
        return cls(int(number))


@dataclass(frozen=True, repr=False)
class ImageClusters:
    """The clusters of a set of images, and the centres that assign other images to them.

    `group_images` numbers clusters by their number of training images, from the largest one.

    Attributes:
        centres: (K, d) float64, the mean features of the images of each cluster.
        mirrored: whether an image and its mirror image have the same cluster.
        labels: (N,) int64, the cluster of each image of the set.
        counts: (K,) int64, the number of training images in each cluster.
    """

    centres: np.ndarray
    mirrored: bool
    labels: np.ndarray
    counts: np.ndarray

    def __repr__(self) -> str:
        """Return one line: the number of clusters and of images."""
        return f"ImageClusters({len(self.centres)} of {len(self.labels):,} images)"

    @property
    def names(self) -> tuple[str, ...]:
        """The class names: cluster-00, cluster-01, ..., with as many digits as the last one needs."""
        count = len(self.centres)
        digits = max(2, len(str(count - 1)))
        return tuple(f"cluster-{k:0{digits}d}" for k in range(count))

    def find_labels(self, images: Images, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cluster (B,) int64 of each image, and the squared distance (B,) to its centre.

        Args:
            images: any images, of any size.
            which: indices (B,) of the images.
        """
        labels, distances = np.zeros(len(which), np.int64), np.zeros(len(which))
        for first in range(0, len(which), _PART):
            part = slice(first, first + _PART)
            features = _compute_features(images, which[part], self.mirrored)
            labels[part], distances[part] = find_nearest(features, self.centres, _kept(self.mirrored))
        return labels, distances

    def label(self, split: SplitImages) -> SplitImages:
        """Return `split` with the clusters as classes; its images must be the ones that were clustered."""
        images = replace(split.images, labels=self.labels, classes=self.names)
        return replace(split, images=images, clusters=self)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the clusters as tensors, for a checkpoint."""
        import torch

        return {
            "centres": torch.from_numpy(self.centres),
            "mirrored": torch.tensor(self.mirrored),
            "labels": torch.from_numpy(self.labels.astype(np.int32)),
            "counts": torch.from_numpy(self.counts),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ImageClusters:
        """Return the clusters that `to_tensors` wrote."""
        labels = tensors["labels"].numpy().astype(np.int64)
        return cls(tensors["centres"].numpy(), bool(tensors["mirrored"]), labels, tensors["counts"].numpy())


def group_images(split: SplitImages, count: int, mirrored: bool, seed: int) -> ImageClusters:
    """Return the clusters of similar images; their centres depend on the training images alone.

    If there are more training images than `ENOUGH` allows, k-means uses a random subset. Otherwise the order
    of the training images makes no difference.

    Args:
        split: the images.
        count: number of clusters.
        mirrored: whether an image and its mirror image have the same cluster.
        seed: the seed of the random numbers.

    Raises:
        UserError: if there are fewer than two training images for each cluster, fewer different ones than
            clusters, or images that `compute_thumbnails` refuses.
    """
    train = split.train
    if len(train) < 2 * count:
        raise UserError(
            f"data.labels clusters:{count} needs two training images or more for each cluster, got "
            f"{len(train)} training images: give at most clusters:{len(train) // 2}"
        )
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _USE])))
    some = np.sort(draw.permutation(train)[: max(ENOUGH, 50 * count)])
    features = [
        _compute_features(split.images, some[k : k + _PART], mirrored) for k in range(0, len(some), _PART)
    ]
    different, times = np.unique(np.concatenate(features), axis=0, return_counts=True)
    if len(different) < count:
        raise UserError(
            f"data.labels clusters:{count} needs as many different images, got {len(different)}: give fewer "
            "clusters"
        )
    # The rows are sorted, so that the result does not depend on the order of the images.
    centres = find_centres(np.repeat(different, times, axis=0), count, _kept(mirrored), draw)
    found = apply_centres(split, centres, mirrored)
    order = np.lexsort((*centres.T[::-1], -found.counts))
    return ImageClusters(centres[order], mirrored, np.argsort(order)[found.labels], found.counts[order])


def apply_centres(split: SplitImages, centres: np.ndarray, mirrored: bool) -> ImageClusters:
    """Return the clusters of images around given centres, such as those of another run.

    Args:
        split: the images.
        centres: the centres (K, d).
        mirrored: whether an image and its mirror image have the same cluster.
    """
    none = np.zeros(0, np.int64)
    empty = ImageClusters(centres, mirrored, none, none)
    labels, _ = empty.find_labels(split.images, np.arange(len(split.images)))
    return replace(empty, labels=labels, counts=np.bincount(labels[split.train], minlength=len(centres)))


def list_typical(clusters: ImageClusters, split: SplitImages, count: int) -> list[np.ndarray]:
    """Return, for each cluster, the indices of the training images that are nearest to its centre.

    Args:
        clusters: the clusters of these images.
        split: the images.
        count: number of images of each cluster; smaller clusters have fewer.
    """
    labels, distances = clusters.find_labels(split.images, split.train)
    order = np.argsort(distances, kind="stable")
    return [split.train[order[labels[order] == k][:count]] for k in range(len(clusters.centres))]


def _kept(mirrored: bool) -> int:
    """Return the number of features that do not change if an image is mirrored; see `kmeans`."""
    return _SIZE // 2 if mirrored else _SIZE


_SIZE = SIDE * SIDE * 3


def _compute_features(images: Images, which: np.ndarray, mirrored: bool) -> np.ndarray:
    """Return features (B, d) of images, from the cells of their thumbnails.

    Mirroring exchanges pairs of cells, one on the left and one on the right. The first half of the features
    are the sums of these pairs; the other half are their differences.

    If `mirrored`, an image and its mirror image have exactly the same features.
    """
    cells = compute_thumbnails(images, which) * (1, CHROMA, CHROMA)
    left, right = cells[:, :, : SIDE // 2], cells[:, :, : SIDE // 2 - 1 : -1]
    sums, differences = ((left + sign * right).reshape(len(cells), -1) for sign in (1, -1))
    if mirrored and len(cells):
        # Mirroring changes the signs of all differences, so the first one that is not 0 is made positive.
        first = differences[np.arange(len(cells)), (differences != 0).argmax(1)]
        differences = differences * np.where(first < 0, -1, 1)[:, None]
    # Adding 0.0 turns -0.0 into 0.0. The factor 1 / sqrt(2) makes distances equal to those of the thumbnails.
    return np.concatenate([sums, differences], 1) * 0.5**0.5 + 0.0
