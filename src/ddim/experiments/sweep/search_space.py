"""Parse the search space of a sweep, such as `objective.error=[l1,mse] optim.lr=[1e-4..1e-2]`.

Values stay text, as on the command line of `ddim train`; `ddim.recipe.codec` converts them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ddim.errors import UserError

INSIDE = 0.314159
"""The quantile at which a value inside a range is checked, to find fields that need whole numbers.

A rounder quantile would be unsafe: for 0.3, the value in the range [0.0..10.0] is a whole number.
"""

Choice = dict[str, str]
"""One value for each field of a sweep."""


@dataclass(frozen=True)
class Values:
    """A list of values."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A range of numbers from `low` to `high`.

    If `whole` is true, the range has only whole numbers. The distribution is log-uniform if `low` > 0, else
    uniform.
    """

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether the distribution is log-uniform."""
        return self.low > 0

    def at(self, u: float) -> str:
        """Return the value at the quantile u in [0, 1)."""
        # Each whole number k stands for the interval from k - 0.5 to k + 0.5.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** u if self.log else low + (high - low) * u
        return self.text(min(max(value, self.low), self.high))

    def text(self, value: float) -> str:
        """Return a value as the text of an option.

        Numbers that need not be whole get six significant digits, so that names and tables stay short.
        """
        return str(round(value)) if self.whole else f"{value:.6g}"


Space = dict[str, Values | Range]
"""The values that each field can take, keyed by field path."""


def parse_space(fields: Mapping[str, str]) -> Space:
    """Parse values of fields, such as {"schedule": "[cosine,linear]", "optim.lr": "[1e-4..1e-2]"}.

    Raises:
        UserError: if a list has an empty or repeated value, a range is malformed, or brackets do not match.
    """
    return {name: _parse_field(name, text) for name, text in fields.items()}


def list_combinations(space: Space) -> list[Choice]:
    """Return every combination; the last field changes fastest.

    Raises:
        UserError: if a field is a range, which has infinitely many values.
    """
    lists = [_listed(name, values) for name, values in space.items()]
    return [dict(zip(space, choice, strict=True)) for choice in itertools.product(*lists)]


def draw_combinations(space: Space, count: int, seed: int) -> list[Choice]:
    """Return `count` random combinations; they are distinct if all fields are lists.

    Raises:
        UserError: if all fields are lists with fewer than `count` combinations.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    if any(isinstance(values, Range) for values in space.values()):
        return [
            {name: _at(values, generator.random()) for name, values in space.items()} for _ in range(count)
        ]
    every = list_combinations(space)
    if count > len(every):
        raise UserError(f"--random {count} is more than the {len(every)} combinations of these values")
    return [every[k] for k in generator.choice(len(every), count, replace=False)]


def list_corners(space: Space) -> Iterator[Choice]:
    """Yield an inner combination, then all combinations of listed values and range ends.

    The combinations are for checking a space before the search. The inner one takes values from inside
    continuous ranges, which are not whole numbers: a field that needs whole numbers refuses it, even if both
    ends of its range are whole numbers by chance.
    """
    yield {k: _at(v, INSIDE if isinstance(v, Range) and not v.whole else 0.0) for k, v in space.items()}
    lists = [v.values if isinstance(v, Values) else (v.text(v.low), v.text(v.high)) for v in space.values()]
    for choice in itertools.product(*lists):
        yield dict(zip(space, choice, strict=True))


def _parse_field(name: str, text: str) -> Values | Range:
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return Values((inner,))
    inner = inner[1:-1]
    # In [../a,../b], the dots are parts of paths, not of a range.
    if ".." in inner and not re.search(r"[,/\\]", inner):
        return _parse_range(name, inner)
    values = tuple(split_values(name, inner))
    if not all(values) or len(set(values)) < len(values):
        raise UserError(f"{name} must list different, non-empty values, got {text}")
    return Values(values)


def split_values(name: str, text: str) -> list[str]:
    """Return the parts of a text between commas. Commas inside brackets belong to a value that is a list.

    `name` is the field, for error messages.

    Raises:
        UserError: if brackets do not match.
    """
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise UserError(f"{name} has brackets that do not match: [{text}]")
    return [part.strip() for part in parts]


def _parse_range(name: str, text: str) -> Range:
    low, _, high = (part.strip() for part in text.partition(".."))
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = math.nan, math.nan
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise UserError(f"{name} must be a range such as [1e-4..1e-2], the smaller end first, got [{text}]")
    return Range(*ends, whole=all(re.fullmatch("[+-]?[0-9]+", end) for end in (low, high)))


def _listed(name: str, values: Values | Range) -> Sequence[str]:
    if isinstance(values, Range):
        raise UserError(f"{name} is a range: give --random N or --search N, or a list of values")
    return values.values


def _at(values: Values | Range, u: float) -> str:
    return values.at(u) if isinstance(values, Range) else values.values[int(u * len(values.values))]
