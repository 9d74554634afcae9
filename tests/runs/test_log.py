import math
import os
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddim.runs.log import RunLog, read_metrics


def logged(folder, steps, resumed=None):
    """Log `steps`; values depend on the step only."""
    folder.mkdir(exist_ok=True)
    with RunLog(folder, resumed) as log:
        for step in steps:
            log.write(step, 64 * step, {"loss": 1 / (step + 3), "rate": 1e-3 * step})
    return folder


def timeless(folder):
    """The log's lines without the times."""
    return [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(folder)]


def events(folder):
    """What TensorBoard shows: {name: [(step, value)]} of scalars, {name: [step]} of images."""
    shown = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = shown.Tags()
    scalars = {name: [(e.step, e.value) for e in shown.Scalars(name)] for name in tags["scalars"]}
    return scalars, {name: [e.step for e in shown.Images(name)] for name in tags["images"]}


def test_a_line_holds_the_step_the_images_the_time_and_the_values(tmp_path):
    before = time.time()
    values = {"loss": 0.1 + 0.2, "skipped": 2, "rate": np.float32(0.5), "norm": torch.tensor(1.5)}
    with RunLog(tmp_path) as log:
        log.write(5, 320, {**values, "kid": math.nan, "low": -math.inf})
        # Flushed: another process sees it while the run goes on.
        (line,) = read_metrics(tmp_path)
    assert before <= line.pop("time") <= time.time()
    plain = {"loss": 0.1 + 0.2, "skipped": 2, "rate": 0.5, "norm": 1.5}
    assert line == {"step": 5, "images": 320, **plain, "kid": None, "low": None}
    assert sorted(events(tmp_path)[0]) == sorted(plain)
    assert b"NaN" not in (tmp_path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    "torn", [b"", b'{"step": 9, "lo', b'{"step": 3}', b"\0" * 70, b"\xff\xfe\n", b"[9\n"]
)
def test_a_resumed_log_equals_that_of_an_uninterrupted_run(torn, tmp_path):
    whole = logged(tmp_path / "whole", range(12))
    broken = logged(tmp_path / "broken", range(9))
    with (broken / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    logged(broken, range(6, 12), resumed=5)
    assert timeless(broken) == timeless(whole)
    # TensorBoard shows no removed line either.
    assert events(broken) == events(whole)


def test_the_line_of_a_validation_that_is_repeated_is_removed(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(4, 4, {"loss": 0.5})
        log.write(4, 4, {"image_mae": 0.5})
    with RunLog(tmp_path, resumed=4, due=True):
        pass
    assert [set(line) & {"loss", "image_mae"} for line in read_metrics(tmp_path)] == [{"loss"}]


def test_syncing_brings_both_logs_to_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    with RunLog(tmp_path) as log:
        log.write(1, 64, {"loss": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
            log.write(2, 128, {"loss": 1.0})
            assert synced == []  # a line costs no wait for the disk
            log.sync()
    assert sorted(synced) == sorted(path.stat().st_ino for path in tmp_path.iterdir())


def test_reading_leaves_out_what_is_no_line_of_a_log(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n\0\0\n[9\n5\n{"step": 3')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
