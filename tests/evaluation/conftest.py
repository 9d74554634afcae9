"""A finished run and an empty cache for the tests of evaluations."""

import shutil
from pathlib import Path

import pytest

import tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run with 30 images held out."""
    recipe = tiny.recipe(data__source="blossoms:60", data__size=16, data__validation="0.5", optim__warmup=0)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, to which tests may write."""
    return Path(shutil.copytree(trained, tmp_path / "one"))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
