"""Recipes whose fields contradict each other begin nothing; all others do, and what is stored is read."""

import re

import pytest

from ddim.codec import dump, load, override
from ddim.contradictions import check
from ddim.errors import UserError
from ddim.recipes import RECIPES, find
from ddim.sweeps import Asked, plan


def changed(name, **changes):
    """A recipe with fields by path, dots written as double underscores."""
    return override(find(name), {field.replace("__", "."): value for field, value in changes.items()})


def test_no_recipe_contradicts_itself():
    for name in RECIPES:
        check(find(name))


TABLE = "schedule.entries, conditioning.entries, objective.times.entries and grid.entries"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "iddpm",
            {"schedule__entries": 1000},
            f"{TABLE} must be one number, .* got 1000, 4000, 4000 and 4000",
        ),
        ("iddpm", {"objective__times__entries": 1000}, f"{TABLE} .* got 4000, 4000, 1000 and 4000"),
        ("iddpm", {"objective__times": "loss_aware", "objective__times__entries": 400}, f"{TABLE} must be"),
        ("ddpm", {"conditioning__entries": 100}, f"{TABLE} must be one number, .* got 1000, 100, 1000 and"),
        ("ddpm", {"grid__entries": 500}, f"{TABLE} must be one number"),
        ("ddpm", {"grid": "sections", "grid__entries": 500}, f"{TABLE} must be one number"),
        # What a recipe does not have is not asked for.
        (
            "fast",
            {"schedule": "linear", "grid": "spaced", "grid__entries": 9},
            "^schedule.entries and grid.ent",
        ),
        (
            "ddpm",
            {"sampled_on": "linear", "sampled_on__entries": 500},
            "^sampled_on.entries and grid.entries",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_named_before_anything_begins(name, changes, said):
    with pytest.raises(UserError, match=said) as error:
        check(changed(name, **changes))
    assert "\n" not in str(error.value)
    # A run that was made so is read as it was made.
    assert load(dump(changed(name, **changes))) == changed(name, **changes)


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_what_the_sentence_says_of_a_table_makes_it_whole(name):
    with pytest.raises(UserError) as error:
        check(changed(name, schedule__entries=500))
    options = re.findall(r"--(\S+) N", str(error.value))
    check(override(find(name), dict.fromkeys(options, "500")))


def test_entries_are_times_like_any_others_where_there_is_no_table():
    check(changed("iddpm", schedule="linear_beta", objective__times__entries=100, conditioning__entries=50))
    check(changed("ddpm", grid__entries=50, sampled_on="linear", sampled_on__entries=50))
    check(changed("ddpm", grid__entries=50, sampled_on="linear_beta"))


def test_a_sweep_of_contradictions_is_refused_as_one_run_of_them_is():
    fields = {"schedule.entries": "[1000,500]"}
    with pytest.raises(
        UserError,
        match="^schedule.entries=500: schedule.entries, .* got 500, 1000, 1000 and 1000: set them together",
    ):
        plan(Asked(recipe="ddpm", fields=fields))
