"""Means of errors by level of noise, and which errors choose the best checkpoint."""

import pytest
import torch

import tiny
from ddim.runs import checkpoint
from ddim.training import resume
from ddim.training.validation import mean_by_level


def test_means_by_log_snr_use_the_values_in_each_bin():
    log_snr = torch.tensor([-3.9, -2.1, -2.0, 0.5])
    found = mean_by_level(log_snr, {"a": torch.tensor([1.0, 3.0, 5.0, 7.0])})
    values = {name: value for name, value in found.items() if name.startswith("a/")}
    assert values == {"a/log_snr_-4": 2.0, "a/log_snr_-2": 5.0, "a/log_snr_0": 7.0}
    # Of 1 and 3 the deviation is the root of 2, and of their mean 1. One value tells nothing of its own.
    # Student's table has 12.706 for one degree of freedom.
    ends = {"a_low/log_snr_-4": 2 - 12.706, "a_high/log_snr_-4": 2 + 12.706}
    assert {name: found[name] for name in found if name not in values} == pytest.approx(ends, rel=1e-4)


def test_only_errors_in_the_finish_choose_the_best_checkpoint(tmp_path):
    """The last 4 of 10 updates are the finish. A rate this high lets the error rise before it."""
    folder = tiny.train(
        tiny.recipe(objective__finish="0.4", objective__finish_after="0", **tiny.DIVERGING), tmp_path / "run"
    )
    errors = {line["step"]: line["image_mae"] for line in tiny.metrics(folder) if "image_mae" in line}
    assert list(errors) == list(range(1, 11))
    finish = {step: error for step, error in errors.items() if step > 6}
    least = min(finish, key=finish.get)
    assert least != min(errors, key=errors.get), "the test must tell one from the other"
    assert checkpoint.find_best(folder / "checkpoints").name == f"step-{least:09d}"


def test_the_last_update_may_be_the_whole_finish(tmp_path):
    """Of 74 images in batches of 8, the tenth update begins after 72."""
    changes = {"objective__finish": "0.5", "objective__finish_after": "72", "images": "74"}
    folder = tiny.train(tiny.recipe(**changes, **tiny.DIVERGING), tmp_path / "run")
    assert checkpoint.find_best(folder / "checkpoints").name == "step-000000010"


def test_a_run_too_short_for_the_finish_forgets_its_best_error_if_a_raised_budget_has_one(tmp_path):
    """At a rate this high the error rises, so that the lowest error is one of the first."""
    changes = {"objective__finish": "0.5", "objective__finish_after": str(tiny.BASE.images)}
    recipe = tiny.recipe(**changes, **tiny.DIVERGING)
    folder = tiny.train(recipe, tmp_path / "run")
    errors = {line["step"]: line["image_mae"] for line in tiny.metrics(folder) if "image_mae" in line}
    least = min(errors, key=errors.get)
    assert least <= 5, "the test must tell one from the other"
    assert checkpoint.find_best(folder / "checkpoints").name == f"step-{least:09d}"
    resume(folder, images=2 * recipe.images)
    later = {line["step"]: line["image_mae"] for line in tiny.metrics(folder) if "image_mae" in line}
    finish = {step: error for step, error in later.items() if step > 10}
    assert min(finish.values()) > errors[least], "the test must tell one from the other"
    least = min(finish, key=finish.get)
    assert checkpoint.find_best(folder / "checkpoints").name == f"step-{least:09d}"
