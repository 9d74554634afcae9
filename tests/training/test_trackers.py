"""Trainings that are reported to an experiment tracker."""

import json
import struct
import sys
import time
from collections.abc import Iterator

import pytest

import tiny
from ddim.errors import UserError
from ddim.runs.log import read_metrics
from ddim.training import MLflow, WandB, resume
from ddim.training.trackers import Tracker, make_tracker, select_finite


class Book(Tracker):
    """A tracker in memory; it fails at the calls that `fails` names."""

    package = "json"

    def __init__(self, fails=()):
        super().__init__()
        self.fails, self.calls = fails, []

    def _call(self, name, *values):
        self.calls.append((name, *values))
        if name in self.fails:
            raise OSError(f"no network in {name}")

    def open(self, folder, fields, known):
        self._call("open", folder.name, fields["optim.batch"], known)
        return "id-1"

    def on_log(self, training, values):
        line = {"step": training.step, **select_finite(training, values)}
        self.report(lambda: self._call("log", line))

    def on_sheet(self, training, sheet):
        self.report(lambda: self._call("sheet", training.step))

    def on_end(self, training):
        self.report(lambda: self._call("end", training.complete))


def logged(folder):
    """The lines of a run's log, without times and without values that were not finite."""
    lines = [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(folder)]
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
    broken = Book(fails=("log",))
    with pytest.warns(UserWarning, match="no network in log") as warned:
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[broken])
    assert len(warned) == 1
    assert [call[0] for call in broken.calls] == ["open", "log"]
    tiny.check_same_run(tmp_path / "run", whole)


def test_trackers_that_cannot_start_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no network in open"):
        tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[Book(fails=("open",))])
    with pytest.raises(UserError, match="perhaps you meant wandb"):
        make_tracker("wand")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"ddim\[wandb\]"):
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
    folder = tiny.train_until_crash(
        tiny.recipe(), tmp_path / "run", MLflow("flowers"), tiny.At(7, tiny.crash)
    )
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
