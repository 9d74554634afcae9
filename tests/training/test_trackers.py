"""Trainings that are reported to an experiment tracker."""

import json
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.runs.checkpoint import find_newest
from ddim.runs.log import read_metrics
from ddim.training import MLflow, Trackio, WandB, resume
from ddim.training.trackers import Tracker, make_tracker

OWN = ("step", "images", "time")


class Book(Tracker):
    """A tracker in memory; it fails at the calls that `fails` names."""

    title, package, install = "Book", "json", "pip install book"

    def __init__(self, fails=()):
        super().__init__()
        self.fails, self.calls, self.lines, self.shown, self.opened = fails, [], [], [], []

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise OSError(f"no network\nin {name}")

    def open(self, folder, fields, known):
        self._call("open")
        self.opened.append((folder.name, fields["optim.batch"], known))
        return "id-1"

    def log(self, step, values):
        self._call("log")
        self.lines.append({"step": step, **values})

    def show(self, step, name, pixels):
        self._call("show")
        self.shown.append((step, name, pixels))

    def close(self, finished):
        self._call(f"close {finished}")


def logged(folder):
    """The lines of a run's log, without times and without values that were not finite."""
    lines = [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]
    return [{name: value for name, value in line.items() if value is not None} for line in lines]


def test_a_tracker_gets_each_line_of_the_log_also_of_a_resumed_run(tmp_path):
    book, more = Book(), Book()
    with pytest.raises(tiny.PowerCutError):
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[book, tiny.At(7, tiny.crash)])
    resume(tmp_path / "run", callbacks=[more])
    assert book.opened == [("run", "8", None)]
    assert more.opened == [("run", "8", "id-1")]
    found = {line["step"]: line for line in [*book.lines, *more.lines] if "loss" in line}
    assert list(found.values()) == [line for line in logged(tmp_path / "run") if "loss" in line]
    assert [(step, name) for step, name, _ in book.shown + more.shown] == [(5, "samples"), (10, "samples")]
    for step, _, pixels in book.shown + more.shown:
        with Image.open(tmp_path / "run" / "samples" / f"step-{step:09d}.png") as file:
            assert np.array_equal(pixels, np.asarray(file))
    assert more.calls[-1] == "close True"


def test_a_tracker_that_fails_is_named_once_and_changes_nothing(tmp_path, monkeypatch):
    broken, enlarged = Book(fails=("log",)), []
    tiny.train(tiny.recipe(), tmp_path / "plain")
    monkeypatch.setattr("ddim.training.trackers.enlarge", enlarged.append)
    with pytest.warns(UserWarning, match="goes on without Book, which failed: no network in log") as warned:
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[broken])
    assert len(warned) == 1
    assert broken.calls == ["open", "log"]
    assert enlarged == []
    one, other = (
        find_newest(tmp_path / name / "checkpoints") / "model.safetensors" for name in ("plain", "run")
    )
    assert one.read_bytes() == other.read_bytes()


def test_a_tracker_that_cannot_start_ends_the_run_with_one_sentence(tmp_path):
    with pytest.raises(UserError, match="^Book cannot start: no network in open$"):
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[Book(fails=("open",))])


def test_unknown_trackers_and_missing_packages_are_named(capsys, monkeypatch):
    assert main(["train", "blossoms:4", "--recipe", "smoke", "--track", "wand"]) == 2
    said = capsys.readouterr().err
    assert "--track must be wandb, mlflow, trackio, got 'wand'; perhaps you meant wandb" in said
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'needs the package wandb.*pip install "ddim\[wandb\]"'):
        make_tracker("wandb")


def read_wandb(folder, seconds=60) -> list[tuple[str, object]]:
    """The records of the wandb file of a run that has ended.

    The process of wandb writes the last of them after the training: wait for the record of the end.
    """
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    until = time.monotonic() + seconds
    while not (records := list(parse_wandb(file.read_bytes()))) or records[-1][0] != "exit":
        assert time.monotonic() < until, f"no record of the end after {[name for name, _ in records]}"
        time.sleep(0.05)
    return records


def parse_wandb(data: bytes) -> Iterator[tuple[str, object]]:
    """The whole records of a wandb file: a log of LevelDB with blocks of 32 KiB and records of protobuf."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + size > len(data):
            return
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = pb.Record()
            record.ParseFromString(whole)
            name = record.WhichOneof("record_type")
            yield name, getattr(record, name)
            whole = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline_holds_the_log_and_the_recipe(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[WandB(project="flowers")])
    records = read_wandb(folder)
    (run,) = (value for name, value in records if name == "run")
    assert (run.project, run.display_name) == ("flowers", "run")
    assert run.run_id == json.loads((folder / "run.json").read_text())["trackers"]["wandb"]
    fields = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert fields["optim.batch"] == "8"
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in value.item}
        for name, value in records
        if name == "history"
    ]
    rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    assert [row for row in rows if "samples/path" not in row] == logged(folder)
    assert [row["step"] for row in rows if "samples/path" in row] == [5, 10]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_holds_the_log_and_the_recipe_in_one_run_after_a_crash(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tiny.PowerCutError):
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[MLflow("flowers"), tiny.At(7, tiny.crash)])
    resume(tmp_path / "run", callbacks=[MLflow("flowers")])
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("flowers")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params["optim.batch"]) == ("FINISHED", "8")
    history = client.get_metric_history(run.info.run_id, "loss")
    expected = {line["step"]: line["loss"] for line in logged(tmp_path / "run") if "loss" in line}
    assert {entry.step: entry.value for entry in history} == expected
    names = [entry.path for entry in client.list_artifacts(run.info.run_id, "samples")]
    assert names == ["samples/step-000000005.png", "samples/step-000000010.png"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trackio_holds_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[Trackio(project="flowers")])
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = [
            {"step": step, **json.loads(text)}
            for step, text in base.execute("select step, metrics from metrics")
        ]
    assert [row for row in rows if "samples" not in row] == logged(folder)
