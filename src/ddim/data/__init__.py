"""Images as uint8 or in [0, 1], never normalised, and their labels: sources, cache, order, split."""

from ddim.data.images import Images, SplitImages, parse_size, split_images
from ddim.data.open import open_images

__all__ = ["Images", "SplitImages", "open_images", "parse_size", "split_images"]
