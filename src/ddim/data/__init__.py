"""Images in [0, 1] or uint8 and their labels, never normalised: sources, cache, order, split."""

from ddim.data.images import Images, open_images, parse_size, split

__all__ = ["Images", "open_images", "parse_size", "split"]
