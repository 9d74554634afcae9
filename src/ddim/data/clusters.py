"""Class labels for images without class folders: images that look alike form a cluster, found by k-means.

Images are compared by thumbnails of 8 x 8 cells. So the colours of their parts decide, not the objects in
them. No pretrained network is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.values import Values
from ddim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

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

    def __str__(self) -> str:
        """Return the text of this value in recipes and on the command line."""
        return f"clusters:{self.count}"

    @classmethod
    def parse(cls, text: str) -> Clusters:
        """Return the `Clusters` that a text such as "clusters:16" stands for.

        Raises:
            UserError: if the text is not "clusters:K" with a whole number K of at least 2.
        """
        name, _, number = text.partition(":")
        if name != "clusters" or not number.isdecimal() or int(number) < 2:
            raise UserError(f"data.labels needs 2 clusters or more, such as clusters:16, got {text!r}")
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
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def names(self) -> tuple[str, ...]:
        """The class names: cluster-00, cluster-01, ..., with as many digits as the last one needs."""
        digits = max(2, len(str(len(self.centres) - 1)))
        return tuple(f"cluster-{k:0{digits}d}" for k in range(len(self.centres)))

    def find_labels(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest cluster (B,) int64 of each image, and the distance (B,) to its centre.

        The images are given as `average_cells` returns them.
        """
        from scipy.cluster.vq import vq

        labels, distances = vq(_list_features(cells, self.mirrored), self.centres)
        return labels.astype(np.int64), distances

    def assign(self, cells: np.ndarray, train: np.ndarray) -> ImageClusters:
        """Return the clusters of other images around the same centres; see `group_images`."""
        labels, _ = self.find_labels(cells)
        return replace(self, labels=labels, counts=np.bincount(labels[train], minlength=len(self.centres)))

    def list_typical(self, cells: np.ndarray, train: np.ndarray, count: int) -> list[np.ndarray]:
        """Return, for each cluster, the indices of the `count` training images nearest to its centre.

        Clusters with fewer images have shorter lists. See `group_images` for `cells` and `train`.
        """
        labels, distances = self.find_labels(cells[train])
        order = np.argsort(distances, kind="stable")
        return [train[order[labels[order] == k][:count]] for k in range(len(self.centres))]

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the clusters as tensors, for a checkpoint."""
        import torch

        small = replace(self, labels=self.labels.astype(np.int32))
        return {name: torch.as_tensor(value) for name, value in vars(small).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ImageClusters:
        """Return the clusters that `to_tensors` wrote."""
        labels = tensors["labels"].numpy().astype(np.int64)
        return cls(tensors["centres"].numpy(), bool(tensors["mirrored"]), labels, tensors["counts"].numpy())


def average_cells(pixels: np.ndarray, values: Values, which: np.ndarray) -> np.ndarray:
    """Return thumbnails of images: their mean colours (B, 8, 8, C) in 8 x 8 cells.

    Args:
        pixels: images (N, H, W, C) of any size, see `Images`.
        values: the type and range of the pixels.
        which: indices (B,) of the images.
    """
    _, height, width, channels = pixels.shape
    rows, columns = _cell_weights(height), _cell_weights(width)
    size = max(1, 2**22 // (height * width * channels))
    parts = []
    for first in range(0, len(which), size):
        part = values.to_unit(pixels[which[first : first + size]])
        if channels == 4:  # on white
            part = part[..., 3:] * part[..., :3] + (1 - part[..., 3:])
        parts.append(np.einsum("ah,nhwc,bw->nabc", rows, part, columns, optimize=True))
    # Rounding makes the cells of a mirror image exactly the mirrored cells, on every machine.
    cells = np.round(np.concatenate(parts), 5)
    return cells @ _LUMA_CHROMA if cells.shape[3] == 3 else cells


def group_images(cells: np.ndarray, train: np.ndarray, k: int, mirrored: bool, seed: int) -> ImageClusters:
    """Return k clusters of similar images; their centres depend on the training images alone.

    This is k-means (Lloyd 1982), started several times at random images; the best result is used. The order
    of the training images makes no difference, unless there are so many that a random subset is used.

    Args:
        cells: all images, as `average_cells` returns them.
        train: the indices of the training images.
        k: number of clusters.
        mirrored: whether an image and its mirror image have the same cluster.
        seed: the seed of the random numbers.

    Raises:
        UserError: if there are fewer than two training images for each cluster, or too few different ones.
    """
    # The streams 1 to 3 are those of `ddim.data.order`.
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 4])))
    some = np.sort(draw.permutation(train)[: max(10_000, 50 * k)])
    features = _list_features(cells[some], mirrored)
    features = features[np.lexsort(features.T)]
    different = np.unique(features, axis=0)
    most = min(len(features) // 2, len(different))
    if k > most:
        raise UserError(f"data.labels clusters:{k} needs more different images: give at most clusters:{most}")
    tries = [_improve_centres(features, draw.choice(different, k, replace=False)) for _ in range(12)]
    _, centres = min(tries, key=lambda error_and_centres: error_and_centres[0])
    clusters = ImageClusters(centres, mirrored).assign(cells, train)
    order = np.lexsort((*centres.T[::-1], -clusters.counts))
    labels = np.argsort(order)[clusters.labels]
    return ImageClusters(centres[order], mirrored, labels, clusters.counts[order])


def _improve_centres(features: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the sum of squared distances and the centres after 30 iterations of k-means."""
    from scipy.cluster.vq import ClusterError, kmeans2

    try:
        centres, labels = kmeans2(features, start, 30, minit="matrix", missing="raise")
    except ClusterError:  # a cluster became empty
        return np.inf, start
    return float(((features - centres[labels]) ** 2).sum()), centres


def _list_features(cells: np.ndarray, mirrored: bool) -> np.ndarray:
    """Return the numbers (B, d) by which images are compared.

    If `mirrored`, an image and its mirror image have the same numbers: for each pair of cells on the left
    and on the right, their sum and the size of their difference.
    """
    if mirrored:
        left, right = cells[:, :, : _SIDE // 2], cells[:, :, : _SIDE // 2 - 1 : -1]
        cells = np.concatenate([left + right, np.abs(left - right)], axis=2) * 0.5**0.5
    return cells.reshape(len(cells), -1)


def _cell_weights(length: int) -> np.ndarray:
    """Return the weights (8, length) of the pixels along one side of an image in the mean of each cell."""
    cells, pixels = np.arange(_SIDE)[:, None] * length, np.arange(length) * _SIDE
    overlap = np.minimum(cells + length, pixels + _SIDE) - np.maximum(cells, pixels)
    return np.maximum(overlap, 0) / length
