"""The bodies of requests to sample and edit. Unknown fields and numbers out of range are refused here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ddim.web.answers import Refused
from ddim.web.settings import Limits

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
FieldPath = Annotated[str, Field(max_length=100, pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)*$")]
Scale = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
LogSNR = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Steps = Annotated[int, Field(ge=1, le=10**6)]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GuidedBody(Body):
    """The options of guidance: scale, the log-SNRs with guidance, and the id of the weaker model."""

    guidance: Scale | None = None
    interval: list[LogSNR | None] | None = Field(None, min_length=2, max_length=2)
    guide_with: Name | None = None

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if self.interval and None not in self.interval and not self.interval[0] < self.interval[1]:  # type: ignore[operator]
            raise ValueError("interval must have its lower end first")
        return self

    @property
    def evaluations(self) -> int:
        """Roughly the number of network evaluations of a sampling step: two if the request sets guidance,
        else one.
        """
        return 1 if self.guidance in (None, 1) else 2


class SampleRequest(GuidedBody):
    """Sample images; each option is that of `ddim sample`."""

    seeds: list[Seed] = Field(min_length=1, max_length=1000)
    steps: Steps | None = None
    sampler: Name | None = None
    grid: Name | None = None
    eta: Share | None = None
    label: Annotated[int, Field(ge=0, lt=10**6)] | Name | None = None
    vector: list[Number] | None = Field(None, min_length=1, max_length=1024)
    film: bool = False
    fields: dict[FieldPath, Name] = Field(default_factory=dict, max_length=32)

    @model_validator(mode="after")
    def _check(self) -> SampleRequest:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must not contain a seed twice")
        if self.label is not None and self.vector is not None:
            raise ValueError("give label or vector, not both")
        return self

    @property
    def recipe_fields(self) -> dict[str, str]:
        """The fields of the recipe that the request changes, as text keyed by path.

        Fields that have their own name in the request, such as `sampler`, come first.
        """
        own = {"sampler": self.sampler, "grid": self.grid}
        chosen = {name: value for name, value in own.items() if value is not None}
        if self.eta is not None:
            chosen["sampler.eta"] = repr(self.eta)
        return {**chosen, **self.fields}


class Source(Body):
    """An image to edit: a seed or an upload."""

    seed: Seed | None = None
    upload: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> Source:
        if (self.seed is None) == (self.upload is None):
            raise ValueError("a source needs a seed or an upload, and not both")
        return self


class EditRequest(GuidedBody):
    """Edit images; each option is that of `ddim vary`, `interpolate`, `inpaint` or `invert`."""

    kind: Literal["vary", "interpolate", "inpaint", "invert"]
    sources: list[Source] = Field(min_length=1, max_length=64)
    mask: Name | None = None
    n: Annotated[int, Field(ge=1, le=1000)] | None = None
    frames: Annotated[int, Field(ge=2, le=1000)] | None = None
    seed: Seed = 0
    steps: Steps = 50
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    resample: Annotated[int, Field(ge=1, le=20)] = 5
    exact: bool = False
    fields: dict[FieldPath, Name] = Field(default_factory=dict, max_length=8)

    @model_validator(mode="after")
    def _check(self) -> EditRequest:
        two = self.kind == "interpolate"
        if two and len(self.sources) != 2:
            raise ValueError("an interpolation has two sources")
        if self.kind in ("vary", "inpaint") and len(self.sources) != 1:
            raise ValueError(f"{self.kind} has one source")
        if two and len({source.seed is None for source in self.sources}) > 1:
            raise ValueError("an interpolation is between two seeds or between two uploads")
        if (self.kind == "inpaint") != (self.mask is not None):
            raise ValueError("a mask is needed for inpaint, and for nothing else")
        if self.frames is not None and not two:
            raise ValueError("frames is an option of interpolate only")
        if self.n is not None and self.kind not in ("vary", "inpaint"):
            raise ValueError("n is an option of vary and inpaint only")
        unused = {"strength": "vary", "resample": "inpaint", "exact": "invert"}
        for name, kind in unused.items():
            if name in self.model_fields_set and self.kind != kind:
                raise ValueError(f"{name} is an option of {kind} only")
        return self

    @property
    def count(self) -> int:
        """The number of results."""
        if self.kind == "invert":
            return len(self.sources)
        return self.n or self.frames or {"vary": 8, "interpolate": 9, "inpaint": 4}[self.kind]

    @property
    def passes(self) -> int:
        """Roughly the number of network evaluations for each sampling step."""
        often = {"vary": 1, "interpolate": 2, "inpaint": self.resample, "invert": 4}[self.kind]
        return often * self.evaluations


def check_work(
    recipe: Mapping[str, Any], images: int, steps: int | None, limits: Limits, passes: int = 1
) -> None:
    """Check that a request is not too much work.

    Args:
        recipe: the recipe of the run, as JSON.
        images: number of images.
        steps: sampling steps, None for those of the recipe.
        limits: the limits of the server.
        passes: roughly the number of network evaluations for each sampling step.

    Raises:
        Refused: if the request is too much work; the sentence names the limit.
    """
    if images > limits.images:
        raise Refused(422, f"at most {limits.images} images can be made at a time, got {images}")
    steps = int(recipe["steps"]) if steps is None else steps
    if steps > limits.steps:
        raise Refused(422, f"at most {limits.steps:,} steps can be made, got {steps:,}")
    height, width = (int(side) for side in recipe["data"]["size"])
    work = images * steps * passes * height * width
    if work > limits.work:
        most = limits.work // (steps * passes * height * width)
        hint = f"at most {most} images with these steps" if most else "fewer steps"
        raise Refused(
            422, f"{images} images of {height}x{width} in {steps:,} steps are too much work: {hint}"
        )
