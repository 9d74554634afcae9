"""Pixels that count how many images are read at once."""


class CountedPixels:
    """An array of images (N, H, W, C); `largest` is the largest number of images that were read at once."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.largest = pixels, pixels.shape, 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        found = self.pixels[index]
        self.largest = max(self.largest, len(found))
        return found
