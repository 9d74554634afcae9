"""A folder with one tiny run, and an application that shows it."""

import shutil

import pytest
from fastapi.testclient import TestClient

import tiny
from ddim.web.application import build_application
from ddim.web.settings import Settings


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder of runs with one finished run; copy it to change it."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    tiny.train(tiny.BASE, folder / "photos-tiny-1")
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of the folder of runs."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def client(runs):
    """A client of a server of this folder."""
    with TestClient(build_application(Settings(runs)), base_url="http://127.0.0.1:8000") as found:
        yield found
