"""Class labels for images without class folders: images that look alike form a cluster, found by k-means.

Images are compared by thumbnails of 8 x 8 cells. So the colours of their parts decide, not the objects in
them. No pretrained network is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images, SplitImages
from ddim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# The largest number of images in k-means; for more than 200 clusters it is 50 images for each cluster.
_MOST = 10_000
_RESTARTS, _ITERATIONS = 12, 30
_PREFIX = "clusters:"
_USE = 4  # the streams 1 to 3 are those of `ddim.data.order`
_SIDE = 8
# RGB to luma and twice the chroma (ITU-R BT.601). Chroma spans less than luma in photographs, so its
# differences would hardly count without the factor of 2.
_LUMA_CHROMA = np.array([[0.299, 0.587, 0.114], [-0.338, -0.662, 1.0], [1.0, -0.838, -0.162]]).T


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
        return isinstance(text, str) and text.startswith("clusters")

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

    @property
    def names(self) -> tuple[str, ...]:
        """The class names: cluster-00, cluster-01, ..., with as many digits as the last one needs."""
        digits = max(2, len(str(len(self.centres) - 1)))
        return tuple(f"cluster-{k:0{digits}d}" for k in range(len(self.centres)))

    def find_labels(self, images: Images, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cluster (B,) int64 of each image, and the distance (B,) to its centre.

        Args:
            images: any images, of any size.
            which: indices (B,) of the images.
        """
        from scipy.cluster.vq import vq

        labels, distances = vq(_compute_features(images, which, self.mirrored), self.centres)
        return labels.astype(np.int64), distances

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

    This is k-means (Lloyd 1982), started several times at random images; the best result is used. The order
    of the training images makes no difference, unless there are so many that a random subset is used.

    Args:
        split: the images.
        count: number of clusters.
        mirrored: whether an image and its mirror image have the same cluster.
        seed: the seed of the random numbers.

    Raises:
        UserError: if there are fewer than two training images for each cluster, or too few different ones.
    """
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _USE])))
    some = np.sort(draw.permutation(split.train)[: max(_MOST, 50 * count)])
    features = _compute_features(split.images, some, mirrored)
    features = features[np.lexsort(features.T)]
    different = np.unique(features, axis=0)
    most = min(len(features) // 2, len(different))
    if count > most:
        raise UserError(
            f"data.labels clusters:{count} needs two training images for each cluster, and as many different "
            f"ones as clusters: give at most clusters:{most}"
        )
    starts = (draw.choice(different, count, replace=False) for _ in range(_RESTARTS))
    _, centres = min((_improve_centres(features, start) for start in starts), key=lambda result: result[0])
    clusters = apply_centres(split, centres, mirrored)
    order = np.lexsort((*centres.T[::-1], -clusters.counts))
    labels = np.argsort(order)[clusters.labels]
    return ImageClusters(centres[order], mirrored, labels, clusters.counts[order])


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


def _improve_centres(features: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the sum of squared distances and the centres after the iterations of k-means."""
    from scipy.cluster.vq import ClusterError, kmeans2

    try:
        centres, labels = kmeans2(features, start, _ITERATIONS, minit="matrix", missing="raise")
    except ClusterError:  # a cluster became empty
        return np.inf, start
    return float(((features - centres[labels]) ** 2).sum()), centres


def _compute_features(images: Images, which: np.ndarray, mirrored: bool) -> np.ndarray:
    """Return features (B, d) of images, the mean colours in 8 x 8 cells.

    If `mirrored`, an image and its mirror image have the same features: for each pair of cells on the left
    and on the right, their sum and the size of their difference.
    """
    _, height, width, channels = images.pixels.shape
    rows, columns = _cell_weights(height), _cell_weights(width)
    size = max(1, 2**22 // (height * width * channels))
    parts = []
    for first in range(0, len(which), size):
        pixels = images.values.to_unit(images.pixels[which[first : first + size]])
        if channels == 4:  # on white
            pixels = pixels[..., 3:] * pixels[..., :3] + (1 - pixels[..., 3:])
        parts.append(np.einsum("ah,nhwc,bw->nabc", rows, pixels, columns, optimize=True))
    # Rounding makes the cells of a mirror image exactly the mirrored cells, on every machine.
    cells = np.round(np.concatenate(parts), 5) if parts else np.zeros((0, _SIDE, _SIDE, channels))
    if cells.shape[-1] == 3:
        cells = cells @ _LUMA_CHROMA
    if mirrored:
        left, right = cells[:, :, : _SIDE // 2], cells[:, :, : _SIDE // 2 - 1 : -1]
        cells = np.concatenate([left + right, np.abs(left - right)], axis=2) * 0.5**0.5
    return cells.reshape(len(which), -1)


def _cell_weights(length: int) -> np.ndarray:
    """Return the weights (8, length) of the pixels along one side of an image in the mean of each cell."""
    cells, pixels = np.arange(_SIDE)[:, None] * length, np.arange(length) * _SIDE
    overlap = np.minimum(cells + length, pixels + _SIDE) - np.maximum(cells, pixels)
    return np.maximum(overlap, 0) / length
