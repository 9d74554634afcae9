"""The field `data` of a recipe: the training images and how they are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddim.data.clusters import Clusters
from ddim.data.images import check_size
from ddim.data.values import Reading, Values
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class Data:
    """The training images and how they are prepared.

    Attributes:
        source: a folder, an archive, a file of arrays, or the name of a built-in data set.
        size: (height, width) to which images are cropped and resized.
        channels: 1, 3 or 4; None for the number that most images have.
        flip: whether images are mirrored at random.
        validation: share of the images that is held out for validation.
        split_seed: the seed by which held-out images are drawn; None for the seed of the run. A run with
            --from holds out the same images as the run whose weights it starts from.
        dequantise: whether uniform noise within the bin of each 8-bit value is added each time an image is
            seen.
        labels: whether the network is conditioned on class labels, which are the names of the image folders,
            or clusters:K, for K classes of similar images that k-means finds. See `ddim.data.clusters`.
        unlabelled: share of the labels that is dropped, drawn anew each time an image is seen. The network
            then also learns images without a class, which guidance needs (Ho & Salimans 2022).
        vectors: a CSV file with numbers for each image, on which the network is conditioned in place of a
            class; each row holds the name of an image and its numbers, or only numbers if the rows are in the
            order of the images. See `ddim.data.vectors`. `unlabelled` holds for vectors too.
        values: the type in which the values of pixels are kept: "auto" for the type of most files, "uint8" to
            round them to 8 bits, "uint16" or "float32".
        range: the values LOW,HIGH of 16-bit or float images that become black and white; None means 0 and
            the largest integer for integers; for floats it means 0 and 1, or the smallest and the largest
            value if a value lies outside 0 to 1.
        axis: the axis of the channels in a file of arrays: "first" is the axis right after that of the
            images, "last" the last axis; "auto" for the axis that is shorter than height and width.
        array: the array of a .npz file that holds the images; None finds it.
    """

    source: str = "blossoms"
    size: tuple[int, int] = (64, 64)
    channels: int | None = None
    flip: bool = True
    validation: float = 0.1
    split_seed: int | None = None
    dequantise: bool = False
    labels: bool | Clusters = False
    unlabelled: float = 0.1
    vectors: str | None = None
    values: Literal["auto", "uint8", "uint16", "float32"] = "auto"
    range: tuple[float, float] | None = None
    axis: Literal["auto", "first", "last"] = "auto"
    array: str | None = None

    def __post_init__(self) -> None:
        check_part_values("data", self)
        check_size(self.size)
        if isinstance(self.labels, str):
            object.__setattr__(self, "labels", Clusters.parse(self.labels))
        if self.channels not in (None, 1, 3, 4):
            raise UserError(f"data.channels must be 1 (gray), 3 (RGB), 4 (RGBA) or none, got {self.channels}")
        if not 0 <= self.validation < 1:
            raise UserError(f"data.validation must be at least 0 and less than 1, got {self.validation}")
        if self.split_seed is not None and not 0 <= self.split_seed < 2**32:
            raise UserError(f"data.split_seed must lie in [0, 2^32), got {self.split_seed}")
        if not 0 <= self.unlabelled < 1:
            raise UserError(f"data.unlabelled must be at least 0 and less than 1, got {self.unlabelled}")

        if self.labels and self.vectors is not None:
            raise UserError(
                f"data.vectors {self.vectors} and data.labels exclude each other: add the class to the "
                "vectors as "
                "numbers, or leave one of them out"
            )
        if self.range is not None:
            Values("float32", *self.range)

    @property
    def conditional(self) -> bool:
        """Whether the network is conditioned on class labels or vectors."""
        return bool(self.labels) or self.vectors is not None

    @property
    def unconditional(self) -> bool:
        """Whether the network is also trained without a class or vector, so that it can sample without."""
        return not self.conditional or self.unlabelled > 0

    @property
    def reading(self) -> Reading:
        """How the values of the files are read."""
        return Reading(self.values, self.range, self.axis, self.array)

    def bins(self, pixels: Pixels) -> Pixels:
        """Return the map between images and model units, for dequantised images if `dequantise` is set."""
        return pixels.dequantised if self.dequantise else pixels
