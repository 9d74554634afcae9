import json
import math
import os
import random
import re
import subprocess
import sys
import time
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from damage import flip_bit
from ddim.errors import UserError
from ddim.runs import log as log_module
from ddim.runs.log import RunLog, read_last_metrics, read_metrics, read_spread_metrics, show_in_tensorboard
from shown_events import read_events


def logged(folder, steps, resumed=None):
    """Log `steps`; values depend on the step only."""
    with RunLog(folder, resumed) as log:
        for step in steps:
            log.write(step, 64 * step, {"loss": 1 / (step + 3), "rate": 1e-3 * step})


def timeless(folder):
    """The log's bytes without the times."""
    return [json.dumps({k: v for k, v in line.items() if k != "time"}) for line in read_metrics(folder)]


def events(folder):
    """What TensorBoard shows: {name: [(step, value)]} of scalars, {name: [step]} of images."""
    scalars, images = read_events(folder)
    return scalars, {name: [step for step, _ in shown] for name, shown in images.items()}


def test_a_line_holds_the_step_the_images_the_time_and_the_values(tmp_path):
    before = time.time()
    with RunLog(tmp_path) as log:
        log.write(
            5, 320, {"loss": 0.1 + 0.2, "skipped": 2, "rate": np.float32(0.5), "norm": torch.tensor(1.5)}
        )
        # Flushed: another process sees it while the run goes on.
        (line,) = read_metrics(tmp_path)
    assert before <= line.pop("time") <= time.time()
    assert line == {"step": 5, "images": 320, "loss": 0.1 + 0.2, "skipped": 2, "rate": 0.5, "norm": 1.5}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_values_that_are_not_finite_are_null_and_the_step_stays(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, 64, {"loss": math.nan, "norm": math.inf, "low": -math.inf, "rate": 0.1})

    def reject(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=reject)
    assert (line["step"], line["loss"], line["norm"], line["low"], line["rate"]) == (1, None, None, None, 0.1)
    assert list(events(tmp_path)[0]) == ["rate"]


def test_values_cannot_take_the_fields_of_every_line(tmp_path):
    with RunLog(tmp_path) as log, pytest.raises(ValueError, match="'time'"):
        log.write(1, 64, {"time": 3.0})


@pytest.mark.parametrize("torn", [b"", b'{"step": 9, "lo', b'{"step": 3}', b"\0" * 70, b"\xff\xfe", b"[9"])
def test_a_resumed_log_equals_that_of_an_uninterrupted_run(torn, tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    logged(tmp_path / "whole", range(12))
    logged(tmp_path / "broken", range(9))
    with (tmp_path / "broken" / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    logged(tmp_path / "broken", range(6, 12), resumed=5)
    assert timeless(tmp_path / "broken") == timeless(tmp_path / "whole")
    # The times of the lines that stayed are those of the first attempt, in order with the new ones.
    times = [line["time"] for line in read_metrics(tmp_path / "broken")]
    assert times == sorted(times)


def test_tensorboard_drops_removed_lines(tmp_path):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    logged(tmp_path / "whole", range(12))
    with RunLog(tmp_path / "broken") as log:
        for step in range(9):
            log.write(step, 0, {"loss": 1 / (step + 3) if step < 6 else 1e9, "rate": 1e-3 * step})
    logged(tmp_path / "broken", range(6, 12), resumed=5)
    assert events(tmp_path / "broken") == events(tmp_path / "whole")
    assert [step for step, _ in events(tmp_path / "whole")[0]["loss"]] == list(range(12))


def test_a_run_without_a_checkpoint_starts_a_new_log(tmp_path):
    logged(tmp_path, range(4))
    logged(tmp_path, range(2))
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]


def test_step_0_stays_when_a_run_resumes_from_step_0(tmp_path):
    logged(tmp_path, range(3))
    logged(tmp_path, range(1, 3), resumed=0)
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]


