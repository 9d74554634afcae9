"""Every example of the documentation runs, with a few tiny images and budgets of seconds."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import stubs
from cases import mark_slow
from ddim.cli import main
from ddim.recipe import named as named_recipes
from ddim.recipe.codec import override
from examples import DOCS, ROOT, Page
from hub_server import TOKEN

FAST = named_recipes.fast
SMALL = {
    "net.widths": "8,8,8,16",
    "net.down": "0,0,0,1",
    "net.up": "0,0,0,1",
    "net.embedding": 16,
    "data.size": 32,
    "data.validation": 0.4,
    "optim.batch": 8,
    "optim.warmup": 16,
    "report.events": 1,
    "report.validation_images": 8,
    "report.grid": 2,
    "steps": 3,
    "images": 32,
}
ELSEWHERE = {"install.md", "trackers.md", "changes.md", "tested.md", "export.md", "page.md", "promises.md"}
"""Pages whose examples install programs, call services or need exported files; other tests show them."""
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.glob("*.md")) if page.name not in ELSEWHERE),
    *sorted((DOCS / "howto").glob("*.md")),
    *sorted((DOCS / "notebooks").glob("*.ipynb")),
]
NEEDS = {"averages.md": {"images": 600}}
"""Least budgets: snapshots begin after 64 steps."""
QUICK = {"README.md", "index.md", "sampling.md", "network.md"}
"""The pages that run in every test run; the others take longer."""


def make_small(size=None):
    """The default recipe with a tiny network."""
    return override(FAST(), SMALL)


@pytest.fixture
def small(monkeypatch):
    """All trainings of the default recipe are tiny and not compiled; the features of metrics are averages."""
    monkeypatch.setattr(torch, "compile", lambda net: net)
    monkeypatch.setitem(named_recipes.RECIPES, "fast", make_small)
    monkeypatch.setitem(named_recipes.FOR_SIZE, "fast", make_small)
    monkeypatch.setattr(named_recipes, "fast", make_small)
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *_: stubs.stub())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with photos in two class folders, and the files that the pages name."""
    here = tmp_path / "page"
    draws = np.random.default_rng(0)
    for k in range(60):
        path = here / "photos" / ("rose", "tulip")[k % 2] / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    for name in ("rose.jpg", "lily.jpg"):
        Image.open(here / "photos" / "rose" / "000.png").save(here / name)
    np.save(here / "cells.npy", draws.integers(0, 65536, (60, 32, 32), dtype=np.uint16))
    hole = np.zeros((32, 32), np.uint8)
    hole[8:24, 8:24] = 255
    Image.fromarray(hole).save(here / "mask.png")
    monkeypatch.chdir(here)


@pytest.mark.moves_global_rng
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler uses it
@pytest.mark.parametrize(
    "page", mark_slow(PAGES, lambda page: page.name in QUICK), ids=lambda page: page.stem
)
def test_the_examples_of_a_page_run(page, place, small, request, monkeypatch):
    if page.name == "share.md":
        request.getfixturevalue("hub")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    words = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"runs/(\w+)-fast-1", words)) & {"cells"}:
        assert main(["train", f"{name}.npy", "--images", "32", "--quiet"]) == 0
    trains = re.search(
        r"^ddim train photos/ (--minutes \S+|--report.snapshots 8)?( +#.*)?$", words, re.MULTILINE
    )
    if not trains and re.search("runs/photos-fast-1|RUN", words):
        labels = ["--data.labels", "yes"] if page.name == "guidance.md" else []
        assert main(["train", "photos/", "--images", "32", "--quiet", *labels]) == 0
    ran = Page(page, **NEEDS.get(page.name, {})).run()
    plt.close("all")
    assert ran or page.name in ("index.md", "limits.md")
