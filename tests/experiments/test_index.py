"""Runs on the disk: their states, their numbers, and the table of runs."""

import json
import os

import pytest

import ddim
import sweeping
from ddim.experiments.index import OUTCOME, TRIAL, beside, find_runs, read_run
from ddim.files import lock_folder
from ddim.runs.log import METRICS
from run_folders import ERRORS, make, write_evaluation


def log(folder, times):
    """Add logged steps; `times` are seconds, keyed by images."""
    lines = [{"step": n // 16, "images": n, "time": at, "loss": 0.5} for n, at in times.items()]
    with (folder / METRICS).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_run_has_its_progress_and_its_errors(tmp_path):
    run = read_run(make(tmp_path / "run", seen=(160, 480)))
    assert (run.images, run.total, run.state, run.errors) == (480, 960, "stopped", ERRORS)
    assert read_run(make(tmp_path / "whole")).state == "finished"
    # A budget in minutes becomes the number of images that the run settled on.
    assert read_run(make(tmp_path / "new", images=None, seen=(160,))).total is None
    run = read_run(make(tmp_path / "settled", images=None, seen=(160, 320), step=20))
    assert (run.total, run.state) == (320, "finished")


@pytest.mark.parametrize(
    "times, left",
    [
        # 480 of 960 images remain, at 16 images a second.
        ({320: 10, 480: 20}, 30),
        # 320 images remain; a pause before a resume is no training. Three steps of 80 images took 20 s.
        ({320: 0, 400: 5, 480: 36_010, 560: 36_015, 640: 36_025}, 320 * 20 / 240),
    ],
)
def test_the_remaining_time_of_a_running_run_follows_its_pace(tmp_path, times, left):
    folder = make(tmp_path / "run", seen=(160,))
    log(folder, times)
    assert read_run(folder).seconds_left is None
    with lock_folder(folder):
        assert read_run(folder).seconds_left == pytest.approx(left)


def test_a_run_is_finished_once_its_last_checkpoint_is_there(tmp_path):
    """The log reports all images before the last validation; the last checkpoint follows it."""
    folder = make(tmp_path / "run", step=30)
    with lock_folder(folder):
        assert read_run(folder).state == "running"
    assert (read_run(folder).state, read_run(folder).images) == ("stopped", 960)
    (folder / "checkpoints" / "step-000000060").mkdir()
    with lock_folder(folder):
        assert read_run(folder).state == "running"
    assert read_run(folder).state == "finished"


def test_evaluations_are_sorted_by_number_and_an_unreadable_one_is_named_and_left_out(tmp_path):
    folder = make(tmp_path / "run")
    for number in (1, 2, 10):
        write_evaluation(folder, number, kid=number / 100, fid=number)
    assert read_run(folder).metrics == {"kid": 0.1, "fid": 10}
    assert len(read_run(folder).evaluations) == 3
    (folder / "evaluations" / "10" / "record.json").write_text("{")
    run = read_run(folder)
    assert run.state == "finished"
    assert len(run.evaluations) == 2
    assert run.why.startswith("evaluation 10 is left out: evaluations/10/record.json is ")


def test_runs_are_found_at_any_depth_and_behind_links_to_other_drives(tmp_path):
    runs = tmp_path / "runs"
    own = [make(runs / name, step=1) for name in ("a/run", "b/c/run")]
    # Folders inside a run are no runs, whatever their names.
    make(own[0] / "samples" / "run")
    (runs / "linked").symlink_to(make(tmp_path / "scratch" / "run"))
    (runs / "scratch").symlink_to(tmp_path / "scratch")
    (runs / "itself").symlink_to("itself")
    (runs / "newest").symlink_to(own[0])
    assert [run.path for run in find_runs(runs)] == [*own, runs / "linked"]
    assert find_runs(own[0])[0].path == own[0]


@pytest.mark.parametrize("text", ["{", "{}", '{"recipe": {"images": 9}}'])
def test_a_damaged_run_or_sweep_is_listed_beside_the_others(tmp_path, text):
    make(tmp_path / "torn")
    (tmp_path / "torn" / "run.json").write_text(text)
    trials = sweeping.plan_sweep(tmp_path / "sweep", ["1", "2", "3"])
    beside(trials[0], TRIAL).write_text("{")
    beside(trials[1], OUTCOME).write_text("{")
    one, two, three, torn = find_runs(tmp_path)
    assert [run.path.name for run in (one, two, three, torn)] == ["1", "2", "3", "torn"]
    assert [run.state for run in (one, two, three, torn)] == ["damaged", "damaged", "waiting", "damaged"]
    assert one.why.startswith("1.trial.json is damaged")
    assert two.why.startswith("2.outcome.json is damaged")
    assert torn.why
    assert str(tmp_path) not in torn.why


def test_every_planned_trial_is_listed_once(tmp_path):
    one, two, _ = sweeping.plan_sweep(tmp_path / "sweep", ["1-l1", "2-mse", "3-huber"])
    make(one)
    make(two, seen=(160,))
    beside(two, OUTCOME).write_text(json.dumps({"exit_code": 1, "message": "no room"}))
    # A run that is no trial of the sweep.
    make(tmp_path / "sweep" / "trials" / "other")
    runs = find_runs(tmp_path)
    assert {run.path.name: (run.state, run.why) for run in runs} == {
        "1-l1": ("finished", ""),
        "2-mse": ("failed", "no room"),
        "3-huber": ("waiting", ""),
        "other": ("finished", ""),
    }
    assert [run.sweep for run in runs] == [tmp_path / "sweep"] * 3 + [None]


@pytest.fixture
def runs(tmp_path):
    """Four runs with other numbers; c was not evaluated, and stopped."""
    for age, (name, kid) in enumerate({"a": 0.1, "b": 0.02, "c": None, "d": 1e-3}.items()):
        folder = make(tmp_path / name, seen=(480, 960) if kid else (160,), seed=age)
        if kid:
            write_evaluation(folder, 1, kid=kid)
        for file in ("metrics.jsonl", "run.json"):
            os.utime(folder / file, (1e9 + age, 1e9 + age))
    return tmp_path


@pytest.mark.parametrize(
    "options, names",
    [
        ({"sort": "kid"}, "dbac"),
        ({"sort": "age"}, "dcba"),
        ({"where": {"seed": "1.0"}}, "b"),
        ({"where": {"kid": "0.02", "schedule": "cosine", "recipe": "smoke"}}, "b"),
        ({"where": {"name": "c", "images": "160", "data.size": "32,32"}}, "c"),
    ],
)
def test_runs_are_filtered_and_sorted_by_columns_metrics_and_fields(runs, options, names):
    assert "".join(run.path.name for run in ddim.list_runs(runs, **options).runs) == names


def test_runs_on_the_same_images_are_compared_with_each_other_alone(tmp_path):
    """A few samples, or other images, do not make the runs on these images incomparable."""
    for k in range(3):
        write_evaluation(make(tmp_path / f"many{k}"), 1, kid=0.3)
    for name, source in (("few", "blossoms:1024"), ("pets", "pets")):
        write_evaluation(folder := make(tmp_path / name, seed=7, data__source=source), 1, kid=0.2)
        path = folder / "evaluations" / "1" / "record.json"
        few = {"images": 50, "source": "x", "sha256": "g"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "generated": few}))
    table = ddim.list_runs(tmp_path, sort="kid")
    assert [run.path.name for run in table.runs if not run.comparable] == ["few"]
    assert table.runs[-1].path.name == "few"
    assert "0.2*" in str(table)
    assert "different number of samples (50)" in str(table)
    assert all(run.comparable for run in ddim.list_runs(tmp_path, where={"seed": 7}).runs)
