"""The plan of a sweep, and who may join it."""

import json

import numpy as np
import pytest

from ddim.data.blossoms.source import Blossoms
from ddim.data.remote import NAMED
from ddim.errors import UserError
from ddim.experiments.sweep import folder as sweep_folder
from ddim.experiments.sweep.folder import begin_sweep, read_sweep, write_trial_recipe
from ddim.experiments.sweep.outcome import Outcome, read_outcome
from ddim.experiments.sweep.plan import SweepRequest, plan_trials
from ddim.files import read_sealed, write_sealed
from ddim.recipe.codec import load_recipe, override, write_recipe
from ddim.recipe.named import fast, smoke
from ddim.training.request import choose_recipe
from race import race

FIELDS = {"objective.error": "[l1,mse]", "schedule": "[cosine,linear]"}


def request(**given):
    return SweepRequest(**{"recipe": "smoke", "fields": FIELDS, **given})


def test_every_combination_has_a_trial_for_each_seed():
    trials = plan_trials(request(repeats=3))
    assert len(trials) == len({trial.name for trial in trials}) == 12
    found = {(t["objective"]["error"], t["schedule"]["kind"], t["seed"]) for t in (t.recipe for t in trials)}
    assert found == {(e, s, k) for e in ("l1", "mse") for s in ("cosine", "linear") for k in (0, 1, 2)}
    assert trials[0].name == "01-l1-cosine-seed0"


def test_a_trial_has_the_recipe_that_train_would_have_with_its_values():
    for trial in plan_trials(request(images="320", data="blossoms:100")):
        changes = {**trial.fields, "images": "320", "data.source": "blossoms:100"}
        assert load_recipe(trial.recipe) == override(smoke(), changes)


@pytest.mark.parametrize("sizes", [["64", "128", "64x96"], ["128"]])
def test_a_named_recipe_follows_the_size_of_each_trial(sizes):
    fields = {"data.size": f"[{','.join(sizes)}]", "optim.lr": "[1e-3,2e-3]"}
    trials = plan_trials(request(recipe="fast", fields=fields))
    assert len(trials) == 2 * len(sizes)
    for trial in trials:
        train = choose_recipe("fast", None, trial.fields)
        assert load_recipe(trial.recipe) == train


def test_a_recipe_file_does_not_follow_the_size(tmp_path):
    (tmp_path / "own.yaml").write_text(write_recipe(fast()))
    (trial,) = plan_trials(request(recipe=str(tmp_path / "own.yaml"), fields={"data.size": "128x64"}))
    assert load_recipe(trial.recipe) == override(fast(), {"data.size": "128x64"})


@pytest.mark.parametrize("recipe", ["fast"])
def test_a_file_of_arrays_keeps_its_size(recipe, tmp_path):
    np.save(tmp_path / "big.npy", np.zeros((30, 48, 40, 3), np.uint8))
    fields = {"data.source": str(tmp_path / "big.npy"), "optim.lr": "[1e-3,2e-3]"}
    for trial in plan_trials(request(recipe=recipe, fields=fields)):
        assert load_recipe(trial.recipe) == choose_recipe(recipe, None, trial.fields)
        assert trial.recipe["data"]["size"] == [48, 40]
    (trial,) = plan_trials(request(recipe=recipe, fields={**fields, "optim.lr": "1e-3", "data.size": "32"}))
    assert trial.recipe["data"]["size"] == [32, 32]


def test_minutes_replace_the_images_of_a_recipe():
    trials = plan_trials(request(minutes="3"))
    assert {(t.recipe["minutes"], t.recipe["images"]) for t in trials} == {(3.0, None)}


def test_the_path_of_the_images_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    trials = plan_trials(request(data="photos"))
    assert {t.recipe["data"]["source"] for t in trials} == {str(tmp_path / "photos")}


def test_the_path_of_the_vectors_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "x.csv").touch()
    monkeypatch.chdir(tmp_path)
    trials = plan_trials(request(fields={"data.vectors": "x.csv", "seed": "[1,2]"}))
    assert {t.recipe["data"]["vectors"] for t in trials} == {str(tmp_path / "x.csv")}
    (tmp_path / "own.yaml").write_text(write_recipe(override(smoke(), {"data.vectors": "x.csv"})))
    trials = plan_trials(request(recipe="own.yaml"))
    assert {t.recipe["data"]["vectors"] for t in trials} == {str(tmp_path / "x.csv")}


def test_random_combinations_depend_on_the_seed_alone():
    drawn = plan_trials(request(random=3))
    assert drawn == plan_trials(request(random=3))
    assert len({json.dumps(trial.fields) for trial in drawn}) == 3
    assert len(plan_trials(request(random=3, repeats=2))) == 6


