"""Edits of images for notebooks. A picture is an image file, a PIL image or a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, Unpack

import torch
from PIL import Image
from torch import Tensor

from ddim.data.batch import to_unit
from ddim.errors import UserError
from ddim.plots.pictures import check_images
from ddim.runs.edit_images import (
    Edit,
    Inversion,
    inpaint_image,
    interpolate_images,
    interpolate_seeds,
    invert_images,
    vary_image,
)
from ddim.runs.edit_inputs import read_hole, read_images
from ddim.runs.edit_work import EditOptions, Source
from ddim.runs.notebook_cell import with_bar
from ddim.runs.pipeline import Pipeline, open_pipeline

Picture: TypeAlias = str | Path | Image.Image | Tensor
"""An image file, a PIL image, or a tensor (C, H, W) or (B, C, H, W) of the model's size.

Tensors are floats in [0, 1] or uint8. Files and PIL images are cropped and resized to the size of the model.
"""


@with_bar
def invert_pictures(
    model: Source,
    images: Picture | Sequence[Picture],
    steps: int = 50,
    *,
    exact: bool = False,
    **options: Unpack[EditOptions],
) -> Inversion:
    """Return the latents of images, and the images reconstructed from these latents; see `invert_images`.

    Args:
        model: a run folder, a pipeline or a model.
        images: one image or several.
        steps: number of timesteps in the grid.
        exact: whether each step is solved by iteration instead of by extrapolation.
        options: grid, guidance and progress, see `EditOptions`.

    Example:
        >>> found = ddim.invert(run, "rose.jpg")
        >>> found.latents, found.errors
    """
    pipeline = open_pipeline(model)
    return invert_images(pipeline, open_pictures(pipeline, images), steps, exact=exact, **options)


@with_bar
def interpolate(
    model: Source,
    images: Picture | Sequence[Picture] | None = None,
    frames: int = 9,
    steps: int = 50,
    *,
    seeds: Sequence[int] | None = None,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample images between two images, or between the samples of two seeds.

    Args:
        model: a run folder, a pipeline or a model.
        images: two images.
        frames: number of images in the result, including both ends.
        steps: number of timesteps in the grid.
        seeds: two seeds, in place of `images`.
        options: grid, guidance and progress, see `EditOptions`.

    Example:
        >>> ddim.interpolate(run, seeds=[3, 7])
        >>> ddim.interpolate(run, ["rose.jpg", "lily.jpg"])
    """
    pipeline = open_pipeline(model)
    if images is not None and seeds is None:
        return interpolate_images(pipeline, open_pictures(pipeline, images), frames, steps, **options)
    if images is None and seeds is not None:
        return interpolate_seeds(pipeline, list(seeds), frames, steps, **options)
    raise UserError("give two images, or seeds=[3, 7]")


@with_bar
def inpaint_picture(
    model: Source,
    image: Picture,
    mask: Picture,
    seeds: Sequence[int] = range(4),
    steps: int = 50,
    *,
    resample: int = 5,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample new content for a part of an image (RePaint, Lugmayr et al. 2022); see `inpaint_image`.

    Args:
        model: a run folder, a pipeline or a model.
        image: the image.
        mask: an image of the same size, white in the part to inpaint and black elsewhere; for transparency,
            see `read_hole`. In a tensor (H, W) of the model's size, black is 0, and white is 1 or the gray
            level 255.
        seeds: one seed for each result.
        steps: number of timesteps in the grid.
        resample: how often each step is done; see `inpaint_image`.
        options: grid, guidance and progress, see `EditOptions`.

    Example:
        >>> ddim.inpaint(run, "rose.jpg", "mask.png", seeds=[3, 7])
    """
    pipeline = open_pipeline(model)
    one = open_pictures(pipeline, image)
    if len(one) != 1:
        raise UserError(f"inpainting takes one image, got {len(one)}")
    hole = _open_mask(pipeline, mask, image if isinstance(image, Picture) else image[0])
    return inpaint_image(pipeline, one, hole, list(seeds), steps, resample=resample, **options)


@with_bar
def vary_picture(
    model: Source,
    image: Picture,
    strength: float = 0.5,
    seeds: Sequence[int] = range(8),
    steps: int = 50,
    **options: Unpack[EditOptions],
) -> Edit:
    """Sample variations of an image (SDEdit, Meng et al. 2022); see `vary_image`.

    Args:
        model: a run folder, a pipeline or a model.
        image: the image.
        strength: time in (0, 1] up to which noise is added; larger values change more.
        seeds: one seed for each result.
        steps: number of timesteps in the grid; only timesteps below `strength` are used.
        options: grid, guidance and progress, see `EditOptions`.

    Example:
        >>> ddim.vary(run, "rose.jpg", strength=0.6)
    """
    pipeline = open_pipeline(model)
    return vary_image(pipeline, open_pictures(pipeline, image), strength, list(seeds), steps, **options)


def _open_mask(pipeline: Pipeline, mask: Picture, image: Picture) -> Tensor:
    """Return the mask of an image as a tensor (1, 1, H, W), 1 in the part to inpaint and 0 elsewhere."""
    size = (pipeline.model.shape.height, pipeline.model.shape.width)
    if not isinstance(mask, Tensor):
        return read_hole(mask, image, size)
    if tuple(mask.shape) not in (size, (1, *size), (1, 1, *size)):
        raise UserError(
            f"mask must be {size}, the height and width of the model's images, got {tuple(mask.shape)}"
        )
    if mask.is_floating_point():
        check_images(mask, "mask")
    # Integers are either 0 and 1, or gray levels from 0 to 255; the largest value tells which.
    middle = 0.5 if mask.is_floating_point() or mask.max() <= 1 else 127.5
    return (mask > middle).float().cpu().reshape(1, 1, *size)


def open_pictures(pipeline: Pipeline, pictures: Picture | Sequence[Picture]) -> Tensor:
    """Return pictures as one tensor (B, C, H, W) in [0, 1] of the pipeline's size.

    Raises:
        UserError: if a picture cannot be used, or a tensor has another size or values outside [0, 1].
    """
    shape = pipeline.model.shape
    channels, size = shape.channels, (shape.height, shape.width)
    if isinstance(pictures, Picture):
        pictures = [pictures]
    opened = []
    for picture in pictures:
        if isinstance(picture, Tensor):
            batch = picture[None] if picture.ndim == 3 else picture
            if tuple(batch.shape[1:]) != (channels, *size):
                raise UserError(
                    f"images must be (B, {channels}, {size[0]}, {size[1]}), got {tuple(batch.shape)}"
                )
            check_images(batch)
            opened.append((to_unit(batch) if batch.dtype == torch.uint8 else batch.float()).cpu())
        else:
            opened.append(read_images([picture], size, channels, values=pipeline.values))
    return torch.cat(opened)
