"""Runs on the disk."""

import json
import os

import pytest

import sweeping
from ddim.cli import main
from ddim.experiments.index import filter_runs, find_runs, read_run, sort_runs
from ddim.files import lock_folder
from ddim.recipe.codec import dump, list_fields
from ddim.recipe.named import RECIPES
from ddim.recipe.options import flatten_as_text
from ddim.runs.log import METRICS
from run_folders import ERRORS, make, write_evaluation


def list_states(folder):
    return [(run.path.name, run.state) for run in find_runs(folder)]


def test_a_run_has_its_progress_and_its_errors(tmp_path):
    run = read_run(make(tmp_path / "run", seen=(160, 480)))
    assert (run.images, run.total, run.state) == (480, 960, "stopped")
    assert run.errors == ERRORS
    assert read_run(make(tmp_path / "whole")).state == "finished"


def test_the_remaining_time_of_a_running_run_follows_its_pace(tmp_path):
    folder = make(tmp_path / "run", seen=(160,))
    lines = [{"step": n // 16, "images": n, "time": n / 16 - 10, "loss": 0.5} for n in (320, 480)]
    with (folder / METRICS).open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)
    assert read_run(folder).seconds_left is None
    with lock_folder(folder):
        # 480 of 960 images remain, at 16 images a second.
        assert read_run(folder).seconds_left == pytest.approx(30)


def test_a_pause_before_a_resume_does_not_count_as_remaining_time(tmp_path):
    folder = make(tmp_path / "run", seen=(160,))
    times = {320: 0, 400: 5, 480: 36_010, 560: 36_015, 640: 36_025}
    lines = [{"step": n // 16, "images": n, "time": at, "loss": 0.5} for n, at in times.items()]
    with (folder / METRICS).open("a") as log, lock_folder(folder):
        log.writelines(json.dumps(line) + "\n" for line in lines)
        log.flush()
        # 320 of 960 images remain. Three steps of 80 images took 20 s, with a validation before the last one.
        assert read_run(folder).seconds_left == pytest.approx(320 * 20 / 240)


def test_a_run_behind_a_link_is_listed(tmp_path):
    folder = make(tmp_path / "scratch" / "run")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(folder)
    (tmp_path / "runs" / "scratch").symlink_to(tmp_path / "scratch")
    (tmp_path / "runs" / "itself").symlink_to("itself")
    own = make(tmp_path / "runs" / "own")
    (tmp_path / "runs" / "newest").symlink_to(own)
    assert [run.path for run in find_runs(tmp_path / "runs")] == [tmp_path / "runs" / "a", own]


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
    # The run was killed while it wrote its only checkpoint.
    for step in (folder / "checkpoints").iterdir():
        step.rename(step.with_name(f"{step.name}.new"))
    assert read_run(folder).state == "stopped"


def test_reading_a_run_does_not_keep_it_from_training(tmp_path):
    """A trainer starts while a reader holds the lock, for longer than reading takes."""
    import fcntl
    import threading
    import time

    (tmp_path / ".lock").touch()
    file = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Thread(target=lambda: (time.sleep(0.01), os.close(file))).start()
    with lock_folder(tmp_path):
        pass


def test_a_budget_in_minutes_becomes_the_number_of_images_that_the_run_settled_on(tmp_path):
    assert read_run(make(tmp_path / "new", images=None, seen=(160,))).total is None
    run = read_run(make(tmp_path / "settled", images=None, seen=(160, 320), step=20))
    assert (run.total, run.state) == (320, "finished")


def test_evaluations_are_sorted_by_number(tmp_path):
    folder = make(tmp_path / "run")
    for number in (1, 2, 10):
        write_evaluation(folder, number, kid=number / 100, fid=number)
    assert read_run(folder).metrics == {"kid": 0.1, "fid": 10}
    assert len(read_run(folder).evaluations) == 3


def test_runs_are_found_at_any_depth(tmp_path):
    for name in ("a/run", "b/c/run", "run"):
        make(tmp_path / name, step=1)
    (tmp_path / "photos").mkdir()
    # Folders inside a run are no runs, whatever their names.
    make(tmp_path / "a" / "run" / "samples" / "run")
    found = find_runs(tmp_path)
    assert [str(run.path.relative_to(tmp_path)) for run in found] == ["a/run", "b/c/run", "run"]
    assert find_runs(tmp_path / "run")[0].path == tmp_path / "run"


@pytest.mark.parametrize("text", ["{", "{}", '{"recipe": {"images": 9}}'])
def test_a_damaged_run_is_listed_beside_the_others(tmp_path, text):
    make(tmp_path / "whole")
    make(tmp_path / "torn")
    (tmp_path / "torn" / "run.json").write_text(text)
    torn, whole = find_runs(tmp_path)
    assert (torn.state, whole.state) == ("damaged", "finished")
    assert torn.why


@pytest.mark.parametrize("text", ["{", '{"schema": 1, "kind": "evaluation"}'])
def test_an_unreadable_record_is_left_out_and_named(tmp_path, text):
    folder = make(tmp_path / "run", seen=(160, 480))
    write_evaluation(folder, 1, kid=0.1)
    (folder / "evaluations" / "2").mkdir()
    (folder / "evaluations" / "2" / "record.json").write_text(text)
    run = read_run(folder)
    assert (run.state, run.images, run.errors, run.metrics) == ("stopped", 480, ERRORS, {"kid": 0.1})
    assert run.why.startswith("evaluations/2/record.json is ")


@pytest.mark.parametrize("text", ['{"program": "train.py", "method": "grid"}'])
def test_a_sweep_file_of_another_program_is_ignored(tmp_path, text):
    make(tmp_path / "theirs" / "run")
    (tmp_path / "theirs" / "sweep.json").write_text(text)
    make(tmp_path / "both")
    (tmp_path / "both" / "sweep.json").write_text(text)
    assert list_states(tmp_path) == [("both", "finished"), ("run", "finished")]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"trials": [{}]}, "sweep.json is damaged"),
    ],
)
def test_an_unreadable_sweep_is_listed_beside_the_runs(tmp_path, change, said):
    planned = sweeping.plan_sweep(tmp_path / "sweep", ["1-l1", "2-mse"])
    make(planned.run_folder(planned.trials[0]))
    make(tmp_path / "whole")
    file = tmp_path / "sweep" / "sweep.json"
    text = file.read_text()
    file.write_text(text[:40] if change is None else json.dumps({**json.loads(text), **change}))
    assert list_states(tmp_path) == [("sweep", "damaged"), ("1-l1", "finished"), ("whole", "finished")]
    assert find_runs(tmp_path)[0].why.startswith(said)