@pytest.mark.parametrize(
    "given, said",
    [
        ({"fields": {"objective.eror": "[l1,mse]"}}, "perhaps you meant objective.error"),
        ({"fields": {"optim.lr": "[1e-3,-1]"}}, "optim.lr must be above 0"),
        ({"fields": {"optim.lr": "[1e-4..1e-2]"}}, "optim.lr is a range"),
        ({"fields": {"optim.warmup": "[0..1e3]"}, "search": 3}, "optim.warmup must be a whole number"),
        ({"fields": {"sampled_on": "[none,linear_in]"}}, "sampled_on must lead to"),
        ({"fields": {"data.source": "[blossoms,flowrs]"}}, "'flowrs' is neither"),
        ({"data": "a", "fields": {"data.source": "[b,c]"}}, "DATA names images, and so does data.source=..."),
        ({"images": "10", "fields": {"images": "[10,20]"}}, "--images sets a budget, and so does"),
        ({"search": 2, "repeats": 2}, "--repeats must be 1 with --search, got 2"),
        (
            {"evaluate": 20, "data": "blossoms:190"},
            "at least 20 validation images, but data.validation 0.1 of blossoms:190 leaves 19",
        ),
        (
            {
                "evaluate": 20,
                "fields": {"grid": "sections", "grid.entries": "300", "grid.shares": "1,2", "steps": "20"},
            },
            "steps must be a multiple of 3, the sum of grid.shares, got 20",
        ),
        (
            {"fields": {"pixels.std": "[0.5..2.0]"}, "search": 2},
            "comparable between trials with different pixels.std",
        ),
    ],
)
def test_impossible_requests_are_refused_before_anything_starts(given, said, tmp_path):
    with pytest.raises(UserError) as error:
        begin_sweep(request(**given), tmp_path / "sweep")
    assert said in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_sources_with_enough_validation_images_can_be_evaluated(tmp_path, monkeypatch):
    assert plan_trials(request(data="blossoms:191", evaluate=20))
    # The number of images in a folder is unknown before they are read.
    (tmp_path / "photos").mkdir()
    assert plan_trials(request(data=str(tmp_path / "photos"), evaluate=20))
    with pytest.raises(UserError, match="data.validation 0 of .*photos leaves 0"):
        plan_trials(request(data=str(tmp_path / "photos"), evaluate=20, fields={"data.validation": "0"}))
    # An official source has its own validation images.
    monkeypatch.setattr(Blossoms, "official", True)
    monkeypatch.setitem(NAMED, "pets", lambda root: Blossoms(19))
    assert plan_trials(request(data="pets", evaluate=20, fields={"data.validation": "0"}))


@pytest.mark.parametrize("evaluate", [None, 50])
@pytest.mark.parametrize(
    "name, values",
    [
        ("data.source", "[blossoms:900,blossoms:901]"),
        ("data.validation", "[0.1..0.5]"),
        ("report.validation_images", "[10,20]"),
    ],
)
def test_a_search_may_not_vary_the_images_that_compare_its_trials(name, values, evaluate):
    """On smaller or other images an error may be smaller without a better model."""
    given = {"fields": {"optim.lr": "[1e-4..1e-2]", name: values}, "evaluate": evaluate}
    if name == "report.validation_images" and evaluate:
        # An evaluation does not use the validation images of the training.
        assert plan_trials(request(search=2, **given))
        return
    with pytest.raises(UserError, match=f"on the same images, but {name} changes the images: give {name}"):
        plan_trials(request(search=2, **given))
    # Trials that a reader compares may differ: the report says so.
    assert plan_trials(request(random=2, **given))
    first = values.strip("[]").replace("..", ",").split(",")[0]
    given["fields"][name] = first
    assert plan_trials(request(search=2, **given))


@pytest.mark.parametrize(
    "fields, said",
    [
        (
            {"net.groups": "[8,6]", "net.width": "32"},
            "net.groups=6, net.width=32: net.width must be even and a multiple of net.groups, got 32 and 6",
        ),
        (
            {"schedule": "[linear,cosine]", "schedule.clip": "powers"},
            "schedule=cosine, schedule.clip=powers: schedule.clip is not a field of this kind",
        ),
    ],
)
def test_an_impossible_combination_is_named(fields, said):
    for given in ({}, {"search": 3}):
        with pytest.raises(UserError) as error:
            plan_trials(request(recipe="ddpm", fields=fields, **given))
        assert str(error.value).startswith(said)


