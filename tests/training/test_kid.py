"""KID while training: what it is of, that it keeps the best, that a resume is the same bits."""

import numpy as np
import pytest
import torch

import tiny
from ddim.errors import UserError
from ddim.metrics.kid import kid
from ddim.runs import checkpoint
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training import resume
from ddim.training.start import open_split
from stubs import stub

CHANGES = {"data__source": "blossoms:60", "data__validation": "0.5", "report__kid": "32"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("ddim.training.validation.load_extractor", stub)


def values(folder, name):
    return {line["step"]: line[name] for line in tiny.metrics(folder) if name in line}


def test_each_validation_logs_the_kid_of_the_ema_weights(tmp_path):
    folder = tiny.train(tiny.recipe(**CHANGES), tmp_path / "run")
    found, low, high = (values(folder, name) for name in ("kid", "kid_low", "kid_high"))
    assert list(found) == [5, 10]
    trained = load(folder)
    images, _ = generate(SamplingSetup(trained, 2), range(32))
    pixels = (images * 255).round().byte()
    parts = tiny_split(trained)
    whole = kid(stub()(pixels).numpy(), stub()(parts).numpy())
    assert found[10] == pytest.approx(whole.value, abs=1e-7)
    assert (low[10], high[10]) == pytest.approx((whole.low, whole.high), abs=1e-7)


def tiny_split(trained):
    """(N, C, H, W) uint8 of the validation images of a run."""
    parts = open_split(trained.recipe)
    return torch.from_numpy(np.array(parts.images.pixels[parts.validation])).permute(0, 3, 1, 2)


def test_the_best_checkpoint_by_kid_is_kept_if_the_recipe_says_so(tmp_path):
    recipe = tiny.recipe(**CHANGES, **tiny.DIVERGING, report__best="kid")
    folder = tiny.train(recipe, tmp_path / "run")
    found, errors = values(folder, "kid"), values(folder, "image_mae")
    least = min(found, key=found.get)
    assert checkpoint.find_best(folder / "checkpoints").name == f"step-{least:09d}"
    assert least != min(errors, key=errors.get), "the test must tell one from the other"


@pytest.mark.parametrize("saves", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_resumed_run_logs_the_same_kid_and_keeps_the_same_best(saves, tmp_path):
    recipe = tiny.recipe(**CHANGES, **tiny.DIVERGING, report__best="kid")
    whole = tiny.train(recipe, tmp_path / "whole")
    tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(saves))
    resume(tmp_path / "run")
    tiny.check_same_run(tmp_path / "run", whole)
    best = [checkpoint.find_best(folder / "checkpoints").name for folder in (whole, tmp_path / "run")]
    assert best[0] == best[1]
    state = checkpoint.read_document(checkpoint.find_newest(tmp_path / "run" / "checkpoints"), "state")
    assert state["best"] == min(values(whole, "kid").values())


def test_the_features_of_the_reference_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    seen = []
    monkeypatch.setattr("ddim.training.validation.load_extractor", lambda: stub(seen))
    tiny.train(tiny.recipe(**CHANGES), tmp_path / "one")
    assert sum(seen) == 30 + 2 * 32
    tiny.train(tiny.recipe(**CHANGES), tmp_path / "two")
    assert sum(seen) == 30 + 4 * 32


def test_impossible_kid_is_refused_before_there_is_a_folder(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="at least 20 validation images, got 8: raise data.validation"):
        tiny.train(tiny.recipe(report__kid="20"), tmp_path / "run")

    def find():
        raise UserError('the features need a package: pip install "ddim[metrics]"')

    monkeypatch.setattr("ddim.training.validation.load_extractor", find)
    with pytest.raises(UserError, match="pip install"):
        tiny.train(tiny.recipe(**CHANGES), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"report__kid": "5"}, "report.kid must be 0 or at least 20 samples, got 5"),
        ({"report__kid": "-1"}, "report.kid must be 0 or at least 20 samples, got -1"),
        ({"report__best": "kid"}, "report.kid must be at least"),
        ({"report__best": "fid"}, "report.best"),
    ],
)
def test_recipes_with_impossible_kid_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny.recipe(**changes)
