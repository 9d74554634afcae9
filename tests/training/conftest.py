"""Runs that the tests of training share."""

import pytest

import tiny


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An undisturbed run of `tiny.recipe()`; no test changes it."""
    return tiny.train(tiny.recipe(), tmp_path_factory.mktemp("whole") / "run")
