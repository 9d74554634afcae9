"""The lists in --help, read from the source of the registries."""

from dataclasses import fields
from importlib import import_module

import pytest

from ddim.cli.choices import list_kind_fields, list_kinds, read_registry
from ddim.diffusion.schedules import SCHEDULES


@pytest.mark.parametrize(
    "module, registry",
    [
        ("recipe.named", "RECIPES"),
        ("diffusion.samplers", "SAMPLERS"),
        ("diffusion.grids", "GRIDS"),
        ("diffusion.schedules", "SCHEDULES"),
    ],
)
def test_a_registry_is_read_as_it_is_imported(module, registry):
    read = read_registry(module, registry)
    imported = getattr(import_module(f"ddim.{module}"), registry)
    assert read.keys() == imported.keys()
    for name, text in read.items():
        assert text
        assert f"{text}." in f"{imported[name].__doc__}."
        assert f"  {name} " in list_kinds(module, registry)


def test_the_fields_of_kinds_are_read_as_they_are_imported():
    lines = list_kind_fields("diffusion.schedules", "SCHEDULES").splitlines()
    read = {name: rest.split(", ") for name, rest in (line.split(maxsplit=1) for line in lines)}
    assert read == {name: [f.name for f in fields(kind)] for name, kind in SCHEDULES.items()}
