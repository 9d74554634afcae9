"""Names of runs, their checkpoints and their weights."""

import pytest

import crash
from ddim.errors import UserError
from ddim.runs.names import find_checkpoint, find_run_folder, is_run_folder, parse_place, pin_place


@pytest.fixture
def run(here):
    """The run small-1 in the working folder: checkpoints 10, the best, 20 and 30."""
    for step in (10, 20, 30):
        crash.put(here / "small-1" / "checkpoints", step, best=step == 10)
    return here / "small-1"


@pytest.mark.parametrize(
    ("name", "step", "weights"),
    [
        ("small-1", 30, "ema"),
        ("small-1@raw", 30, "raw"),
        ("small-1/best", 10, "ema"),
        ("small-1@best", 10, "ema"),
        ("small-1@best@raw", 10, "raw"),
        ("small-1@guide", 30, "guide"),
        ("small-1@20", 20, "ema"),
        ("small-1/checkpoints/step-000000020", 20, "ema"),
        ("@guide", 30, "guide"),
        ("@raw", 30, "raw"),
    ],
)
def test_a_name_means_a_run_a_checkpoint_and_weights(name, step, weights, run):
    path, named = parse_place(name, within=run)
    assert find_run_folder(path).resolve() == run
    assert crash.label(find_checkpoint(path)) == (step, 0)
    assert named == weights


def test_a_checkpoint_outside_a_run_is_a_run_of_its_own(run, tmp_path):
    alone = (run / "checkpoints" / "step-000000020").rename(tmp_path / "alone")
    path, weights = parse_place("alone@raw")
    assert find_run_folder(path) == find_checkpoint(path) == alone.relative_to(tmp_path)
    assert weights == "raw"


def test_a_name_that_means_nothing_is_explained(run, tmp_path):
    (run / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    for name, word in (("empty", "undamaged"), ("begun/best", "no best")):
        with pytest.raises(UserError, match=f"{word} checkpoint"):
            find_checkpoint(parse_place(name)[0])
    with pytest.raises(UserError, match="does not exist; perhaps you meant .*small-1"):
        find_checkpoint("small-2")


def test_a_folder_named_checkpoints_makes_no_run(run, tmp_path):
    (tmp_path / "photos" / "checkpoints").mkdir(parents=True)
    assert not is_run_folder(tmp_path / "photos")
    assert all(map(is_run_folder, (run, run / "best")))


def test_a_pinned_name_means_the_same_in_every_folder(run):
    assert [pin_place("small-1@raw"), pin_place("@guide")] == [f"{run}@raw", "@guide"]


def test_a_path_may_begin_with_the_home_folder(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    assert find_checkpoint("~/small-1").parents[1] == run
    assert parse_place("~/small-1@raw") == (run, "raw")