@pytest.mark.parametrize("text", ["{"])
def test_an_unreadable_outcome_is_named(tmp_path, text):
    planned = sweeping.plan_sweep(tmp_path, ["a", "b"])
    make(planned.run_folder(planned.trials[0]))
    planned.outcome_file(planned.trials[0]).parent.mkdir()
    planned.outcome_file(planned.trials[0]).write_text(text)
    one, other = find_runs(tmp_path)
    assert (one.state, other.state, other.why) == ("finished", "waiting", "")
    assert one.why.startswith("results/a.json ")


def test_every_planned_trial_is_listed_once(tmp_path):
    planned = sweeping.plan_sweep(tmp_path / "sweep", ["1-l1", "2-mse", "3-huber"])
    make(planned.run_folder(planned.trials[0]))
    make(planned.run_folder(planned.trials[1]), seen=(160,))
    outcome = planned.outcome_file(planned.trials[1])
    outcome.parent.mkdir()
    outcome.write_text(json.dumps({"exit_code": 1, "seconds": 2, "message": "no room"}))
    # A run that is no trial of the sweep.
    make(tmp_path / "sweep" / "trials" / "other")
    found = {run.path.name: (run.state, run.why) for run in find_runs(tmp_path)}
    assert found == {
        "1-l1": ("finished", ""),
        "2-mse": ("failed", "no room"),
        "3-huber": ("waiting", ""),
        "other": ("finished", ""),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_flattened_fields_have_the_names_of_options(name):
    recipe = RECIPES[name]()
    found = flatten_as_text(dump(recipe))
    assert list(found) == [path for path, _, _ in list_fields(recipe) if path != "name"]
    assert found["schedule"] == dump(recipe.schedule, named=True)["kind"]
    assert found["data.flip"] == str(recipe.data.flip).lower()
    assert found["data.channels"] == "none"
    assert found["data.size"] == ",".join(map(str, recipe.data.size))


def test_runs_are_filtered_by_columns_metrics_and_fields(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two", seen=(160,), seed=7)
    write_evaluation(one, 1, kid=0.02)
    found = find_runs(tmp_path)

    def names(**conditions):
        return [run.path.name for run in filter_runs(found, conditions)]

    assert names(state="finished") == ["one"]
    assert names(seed="7") == ["two"]
    assert names(seed="7.0") == ["two"]
    assert names(kid="0.02") == ["one"]
    assert names(schedule="cosine", recipe="smoke") == ["one", "two"]
    assert names(name="two", images="160") == ["two"]
    assert names(schedule="linear") == []
    assert two.exists()


def test_runs_are_sorted_numerically_and_those_without_a_value_come_last(tmp_path):
    for name, kid in (("a", 0.1), ("b", 0.02), ("c", None), ("d", 1e-3)):
        folder = make(tmp_path / name)
        if kid:
            write_evaluation(folder, 1, kid=kid)
    found = find_runs(tmp_path)
    assert [run.path.name for run in sort_runs(found, "kid")] == ["d", "b", "a", "c"]
    for age, name in enumerate("cabd"):
        for file in ("metrics.jsonl", "run.json"):
            os.utime(tmp_path / name / file, (1e9 - age, 1e9 - age))
    assert [run.path.name for run in sort_runs(find_runs(tmp_path), "age")] == list("cabd")


def test_filtered_runs_are_compared_only_with_each_other(tmp_path, capsys):
    """The conditions of the runs that were filtered out do not count, even if these runs are more."""
    for k in range(3):
        write_evaluation(make(tmp_path / f"many{k}"), 1, kid=0.3)
    few = make(tmp_path / "few", seed=7)
    write_evaluation(few, 1, kid=0.2)
    path = few / "evaluations" / "1" / "record.json"
    few_images = {"images": 50, "source": "x", "sha256": "g"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "generated": few_images}))
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "0.2000*" in said.out
    assert said.err.startswith("kid: 400 samples against 500 held-out images of photos, features stub")
    assert (
        "* few: its metrics are not comparable with the metrics of most runs: "
        "different number of samples (50)" in said.err
    )
    assert main(["runs", str(tmp_path), "--where", "seed=7"]) == 0
    said = capsys.readouterr()
    assert "0.2000*" not in (alone := said.out)
    assert "0.2000" in alone
    assert said.err.startswith("kid: 50 samples against 500 ")
