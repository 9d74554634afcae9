"""Lists and ranges of fields become combinations."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim.errors import UserError
from ddim.experiments.sweep.search_space import (
    Range,
    draw_combinations,
    list_combinations,
    list_corners,
    parse_space,
)

words = st.text("abc0123456789_", min_size=1, max_size=4)
spaces = st.dictionaries(words, st.lists(words, min_size=1, max_size=4, unique=True), min_size=1, max_size=4)


def parse_lists(space):
    return parse_space({name: f"[{','.join(values)}]" for name, values in space.items()})


@given(spaces)
def test_a_grid_holds_every_combination_once(space):
    found = list_combinations(parse_lists(space))
    assert len(found) == math.prod(map(len, space.values()))
    assert len({tuple(choice.items()) for choice in found}) == len(found)
    for choice in found:
        assert list(choice) == list(space)
        assert all(choice[name] in values for name, values in space.items())


def test_the_last_field_changes_fastest():
    found = list_combinations(parse_space({"objective.error": "[l1,mse]", "schedule": "[cosine,linear]"}))
    assert [tuple(choice.values()) for choice in found] == [*product(("l1", "mse"), ("cosine", "linear"))]


def test_one_value_is_a_list_of_one_and_values_may_be_lists():
    found = list_combinations(parse_space({"optim.batch": "32", "net.widths": "[[16,32], [32,64]]"}))
    assert found == [
        {"optim.batch": "32", "net.widths": "[16,32]"},
        {"optim.batch": "32", "net.widths": "[32,64]"},
    ]


@pytest.mark.parametrize("text", ["[../a,../b]", "[photos,old..new]", "[a/../b]", r"[..\a]"])
def test_dots_in_paths_are_not_a_range(text):
    found = list_combinations(parse_space({"data.source": text}))
    assert found == [{"data.source": one} for one in text[1:-1].split(",")]


@given(spaces, st.data())
def test_random_draws_from_lists_are_distinct_and_depend_on_the_seed_alone(space, data):
    every = list_combinations(parse_lists(space))
    count = data.draw(st.integers(1, len(every)))
    found = draw_combinations(parse_lists(space), count, 3)
    assert found == draw_combinations(parse_lists(space), count, 3)
    assert len({tuple(choice.items()) for choice in found}) == count
    assert all(choice in every for choice in found)


def test_a_positive_range_is_uniform_in_its_logarithm():
    """A third of the draws from [1e-4..1e-1] lies in each decade."""
    found = draw_combinations(parse_space({"lr": "[1e-4..1e-1]"}), 3000, 0)
    values = [float(choice["lr"]) for choice in found]
    assert min(values) >= 1e-4
    assert max(values) <= 1e-1
    for low in (1e-4, 1e-3, 1e-2):
        share = sum(low <= value < 10 * low for value in values) / 3000
        assert share == pytest.approx(1 / 3, abs=0.04)


def test_a_range_with_zero_inside_is_uniform():
    values = [float(choice["x"]) for choice in draw_combinations(parse_space({"x": "[-1.0..3.0]"}), 3000, 0)]
    assert sum(values) / 3000 == pytest.approx(1, abs=0.1)
    assert sum(value < 0 for value in values) / 3000 == pytest.approx(1 / 4, abs=0.04)


def test_a_range_of_whole_numbers_gives_whole_numbers_and_both_ends():
    values = [choice["batch"] for choice in draw_combinations(parse_space({"batch": "[1..4]"}), 400, 0)]
    assert set(values) == {"1", "2", "3", "4"}
    found = draw_combinations(parse_space({"x": "[0..2]"}), 300, 0)
    assert {choice["x"] for choice in found} == {"0", "1", "2"}


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e3), st.floats(0, 1, exclude_max=True))
def test_values_of_a_range_lie_between_its_ends(low, ratio, u):
    # Values are written with six digits.
    assert low * (1 - 1e-5) <= float(Range(low, low * ratio, False).at(u)) <= low * ratio * (1 + 1e-5)


def test_ranges_and_lists_are_drawn_together():
    found = draw_combinations(parse_space({"lr": "[1e-4..1e-2]", "schedule": "[cosine,linear]"}), 50, 0)
    assert {choice["schedule"] for choice in found} == {"cosine", "linear"}
    assert len({choice["lr"] for choice in found}) == 50


def test_corners_are_an_inner_point_then_every_end_with_every_value():
    within, *ends = list_corners(parse_space({"lr": "[1e-4..1e-2]", "error": "[l1,mse]"}))
    assert 1e-4 < float(within["lr"]) < 1e-2
    assert [(end["lr"], end["error"]) for end in ends] == [*product(("0.0001", "0.01"), ("l1", "mse"))]


def test_corners_of_a_whole_range_are_its_ends():
    """Whole numbers often must be multiples, such as of eight between 8 and 64."""
    assert {choice["width"] for choice in list_corners(parse_space({"width": "[8..64]"}))} == {"8", "64"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("[l1,]", "must list different, non-empty values"),
        ("[[1,2],[3]", "brackets that do not match"),
        ("[1..]", "must be a range such as"),
        ("[1e-2..1e-4]", "the smaller end first"),
    ],
)
def test_malformed_lists_and_ranges_are_refused(text, said):
    with pytest.raises(UserError, match=said) as error:
        parse_space({"objective.error": text})
    assert "objective.error" in str(error.value)
