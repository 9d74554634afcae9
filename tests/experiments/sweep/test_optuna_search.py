"""A search learns from outcomes."""

import math

import pytest

from ddim.experiments.sweep.folder import begin_sweep
from ddim.experiments.sweep.outcome import Outcome
from ddim.experiments.sweep.plan import SweepRequest
from ddim.experiments.sweep.search_space import parse_space
from ddim.experiments.sweep.trial_queue import TrialQueue

FIELDS = {"optim.lr": "[1e-5..1e-1]", "objective.error": "[l1,mse]", "optim.batch": "[8..64]"}
SPACE = parse_space(FIELDS)


def loss(choice):
    """The least is 0, at a learning rate of 1e-3 and the L1 error."""
    return abs(math.log10(float(choice["optim.lr"])) + 3) + (choice["objective.error"] == "mse")


@pytest.fixture
def search(request, tmp_path):
    """The queue of a search with twelve trials, or as many as the test says."""
    request = SweepRequest(recipe="smoke", fields=FIELDS, search=getattr(request, "param", 12))
    queue = TrialQueue(begin_sweep(request, tmp_path / "sweep"))
    queue.refill()
    return queue


@pytest.mark.slow
@pytest.mark.parametrize("search", [40], indirect=True)
def test_a_search_comes_nearer_to_the_best_values_than_chance(search):
    losses = []
    for _ in range(40):
        taken = search.take()
        losses.append(loss(search.propose(taken, SPACE)))
        search.finish(taken, Outcome(0, 1.0, "", losses[-1]))
    assert search.take() is None
    # By chance the mean loss is 1 + 1/2, with a deviation of 0.17 over twenty trials.
    assert sum(losses[20:]) / 20 < 1.5 - 3 * 0.17


def test_proposed_values_lie_in_the_space(search):
    for _ in range(12):
        choice = search.propose(search.take(), SPACE)
        assert 1e-5 <= float(choice["optim.lr"]) <= 1e-1
        assert choice["objective.error"] in ("l1", "mse")
        assert 8 <= int(choice["optim.batch"]) <= 64


def test_a_trial_keeps_its_values_when_another_worker_resumes_it(search):
    taken = search.take()
    choice = search.propose(taken, SPACE)
    assert search.propose(taken, SPACE) == choice
    search.free(taken)
    found = {}
    while again := search.take():
        found.setdefault(again.trial.name, []).append(search.propose(again, SPACE))
    assert len(found) == 12
    assert found[taken.trial.name] == [choice]


def test_a_search_learns_from_a_trial_that_failed_and_was_run_again(search):
    taken = search.take()
    choice = search.propose(taken, SPACE)
    file = search.sweep.outcome_file(taken.trial)
    file.parent.mkdir()
    for outcome in (Outcome(1, 1.0, "failed"), Outcome(0, 1.0, "", 0.5)):
        outcome.write(file)
        search.finish(taken, outcome)
        search.finish(taken, outcome)
        search.refill()
        if outcome.failed:
            file.unlink()
            search.refill()
            held = [search.take() for _ in range(12)]
            taken = held[-1]
            assert search.propose(taken, SPACE) == choice
    found = [trial for trial in search.study.trials if trial.user_attrs["name"] == taken.trial.name]
    assert [(trial.state.name, trial.value) for trial in found] == [("FAIL", None), ("COMPLETE", 0.5)]
    assert found[0].params == found[1].params
