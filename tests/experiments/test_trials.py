"""Lists and ranges of fields become trials with checked recipes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ddim.errors import UserError
from ddim.experiments.trials import choose_values, parse_space, plan_trials, values_text
from ddim.recipe.codec import load_recipe, override, write_recipe
from ddim.recipe.named import fast
from ddim.training.request import choose_recipe

words = st.text("abc0123456789_", min_size=1, max_size=4)
spaces = st.dictionaries(words, st.lists(words, min_size=1, max_size=4, unique=True), min_size=1, max_size=4)


@given(spaces, st.data())
def test_a_grid_has_every_combination_once_and_random_draws_are_distinct(space, data):
    parsed = parse_space({name: values_text(values) for name, values in space.items()})
    every = choose_values(parsed)
    # The last field changes fastest.
    assert [tuple(choice.values()) for choice in every] == [*product(*space.values())]
    assert all(list(choice) == list(space) for choice in every)
    count = data.draw(st.integers(1, len(every)))
    drawn = choose_values(parsed, count)
    assert drawn == choose_values(parsed, count)
    assert len({tuple(choice.items()) for choice in drawn}) == count
    assert all(choice in every for choice in drawn)


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        (["l1", "mse"], ["l1", "mse"]),
        ("[16,32], [32,64]", ["[16,32]", "[32,64]"]),
        ([(16, 32), [32, 64]], ["[16,32]", "[32,64]"]),
        ((16, 32), ["[16,32]"]),
        (np.array([0.5, 1.0]), ["0.5", "1.0"]),
        # Dots in paths are not a range.
        ("../a,../b", ["../a", "../b"]),
    ],
)
def test_values_are_given_as_text_or_from_python(values, listed):
    assert [choice["x"] for choice in choose_values(parse_space({"x": values_text(values)}))] == listed


@pytest.mark.parametrize(
    ("text", "middle"),
    [("1e-4..1e-2", 1e-3), ("-1.0..3.0", 1), ("1..15", 2.8)],
)
def test_draws_from_a_range_are_uniform_in_the_logarithm_of_positive_numbers(text, middle):
    """Half of the draws lies in each half; a whole number k stands for k - 0.5 to k + 0.5."""
    drawn = choose_values(parse_space({"x": text, "y": "a,b"}), 500)
    values = [float(choice["x"]) for choice in drawn]
    low, high = map(float, text.split(".."))
    assert all(low <= value <= high for value in values)
    assert sum(value < middle for value in values) / 500 == pytest.approx(0.5, abs=0.08)
    assert {choice["y"] for choice in drawn} == {"a", "b"}
    assert max(len(choice["x"]) for choice in drawn) <= len("-0.123456e-05")


# Recipes

FIELDS = {"objective.error": "l1,mse", "schedule": "cosine,linear"}


def plan(recipe="smoke", fields=FIELDS, **request):
    return plan_trials({"recipe": recipe, "fields": fields, **request})


def test_every_combination_has_a_trial_for_each_seed():
    trials = plan(repeats=3)
    found = [(t["objective"]["error"], t["schedule"]["kind"], t["seed"]) for t in trials.values()]
    assert found == [(e, s, k) for e in ("l1", "mse") for s in ("cosine", "linear") for k in (0, 1, 2)]
    assert list(trials)[0] == "01-l1-cosine-seed0"
    assert len(plan(random=3, repeats=2)) == 6


@pytest.mark.parametrize(
    ("recipe", "fields", "request_"),
    [
        ("smoke", FIELDS, {"images": 320, "data": "blossoms:100"}),
        ("smoke", {"seed": "3"}, {"minutes": 3.0}),
        # A named recipe follows the size of each trial, and a file does not.
        ("fast", {"data.size": "64,128,64x96", "optim.lr": "1e-3,2e-3"}, {}),
        ("fast.yaml", {"data.size": "128x64"}, {}),
        # A file of arrays keeps its size.
        ("fast", {"data.source": "big.npy", "optim.lr": "1e-3,2e-3"}, {}),
        ("fast", {"data.source": "big.npy", "data.size": "32"}, {}),
    ],
)
def test_a_trial_has_the_recipe_that_train_would_have(recipe, fields, request_, here):
    (here / "fast.yaml").write_text(write_recipe(fast()))
    np.save(here / "big.npy", np.zeros((30, 48, 40, 3), np.uint8))
    trials = plan(recipe, fields, **request_)
    choices = choose_values(parse_space(fields))
    data, budget = request_.get("data"), {n: request_[n] for n in ("images", "minutes") if n in request_}
    for trial, choice in zip(trials.values(), choices, strict=True):
        expected = choose_recipe(recipe, data, {**budget, **choice})
        source = expected.data.source.replace("big.npy", str(here / "big.npy"))
        assert load_recipe(trial) == override(expected, {"data.source": source})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fields": {"optim.lr": "1e-4..1e-2"}}, "a range needs random or search"),
        ({"fields": {"optim.lr": "1e-2..1e-4"}, "search": 3}, "the smaller end of its range first"),
        ({"fields": {"optim.lr": "1e-4..1e-2"}, "search": 0}, "search must be at least 1"),
        ({"fields": {"data.source": "blossoms,flowrs"}}, "'flowrs' is missing"),
    ],
)
def test_impossible_requests_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        plan(**given)


@pytest.mark.parametrize(
    "fields",
    [
        {"data.source": "blossoms:900,blossoms:901"},
        {"data.validation": "0.1..0.5"},
        {"pixels.std": "0.5..2.0"},
    ],
)
def test_a_search_may_not_vary_what_decides_whether_its_trials_compare(fields):
    """On other images, or in other units, an error may be smaller without a better model."""
    with pytest.raises(UserError, match="cannot compare trials that differ in"):
        plan(fields=fields, search=2)
    assert plan(fields=fields, random=2)
    # The features of an evaluation do not depend on the scaling of pixels in a training.
    if "pixels.std" in fields:
        assert plan(fields=fields, search=2, evaluate=50)
