"""A search learns from what it is told."""

import math

import pytest

from ddim.errors import UserError
from ddim.experiments.sweep import optuna_search as tuning
from ddim.experiments.sweep.search_space import parse

SPACE = parse({"optim.lr": "[1e-5..1e-1]", "schedule": "[cosine,linear]", "optim.batch": "[8..64]"})


def loss(choice):
    """Least, 0, at a learning rate of 1e-3 and a cosine schedule."""
    return abs(math.log10(float(choice["optim.lr"])) + 3) + (choice["schedule"] == "linear")


def test_a_search_comes_nearer_to_what_is_best_than_chance_does(tmp_path):
    losses = []
    for seed in range(40):
        number, choice = tuning.ask(tmp_path, SPACE, seed)
        losses.append(loss(choice))
        tuning.tell(tmp_path, number, losses[-1])
    # By chance a loss is 1 + 1/2 in the mean, and twenty of them 0.17 about that.
    assert sum(losses[20:]) / 20 < 1.5 - 3 * 0.17
    assert (tmp_path / tuning.JOURNAL).is_file()


def test_values_are_those_that_were_asked_for(tmp_path):
    for seed in range(12):
        _, choice = tuning.ask(tmp_path, SPACE, seed)
        assert 1e-5 <= float(choice["optim.lr"]) <= 1e-1
        assert choice["schedule"] in ("cosine", "linear")
        assert 8 <= int(choice["optim.batch"]) <= 64


def test_a_trial_may_be_told_twice_and_may_fail(tmp_path):
    one, _ = tuning.ask(tmp_path, SPACE, 0)
    two, _ = tuning.ask(tmp_path, SPACE, 1)
    assert one != two
    tuning.tell(tmp_path, one, 0.5)
    tuning.tell(tmp_path, one, 0.5)
    tuning.tell(tmp_path, two, None)
    assert tuning.ask(tmp_path, SPACE, 2)[0] == 2


def test_a_trial_that_failed_is_learnt_from_when_it_is_tried_again(tmp_path):
    failed, choice = tuning.ask(tmp_path, SPACE, 0)
    tuning.tell(tmp_path, failed, None)
    for value in (None, 0.5, 0.5, None):
        tuning.tell(tmp_path, failed, value)
    before, again = tuning._study(tmp_path, 0).trials
    assert (again.state.name, again.value) == ("COMPLETE", 0.5)
    assert (again.params, again.distributions) == (before.params, before.distributions)
    assert again.params["schedule"] == choice["schedule"]
    assert tuning.ask(tmp_path, SPACE, 1)[0] == 2


def test_without_optuna_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ddim\[sweep\]'"):
        tuning.check()
