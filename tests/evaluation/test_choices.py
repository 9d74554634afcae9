"""Combinations of choices of sampling, and their names."""

import pytest

import ddim
from ddim.evaluation.compare import expand_choices, name_choices


def test_every_combination_is_listed_and_the_last_choice_changes_fastest():
    found = expand_choices({"steps": [10, 20], "weights": "raw", "sampler.eta": [0.0, 0.5]})
    assert found == [
        {"steps": steps, "weights": "raw", "sampler.eta": eta} for steps in (10, 20) for eta in (0.0, 0.5)
    ]
    assert name_choices(found) == ["eta 0", "eta 0.5"] * 2


def test_a_field_is_combined_only_with_kinds_that_have_it():
    song = {"sampler": ["ddim", "ddpm"], "sampler.eta": ["0", "0.2"], "sampler.variance": "large"}
    found = expand_choices(song)
    assert found == [
        {"sampler": "ddim", "sampler.eta": "0"},
        {"sampler": "ddim", "sampler.eta": "0.2"},
        {"sampler": "ddpm", "sampler.variance": "large"},
    ]
    assert name_choices(found) == ["ddim eta 0", "ddim eta 0.2", "ddpm"]
    # A field that none of the kinds has is kept, so that the recipe refuses it.
    assert expand_choices({"sampler": "ddpm", "sampler.eta": "0"}) == [
        {"sampler": "ddpm", "sampler.eta": "0"}
    ]


@pytest.mark.parametrize(
    ("name", "given", "values"),
    [
        ("sampler.eta", "0, 0.5", ["0", "0.5"]),
        ("label", "rose (red), tulip", ["rose (red)", "tulip"]),
        ("label", "", [""]),
        ("grid.times", "1,0.5", ["1,0.5"]),
        ("grid.times", "[1,0.5],[1,0.2]", ["1,0.5", "1,0.2"]),
        ("grid.times", (1.0, 0.5), [(1.0, 0.5)]),
        ("guidance_interval", [(None, 5), (0, 1)], [(None, 5), (0, 1)]),
    ],
)
def test_choices_are_values_or_lists_of_values(name, given, values):
    assert [choice[name] for choice in expand_choices({name: given})] == values


def test_choices_may_be_values():
    found = expand_choices({"sampler": [ddim.DDIM(0.2), ddim.DDPM("large")], "steps": [5]})
    assert found == [
        {"sampler": "ddim", "sampler.eta": 0.2, "steps": 5},
        {"sampler": "ddpm", "sampler.variance": "large", "steps": 5},
    ]
