"""Open the images and masks of an edit: files, PIL images and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim.data.arrays import encode_picture
from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header
from ddim.data.images import to_unit
from ddim.data.values import EIGHT_BITS, Values
from ddim.errors import UserError, describe_given
from ddim.plots.pictures import check_images
from ddim.sampling.generate import list_seeds
from ddim.sampling.pipeline import Pipeline

Picture: TypeAlias = str | Path | Image.Image | Tensor
"""An image file, a PIL image, or a tensor (C, H, W) or (B, C, H, W) of the model's size.

Tensors are floats in [0, 1] or uint8. Files and PIL images are cropped and resized to the size of the model.
"""


def read_images(
    files: Sequence[str | Path | Image.Image],
    size: tuple[int, int],
    channels: int,
    on_change: Callable[[str], object] | None = None,
    values: Values = EIGHT_BITS,
) -> Tensor:
    """Return images as one tensor (B, C, H, W) in [0, 1].

    Args:
        files: image files or images of Pillow.
        size: height and width to which each image is cropped and resized.
        channels: 1 for gray, 3 for RGB, 4 for RGBA.
        on_change: called with a sentence for each image that was cropped or resized.
        values: the type and range of the pixel values.

    Raises:
        UserError: if a file cannot be read or is not an image.
    """
    images = []
    # 8-bit images are floats from 0 to 1, so they have the range of the model only if this is its range.
    to_floats = (values.low, values.high) == (0, 1)
    for file in files:
        try:
            with hide_warnings():
                decoded = decode_image(_read_data(file), size, channels, values.type, to_floats=to_floats)
        except UnusableError as error:
            raise UserError(f"{_describe(file)} cannot be used: {error}") from None
        found, pixels = decoded.header, decoded.pixels
        if (found.height, found.width) != size and on_change:
            # The crop has the aspect ratio of the model's images, so its size follows from the smaller scale.
            scale = min(found.height / size[0], found.width / size[1])
            cropped = (round(scale * size[0]), round(scale * size[1]))
            crop = "" if cropped == (found.height, found.width) else f"cropped to {cropped[0]}x{cropped[1]}, "
            on_change(
                f"{file}: {found.height}x{found.width}, {crop}resized to {size[0]}x{size[1]}, "
                "the size of the run (height x width)"
            )
        if values.eight_bits:
            images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)
        else:
            images.append(torch.from_numpy(values.to_unit(pixels)).permute(2, 0, 1))
    return torch.stack(images)


def _read_data(file: str | Path | Image.Image) -> bytes | np.ndarray:
    """Return the bytes of an image file, or the data of an image of Pillow; see `encode_picture`."""
    try:
        if isinstance(file, Image.Image):
            return encode_picture(file)
        if not isinstance(file, str | Path):
            raise UserError(
                "an image must be a file, an image of Pillow or a tensor, such as torch.from_numpy(array), "
                f"got {describe_given(file)}"
            )
        return Path(file).read_bytes()
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_describe(file)} cannot be read: {reason}") from None


def _describe(file: str | Path | Image.Image) -> str:
    return "an image of Pillow" if isinstance(file, Image.Image) else repr(str(file))


def read_hole(
    mask: str | Path | Image.Image,
    image: str | Path | Image.Image | Tensor,
    size: tuple[int, int],
    on_change: Callable[[str], object] | None = None,
) -> Tensor:
    """Return a mask as a tensor (1, 1, H, W): 1 for pixels to inpaint, 0 for pixels to keep.

    If the mask has no transparency, its light pixels are inpainted. If it has transparency and all its opaque
    pixels are white, these are taken for strokes of a brush and inpainted. In any other mask with
    transparency, the transparent pixels are taken for an erased part and inpainted.

    Args:
        mask: the mask, a file or an image of Pillow.
        image: the image, which must have the same size.
        size: height and width to which the mask is cropped and resized.
        on_change: called with a sentence if the mask was cropped or resized, or has transparency.

    Raises:
        UserError: if a file cannot be read, mask and image have different sizes, no pixel is to be inpainted,
            or no pixel is to be kept.
    """
    layers = read_images([mask], size, 4, on_change)
    light, opaque = layers[:, :3].mean(1, keepdim=True), layers[:, 3:]
    seen = opaque > 0.5
    if seen.all():
        hole = light > 0.5
    elif (light[seen] > 0.9).all():
        hole = seen
    else:
        hole = ~seen
    sizes = ["x".join(map(str, _measure(each))) for each in (image, mask)]
    if sizes[0] != sizes[1]:
        raise UserError(f"the mask must have the size of the image, {sizes[0]}, got {sizes[1]}")
    if hole.all() or not hole.any():
        raise UserError(
            f"the mask, {_describe(mask)}, must have white pixels, to inpaint, and black pixels, to keep; or "
            "erase the part to inpaint, so that it is transparent"
        )
    if not seen.all() and on_change:
        what = "white" if hole[seen].all() else "transparent"
        share = f"{100 * hole.float().mean():.0f} % of the image"
        on_change(f"{mask}: the {what} part, {share}, will be inpainted")
    return hole.float()


def _measure(image: str | Path | Image.Image | Tensor) -> tuple[int, int]:
    """Return the (height, width) of an image."""
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    head = read_header(_read_data(image))
    return head.height, head.width


def open_pictures(pipeline: Pipeline, pictures: Picture | Sequence[Picture]) -> Tensor:
    """Return pictures as one tensor (B, C, H, W) in [0, 1] of the pipeline's size.

    Raises:
        UserError: if a picture cannot be used, or a tensor has another size or values outside [0, 1].
    """
    shape = pipeline.model.shape
    channels, size = shape.channels, (shape.height, shape.width)
    if not isinstance(pictures, Sequence) or isinstance(pictures, str):
        pictures = [pictures]
    opened = []
    for picture in pictures:
        if isinstance(picture, Tensor):
            batch = picture[None] if picture.ndim == 3 else picture
            if tuple(batch.shape[1:]) != (channels, *size):
                raise UserError(
                    f"images must be (B, {channels}, {size[0]}, {size[1]}), got {tuple(batch.shape)}"
                )
            # Files of more than 8 bits may have values outside the range of the training images.
            check_images(batch if pipeline.values.eight_bits else batch.clamp(0, 1))
            opened.append((to_unit(batch) if batch.dtype == torch.uint8 else batch.float()).cpu())
        else:
            opened.append(read_images([picture], size, channels, values=pipeline.values))
    if not sum(map(len, opened)):
        raise UserError("give at least one image")
    return torch.cat(opened)


def take_seeds(seeds: Iterable[int]) -> Sequence[int]:
    """Return the seeds of an edit.

    Raises:
        UserError: if there is none, or a seed cannot be used.
    """
    if seeds is None or (isinstance(seeds, Sized) and not len(seeds)):
        raise UserError("give at least one seed, such as seeds=[3, 7]")
    return list_seeds(None, 0, seeds)


def open_mask(pipeline: Pipeline, mask: Picture, image: Picture) -> Tensor:
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
