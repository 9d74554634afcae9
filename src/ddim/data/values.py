"""The type and range of pixel values, and the map between values and images in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ddim.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ValueType = Literal["uint8", "uint16", "float32"]
"""The types in which decoded pixels are stored."""

LARGEST = {"uint8": 255.0, "uint16": 65535.0}
"""The largest value of each integer type."""

PICTURE_CHANNELS = (1, 3, 4)
"""The numbers of channels of pictures: gray, RGB and RGBA.

At most the first three channels of other images are shown.
"""


@dataclass(frozen=True)
class Values:
    """The type and range of the pixel values of images: (value - low) / (high - low) lies in [0, 1].

    Attributes:
        type: the type of the values.
        low: the value that becomes 0.
        high: the value that becomes 1.
    """

    type: ValueType = "uint8"
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"data.range LOW,HIGH must be finite, LOW < HIGH, got {self.low:g},{self.high:g}")

    @property
    def eight_bits(self) -> bool:
        """Whether the values are 8-bit integers, as in most image files."""
        return self.type == "uint8"

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Return values of any shape as float32 in [0, 1]."""
        # The difference is exact in float64, so that the only rounding is that of the result.
        return ((values.astype(np.float64) - self.low) / (self.high - self.low)).astype(np.float32)

    def from_unit(self, images: Tensor) -> np.ndarray:
        """Return images (B, C, H, W) in [0, 1] as values (B, H, W, C): the inverse of `to_unit`.

        Integers are rounded. NaN becomes `low`.
        """
        unit = images.detach().permute(0, 2, 3, 1).cpu().float().nan_to_num(0.0).clamp(0, 1).numpy()
        values = unit.astype(np.float64) * (self.high - self.low) + self.low
        return (values if self.type == "float32" else np.rint(values)).astype(self.type)


EIGHT_BITS = Values()
"""The values of 8-bit images."""


@dataclass(frozen=True)
class Reading:
    """How the user wants pixel values to be read; where a field is None or "auto", the files determine it.

    Attributes:
        values: the type in which values are kept; "auto" for the type of most files.
        range: the values that become 0 and 1.
        axis: the axis that holds the channels in an array.
        array: the name of the array that holds the images in a .npz file.
    """

    values: Literal["auto"] | ValueType = "auto"
    range: tuple[float, float] | None = None
    axis: Literal["auto", "first", "last"] = "auto"
    array: str | None = None

    def limit(self, found: Values, pixels: np.ndarray) -> Values:
        """Return the type and range of pixel values, with the range of this reading if it has one.

        Args:
            found: the type and range that follow from the files.
            pixels: the values of the images; all are read if this reading has a range.

        Raises:
            UserError: if the user gave a range, and the images have 8 bits or values outside this range.
        """
        if self.range is None:
            return found
        if found.eight_bits:
            raise UserError("data.range is for 16-bit and float images, and these have 8 bits: leave it out")
        chosen, low, high = Values(found.type, *self.range), pixels.min(), pixels.max()
        if not chosen.low <= low <= high <= chosen.high:
            raise UserError(f"data.range must hold all values of the images, which are {low:g} to {high:g}")
        return chosen


AS_FILES_SAY = Reading()
"""The default `Reading`, in which the files determine every field."""


def choose_range(low: float, high: float) -> tuple[float, float]:
    """Return the two values that become 0 and 1, for float images whose values lie in [low, high].

    The result is (0, 1) if all values lie between 0 and 1, else (`low`, `high`). If `low` and `high` are
    equal, `low` + 1 replaces `high`, because the two values must differ.
    """
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def choose_channels(channels: int) -> int | None:
    """Return `channels` if images can be converted to this number of channels (1, 3 or 4), else None."""
    return channels if channels in PICTURE_CHANNELS else None
