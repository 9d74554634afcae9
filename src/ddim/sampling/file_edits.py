"""Edits of image files, as the commands take them: variations, interpolations, inpainting, latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from ddim.errors import UserError
from ddim.sampling.edit_images import (
    Edit,
    Inversion,
    inpaint_image,
    interpolate,
    invert_images,
    vary_image,
)
from ddim.sampling.edit_inputs import read_hole, read_images
from ddim.sampling.edit_work import EditOptions
from ddim.sampling.pipeline import Pipeline

NOISY = 0.05
"""The largest sigma, at t = 0 and at the end of the grid, with which inversion of real images is accurate."""

Name = Callable[[str | Path], str]
"""Returns the name of a file in the record of an edit."""


class FileEdit(ABC):
    """An edit of image files.

    Attributes:
        command: the name of the command that makes this edit.
    """

    command: ClassVar[str]

    @property
    @abstractmethod
    def files(self) -> Sequence[str | Path]:
        """The image files."""

    @property
    def real(self) -> bool:
        """Whether real images are edited, and not samples; the default grid depends on this."""
        return True

    def read(self, pipeline: Pipeline, on_note: Callable[[str], object]) -> tuple[Tensor, ...]:
        """Return the images (B, C, H, W) in [0, 1], and further inputs of `edit`.

        Args:
            pipeline: the model, which sets the size, the channels and the type of values of the images.
            on_note: called with a sentence for each file that was cropped or resized.

        Raises:
            UserError: if a file cannot be read or used.
        """
        shape = pipeline.model.shape
        size = (shape.height, shape.width)
        return (read_images(self.files, size, shape.channels, on_note, pipeline.values),)

    @abstractmethod
    def edit(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], steps: int, **options: Unpack[EditOptions]
    ) -> Edit:
        """Return the result of the edit; `inputs` is what `read` returned. See `EditOptions`."""

    @abstractmethod
    def facts(self, name: Name) -> dict[str, Any]:
        """Return what the record says about the files; `name` gives the name of a file in the record."""


@dataclass(frozen=True)
class Variations(FileEdit):
    """Variations of an image file, one for each seed; see `vary_image`."""

    image: str | Path
    strength: float = 0.5
    seeds: Sequence[int] = range(8)

    command = "vary"

    @property
    def files(self) -> Sequence[str | Path]:
        """The image file."""
        return [self.image]

    def edit(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], steps: int, **options: Unpack[EditOptions]
    ) -> Edit:
        """Return variations of the image."""
        return vary_image(pipeline, inputs[0], self.strength, self.seeds, steps, **options)

    def facts(self, name: Name) -> dict[str, Any]:
        """Return {"image": name of the image}."""
        return {"image": name(self.image)}


@dataclass(frozen=True)
class Interpolation(FileEdit):
    """Images between two image files, or between the samples of two seeds; see `interpolate`.

    Raises:
        UserError: unless there are two images and no seeds, or two seeds and no images.
    """

    images: Sequence[str | Path] = ()
    seeds: Sequence[int] = ()
    frames: int = 9

    command = "interpolate"

    def __post_init__(self) -> None:
        if sorted([len(self.images), len(self.seeds)]) != [0, 2]:
            raise UserError(
                "give two images, or --seeds with two seeds, such as --seeds 3,8 (seeds=[3, 8]), got "
                f"{len(self.images)} images and {len(self.seeds)} seeds"
            )

    @property
    def files(self) -> Sequence[str | Path]:
        """The two image files, or none."""
        return self.images

    @property
    def real(self) -> bool:
        """Whether the interpolation is between images, and not between samples."""
        return not self.seeds

    def read(self, pipeline: Pipeline, on_note: Callable[[str], object]) -> tuple[Tensor, ...]:
        """Return the images; an empty tuple for an interpolation between seeds."""
        return super().read(pipeline, on_note) if self.real else ()

    def edit(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], steps: int, **options: Unpack[EditOptions]
    ) -> Edit:
        """Return the frames."""
        images, seeds = (inputs[0], None) if inputs else (None, self.seeds)
        return interpolate(pipeline, images, self.frames, steps, seeds=seeds, **options)

    def facts(self, name: Name) -> dict[str, Any]:
        """Return {"images": names of the images}."""
        return {"images": list(map(name, self.images))}


@dataclass(frozen=True)
class Inpainting(FileEdit):
    """New content for the masked part of an image file, one result for each seed; see `inpaint_image`."""

    image: str | Path
    mask: str | Path
    seeds: Sequence[int] = range(4)
    resample: int = 5

    command = "inpaint"

    @property
    def files(self) -> Sequence[str | Path]:
        """The image file, without the mask file."""
        return [self.image]

    def read(self, pipeline: Pipeline, on_note: Callable[[str], object]) -> tuple[Tensor, ...]:
        """Return the image, and the mask (1, 1, H, W), which is 1 for pixels to inpaint."""
        shape = pipeline.model.shape
        hole_size = (shape.height, shape.width)
        (image,) = super().read(pipeline, on_note)
        return image, read_hole(self.mask, self.image, hole_size, on_note)

    def edit(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], steps: int, **options: Unpack[EditOptions]
    ) -> Edit:
        """Return the inpainted images."""
        image, hole = inputs
        return inpaint_image(pipeline, image, hole, self.seeds, steps, resample=self.resample, **options)

    def facts(self, name: Name) -> dict[str, Any]:
        """Return {"image": name of the image, "mask": name of the mask}."""
        return {"image": name(self.image), "mask": name(self.mask)}


@dataclass(frozen=True)
class Latents(FileEdit):
    """The latents of image files, and the images restored from them; see `invert_images`."""

    images: Sequence[str | Path]
    exact: bool = False

    command = "invert"

    @property
    def files(self) -> Sequence[str | Path]:
        """The image files."""
        return self.images

    def edit(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], steps: int, **options: Unpack[EditOptions]
    ) -> Inversion:
        """Return the latents and the restored images."""
        return invert_images(pipeline, inputs[0], steps, exact=self.exact, **options)

    def facts(self, name: Name) -> dict[str, Any]:
        """Return {"images": names of the images}."""
        return {"images": list(map(name, self.images))}


def describe_inaccuracy(edit: Edit) -> list[str]:
    """Return a sentence for each reason why an inversion is inaccurate; none for other edits."""
    if not isinstance(edit, Inversion):
        return []
    cautions = [noisy] if (noisy := _warn_of_noise(edit)) else []
    if edit.residual > 0:
        change = f"{edit.residual:.2g}"
        cautions.append(f"some steps did not converge (change per iteration {change}): take more steps")
    return cautions


def _warn_of_noise(edit: Edit) -> str | None:
    """Return a warning if the schedule or the grid ends with sigma above `NOISY`, else None."""
    schedule = edit.pipeline.recipe.sampling_schedule
    clean, end = (schedule(t) for t in (torch.zeros((), dtype=torch.float64), edit.times[-1]))
    if clean.sigma > NOISY:
        return (
            f"at t = 0 this run's schedule still has noise, sigma = {clean.sigma:.2f}, but a real image has "
            "none. So the latent gives back a slightly different, grainy image"
        )
    if end.sigma > NOISY:
        return (
            f"at the last of these {len(edit.times)} times, sigma is still {end.sigma:.2f}, but a real image "
            "has no noise. So the latent gives back a slightly different image; with more steps, the "
            "difference is smaller"
        )
    return None