KILLED = """
import os, pathlib, signal, sys, numpy
from ddim.runs.log import RunLog
log = RunLog(pathlib.Path(sys.argv[1]))
for step in range(50):
    log.write(step, step, {"loss": step})
log.image(49, "grid", numpy.zeros((4, 4, 3), numpy.uint8))
log.sync()
for step in range(50, 300):
    log.write(step, step, {"loss": -1})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_line_and_no_event_before_the_last_sync(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(300))
    with RunLog(tmp_path, resumed=49) as log:
        log.write(50, 50, {"loss": 50})
    scalars, images = events(tmp_path)
    assert scalars == {"loss": [(step, float(step)) for step in range(51)]}
    assert images == {"grid": [49]}


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


def test_images_shown_later_are_added_to_the_log_of_a_run(tmp_path, monkeypatch):
    logged(tmp_path, range(12))
    log = (tmp_path / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    for step in (11, 5):
        show_in_tensorboard(tmp_path, step, "judged", np.zeros((4, 4, 3), np.uint8), {"kid": step / 4})
    scalars, images = events(tmp_path / "events" / "judged")
    assert sorted(scalars["judged/kid"]) == [(5, 1.25), (11, 2.75)]
    assert sorted(images["judged"]) == [5, 11]
    assert [step for step, _ in events(tmp_path)[0]["loss"]] == list(range(12))
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 4), (6, 5, 1), (6, 5)])
def test_images_reach_tensorboard_pixel_by_pixel(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with RunLog(tmp_path) as log:
        log.image(7, "grid", pixels)
    ((step, png),) = read_events(tmp_path)[1]["grid"]
    shown = np.asarray(Image.open(BytesIO(png)))
    assert step == 7
    expected = pixels if pixels.ndim == 3 else pixels[..., None]
    assert np.array_equal(shown, np.broadcast_to(expected, shown.shape))


def test_the_table_of_hyperparameters_takes_a_path_that_is_no_utf_8(tmp_path):
    with RunLog(tmp_path) as log:
        log.hyperparameters({"data.source": os.fsdecode(b"lat\xe9")}, ["loss"])


# Reading


def test_reading_leaves_out_only_an_incomplete_last_line(tmp_path):
    assert read_metrics(tmp_path) == []
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    for last in (b'{"step": 3}\n', b""):
        path.write_bytes(b'{"step": 1}\nrubbish\n' + last)
        with pytest.raises(UserError, match="line 2 is damaged"):
            read_metrics(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: b"garbage\n",
        lambda line: line.replace(b'"loss": 0.25', b'"loss": 0.2'),
        lambda line: line.replace(b'"seal"', b'"sea1"'),
        lambda line: flip_bit(line, line.index(b"images") + 9),
        lambda line: line[:-8] + b"\n",
        lambda line: bytes(len(line) - 1) + b"\n",
    ],
)
def test_a_damaged_line_is_named_and_on_resume_it_is_left_out_with_a_warning(change, tmp_path):
    logged(tmp_path, range(1, 6))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert b'"loss": 0.25' not in lines[1]
    lines[0] = change(lines[0])
    path.write_bytes(b"".join(lines))
    damaged = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1 is damaged"):
        read_metrics(tmp_path)
    with pytest.warns(
        UserWarning, match=r"in line 1: damaged lines are left out, damaged-1-metrics\.jsonl is"
    ):
        logged(tmp_path, [], resumed=4)
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 3, 4]
    assert (tmp_path / "damaged-1-metrics.jsonl").read_bytes() == damaged
    logged(tmp_path, [], resumed=4)
    assert sorted(path.name for path in tmp_path.glob("damaged*")) == ["damaged-1-metrics.jsonl"]


@pytest.mark.parametrize(
    ("left", "lost"), [(12, None), (8, r"2 lines .* of step 9"), (0, r"10 lines .* of step 1")]
)
def test_a_resumed_log_whose_end_was_lost_is_named(left, lost, tmp_path):
    logged(tmp_path, range(1, left + 1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        RunLog(tmp_path, resumed=10, every=1).close()
    assert len(said) == (lost is not None)
    if lost:
        assert re.search(rf"metrics\.jsonl lacks {lost}", str(said[0].message))


def last_values(lines, wanted):
    """The last line and, for each name, the last values that are not None."""
    values = {name: [line[name] for line in lines if line.get(name) is not None] for name in wanted}
    return lines[-1:], {name: found[-wanted[name] :] for name, found in values.items()}


@pytest.mark.parametrize("block", [300, 700, 10_000])
@pytest.mark.parametrize("seed", range(10))
def test_the_end_of_a_log_has_the_last_line_and_the_last_wanted_values(block, seed, tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "BLOCK", block)
    draw, wanted = random.Random(seed), {"loss": 5, "noise_mae": 1, "image_mae": 1}
    share = {name: draw.choice([0, 0.02, 0.2, 1]) for name in wanted}
    with RunLog(tmp_path) as log:
        for step in range(draw.choice([0, 1, 100])):
            names = [name for name in wanted if draw.random() < share[name]]
            log.write(step, 8 * step, {name: draw.choice([draw.random(), math.nan]) for name in names})
    for end in (b"", b'{"step": 7, "loss": 0'):
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(end)
        assert last_values(read_last_metrics(tmp_path, wanted), wanted) == last_values(
            read_metrics(tmp_path), wanted
        )


def test_the_end_of_a_log_is_found_without_reading_all_lines(tmp_path, monkeypatch):
    checked = []
    whole = log_module._entry
    monkeypatch.setattr(log_module, "_entry", lambda line: checked.append(line) or whole(line))
    lines = [{"step": k, "images": 8 * k, "loss": 0.5} for k in range(20_000)]
    lines[100]["noise_mae"] = 0.25
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = {"loss": 5, "noise_mae": 1, "image_mae": 1}
    found = read_last_metrics(tmp_path, wanted)
    assert (found[0], found[-1]) == (lines[100], lines[-1])
    assert len(checked) < 2_000


def test_damage_at_the_end_of_a_log_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "BLOCK", 500)
    logged(tmp_path, range(1, 101))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:99], flip_bit(lines[99], lines[99].index(b"images") + 9)]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 100 is damaged"):
        read_last_metrics(tmp_path, {"loss": 1})


def test_spread_lines_of_a_log_are_even_and_keep_named_values(tmp_path):
    with RunLog(tmp_path) as log:
        for step in range(1, 101):
            log.write(step, 8 * step, {"kid": 0.5} if step % 50 == 3 else {"loss": 0.5})
    assert read_spread_metrics(tmp_path, ("kid",), 98) == read_metrics(tmp_path)
    steps = [line["step"] for line in read_spread_metrics(tmp_path, ("kid",), 20)]
    assert {3, 53} < set(steps)
    assert max(late - early for early, late in zip(steps, steps[1:], strict=False)) <= 6
    assert len(steps) <= 22


def test_a_line_that_would_fill_the_memory_is_damaged(tmp_path):
    logged(tmp_path, [1])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "note": "' + b" " * 2**21 + b'"}\n')
    for read in (read_metrics, lambda folder: read_last_metrics(folder, {"loss": 1})):
        with pytest.raises(UserError, match="is damaged"):
            read(tmp_path)
    with pytest.warns(UserWarning, match="in line 2: damaged lines are left out"):
        logged(tmp_path, [], resumed=2)


def test_lines_without_a_seal_are_read(tmp_path):
    logged(tmp_path, [2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "images": 64, "loss": null}\n' + path.read_bytes())
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert "seal" not in read_metrics(tmp_path)[1]


def test_images_shown_during_training_hide_no_part_of_its_curves(tmp_path, monkeypatch):
    """TensorBoard reads the files of a folder one after the other, and goes back to none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(log_module, "SHOWN_EVERY", 0.0)
    with RunLog(tmp_path) as log:
        log.write(1, 64, {"loss": 0.5})
        reader = EventAccumulator(str(tmp_path)).Reload()
        show_in_tensorboard(tmp_path, 1, "judged", np.zeros((4, 4, 3), np.uint8))
        reader.Reload()
        log.write(2, 128, {"loss": 0.4})
        reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == [1, 2]
