"""List the images of a result for the page, with a PNG for each image that a browser cannot show itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ddim.plots.pictures import save_png
from ddim.sampling.pictures import is_picture, read_saved_image, show_image
from ddim.sampling.pipeline import LoadedRun


def describe_views(pipeline: LoadedRun) -> list[str]:
    """Return [a sentence for the user] if the page's pictures show less than the saved files, else []."""
    channels, values = pipeline.model.shape.channels, pipeline.values
    if is_picture(values, channels):
        return []
    part = f"the first {min(channels, 3)} of {channels} channels" if channels > 4 else "all channels"
    return [f"The pictures show {part} in 8 bits; the files hold the exact values ({values.type})."]


def write_views(paths: Iterable[Path], pipeline: LoadedRun) -> list[dict[str, str]]:
    """Return the name of each image file, and of the picture that shows it.

    An image of 8 bits is its own picture. If the images have more bits or channels, a picture view-*.png is
    written beside each file, as `show_image` draws it. Call this after `archive`, so that the archive holds
    only the exact values.

    Args:
        paths: the image files of a result, all in one folder.
        pipeline: the run that made them.
    """
    values = pipeline.values
    if is_picture(values, pipeline.model.shape.channels):
        return [{"name": path.name, "view": path.name} for path in paths]
    found = []
    for path in paths:
        view = path.with_name(f"view-{path.stem}.png")
        save_png(view, show_image(read_saved_image(path), values))
        found.append({"name": path.name, "view": view.name})
    return found
