"""The lists in --help, read from the source of the registries."""

from importlib import import_module

import pytest

from ddim.cli.choices import list_kinds, read_registry


@pytest.mark.parametrize(
    "module, registry",
    [
        ("runs.named_recipes", "RECIPES"),
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
