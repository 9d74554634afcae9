"""A folder with tiny runs, and one server that shows them to all tests that change no run."""

import shutil

import numpy as np
import pytest

import tiny
from browsing import WIDTHS, open_browser, open_page
from deep_files import noise16
from serving import open_client, running_server

RUN = "photos-tiny-1"


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of a file: while it is open, other tests cannot call asyncio.run."""
    with open_browser() as found:
        yield found


@pytest.fixture
def visit(browser, served):
    """Open the page of the served runs; see `open_page`."""
    return lambda width, **options: open_page(browser, served.address, width, **options)


@pytest.fixture(params=WIDTHS)
def width(request):
    """The width of the window in pixels."""
    return request.param


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder of runs with one finished run; copy it to change it."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    tiny.train(tiny.BASE, folder / RUN)
    return folder


@pytest.fixture(scope="session")
def vector_run(trained):
    """The id of a run in the same folder: gray images, conditioned on two numbers."""
    grays = np.random.default_rng(5).integers(40, 221, 24)
    source = trained.parent / "grays.npy"
    np.save(source, np.broadcast_to(grays.astype(np.uint8)[:, None, None, None], (24, 16, 16, 1)))
    vectors = source.with_suffix(".csv")
    vectors.write_text("\n".join(["level,other", *(f"{gray},{gray % 7}" for gray in grays)]))
    recipe = tiny.recipe(data__size=16, data__vectors=str(vectors), report__guide=0.5)
    tiny.train(recipe, trained / "vectors-1", str(source), progress=False)
    return "vectors-1"


@pytest.fixture(scope="session")
def deep_run(trained):
    """The id of a run in the same folder: images of 8 channels of 16 bits."""
    source = trained.parent / "cells.npy"
    np.save(source, noise16(20, 4, 4, 8).repeat(4, 1).repeat(4, 2))
    tiny.train(tiny.recipe(data__size=16), trained / "cells-1", str(source), progress=False)
    return "cells-1"


@pytest.fixture(scope="session")
def weaker_run(trained):
    """The id of a run in the same folder that can guide the first one: an earlier checkpoint."""
    shutil.copytree(trained / RUN, trained / "weaker", ignore=shutil.ignore_patterns("step-000000010"))
    return "weaker"


@pytest.fixture(scope="session")
def client(trained, vector_run, deep_run, weaker_run):
    """A client of one server of this folder, whose worker starts once for all tests.

    All runs are there before it starts, because a server looks for new ones once a second.
    """
    with open_client(trained) as found:
        yield found


@pytest.fixture(scope="session")
def server(trained, vector_run):
    """A server of this folder and of the images beside it, in a process of its own."""
    with running_server(trained, "--data", trained.parent) as found:
        yield found


@pytest.fixture
def runs(trained, tmp_path):
    """A folder with a copy of the first run, for tests that change it."""
    shutil.copytree(trained / RUN, tmp_path / "runs" / RUN)
    return tmp_path / "runs"


@pytest.fixture
def copy_client(runs):
    """A client of a server of this copy."""
    with open_client(runs) as found:
        yield found
