"""Trainings that are reported to an experiment tracker."""

import json
import time

import pytest

import tiny
from ddim.training import MLflow, WandB, resume
from ddim.training.callbacks import Tracker


class Book(Tracker):
    """A tracker in memory; its method `send` fails if `fails`."""

    package = "json"

    def __init__(self, fails=False):
        super().__init__()
        self.fails, self.calls = fails, []

    def open(self, folder, fields, known):
        self.calls.append(("open", folder.name, fields["optim.batch"], known))
        return "id-1"

    def send(self, step, line):
        self.calls.append(("log", {"step": step, **line}))
        if self.fails:
            raise OSError("no network")

    def show(self, step, sheet):
        self.calls.append(("sheet", step))

    def close(self, complete):
        self.calls.append(("end", complete))


def logged(folder):
    """The lines of a run's log, without times and without values that were not finite."""
    lines = tiny.metrics(folder)
    return [{name: value for name, value in line.items() if value is not None} for line in lines]


def test_a_tracker_gets_each_line_of_the_log_also_of_a_resumed_run(tmp_path):
    book, more = Book(), Book()
    folder = tiny.train_until_crash(tiny.recipe(), tmp_path / "run", book, tiny.At(7, tiny.crash))
    resume(folder, callbacks=[more])
    assert book.calls[0] == ("open", "run", "8", None)
    assert (more.calls[0], more.calls[-1]) == (("open", "run", "8", "id-1"), ("end", True))
    calls = [*book.calls, *more.calls]
    lines = {call[1]["step"]: call[1] for call in calls if call[0] == "log" and "loss" in call[1]}
    assert list(lines.values()) == [line for line in logged(folder) if "loss" in line]
    assert [call[1] for call in calls if call[0] == "sheet"] == [5, 10]


def test_a_tracker_that_fails_warns_once_and_changes_nothing(whole, tmp_path):
    broken = Book(fails=True)
    with pytest.warns(UserWarning, match="no network") as warned:
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[broken])
    assert len(warned) == 1
    assert [call[0] for call in broken.calls] == ["open", "log"]
    tiny.check_same_run(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline_holds_the_log_and_the_recipe(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[WandB(project="flowers")])
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    id = json.loads((folder / "run.json").read_text())["trackers"]["wandb"]
    numbers = {json.dumps(value) for line in logged(folder) for value in line.values()}
    wanted = {"flowers", id, "optim.batch", "media/images/samples", "image_mae", *numbers}
    # The file has these texts uncompressed. The process of wandb writes the last after the training.
    until = time.monotonic() + 60
    while missing := {text for text in wanted if text.encode() not in file.read_bytes()}:
        assert time.monotonic() < until, missing
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_holds_the_log_and_the_recipe_in_one_run_after_a_crash(here, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'mlflow.db'}")
    callbacks = MLflow("flowers"), tiny.At(7, tiny.crash)
    folder = tiny.train_until_crash(tiny.recipe(), here / "run", *callbacks)
    resume(folder, callbacks=[MLflow("flowers")])
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("flowers")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params["optim.batch"]) == ("FINISHED", "8")
    history = client.get_metric_history(run.info.run_id, "loss")
    expected = {line["step"]: line["loss"] for line in logged(folder) if "loss" in line}
    assert {entry.step: entry.value for entry in history} == expected
    names = [entry.path for entry in client.list_artifacts(run.info.run_id, "samples")]
    assert names == ["samples/step-000000005.png", "samples/step-000000010.png"]
