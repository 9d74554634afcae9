"""The lists of values that `ddim evaluate` takes, and the table that it then prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddim.cli.guidance import parse_interval
from ddim.cli.tables import format_table
from ddim.errors import UserError
from ddim.experiments.space import split_values

if TYPE_CHECKING:
    from ddim.evaluation.table import EvaluationTable

_NUMBERS: dict[str, type] = {"steps": int, "guidance": float}
_LISTS = ("grid.times", "grid.shares", "guidance_interval")
"""Fields that hold a list of numbers: "1,0.5" is one choice, and "[1,0.5],[1,0.2]" are two choices."""


def parse_choices(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of options such as --steps 10,20: a value or a list of values, keyed by name.

    Raises:
        UserError: if a number or an interval cannot be read, or brackets do not match.
    """
    return {name: _parse(name, text) for name, text in given.items()}


def _parse(name: str, text: str) -> Any:  # noqa: ANN401 (a value, or a list of them)
    words = split_values(text)
    if name in _LISTS:
        words = [word[1:-1] for word in words] if text.startswith("[") else [text]
    if name == "guidance_interval":
        intervals = [parse_interval(word) for word in words]
        return intervals if len(intervals) > 1 else intervals[0]
    number = _NUMBERS.get(name, str)
    try:
        values = [number(word) for word in words]
    except ValueError:
        kind = "whole numbers, such as 20 or 10,20,50" if number is int else "numbers, such as 2 or 1,1.5,2"
        raise UserError(f"--{name} must be one or more {kind}, got {text!r}") from None
    return values if len(values) > 1 else values[0]


def format_choices_table(table: EvaluationTable) -> str:
    """Return a table of evaluations as text: values, differences from the first row, and notes."""
    from ddim.evaluation.table import EXPLAINED, format_measured

    heads = ["", *table.columns]
    text = f"{table.title}\n± is the half-width of the 95 % interval; * marks the best value of a column\n\n"
    text += format_table(heads, table.value_rows(), numbers=1)
    if table.yardstick:
        text += f"\nreal images in place of samples: {format_measured(table.yardstick)}\n"
    if differences := table.difference_rows():
        text += f"\nminus {table.rows[0]}: {EXPLAINED[0].lower()}{EXPLAINED[1:]}\n\n"
        text += format_table(heads, differences, numbers=1)
    return text + "".join(f"\nnote: {note}" for note in table.notes) + "\n" * bool(table.notes)
