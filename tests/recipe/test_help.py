"""The sentences of `ddim recipe`."""

from dataclasses import fields

import pytest

from ddim.recipe.help import explain_fields, explain_kinds, read_field_help
from ddim.recipe.recipe import FAMILIES, Data, Optim, Recipe, Report

KINDS = [Recipe, Data, Optim, Report, *(kind for family in FAMILIES.values() for kind in family.values())]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_docstring_of_every_kind_explains_each_field_in_a_whole_sentence(kind):
    help_of = read_field_help(kind)
    assert [field.name for field in fields(kind) if not help_of.get(field.name)] == []
    for sentence in help_of.values():
        assert sentence.count("(") == sentence.count(")"), sentence


def test_a_row_has_the_value_as_an_option_takes_it():
    rows = {path: (value, possible, text) for path, value, possible, text in explain_fields(Recipe())}
    assert rows["data.flip"][:2] == ("true", "true or false")
    assert rows["sampler"][0] == "dpm_solver"
    assert rows["optim.batch"] == ("32", "a whole number", "images per update")


def test_the_kinds_of_a_field_have_fields_of_their_own():
    kinds = {name: rows for name, _, rows in explain_kinds("sampler")}
    assert list(kinds)[0] == "dpm_solver"
    assert [row[:2] for row in kinds["ddpm"]] == [("sampler.variance", "small")]
    assert {name for name, _, _ in explain_kinds("objective.times")} >= {"uniform_times", "table_times"}
    assert list(explain_kinds("optim.lr")) == list(explain_kinds("fast")) == []
