"""Validations: errors by level of noise, KID, and which errors choose the best checkpoint."""

import numpy as np
import pytest
import torch

import tiny
from ddim.metrics.kid import kid
from ddim.runs import names
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training import resume
from ddim.training.run import open_split
from ddim.training.validation import mean_by_level
from stubs import stub

KID = {"data__source": "blossoms:60", "data__size": 16, "data__validation": "0.5", "report__kid": "32"}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("ddim.training.validation.load_extractor", stub)


def values(folder, name):
    return {line["step"]: line[name] for line in tiny.metrics(folder) if name in line}


def best_step(folder):
    return int(names.find_checkpoint(folder / "best").name[5:])


def test_means_by_log_snr_use_the_values_in_each_bin():
    log_snr = torch.tensor([-3.9, -2.1, -2.0, 0.5])
    found = mean_by_level(log_snr, {"a": torch.tensor([1.0, 3.0, 5.0, 7.0])})
    assert found == {"a/log_snr_-4": 2.0, "a/log_snr_-2": 5.0, "a/log_snr_0": 7.0}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        # The last 4 of 10 updates are the finish.
        ({"objective__finish": "0.4", "objective__finish_after": "0"}, 7),
        # Of 74 images in batches of 8, the tenth update begins after 72.
        ({"objective__finish": "0.5", "objective__finish_after": "72", "images": "74"}, 10),
    ],
)
def test_only_errors_in_the_finish_choose_the_best_checkpoint(changes, first, tmp_path):
    """A rate this high lets the error rise before it."""
    folder = tiny.train(tiny.recipe(**changes, **tiny.DIVERGING, data__size=16), tmp_path / "run")
    errors = values(folder, "image_mae")
    assert list(errors) == list(range(1, 11))
    finish = {step: error for step, error in errors.items() if step >= first}
    assert min(errors, key=errors.get) < first, "the test must tell one from the other"
    assert best_step(folder) == min(finish, key=finish.get)


def test_the_newest_checkpoint_of_a_student_is_its_best(tmp_path):
    """It learns to predict samples in place of their mean, which raises the error."""
    recipe = tiny.recipe(objective="consistency", schedule="cosine", data__size=16, **tiny.DIVERGING)
    folder = tiny.train(recipe, tmp_path / "run")
    errors = values(folder, "image_mae")
    assert min(errors, key=errors.get) < best_step(folder) == max(errors)


@pytest.mark.parametrize("labels", ["no", "clusters:3"])
def test_each_validation_logs_the_kid_of_the_ema_weights(labels, quick, tmp_path):
    """With classes, it is measured on samples with the frequencies of training."""
    folder = tiny.train(tiny.recipe(**KID, data__labels=labels), tmp_path / "run")
    logged = [values(folder, name) for name in ("kid", "kid_low", "kid_high")]
    assert list(logged[0]) == [5, 10]
    trained = load(folder)
    images, _ = generate(SamplingSetup(trained, 2, None if labels == "no" else "natural"), range(32))
    split = open_split(trained.recipe)
    real = torch.from_numpy(np.array(split.images.pixels[split.validation])).permute(0, 3, 1, 2)
    found = kid(stub()((images * 255).round().byte()).numpy(), stub()(real).numpy())
    assert [each[10] for each in logged] == pytest.approx([found.value, found.low, found.high], abs=1e-7)


def test_the_best_checkpoint_by_kid_is_kept_and_a_resumed_run_logs_and_keeps_the_same(quick, tmp_path):
    recipe = tiny.recipe(**KID, **tiny.DIVERGING, report__best="kid")
    whole = tiny.train(recipe, tmp_path / "whole")
    found, errors = values(whole, "kid"), values(whole, "image_mae")
    assert best_step(whole) == min(found, key=found.get)
    assert best_step(whole) != min(errors, key=errors.get), "the test must tell one from the other"
    folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.CrashAtSave(3))
    resume(folder)
    tiny.check_same_run(folder, whole)
    assert best_step(folder) == best_step(whole)
