"""Runs that the tests of training share."""

import pytest

import tiny


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An undisturbed run of `tiny.recipe()`; no test changes it."""
    return tiny.train(tiny.recipe(), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def photos_run(here, monkeypatch):
    """The run runs/one on 32 images in photos/, which its recipe names relative to the working folder."""
    monkeypatch.setenv("DDIM_CACHE", str(here / "cache"))
    tiny.write_grays(here / "photos", range(0, 256, 8))
    return tiny.train(tiny.recipe(images=8, data__size=8), here / "runs" / "one", "photos")