def test_a_sweep_is_read_back_as_it_was_created(tmp_path):
    sweep = begin_sweep(request(repeats=2), tmp_path / "sweep")
    assert sweep.request == request(repeats=2)
    assert sweep == read_sweep(tmp_path / "sweep")
    assert len(sweep.trials) == 8
    assert prepared_recipe(sweep) == sweep.trials[0].recipe


def prepared_recipe(sweep):
    sweep.recipe_file(sweep.trials[0]).parent.mkdir()
    write_trial_recipe(sweep, sweep.trials[0])
    return json.loads(sweep.recipe_file(sweep.trials[0]).read_text())


def test_a_sweep_is_joined_by_its_folder_or_by_the_same_request(tmp_path):
    folder = tmp_path / "sweep"
    sweep = begin_sweep(request(), folder)
    (folder / "trials").mkdir()
    assert begin_sweep(None, folder) == begin_sweep(request(), folder) == sweep
    with pytest.raises(UserError, match="has repeats = 1, but the request has repeats = 2"):
        begin_sweep(request(repeats=2), folder)
    # The default recipe is another one, whether it is given or not.
    with pytest.raises(UserError, match="has recipe = smoke, but the request has recipe = fast|has data"):
        begin_sweep(SweepRequest(recipe="fast"), folder)


def test_workers_that_create_a_sweep_at_once_share_it(tmp_path):
    found = []
    race(lambda k: found.append(begin_sweep(request(), tmp_path / "sweep")), 4)
    assert len(found) == 4
    assert all(sweep == found[0] for sweep in found)


def test_a_worker_joins_a_sweep_that_another_created_a_moment_before(tmp_path, monkeypatch):
    def overtaken(folder, *_):
        monkeypatch.undo()
        begin_sweep(request(), folder)

    monkeypatch.setattr(sweep_folder, "make_output_folder", overtaken)
    assert begin_sweep(request(), tmp_path / "sweep") == read_sweep(tmp_path / "sweep")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(UserError, match="is not a new or empty folder"):
        begin_sweep(request(), tmp_path)
    with pytest.raises(UserError, match="is not a sweep"):
        read_sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    "document, said",
    [
        ([], "was not written by `ddim sweep`"),
        (
            {"kind": "sweep", "schema": 1, "trials": [{"name": "a", "recipe": []}]},
            "is damaged: trial a has no name or no recipe",
        ),
    ],
)
def test_a_damaged_or_foreign_sweep_file_is_refused(document, said, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"sweep.json {said}"):
        read_sweep(tmp_path)


@pytest.mark.parametrize("name", ["study.db", "trials"])
def test_a_sweep_from_other_people_with_a_link_is_refused(name, tmp_path):
    """A worker would write to the file or folder of the user that the link leads to."""
    planned = begin_sweep(request(), tmp_path / "sweep")
    (planned.folder / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"{name} is a link, and workers write only to the folder"):
        begin_sweep(None, planned.folder)
    assert not (tmp_path / "mine").exists()


def test_the_run_folder_of_a_trial_is_no_link(tmp_path):
    planned = begin_sweep(request(), tmp_path / "sweep")
    folder = planned.run_folder(planned.trials[0])
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="is a link, and workers write only to the folder"):
        begin_sweep(None, planned.folder)


def test_sweeps_are_numbered_under_runs_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(begin_sweep(request(), None).folder) for _ in range(2)]
    assert folders == ["runs/blossoms-smoke-sweep-1", "runs/blossoms-smoke-sweep-2"]


def test_a_changed_recipe_file_of_a_trial_does_not_change_the_trial(tmp_path):
    planned = begin_sweep(request(), tmp_path / "sweep")
    trial = planned.trials[0]
    file = planned.recipe_file(trial)
    for text in (None, json.dumps(trial.recipe | {"seed": 9}), "{"):
        if text is not None:
            file.write_text(text)
        planned.make_folders()
        write_trial_recipe(planned, trial)
        assert json.loads(file.read_text()) == trial.recipe


@pytest.mark.parametrize(
    "change", [{}, {"exit_code": None}, {"message": 3}, {"seconds": "1"}, {"value": "nan"}, {"more": 1}]
)
def test_a_damaged_outcome_is_named(change, tmp_path):
    file = tmp_path / "1.json"
    Outcome(0, 1.5, "", 0.25).write(file)
    assert read_outcome(file) == Outcome(0, 1.5, "", 0.25)
    write_sealed(file, {**read_sealed(file), **change} if change else {})
    with pytest.raises(UserError, match=r"1\.json is damaged: "):
        read_outcome(file)
