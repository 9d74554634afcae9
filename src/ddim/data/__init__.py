"""Training images and class labels: sources, decoding, cache, order of images, split, augmentation.

Images are uint8, or floats in [0, 1]; normalisation is not part of this package.
"""

from ddim.data.cache import open_images
from ddim.data.images import Images, SplitImages, parse_size, split_images

__all__ = ["Images", "SplitImages", "open_images", "parse_size", "split_images"]
