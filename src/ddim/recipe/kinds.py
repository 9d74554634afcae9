"""The fields of a recipe and of its parts, and the kinds (registered classes) that each field can hold."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Union, get_args, get_origin, get_type_hints

from ddim.data.clusters import Clusters
from ddim.diffusion.denoiser import choose_part
from ddim.diffusion.grids import GRIDS, Grid
from ddim.diffusion.loss import LOSSES, WEIGHTINGS, Loss, Weighting
from ddim.diffusion.parameterisation import CONDITIONINGS, PARAMETERISATIONS, Conditioning, Parameterisation
from ddim.diffusion.samplers import SAMPLERS, Sampler
from ddim.diffusion.schedules import SCHEDULES, Schedule
from ddim.diffusion.times import TIME_SAMPLINGS, TimeSampling
from ddim.errors import UserError, suggest
from ddim.nn.base import NetworkSpec
from ddim.nn.ema import AVERAGES, Averaging
from ddim.nn.networks import NETWORKS, UserNetwork
from ddim.recipe.own_parts import find_part, is_own
from ddim.recipe.plain_values import show_value
from ddim.recipe.recipe import PIXELS, PixelRule

FAMILIES: dict[Any, Mapping[str, type]] = {
    Averaging: AVERAGES,
    Conditioning: CONDITIONINGS,
    Grid: GRIDS,
    Loss: LOSSES,
    NetworkSpec: NETWORKS,
    Parameterisation: PARAMETERISATIONS,
    PixelRule: PIXELS,
    Sampler: SAMPLERS,
    Schedule: SCHEDULES,
    TimeSampling: TIME_SAMPLINGS,
    Weighting: WEIGHTINGS,
}
"""The registry of classes for each protocol. A field annotated with the protocol can hold these classes."""


def kind_name(value: object) -> str:
    """Return the name under which the class of an object is registered, such as "cosine" for `Cosine()`.

    For a class that the user wrote, this is the name of the class. For any other class that is not
    registered, such as `Optim`, it is the name of the class in lower case.
    """
    for family in FAMILIES.values():
        for name, kind in family.items():
            if type(value) is kind:
                return name
    if isinstance(value, UserNetwork):
        return value.name
    return type(value).__name__ if is_own(value) else type(value).__name__.lower()


@dataclass(frozen=True)
class Slot:
    """A field of a recipe or of one of its parts: name, type (`wanted`) and default."""

    name: str
    wanted: Any
    default: Any

    @cached_property
    def kinds(self) -> dict[str, type]:
        """The classes that the field can hold, keyed by name; empty if it holds a plain value."""
        found: dict[str, type] = {}
        for option in self._union:
            if option in FAMILIES:
                found |= FAMILIES[option]
            elif isinstance(option, type) and is_dataclass(option) and option is not Clusters:
                found[option.__name__.lower()] = option
        return found

    @property
    def optional(self) -> bool:
        """Whether the field may be None."""
        return types.NoneType in self._union

    @property
    def named(self) -> bool:
        """Whether the field can hold several kinds; `dump` must then name the kind."""
        return len(self.kinds) > 1

    @property
    def usual(self) -> str:
        """The name of the kind that is built if the JSON of the field names no kind."""
        return kind_name(self.default) if is_dataclass(self.default) else next(iter(self.kinds))

    @property
    def options(self) -> list[str]:
        """The names of the allowed kinds, the usual kind first; "none" is last, if the field may be None."""
        others = [name for name in self.kinds if name != self.usual]
        return [self.usual, *others, *["none"] * self.optional]

    def find_kind(self, name: Any, path: str, sha256: str | None = None) -> Any:  # noqa: ANN401
        """Return the class with this name, or the part with this name that the user wrote.

        Args:
            name: the name of the class or of the user's part.
            path: the path of the field, for messages.
            sha256: the recorded hash of the source code of a part that the user wrote, else None.

        Raises:
            UserError: if the field cannot hold anything with this name. Also if `sha256` is given, but the
                user gave no part with this name in this process.
        """
        if isinstance(name, str) and (sha256 or name not in self.kinds):
            own = find_part(name, sha256, path)
            if own is not None:
                self.check_part(own, path)
                return own
        if not isinstance(name, str) or name not in self.kinds:
            hint = suggest(str(name), self.options)
            raise UserError(
                f"{path or 'kind'} must be one of {', '.join(self.options)}, got {show_value(name)}{hint}"
            )
        return self.kinds[name]

    def check_part(self, part: Any, path: str) -> None:  # noqa: ANN401
        """Check that a part that the user wrote can be used in this field.

        Args:
            part: the class of the part, or a `UserNetwork`.
            path: the path of the field, for messages.

        Raises:
            UserError: if the part lacks a method or an attribute (the message names what is missing), or the
                field can only hold the library's own parts.
        """
        name = part.name if isinstance(part, UserNetwork) else part.__name__
        for family in self._union:
            if family not in FAMILIES:
                continue
            # A sampler with a call of its own needs no `walk`, which only the call of `Sampler` uses.
            members = [m for m in vars(family) if m == "__call__" or (m[0] != "_" and m != "walk")]
            # `hasattr` does not find a field without a default, because it is no attribute of its class.
            known = {f.name for f in fields(part)} if is_dataclass(part) else set()
            # Every class can be called, so `hasattr` would always find `__call__`.
            known |= {name for base in getattr(part, "__mro__", ()) for name in vars(base)}
            missing = [m for m in members if m not in known and (m == "__call__" or not hasattr(part, m))]
            if not missing:
                return
            raise UserError(
                f"{path} must be a {family.__name__}, and {name} has no {' and no '.join(missing)}: "
                f"see `help({family.__module__}.{family.__name__})`"
            )
        raise UserError(f"{path} must be one of the library's own parts, got {name}")

    @property
    def _union(self) -> tuple[Any, ...]:
        is_union = get_origin(self.wanted) in (Union, types.UnionType)
        return get_args(self.wanted) if is_union else (self.wanted,)


def choose_value(kind: type, name: str, value: Any, now: Any = None) -> Any:  # noqa: ANN401
    """Return a value for a field of a recipe or of one of its parts.

    Args:
        kind: the class with the field.
        name: the name of the field.
        value: the value, or the name of a registered part. A name gives a part with default fields.
        now: the present value of the field. If `value` names the class of `now`, `now` is returned unchanged.

    Raises:
        UserError: if there is no such field, if no part has this name, if the value is a class, or None where
            a part is needed, or if it is a part that the user wrote and that lacks a method.
    """
    slots = {slot.name: slot for slot in list_slots(kind)}
    if name not in slots:
        raise UserError(f"{name} is not a field of a recipe{suggest(name, slots)}")
    slot = slots[name]
    if not slot.kinds or (value is None and slot.optional):
        return value
    if value is None:
        raise UserError(f"{name} must be one of {', '.join(slot.options)}, got None")
    if isinstance(value, str) and type(now) is slot.kinds.get(value):
        return now
    part = choose_part(name, value, slot.kinds)
    if not isinstance(part, tuple(slot.kinds.values())):
        slot.check_part(part if isinstance(part, UserNetwork) else type(part), name)
    return part


def list_slots(kind: Any) -> list[Slot]:  # noqa: ANN401 (a dataclass, or a UserNetwork without fields)
    """Return the fields of a recipe or of a class of its parts."""
    if not isinstance(kind, type) or not is_dataclass(kind):
        return []
    hints = get_type_hints(kind)
    return [Slot(f.name, hints[f.name], f.default) for f in fields(kind)]
