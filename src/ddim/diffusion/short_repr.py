"""A short `repr` for objects with tensors or long tuples, so that it fits a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor


class ShortRepr:
    """A base class of dataclasses that have repr=False.

    Tensors are printed as Tensor(2, 3, 64, 64), and long tuples are shortened.
    """

    def __repr__(self) -> str:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in values)})"


def short_values(values: Sequence[Any]) -> str:
    """Return the values separated by commas.

    If there are more than six values, only the first two, the number of values and the last are shown.
    """
    if len(values) > 6:
        return f"{values[0]!r}, {values[1]!r}, ... {len(values)} values ..., {values[-1]!r}"
    return ", ".join(map(repr, values))


def _short(value: Any) -> str:  # noqa: ANN401  (the value of any field)
    if isinstance(value, Tensor) and value.numel() > 1:
        return f"Tensor({', '.join(map(str, value.shape))})"
    return f"({short_values(value)})" if isinstance(value, tuple) else repr(value)
