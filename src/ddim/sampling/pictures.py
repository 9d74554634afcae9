"""Images that users give to an edit, and the files of images that samples and edits write.

Images are written without loss: as PNG if they are pictures of 8 bits or gray images of 16 bits, otherwise as
.npy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddim.data.arrays import arrange_pixels, encode_picture
from ddim.data.decode import UnusableError, decode_image, hide_warnings
from ddim.data.values import EIGHT_BITS, PICTURE_CHANNELS, Values
from ddim.errors import UserError, check_pixels, describe_given, explain_errors
from ddim.files import atomic_file, write_atomic
from ddim.plots.pictures import render_png, to_uint8
from ddim.sampling.pipeline import Pipeline

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""An image file, an image of Pillow, or an array or tensor (C, H, W), (H, W, C) or (H, W).

Floats of arrays and tensors lie in [0, 1], and integers have the values of files. An array or tensor
(B, C, H, W) or (B, H, W, C) is a list of images.
"""


# Images that users give


def open_pictures(
    pipeline: Pipeline, given: Picture | Sequence[Picture | Sequence[Picture]], notes: list[str]
) -> tuple[Tensor, list[str]]:
    """Return images (B, C, H, W) in [0, 1], cropped and resized for a model, and their names.

    Args:
        pipeline: the model, which sets the size, the channels and the type of the values.
        given: one image or several, also lists and batches of them.
        notes: gets a sentence for each image that was cropped or resized.

    Raises:
        UserError: if there is no image, or one cannot be used.
    """
    if not (images := _list_images(given)):
        raise UserError("give at least one image")
    opened = [_open_image(pipeline, each, notes) for each in images]
    return torch.stack(opened), [name_picture(each) for each in images]


def open_mask(pipeline: Pipeline, mask: Picture, notes: list[str]) -> Tensor:
    """Return a mask as a tensor (1, 1, H, W) of the model's size, 1 for pixels to inpaint and 0 elsewhere.

    If the mask has no transparency, its light pixels are inpainted. If it has transparency and all its opaque
    pixels are white, these are taken for strokes of a brush and inpainted. In any other mask with
    transparency, the transparent pixels are taken for an erased part and inpainted.

    Args:
        pipeline: the model.
        mask: the mask, which is cropped and resized like an image. An array or tensor is (H, W), where black
            is 0, and white is 1 or the gray level 255.
        notes: gets a sentence if the mask was cropped or resized, or has transparency.

    Raises:
        UserError: if the mask cannot be read, or it selects no pixel or all pixels.
    """
    name = name_picture(mask)
    if isinstance(mask, np.ndarray | Tensor):
        levels = torch.as_tensor(mask).detach().cpu()
        white = levels > (0.5 if levels.max() <= 1 else 127.5)
        mask = Image.fromarray(white.reshape(levels.shape[-2:]).numpy())
    layers = _open_image(pipeline, mask, notes, mask=True)
    light, seen = layers[:3].mean(0), layers[3] > 0.5
    if seen.all():
        hole = light > 0.5
    else:
        brush = bool((light[seen] > 0.9).all())
        hole = seen if brush else ~seen
        share = f"{100 * hole.float().mean():.0f} % of the image"
        notes.append(f"{name}: the {'white' if brush else 'transparent'} part, {share}, will be inpainted")
    if hole.all() or not hole.any():
        raise UserError(f"the mask, {name}, must have white pixels, to inpaint, and black pixels, to keep")
    return hole.float()[None, None]


def name_picture(picture: Any) -> str:  # noqa: ANN401 (whatever a user gives)
    """Return the path of an image file, or a short description of another image."""
    return str(picture) if isinstance(picture, str | Path) else describe_given(picture)


def _list_images(given: Any) -> list[Picture]:  # noqa: ANN401 (whatever a user gives)
    if isinstance(given, list | tuple) or (isinstance(given, np.ndarray | Tensor) and given.ndim == 4):
        return [image for part in given for image in _list_images(part)]
    return [given]


def _open_image(pipeline: Pipeline, image: Picture, notes: list[str], mask: bool = False) -> Tensor:
    """Return an image as a tensor (C, H, W) in [0, 1] of the size of the model; a mask has C = 4."""
    channels, values = (4, EIGHT_BITS) if mask else (pipeline.model.shape.channels, pipeline.values)
    name = name_picture(image)
    size = (pipeline.model.shape.height, pipeline.model.shape.width)
    with explain_errors(f"{name} cannot be read", kind=(OSError, UnusableError)), hide_warnings():
        data = _read(image)
        # Floats of an array are in [0, 1] already, and those of a file have the range of the training images.
        unit = isinstance(data, np.ndarray) and data.dtype == np.float32
        if isinstance(data, np.ndarray) and unit and values.eight_bits:
            check_pixels("float32", data.min(), data.max())
        kind = "float32" if unit else values.type
        to_floats = (values.low, values.high) == (0, 1)
        decoded = decode_image(data, size, channels, kind, to_floats=to_floats)
    whole = decoded.header.height, decoded.header.width
    if whole != size:
        fitted = f"cropped and resized to {size[1]} x {size[0]}, the size of the run"
        notes.append(f"{name}: {whole[1]} x {whole[0]} pixels (width x height), {fitted}")
    pixels = decoded.pixels if unit else values.to_unit(decoded.pixels)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _read(image: Picture) -> bytes | np.ndarray:
    """Return the bytes of an image file, or an image (H, W, C)."""
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    return encode_picture(image) if isinstance(image, Image.Image) else arrange_pixels(image, "an image")


# Files that samples and edits write


def is_picture(values: Values, channels: int) -> bool:
    """Return whether images with these values and channels are pictures: 8 bits and 1, 3 or 4 channels."""
    return values.eight_bits and channels in PICTURE_CHANNELS


def name_file(stem: str, channels: int, values: Values) -> str:
    """Return the file name, STEM.png or STEM.npy, of an image with these channels and values."""
    gray = (values.type, channels) == ("uint16", 1)
    return f"{stem}.png" if is_picture(values, channels) or gray else f"{stem}.npy"


def write_images(paths: Sequence[Path], images: Tensor, values: Values) -> None:
    """Write images (B, C, H, W) in [0, 1] to files that are named by `name_file`."""
    written = to_uint8(images) if is_picture(values, images.shape[1]) else values.from_unit(images)
    for path, pixels in zip(paths, written, strict=True):
        if path.suffix == ".npy":
            write_array(path, pixels)
        else:
            write_atomic(path, render_png(pixels))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file; `np.save` would not say that a disk is full."""
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def read_saved_image(path: Path) -> np.ndarray:
    """Return an image (H, W, C) that `write_images` wrote."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image).reshape(image.height, image.width, -1)


def show_image(pixels: np.ndarray, values: Values) -> np.ndarray:
    """Return an image (H, W, C) as a uint8 picture (H, W, C'), C' = 1, 3 or 4; see `to_uint8`."""
    if is_picture(values, pixels.shape[2]):
        return pixels
    unit = torch.from_numpy(values.to_unit(pixels))
    return to_uint8(unit.permute(2, 0, 1)[None])[0]
